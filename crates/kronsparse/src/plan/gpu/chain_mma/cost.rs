//! How long a plan of `chain_mma` takes, by estimate.

use super::{ChainMmaPlan, Tile};
use crate::plan::gpu::Precision;
use crate::plan::gpu::lanes_mma::vector_of;
use crate::{DType, Layout};

impl ChainMmaPlan {
    /// Estimated seconds for `problem().batch` vectors on an H100, by what a block keeps busy: tensor cores, instructions, the second-level
    /// cache, device memory. The constants were fitted to 215 calls of 69 random and seven well-known chains, then rounded
    /// (`record/2026-11-24-h100-tuner/fit`). Fitted to three quarters of the chains, they brought 70 % of the calls of the others within a
    /// quarter (47 % were before); all fitted, 73 % are.
    pub fn seconds(&self) -> f64 {
        let Tile { rows, row_warps, column_warps, blocks, .. } = self.tile;
        let (element, tiles) = (self.problem.dtype.size(), self.tile.row_tiles());
        // Clocks of a block on a multiprocessor of its own, by what is busy.
        let (mut tensor, mut issued, mut brought, mut waited) = (0.0, 0.0, 0.0, 0.0);
        for factor in &self.numbers.factors {
            let columns = factor.cut.columns;
            // Jobs of the warps that share columns, the last of a chunk with fewer warps at work.
            let turns = factor.chunks * factor.jobs.div_ceil(column_warps);
            let lots = (turns * factor.lots) as f64;
            let warps = (row_warps * column_warps) as f64;
            tensor += lots * warps * 2.0 * (tiles * columns) as f64 * self.product(columns);
            issued += ISSUED * lots * warps * ((tiles * 2 + columns) * 4) as f64;
            issued += (rows * factor.pattern.rows()) as f64 * PASSED;
            brought += (factor.packed() * element * row_warps) as f64;
            waited += turns as f64 * TURN;
        }
        let (cols, out) = (self.problem.chain.cols(), self.problem.chain.rows());
        let (lines, turned) = match self.problem.layout {
            Layout::BatchLast => ([self.problem.batch; 2], TURNED),
            Layout::BatchFirst => ([cols, out], 1.0),
        };
        for (numbers, line) in [cols, out].into_iter().zip(lines) {
            let bytes = if self.problem.aligned { vector_of((line * element).max(1)) } else { element };
            let piece = PIECES.iter().find(|piece| piece.0 >= bytes).unwrap_or(&PIECES[3]);
            issued += (rows * numbers) as f64 * piece.1 * turned;
        }
        let moved = (rows * element) as f64 * (cols as f64 + self.problem.moved_outputs());
        let resources = [tensor, issued, brought / WEIGHT_BYTES, moved / MOVED_BYTES];
        let most = resources.iter().copied().fold(0.0, f64::max);
        let begun = tensor + issued + brought / WEIGHT_BYTES + moved / BEGUN_BYTES;
        let alone = ALONE * begun + waited;
        let tiles = self.problem.batch.max(1).div_ceil(rows);
        let slots = self.multiprocessors * blocks;
        let (whole, rest) = (tiles / slots, tiles % slots);
        let together = |blocks: f64| (blocks * most * 1.15).max(alone) + LATENCY;
        let last = if rest == 0 { 0.0 } else { together(rest.div_ceil(self.multiprocessors) as f64) };
        START + (whole as f64 * together(blocks as f64) + last) / CLOCK
    }

    /// Clocks of a multiprocessor per m16n8k16 product of halves, or m16n8k8 of 32-bit numbers with its share of rounding and splitting.
    fn product(&self, columns: usize) -> f64 {
        let shares = 1.0 / columns as f64 + 1.0 / self.tile.row_tiles() as f64;
        match (self.problem.dtype, self.problem.precision) {
            (DType::F32, Precision::Full) => 9.6 + 32.0 * shares,
            (DType::F32, Precision::Tf32) => 0.7 + 2.4 * shares,
            _ => 1.74,
        }
    }
}

/// Seconds of a launch with its ends, beside [`CALL`](crate::plan::gpu::CALL).
const START: f64 = 0.8e-6;
/// Hertz.
const CLOCK: f64 = 1.7e9;
/// Instructions that feed the products, of those that are counted.
const ISSUED: f64 = 1.32;
/// Clocks per number that passes between two factors, or leaves.
const PASSED: f64 = 0.044;
/// Clocks per number of X or Y, by the bytes of the pieces in which it is moved; and how much longer where it is turned for batch-last.
const PIECES: [(usize, f64); 4] = [(2, 0.24), (4, 0.27), (8, 0.27), (16, 0.123)];
const TURNED: f64 = 2.2;
/// Clocks of a job that nothing but other blocks hides.
const TURN: f64 = 1280.0;
/// Share of the sum of all that a block alone waits for.
const ALONE: f64 = 0.56;
/// Bytes a clock and multiprocessor: of weights from the second-level cache, of X and Y where all blocks move them, and by one alone.
const WEIGHT_BYTES: f64 = 45.0;
const MOVED_BYTES: f64 = 14.0;
const BEGUN_BYTES: f64 = 39.0;
/// Clocks of a block that nothing hides.
const LATENCY: f64 = 3660.0;
