//! Compiles, before anything is measured, every kernel that a run will need: spread over processes, since the compiler works
//! on one kernel at a time in each. Or ahead of the measurement, case by case ([`compile_case`]). These processes open no GPU.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use kronsparse::Layout;
use kronsparse::cuda::Device;
use kronsparse::cuda::cache::Cache;
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{self, ChainProblem, Choice, Flops, FusedPlan, GpuMachine, GpuProblem, Rates};
use kronsparse::plan::permutation::{Permutation, Problem};
use kronsparse::plan::product::Order;

use crate::definition::Case;
use crate::{Definition, Error, Result};

/// What a share of the work came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Kernels of the whole run; of the case or the problems that were asked for, where it was these.
    pub all: usize,
    /// Kernels of the share that were compiled now.
    pub fresh: usize,
    /// Kernels of the share that do not compile; the run will say why.
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
    definition.cases.iter().for_each(|case| add(&mut all, case, algorithms, memory_limit, machine));
    all.into_iter().collect()
}

/// Adds the sources of one case. Arrays begin where allocations do, so that kernels for others are not needed.
fn add(all: &mut BTreeSet<String>, case: &Case, algorithms: &[Algorithm], memory_limit: usize, machine: &GpuMachine) {
    let wants = |wanted: &[Algorithm]| algorithms.iter().any(|a| wanted.contains(a));
    let (auto, ours) = (wants(&[Algorithm::Auto]), wants(&[Algorithm::Fused]));
    let permuted = wants(&[Algorithm::PermuteBmm, Algorithm::Bsr]);
    if case.kind.dtype.is_complex() {
        return;
    }
    let (dtype, layout, batch) = (case.kind.dtype, case.problem.layout, case.problem.batch);
    let precision = case.kind.precision();
    let patterns = case.problem.chain.patterns();
    if auto || ours {
        let problem = ChainProblem { precision, ..ChainProblem::new(case.problem.chain.clone(), dtype, layout, batch) };
        for at in 0..patterns.len() {
            for count in (2..=patterns.len() - at).filter(|count| *count == 2 || *count == patterns.len()) {
                let plans = FusedPlan::promising(&problem.part(at, count), machine);
                all.extend(plans.into_iter().take(if auto { usize::MAX } else { 1 }).map(|plan| plan.source()));
            }
        }
    }
    for &pattern in patterns {
        let problem = GpuProblem { precision, ..GpuProblem::new(pattern, dtype, layout, batch) };
        if ours {
            all.extend(gpu::choose(&problem, machine).map(|plan| plan.source()));
        }
        let mut permuted = permuted;
        // With libraries that may be missing, and without.
        for libraries in [Some(memory_limit), None].into_iter().filter(|_| auto) {
            for way in gpu::promising(&problem, machine, libraries) {
                match way.choice {
                    Choice::Kernel(plan) => all.extend([plan.source()]),
                    Choice::Library(algorithm) => permuted |= algorithm == Algorithm::PermuteBmm,
                }
            }
        }
        // Batch-last has one order only.
        let orders = if layout == Layout::BatchFirst && pattern.d() > 1 { &Order::ALL[..] } else { &Order::ALL[..1] };
        for &order in orders.iter().filter(|_| permuted) {
            let problem = Problem { pattern, vectors: batch, layout, dtype, order, aligned: true };
            for permutation in [Permutation::before(&problem), Permutation::after(&problem)] {
                all.extend(permutation.ok().flatten().map(|permutation| permutation.source()));
            }
        }
    }
}

/// Compiles every `of`-th source, beginning with number `share`, into the cache on the disk, without asking for a GPU.
pub fn compile(
    definition: &Definition,
    algorithms: &[Algorithm],
    memory_limit: usize,
    target: &Target,
    share: (usize, usize),
) -> Compiled {
    stored_share(&sources(definition, algorithms, memory_limit, &target.machine), share, target)
}

/// Compiles every `of`-th of the sources, beginning with number `share`, where the cache does not have it.
pub(crate) fn stored_share(sources: &[String], (share, of): (usize, usize), target: &Target) -> Compiled {
    Compiled { all: sources.len(), ..stored(sources.iter().skip(share).step_by(of.max(1)), target) }
}

