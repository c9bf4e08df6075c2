//! Weights in the order in which the register tile reads them, packed once.

use super::element::Element;
use super::simd::Isa;
use crate::{Factor, Pattern, Scalar};

/// Cuts `outputs` rows into register tiles: full ones of `rows`, then the halves that the rest needs.
#[inline(always)]
pub(super) fn tile_rows(rows: usize, left: usize) -> usize {
    if left >= rows { rows } else { 1 << left.ilog2() }
}

/// One factor, packed: for every `(i, j)`, tile by tile of outputs `o`, then input `l`, then the tile's rows; a complex
/// tile holds its real parts, then its imaginary parts, for every `l`.
#[derive(Debug)]
pub(super) struct PackedFactor<R> {
    pub(super) pattern: Pattern,
    weights: Vec<R>,
}

impl<R: Copy> PackedFactor<R> {
    pub(super) fn new<T: Scalar + Element<Real = R>>(factor: &Factor<T>, isa: Isa) -> PackedFactor<R> {
        let pattern = factor.pattern();
        let rows = isa.tile_rows(T::PLANES);
        let mut weights = Vec::with_capacity(pattern.nnz() * T::PLANES);
        for i in 0..pattern.a() {
            for j in 0..pattern.d() {
                let mut o = 0;
                while o < pattern.b() {
                    let height = tile_rows(rows, pattern.b() - o);
                    for l in 0..pattern.c() {
                        for plane in 0..T::PLANES {
                            weights.extend((o..o + height).map(|o| factor.weight(i, o, l, j).planes()[plane]));
                        }
                    }
                    o += height;
                }
            }
        }
        PackedFactor { pattern, weights }
    }

    /// The weights of outputs `o…` of block `(i, j)`; `o` starts a tile.
    #[inline(always)]
    pub(super) fn block(&self, i: usize, j: usize, o: usize, planes: usize) -> &[R] {
        let p = self.pattern;
        &self.weights[((i * p.d() + j) * p.b() + o) * p.c() * planes..]
    }
}
