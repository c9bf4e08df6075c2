//! AVX-512: sixteen f32 or eight f64, with masks for the ends of rows.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::{bf16, f16};

use super::Simd;

#[derive(Clone, Copy)]
pub struct Avx512<R>(PhantomData<R>);

#[inline(always)]
fn mask16(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

#[inline(always)]
fn mask8(count: usize) -> __mmask8 {
    ((1u16 << count) - 1) as __mmask8
}

// SAFETY (all blocks of this file): `Simd` methods run only where the dispatcher has found AVX-512 F, BW, DQ and VL, and
// the caller vouches for the pointers; masked lanes are not accessed, and only `stream` requires alignment.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512<f32> {
    type Real = f32;
    type V = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: __m512) {
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn fma(x: __m512, y: __m512, z: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(x, y, z) }
    }
    #[inline(always)]
    unsafe fn fnma(x: __m512, y: __m512, z: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(x, y, z) }
    }
    #[inline(always)]
    unsafe fn add(x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_add_ps(x, y) }
    }
    #[inline(always)]
    unsafe fn transpose(v: &mut [__m512; 16]) {
        unsafe {
            // Pairs of rows, quads of rows (64-bit units), then two rounds over the 128-bit quarters.
            let mut t = *v;
            for k in 0..8 {
                t[2 * k] = _mm512_unpacklo_ps(v[2 * k], v[2 * k + 1]);
                t[2 * k + 1] = _mm512_unpackhi_ps(v[2 * k], v[2 * k + 1]);
            }
            let mut q = t;
            for k in 0..4 {
                let (r0, r1) = (_mm512_castps_pd(t[4 * k]), _mm512_castps_pd(t[4 * k + 1]));
                let (r2, r3) = (_mm512_castps_pd(t[4 * k + 2]), _mm512_castps_pd(t[4 * k + 3]));
                q[4 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(r0, r2));
                q[4 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(r0, r2));
                q[4 * k + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(r1, r3));
                q[4 * k + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(r1, r3));
            }
            for k in 0..4 {
                // q[4g + k] holds columns k, 4+k, 8+k, 12+k of rows 4g … 4g+3, one column a quarter.
                let even01 = _mm512_shuffle_f32x4::<0x88>(q[k], q[4 + k]);
                let odd01 = _mm512_shuffle_f32x4::<0xDD>(q[k], q[4 + k]);
                let even23 = _mm512_shuffle_f32x4::<0x88>(q[8 + k], q[12 + k]);
                let odd23 = _mm512_shuffle_f32x4::<0xDD>(q[8 + k], q[12 + k]);
                v[k] = _mm512_shuffle_f32x4::<0x88>(even01, even23);
                v[8 + k] = _mm512_shuffle_f32x4::<0xDD>(even01, even23);
                v[4 + k] = _mm512_shuffle_f32x4::<0x88>(odd01, odd23);
                v[12 + k] = _mm512_shuffle_f32x4::<0xDD>(odd01, odd23);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask16(count), p) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(p, mask16(count), v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16, count: usize) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask16(count), p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: __m512, count: usize) {
        unsafe {
            let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            _mm256_mask_storeu_epi16(p.cast(), mask16(count), narrow);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16, count: usize) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask16(count), p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: __m512, count: usize) {
        unsafe {
            // Round to nearest even: add 0x7FFF and the lowest kept bit; a NaN keeps its top bits and becomes quiet.
            let bits = _mm512_castps_si512(v);
            let lowest = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7FFF)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let high = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_mask_storeu_epi16(p.cast(), mask16(count), _mm512_cvtepi32_epi16(high));
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512<f64> {
    type Real = f64;
    type V = __m512d;
    const LANES: usize = 8;
    const ROWS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f64) -> __m512d {
        unsafe { _mm512_set1_pd(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f64, v: __m512d) {
        unsafe { _mm512_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f64, v: __m512d) {
        unsafe { _mm512_stream_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn fma(x: __m512d, y: __m512d, z: __m512d) -> __m512d {
        unsafe { _mm512_fmadd_pd(x, y, z) }
    }
    #[inline(always)]
    unsafe fn fnma(x: __m512d, y: __m512d, z: __m512d) -> __m512d {
        unsafe { _mm512_fnmadd_pd(x, y, z) }
    }
    #[inline(always)]
    unsafe fn add(x: __m512d, y: __m512d) -> __m512d {
        unsafe { _mm512_add_pd(x, y) }
    }
    #[inline(always)]
    unsafe fn transpose(v: &mut [__m512d; 16]) {
        unsafe {
            let mut t = *v;
            for k in 0..4 {
                t[2 * k] = _mm512_unpacklo_pd(v[2 * k], v[2 * k + 1]);
                t[2 * k + 1] = _mm512_unpackhi_pd(v[2 * k], v[2 * k + 1]);
            }
            for k in 0..2 {
                // t[2g + k] holds columns k, 2+k, 4+k, 6+k of rows 2g, 2g+1, one column a quarter.
                let even01 = _mm512_shuffle_f64x2::<0x88>(t[k], t[2 + k]);
                let odd01 = _mm512_shuffle_f64x2::<0xDD>(t[k], t[2 + k]);
                let even23 = _mm512_shuffle_f64x2::<0x88>(t[4 + k], t[6 + k]);
                let odd23 = _mm512_shuffle_f64x2::<0xDD>(t[4 + k], t[6 + k]);
                v[k] = _mm512_shuffle_f64x2::<0x88>(even01, even23);
                v[4 + k] = _mm512_shuffle_f64x2::<0xDD>(even01, even23);
                v[2 + k] = _mm512_shuffle_f64x2::<0x88>(odd01, odd23);
                v[6 + k] = _mm512_shuffle_f64x2::<0xDD>(odd01, odd23);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f64, count: usize) -> __m512d {
        unsafe { _mm512_maskz_loadu_pd(mask8(count), p) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f64, v: __m512d, count: usize) {
        unsafe { _mm512_mask_storeu_pd(p, mask8(count), v) }
    }
}
