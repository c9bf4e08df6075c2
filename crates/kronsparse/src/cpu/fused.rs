//! The fused algorithm: the whole chain for one panel of the batch after another, hidden activations in cache.
//!
//! A panel is loaded (and turned, where the batch is not contiguous) block by block of the first-applied factor, runs
//! through every factor as `a·d` small matrix products, and leaves through the epilogue. The order of the rows of a
//! hidden panel is the one in which the next factor reads them, so no factor ever gathers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::dispatch::Job;
use super::element::Element;
use super::narrow::{self, Narrow};
use super::panel::{self, Batch, Epilogue, View};
use super::prefetch::Prefetch;
use super::simd::{Isa, Simd};
use super::tile::{self, Block, Product, Rows};
use super::weights::PackedFactor;
use crate::plan::{Layout, Tile};
use crate::{Chain, Pattern, Scalar};

/// A chain packed for the fused algorithm.
#[derive(Debug)]
pub(super) struct FusedChain<R> {
    /// In the order of application: right to left.
    pub(super) stages: Vec<Stage<R>>,
    /// Where the first-applied factor wants each feature of one of its blocks `i`: `j·c + l` for column `(l, j)`.
    pub(super) first_row: Vec<usize>,
    pub(super) epilogue: Epilogue<R>,
    products: [Product<R>; 3],
    /// For batches that would leave most of a panel empty.
    pub(super) narrow: [Narrow<R>; narrow::WIDEST],
    isa: Isa,
    planes: usize,
}

#[derive(Debug)]
pub(super) struct Stage<R> {
    pub(super) factor: PackedFactor<R>,
    /// Where the next factor wants each output feature: `(i·d + j)·c + l` for its column `(i, l, j)`. Empty for the last.
    pub(super) next_row: Vec<usize>,
}

/// The independent pieces of one multiplication, and what each needs.
pub(super) struct Work<'a, T: Element> {
    chain: &'a FusedChain<T::Real>,
    tile: &'a Tile,
    x: View<T>,
    y: View<T>,
    /// Work items per panel: the blocks of a single factor; 1 for a chain.
    items_per_panel: usize,
    next: AtomicUsize,
}

// SAFETY: workers read `x` and write disjoint parts of `y`: an item is claimed once through the atomic counter, and two
// items differ in their batch entries or, for a single factor, in their output features.
unsafe impl<T: Element> Sync for Work<'_, T> {}

impl<R: super::simd::Real> FusedChain<R> {
    pub(super) fn new<T: Scalar + Element<Real = R>>(chain: &Chain<T>, epilogue: Epilogue<R>, isa: Isa) -> Self {
        let factors = chain.factors();
        let stage = |at: usize| Stage {
            factor: PackedFactor::new(&factors[at], isa),
            next_row: if at == 0 {
                Vec::new()
            } else {
                {
                    let next = factors[at - 1].pattern();
                    reading_order(next, next.cols())
                }
            },
        };
        let first = factors[factors.len() - 1].pattern();
        let first_row = reading_order(first, first.c() * first.d());
        FusedChain {
            stages: (0..factors.len()).rev().map(stage).collect(),
            first_row,
            epilogue,
            products: tile::products(isa, T::PLANES),
            narrow: narrow::kernels(isa),
            isa,
            planes: T::PLANES,
        }
    }

    /// Numbers of scratch per worker: staged inputs and outputs, and two hidden panels.
    pub(super) fn scratch(&self, tile: &Tile) -> Parts {
        let widest = if tile.panels == 0 { 0 } else { tile.vectors.div_ceil(tile.panels) };
        let pitch = widest * self.isa.lanes(size_of::<R>()) * self.planes;
        let (first, last) = (self.first(), self.last());
        let hidden = self.stages.iter().skip(1).map(|s| s.factor.pattern.cols()).max().unwrap_or(0);
        Parts {
            input: first.c() * tile.first_lanes.min(first.d()) * pitch,
            output: tile.last_outputs.min(last.b()) * tile.last_lanes.min(last.d()) * pitch,
            hidden: hidden * pitch,
            hidden_panels: self.stages.len().saturating_sub(1).min(2),
        }
    }

    pub(super) fn first(&self) -> Pattern {
        self.stages[0].factor.pattern
    }
    fn last(&self) -> Pattern {
        self.stages[self.stages.len() - 1].factor.pattern
    }
}

