//! Tiles for the gradient of a factor's weights that are worth estimating.

use super::{GradientProblem, GradientTile, step};
use crate::plan::gpu::GpuMachine;

/// Sums of a thread, at most.
const MOST_SUMS: usize = 128;
/// Warps of a block, at most.
const MOST_WARPS: usize = 16;
/// Bytes of a stage beyond which more vectors bring nothing.
const STAGE_BYTES: usize = 24 << 10;

/// Vectors of a part, at most.
const LONGEST_PART: usize = 1 << 16;

/// Tiles no larger than the factor needs, with as many parts of the batch as fill the machine once or twice.
pub(super) fn tiles(problem: &GradientProblem, machine: &GpuMachine) -> Vec<GradientTile> {
    let (size, step) = (problem.dtype.size(), step(problem.dtype));
    let [a, b, c, d] = problem.pattern.shape();
    let unit_lanes = (1 << d.trailing_zeros().min(3)).min(16 / size);
    let powers = |most: usize| (0..usize::BITS).map(|bit| 1usize << bit).take_while(move |&p| p <= most);
    let mut all = Vec::new();
    for lanes in powers(8).map(|more| unit_lanes * more).filter(|lanes| d.is_multiple_of(*lanes)) {
        for sub in powers(16 / size / unit_lanes).flat_map(|o| powers(16 / size / unit_lanes).map(move |l| [o, l])) {
            for fragments in [1, 2].into_iter().flat_map(|o| [1, 2, 3, 4].map(move |l| [o, l])) {
                for warps in powers(8).flat_map(|o| powers(8).map(move |l| [o, l])) {
                    let tile =
                        GradientTile { unit_lanes, lanes, sub, fragments, warps, rows: step, stages: 2, chunks: 1 };
                    let [outputs, inputs] = tile.block();
                    let more_than_needed = |block: usize, least: usize, size: usize| block > least && block / 2 >= size;
                    if tile.sums() > MOST_SUMS
                        || tile.threads() > MOST_WARPS * 32
                        || more_than_needed(outputs, 16, b)
                        || more_than_needed(inputs, 8, c)
                    {
                        continue;
                    }
                    let groups = a * (d / lanes) * b.div_ceil(outputs) * c.div_ceil(inputs);
                    for rows in powers(4).map(|more| more * step) {
                        let tile = GradientTile { rows, ..tile };
                        if rows > step && tile.stage_bytes(size) > STAGE_BYTES {
                            continue;
                        }
                        for stages in [3, 4] {
                            all.extend(chunks(problem, machine, groups, GradientTile { stages, ..tile }));
                        }
                    }
                }
            }
        }
    }
    all
}

/// The tile with as many parts as fill the machine once, twice, or not more than once; at least so many that no part is longer than what
/// tensor cores add up without losing digits of a 16-bit type, as they cut sums off.
fn chunks(
    problem: &GradientProblem,
    machine: &GpuMachine,
    groups: usize,
    tile: GradientTile,
) -> impl Iterator<Item = GradientTile> {
    let slots = super::cost::slots(problem, tile, machine);
    let most = problem.batch.div_ceil(tile.rows).max(1);
    let least = problem.batch.div_ceil(LONGEST_PART).max(1);
    let mut counts =
        [slots / groups, 2 * slots / groups, slots.div_ceil(groups)].map(|count| count.clamp(least, most)).to_vec();
    counts.sort_unstable();
    counts.dedup();
    counts.into_iter().map(move |chunks| GradientTile { chunks, ..tile })
}
