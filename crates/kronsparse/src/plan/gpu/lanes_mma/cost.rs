//! How long a plan of `lanes_mma` takes, by a model of its traffic, its products and the pieces that its threads move.
//!
//! The largest of memory, second-level cache, shared memory, tensor cores and instructions, with a share of the others; beside that what
//! every thread spends on the pieces of `X` and of `Y` that it moves: with odd numbers of vectors, lanes or terms they have 2 or 4
//! bytes instead of 16, and below 4 bytes there is no asynchronous copy. The constants were fitted by a random search for the least
//! mean |log(estimate / measured)| over 415 cold calls of one factor, two thirds of the weight on the 234 with random numbers, then
//! rounded (`record/2026-11-23-h100-training/fit`). Fitted to three quarters of the problems, they brought 73 % of the calls of the other
//! random problems within a quarter; 54 % were before. All fitted, 87 % are.

use super::geometry::{Rows, vector_of};
use super::{GpuMachine, Plan};
use crate::plan::gpu::Precision;
use crate::{DType, Layout};

/// Share of the smaller times that does not overlap with the largest.
const UNHIDDEN: f64 = 0.1;
/// Seconds of a launch, and of each stage that the ring does not hide.
const LAUNCH: f64 = 1.95e-6;
const STAGE: f64 = 0.84e-6;

/// Bytes per second that stores reach, for each byte of a store.
const STORED_PER_BYTE: f64 = 115e9;

/// What moving a piece takes.
struct Piece {
    /// Bytes.
    bytes: usize,
    /// Seconds of a thread that nothing hides.
    seconds: f64,
    /// Instructions of a warp.
    instructions: f64,
}

/// Pieces of `X` from global to shared memory, those of 2 bytes through registers. Those of 16 bytes take nothing beside their traffic.
const LOADED: [Piece; 4] = [
    Piece { bytes: 2, seconds: 0.09e-6, instructions: 26.0 },
    Piece { bytes: 4, seconds: 0.015e-6, instructions: 9.0 },
    Piece { bytes: 8, seconds: 0.009e-6, instructions: 4.0 },
    Piece { bytes: 16, seconds: 0.0, instructions: 0.0 },
];
/// Pieces of `Y` from registers to global memory, with what selects and masks them.
const STORED: [Piece; 4] = [
    Piece { bytes: 2, seconds: 0.114e-6, instructions: 60.0 },
    Piece { bytes: 4, seconds: 0.052e-6, instructions: 110.0 },
    Piece { bytes: 8, seconds: 0.021e-6, instructions: 10.0 },
    Piece { bytes: 16, seconds: 0.0, instructions: 0.0 },
];

/// Estimated seconds for the plan's batch.
pub(super) fn seconds(plan: &Plan, machine: &GpuMachine) -> f64 {
    let stages = plan.geometry.chunks as f64 / (plan.tile.stages - 1) as f64;
    let problem = &plan.problem;
    let lanes_together = problem.layout == Layout::BatchFirst && problem.pattern.d() > 1;
    let correction = match (problem.dtype, problem.precision) {
        (DType::F32, Precision::Full) if lanes_together => 3.2,
        (DType::F32, _) if problem.layout == Layout::BatchLast => 1.85,
        (DType::F32, _) => 1.4,
        // As (1,64,64,64) and its like took with many vectors, which are few of the calls that the rest is fitted to.
        _ if lanes_together && x_piece(plan) == 16 => 1.8,
        _ if problem.layout == Layout::BatchFirst && !lanes_together => 1.55,
        _ => 1.3,
    };
    let shares = Shares::of(plan, machine);
    let together = correction * shares.modelled(plan, machine) + shares.moved(plan);
    LAUNCH + STAGE * stages.min(4.0) + together.max(narrow_stores(plan))
}

/// One lane: neighbouring outputs are few bytes of a thread, and stores of few bytes reach few bytes per second.
fn narrow_stores(plan: &Plan) -> f64 {
    let (problem, piece) = (&plan.problem, y_piece(plan));
    if plan.geometry.rows != Rows::Whole || problem.pattern.d() > 1 || piece >= 16 {
        return 0.0;
    }
    let bytes = problem.batch * problem.pattern.rows() * plan.geometry.size;
    bytes as f64 / (piece as f64 * STORED_PER_BYTE)
}

/// How the blocks share the work.
struct Shares {
    /// Tiles that a block does, one after the other.
    rounds: f64,
    /// Multiprocessors with something to do.
    multiprocessors: f64,
    /// Blocks of a multiprocessor at once.
    per_multiprocessor: f64,
    /// Tiles of all blocks.
    items: usize,
    /// Clocks per second.
    clock: f64,
}

