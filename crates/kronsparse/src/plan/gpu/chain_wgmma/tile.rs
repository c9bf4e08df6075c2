//! The tile of `chain_wgmma`: what is chosen, what follows from it, which rules make it legal, where each weight stands.

use crate::Pattern;

/// How a block cuts its work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Blocks that share what is read of the weights.
    pub cluster: usize,
    /// Warpgroups that multiply, 64 vectors each.
    pub groups: usize,
    /// Stages of the ring.
    pub stages: usize,
    /// Blocks that a multiprocessor is meant to hold at once.
    pub blocks: usize,
    /// By factor, in the order of application.
    pub cuts: Vec<FactorCut>,
}

/// How the work of one factor is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FactorCut {
    /// Outputs `o` of a warpgroup at a time: the N of `wgmma`.
    pub outs: usize,
    /// Steps of 16 terms that are brought together; 1 for the first factor, which is brought by lines of `X`.
    pub depth: usize,
}

/// Numbers of a line of 128 bytes, of a unit of 16 bytes, and of a step of `wgmma`.
const LINE: usize = 64;
const UNIT: usize = 8;
const STEP: usize = 16;
/// Bytes of a line of 64 vectors.
const LINE_BYTES: usize = 64 * 128;
/// Registers of a producer's thread, as in the kernel.
const PRODUCER_REGISTERS: usize = 40;
/// What the kernel counts with `int`, and the copy engine as coordinates.
const LARGEST: usize = i32::MAX as usize;

/// What follows from a tile for one factor; the kernel's `WgmmaFactor` and `ChainWgmmaTile` compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FactorNumbers {
    pub(super) pattern: Pattern,
    pub(super) cut: FactorCut,
    out_tiles: usize,
    steps: usize,
    /// Lanes of a job.
    lanes: usize,
    /// Uses of the ring per tile of vectors, and bytes of weights of each.
    pub(super) uses: usize,
    pub(super) use_bytes: usize,
    /// Lines of the factor's input, padded.
    lines: usize,
    /// Elements of the weights of the factors before, packed.
    before: usize,
    /// Outputs in a row, in the packed order, that are terms in a row of the next factor's block `j`; and that factor's `d`.
    run: Option<(usize, usize)>,
    first: bool,
}

impl FactorNumbers {
    fn new(
        pattern: Pattern,
        cut: FactorCut,
        next: Option<Pattern>,
        before: Option<&FactorNumbers>,
    ) -> Result<FactorNumbers, String> {
        let ([a, b, c, d], FactorCut { outs, depth }) = (pattern.shape(), cut);
        let check = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
        check(
            outs.is_multiple_of(8) && (8..=256).contains(&outs),
            format!("wgmma has 8, 16, … 256 outputs, found {outs}"),
        )?;
        let (out_tiles, steps) = (b.div_ceil(outs), c.div_ceil(STEP));
        check(
            depth > 0 && steps.is_multiple_of(depth),
            format!("{depth} steps at a time must divide the {steps} of {pattern}"),
        )?;
        let first = before.is_none();
        let lanes = if next.is_none() { d } else { 1 };
        if first {
            check(d == 1, format!("d of the first factor must be 1, found {pattern}"))?;
            check(
                LINE.is_multiple_of(c) && c.is_multiple_of(STEP) || c.is_multiple_of(LINE),
                format!("c of the first factor must be 16, 32 or a multiple of 64, found {pattern}"),
            )?;
            check((a * c).is_multiple_of(LINE), format!("X must have whole lines of 64 numbers, found {pattern}"))?;
            check(
                out_tiles == 1,
                format!("the first factor's outputs must come together, found {b} in tiles of {outs}"),
            )?;
        }
        if next.is_none() {
            check(matches!(d, 1 | 2 | 4 | 8), format!("d of the last factor must be 1, 2, 4 or 8, found {pattern}"))?;
            check(
                (outs * d).is_multiple_of(LINE),
                format!("Y leaves in boxes of 64 numbers, found {outs} outputs of {d} lanes"),
            )?;
            check(
                a == 1 || b.is_multiple_of(outs),
                format!("blocks of Y must be whole tiles of {outs} outputs, found {pattern}"),
            )?;
        }
        let jobs = a * (d / lanes) * out_tiles;
        let (uses, use_bytes) = if first {
            (a * c / LINE, LINE / STEP * outs * 32)
        } else {
            (jobs * (steps / depth), depth * lanes * outs * 32)
        };
        let run = next.and_then(|next| {
            let whole =
                d == 1 && b.is_multiple_of(UNIT * next.d()) && next.c().is_multiple_of(UNIT) && outs.is_multiple_of(32);
            whole.then_some((b / next.d(), next.d()))
        });
        Ok(FactorNumbers {
            pattern,
            cut,
            out_tiles,
            steps,
            lanes,
            uses,
            use_bytes,
            lines: (a * d * if c > 32 { c.next_multiple_of(LINE) } else { steps * STEP }).div_ceil(LINE),
            before: before.map_or(0, |before| before.before + before.packed()),
            run,
            first,
        })
    }

