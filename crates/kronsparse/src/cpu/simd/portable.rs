//! Vectors as arrays, for any machine: the compiler vectorises the loops for the target's baseline.

use std::marker::PhantomData;

use super::{Real, Simd};

/// Bytes of a portable vector: one 128-bit register of NEON, two of SSE2.
pub(super) const BYTES: usize = if cfg!(target_arch = "aarch64") { 16 } else { 32 };

#[derive(Clone, Copy)]
pub struct Portable<R>(PhantomData<R>);

macro_rules! portable {
    ($real:ty, $lanes:expr) => {
        impl Simd for Portable<$real> {
            type Real = $real;
            type V = [$real; $lanes];
            const LANES: usize = $lanes;
            const ROWS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };

            #[inline(always)]
            unsafe fn splat(x: $real) -> Self::V {
                [x; $lanes]
            }
            #[inline(always)]
            unsafe fn load(p: *const $real) -> Self::V {
                // SAFETY: the caller vouches for LANES elements.
                unsafe { p.cast::<Self::V>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store(p: *mut $real, v: Self::V) {
                // SAFETY: the caller vouches for LANES elements.
                unsafe { p.cast::<Self::V>().write_unaligned(v) }
            }
            #[inline(always)]
            unsafe fn stream(p: *mut $real, v: Self::V) {
                // SAFETY: the caller vouches for LANES elements.
                unsafe { Self::store(p, v) }
            }
            #[inline(always)]
            unsafe fn fma(x: Self::V, y: Self::V, z: Self::V) -> Self::V {
                std::array::from_fn(|k| z[k].multiply_add(x[k], y[k]))
            }
            #[inline(always)]
            unsafe fn fnma(x: Self::V, y: Self::V, z: Self::V) -> Self::V {
                std::array::from_fn(|k| z[k].multiply_add(-x[k], y[k]))
            }
            #[inline(always)]
            unsafe fn add(x: Self::V, y: Self::V) -> Self::V {
                std::array::from_fn(|k| x[k] + y[k])
            }
            #[inline(always)]
            unsafe fn transpose(block: &mut [Self::V; 16]) {
                for row in 0..$lanes {
                    for col in 0..row {
                        let swapped = block[row][col];
                        block[row][col] = block[col][row];
                        block[col][row] = swapped;
                    }
                }
            }
        }
    };
}

portable!(f32, BYTES / 4);
portable!(f64, BYTES / 8);