impl Shares {
    fn of(plan: &Plan, machine: &GpuMachine) -> Shares {
        let (n, groups) = (plan.problem.batch.max(1), plan.geometry.groups);
        let row_tiles = n.div_ceil(plan.tile.rows);
        let grid = plan.grid(n) as usize;
        let items = groups * row_tiles;
        let rounds = if plan.tile.resident {
            grid.div_ceil(plan.slots) * row_tiles.div_ceil(grid / groups)
        } else {
            items.div_ceil(grid)
        };
        let at_once = plan.slots.min(grid);
        let multiprocessors = (machine.multiprocessors as usize).min(at_once) as f64;
        Shares {
            rounds: rounds as f64,
            multiprocessors,
            per_multiprocessor: at_once as f64 / multiprocessors,
            items,
            clock: machine.flops.f32 / (256.0 * f64::from(machine.multiprocessors)),
        }
    }

    /// What the threads spend on pieces: the larger of one thread's time and of the instructions of a multiprocessor's warps, nearly.
    fn moved(&self, plan: &Plan) -> f64 {
        let Plan { problem, tile, geometry, .. } = plan;
        let [_, b, _, d] = problem.pattern.shape();
        let threads = tile.threads() as f64;
        let share = |size: usize, tile: usize| size as f64 / (size.div_ceil(tile) * tile) as f64;
        let x = (tile.rows * tile.lanes * geometry.chunks * tile.depth * geometry.size) as f64;
        // Outputs and lanes beyond the last are not stored.
        let y = (tile.rows * tile.lanes * tile.outputs * geometry.size) as f64
            * share(b, tile.outputs)
            * share(d, tile.lanes);
        let (loaded, stored) = (piece(&LOADED, x_piece(plan)), piece(&STORED, y_piece(plan)));
        let (loads, stores) = (x / (loaded.bytes as f64 * threads), y / (stored.bytes as f64 * threads));
        let alone = self.rounds * (loads * loaded.seconds + stores * stored.seconds);
        let instructions = loads * loaded.instructions + stores * stored.instructions;
        let together = self.rounds * self.per_multiprocessor * threads / 32.0 * instructions / (4.0 * self.clock);
        alone.hypot(together)
    }

