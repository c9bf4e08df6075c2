//! How long a plan of `plain` takes, by a model of the cycles of its threads and of its traffic, which do not overlap.
//!
//! The constants were fitted by a random search for the least mean |log(estimate / measured)| over 526 cold calls of one factor, 508 of
//! them with random numbers, then rounded (`record/2026-11-23-h100-study/fit`). Fitted to three quarters of the problems, they brought 93 %
//! of the calls in 16-bit types, 91 % in f32 and 78 % in f64 of the other problems within a quarter; 87, 86 and 72 % were before.

use super::{Plan, Tile, sum_bytes};
use crate::plan::gpu::GpuMachine;
use crate::{DType, Layout};

/// Seconds of a launch, and of each stage.
const LAUNCH: f64 = 1.3e-6;
const STAGE: f64 = 0.7e-6;
/// Cycles of a multiply-add of f32, of f64, of an operand's four bytes from shared memory, of a stage.
const MULTIPLY: [f64; 2] = [0.69, 3.9];
const OPERAND: f64 = 1.7;
const STAGE_CYCLES: f64 = 44.0;
/// Cycles of an element of `X` and of the weights on its way to shared memory, and of each line that its warp touches; of an output on
/// its way out.
const FETCHED: [f64; 2] = [5.8, 2.9];
const WEIGHED: [f64; 2] = [10.4, 5.2];
const STORED: [f64; 2] = [5.7, 1.45];
/// How much longer `X` and `Y` take in 16-bit types, which are converted, and all of it in f64, which has two words.
const CONVERTED: f64 = 2.1;
const TWO_WORDS: f64 = 1.95;
/// Threads that hide the latency of a multiprocessor, and the power of how many are missing.
const THREADS: f64 = 650.0;
const MISSING: f64 = 0.65;
/// Traffic over what a machine's bandwidth promises; the share of that which the second-level cache leaves of what is read again.
const TRAFFIC: f64 = 1.07;
const AGAIN: f64 = 0.62;
/// Bytes of a run that reaches half of the bandwidth.
const RUN: f64 = 6.4;

/// Estimated seconds for the plan's batch.
pub(super) fn seconds(plan: &Plan, machine: &GpuMachine) -> f64 {
    let Tile { lanes, outputs, vectors, depth, thread_outputs, thread_vectors } = plan.tile;
    let [lanes, outputs, vectors, depth] = [lanes, outputs, vectors, depth].map(f64::from);
    let problem = &plan.problem;
    let [_, b, c, d] = problem.pattern.shape().map(|size| size as f64);
    let (batch, size) = (problem.batch.max(1) as f64, problem.dtype.size() as f64);
    let (tiles, threads) = (plan.tiles(problem.batch.max(1)) as f64, f64::from(plan.threads()));

    // Contiguous elements of X, of the weights and of Y that a tile touches.
    let block = outputs.min(b) * lanes;
    let weight_run = if outputs >= b { block * depth.min(c) } else { block };
    let first_run = |tile: f64, size: f64| match (lanes < d, tile >= size) {
        (true, _) => lanes,
        (false, true) => size * lanes,
        (false, false) => tile * d,
    };
    let (input_run, output_run) = match problem.layout {
        Layout::BatchFirst => (first_run(depth, c), first_run(outputs, b)),
        Layout::BatchLast => (vectors.min(batch), vectors.min(batch)),
    };
    // Lines that a warp's load touches.
    let lines = |run: f64| (32.0 / run).clamp(1.0, 32.0);
    let slowdown = |run: f64| 1.0 + (RUN / (run * size)).powf(1.5).min(16.0);

    // Cycles of a thread per input, in f32 multiply-adds, and of its outputs.
    let (sums, operands) = (f64::from(thread_outputs * thread_vectors), f64::from(thread_outputs + thread_vectors));
    let words = sum_bytes(problem.dtype) as f64 / 4.0;
    let multiply = MULTIPLY[usize::from(problem.dtype == DType::F64)];
    let (converted, wide) = match problem.dtype {
        DType::F16 | DType::Bf16 => (CONVERTED, 1.0),
        DType::F64 => (TWO_WORDS, TWO_WORDS),
        _ => (1.0, 1.0),
    };
    let inputs = lanes * vectors / threads * converted * (FETCHED[0] + FETCHED[1] * lines(input_run));
    let weights = lanes * outputs / threads * wide * (WEIGHED[0] + WEIGHED[1] * lines(weight_run));
    let cycles = (sums * multiply).max(OPERAND * words * operands) + inputs + weights + STAGE_CYCLES / depth;
    let stored = sums * converted * (STORED[0] + STORED[1] * lines_of_a_store(plan));
    // Multiprocessors take turns of the tiles; few threads of one do not hide its latency.
    let multiprocessors = f64::from(machine.multiprocessors);
    let turns = (tiles / multiprocessors).ceil();
    let active = turns.min((1024.0 / threads).clamp(1.0, 8.0)) * threads;
    let waits = (THREADS / active).max(1.0).powf(MISSING);
    let steps = (c / depth).ceil() * depth;
    let arithmetic = turns * threads * (steps * cycles + stored) * 2.0 * multiprocessors / machine.flops.f32 * waits;

    let input = tiles * vectors * lanes * c * size * slowdown(input_run);
    let weights = tiles * outputs * lanes * c * size * slowdown(weight_run);
    let output = tiles * vectors * lanes * outputs * size * slowdown(output_run);
    let once = problem.bytes() * slowdown(input_run.min(output_run));
    let traffic = TRAFFIC * (once + AGAIN * (input + weights + output - once).max(0.0)) / machine.bytes_per_second;
    LAUNCH + STAGE * (c / depth).ceil() + arithmetic + traffic
}

/// Sectors of 32 bytes that a warp touches when every thread stores one output.
fn lines_of_a_store(plan: &Plan) -> f64 {
    let Tile { lanes, vectors, thread_vectors, .. } = plan.tile;
    let [_, b, _, d] = plan.problem.pattern.shape().map(|size| size as f64);
    let (lanes, size) = (f64::from(lanes), plan.problem.dtype.size() as f64);
    if plan.problem.layout == Layout::BatchLast {
        return size * if vectors / thread_vectors >= 32 { 1.0 } else { 1.5 };
    }
    let sectors = |elements: f64| (elements * size / 32.0).max(1.0);
    // Lanes of several super-blocks are as far apart as these.
    let of_lanes =
        if lanes <= d { sectors(lanes) } else { lanes.min((lanes / d).ceil() * sectors(d)).min(sectors(lanes * b)) };
    (32.0 / lanes * of_lanes).min(32.0)
}
