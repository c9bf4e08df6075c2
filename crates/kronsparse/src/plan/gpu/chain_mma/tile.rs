//! The tile of `chain_mma`: what is chosen, what follows from it, which rules make it legal, where each weight stands.

use crate::Pattern;

/// How a block cuts its work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Vectors of a block.
    pub rows: usize,
    /// Warps that share the vectors.
    pub row_warps: usize,
    /// Warps that share the blocks and outputs of a factor.
    pub column_warps: usize,
    /// Blocks that a multiprocessor is meant to hold at once.
    pub blocks: usize,
    /// By factor, in the order of application.
    pub cuts: Vec<FactorCut>,
}

/// How the work of one factor is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FactorCut {
    /// Eights of outputs of a warp at a time.
    pub columns: usize,
    /// Blocks `i` that are brought or stored together.
    pub chunk_blocks: usize,
    /// Tiles of `8 · columns` outputs of a block `i` that are stored together.
    pub chunk_tiles: usize,
}

impl Tile {
    pub(super) fn threads(&self) -> usize {
        32 * self.row_warps * self.column_warps
    }
    /// Tiles of 16 vectors of a warp.
    pub(super) fn row_tiles(&self) -> usize {
        self.rows / (16 * self.row_warps)
    }
}

/// What follows from a tile for one factor; the kernel's `ChainFactor` and `ChainTile` compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FactorNumbers {
    pub(super) pattern: Pattern,
    pub(super) cut: FactorCut,
    out_tiles: usize,
    splits: usize,
    pub(super) chunks: usize,
    pub(super) jobs: usize,
    pub(super) lots: usize,
    /// Elements of the weights of the factors before, packed.
    before: usize,
    /// Elements of the fragments of eight outputs and a lot of terms.
    fragment: usize,
}

/// Bytes that a warp loads at a time: 16 a thread.
const FRAGMENT: usize = 512;

impl FactorNumbers {
    fn new(pattern: Pattern, cut: FactorCut, element: usize, before: usize) -> Result<FactorNumbers, String> {
        let [a, b, c, d] = pattern.shape();
        let FactorCut { columns, chunk_blocks, chunk_tiles } = cut;
        if columns == 0 || chunk_blocks == 0 || chunk_tiles == 0 {
            return Err(format!("sizes must be positive, found {cut:?}"));
        }
        let out_tiles = b.div_ceil(8 * columns);
        if !a.is_multiple_of(chunk_blocks) || !out_tiles.is_multiple_of(chunk_tiles) {
            return Err(format!("chunks must divide {a} blocks and {out_tiles} tiles of outputs, found {cut:?}"));
        }
        let splits = out_tiles / chunk_tiles;
        if chunk_blocks > 1 && splits > 1 {
            return Err(format!("several blocks are stored together only with all of their outputs, found {cut:?}"));
        }
        Ok(FactorNumbers {
            pattern,
            cut,
            out_tiles,
            splits,
            chunks: a / chunk_blocks * splits,
            jobs: chunk_blocks * d * chunk_tiles,
            lots: c.div_ceil(64 / element),
            before,
            fragment: FRAGMENT / element,
        })
    }

    /// Elements of the packed weights.
    pub(super) fn packed(&self) -> usize {
        self.chunks * self.jobs * self.lots * self.cut.columns * self.fragment
    }
    /// Outputs `o` of a chunk.
    fn chunk_outs(&self) -> usize {
        self.pattern.b().min(self.cut.chunk_tiles * 8 * self.cut.columns)
    }
    /// Columns of `Y` of a chunk.
    pub(super) fn out_columns(&self) -> usize {
        self.cut.chunk_blocks * self.chunk_outs() * self.pattern.d()
    }
    /// Terms with padding.
    fn terms(&self) -> usize {
        self.lots * self.fragment / 8
    }

    /// Where weight `(i, o, l, j)` stands.
    pub(super) fn index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
        let FactorCut { columns, chunk_blocks, chunk_tiles } = self.cut;
        let outs = 8 * columns;
        let (tile, column, out) = (o / outs, o % outs / 8, o % 8);
        let chunk = i / chunk_blocks * self.splits + tile / chunk_tiles;
        let job = (i % chunk_blocks * self.pattern.d() + j) * chunk_tiles + tile % chunk_tiles;
        // A thread has a quarter of the terms of a lot, one after the other.
        let (lot_terms, own) = (self.fragment / 8, self.fragment / 32);
        let (lot, l) = (l / lot_terms, l % lot_terms);
        let place = ((chunk * self.jobs + job) * self.lots + lot) * columns + column;
        self.before + place * self.fragment + (out * 4 + l / own) * own + l % own
    }
}

