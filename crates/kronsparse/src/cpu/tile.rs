//! The register tile: `ROWS × NV` vectors of accumulators, weights broadcast, a panel of inputs that the batch runs through.
//!
//! A panel is an array of rows, one per feature; a row holds `NV · LANES` vectors of the batch, for complex numbers first
//! all real parts, then all imaginary parts. So every factor, whatever its pattern, is a plain product of a small matrix
//! and a panel.

use super::prefetch::Prefetch;
use super::simd::{Isa, Real, Simd};
use super::weights::tile_rows;

/// Sums longer than this are cut, so that rounding errors grow with the square root of this number and not of `c`.
const LONGEST_SUM: usize = 256;

/// One small matrix product over a panel: `out[rows.row(o)] = Σ_l w[o, l] · x[l]` for `o` in `outputs`.
pub(super) struct Block<'a, R> {
    /// The packed tiles of `outputs` (`weights.rs`).
    pub(super) weights: *const R,
    /// A panel of `inputs` rows.
    pub(super) x: *const R,
    pub(super) inputs: usize,
    pub(super) outputs: std::ops::Range<usize>,
    pub(super) out: *mut R,
    pub(super) rows: Rows<'a>,
}

/// Where the outputs of a block go in the panel that receives them.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// Output `o` is row `table[o · step]`.
    Table { table: &'a [usize], step: usize },
    /// Output `o` is row `first + (o − from) · step`.
    Even { first: usize, from: usize, step: usize },
}

impl Rows<'_> {
    #[inline(always)]
    fn row(self, o: usize) -> usize {
        match self {
            Rows::Table { table, step } => table[o * step],
            Rows::Even { first, from, step } => first + (o - from) * step,
        }
    }
}

/// [`Block`] compiled for an instruction set and a panel width; `ahead` advances after every tile.
pub(super) type Product<R> = unsafe fn(&Block<'_, R>, &mut [Prefetch; 2]);

/// The products for panels of one, two and three vectors, of numbers with `planes` planes.
pub(super) fn products<R: Real>(isa: Isa, planes: usize) -> [Product<R>; 3] {
    macro_rules! widths {
        ($f:ident) => {
            if planes == 1 {
                [$f::<R, 1, 1>, $f::<R, 2, 1>, $f::<R, 3, 1>]
            } else {
                [$f::<R, 1, 2>, $f::<R, 2, 2>, $f::<R, 3, 2>]
            }
        };
    }
    match isa {
        Isa::Portable => widths!(portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => widths!(avx2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => widths!(avx512),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("{} is never available here", isa.name()),
    }
}

unsafe fn portable<R: Real, const NV: usize, const PLANES: usize>(block: &Block<'_, R>, ahead: &mut [Prefetch; 2]) {
    // SAFETY: the caller's promises; portable code needs no particular instruction.
    unsafe { product::<R::Portable, NV, PLANES>(block, ahead) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<R: Real, const NV: usize, const PLANES: usize>(block: &Block<'_, R>, ahead: &mut [Prefetch; 2]) {
    // SAFETY: the caller's promises; the features are enabled here.
    unsafe { product::<R::Avx2, NV, PLANES>(block, ahead) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<R: Real, const NV: usize, const PLANES: usize>(block: &Block<'_, R>, ahead: &mut [Prefetch; 2]) {
    // SAFETY: the caller's promises; the features are enabled here.
    unsafe { product::<R::Avx512, NV, PLANES>(block, ahead) }
}

/// # Safety
/// The instruction set of `S` is present and enabled in the caller; the pointers of `block` hold what it says, in panels
/// whose rows are `NV · LANES · PLANES` numbers.
#[inline(always)]
unsafe fn product<S: Simd, const NV: usize, const PLANES: usize>(
    block: &Block<'_, S::Real>,
    ahead: &mut [Prefetch; 2],
) {
    let pitch = NV * S::LANES * PLANES;
    let (x, inputs, out, rows) = (block.x, block.inputs, block.out, block.rows);
    let (mut o, mut weights) = (block.outputs.start, block.weights);
    while o < block.outputs.end {
        let height = tile_rows(S::ROWS / PLANES, block.outputs.end - o);
        // SAFETY: the caller's promises, tile by tile; the heights are those of the packing.
        unsafe {
            let mut targets = [out; 8];
            for (r, target) in targets.iter_mut().enumerate().take(height) {
                *target = out.add(rows.row(o + r) * pitch);
            }
            match (PLANES, height) {
                (1, 8) => tile::<S, 8, NV>(weights, x, inputs, &targets),
                (1, 4) => tile::<S, 4, NV>(weights, x, inputs, &targets),
                (1, 2) => tile::<S, 2, NV>(weights, x, inputs, &targets),
                (1, _) => tile::<S, 1, NV>(weights, x, inputs, &targets),
                (_, 4) => tile_complex::<S, 4, NV>(weights, x, inputs, &targets),
                (_, 2) => tile_complex::<S, 2, NV>(weights, x, inputs, &targets),
                _ => tile_complex::<S, 1, NV>(weights, x, inputs, &targets),
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
    targets: &[*mut S::Real; 8],
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
                let row = targets[r];
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
    targets: &[*mut S::Real; 8],
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
                let row = targets[r];
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
