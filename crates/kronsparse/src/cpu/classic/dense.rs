//! `dense`: the product of the whole chain as one matrix, and one GEMM.

use super::Kernel;
use super::gemm::Strided;
use crate::cpu::element::{Compute, Element};
use crate::plan::Layout;
use crate::{Chain, Scalar};

#[derive(Debug)]
pub(super) struct Dense<C> {
    rows: usize,
    cols: usize,
    matrix: Vec<C>,
}

impl<C: Compute> Dense<C> {
    pub(super) fn new<T: Scalar + Element<Compute = C>>(chain: &Chain<T>) -> Self {
        let matrix = chain.to_dense().into_vec().into_iter().map(T::widen_compute).collect();
        Dense { rows: chain.rows(), cols: chain.cols(), matrix }
    }
}

impl<C: Compute> Kernel<C> for Dense<C> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn multiply(&self, x: &[C], y: &mut [C], _: &mut [C], n: usize, layout: Layout, threads: usize) {
        let (rows, cols) = (self.rows, self.cols);
        let w = (&self.matrix[..], Strided { offset: 0, row: cols, col: 1 });
        // Batch-first is the transposed product: Yᵀ = W Xᵀ.
        let (x_at, y_at) = match layout {
            Layout::BatchFirst => (Strided { offset: 0, row: 1, col: cols }, Strided { offset: 0, row: 1, col: rows }),
            Layout::BatchLast => (Strided { offset: 0, row: n, col: 1 }, Strided { offset: 0, row: n, col: 1 }),
        };
        C::gemm([rows, n, cols], (y, y_at), w, (x, x_at), threads);
    }
}
