//! What `auto` picks from: this project's kernels and the libraries' algorithms, in the order of their estimated times.

use std::collections::HashSet;
use std::fmt;

use super::libraries;
use super::{GpuMachine, GpuPlan, GpuProblem};
use crate::plan::Algorithm;

/// A way of multiplying by one factor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// A kernel of this project.
    Kernel(Box<GpuPlan>),
    /// An algorithm of NVIDIA's libraries.
    Library(Algorithm),
}

/// A way with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The way.
    pub choice: Choice,
    /// Estimated seconds.
    pub seconds: f64,
}

/// Ways whose estimate is larger than the least one times this are not worth a measurement. In every cell of
/// `record/2026-11-22-h100` that a library won, its algorithm was within; a test of the bench crate repeats that.
pub const WITHIN: f64 = 2.5;

/// Kernels that are worth a measurement at most; each takes up to seconds to compile the first time.
pub const KERNELS: usize = 8;

/// Seconds that a library's kernel takes longer beside others: it begins when all of those before it have ended, and the next one when
/// it has, while this project's kernels overlap at their ends (programmatic dependent launch). Of the first factor of a Monarch chain
/// of 4096 in f16 on an H100 `strided` took 8.5 µs in all instead of 7.0 for one vector, and 10.7 instead of 8.5 for 32
/// (`record/2026-11-23-h100/landed/tune.txt`).
const APART: f64 = 1.5e-6;

/// A way of one factor of several, each of which goes by itself.
pub fn beside(way: Ranked) -> Ranked {
    let apart = if let Choice::Library(_) = way.choice { APART } else { 0.0 };
    Ranked { seconds: way.seconds + apart, ..way }
}

/// [`ranked`] for one factor of several.
pub fn ranked_beside(problem: &GpuProblem, machine: &GpuMachine, libraries: Option<usize>) -> Vec<Ranked> {
    sorted(ranked(problem, machine, libraries).into_iter().map(beside).collect())
}

impl Ranked {
    /// The kernel's family, or the library's algorithm.
    pub fn name(&self) -> &'static str {
        match &self.choice {
            Choice::Kernel(plan) => plan.name(),
            Choice::Library(algorithm) => algorithm.name(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Kernel(plan) => plan.fmt(f),
            Choice::Library(algorithm) => algorithm.fmt(f),
        }
    }
}

impl fmt::Display for Ranked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.2} µs", self.name(), self.seconds * 1e6)
    }
}

/// The best plan of each kernel family and every algorithm of the libraries, the least estimate first. `libraries` says how many
/// bytes of weights a library's algorithm may have, `None` that there are no libraries. Empty for complex numbers only.
pub fn ranked(problem: &GpuProblem, machine: &GpuMachine, libraries: Option<usize>) -> Vec<Ranked> {
    let mut all = by_library(problem, machine, libraries);
    for kernel in kernels(problem, machine) {
        if !all.iter().any(|other| other.name() == kernel.name()) {
            all.push(kernel);
        }
    }
    sorted(all)
}

/// The ways that are worth a measurement, the least estimate first: the best plan and the best of the libraries' algorithms
/// always; up to [`KERNELS`] plans, of several families rather than of one and with several ways of cutting lanes and outputs rather
/// than with one, and the other algorithms, where they are [`WITHIN`] the least estimate. Tiles that cut these alike differ little:
/// what an H100 did fastest for 128 vectors by (1,64,64,64) was not tried for 64, where estimates put it behind sixteen like the first.
pub fn promising(problem: &GpuProblem, machine: &GpuMachine, libraries: Option<usize>) -> Vec<Ranked> {
    promising_of(problem, machine, libraries, KERNELS)
}

