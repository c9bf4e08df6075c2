//! Which tiles of `lanes_wgmma` are worth trying for a problem.

use super::{Geometry, GpuMachine, GpuProblem, Plan, Precision, Tile};
use crate::{DType, Layout};

/// Plans that are handed out, the fastest by estimate first.
const MOST: usize = 48;
/// f32 sums of more inputs than this are added up in pieces.
const LONGEST_SUM: usize = 96;
/// Inputs of such a piece.
const PIECE: usize = 64;
/// Blocks of a cluster with the same X, and with the same weights.
const SHARES: [(usize, usize); 12] =
    [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (8, 1), (4, 2), (3, 1), (3, 2), (6, 1), (2, 4), (1, 4)];
/// The N of `wgmma` that are tried.
const GROUP_OUTS: [usize; 10] = [8, 16, 24, 32, 48, 64, 96, 128, 192, 256];
/// Sums of a thread, by the number of consumer warpgroups.
const SUMS: [usize; 5] = [0, 128, 128, 96, 64];

pub(super) fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Plan> {
    let [_, b, c, d] = problem.pattern.shape();
    let size = problem.dtype.size();
    let split = problem.dtype == DType::F32 && problem.precision == Precision::Full;
    let step = if size == 2 { 16 } else { 8 };
    let mut plans = Vec::new();
    for (geometry, group_lanes, lane_groups, depth) in lane_shares(problem, step) {
        for group_outs in GROUP_OUTS {
            for row_tiles in [1, 2] {
                let tiles = if geometry == Geometry::Batch { 8 / size } else { row_tiles };
                let sums = tiles * group_lanes * group_outs / 2;
                if row_tiles == 2 && matches!(geometry, Geometry::Batch | Geometry::Runs | Geometry::Slices) {
                    continue;
                }
                for (row_groups, out_groups) in [(1, 1), (2, 1), (1, 2)] {
                    let groups = lane_groups * row_groups * out_groups;
                    let pieces = split && c > LONGEST_SUM;
                    // Fragments of two units of lanes take the registers of as many sums; and three warpgroups have few, for lanes that are
                    // not all there.
                    let uneven = groups > 2 && d % (group_lanes * lane_groups) != 0;
                    let crowded =
                        pieces || (geometry == Geometry::Slices && ((size == 2 && group_lanes > 8) || uneven));
                    if !(2..=4).contains(&groups) || sums > SUMS[groups] / if crowded { 2 } else { 1 } {
                        continue;
                    }
                    let direct = geometry == Geometry::Batch
                        || (geometry != Geometry::Slices && group_lanes == d && d * size <= 32);
                    let stagings: &[usize] = if direct { &[0] } else { &[4, 8, 16, 32] };
                    for &staged_outs in stagings {
                        for (share_x, share_w) in SHARES {
                            if group_outs * out_groups * share_x > b + b * 2 / 5 + 8 {
                                continue;
                            }
                            let tile = Tile {
                                geometry,
                                group_lanes,
                                lane_groups,
                                row_groups,
                                out_groups,
                                group_outs,
                                row_tiles,
                                depth,
                                stages: 2,
                                share_x,
                                share_w,
                                staged_outs,
                                piece: if pieces { (PIECE / depth).max(1) } else { 0 },
                            };
                            plans.extend(with_most_stages(problem, tile, machine));
                        }
                    }
                }
            }
        }
    }
    plans.sort_by(|p, q| p.seconds(machine).total_cmp(&q.seconds(machine)));
    plans.truncate(MOST);
    plans
}

/// The tile with as many stages, up to eight, as shared memory holds.
fn with_most_stages(problem: &GpuProblem, tile: Tile, machine: &GpuMachine) -> Option<Plan> {
    let plan = Plan::new(problem, tile, machine).ok()?;
    let x = &plan.numbers;
    let stage = x.x_bytes + x.w_bytes + 16;
    let rest = x.shared - tile.stages * stage;
    let stages = ((machine.shared_per_block as usize - rest) / stage).min(8);
    Plan::new(problem, Tile { stages, ..tile }, machine).ok()
}

/// Geometry, lanes of a warpgroup, warpgroups that share the lanes, inputs of a stage.
fn lane_shares(problem: &GpuProblem, step: usize) -> Vec<(Geometry, usize, usize, usize)> {
    let [_, _, _, d] = problem.pattern.shape();
    let size = problem.dtype.size();
    let (unit, line) = (16 / size, 128 / size);
    let mut shares = Vec::new();
    if problem.layout == Layout::BatchLast {
        return [1, 2, 4].map(|steps| (Geometry::Batch, 1, 1, steps * step)).to_vec();
    }
    if d.is_power_of_two() && d <= 2 * unit {
        let depth = (line / d).max(step);
        for depth in [depth, 2 * depth] {
            for groups in [1, 2, 4] {
                let lanes = d / groups;
                // Parts of a unit are read by 4 or 8 bytes; f16 pairs lanes.
                if groups > d || (groups > 1 && lanes * size < 4) {
                    continue;
                }
                shares.push((Geometry::Lines, lanes, groups, depth));
            }
        }
    } else if d < 2 * unit {
        shares.extend([1, 2].map(|steps| (Geometry::Runs, d, 1, steps * step)));
    }
    if d > unit {
        for lanes in [unit, 2 * unit] {
            for groups in 1..=4 {
                let all = lanes * groups;
                // Shorter runs than a sector, or lanes that mostly do not exist, lose too much.
                if all * size < 32 || (d % all != 0 && d < 2 * all) || all > 32 {
                    continue;
                }
                shares.extend([1, 2].map(|steps| (Geometry::Slices, lanes, groups, steps * step)));
            }
        }
    }
    shares
}
