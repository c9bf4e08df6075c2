//! Which tiles of `lanes_mma` are worth trying for a problem.

use super::{GpuMachine, GpuProblem, Plan, Tile};
use crate::Layout;

/// Plans that are handed out, the fastest by estimate first.
const MOST: usize = 48;
/// Of which this many have the same lanes and outputs.
const MOST_OF_A_SHAPE: usize = 6;

pub(super) fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Plan> {
    let [_, b, c, d] = problem.pattern.shape();
    let size = problem.dtype.size();
    let fragment = if problem.layout == Layout::BatchLast { 128 / size } else { 16 };
    let mut plans = Vec::new();
    for (lanes, lane_warps) in lane_shares(problem, size) {
        for warp_outputs in [16, 32, 64].into_iter().filter(|&outputs| outputs <= b.next_multiple_of(16)) {
            for output_warps in [1, 2, 4, 8] {
                let outputs = warp_outputs * output_warps;
                if outputs > 16 && outputs >= b + warp_outputs {
                    continue;
                }
                for (row_tiles, row_warps) in (0..9).map(|k| (1 << (k % 3), 1 << (k / 3))) {
                    let rows = fragment * row_tiles * row_warps;
                    let warps = row_warps * lane_warps * output_warps;
                    if !(1..=16).contains(&warps) || (rows > fragment && rows >= 2 * problem.batch.max(1)) {
                        continue;
                    }
                    for depth in [1, 2, 4].map(|steps| 32 / size * steps) {
                        if depth > 64 / size && depth >= 2 * c {
                            continue;
                        }
                        for stages in [2, 3, 4] {
                            for (resident, regroup) in [(true, true), (true, false), (false, true), (false, false)] {
                                let tile = Tile {
                                    rows,
                                    lanes,
                                    outputs,
                                    depth,
                                    stages,
                                    row_warps,
                                    lane_warps,
                                    output_warps,
                                    resident,
                                    regroup,
                                };
                                // Runs of 16 bytes need no regrouping where they are all there is.
                                if regroup && lanes * size <= 16 || !regroup && lanes * size > 16 && d * size > 64 {
                                    continue;
                                }
                                plans.extend(Plan::new(problem, tile, machine));
                            }
                        }
                    }
                }
            }
        }
    }
    plans.sort_by(|p, q| p.seconds(machine).total_cmp(&q.seconds(machine)));
    // Tiles of one shape differ little: a few of each leave room for other shapes.
    let mut shapes = std::collections::HashMap::new();
    plans.retain(|plan| {
        let Tile { lanes, outputs, resident, .. } = plan.tile();
        let count = shapes.entry((lanes, outputs, resident)).or_insert(0);
        *count += 1;
        *count <= MOST_OF_A_SHAPE
    });
    plans.truncate(MOST);
    plans
}

/// Pairs of a block's lanes and of the warps that share them.
fn lane_shares(problem: &GpuProblem, size: usize) -> Vec<(usize, usize)> {
    let d = problem.pattern.d();
    let mut shares = Vec::new();
    if problem.layout == Layout::BatchLast {
        shares.extend([(1, 1), (2, 1), (2, 2), (4, 4)].into_iter().filter(|&(lanes, _)| lanes <= d));
        return shares;
    }
    // All lanes in one warp.
    if d <= 16 {
        shares.push((d, 1));
    }
    if d >= 3 {
        // Units of 16 or 8 bytes of lanes; where d is odd, of single copies.
        for unit in [16 / size, 8 / size] {
            for warps in [1, 2, 4, 8] {
                let lanes = unit * warps;
                if lanes < d + unit && !shares.contains(&(lanes, warps)) {
                    shares.push((lanes, warps));
                }
            }
            // All lanes of an odd d, as they come.
            if d > 8 && d.div_ceil(unit) <= 8 {
                shares.push((d.next_multiple_of(unit), d.div_ceil(unit)));
            }
        }
    }
    shares.sort_unstable();
    shares.dedup();
    shares
}

#[cfg(test)]
mod tests {
    use super::super::{Geometry, Rows};
    use super::*;

    use crate::DType;

    fn problem(pattern: &str, dtype: DType, layout: Layout, batch: usize) -> GpuProblem {
        GpuProblem::new(pattern.parse().unwrap(), dtype, layout, batch)
    }