    /// The largest of instructions started (a tenth of the warps that hide latency do a tenth of the work), memory traffic (with what
    /// short runs waste), second-level cache traffic, shared-memory traffic and tensor-core time, for whole rounds of blocks, with a
    /// share of the others.
    fn modelled(&self, plan: &Plan, machine: &GpuMachine) -> f64 {
        let Plan { problem, tile, geometry, slots } = plan;
        let [_, b, c, d] = problem.pattern.shape();
        let n = problem.batch.max(1);
        let size = geometry.size as f64;
        let grid = plan.grid(n) as usize;
        let at_once = (*slots).min(grid);
        let Shares { rounds, multiprocessors, per_multiprocessor, items, clock } = *self;
        // Tiles that the busiest multiprocessor's blocks do.
        let tiles = rounds * per_multiprocessor;

        let (rows, lanes, outputs) = (tile.rows as f64, tile.lanes as f64, tile.outputs as f64);
        let terms = (geometry.chunks * tile.depth) as f64;
        // Tensor cores: mma.sync reaches about 0.6 of the peak; f32 takes three products.
        let products = rows * lanes * outputs * terms * 2.0;
        let (peak, passes) = match (problem.dtype, problem.precision) {
            (DType::F32, Precision::Tf32) => (machine.flops.tf32, 1.0),
            (DType::F32, Precision::Full) => (machine.flops.tf32, 4.0),
            _ => (machine.flops.half, 1.0),
        };
        let all = f64::from(machine.multiprocessors);
        let tensor = tiles * products * passes / (0.6 * peak / all);
        // Shared memory, 128 bytes a clock: X in and once out per warp of outputs, weights per warp of rows and row tile.
        let x_tile = rows * lanes * terms * size;
        let w_tile = geometry.weight_bytes as f64;
        let y_tile = rows * lanes * outputs * size;
        let reuse = match geometry.rows {
            Rows::Gather => 8.0 / geometry.unit as f64,
            _ => 1.0,
        };
        let shared = x_tile * (1.0 + reuse * tile.output_warps as f64)
            + w_tile * (tile.row_warps as f64 + if tile.resident { 0.0 } else { 1.0 })
            + if tile.regroup { 2.0 * y_tile } else { 0.0 };
        let shared = tiles * shared / (128.0 * clock);
        // Instructions: products, with their additions and splits for f32, and 512-byte loads with the permutes after them.
        let warps = (tile.threads() / 32) as f64;
        let per_product = if passes > 1.0 { 10.0 } else { 1.0 };
        let started = products / if geometry.size == 2 { 4096.0 } else { 2048.0 } * per_product
            + x_tile * (reuse * tile.output_warps as f64 * 3.0 + 1.0) / 512.0
            + w_tile * tile.row_warps as f64 / 512.0
            + y_tile / 64.0;
        let busy = (warps * per_multiprocessor / 10.0).min(1.0);
        let issue = tiles * started / (4.0 * 0.8 * busy * clock);
        // Second-level cache: about twice the memory's rate, in sectors of 32 bytes.
        let sector = match problem.layout {
            Layout::BatchFirst if tile.lanes < d => (32.0 / (lanes * size)).max(1.0),
            _ => 1.0,
        };
        let weights = if tile.resident { grid as f64 } else { items as f64 } * w_tile;
        let moved = problem.join.moved();
        let cache = items as f64 * (x_tile + y_tile * moved) * sector + weights;
        let cache = cache / (2.0 * machine.bytes_per_second * (multiprocessors / all).max(0.1));
        // Memory, by the length of runs.
        let efficiency = |run: f64, whole: bool| match run {
            r if r >= 64.0 || (whole && r >= 32.0) => 1.0,
            r if r >= 32.0 => 0.7,
            r => (r / 32.0).max(0.1),
        };
        let whole = tile.lanes >= d;
        let (x_run, y_run) = match problem.layout {
            Layout::BatchLast => (rows * size, rows * size),
            Layout::BatchFirst if whole => {
                ((tile.depth.min(c) * d) as f64 * size, (tile.outputs.min(b) * d) as f64 * size)
            }
            Layout::BatchFirst => (lanes * size, if tile.regroup { lanes } else { lanes.min(16.0 / size) } * size),
        };
        let pattern = problem.pattern;
        let x_bytes = (n * pattern.cols()) as f64 * size / efficiency(x_run, whole);
        let y_bytes = (n * pattern.rows()) as f64 * moved * size / efficiency(y_run, whole).max(0.5);
        let occupied = (at_once as f64 * geometry.stage_bytes as f64 * (tile.stages - 1) as f64)
            / (machine.bytes_per_second * 1.0e-6);
        let memory =
            (x_bytes + y_bytes + pattern.nnz() as f64 * size) / machine.bytes_per_second / occupied.clamp(0.05, 1.0);
        let parts = [memory, cache, shared, tensor, issue];
        let (sum, largest) = parts.iter().fold((0.0, 0.0f64), |(sum, most), &part| (sum + part, most.max(part)));
        largest + UNHIDDEN * (sum - largest)
    }
}

fn piece(pieces: &'static [Piece; 4], bytes: usize) -> &'static Piece {
    pieces.iter().find(|piece| piece.bytes >= bytes).unwrap_or(&pieces[3])
}

/// Bytes of a piece of `X`, as the kernel chooses them.
fn x_piece(plan: &Plan) -> usize {
    let Plan { problem, tile, geometry, .. } = plan;
    let [_, _, c, d] = problem.pattern.shape();
    let size = geometry.size;
    if !problem.aligned {
        return size;
    }
    match geometry.rows {
        Rows::Last => line_piece(problem.batch, size),
        Rows::Split => geometry.unit.min(vector_of(d * size)).min(vector_of(tile.lanes * size)),
        Rows::Whole | Rows::Gather => vector_of(c * d * size),
    }
}

/// Bytes of a piece of `Y`.
fn y_piece(plan: &Plan) -> usize {
    let Plan { problem, tile, geometry, .. } = plan;
    let [_, b, _, d] = problem.pattern.shape();
    let size = geometry.size;
    if !problem.aligned {
        return size;
    }
    let lanes = vector_of(d * size).min(vector_of(tile.lanes * size));
    match geometry.rows {
        Rows::Last => line_piece(problem.batch, size),
        Rows::Whole => vector_of(geometry.run * d * size).min(vector_of(b * d * size)),
        Rows::Split | Rows::Gather if tile.regroup => lanes,
        Rows::Split | Rows::Gather => lanes.min(8),
    }
}

/// Of lines of `batch` vectors the kernel moves 16, 4 or 2 bytes.
fn line_piece(batch: usize, size: usize) -> usize {
    match vector_of((batch * size).max(1)) {
        8 => 4,
        piece => piece,
    }
}
