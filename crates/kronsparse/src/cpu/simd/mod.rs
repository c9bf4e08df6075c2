//! Vectors of real numbers behind one trait, and the detection of what this machine has.
//!
//! Every kernel of the engine is a generic `#[inline(always)]` function over [`Simd`]; [`dispatch`](super::dispatch)
//! instantiates it inside a function compiled for the instruction set, so intrinsics inline into straight vector code.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

use half::{bf16, f16};

pub(super) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_avx512::Avx512;

/// An instruction set that the engine has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Fixed-size arrays, vectorised by the compiler for the target's baseline: SSE2 on x86-64, NEON on AArch64.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// The widest instruction set of this machine.
    pub fn detect() -> Isa {
        Isa::available().last().copied().unwrap_or(Isa::Portable)
    }

    /// Every instruction set that this machine can run, narrowest first.
    pub fn available() -> &'static [Isa] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c");
            let avx512 = std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl");
            match (avx2, avx512) {
                (true, true) => &[Isa::Portable, Isa::Avx2, Isa::Avx512],
                (true, false) => &[Isa::Portable, Isa::Avx2],
                _ => &[Isa::Portable],
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            &[Isa::Portable]
        }
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Real numbers of `size` bytes in one vector.
    pub(crate) fn lanes(self, size: usize) -> usize {
        match self {
            Isa::Portable => portable::BYTES / size,
            Isa::Avx2 => 32 / size,
            Isa::Avx512 => 64 / size,
        }
    }

    /// Rows of the register tile: as many accumulators of three vectors as the register file holds.
    pub(crate) fn tile_rows(self, planes: usize) -> usize {
        let real = match self {
            Isa::Portable if cfg!(target_arch = "aarch64") => 8,
            Isa::Portable | Isa::Avx2 => 4,
            Isa::Avx512 => 8,
        };
        real / planes
    }
}

/// Orders streamed stores before everything that follows.
pub(super) fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE, which has the instruction, is part of the x86-64 baseline.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// A real number that the engine computes with, and its vectors on every instruction set.
pub trait Real:
    Copy
    + Default
    + Send
    + Sync
    + std::fmt::Debug
    + bytemuck::Pod
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + 'static
{
    type Portable: Simd<Real = Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx2: Simd<Real = Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: Simd<Real = Self>;
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    /// `x·y + self`, contracted to one instruction only where the target has it.
    fn multiply_add(self, x: Self, y: Self) -> Self;
    /// The activation, written so that loops over it vectorise.
    fn activate(self, activation: crate::Activation) -> Self;
}

/// A vector of `LANES` real numbers.
///
/// # Safety
/// Every method must run on a machine that has the instruction set, and pointers must be valid for the elements that
/// the method names. Alignment is never required, but for [`Simd::stream`].
pub trait Simd: Copy + 'static {
    type Real: Real;
    type V: Copy;
    const LANES: usize;
    /// Rows of the register tile for real numbers; complex numbers have half.
    const ROWS: usize;

    unsafe fn splat(x: Self::Real) -> Self::V;
    unsafe fn load(p: *const Self::Real) -> Self::V;
    unsafe fn store(p: *mut Self::Real, v: Self::V);
    /// Stores past the caches; `p` is aligned to the vector.
    unsafe fn stream(p: *mut Self::Real, v: Self::V);
    /// `x·y + z`
    unsafe fn fma(x: Self::V, y: Self::V, z: Self::V) -> Self::V;
    /// `z − x·y`
    unsafe fn fnma(x: Self::V, y: Self::V, z: Self::V) -> Self::V;
    unsafe fn add(x: Self::V, y: Self::V) -> Self::V;
    /// Transposes the `LANES × LANES` block held by the first `LANES` vectors.
    unsafe fn transpose(block: &mut [Self::V; 16]);

    /// The first `count ≤ LANES` elements, zeros behind.
    #[inline(always)]
    unsafe fn load_first(p: *const Self::Real, count: usize) -> Self::V {
        let mut buffer = [Self::Real::default(); 16];
        // SAFETY: the caller vouches for `count` elements, and `count ≤ LANES ≤ 16`.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buffer.as_mut_ptr(), count);
            Self::load(buffer.as_ptr())
        }
    }
    /// Stores the first `count ≤ LANES` elements only.
    #[inline(always)]
    unsafe fn store_first(p: *mut Self::Real, v: Self::V, count: usize) {
        let mut buffer = [Self::Real::default(); 16];
        // SAFETY: as in `load_first`.
        unsafe {
            Self::store(buffer.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), p, count);
        }
    }
    /// `count` half-precision numbers, widened.
    #[inline(always)]
    unsafe fn load_f16(p: *const f16, count: usize) -> Self::V {
        // SAFETY: the caller vouches for `count` elements.
        unsafe { load_with::<Self, f16>(p, count, f16::to_f32) }
    }
    /// `count` bfloat16 numbers, widened.
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16, count: usize) -> Self::V {
        // SAFETY: the caller vouches for `count` elements.
        unsafe { load_with::<Self, bf16>(p, count, bf16::to_f32) }
    }
    /// Rounds to half precision and stores `count` numbers.
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: Self::V, count: usize) {
        // SAFETY: the caller vouches for `count` elements.
        unsafe { store_with::<Self, f16>(p, v, count, f16::from_f32) }
    }
    /// Rounds to bfloat16 and stores `count` numbers.
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::V, count: usize) {
        // SAFETY: the caller vouches for `count` elements.
        unsafe { store_with::<Self, bf16>(p, v, count, bf16::from_f32) }
    }
}

#[inline(always)]
unsafe fn load_with<S: Simd, H: Copy>(p: *const H, count: usize, widen: impl Fn(H) -> f32) -> S::V {
    let mut buffer = [S::Real::default(); 16];
    for (k, slot) in buffer.iter_mut().enumerate().take(count) {
        // SAFETY: the caller vouches for `count` elements.
        *slot = S::Real::from_f32(widen(unsafe { *p.add(k) }));
    }
    // SAFETY: the buffer holds 16 ≥ LANES elements.
    unsafe { S::load(buffer.as_ptr()) }
}

#[inline(always)]
unsafe fn store_with<S: Simd, H: Copy>(p: *mut H, v: S::V, count: usize, narrow: impl Fn(f32) -> H) {
    let mut buffer = [S::Real::default(); 16];
    // SAFETY: the buffer holds 16 ≥ LANES elements, and the caller vouches for `count` at `p`.
    unsafe {
        S::store(buffer.as_mut_ptr(), v);
        for (k, &value) in buffer.iter().enumerate().take(count) {
            *p.add(k) = narrow(value.to_f32());
        }
    }
}