    #[test]
    fn every_pattern_has_a_tile_in_every_layout() {
        let machine = GpuMachine::h100();
        for d in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 24, 28, 33, 48, 64, 100] {
            for (dtype, layout) in [
                (DType::F16, Layout::BatchFirst),
                (DType::Bf16, Layout::BatchLast),
                (DType::F32, Layout::BatchFirst),
                (DType::F32, Layout::BatchLast),
            ] {
                for (b, c) in [(1, 2), (7, 13), (64, 64), (300, 200)] {
                    let problem = problem(&format!("3,{b},{c},{d}"), dtype, layout, 1000);
                    let plans = Plan::candidates(&problem, &machine);
                    assert!(!plans.is_empty(), "{problem:?}");
                    for plan in plans {
                        assert!(plan.shared_bytes() <= machine.shared_per_block, "{plan}");
                        let resident = plan.tile().resident;
                        assert!(
                            !resident || (plan.grid(1000) as usize).is_multiple_of(plan.geometry().groups),
                            "{plan}"
                        );
                    }
                }
            }
        }
    }

    // What the kernel does: thread 4g+q of the fragment at (step, lane, columns 2p and 2p+1) finds in word k the terms
    // that it also takes of X, for the output that it also stores.
    #[test]
    fn every_weight_stands_where_its_thread_reads_it() {
        let machine = GpuMachine::h100();
        let mut kinds = Vec::new();
        for (pattern, dtype, layout) in [
            ("2,20,21,1", DType::F16, Layout::BatchFirst),
            ("2,20,21,2", DType::F16, Layout::BatchFirst),
            ("1,33,18,3", DType::Bf16, Layout::BatchFirst),
            ("2,17,40,4", DType::F16, Layout::BatchFirst),
            ("1,40,10,24", DType::F16, Layout::BatchFirst),
            ("1,5,10,17", DType::F16, Layout::BatchFirst),
            ("1,30,20,3", DType::F16, Layout::BatchLast),
            ("2,20,21,1", DType::F32, Layout::BatchFirst),
            ("2,20,21,2", DType::F32, Layout::BatchFirst),
            ("1,20,21,8", DType::F32, Layout::BatchFirst),
            ("1,20,21,3", DType::F32, Layout::BatchLast),
        ] {
            let problem = problem(pattern, dtype, layout, 100);
            let [a, b, c, d] = problem.pattern.shape();
            for plan in Plan::candidates(&problem, &machine).iter().step_by(7) {
                let (tile, geometry) = (plan.tile(), plan.geometry());
                kinds.push(geometry.rows);
                let per_word = 4 / geometry.size;
                let warp_outputs = tile.outputs / tile.output_warps;
                let mut found = 0;
                for at in 0..plan.packed_len() {
                    let (number, rest) = (at % per_word, at / per_word);
                    let (word, thread, fragment) = (rest % 4, rest / 4 % 32, rest / 128);
                    let (g, q) = (thread / 4, thread % 4);
                    let (pair, rest) = (fragment % (tile.outputs / 16), fragment / (tile.outputs / 16));
                    let (lane, rest) = (rest % tile.lanes, rest / tile.lanes);
                    let steps = geometry.chunks * tile.depth / geometry.step;
                    let (step, group) = (rest % steps, rest / steps);
                    // The kernel's `term` and `output`.
                    let per_group = geometry.terms / geometry.own;
                    let e = step % per_group * geometry.own + word % 2 * (geometry.own / 2) + number;
                    let p = geometry.paired;
                    let l = step / per_group * 4 * geometry.terms + e / p * 4 * p + q * p + e % p;
                    let column = 2 * pair + word / 2;
                    let (warp, u) = (column / (warp_outputs / 8), column % (warp_outputs / 8));
                    let run = geometry.run;
                    let o = 2 * u / run * 4 * run + g / 2 * run + 2 * u % run + g % 2;
                    let o = group % geometry.output_tiles * tile.outputs + warp * warp_outputs + o;
                    let j = group / geometry.output_tiles % geometry.lane_tiles * tile.lanes + lane;
                    let i = group / geometry.output_tiles / geometry.lane_tiles;
                    if o < b && l < c && j < d {
                        assert_eq!(plan.packed_index(i, o, l, j), at, "({i}, {o}, {l}, {j}) of {plan}");
                        found += 1;
                    }
                }
                assert_eq!(found, a * b * c * d, "{plan}");
            }
        }
        for kind in [Rows::Whole, Rows::Split, Rows::Last] {
            assert!(kinds.contains(&kind), "no plan had {kind:?}");
        }
    }

    #[test]
    fn broken_tiles_are_refused_with_their_numbers() {
        let machine = GpuMachine::h100();
        let problem = problem("1,64,64,64", DType::F16, Layout::BatchFirst, 1000);
        let tile = Tile {
            rows: 32,
            lanes: 16,
            outputs: 64,
            depth: 32,
            stages: 3,
            row_warps: 2,
            lane_warps: 2,
            output_warps: 2,
            resident: true,
            regroup: false,
        };
        let plan = Plan::new(&problem, tile, &machine).unwrap();
        assert_eq!(plan.shared_bytes(), 3 * 32 * 1024 + 64 * 64 * 16 * 2);
        assert_eq!(plan.grid(25088), 132);
        let why = |tile| Plan::new(&problem, tile, &machine).unwrap_err().to_string();
        assert!(why(Tile { rows: 24, ..tile }).contains("24 rows"));
        assert!(why(Tile { depth: 24, ..tile }).contains("multiple of 16"));
        assert!(why(Tile { stages: 4, ..tile }).contains("bytes of shared memory"));
        assert!(why(Tile { row_warps: 1, ..tile }).contains("registers"));
        assert!(Geometry::rule(problem.pattern, DType::F16, Layout::BatchLast, tile).unwrap().contains("32 rows"));
    }
}
