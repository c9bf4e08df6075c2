//! How long a cell will take, roughly: for the time that is announced before a study, and for shards that take equally long.

use kronsparse::plan::Algorithm;

use super::cells::Cell;
use super::plan::{Device, Plan};

/// What a product on a CPU reaches, in operations per second and thread.
const CPU_RATE: f64 = 3e10;
/// Seconds that a cold sample on a CPU waits for the sweep of the caches.
const SWEEP: f64 = 0.02;
/// Fewest samples of an algorithm on a CPU, and two calls that are verified.
const CPU_CALLS: f64 = 5.0;

/// Seconds of a cell on a GPU without any algorithm, and of every algorithm: inputs, verification, preparation.
const GPU_CELL: f64 = 0.02;
const GPU_ALGORITHM: f64 = 0.012;
/// Bytes per second with which X and Y move through a product; and how often an algorithm moves them: tried, verified and sampled. What
/// is permuted first is moved three times as often, and a library's ways are tried in two orders.
const GPU_RATE: f64 = 2.5e12;
const GPU_MOVES: [(Algorithm, f64); 6] = [
    (Algorithm::Fused, 16.0),
    (Algorithm::Strided, 34.0),
    (Algorithm::PermuteBmm, 90.0),
    (Algorithm::Dense, 10.0),
    (Algorithm::Csr, 40.0),
    (Algorithm::Bsr, 60.0),
];
/// Seconds for every weight: drawn, multiplied by the oracle; and packed and uploaded for an algorithm.
const GPU_WEIGHT: f64 = 4e-9;
const GPU_PACKED: f64 = 3e-9;
/// Seconds of an index on the host and of a slow call, for every stored weight of CSR and BSR.
const GPU_SPARSE: f64 = 6e-8;
/// How much longer than its seconds an energy measurement takes: until the power is steady, and the counter's steps.
const ENERGY_MORE: f64 = 0.25;
/// Algorithms of a thorough cell that are not given up, and whose energy is measured.
const ENERGY_OF: f64 = 4.0;
/// Seconds for which a core plans and compiles the kernels of a cell: one of ours, and two that permute for every other cell.
pub(super) const COMPILE: f64 = 0.6;

/// Threads that shards are cut for: a constant, so that machines of different sizes cut them alike.
const SHARD_THREADS: usize = 8;

/// Seconds that a cell will take.
pub(super) fn seconds(cell: &Cell, plan: &Plan) -> f64 {
    with_threads(cell, plan, plan.settings.threads)
}

/// What a cell weighs when shards are cut: the same on every machine.
pub(super) fn weight(cell: &Cell, plan: &Plan) -> f64 {
    with_threads(cell, plan, SHARD_THREADS)
}

fn with_threads(cell: &Cell, plan: &Plan, threads: usize) -> f64 {
    let algorithms = plan.algorithms(cell.thorough);
    let problem = &cell.case.problem;
    let weights = problem.chain.parameters() as f64;
    match plan.settings.device {
        Device::Cpu => {
            let rate = CPU_RATE * threads as f64;
            let work = problem.flops() / rate;
            let dense = 2.0 * problem.batch as f64 * problem.chain.rows() as f64 * problem.chain.cols() as f64 / rate;
            let one = |algorithm: &Algorithm| {
                let call = match algorithm {
                    Algorithm::Dense => dense,
                    Algorithm::Csr => 8.0 * work,
                    Algorithm::Bsr => {
                        dense.min(work * problem.chain.patterns().iter().map(|p| p.d()).max().unwrap_or(1) as f64)
                    }
                    Algorithm::Einsum => 4.0 * work,
                    _ => 2.0 * work,
                };
                plan.settings.budget.max(3.0 * (call + SWEEP)) + CPU_CALLS * call
            };
            algorithms.iter().map(one).sum::<f64>() + 0.02 + 4.0 * work + weights * 2e-8
        }
        Device::Cuda(_) => {
            let energy = plan.settings.energy.filter(|_| cell.thorough);
            let energy = energy.map_or(0.0, |seconds| (seconds + ENERGY_MORE) * ENERGY_OF);
            let bytes = (problem.batch * (problem.chain.rows() + problem.chain.cols()) * problem.dtype.size()) as f64;
            let one = |algorithm: &Algorithm| {
                let sparse = matches!(algorithm, Algorithm::Csr | Algorithm::Bsr);
                let packed = if sparse { GPU_SPARSE } else { GPU_PACKED };
                let moves = GPU_MOVES.iter().find(|moves| moves.0 == *algorithm).map_or(90.0, |moves| moves.1);
                GPU_ALGORITHM + plan.settings.budget + moves * bytes / GPU_RATE + weights * packed
            };
            algorithms.iter().map(one).sum::<f64>() + GPU_CELL + weights * GPU_WEIGHT + energy
        }
    }
}
