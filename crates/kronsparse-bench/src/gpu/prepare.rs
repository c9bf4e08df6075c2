//! Compiles, before anything is measured, every kernel that a run will need: spread over processes, since the compiler works
//! on one kernel at a time in each. Needs no GPU of its own but asks the one that will be measured what it is.

use std::collections::BTreeSet;

use kronsparse::Layout;
use kronsparse::cuda::Device;
use kronsparse::cuda::cache::Cache;
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{self, ChainProblem, Choice, FusedPlan, GpuMachine, GpuProblem};
use kronsparse::plan::permutation::{Permutation, Problem};
use kronsparse::plan::product::Order;

use crate::{Definition, Result};

/// What a share of the work came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Kernels of the whole run.
    pub all: usize,
    /// Kernels of this share that were compiled now.
    pub fresh: usize,
    /// Kernels of this share that do not compile; the run will say why.
    pub failed: usize,
}

/// The sources of all kernels that measuring `definition` with `algorithms` will load, without repetition; those of `auto` are all
/// that it measures. Libraries may have `memory_limit` bytes of weights.
pub fn sources(
    definition: &Definition,
    algorithms: &[Algorithm],
    memory_limit: usize,
    machine: &GpuMachine,
) -> Vec<String> {
    let mut all = BTreeSet::new();
    let wants = |wanted: &[Algorithm]| algorithms.iter().any(|a| wanted.contains(a));
    let (auto, ours) = (wants(&[Algorithm::Auto]), wants(&[Algorithm::Fused]));
    let permuted = wants(&[Algorithm::PermuteBmm, Algorithm::Bsr]);
    for case in definition.cases.iter().filter(|case| !case.kind.dtype.is_complex()) {
        let (dtype, layout, batch) = (case.kind.dtype, case.problem.layout, case.problem.batch);
        let patterns = case.problem.chain.patterns();
        if auto || ours {
            let problem = ChainProblem {
                precision: case.kind.precision(),
                ..ChainProblem::new(case.problem.chain.clone(), dtype, layout, batch)
            };
            for at in 0..patterns.len() {
                for count in (2..=patterns.len() - at).filter(|count| *count == 2 || *count == patterns.len()) {
                    let plans = FusedPlan::promising(&problem.part(at, count), machine);
                    all.extend(plans.into_iter().take(if auto { usize::MAX } else { 1 }).map(|plan| plan.source()));
                }
            }
        }
        for &pattern in patterns {
            let problem = |aligned| GpuProblem {
                precision: case.kind.precision(),
                aligned,
                ..GpuProblem::new(pattern, dtype, layout, batch)
            };
            for aligned in [true, false].into_iter().filter(|_| ours) {
                all.extend(gpu::choose(&problem(aligned), machine).map(|plan| plan.source()));
            }
            let mut permuted = permuted;
            // With libraries that may be missing, and without.
            for libraries in [Some(memory_limit), None].into_iter().filter(|_| auto) {
                for way in gpu::promising(&problem(true), machine, libraries) {
                    match way.choice {
                        Choice::Kernel(plan) => all.extend([plan.source()]),
                        Choice::Library(algorithm) => permuted |= algorithm == Algorithm::PermuteBmm,
                    }
                }
            }
            // Batch-last has one order only.
            let orders =
                if layout == Layout::BatchFirst && pattern.d() > 1 { &Order::ALL[..] } else { &Order::ALL[..1] };
            for &order in orders.iter().filter(|_| permuted) {
                let problem = Problem { pattern, vectors: batch, layout, dtype, order, aligned: true };
                for permutation in [Permutation::before(&problem), Permutation::after(&problem)] {
                    all.extend(permutation.ok().flatten().map(|permutation| permutation.source()));
                }
            }
        }
    }
    all.into_iter().collect()
}

