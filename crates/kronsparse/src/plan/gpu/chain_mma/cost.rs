//! How long a plan of `chain_mma` takes, by estimate.

use super::{ChainMmaPlan, Tile};
use crate::plan::gpu::Precision;
use crate::DType;

impl ChainMmaPlan {
    /// Estimated seconds for `problem().batch` vectors on an H100.
    pub fn seconds(&self) -> f64 {
        let Tile { rows, row_warps, column_warps, blocks, .. } = self.tile;
        let (element, tiles) = (self.problem.dtype.size(), self.tile.row_tiles());
        let full = self.problem.dtype == DType::F32 && self.problem.precision == Precision::Full;
        // Clocks of a block on a multiprocessor of its own, by what is busy.
        let (mut tensor, mut port, mut brought) = (0.0, 0.0, 0.0);
        for factor in &self.numbers.factors {
            let columns = factor.cut.columns;
            // Jobs of the warps that share columns, the last of a chunk with fewer warps at work.
            let turns = factor.chunks * factor.jobs.div_ceil(column_warps) * factor.lots;
            let products = 2.0 * (tiles * columns * row_warps * column_warps) as f64;
            let each = match (element, full) {
                (2, _) => PRODUCT,
                (_, false) => PRODUCT,
                _ => 3.3 * PRODUCT,
            };
            tensor += turns as f64 * products * each;
            port += turns as f64 * ((tiles * 2 + columns) * row_warps * column_warps * 4) as f64;
            brought += (factor.packed() * element * row_warps) as f64;
        }
        let (cols, out) = (self.problem.chain.cols(), self.problem.chain.rows());
        let moved = (rows * (cols + out) * element) as f64;
        let resources = [tensor, port, brought / WEIGHT_BYTES, moved / MOVED_BYTES];
        let most = resources.iter().copied().fold(0.0, f64::max);
        let sum: f64 = resources.iter().sum();
        let tiles = self.problem.batch.max(1).div_ceil(rows);
        let slots = self.multiprocessors * blocks;
        let (whole, rest) = (tiles / slots, tiles % slots);
        let together = |blocks: f64| (blocks * most * 1.15).max(sum) + LATENCY;
        let last = if rest == 0 { 0.0 } else { together(rest.div_ceil(self.multiprocessors) as f64) };
        START + (whole as f64 * together(blocks as f64) + last) / CLOCK
    }
}

/// Seconds of a launch with its ends.
const START: f64 = 3.5e-6;
/// Hertz.
const CLOCK: f64 = 1.7e9;
/// Clocks of a multiprocessor per m16n8k16 product.
const PRODUCT: f64 = 0.85;
/// Bytes a clock and multiprocessor: of weights from the second-level cache, of X and Y.
const WEIGHT_BYTES: f64 = 24.0;
const MOVED_BYTES: f64 = 13.0;
/// Clocks of a block that nothing hides.
const LATENCY: f64 = 3000.0;
