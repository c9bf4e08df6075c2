//! The ways of a problem on a GPU that could be the fastest, by their steps as records name them.

use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{
    CALL, ChainPlan, ChainProblem, Choice, Cut, FusedPlan, GpuPlan, Ranked, beside, libraries, promising_of,
};
use kronsparse::tune::Step;

/// Ways of each factor of a chain that are combined with those of the other one.
const EACH: usize = 3;

/// How a way is asked for.
#[derive(Clone, Debug)]
pub(super) enum By {
    /// A kernel for each factor, in the order of application.
    Kernels(Vec<GpuPlan>),
    /// One kernel for all factors.
    Fused(Box<FusedPlan>),
    /// An algorithm of the libraries for the whole chain.
    Library(Algorithm),
    /// Kernels and libraries mixed, by a store that says so.
    Stored,
}

/// A way with its estimate.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) steps: Vec<Step>,
    /// Seconds; none of what was found by measuring and is not among the promising ones.
    pub(super) predicted: Option<f64>,
    /// Whether it multiplies by the whole matrix.
    pub(super) dense: bool,
    pub(super) by: By,
}

impl Way {
    /// A way that a record names.
    pub(super) fn named(steps: Vec<Step>, predicted: Option<f64>, factors: usize) -> Way {
        let dense = matches!(&steps[..], [step] if step.count == factors && step.name == Algorithm::Dense.name());
        Way { steps, predicted, dense, by: By::Stored }
    }
}

/// All that are worth a measurement, up to `kernels` for one factor, and dense in any case where it exists.
pub(super) fn all(plan: &ChainPlan, kernels: usize) -> Vec<Way> {
    let problem = plan.problem();
    let count = problem.chain.patterns().len();
    let mut ways = if count == 1 { of_one(plan, kernels) } else { of_two(plan, kernels) };
    let dense = match (count, plan.libraries()) {
        (1, Some(limit)) => libraries::seconds(Algorithm::Dense, &problem.factor(0), plan.machine(), limit),
        _ => plan.dense().ok().map(|dense| dense.seconds),
    };
    if let Some(seconds) = dense
        && !ways.iter().any(|way| way.dense)
    {
        let steps = vec![Step::algorithm(Cut { at: 0, count }, Algorithm::Dense)];
        let by = By::Library(Algorithm::Dense);
        ways.push(Way { by, ..Way::named(steps, Some(CALL + seconds), count) });
    }
    ways
}

fn of_one(plan: &ChainPlan, kernels: usize) -> Vec<Way> {
    let ways = promising_of(&plan.problem().factor(0), plan.machine(), plan.libraries(), kernels);
    let way = |ranked: Ranked| {
        let (step, by) = match ranked.choice.clone() {
            Choice::Kernel(plan) => (step(0, &ranked), By::Kernels(vec![*plan])),
            Choice::Library(algorithm) => (step(0, &ranked), By::Library(algorithm)),
        };
        Way { by, ..Way::named(vec![step], Some(CALL + ranked.seconds), 1) }
    };
    ways.into_iter().map(way).collect()
}

fn of_two(plan: &ChainPlan, kernels: usize) -> Vec<Way> {
    let (problem, machine) = (plan.problem(), plan.machine());
    let of = |at: usize| -> Vec<Ranked> {
        let ways = promising_of(&problem.factor(at), machine, plan.libraries(), kernels.min(EACH));
        let mut ways: Vec<Ranked> = ways.into_iter().map(beside).collect();
        ways.sort_by(|p, q| p.seconds.total_cmp(&q.seconds));
        ways.truncate(EACH);
        ways
    };
    let (first, second) = (of(1), of(0));
    let mut ways = Vec::new();
    for (one, other) in first.iter().flat_map(|one| second.iter().map(move |other| (one, other))) {
        let by = match (&one.choice, &other.choice) {
            // Plans of one problem cannot be told apart when they are asked for.
            (Choice::Kernel(p), Choice::Kernel(q)) if p.problem() == q.problem() && p != q => continue,
            (Choice::Kernel(p), Choice::Kernel(q)) => By::Kernels(vec![p.as_ref().clone(), q.as_ref().clone()]),
            _ => By::Stored,
        };
        let seconds = CALL + one.seconds + other.seconds;
        ways.push(Way { by, ..Way::named(vec![step(1, one), step(0, other)], Some(seconds), 2) });
    }
    for fused in FusedPlan::promising(&whole(problem), machine) {
        let steps = vec![Step::kernel(Cut { at: 0, count: 2 }, fused.kernel())];
        let seconds = CALL + fused.seconds();
        ways.push(Way { by: By::Fused(Box::new(fused)), ..Way::named(steps, Some(seconds), 2) });
    }
    ways
}

/// All factors as the planner sees them together.
fn whole(problem: &ChainProblem) -> ChainProblem {
    problem.part(0, problem.chain.patterns().len())
}

fn step(at: usize, way: &Ranked) -> Step {
    let cut = Cut { at, count: 1 };
    match &way.choice {
        Choice::Kernel(plan) => Step::kernel(cut, plan.as_ref()),
        Choice::Library(algorithm) => Step::algorithm(cut, *algorithm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::{Device, Settings};
    use kronsparse::plan::gpu::GpuMachine;
    use kronsparse::tune::gpu::{find, steps};

    #[test]
    fn every_way_exists_once_and_what_is_picked_is_among_them() {
        let seed = crate::random::Random::fresh_seed();
        println!("seed {seed}");
        let (settings, machine, limit) = (Settings::new(Device::Cuda(0), seed), GpuMachine::h100(), Some(1 << 30));
        let (mut chains, mut dense) = (0, 0);
        // One in five has two factors: so many that some have.
        for number in 0..64 {
            let problem = super::super::cuda::problem(&settings.problem(number));
            let plan = ChainPlan::new(&problem, &machine, limit).unwrap();
            let ways = all(&plan, 6);
            for way in &ways {
                let found = find(&way.steps, &problem, &machine, limit);
                assert!(found.is_ok(), "{problem:?} {:?}: {found:?}", way.steps);
                assert_eq!(
                    ways.iter().filter(|other| other.steps == way.steps).count(),
                    1,
                    "{problem:?} {:?}",
                    way.steps
                );
            }
            let picked = ways.iter().find(|way| way.steps == steps(&plan)).unwrap_or_else(|| panic!("{problem:?}"));
            let seconds = picked.predicted.unwrap();
            assert!((seconds / plan.seconds() - 1.0).abs() < 1e-9, "{problem:?}: {seconds} {}", plan.seconds());
            let least = ways.iter().filter_map(|way| way.predicted).fold(f64::INFINITY, f64::min);
            assert!(least >= seconds * 0.999_999, "{problem:?}: {least} {seconds}");
            chains += usize::from(problem.chain.patterns().len() == 2);
            dense += ways.iter().filter(|way| way.dense).count();
        }
        assert!(chains > 0 && dense >= 48, "{chains} chains, {dense} dense");
    }
}