/// Lengths of a worker's buffers, in real numbers.
pub(super) struct Parts {
    input: usize,
    output: usize,
    hidden: usize,
    hidden_panels: usize,
}

impl Parts {
    pub(super) fn bytes<R>(&self) -> usize {
        self.total() * size_of::<R>()
    }

    fn total(&self) -> usize {
        let line = |numbers: usize| numbers.next_multiple_of(16);
        line(self.input) + line(self.output) + self.hidden_panels * line(self.hidden)
    }
}

/// The panel row of the first `features` columns `(i, l, j)` of a factor that reads all `l` of one `(i, j)` side by side.
fn reading_order(next: Pattern, features: usize) -> Vec<usize> {
    let (c, d) = (next.c(), next.d());
    let row = |feature: usize| {
        let (i, l, j) = (feature / (c * d), feature / d % c, feature % d);
        (i * d + j) * c + l
    };
    (0..features).map(row).collect()
}

impl<'a, T: Element> Work<'a, T> {
    pub(super) fn new(chain: &'a FusedChain<T::Real>, tile: &'a Tile, x: View<T>, y: View<T>) -> Work<'a, T> {
        Work { chain, tile, x, y, items_per_panel: Self::items_per_panel(chain, tile), next: AtomicUsize::new(0) }
    }

    /// How many pieces a multiplication with this tile has.
    pub(super) fn items_of(chain: &FusedChain<T::Real>, tile: &Tile) -> usize {
        tile.panels * Self::items_per_panel(chain, tile)
    }

    fn items_per_panel(chain: &FusedChain<T::Real>, tile: &Tile) -> usize {
        let p = chain.first();
        if chain.stages.len() == 1 { p.a() * p.d().div_ceil(tile.first_lanes) } else { 1 }
    }

    /// How many pieces there are.
    pub(super) fn items(&self) -> usize {
        self.tile.panels * self.items_per_panel
    }

    /// Claims and does pieces until none is left. `scratch` holds [`Parts::total`] numbers.
    pub(super) fn run(&self, scratch: &mut [T::Real]) {
        // One piece is claimed ahead, so that its input can be asked for while this one is computed.
        let mut upcoming = self.claim();
        while let Some(current) = upcoming {
            upcoming = self.claim();
            let item = Item { work: self, current: current.clone(), upcoming: upcoming.clone() };
            T::run(self.chain.isa, current.panel.len(), item, scratch);
        }
        if self.tile.stream {
            // Streamed stores are not ordered: whoever is told that this worker is done must see them.
            super::simd::store_fence();
        }
    }

    fn claim(&self) -> Option<Piece> {
        let item = self.next.fetch_add(1, Ordering::Relaxed);
        if item >= self.items() {
            return None;
        }
        // Neighbours in the order of work are neighbours in memory: in the features of the same vectors batch-first,
        // in the batch of the same features batch-last.
        let (panel, block) = match self.x.layout {
            Layout::BatchFirst => (item / self.items_per_panel, item % self.items_per_panel),
            Layout::BatchLast => (item % self.tile.panels, item / self.tile.panels),
        };
        Some(Piece { panel: self.tile.panel(panel), block })
    }

    /// The batch entries of a piece, for vectors of `lanes` numbers.
    fn batch(&self, piece: &Piece, lanes: usize) -> Batch {
        let start = piece.panel.start * lanes;
        Batch { start, count: (piece.panel.len() * lanes).min(self.x.n - start) }
    }

    /// Block `(i, j0, count)` of lanes of the first-applied factor.
    fn lanes_of(&self, block: usize) -> (usize, usize, usize) {
        let (d, lanes) = (self.chain.first().d(), self.tile.first_lanes);
        let groups = d.div_ceil(lanes);
        let j0 = block % groups * lanes;
        (block / groups, j0, lanes.min(d - j0))
    }
}

/// A claimed part of the work: vectors of the batch, and for a single factor a block of lanes.
#[derive(Clone)]
struct Piece {
    panel: std::ops::Range<usize>,
    block: usize,
}

/// One piece of work to do, and the one after it to prepare.
pub struct Item<'a, 'b, T: Element> {
    work: &'a Work<'b, T>,
    current: Piece,
    upcoming: Option<Piece>,
}

