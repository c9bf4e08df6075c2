//! A rough time of a chain on a GPU, from its sizes alone: by it thousands of chains are put in order, and the best of every
//! kind are then planned. No figure of it is ever shown.

use super::target::Case;
use crate::plan::gpu::GpuMachine;
use crate::{ChainPattern, Layout};

/// Round numbers, as those of `plan/gpu/groups.rs`: seconds of a launch with its first and last tile; how far kernels stay
/// behind memory and arithmetic at their best; outputs and inputs of a tile of the tensor cores.
const LAUNCH: f64 = 2.5e-6;
const BEHIND_MEMORY: f64 = 1.4;
const BEHIND_FLOPS: f64 = 2.0;
const TILE: usize = 16;

/// Rough seconds: for every factor a launch and the larger of its bytes and its operations in whole tiles; the hidden vectors
/// of two 16-bit factors, batch-first, may stay on the chip.
pub(super) fn seconds(chain: &ChainPattern, case: &Case, machine: &GpuMachine) -> f64 {
    let (size, n, patterns) = (case.dtype.size(), case.batch as f64, chain.patterns());
    let arithmetic = |pattern: &crate::Pattern| {
        let [a, b, c, d] = pattern.shape();
        let inner = b.next_multiple_of(TILE.min(4 * b)) as f64 * c.next_multiple_of(TILE.min(4 * c)) as f64;
        2.0 * n * a as f64 * d as f64 * inner / machine.flops.peak(case.dtype, case.precision) * BEHIND_FLOPS
    };
    let memory = |bytes: f64| bytes / machine.bytes_per_second * BEHIND_MEMORY;
    let apart =
        patterns.iter().map(|pattern| LAUNCH + memory(pattern.bytes(case.batch, size)).max(arithmetic(pattern)));
    let apart: f64 = apart.sum();
    if patterns.len() == 2 && size == 2 && case.layout == Layout::BatchFirst {
        let together = memory(chain.bytes(case.batch, size)).max(patterns.iter().map(arithmetic).sum());
        // One kernel waits twice in it, and keeps fewer tiles on the way.
        return apart.min(3.0 * LAUNCH + 1.3 * together);
    }
    apart
}
