//! `permute-bmm`: permute `X` so that each `(i, j)` is a contiguous matrix, multiply `a·d` matrices, permute back.

use super::gemm::Strided;
use super::{Kernel, in_parallel};
use crate::cpu::element::{Compute, Element};
use crate::plan::Layout;
use crate::{Factor, Pattern, Scalar};

#[derive(Debug)]
pub(super) struct PermuteBmm<C> {
    pattern: Pattern,
    /// Shape `(a·d, b, c)`.
    weights: Vec<C>,
}

impl<C: Compute> PermuteBmm<C> {
    pub(super) fn new<T: Scalar + Element<Compute = C>>(factor: &Factor<T>) -> Self {
        let p = factor.pattern();
        let mut weights = Vec::with_capacity(p.nnz());
        for i in 0..p.a() {
            for j in 0..p.d() {
                for o in 0..p.b() {
                    weights.extend((0..p.c()).map(|l| factor.weight(i, o, l, j).widen_compute()));
                }
            }
        }
        PermuteBmm { pattern: p, weights }
    }
}

/// Swaps the middle two axes of an array `(outer, p, q, inner)`.
fn swap_axes<C: Compute>(from: &[C], to: &mut [C], [p, q, inner]: [usize; 3], threads: usize) {
    in_parallel(threads, to, p * q * inner, |first, to| {
        for (at, to) in to.chunks_exact_mut(p * q * inner).enumerate() {
            let from = &from[(first + at) * p * q * inner..];
            for y in 0..q {
                for x in 0..p {
                    let (source, target) = ((x * q + y) * inner, (y * p + x) * inner);
                    to[target..target + inner].copy_from_slice(&from[source..source + inner]);
                }
            }
        }
    });
}

impl<C: Compute> Kernel<C> for PermuteBmm<C> {
    fn rows(&self) -> usize {
        self.pattern.rows()
    }
    fn cols(&self) -> usize {
        self.pattern.cols()
    }
    fn scratch(&self, n: usize) -> usize {
        n * (self.rows() + self.cols())
    }
    fn multiply(&self, x: &[C], y: &mut [C], scratch: &mut [C], n: usize, layout: Layout, threads: usize) {
        let [a, b, c, d] = self.pattern.shape();
        let (permuted, products) = scratch.split_at_mut(n * self.cols());
        let products = &mut products[..n * self.rows()];
        // Batch-first (n, a, c, d) becomes (n, a, d, c); batch-last (a, c, d, n) becomes (a, d, c, n).
        let inner = if layout == Layout::BatchFirst { 1 } else { n };
        swap_axes(x, permuted, [c, d, inner], threads);
        for k in 0..a * d {
            let w = (&self.weights[k * b * c..][..b * c], Strided { offset: 0, row: c, col: 1 });
            let (x_at, y_at) = match layout {
                Layout::BatchFirst => (
                    Strided { offset: k * c, row: 1, col: a * d * c },
                    Strided { offset: k * b, row: 1, col: a * d * b },
                ),
                Layout::BatchLast => {
                    (Strided { offset: k * c * n, row: n, col: 1 }, Strided { offset: k * b * n, row: n, col: 1 })
                }
            };
            C::gemm([b, n, c], (products, y_at), w, (permuted, x_at), threads);
        }
        swap_axes(products, y, [d, b, inner], threads);
    }
}
