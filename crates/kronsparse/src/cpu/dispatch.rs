//! From a run-time instruction set and panel width to code compiled for both.

use super::simd::{Isa, Real, Simd};

/// Something that can run on any instruction set and panel width.
pub(super) trait Job<R: Real> {
    /// # Safety
    /// The instruction set of `S` is present on this machine.
    unsafe fn run<S: Simd<Real = R>, const NV: usize>(self, scratch: &mut [R]);
}

/// Runs `job` on panels of `vectors` vectors (1 to 3) with `isa`, which must be available.
pub(super) fn run<R: Real, J: Job<R>>(isa: Isa, vectors: usize, job: J, scratch: &mut [R]) {
    match isa {
        // SAFETY: the portable code needs no particular instruction.
        Isa::Portable => unsafe { width::<R, R::Portable, J>(vectors, job, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an operator holds this value only where `Isa::available` lists it.
        Isa::Avx2 => unsafe { avx2(vectors, job, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512(vectors, job, scratch) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("{} is never available here", isa.name()),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<R: Real, J: Job<R>>(vectors: usize, job: J, scratch: &mut [R]) {
    // SAFETY: the features are enabled here, and present by the caller's promise.
    unsafe { width::<R, R::Avx2, J>(vectors, job, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<R: Real, J: Job<R>>(vectors: usize, job: J, scratch: &mut [R]) {
    // SAFETY: the features are enabled here, and present by the caller's promise.
    unsafe { width::<R, R::Avx512, J>(vectors, job, scratch) }
}

/// # Safety
/// The instruction set of `S` is present, and enabled in the caller that this is inlined into.
#[inline(always)]
unsafe fn width<R: Real, S: Simd<Real = R>, J: Job<R>>(vectors: usize, job: J, scratch: &mut [R]) {
    // SAFETY: the caller's promise.
    unsafe {
        match vectors {
            1 => job.run::<S, 1>(scratch),
            2 => job.run::<S, 2>(scratch),
            3 => job.run::<S, 3>(scratch),
            _ => unreachable!("panels have one to three vectors, not {vectors}"),
        }
    }
}
