//! How long a plan of `chain_mma` takes, by estimate.

use super::{ChainMmaPlan, Tile};
use crate::plan::gpu::Precision;
use crate::plan::gpu::lanes_mma::vector_of;
use crate::{DType, Layout};

impl ChainMmaPlan {
    /// Estimated seconds for `problem().batch` vectors on an H100. What a block keeps busy (tensor cores, instructions, the second-level cache,
    /// device memory) was fitted to the tiles in `record/2026-11-23-h100`, most of which it meets within a third.
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
            issued += lots * warps * ((tiles * 2 + columns) * 4) as f64;
            issued += (rows * factor.pattern.rows()) as f64 * PASSED;
            brought += (factor.packed() * element * row_warps) as f64;
            waited += turns as f64 * TURN;
        }
        let (cols, out) = (self.problem.chain.cols(), self.problem.chain.rows());
        if self.problem.layout == Layout::BatchLast {
            let lines = vector_of((self.problem.batch * element).max(1));
            let turned = if self.problem.aligned && lines == 16 { TURNED } else { TURNED_IN_PIECES };
            issued += (rows * (cols + out)) as f64 * turned;
        }
        let moved = (rows * element) as f64 * (cols as f64 + self.problem.moved_outputs());
        let resources = [tensor, issued, brought / WEIGHT_BYTES, moved / MOVED_BYTES];
        let most = resources.iter().copied().fold(0.0, f64::max);
        let alone = resources.iter().sum::<f64>() + waited;
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
            (DType::F32, Precision::Full) => 6.0 + 20.0 * shares,
            (DType::F32, Precision::Tf32) => 1.5 + 5.0 * shares,
            _ => 1.6,
        }
    }
}

/// Seconds of a launch with its ends, beside [`CALL`](crate::plan::gpu::CALL), which was part of what the tiles took.
const START: f64 = 1.5e-6;
/// Hertz.
const CLOCK: f64 = 1.7e9;
/// Clocks per number that passes between two factors, or leaves; and per number that is turned for batch-last, by 16 bytes or by fewer,
/// as four random chains took (`record/2026-11-23-h100-training/validate`).
const PASSED: f64 = 0.22;
const TURNED: f64 = 0.11;
const TURNED_IN_PIECES: f64 = 0.6;
/// Clocks of a job that nothing but other blocks hides.
const TURN: f64 = 700.0;
/// Bytes a clock and multiprocessor: of weights from the second-level cache, of X and Y.
const WEIGHT_BYTES: f64 = 24.0;
const MOVED_BYTES: f64 = 13.0;
/// Clocks of a block that nothing hides.
const LATENCY: f64 = 3000.0;
