//! The register tile: `ROWS × NV` vectors of accumulators, weights broadcast, a panel of inputs that the batch runs through.
//!
//! A panel is an array of rows, one per feature; a row holds `NV · LANES` vectors of the batch, for complex numbers first
//! all real parts, then all imaginary parts. So every factor, whatever its pattern, is a plain product of a small matrix
//! and a panel.

use super::prefetch::Prefetch;
use super::simd::Simd;
use super::weights::tile_rows;

/// Sums longer than this are cut, so that rounding errors grow with the square root of this number and not of `c`.
const LONGEST_SUM: usize = 256;

/// `out[row(o)] = Σ_l w[o, l] · x[l]` for `o` in `outputs`, over panels whose rows are `NV · LANES · PLANES` numbers apart;
/// `ahead` advances after every tile.
///
/// # Safety
/// The instruction set of `S` is present; `weights` holds the packed tiles of `outputs` (`weights.rs`), `x` a panel of
/// `inputs` rows, and `out` has every row that `row` names.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, const NV: usize, const PLANES: usize>(
    weights: *const S::Real,
    x: *const S::Real,
    inputs: usize,
    outputs: std::ops::Range<usize>,
    out: *mut S::Real,
    row: impl Fn(usize) -> usize,
    ahead: &mut [Prefetch; 2],
) {
    let pitch = NV * S::LANES * PLANES;
    let (mut o, mut weights) = (outputs.start, weights);
    while o < outputs.end {
        let height = tile_rows(S::ROWS / PLANES, outputs.end - o);
        // SAFETY: the caller's promises, tile by tile; the heights are those of the packing.
        unsafe {
            let target = |r: usize| out.add(row(o + r) * pitch);
            match (PLANES, height) {
                (1, 8) => tile::<S, 8, NV>(weights, x, inputs, target),
                (1, 4) => tile::<S, 4, NV>(weights, x, inputs, target),
                (1, 2) => tile::<S, 2, NV>(weights, x, inputs, target),
                (1, _) => tile::<S, 1, NV>(weights, x, inputs, target),
                (_, 4) => tile_complex::<S, 4, NV>(weights, x, inputs, target),
                (_, 2) => tile_complex::<S, 2, NV>(weights, x, inputs, target),
                _ => tile_complex::<S, 1, NV>(weights, x, inputs, target),
            }
            weights = weights.add(height * inputs * PLANES);
        }
        ahead[0].advance();
        ahead[1].advance();
        o += height;
    }
}

/// One tile of real numbers.
///
/// # Safety
/// As for [`product`], for `ROWS` outputs.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const NV: usize>(
    weights: *const S::Real,
    x: *const S::Real,
    inputs: usize,
    target: impl Fn(usize) -> *mut S::Real,
) {
    let pitch = NV * S::LANES;
    // SAFETY: `l < inputs` rows of `x` and `ROWS · inputs` weights exist.
    unsafe {
        let (mut w, mut x) = (weights, x);
        let mut done = 0;
        loop {
            let upto = inputs.min(done + LONGEST_SUM);
            let zero = S::splat(S::Real::default());
            let mut sum = [[zero; NV]; ROWS];
            for _ in done..upto {
                let mut input = [zero; NV];
                for (v, input) in input.iter_mut().enumerate() {
                    *input = S::load(x.add(v * S::LANES));
                }
                for (r, sum) in sum.iter_mut().enumerate() {
                    let weight = S::splat(*w.add(r));
                    for v in 0..NV {
                        sum[v] = S::fma(weight, input[v], sum[v]);
                    }
                }
                w = w.add(ROWS);
                x = x.add(pitch);
            }
            for (r, sum) in sum.iter().enumerate() {
                let row = target(r);
                for (v, &sum) in sum.iter().enumerate() {
                    let p = row.add(v * S::LANES);
                    S::store(p, if done == 0 { sum } else { S::add(sum, S::load(p)) });
                }
            }
            done = upto;
            if done >= inputs {
                return;
            }
        }
    }
}

/// One tile of complex numbers, real and imaginary parts in planes of their own.
///
/// # Safety
/// As for [`product`], for `ROWS` outputs.
#[inline(always)]
unsafe fn tile_complex<S: Simd, const ROWS: usize, const NV: usize>(
    weights: *const S::Real,
    x: *const S::Real,
    inputs: usize,
    target: impl Fn(usize) -> *mut S::Real,
) {
    let plane = NV * S::LANES;
    // SAFETY: `l < inputs` rows of `x` and `2 · ROWS · inputs` weights exist.
    unsafe {
        let (mut w, mut x) = (weights, x);
        let mut done = 0;
        loop {
            let upto = inputs.min(done + LONGEST_SUM);
            let zero = S::splat(S::Real::default());
            let (mut re, mut im) = ([[zero; NV]; ROWS], [[zero; NV]; ROWS]);
            for _ in done..upto {
                for v in 0..NV {
                    let (x_re, x_im) = (S::load(x.add(v * S::LANES)), S::load(x.add(plane + v * S::LANES)));
                    for r in 0..ROWS {
                        let (w_re, w_im) = (S::splat(*w.add(r)), S::splat(*w.add(ROWS + r)));
                        re[r][v] = S::fma(w_re, x_re, re[r][v]);
                        re[r][v] = S::fnma(w_im, x_im, re[r][v]);
                        im[r][v] = S::fma(w_re, x_im, im[r][v]);
                        im[r][v] = S::fma(w_im, x_re, im[r][v]);
                    }
                }
                w = w.add(2 * ROWS);
                x = x.add(2 * plane);
            }
            for r in 0..ROWS {
                let row = target(r);
                for v in 0..NV {
                    for (p, sum) in [(row.add(v * S::LANES), re[r][v]), (row.add(plane + v * S::LANES), im[r][v])] {
                        S::store(p, if done == 0 { sum } else { S::add(sum, S::load(p)) });
                    }
                }
            }
            done = upto;
            if done >= inputs {
                return;
            }
        }
    }
}