/// Compiles every `of`-th source, beginning with number `share`, into the cache on the disk.
pub fn compile(
    definition: &Definition,
    algorithms: &[Algorithm],
    memory_limit: usize,
    ordinal: usize,
    (share, of): (usize, usize),
) -> Result<Compiled> {
    let device = Device::open(ordinal)?;
    let (machine, architecture) = (device.machine().clone(), device.architecture().to_string());
    drop(device);
    let sources = sources(definition, algorithms, memory_limit, &machine);
    let cache = Cache::of_user();
    let mut done = Compiled { all: sources.len(), ..Compiled::default() };
    for source in sources.iter().skip(share).step_by(of.max(1)) {
        match cache.compile(source, &architecture) {
            Ok((_, compiled)) => done.fresh += usize::from(compiled),
            Err(_) => done.failed += 1,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sweep;

    #[test]
    fn kernels_for_two_factors_are_among_them() {
        let sweep = Sweep {
            batch: vec![1000],
            dtype: vec!["f16".parse().unwrap()],
            layout: vec![Layout::BatchFirst],
            cache: Vec::new(),
        };
        let definition = Definition::from_argument("(1,64,64,64)(64,64,64,1)", &sweep).unwrap();
        // Fused takes the best; auto measures the few best.
        for (algorithm, counts) in [(Algorithm::Fused, 1..=1), (Algorithm::Auto, 2..=3)] {
            let all = sources(&definition, &[algorithm], 1 << 30, &GpuMachine::h100());
            let found = all.iter().filter(|source| source.contains("pair_wgmma.cuh")).count();
            assert!(counts.contains(&found), "{algorithm}: {found} kernels, expected {counts:?}");
        }
        assert!(sources(&definition, &[Algorithm::Dense], 1 << 30, &GpuMachine::h100()).is_empty());
    }

    #[test]
    fn every_kernel_of_a_run_is_listed_once() {
        let sweep = Sweep {
            batch: vec![1000],
            dtype: ["f16", "tf32", "c64"].map(|t| t.parse().unwrap()).to_vec(),
            layout: Layout::ALL.to_vec(),
            cache: Vec::new(),
        };
        let definition = Definition::from_argument("2,8,8,4; 6,8,8,1; 2,8,8,4", &sweep).unwrap();
        let of = |algorithms: &[Algorithm]| sources(&definition, algorithms, 1 << 30, &GpuMachine::h100());
        let ours = of(&[Algorithm::Fused]);
        assert!(!ours.is_empty() && ours.iter().all(|source| !source.contains("permute.cuh")));
        // Two orders, two directions, two sizes of elements batch-first; batch-last rows of 1000 move 16 bytes at a time.
        // With b = c the two directions differ in the numbers alone where d is not 8.
        let permuted = of(&[Algorithm::PermuteBmm]);
        let (lanes, rows): (Vec<_>, Vec<_>) = permuted.iter().partition(|source| source.contains("permute_lanes"));
        assert_eq!((lanes.len(), rows.len()), (8, 4), "{permuted:#?}");
        assert_eq!(of(&[Algorithm::Fused, Algorithm::Bsr]).len(), ours.len() + permuted.len());
        assert!(of(&[Algorithm::Dense, Algorithm::Csr]).is_empty());
        // `auto` measures the kernels of aligned arrays that `fused` runs, and others.
        let auto = of(&[Algorithm::Auto]);
        let (machine, mut tried) = (GpuMachine::h100(), 0);
        for case in definition.cases.iter().filter(|case| !case.kind.dtype.is_complex()) {
            let pattern = case.problem.chain.patterns()[0];
            let problem = GpuProblem {
                precision: case.kind.precision(),
                ..GpuProblem::new(pattern, case.kind.dtype, case.problem.layout, case.problem.batch)
            };
            assert!(auto.contains(&gpu::choose(&problem, &machine).unwrap().source()), "{problem:?}");
            for way in gpu::promising(&problem, &machine, Some(1 << 30)) {
                if let Choice::Kernel(plan) = way.choice {
                    tried += 1;
                    assert!(auto.contains(&plan.source()), "{plan}");
                }
            }
        }
        assert!(tried > ours.len() / 2, "{tried}");
    }
}