/// Compiles the kernels of one case into the cache on the disk, without asking for a GPU.
pub fn compile_case(case: &Case, algorithms: &[Algorithm], memory_limit: usize, target: &Target) -> Compiled {
    let mut sources = BTreeSet::new();
    add(&mut sources, case, algorithms, memory_limit, &target.machine);
    stored(sources.iter(), target)
}

/// Compiles what the cache does not have. What does not compile is counted: whoever needs it says why.
fn stored<'a>(sources: impl Iterator<Item = &'a String>, target: &Target) -> Compiled {
    let cache = Cache::of_user();
    let mut done = Compiled::default();
    for source in sources {
        done.all += 1;
        match cache.compile(source, &target.architecture) {
            Ok((_, compiled)) => done.fresh += usize::from(compiled),
            Err(_) => done.failed += 1,
        }
    }
    done
}

/// What kernels are compiled for: a GPU as the planner sees it. As text, it is told to processes that must not open the GPU, since a
/// process with a context takes time and memory from the one that measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub(crate) machine: GpuMachine,
    pub(crate) architecture: String,
}

impl Target {
    /// Of this GPU.
    pub fn of(device: &Device) -> Target {
        // What no plan depends on is not told.
        let machine = GpuMachine { watts: None, rates: Rates::Published, ..device.machine().clone() };
        Target { machine, architecture: device.architecture().into() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GpuMachine { capability: (major, minor), multiprocessors, shared_per_block, l2_bytes, .. } = self.machine;
        let GpuMachine { bytes_per_second, cached, kernel_seconds, .. } = self.machine;
        write!(f, "{} {major} {minor} {multiprocessors} {shared_per_block} {l2_bytes}", self.architecture)?;
        // In bits: a plan may hang on the last one.
        let Flops { f64, f64_products, f32, tf32, half } = self.machine.flops;
        let rates = [bytes_per_second, cached, kernel_seconds, f64, f64_products, f32, tf32, half];
        rates.iter().try_for_each(|x| write!(f, " {}", x.to_bits()))
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let numbers = words.iter().skip(1).map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
        let small = |x: u64| u32::try_from(x).ok();
        let read = || {
            let &[major, minor, multiprocessors, shared, l2_bytes, ref rates @ ..] = &numbers?[..] else { return None };
            let rates: &[u64; 8] = rates.try_into().ok()?;
            let [bytes_per_second, cached, kernel_seconds, f64, f64_products, f32, tf32, half] =
                rates.map(std::primitive::f64::from_bits);
            let machine = GpuMachine {
                capability: (small(major)?, small(minor)?),
                multiprocessors: small(multiprocessors)?,
                shared_per_block: small(shared)?,
                l2_bytes,
                bytes_per_second,
                cached,
                flops: Flops { f64, f64_products, f32, tf32, half },
                kernel_seconds,
                watts: None,
                rates: Rates::Published,
            };
            Some(Target { machine, architecture: words[0].into() })
        };
        read().ok_or_else(|| Error::Definition {
            place: "the GPU that is compiled for".into(),
            why: format!("expected an architecture and thirteen numbers, found `{text}`"),
        })
    }
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
    fn a_target_is_told_to_the_last_bit() {
        let mut machine = GpuMachine::h100();
        machine.bytes_per_second = 3.35e12 / 3.0;
        machine.flops.f32 = 1e13 / 7.0;
        let target = Target { machine, architecture: "sm_90a".into() };
        assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        for wrong in [
            "",
            "sm_90a",
            "sm_90a 9 0 132 1 2 3 4 5 6 7 8 9",
            "sm_90a 9 0 132 1 2 3 4 5 6 7 8 9 x",
            "sm_90a 9 0 132 1 2 3 4 5 6 7 8 9 10 11",
        ] {
            assert!(wrong.parse::<Target>().unwrap_err().to_string().contains("thirteen numbers"), "{wrong}");
        }
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
