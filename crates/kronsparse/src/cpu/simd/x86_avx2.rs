//! AVX2 with FMA and F16C: eight f32 or four f64.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::{bf16, f16};

use super::Simd;

#[derive(Clone, Copy)]
pub struct Avx2<R>(PhantomData<R>);

// SAFETY (all blocks of this file): `Simd` methods run only where the dispatcher has found AVX2, FMA and F16C, and the
// caller vouches for the pointers; loads and stores are the unaligned forms, but for `stream`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2<f32> {
    type Real = f32;
    type V = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: __m256) {
        unsafe { _mm256_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn fma(x: __m256, y: __m256, z: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(x, y, z) }
    }
    #[inline(always)]
    unsafe fn fnma(x: __m256, y: __m256, z: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(x, y, z) }
    }
    #[inline(always)]
    unsafe fn add(x: __m256, y: __m256) -> __m256 {
        unsafe { _mm256_add_ps(x, y) }
    }
    #[inline(always)]
    unsafe fn transpose(v: &mut [__m256; 16]) {
        unsafe {
            // Pairs of rows, then quads (as 64-bit units), then the 128-bit halves.
            let mut t = *v;
            for k in 0..4 {
                t[2 * k] = _mm256_unpacklo_ps(v[2 * k], v[2 * k + 1]);
                t[2 * k + 1] = _mm256_unpackhi_ps(v[2 * k], v[2 * k + 1]);
            }
            let mut q = t;
            for k in 0..2 {
                let (r0, r1, r2, r3) = (t[4 * k], t[4 * k + 1], t[4 * k + 2], t[4 * k + 3]);
                q[4 * k] = _mm256_shuffle_ps::<0x44>(r0, r2);
                q[4 * k + 1] = _mm256_shuffle_ps::<0xEE>(r0, r2);
                q[4 * k + 2] = _mm256_shuffle_ps::<0x44>(r1, r3);
                q[4 * k + 3] = _mm256_shuffle_ps::<0xEE>(r1, r3);
            }
            for k in 0..4 {
                v[k] = _mm256_permute2f128_ps::<0x20>(q[k], q[4 + k]);
                v[4 + k] = _mm256_permute2f128_ps::<0x31>(q[k], q[4 + k]);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16, count: usize) -> __m256 {
        unsafe {
            if count == 8 {
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
            } else {
                super::load_with::<Self, f16>(p, count, f16::to_f32)
            }
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: __m256, count: usize) {
        unsafe {
            if count == 8 {
                _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
            } else {
                super::store_with::<Self, f16>(p, v, count, f16::from_f32);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16, count: usize) -> __m256 {
        unsafe {
            if count == 8 {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            } else {
                super::load_with::<Self, bf16>(p, count, bf16::to_f32)
            }
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2<f64> {
    type Real = f64;
    type V = __m256d;
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f64) -> __m256d {
        unsafe { _mm256_set1_pd(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> __m256d {
        unsafe { _mm256_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f64, v: __m256d) {
        unsafe { _mm256_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f64, v: __m256d) {
        unsafe { _mm256_stream_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn fma(x: __m256d, y: __m256d, z: __m256d) -> __m256d {
        unsafe { _mm256_fmadd_pd(x, y, z) }
    }
    #[inline(always)]
    unsafe fn fnma(x: __m256d, y: __m256d, z: __m256d) -> __m256d {
        unsafe { _mm256_fnmadd_pd(x, y, z) }
    }
    #[inline(always)]
    unsafe fn add(x: __m256d, y: __m256d) -> __m256d {
        unsafe { _mm256_add_pd(x, y) }
    }
    #[inline(always)]
    unsafe fn transpose(v: &mut [__m256d; 16]) {
        unsafe {
            let lo01 = _mm256_unpacklo_pd(v[0], v[1]);
            let hi01 = _mm256_unpackhi_pd(v[0], v[1]);
            let lo23 = _mm256_unpacklo_pd(v[2], v[3]);
            let hi23 = _mm256_unpackhi_pd(v[2], v[3]);
            v[0] = _mm256_permute2f128_pd::<0x20>(lo01, lo23);
            v[1] = _mm256_permute2f128_pd::<0x20>(hi01, hi23);
            v[2] = _mm256_permute2f128_pd::<0x31>(lo01, lo23);
            v[3] = _mm256_permute2f128_pd::<0x31>(hi01, hi23);
        }
    }
}
