//! `einsum`: loops in the order of `Y[n, i, o, j] = Σ_l w[i, o, l, j] · X[n, i, l, j]`, no copy of anything.

use super::{Kernel, in_parallel};
use crate::cpu::element::{Compute, Element};
use crate::plan::Layout;
use crate::{Factor, Pattern, Scalar};

#[derive(Debug)]
pub(super) struct Einsum<C> {
    pattern: Pattern,
    weights: Vec<C>,
}

impl<C: Compute> Einsum<C> {
    pub(super) fn new<T: Scalar + Element<Compute = C>>(factor: &Factor<T>) -> Self {
        let weights = factor.weights().iter().map(|w| w.widen_compute()).collect();
        Einsum { pattern: factor.pattern(), weights }
    }
}

impl<C: Compute> Kernel<C> for Einsum<C> {
    fn rows(&self) -> usize {
        self.pattern.rows()
    }
    fn cols(&self) -> usize {
        self.pattern.cols()
    }
    fn multiply(&self, x: &[C], y: &mut [C], _: &mut [C], n: usize, layout: Layout, threads: usize) {
        let p = self.pattern;
        let (c, d) = (p.c(), p.d());
        match layout {
            // The inner loop runs over the lanes j, contiguous in w, X and Y.
            Layout::BatchFirst => in_parallel(threads, y, p.rows(), |first, y| {
                for (at, y) in y.chunks_exact_mut(p.rows()).enumerate() {
                    let x = &x[(first + at) * p.cols()..][..p.cols()];
                    for (io, y) in y.chunks_exact_mut(d).enumerate() {
                        let (w, x) = (&self.weights[io * c * d..], &x[io / p.b() * c * d..]);
                        y.fill(C::default());
                        for l in 0..c {
                            let terms = w[l * d..][..d].iter().zip(&x[l * d..][..d]);
                            y.iter_mut().zip(terms).for_each(|(y, (&w, &x))| *y += w * x);
                        }
                    }
                }
            }),
            // The inner loop runs over the batch, contiguous in X and Y.
            Layout::BatchLast => in_parallel(threads, y, n, |first, y| {
                for (at, y) in y.chunks_exact_mut(n).enumerate() {
                    let (io, j) = ((first + at) / d, (first + at) % d);
                    y.fill(C::default());
                    for l in 0..c {
                        let w = self.weights[(io * c + l) * d + j];
                        let x = &x[p.col(io / p.b(), l, j) * n..][..n];
                        y.iter_mut().zip(x).for_each(|(y, &x)| *y += w * x);
                    }
                }
            }),
        }
    }
}