impl<T: Element> Job<T::Real> for Item<'_, '_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd<Real = T::Real>, const NV: usize>(self, scratch: &mut [T::Real]) {
        // SAFETY: the dispatcher vouches for the instruction set; buffers come from `Parts`, which counts as this does.
        unsafe { self.panels::<S, NV>(scratch) }
    }
}

impl<T: Element> Item<'_, '_, T> {
    /// The input of the upcoming piece and the output of this one, spread over the tiles of the last factor.
    fn ahead(&self, lanes: usize, rows: usize) -> [Prefetch; 2] {
        let work = self.work;
        let (p, q) = (work.chain.first(), work.chain.last());
        let single = work.chain.stages.len() == 1;
        let (i, j0, count) = work.lanes_of(self.current.block);
        let tiles = if single { count * q.b().div_ceil(rows) } else { q.a() * q.d() * q.b().div_ceil(rows) };
        let runs = |per_lane: usize, d: usize, count: usize| {
            if count == d { (1, per_lane * d, 0) } else { (per_lane, count, d) }
        };
        let input = self.upcoming.as_ref().map(|piece| {
            let (i, j0, count) = work.lanes_of(piece.block);
            let shape = if single { runs(p.c(), p.d(), count) } else { (1, work.x.features, 0) };
            let first = if single { p.col(i, 0, j0) } else { 0 };
            Prefetch::block(work.x, work.batch(piece, lanes), first, shape, tiles, false)
        });
        let batch = work.batch(&self.current, lanes);
        let output = if single {
            Prefetch::block(work.y, batch, q.row(i, 0, j0), runs(q.b(), q.d(), count), tiles, true)
        } else {
            Prefetch::nothing()
        };
        [input.unwrap_or(Prefetch::nothing()), output]
    }

    /// # Safety
    /// The instruction set of `S` is present and `scratch` holds the parts of this tile.
    #[inline(always)]
    unsafe fn panels<S: Simd<Real = T::Real>, const NV: usize>(self, scratch: &mut [T::Real]) {
        let Work { chain, tile, x, .. } = self.work;
        let parts = chain.scratch(tile);
        assert!(scratch.len() >= parts.total(), "scratch of {} numbers, {} needed", scratch.len(), parts.total());
        let (input, rest) = scratch.split_at_mut(parts.input.next_multiple_of(16));
        let (output, rest) = rest.split_at_mut(parts.output.next_multiple_of(16));
        let (hidden, other) =
            rest.split_at_mut(if parts.hidden_panels > 0 { parts.hidden.next_multiple_of(16) } else { 0 });
        let batch = self.work.batch(&self.current, S::LANES);
        let pitch = NV * S::LANES * T::PLANES;
        let (first, last) = (&chain.stages[0], &chain.stages[chain.stages.len() - 1]);
        let p = first.factor.pattern;
        let product = chain.products[NV - 1];
        let mut ahead = self.ahead(S::LANES, S::ROWS / T::PLANES);

        // SAFETY: rows and features stay inside the patterns; buffers have the sizes of `Parts`.
        unsafe {
            if chain.stages.len() == 1 {
                let lanes = self.work.lanes_of(self.current.block);
                load_block::<S, T, NV>(chain, *x, batch, lanes, input);
                let panels = input.as_ptr();
                store_block::<S, T, NV>(self.work, batch, lanes, panels, output, &mut ahead);
                return;
            }
            let (mut from, mut to) = (hidden.as_mut_ptr(), other.as_mut_ptr());
            for block in 0..p.a() * p.d().div_ceil(tile.first_lanes) {
                let (i, j0, count) = self.work.lanes_of(block);
                load_block::<S, T, NV>(chain, *x, batch, (i, j0, count), input);
                for j in 0..count {
                    let block = input.as_ptr().add(j * p.c() * pitch);
                    first.product(product, (i, j0 + j), block, from, T::PLANES);
                }
            }
            for stage in &chain.stages[1..chain.stages.len() - 1] {
                let q = stage.factor.pattern;
                for i in 0..q.a() {
                    for j in 0..q.d() {
                        let panel = from.add((i * q.d() + j) * q.c() * pitch);
                        stage.product(product, (i, j), panel, to, T::PLANES);
                    }
                }
                std::mem::swap(&mut from, &mut to);
            }
            let q = last.factor.pattern;
            for i in 0..q.a() {
                for j0 in (0..q.d()).step_by(tile.last_lanes) {
                    let count = tile.last_lanes.min(q.d() - j0);
                    let panels = from.add((i * q.d() + j0) * q.c() * pitch).cast_const();
                    store_block::<S, T, NV>(self.work, batch, (i, j0, count), panels, output, &mut ahead);
                }
            }
        }
    }
}