/// [`promising`] with up to `most` plans instead of [`KERNELS`]: what a comparison with more than `tune` tries takes.
pub fn promising_of(problem: &GpuProblem, machine: &GpuMachine, libraries: Option<usize>, most: usize) -> Vec<Ranked> {
    let (mut all, kernels) = (by_library(problem, machine, libraries), kernels(problem, machine));
    let least = all.iter().chain(&kernels).map(|way| way.seconds).fold(f64::INFINITY, f64::min);
    let close = |way: &Ranked| way.seconds <= WITHIN * least;
    // The best library always: there is nothing to compile, and an H100 showed a kernel's estimate to be a fifth of its time.
    let library = all.iter().map(|way| way.seconds).fold(f64::INFINITY, f64::min);
    all.retain(|way| close(way) || way.seconds == library);
    let mut picked: Vec<Ranked> = Vec::with_capacity(most);
    let (first, others): (Vec<Ranked>, Vec<Ranked>) = {
        let (mut seen, mut cuts) = (Vec::new(), HashSet::new());
        // Plans that order the weights alike cut lanes and outputs alike.
        let different = kernels.into_iter().filter(|kernel| match &kernel.choice {
            Choice::Kernel(plan) => cuts.insert(plan.packing()),
            Choice::Library(_) => true,
        });
        different.partition(|kernel| {
            let new = !seen.contains(&kernel.name());
            seen.push(kernel.name());
            new
        })
    };
    for kernel in first.into_iter().chain(others) {
        if picked.is_empty() || (picked.len() < most && close(&kernel)) {
            picked.push(kernel);
        }
    }
    all.extend(picked);
    sorted(all)
}

