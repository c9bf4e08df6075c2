//! How long a plan of `lanes_wgmma` takes, by a model of what its blocks wait for.
//!
//! Per stage of a block: the largest of the times that the second-level cache, device memory, shared memory, tensor cores
//! and instruction issue need, and a little of the others; then the epilogue. The constants were fitted to the
//! tiles of 46 problems in `record/2026-11-22-h100/tiles.csv`, without those whose runs are below 32 bytes, which are no
//! candidates; the fit's choice among the measured tiles was within 10 % of the best for 40 problems and within 23 % for all.

use super::Plan;
use super::tile::Geometry;
use crate::Join;

/// Bytes per clock and multiprocessor that the second-level cache delivers.
const L2_BYTES: f64 = 98.65;
/// How much slower it is for runs of 32 bytes instead of 128.
const SHORT_RUNS: f64 = 6.65;
/// Device memory, bytes per clock and multiprocessor, at the clock below.
const DRAM_BYTES: f64 = 14.24;
/// Clocks per 128 bytes of shared memory.
const SHARED_CLOCKS: f64 = 1.2;
/// Clocks per issued instruction and scheduler.
const ISSUE_CLOCKS: f64 = 2.37;
/// Clocks of a step of `wgmma` that nothing hides, times the root of the steps of a stage.
const LATENCY: f64 = 5.49;
/// Share of the smaller times that does not overlap with the largest.
const UNHIDDEN: f64 = 0.155;
/// A ring of two stages only.
const TWO_STAGES: f64 = 1.122;
/// Clocks per 128 bytes of Y.
const EPILOGUE_CLOCKS: f64 = 4.63;
/// The clock of the fit, in hertz.
const CLOCK: f64 = 1.7e9;
/// Seconds of a launch beside [`CALL`](super::super::CALL): of 0, 0.5, … 4 µs the one with which most calls with up to 2048 vectors in the
/// records came within a quarter.
const LAUNCH: f64 = 3e-6;
/// 16-bit types by runs and slices of lanes: how much longer they take in `record/2026-11-22-h100/{grid,sampled}` than by the model,
/// whose tiles were mostly lines. Slices take 0.8 to 1.9 times as long as modelled, and why is not known: half of the least that would
/// bring most within a quarter, so that those of 64 × 64, which were measured most, stay what they are.
const RUNS: f64 = 1.3;
const SLICES: f64 = 1.08;

/// Estimated seconds for the plan's batch.
pub(super) fn seconds(plan: &Plan) -> f64 {
    let (tile, x) = (&plan.tile, &plan.numbers);
    let size = plan.problem.dtype.size() as f64;
    let [_, _, _, d] = plan.problem.pattern.shape();
    let f = |number: usize| number as f64;
    let full = x.parts == 2;
    let instructions = if full { 3.0 } else { 1.0 };
    let waves = plan.cluster_tiles(plan.problem.batch.max(1)).div_ceil(plan.clusters);

    // Shared memory: what the gather reads (more than once where it reads parts of units, or has bank conflicts), what
    // wgmma reads of the weights, and both written.
    let group_bytes = tile.group_lanes * plan.problem.dtype.size();
    let conflicts = match tile.geometry {
        Geometry::Lines if group_bytes < 16 && tile.group_lanes < d => 16.0 / f(group_bytes),
        Geometry::Slices => 2.0,
        _ => 1.0,
    };
    let gather = f(x.x_bytes * tile.out_groups) * conflicts;
    let row_tiles = x.products / tile.group_lanes;
    let weights_read = f(x.lanes * x.steps * row_tiles * tile.row_groups * tile.out_groups * x.w_block) * instructions;
    let shared = (gather + weights_read + f(x.x_bytes + x.w_bytes)) / 128.0 * SHARED_CLOCKS;

    let products = f(x.products * x.steps) * instructions;
    let tensor = products * f(x.groups) * (f(tile.group_outs) / 2.0).max(14.0);
    let fragments = f(x.products * 4) * if full { 5.0 } else { 1.5 };
    let issue = (f(x.steps * x.groups) * (fragments + 30.0) + products * f(x.groups) * 4.0) * ISSUE_CLOCKS;

    let run = if tile.geometry == Geometry::Slices { f(x.lanes) * size } else { 64.0 * size };
    let short = 1.0 + SHORT_RUNS * ((128.0 - run) / 96.0).max(0.0);
    let y = f(x.rows * x.outs * x.lanes) * size;
    // A residual is read beside; a gate leaves half.
    let y_share = y * plan.problem.join.moved() / f(x.chunks);
    let fetched = f(x.x_bytes / tile.share_x) * short + f(x.w_bytes / tile.share_w);
    let y_run = run * if plan.problem.join == Join::Gate { 0.5 } else { 1.0 };
    let y_short = 1.0 + SHORT_RUNS * ((128.0 - y_run) / 96.0).max(0.0);
    let l2 = (fetched + y_share * y_short) / L2_BYTES;
    let dram = (f(x.x_bytes) / f(x.out_tiles) + y_share) / DRAM_BYTES;

    let parts = [l2, dram, shared, tensor, issue];
    let (sum, largest) = parts.iter().fold((0.0, 0.0f64), |(sum, most), &part| (sum + part, most.max(part)));
    let mut stage = largest + UNHIDDEN * (sum - largest) / 2.0 + LATENCY * f(x.steps).sqrt();
    if tile.stages <= 2 {
        stage *= TWO_STAGES;
    }
    stage *= 1.0 + 0.003 * f(tile.cluster()).log2();
    let clocks = f(waves) * (f(x.chunks) * stage + y / 128.0 * EPILOGUE_CLOCKS);
    let longer = match tile.geometry {
        _ if size > 2.0 => 1.0,
        Geometry::Runs => RUNS,
        Geometry::Slices => SLICES,
        Geometry::Lines | Geometry::Batch => 1.0,
    };
    longer * clocks / CLOCK + LAUNCH
}