/// What follows from a tile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) factors: Vec<FactorNumbers>,
    pub(super) shared: usize,
    pub(super) packed: usize,
}

/// Registers of a multiprocessor, and the most of a thread.
const REGISTERS: usize = 65536;
const MOST_REGISTERS: usize = 255;

/// What the kernel counts with `int`: bytes within a chunk of weights, columns.
const LARGEST: usize = i32::MAX as usize;

impl Numbers {
    /// `split` says whether every number is split into two TF32 parts, `called` whether the activation is a function that is called. Errors: the rule that the tile or a pattern breaks.
    pub(super) fn new(
        patterns: &[Pattern],
        element: usize,
        split: bool,
        called: bool,
        tile: &Tile,
    ) -> Result<Numbers, String> {
        let Tile { rows, row_warps, column_warps, blocks, cuts } = tile;
        let check = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
        check(patterns.len() >= 2, format!("the kernel multiplies by two factors or more, found {}", patterns.len()))?;
        check(
            patterns.len() == cuts.len(),
            format!("{} factors need as many cuts, found {}", patterns.len(), cuts.len()),
        )?;
        check(
            [row_warps, column_warps, blocks].into_iter().all(|&x| x > 0)
                && *rows > 0
                && rows.is_multiple_of(16 * row_warps),
            format!("every warp has whole tiles of 16 vectors, found {rows} vectors for {row_warps} warps"),
        )?;
        let threads = tile.threads();
        check(threads <= 1024, format!("a block has at most 1024 threads, found {threads}"))?;
        check(threads * blocks <= 2048, format!("a multiprocessor has 2048 threads, found {threads} · {blocks}"))?;

        let mut factors: Vec<FactorNumbers> = Vec::with_capacity(patterns.len());
        for (k, (&pattern, &cut)) in patterns.iter().zip(cuts).enumerate() {
            check(
                [pattern.nnz(), pattern.rows(), pattern.cols()].into_iter().all(|size| size <= LARGEST),
                format!("{pattern} has more weights, inputs or outputs than the kernel counts, {LARGEST}"),
            )?;
            let before = factors.last().map_or(0, |last| last.before + last.packed());
            let factor = FactorNumbers::new(pattern, cut, element, before)?;
            let (first, last) = (k == 0, k + 1 == patterns.len());
            check(
                last || factor.splits == 1 && (first || factor.chunks == 1),
                format!("only X comes and only Y goes in chunks, found {cut:?} for factor {pattern}"),
            )?;
            check(
                factor.packed() * element <= LARGEST,
                format!(
                    "{pattern} has {} bytes of packed weights, the kernel counts {LARGEST}",
                    factor.packed() * element
                ),
            )?;
            let registers = Self::registers(tile.row_tiles(), cut.columns, split) + if last && called { 12 } else { 0 };
            let most = (REGISTERS / (threads * blocks) / 8 * 8).min(MOST_REGISTERS);
            check(
                registers <= most,
                format!(
                    "{} tiles × {} columns of a warp need about {registers} registers, a thread has {most}",
                    tile.row_tiles(),
                    cut.columns
                ),
            )?;
            factors.push(factor);
        }

        // Two rows that are read together differ by half of the banks.
        let stride = |bytes: usize| if bytes % 128 == 64 { bytes } else { bytes + 64 };
        let held = |k: usize| -> usize {
            let bytes = |blocks: usize, f: &FactorNumbers| stride(blocks * f.pattern.d() * f.terms() * element);
            match factors.get(k) {
                Some(f) if k == 0 => f.chunks.min(2) * rows * bytes(f.cut.chunk_blocks, f),
                Some(f) => rows * bytes(f.pattern.a(), f),
                None => {
                    let pieces = (factors[k - 1].out_columns() * element).div_ceil(16);
                    rows * (pieces | 1) * 16
                }
            }
        };
        let region = |of: usize| (of..=factors.len()).step_by(2).map(held).max().unwrap_or(0);
        let shared = region(0) + region(1);
        let packed = factors.iter().map(FactorNumbers::packed).sum();
        Ok(Numbers { factors, shared, packed })
    }

    /// Registers of a thread that multiplies, about: sums, two lots of weights, a lot of inputs, addresses.
    fn registers(tiles: usize, columns: usize, split: bool) -> usize {
        let parts = if split { 10 * columns + 40 } else { 0 };
        4 * tiles * columns + 8 * columns + 8 * tiles + parts + 36
    }
}
