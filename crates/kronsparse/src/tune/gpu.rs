//! GPU plans by name: what the planner picks as steps of a record, and the plans that such steps name, found again among those that
//! the planner offers.

use std::sync::Arc;

use super::record::is_complete;
use super::{Machine, Record, Step, Store, nearest};
use crate::plan::Algorithm;
use crate::plan::gpu::{
    ChainPlan, ChainProblem, Choice, Cut, FusedPlan, GpuMachine, GpuPlan, GpuProblem, KernelPlan, Part, StepWay,
    libraries,
};

/// The name of the step that joins outputs.
const JOIN: &str = "join";

/// A step with its plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A kernel for one factor.
    Kernel(Box<GpuPlan>),
    /// A kernel for several factors.
    Fused(Box<FusedPlan>),
    /// An algorithm of the libraries, for one factor or for all.
    Library(Algorithm),
}

/// What [`steps`](find) of a record stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// In the order of application: which factors, and by what.
    pub steps: Vec<(Cut, Found)>,
    /// Whether outputs are joined in a pass of their own.
    pub pass: bool,
}

impl Step {
    /// A kernel for the factors of `cut`.
    pub fn kernel(cut: Cut, plan: &dyn KernelPlan) -> Step {
        let blocks = match plan.blocks_per_multiprocessor() {
            1 => String::new(),
            blocks => format!(", {blocks} blocks"),
        };
        let arguments = plan.arguments() + &blocks;
        Step { at: cut.at, count: cut.count, name: plan.name().into(), arguments }
    }
    /// A library's algorithm, or one of the CPU, for the factors of `cut`.
    pub fn algorithm(cut: Cut, algorithm: Algorithm) -> Step {
        Step { at: cut.at, count: cut.count, name: algorithm.name().into(), arguments: String::new() }
    }
    /// A pass that joins outputs.
    pub fn join() -> Step {
        Step { at: 0, count: 0, name: JOIN.into(), arguments: String::new() }
    }
}

/// What the planner picks, as a record names it.
pub fn steps(plan: &ChainPlan) -> Vec<Step> {
    let count = plan.problem().chain.patterns().len();
    let name = |step: &crate::plan::gpu::ChainStep<'_>| {
        let cut = match step.part {
            Part::Factor(at) => Cut { at, count: 1 },
            Part::Together(cut) => cut,
            Part::Whole | Part::Join => Cut { at: 0, count },
        };
        match step.way {
            StepWay::One(Choice::Kernel(plan)) => Step::kernel(cut, plan.as_ref()),
            StepWay::One(Choice::Library(algorithm)) => Step::algorithm(cut, *algorithm),
            StepWay::Several(plan) => Step::kernel(cut, plan.kernel()),
            StepWay::Pass(_) => Step::join(),
        }
    };
    plan.steps().iter().map(name).collect()
}

/// What a store has for a problem: the latest record of it, or of a number of vectors near it, by the rule of [`tune`](super), with its
/// best way. `None` where there is none, or none that is known to be no slower than what the planner picks now, which `plan` is asked for
/// where there is a record. The error says which step of the way does not exist any more.
pub fn remembered<'a>(
    store: &'a Store,
    here: &Machine,
    problem: &ChainProblem,
    plan: impl FnOnce() -> Option<Arc<ChainPlan>>,
) -> Result<Option<(&'a Record, Way)>, String> {
    let records = store.of_problem(here, problem);
    if records.is_empty() {
        return Ok(None);
    }
    let Some(plan) = plan() else { return Ok(None) };
    let now = steps(&plan);
    let measured = records.iter().filter_map(|(&n, record)| Some((n, record.gain_over(&now)?)));
    let Some(n) = nearest(measured, problem.batch, problem.layout) else { return Ok(None) };
    let record = records[&n];
    find(&record.best.steps, problem, plan.machine(), plan.libraries()).map(|way| Some((record, way)))
}

/// The plans that `steps` name, for a problem on a machine whose libraries may have so many bytes of weights, or that has none. The
/// error says which step does not exist there.
pub fn find(
    steps: &[Step],
    problem: &ChainProblem,
    machine: &GpuMachine,
    libraries: Option<usize>,
) -> Result<Way, String> {
    if !is_complete(steps, problem) {
        return Err(format!("the steps do not multiply by {} once", problem.chain));
    }
    let pass = steps.last().is_some_and(|step| step.count == 0);
    let problem = if pass { problem.before_join() } else { problem.clone() };
    let factors = problem.chain.patterns().len();
    let one = |step: &Step| {
        let cut = cut(step);
        let found = match step.count {
            1 => of_one(step, &problem.factor(step.at), machine, libraries),
            count if count == factors && step.name == Algorithm::Dense.name() => {
                problem.dense(machine, libraries).map(|_| Found::Library(Algorithm::Dense)).map_err(|r| r.to_string())
            }
            _ => {
                let plans = FusedPlan::candidates(&step.name, &problem.part(step.at, step.count), machine);
                let found = plans.into_iter().find(|plan| Step::kernel(cut, plan.kernel()) == *step);
                found.map(|plan| Found::Fused(Box::new(plan))).ok_or_else(|| NOT_OFFERED.into())
            }
        };
        found.map(|found| (cut, found)).map_err(|why| format!("{step}: {why}"))
    };
    let steps = steps.iter().filter(|step| step.count > 0).map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Way { steps, pass })
}

const NOT_OFFERED: &str = "the planner does not offer it here";

fn cut(step: &Step) -> Cut {
    Cut { at: step.at, count: step.count }
}

fn of_one(step: &Step, problem: &GpuProblem, machine: &GpuMachine, libraries: Option<usize>) -> Result<Found, String> {
    if let Ok(algorithm) = step.name.parse::<Algorithm>() {
        let limit = libraries.ok_or("there is no cuBLAS")?;
        libraries::fits(algorithm, problem, limit).map_err(|rejected| rejected.to_string())?;
        return Ok(Found::Library(algorithm));
    }
    let mut plans = GpuPlan::candidates(problem, machine).into_iter();
    let found = plans.find(|plan| plan.name() == step.name && Step::kernel(cut(step), plan) == *step);
    found.map(|plan| Found::Kernel(Box::new(plan))).ok_or_else(|| NOT_OFFERED.into())
}

#[cfg(test)]
mod tests;
