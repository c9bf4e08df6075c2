//! The geometry of one split: where the independent blocks of a Kronecker-sparse matrix lie, gathering and scattering them.
//!
//! Let `left (a1, b1, c1, d1)` and `right (a2, b2, c2, d2)` be chainable with rank `r`, and `whole` their product. It falls
//! into `a2 · d1` blocks of `b1 × c2`: block `(i2, j1)` is the product of a `b1 × r` block of `left` and an `r × c2` block
//! of `right`, which no other block uses. With `i2 = i·k + kk` (`k = a2/a1`) and `j1 = jh·d2 + j` its entry `(o1, l2)` is
//!
//! ```text
//! whole[i, o1·(d1/d2) + jh, kk·c2 + l2, j] = Σ_s left[i, o1, kk·r + s, j1] · right[i2, s·(d1/d2) + jh, l2, j]
//! ```
//!
//! Blocks are numbered `(i, jh, kk, j)`, so that those of one `(i, jh)` group lie side by side in every line of `whole`.

use rayon::prelude::*;

use super::low_rank::{Energy, Field, Sizes, Weight};
use crate::{Error, Pattern, Result};

/// A chainable pair of patterns and the numbers above.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    whole: Pattern,
    left: Pattern,
    right: Pattern,
    rank: usize,
    /// `a2 / a1`: right super-blocks under one left super-block.
    under: usize,
    /// `d1 / d2`: right outputs between two hidden features of one block.
    step: usize,
}

/// The coordinates of a block.
struct Place {
    i: usize,
    jh: usize,
    kk: usize,
    j: usize,
}

