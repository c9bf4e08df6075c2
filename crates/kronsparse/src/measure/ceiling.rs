//! The machine's two ceilings, measured: arithmetic by a large dense product, memory by a large copy.
//!
//! Together they give the *roofline* (Williams, Waterman, Patterson, *Roofline: an insightful visual performance model*,
//! 2009). Both use the threads of rayon's current pool, so that they are measured as the algorithms are.

use std::hint::black_box;

use gemm::Parallelism;
use num_complex::{Complex32, Complex64};
use rayon::prelude::*;

use super::Stopwatch;
use crate::DType;

/// Floating-point operations per second of a large square dense product in the type that `dtype` is accumulated in:
/// the best run of the `gemm` crate over a few sizes within about `budget` seconds.
///
/// `f16` and `bf16` are accumulated in `f32`, so their ceiling is that of `f32`: an engine with bfloat16 dot-product
/// instructions can stand above it. A complex multiply-add counts as eight operations.
pub fn peak_flops(dtype: DType, budget: f64) -> f64 {
    match dtype {
        DType::F16 | DType::Bf16 | DType::F32 => peak(budget, 2.0, 0f32, 1f32, |i| (i % 17) as f32 / 16.0 - 0.5),
        DType::F64 => peak(budget, 2.0, 0f64, 1f64, |i| (i % 17) as f64 / 16.0 - 0.5),
        DType::C64 => peak(budget, 8.0, Complex32::ZERO, Complex32::ONE, |i| {
            Complex32::new((i % 17) as f32 / 16.0 - 0.5, (i % 13) as f32 / 16.0)
        }),
        DType::C128 => peak(budget, 8.0, Complex64::ZERO, Complex64::ONE, |i| {
            Complex64::new((i % 17) as f64 / 16.0 - 0.5, (i % 13) as f64 / 16.0)
        }),
    }
}

/// The best rate over three sizes, each with a third of the budget and at least two runs (the first one is a warm-up).
fn peak<T: Copy + Send + Sync + 'static>(
    budget: f64,
    flops_per_term: f64,
    zero: T,
    one: T,
    fill: impl Fn(usize) -> T,
) -> f64 {
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    let mut best = 0.0f64;
    for size in [512usize, 1024, 1536] {
        let left: Vec<T> = (0..size * size).map(&fill).collect();
        let right: Vec<T> = (0..size * size).map(|i| fill(7 * i + 3)).collect();
        let mut out = vec![zero; size * size];
        let stride = size as isize;
        let flops = flops_per_term * (size as f64).powi(3);
        let whole = Stopwatch::start();
        for run in 0.. {
            let watch = Stopwatch::start();
            // SAFETY: the three matrices have size × size elements each, row-major with row stride `size` and column
            // stride 1; `out` is borrowed mutably and does not overlap the others.
            unsafe {
                gemm::gemm(
                    size,
                    size,
                    size,
                    out.as_mut_ptr(),
                    1,
                    stride,
                    false,
                    left.as_ptr(),
                    1,
                    stride,
                    right.as_ptr(),
                    1,
                    stride,
                    zero,
                    one,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
            let took = watch.seconds();
            black_box(&mut out);
            if run > 0 {
                best = best.max(flops / took);
                if whole.seconds() > budget / 3.0 {
                    break;
                }
            }
        }
    }
    best
}

/// Bytes per second of copying a buffer of `bytes` bytes into another one, read and write counted once each: the best
/// run within about `budget` seconds.
///
/// Choose `bytes` several times the last level cache. A product whose data stays in a cache can be faster than this.
pub fn copy_bandwidth(bytes: usize, budget: f64) -> f64 {
    let words = (bytes / 8).max(1);
    let source: Vec<u64> = (0..words as u64).collect();
    let mut target = vec![0u64; words];
    let share = words.div_ceil(rayon::current_num_threads());
    let mut best = 0.0f64;
    let whole = Stopwatch::start();
    for run in 0.. {
        let watch = Stopwatch::start();
        target.par_chunks_mut(share).zip(source.par_chunks(share)).for_each(|(to, from)| to.copy_from_slice(from));
        let took = watch.seconds();
        black_box(&mut target);
        if run > 0 {
            best = best.max(16.0 * words as f64 / took);
            if run >= 4 && whole.seconds() > budget {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_those_of_some_real_machine() {
        // Loose on purpose: between a very slow core in an unoptimised build and a large server.
        for dtype in [DType::F32, DType::F64, DType::C64, DType::C128] {
            let peak = peak_flops(dtype, 0.0);
            assert!((1e7..1e14).contains(&peak), "{dtype}: {peak} FLOP/s");
        }
        let bandwidth = copy_bandwidth(16 << 20, 0.0);
        assert!((1e7..1e13).contains(&bandwidth), "{bandwidth} B/s");
    }
}