    /// Elements of the packed weights.
    pub(super) fn packed(&self) -> usize {
        self.uses * self.use_bytes / 2
    }
    /// Blocks `i` of the first factor whose sums a thread holds at once.
    fn blocks(&self) -> usize {
        if self.first { LINE.div_ceil(self.pattern.c()) } else { 1 }
    }
    /// Sums of a thread.
    fn sums(&self) -> usize {
        self.cut.outs / 2 * if self.first { self.blocks() } else { self.lanes }
    }
    /// Clocks of the tensor cores for 64 vectors: `wgmma` with A in shared memory takes 26 or more, also for few outputs.
    pub(super) fn clocks(&self) -> f64 {
        let [a, _, c, d] = self.pattern.shape();
        let products = if self.first { a * c / STEP } else { a * d * self.out_tiles * self.steps };
        products as f64 * (self.cut.outs as f64 * 0.55).max(26.0)
    }
    /// Jobs of a warpgroup per tile of vectors.
    pub(super) fn jobs(&self) -> usize {
        let [a, _, _, d] = self.pattern.shape();
        if self.first { a.div_ceil(self.blocks()) } else { a * (d / self.lanes) * self.out_tiles }
    }
    /// Numbers of a vector that a job gives out.
    pub(super) fn numbers_of_a_job(&self) -> f64 {
        (self.cut.outs * if self.first { self.blocks() } else { self.lanes }) as f64
    }

    /// Where weight `(i, o, l, j)` stands.
    pub(super) fn index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
        let FactorCut { outs, depth } = self.cut;
        let [_, _, c, d] = self.pattern.shape();
        // In the order in which the next factor has them, where that is whole units of eight.
        let place = self.run.map_or(o, |(run, lanes)| o % lanes * run + o / lanes);
        let (tile, place) = (place / outs, place % outs);
        // A thread's columns 8t + 2q, + 1 of four eights are eight places one after the other.
        let column = match self.run {
            Some(_) => {
                let (unit, within) = (place / UNIT, place % UNIT);
                8 * (unit / 4 * 4 + within / 2) + 2 * (unit % 4) + within % 2
            }
            None => place,
        };
        let product = if self.first {
            (i * c + l) / STEP
        } else {
            let (block, lane) = if self.lanes == d { (i, j) } else { (i * d + j, 0) };
            let (job, step) = (block * self.out_tiles + tile, l / STEP);
            ((job * (self.steps / depth) + step / depth) * depth + step % depth) * self.lanes + lane
        };
        self.before + product * outs * STEP + core(column, l % STEP)
    }
}