impl Split {
    /// `at` is the position of the pair in its chain, for the error's text.
    pub(super) fn new(left: Pattern, right: Pattern, at: usize) -> Result<Split> {
        let pair = left.product(right).and_then(|whole| Ok((whole, left.rank_with(right)?)));
        let (whole, rank) = pair.map_err(|why| Error::NotChainable { at, left, right, why })?;
        Ok(Split { whole, left, right, rank, under: right.a() / left.a(), step: left.d() / right.d() })
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    fn sizes(&self) -> Sizes {
        Sizes { m: self.left.b(), n: self.right.c(), rank: self.rank }
    }
    fn blocks(&self) -> usize {
        self.right.a() * self.left.d()
    }
    /// Blocks of one `(i, jh)`.
    fn group(&self) -> usize {
        self.under * self.right.d()
    }

    fn place(&self, block: usize) -> Place {
        let (group, within) = (block / self.group(), block % self.group());
        let d2 = self.right.d();
        Place { i: group / self.step, jh: group % self.step, kk: within / d2, j: within % d2 }
    }

    /// Where `left`'s entry `(o1, s)` of a block lies in the weights of `left`.
    fn left_index(&self, p: &Place, o1: usize, s: usize) -> usize {
        self.left.weight_index(p.i, o1, p.kk * self.rank + s, p.jh * self.right.d() + p.j)
    }
    /// Where `right`'s entry `(s, l2)` of a block lies in the weights of `right`.
    fn right_index(&self, p: &Place, s: usize, l2: usize) -> usize {
        self.right.weight_index(p.i * self.under + p.kk, s * self.step + p.jh, l2, p.j)
    }

    /// The best approximation of `whole` (its weights, any type that `widen` turns into the working type) as a product.
    pub(super) fn decompose<S: Copy + Sync, W: Field>(
        &self,
        whole: &[S],
        widen: impl Fn(S) -> W + Sync,
        weight: Weight,
        unit_roundoff: f64,
    ) -> Result<(Vec<W>, Vec<W>, Energy)> {
        let sizes = self.sizes();
        let chunk = self.chunk();
        self.for_chunks(chunk, |first, lefts, rights, buffer: &mut Vec<W>| {
            let count = lefts.len() / (sizes.m * sizes.rank);
            self.gather(whole, &widen, first, count, buffer);
            let mut energy = Energy::default();
            let parts = lefts.chunks_mut(sizes.m * sizes.rank).zip(rights.chunks_mut(sizes.rank * sizes.n));
            for (block, (left, right)) in buffer.chunks(sizes.m * sizes.n).zip(parts) {
                let one = W::truncate(block, sizes, weight, unit_roundoff, left, right).map_err(|why| {
                    let what = format!("splitting {} into {} and {}", self.whole, self.left, self.right);
                    Error::Numerical { what, why }
                })?;
                energy.total += one.total;
                energy.lost += one.lost;
            }
            Ok(energy)
        })
    }

    /// The same product with its weight moved to one side: the pairwise orthonormalisation.
    pub(super) fn shift<W: Field>(&self, left: &[W], right: &[W], to: Weight) -> Result<(Vec<W>, Vec<W>)> {
        let sizes = self.sizes();
        let (left, right, _) = self.for_chunks(self.chunk(), |first, lefts, rights, _: &mut Vec<W>| {
            let parts = lefts.chunks_mut(sizes.m * sizes.rank).zip(rights.chunks_mut(sizes.rank * sizes.n));
            for (block, (l, r)) in (first..).zip(parts) {
                let place = self.place(block);
                let entries = l.chunks_mut(sizes.rank).enumerate();
                entries.for_each(|(o, row)| (0..).zip(row).for_each(|(s, x)| *x = left[self.left_index(&place, o, s)]));
                let entries = r.chunks_mut(sizes.n).enumerate();
                entries
                    .for_each(|(s, row)| (0..).zip(row).for_each(|(c, x)| *x = right[self.right_index(&place, s, c)]));
                W::shift(sizes, to, l, r);
            }
            Ok(Energy::default())
        })?;
        Ok((left, right))
    }

    /// Line `i·b + o` of the weights of `left · right`, `c·d` numbers, into `values`.
    fn line<W: Field>(&self, left: &[W], right: &[W], index: usize, values: &mut [W]) {
        values.fill(W::ZERO);
        let (i, o) = (index / self.whole.b(), index % self.whole.b());
        let (o1, jh) = (o / self.step, o % self.step);
        let (c2, d2) = (self.right.c(), self.right.d());
        for (kk, out) in values.chunks_mut(c2 * d2).enumerate() {
            let place = Place { i, jh, kk, j: 0 };
            for s in 0..self.rank {
                let l = &left[self.left_index(&place, o1, s)..][..d2];
                let r = &right[self.right_index(&place, s, 0)..][..c2 * d2];
                if let [l] = l {
                    out.iter_mut().zip(r).for_each(|(y, &x)| *y += *l * x);
                } else {
                    let runs = out.chunks_mut(d2).zip(r.chunks(d2));
                    runs.for_each(|(out, r)| out.iter_mut().zip(l).zip(r).for_each(|((y, &l), &r)| *y += l * r));
                }
            }
        }
    }

    /// The weights of `left · right`.
    pub(super) fn product<W: Field>(&self, left: &[W], right: &[W]) -> Vec<W> {
        let mut whole = vec![W::ZERO; self.whole.nnz()];
        let lines = whole.par_chunks_mut(self.whole.c() * self.whole.d()).enumerate();
        lines.for_each(|(index, values)| self.line(left, right, index, values));
        whole
    }

    /// The sum of `measure(first weight, values)` over the lines of `left · right`, where `first weight` is the index of
    /// the line's first weight in `whole`. Added in a fixed order; the product is never stored.
    pub(super) fn sum_lines<W: Field>(
        &self,
        left: &[W],
        right: &[W],
        measure: impl Fn(usize, &[W]) -> f64 + Sync,
    ) -> f64 {
        let width = self.whole.c() * self.whole.d();
        let buffer = || vec![W::ZERO; width];
        let lines = (0..self.whole.a() * self.whole.b()).into_par_iter().map_init(buffer, |values, index| {
            self.line(left, right, index, values);
            measure(index * width, values)
        });
        lines.collect::<Vec<f64>>().iter().sum()
    }

    /// Blocks gathered at a time: enough neighbours that a line of `whole` is read in runs of a few cache lines.
    fn chunk(&self) -> usize {
        let (c2, d2) = (self.right.c(), self.right.d());
        d2.min(16).max(64usize.div_ceil(c2)).min(self.group())
    }

    /// Copies `count` blocks from `first` on, all of one group, into `buffer`, row-major one after the other. Reads runs of
    /// neighbouring weights, writes with a stride: the buffer is small enough to stay in cache.
    fn gather<S: Copy, W: Field>(
        &self,
        whole: &[S],
        widen: &impl Fn(S) -> W,
        first: usize,
        count: usize,
        buffer: &mut Vec<W>,
    ) {
        let Sizes { m, n, .. } = self.sizes();
        let (c2, d2) = (self.right.c(), self.right.d());
        buffer.clear();
        buffer.resize(count * m * n, W::ZERO);
        let mut done = 0;
        while done < count {
            // Lanes `p.j..p.j + lanes` of one right super-block.
            let p = self.place(first + done);
            let lanes = (d2 - p.j).min(count - done);
            for o1 in 0..m {
                let start = self.whole.weight_index(p.i, o1 * self.step + p.jh, p.kk * c2, p.j);
                let to = &mut buffer[(done * m + o1) * n..];
                if d2 == 1 {
                    let run = &whole[start..start + c2];
                    to.iter_mut().zip(run).for_each(|(y, &x)| *y = widen(x));
                    continue;
                }
                for l2 in 0..c2 {
                    let run = &whole[start + l2 * d2..][..lanes];
                    run.iter().enumerate().for_each(|(lane, &x)| to[lane * m * n + l2] = widen(x));
                }
            }
            done += lanes;
        }
    }

    /// Calls `work(first block, left blocks, right blocks, buffer)` for chunks of at most `chunk` blocks of one group, in
    /// parallel, and scatters what it wrote. Energies are added in a fixed order, whatever the number of threads.
    fn for_chunks<W: Field>(
        &self,
        chunk: usize,
        work: impl Fn(usize, &mut [W], &mut [W], &mut Vec<W>) -> Result<Energy> + Sync,
    ) -> Result<(Vec<W>, Vec<W>, Energy)> {
        let Sizes { m, n, rank } = self.sizes();
        let (size_l, size_r) = (m * rank, rank * n);
        let mut lefts = vec![W::ZERO; self.blocks() * size_l];
        let mut rights = vec![W::ZERO; self.blocks() * size_r];
        let mut tasks = Vec::new();
        for (group, (l, r)) in
            lefts.chunks_mut(self.group() * size_l).zip(rights.chunks_mut(self.group() * size_r)).enumerate()
        {
            let parts = l.chunks_mut(chunk * size_l).zip(r.chunks_mut(chunk * size_r)).enumerate();
            tasks.extend(parts.map(|(part, (l, r))| (group * self.group() + part * chunk, l, r)));
        }
        let energies: Result<Vec<Energy>> =
            tasks.into_par_iter().map_init(Vec::new, |buffer, (first, l, r)| work(first, l, r, buffer)).collect();
        let energy = energies?
            .iter()
            .fold(Energy::default(), |sum, e| Energy { total: sum.total + e.total, lost: sum.lost + e.lost });
        Ok((self.scatter_left(&lefts), self.scatter_right(&rights), energy))
    }

    /// Blocks `b1 × r` to the weights of `left`, one row `(i, o1)` of `c1 · d1` weights at a time.
    fn scatter_left<W: Field>(&self, blocks: &[W]) -> Vec<W> {
        let (m, rank, d1, d2) = (self.left.b(), self.rank, self.left.d(), self.right.d());
        let mut weights = vec![W::ZERO; self.left.nnz()];
        weights.par_chunks_mut(self.left.c() * d1).enumerate().for_each(|(row, to)| {
            let (i, o1) = (row / m, row % m);
            for (kk, to) in to.chunks_mut(rank * d1).enumerate() {
                for (s, to) in to.chunks_mut(d1).enumerate() {
                    for (jh, to) in to.chunks_mut(d2).enumerate() {
                        let first = (i * self.step + jh) * self.group() + kk * d2;
                        let from = blocks[first * m * rank..].chunks(m * rank);
                        to.iter_mut().zip(from).for_each(|(y, block)| *y = block[o1 * rank + s]);
                    }
                }
            }
        });
        weights
    }

    /// Blocks `r × c2` to the weights of `right`, one row `(i2, o2)` of `c2 · d2` weights at a time.
    fn scatter_right<W: Field>(&self, blocks: &[W]) -> Vec<W> {
        let (n, rank, d2) = (self.right.c(), self.rank, self.right.d());
        let mut weights = vec![W::ZERO; self.right.nnz()];
        weights.par_chunks_mut(n * d2).enumerate().for_each(|(row, to)| {
            let (i2, o2) = (row / self.right.b(), row % self.right.b());
            let (i, kk, s, jh) = (i2 / self.under, i2 % self.under, o2 / self.step, o2 % self.step);
            let first = (i * self.step + jh) * self.group() + kk * d2;
            for (j, block) in blocks[first * rank * n..].chunks(rank * n).take(d2).enumerate() {
                to.iter_mut().skip(j).step_by(d2).zip(&block[s * n..]).for_each(|(y, &x)| *y = x);
            }
        });
        weights
    }
}
