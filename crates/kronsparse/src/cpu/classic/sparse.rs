//! `csr` and `bsr`: general sparse formats, which know nothing of the structure but the places of the non-zeros.

use super::{Kernel, in_parallel};
use crate::cpu::element::{Compute, Element};
use crate::plan::Layout;
use crate::{Factor, Pattern, Scalar};

/// Compressed sparse rows.
#[derive(Debug)]
pub(super) struct Csr<C> {
    pattern: Pattern,
    row_starts: Vec<usize>,
    columns: Vec<usize>,
    values: Vec<C>,
}

impl<C: Compute> Csr<C> {
    pub(super) fn new<T: Scalar + Element<Compute = C>>(factor: &Factor<T>) -> Self {
        let p = factor.pattern();
        let (mut row_starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in 0..p.rows() {
            let (i, o, j) = (row / (p.b() * p.d()), row / p.d() % p.b(), row % p.d());
            for l in 0..p.c() {
                columns.push(p.col(i, l, j));
                values.push(factor.weight(i, o, l, j).widen_compute());
            }
            row_starts.push(columns.len());
        }
        Csr { pattern: p, row_starts, columns, values }
    }

    fn row(&self, row: usize) -> impl Iterator<Item = (usize, C)> {
        let range = self.row_starts[row]..self.row_starts[row + 1];
        self.columns[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }
}

impl<C: Compute> Kernel<C> for Csr<C> {
    fn rows(&self) -> usize {
        self.pattern.rows()
    }
    fn cols(&self) -> usize {
        self.pattern.cols()
    }
    fn multiply(&self, x: &[C], y: &mut [C], _: &mut [C], n: usize, layout: Layout, threads: usize) {
        let (rows, cols) = (self.rows(), self.cols());
        match layout {
            Layout::BatchFirst => in_parallel(threads, y, rows, |first, y| {
                for (at, y) in y.chunks_exact_mut(rows).enumerate() {
                    let x = &x[(first + at) * cols..][..cols];
                    for (row, y) in y.iter_mut().enumerate() {
                        let mut sum = C::default();
                        self.row(row).for_each(|(col, w)| sum += w * x[col]);
                        *y = sum;
                    }
                }
            }),
            Layout::BatchLast => in_parallel(threads, y, n, |first, y| {
                for (at, y) in y.chunks_exact_mut(n).enumerate() {
                    y.fill(C::default());
                    for (col, w) in self.row(first + at) {
                        y.iter_mut().zip(&x[col * n..][..n]).for_each(|(y, &x)| *y += w * x);
                    }
                }
            }),
        }
    }
}

/// Block-sparse rows: `b × c` dense blocks where `d = 1`; where `d > 1` the non-zero blocks are the `d × d` diagonals,
/// stored densely with their zeros, which is what the format does to a Kronecker-sparse matrix. The stored zeros are
/// multiplied too, so a NaN or an infinity in `X` spreads over its block.
#[derive(Debug)]
pub(super) struct Bsr<C> {
    pattern: Pattern,
    /// Height and width of a block.
    block: [usize; 2],
    /// For every block row, its block columns: `per_row` of them.
    columns: Vec<usize>,
    per_row: usize,
    /// Block after block, row-major inside.
    values: Vec<C>,
}

impl<C: Compute> Bsr<C> {
    pub(super) fn new<T: Scalar + Element<Compute = C>>(factor: &Factor<T>) -> Self {
        let p = factor.pattern();
        let [a, b, c, d] = p.shape();
        if d == 1 {
            let values = factor.weights().iter().map(|w| w.widen_compute()).collect();
            return Bsr { pattern: p, block: [b, c], columns: (0..a).collect(), per_row: 1, values };
        }
        let mut values = vec![C::default(); p.nnz() * d];
        let mut columns = Vec::with_capacity(a * b * c);
        for (at, values) in values.chunks_exact_mut(d * d).enumerate() {
            let (i, o, l) = (at / (b * c), at / c % b, at % c);
            columns.push(i * c + l);
            (0..d).for_each(|j| values[j * d + j] = factor.weight(i, o, l, j).widen_compute());
        }
        Bsr { pattern: p, block: [d, d], columns, per_row: c, values }
    }

    fn block_rows(&self) -> usize {
        self.columns.len() / self.per_row
    }
}

impl<C: Compute> Kernel<C> for Bsr<C> {
    fn rows(&self) -> usize {
        self.pattern.rows()
    }
    fn cols(&self) -> usize {
        self.pattern.cols()
    }
    fn multiply(&self, x: &[C], y: &mut [C], _: &mut [C], n: usize, layout: Layout, threads: usize) {
        let (rows, cols) = (self.rows(), self.cols());
        let [height, width] = self.block;
        let blocks = |block_row: usize| {
            let range = block_row * self.per_row..(block_row + 1) * self.per_row;
            range.map(|at| (self.columns[at], &self.values[at * height * width..][..height * width]))
        };
        match layout {
            Layout::BatchFirst => in_parallel(threads, y, rows, |first, y| {
                for (at, y) in y.chunks_exact_mut(rows).enumerate() {
                    let x = &x[(first + at) * cols..][..cols];
                    for block_row in 0..self.block_rows() {
                        let y = &mut y[block_row * height..][..height];
                        y.fill(C::default());
                        for (block_col, block) in blocks(block_row) {
                            let x = &x[block_col * width..][..width];
                            for (y, w) in y.iter_mut().zip(block.chunks_exact(width)) {
                                let mut sum = C::default();
                                w.iter().zip(x).for_each(|(&w, &x)| sum += w * x);
                                *y += sum;
                            }
                        }
                    }
                }
            }),
            Layout::BatchLast => in_parallel(threads, y, height * n, |first, y| {
                for (at, y) in y.chunks_exact_mut(height * n).enumerate() {
                    y.fill(C::default());
                    for (block_col, block) in blocks(first + at) {
                        for (y, w) in y.chunks_exact_mut(n).zip(block.chunks_exact(width)) {
                            for (k, &w) in w.iter().enumerate() {
                                let x = &x[(block_col * width + k) * n..][..n];
                                y.iter_mut().zip(x).for_each(|(y, &x)| *y += w * x);
                            }
                        }
                    }
                }
            }),
        }
    }
}