/// Every legal plan, the least estimate first.
fn kernels(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Ranked> {
    let all = GpuPlan::candidates(problem, machine).into_iter();
    sorted(all.map(|plan| Ranked { seconds: plan.seconds(machine), choice: Choice::Kernel(Box::new(plan)) }).collect())
}

/// The libraries' algorithms, without those that are the same calls as another.
fn by_library(problem: &GpuProblem, machine: &GpuMachine, libraries: Option<usize>) -> Vec<Ranked> {
    let Some(limit) = libraries else { return Vec::new() };
    let repeats = |algorithm: &Algorithm| libraries::same_as(*algorithm, problem).is_some();
    let time = |algorithm: Algorithm| {
        let seconds = libraries::seconds(algorithm, problem, machine, limit)?;
        Some(Ranked { choice: Choice::Library(algorithm), seconds })
    };
    libraries::ALGORITHMS.into_iter().filter(|algorithm| !repeats(algorithm)).filter_map(time).collect()
}

fn sorted(mut all: Vec<Ranked>) -> Vec<Ranked> {
    all.sort_by(|p, q| p.seconds.total_cmp(&q.seconds));
    all
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{DType, Layout};

    fn problem(pattern: &str, dtype: DType, layout: Layout, batch: usize) -> GpuProblem {
        GpuProblem::new(pattern.parse().unwrap(), dtype, layout, batch)
    }

    fn first(problem: &GpuProblem) -> Ranked {
        ranked(problem, &GpuMachine::h100(), Some(1 << 30)).remove(0)
    }

    /// Cells of `record/2026-11-22-h100` in which the fastest was faster than the next by a fifth and more.
    #[test]
    fn what_an_h100_did_fastest_is_picked() {
        let cells = [
            // grid: kernel 4772 µs, permute-bmm 1789 µs.
            ("1,1024,1024,12", 25088, "permute-bmm"),
            // grid: kernel 12460 µs, permute-bmm 5446 µs.
            ("1,512,512,96", 25088, "permute-bmm"),
            // grid: kernel 7232 µs, permute-bmm 2616 µs.
            ("1,512,1024,28", 25088, "permute-bmm"),
            // grid: kernel 198 µs, permute-bmm 437 µs, dense 954 µs.
            ("1,64,64,64", 25088, "a kernel"),
            // grid: kernel 175 µs, permute-bmm 432 µs, dense 939 µs.
            ("4,256,256,4", 25088, "a kernel"),
            // small: kernel 2.2 µs, permute-bmm 5.0 µs, dense 22.0 µs.
            ("1,64,64,64", 1, "a kernel"),
        ];
        for (pattern, batch, expected) in cells {
            let best = first(&problem(pattern, DType::F16, Layout::BatchFirst, batch));
            let found = if let Choice::Kernel(_) = best.choice { "a kernel" } else { best.name() };
            assert_eq!(found, expected, "{pattern} n={batch}: {best}");
        }
        // energy: kernel 729 µs, permute-bmm 1669 µs, dense 16018 µs.
        let best = first(&problem("4,256,256,4", DType::F32, Layout::BatchFirst, 25088));
        assert!(matches!(best.choice, Choice::Kernel(_)), "{best}");
    }

    #[test]
    fn without_libraries_there_are_kernels_only() {
        let p = problem("1,1024,1024,12", DType::F16, Layout::BatchFirst, 25088);
        for ways in [ranked(&p, &GpuMachine::h100(), None), promising(&p, &GpuMachine::h100(), None)] {
            assert!(!ways.is_empty() && ways.iter().all(|way| matches!(way.choice, Choice::Kernel(_))));
        }
        let best = super::super::choose(&p, &GpuMachine::h100()).unwrap();
        let ours = ranked(&p, &GpuMachine::h100(), None).remove(0);
        assert_eq!(ours.seconds, best.seconds(&GpuMachine::h100()), "{ours}, {best}");
        let complex = GpuProblem { dtype: DType::C64, ..p };
        assert!(ranked(&complex, &GpuMachine::h100(), Some(1 << 30)).is_empty());
        assert!(promising(&complex, &GpuMachine::h100(), Some(1 << 30)).is_empty());
    }

    #[test]
    fn ways_are_in_order_and_named_once() {
        for (pattern, layout, batch) in [
            ("1,64,64,64", Layout::BatchFirst, 128),
            ("6,64,64,1", Layout::BatchLast, 25088),
            ("1,7,5,1", Layout::BatchFirst, 9),
        ] {
            for dtype in [DType::F16, DType::F32, DType::F64] {
                let p = problem(pattern, dtype, layout, batch);
                let all = ranked(&p, &GpuMachine::h100(), Some(1 << 30));
                assert!(all.windows(2).all(|pair| pair[0].seconds <= pair[1].seconds), "{p:?}");
                let mut names: Vec<&str> = all.iter().map(Ranked::name).collect();
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), all.len(), "{p:?}");
                assert!(all.iter().all(|way| way.seconds > 0.0 && way.seconds.is_finite()), "{p:?}");
                // One plain product is listed once, whatever it is called.
                let plain = pattern.starts_with("1,") && pattern.ends_with(",1");
                assert_eq!(
                    names.iter().filter(|name| ["dense", "strided", "permute-bmm"].contains(name)).count() == 1,
                    plain
                );
            }
        }
    }

    #[test]
    fn tiles_of_several_shapes_are_worth_a_measurement() {
        let p = problem("1,64,64,64", DType::F16, Layout::BatchFirst, 64);
        let ways = promising(&p, &GpuMachine::h100(), Some(1 << 30));
        let is_there = |what: &str| ways.iter().any(|way| way.choice.to_string().contains(what));
        // What was the fastest for 128 vectors on an H100.
        assert!(is_there("lanes_mma: 16 rows × 16 lanes × 16 outputs"), "{ways:#?}");
        assert!(is_there("lanes_mma: 16 rows × 8 lanes × 16 outputs") && is_there("narrow"), "{ways:#?}");
        let packings: HashSet<String> = ways
            .iter()
            .filter_map(|way| if let Choice::Kernel(plan) = &way.choice { Some(plan.packing()) } else { None })
            .collect();
        let kernels = ways.iter().filter(|way| matches!(way.choice, Choice::Kernel(_))).count();
        assert_eq!(packings.len(), kernels);
    }

    #[test]
    fn few_ways_are_worth_a_measurement_and_the_best_of_each_kind_is_among_them() {
        for (pattern, dtype, batch) in [
            ("1,64,64,64", DType::F16, 128),
            ("1,1024,1024,3", DType::F16, 25088),
            ("1,1024,1024,12", DType::F16, 25088),
            ("4,256,256,4", DType::F32, 25088),
            ("64,64,64,1", DType::F16, 64),
            ("3,5,7,11", DType::F64, 100),
        ] {
            let p = problem(pattern, dtype, Layout::BatchFirst, batch);
            let (all, some) =
                (ranked(&p, &GpuMachine::h100(), Some(1 << 30)), promising(&p, &GpuMachine::h100(), Some(1 << 30)));
            assert_eq!(all[0].seconds, some[0].seconds, "{pattern}");
            assert!((1..=KERNELS + 3).contains(&some.len()), "{pattern}: {}", some.len());
            let kernels = some.iter().filter(|way| matches!(way.choice, Choice::Kernel(_))).count();
            assert!((1..=KERNELS).contains(&kernels), "{pattern}: {kernels}");
            let best = super::super::choose(&p, &GpuMachine::h100()).unwrap().seconds(&GpuMachine::h100());
            assert!(some.iter().any(|way| matches!(way.choice, Choice::Kernel(_)) && way.seconds == best), "{pattern}");
            let libraries = all.iter().filter(|way| matches!(way.choice, Choice::Library(_)));
            for (rank, library) in libraries.enumerate() {
                let close = library.seconds <= WITHIN * all[0].seconds;
                assert_eq!(some.contains(library), close || rank == 0, "{pattern} {library}");
            }
        }
    }
}