/// Within one B: core matrices of 8 columns × 8 terms, two along the terms, then along the columns.
fn core(column: usize, k: usize) -> usize {
    ((column / 8 * 2 + k / UNIT) * 8 + column % 8) * UNIT + k % UNIT
}

/// What follows from a tile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) factors: Vec<FactorNumbers>,
    pub(super) rows: usize,
    pub(super) threads: usize,
    /// Registers of a consumer's thread.
    pub(super) registers: usize,
    pub(super) stage_bytes: usize,
    pub(super) shared: usize,
    pub(super) packed: usize,
}

impl Numbers {
    /// Errors: the rule that the tile or a pattern breaks.
    pub(super) fn new(patterns: &[Pattern], tile: &Tile) -> Result<Numbers, String> {
        let Tile { cluster, groups, stages, blocks, ref cuts } = *tile;
        let check = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
        check(patterns.len() >= 2, format!("the kernel multiplies by two factors or more, found {}", patterns.len()))?;
        check(
            patterns.len() == cuts.len(),
            format!("{} factors need as many cuts, found {}", patterns.len(), cuts.len()),
        )?;
        check((1..=3).contains(&groups), format!("a block has one to three warpgroups that multiply, found {groups}"))?;
        check(matches!(cluster, 1 | 2 | 4 | 8), format!("a cluster has 1, 2, 4 or 8 blocks, found {cluster}"))?;
        check(stages >= 2 && blocks >= 1, format!("the ring needs two stages or more, found {stages}"))?;

        let mut factors: Vec<FactorNumbers> = Vec::with_capacity(patterns.len());
        for (k, (&pattern, &cut)) in patterns.iter().zip(cuts).enumerate() {
            check(
                [pattern.nnz(), pattern.rows(), pattern.cols()].into_iter().all(|size| size <= LARGEST),
                format!("{pattern} has more weights, inputs or outputs than the kernel counts, {LARGEST}"),
            )?;
            let factor = FactorNumbers::new(pattern, cut, patterns.get(k + 1).copied(), factors.last())?;
            check(
                factor.packed() * 2 <= LARGEST,
                format!("{pattern} has {} bytes of packed weights, the kernel counts {LARGEST}", factor.packed() * 2),
            )?;
            check(
                factor.use_bytes.is_multiple_of(16 * cluster),
                format!("{} bytes of weights cannot be shared by {cluster} blocks", factor.use_bytes),
            )?;
            factors.push(factor);
        }
        let chunks = factors.last().map_or(0, |last| last.steps / last.cut.depth);
        check(
            groups == 1 || chunks <= stages,
            format!(
                "warpgroups take turns: the {chunks} chunks of an output tile must be in the ring together, found {stages} stages"
            ),
        )?;
        let rows = 64 * groups;
        let threads = 128 * (groups + 1);
        let launch = (65536 / (threads * blocks) / 8 * 8).min(255 / 8 * 8);
        let passed = ((launch * threads - PRODUCER_REGISTERS * 128) / (threads - 128) / 8 * 8).min(232);
        // One warpgroup alone starts with about as many as it could ask for.
        let registers = if groups == 1 { launch } else { passed };
        let most = factors.iter().map(FactorNumbers::sums).max().unwrap_or(0);
        check(most + 56 <= registers, format!("{most} sums of a thread exceed its {registers} registers"))?;
        let stage_bytes = factors
            .iter()
            .map(|factor| factor.use_bytes + if factor.first { rows * 128 } else { 0 })
            .max()
            .unwrap_or(0)
            .next_multiple_of(1024);
        let hidden: usize = factors[1..].iter().map(|factor| factor.lines * LINE_BYTES).sum();
        let shared = stages * (stage_bytes + 16) + groups * (hidden + 2 * LINE_BYTES + 8);
        let packed = factors.iter().map(FactorNumbers::packed).sum();
        Ok(Numbers { factors, rows, threads, registers, stage_bytes, shared, packed })
    }
}
