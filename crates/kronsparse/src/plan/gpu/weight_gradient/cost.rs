//! How long the gradient of a factor's weights takes, estimated: the longest of memory, second-level cache, shared memory, instructions
//! and tensor cores. The shares of the peaks are those of `lanes_mma`; what the second-level cache answers was fitted to an H100's times of
//! `(1,64,64,64)` in bf16, n = 8192, with runs of 16, 32 and 64 bytes (`record/2026-11-23-h100-training/gradient_tiles.csv`).

use super::{GradientProblem, GradientTile, REGISTERS, WeightGradientPlan, registers, step};
use crate::DType;
use crate::plan::gpu::{GpuMachine, Precision};

/// Bytes of shared memory that the driver keeps for itself, per block.
const SHARED_RESERVED: usize = 1024;
/// Runs of up to 128 bytes that the second-level cache gives per second to each multiprocessor.
const RUNS: f64 = 0.85e9;
/// Seconds of launching both kernels, and until the first stage is there.
const LAUNCH: f64 = 5e-6;

/// Blocks that the machine holds at once.
pub(super) fn slots(problem: &GradientProblem, tile: GradientTile, machine: &GpuMachine) -> usize {
    let shared = machine.shared_per_block as usize + SHARED_RESERVED;
    let block = tile.stages * tile.stage_bytes(problem.dtype.size()) + SHARED_RESERVED;
    let threads = tile.threads();
    let of_registers = REGISTERS / (threads * registers(problem, tile).next_multiple_of(8));
    (shared / block).min(of_registers).min(1536 / threads).clamp(1, 24) * machine.multiprocessors as usize
}

/// Seconds of both kernels.
pub(super) fn seconds(plan: &WeightGradientPlan, machine: &GpuMachine) -> f64 {
    let WeightGradientPlan { problem, tile, .. } = plan;
    let [_, b, c, d] = problem.pattern.shape();
    let (n, size) = (problem.batch.max(1) as f64, problem.dtype.size() as f64);
    let [outputs, inputs] = tile.block();
    let (grid, slots) = (plan.groups() * tile.chunks, slots(problem, *tile, machine));
    let all = f64::from(machine.multiprocessors);
    // What the last, partly filled round wastes, and the part of the batch that is no whole tile.
    let tiles = problem.batch.max(1).div_ceil(tile.rows);
    let uneven = (grid.div_ceil(slots) * slots.min(grid)) as f64 / grid as f64
        * (tiles.div_ceil(tile.chunks) * tile.chunks) as f64
        / tiles as f64;
    let busy = (grid as f64 / all).min(1.0);

    let nnz = problem.pattern.nnz() as f64;
    let parts = 8.0 * tile.chunks as f64 * nnz;
    let memory = problem.bytes() / machine.bytes_per_second;
    let run = tile.lanes as f64 * size;
    let sectors = if tile.lanes < d { (32.0 / run).max(1.0) } else { 1.0 };
    let again = [c.div_ceil(inputs), b.div_ceil(outputs)].map(|times| times as f64);
    let read =
        n * (problem.pattern.rows() as f64 * again[0] + problem.pattern.cols() as f64 * again[1]) * size * sectors;
    let runs = read / sectors / if tile.lanes < d { run.min(128.0) } else { 128.0 };
    let cache = ((read + parts) / (2.0 * machine.bytes_per_second)).max(runs / (RUNS * all));

    // Per block and step of the tensor cores.
    let steps = tiles as f64 * (tile.rows / step(problem.dtype)) as f64 * plan.groups() as f64;
    let warps = (tile.threads() / 32) as f64;
    let units = [16 * tile.fragments[0], 8 * tile.fragments[1]];
    let bytes = [0, 1].map(|side| (tile.sub[side] * tile.unit_lanes) as f64 * size);
    let taken = (0..2).map(|side| units[side] as f64 * bytes[side].max(4.0)).sum::<f64>() * step(problem.dtype) as f64;
    let brought = (outputs + inputs) as f64 * tile.lanes as f64 * size * step(problem.dtype) as f64;
    let clock = machine.flops.f32 / (256.0 * all);
    let shared = steps * (warps * taken + brought) / (128.0 * clock * all);

    let products = (tile.sums() / 4) as f64;
    let numbers = (units[0] / 8 * tile.sub[0] + units[1] / 8 * tile.sub[1]) as f64 * tile.unit_lanes as f64 * 2.0;
    let (per_number, per_product) = match (problem.dtype, problem.precision) {
        (DType::F32, Precision::Full) => (6.0, 8.0),
        _ => (1.0, 1.0),
    };
    // Copies of fewer bytes are more instructions.
    let piece = if tile.lanes == d && tile.lanes == tile.unit_lanes {
        super::vector_of((b * d * problem.dtype.size()) | (c * d * problem.dtype.size()))
    } else {
        super::vector_of(tile.unit_lanes * problem.dtype.size())
    };
    let piece = if problem.aligned { piece } else { problem.dtype.size() };
    let copies = brought / (piece * 32) as f64 * if piece < 4 { 12.0 } else { 5.0 };
    let loads = taken / 512.0 * (16.0 / bytes[0].min(bytes[1])).min(4.0);
    let issued = warps * (products * per_product + numbers * per_number + loads + 12.0) + copies;
    let resident = warps * (slots as f64 / all).min(grid as f64 / all);
    let issue = steps * issued / (4.0 * 0.8 * (resident / 10.0).min(1.0) * clock * all);

    let (peak, passes) = match (problem.dtype, problem.precision) {
        (DType::F32, Precision::Tf32) => (machine.flops.tf32, 1.0),
        (DType::F32, Precision::Full) => (machine.flops.tf32, 3.0),
        _ => (machine.flops.half, 1.0),
    };
    let volume = 2.0 * (outputs * inputs * tile.lanes * step(problem.dtype)) as f64;
    let tensor = steps * volume * passes / (0.6 * peak);

    let flight = (tile.stages - 1) as f64 * tile.stage_bytes(problem.dtype.size()) as f64 * slots.min(grid) as f64;
    let waiting = (flight / (machine.bytes_per_second * 1e-6)).clamp(0.05, 1.0);
    let longest = (memory / waiting).max(cache).max(shared).max(issue).max(tensor);
    (longest + 0.1 * (memory + cache + shared + issue + tensor)) * uneven / busy.max(0.05)
        + parts / machine.bytes_per_second
        + LAUNCH
}