impl<R: super::simd::Real> Stage<R> {
    /// All outputs of block `(i, j)` into the hidden panel `to`, each row where the next factor reads it.
    ///
    /// # Safety
    /// As for [`Product`]; `to` has the rows of the next factor's columns.
    unsafe fn product(&self, product: Product<R>, (i, j): (usize, usize), x: *const R, to: *mut R, planes: usize) {
        let p = self.factor.pattern;
        let block = Block {
            weights: self.factor.block(i, j, 0, planes).as_ptr(),
            x,
            inputs: p.c(),
            outputs: 0..p.b(),
            out: to,
            rows: Rows::Table { table: &self.next_row[p.row(i, 0, j)..], step: p.d() },
        };
        // SAFETY: the caller's promise.
        unsafe { product(&block, &mut [Prefetch::nothing(); 2]) }
    }
}

/// Loads lanes `j0 .. j0 + count` of block `i` of the first-applied factor into one panel per lane.
///
/// # Safety
/// As for [`panel::load`]; `panels` holds `count · c` rows.
#[inline(always)]
unsafe fn load_block<S: Simd<Real = T::Real>, T: Element, const NV: usize>(
    chain: &FusedChain<T::Real>,
    x: View<T>,
    batch: Batch,
    (i, j0, count): (usize, usize, usize),
    panels: &mut [T::Real],
) {
    let p = chain.first();
    let panels = panels.as_mut_ptr();
    // SAFETY: the caller's promises; `first_row` has one entry per feature of a block.
    unsafe {
        if count == p.d() {
            let row = |f: usize| *chain.first_row.get_unchecked(f);
            panel::load::<S, T, NV>(x, batch, p.col(i, 0, 0), p.c() * p.d(), panels, row);
        } else {
            for l in 0..p.c() {
                let row = |f: usize| f * p.c() + l;
                panel::load::<S, T, NV>(x, batch, p.col(i, l, j0), count, panels, row);
            }
        }
    }
}

/// Computes outputs of lanes `j0 .. j0 + count` of block `i` of the last factor, chunk by chunk, and stores each chunk.
///
/// # Safety
/// As for [`Product`] and [`panel::store`]; `panels` holds those of lanes `j0 …` one
/// after another, `staging` a chunk.
#[inline(always)]
unsafe fn store_block<S: Simd<Real = T::Real>, T: Element, const NV: usize>(
    work: &Work<'_, T>,
    batch: Batch,
    (i, j0, count): (usize, usize, usize),
    panels: *const T::Real,
    staging: &mut [T::Real],
    ahead: &mut [Prefetch; 2],
) {
    let Work { chain, tile, y, .. } = work;
    let factor = &chain.stages[chain.stages.len() - 1].factor;
    let p = factor.pattern;
    let panel_length = p.c() * NV * S::LANES * T::PLANES;
    let staging = staging.as_mut_ptr();
    for o0 in (0..p.b()).step_by(tile.last_outputs) {
        let o1 = p.b().min(o0 + tile.last_outputs);
        // SAFETY: the caller's promises; a chunk has `(o1 − o0)·count` rows, as `Parts` counts.
        unsafe {
            for j in 0..count {
                let block = Block {
                    weights: factor.block(i, j0 + j, o0, T::PLANES).as_ptr(),
                    x: panels.add(j * panel_length),
                    inputs: p.c(),
                    outputs: o0..o1,
                    out: staging,
                    rows: Rows::Even { first: j, from: o0, step: count },
                };
                chain.products[NV - 1](&block, ahead);
            }
            if count == p.d() {
                let len = (o1 - o0) * count;
                panel::store::<S, T, NV>(*y, batch, p.row(i, o0, 0), len, staging, |f| f, &chain.epilogue);
            } else {
                for o in o0..o1 {
                    let row = |f: usize| (o - o0) * count + f;
                    panel::store::<S, T, NV>(*y, batch, p.row(i, o, j0), count, staging, row, &chain.epilogue);
                }
            }
        }
    }
}
