//! A GPU's estimates for the parts of many chains: each part is planned once, however many chains have it; of a part that is not
//! planned yet, the least that planning it can give.
//!
//! Planning one factor takes about 20 ms, and a shape has thousands: a search by bounds plans a few dozen of them.

use std::collections::HashMap;

use rayon::prelude::*;

use super::target::{Case, Cost, Gpu, cost};
use super::{bounds, energy};
use crate::plan::gpu::{
    CALL, Choice, Cut, FusedPlan, GpuProblem, StepWay, cuts, libraries as library, ranked, ranked_beside,
};
use crate::{Activation, ChainPattern, Error, Join, Pattern, Result};

/// The estimates of this project's kernels for one factor are at least so many times a launch plus the larger of bytes and
/// operations at the machine's rates, but for few: a test draws patterns and holds them to it.
const KERNEL: f64 = 1.25;
/// Seconds of a launch of one factor.
const LAUNCH: f64 = 1.5e-6;

/// How one part is multiplied by.
#[derive(Clone, Debug)]
struct Step {
    seconds: f64,
    watts: f64,
    /// The kernel's family, or the library's algorithm, for people.
    name: String,
}

/// Who multiplies by a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum By {
    /// The best for one factor that is a chain.
    One,
    /// The best for one factor of several.
    Beside,
    /// A family of kernels for several factors, by its place in [`FusedPlan::FAMILIES`].
    Several(usize),
}

impl By {
    /// Who multiplies by one factor of so many.
    fn one_of(factors: usize) -> By {
        if factors == 1 { By::One } else { By::Beside }
    }
}

/// A way of multiplying by a part of a chain, not planned yet.
pub(super) type Open<'c> = (By, &'c [Pattern]);

/// The estimates for one case.
pub(super) struct Planner<'a> {
    gpu: &'a Gpu,
    case: Case,
    /// By the patterns of a part; `None` where it cannot be multiplied by in this way.
    planned: HashMap<By, HashMap<Box<[Pattern]>, Option<Step>>>,
}

/// The fastest cuts of a chain as far as its parts are planned.
pub(super) struct Outline<'c> {
    /// In the order of application.
    steps: Vec<(Open<'c>, Option<Step>)>,
    /// Estimated seconds; less than the estimate can be, where a part is not planned.
    pub(super) seconds: f64,
    /// Joules, with the least power that was measured where a part is not planned.
    pub(super) joules: f64,
    /// Numbers per vector of every set of hidden vectors that is written to memory.
    pub(super) hidden: Vec<usize>,
}

impl<'c> Outline<'c> {
    /// The parts that are not planned.
    pub(super) fn open(&self) -> impl Iterator<Item = Open<'c>> {
        self.steps.iter().filter(|(_, step)| step.is_none()).map(|(part, _)| *part)
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(gpu: &'a Gpu, case: Case) -> Planner<'a> {
        Planner { gpu, case, planned: HashMap::new() }
    }

    fn planned(&self, by: By, part: &[Pattern]) -> Option<&Option<Step>> {
        self.planned.get(&by)?.get(part)
    }

    /// The fastest way for a part of a chain of so many factors, and its seconds, or the least that they can be.
    fn fastest(&self, part: &[Pattern], factors: usize) -> Option<(By, f64)> {
        let seconds = |by: By| match self.planned(by, part) {
            Some(step) => step.as_ref().map(|step| (by, step.seconds)),
            None => self.least(by, part).map(|seconds| (by, seconds)),
        };
        if part.len() == 1 {
            return seconds(By::one_of(factors));
        }
        let families = (0..FusedPlan::FAMILIES.len()).filter_map(|family| seconds(By::Several(family)));
        families.min_by(|x, y| x.1.total_cmp(&y.1))
    }

    /// The fastest cuts, by estimates and, where there are none yet, by the least that they can be.
    pub(super) fn outline<'c>(&self, chain: &'c ChainPattern) -> Outline<'c> {
        let patterns = chain.patterns();
        let of = |part| self.fastest(part, patterns.len());
        let (cuts, seconds) = cuts(patterns.len(), |at, count| Some(of(&patterns[at..at + count])?.1));
        let step = |cut: &Cut| {
            let part = &patterns[cut.at..cut.at + cut.count];
            let (by, seconds) = of(part)?;
            let planned = self.planned(by, part).cloned().flatten();
            let watts = planned.as_ref().map_or(energy::PERMUTE_BMM, |step| step.watts);
            Some((((by, part), planned), seconds * watts))
        };
        let (steps, joules): (Vec<_>, Vec<f64>) = cuts.iter().filter_map(step).unzip();
        let hidden = cuts[..cuts.len() - 1].iter().map(|cut| patterns[cut.at].rows()).collect();
        Outline { steps, seconds: seconds + CALL, joules: joules.iter().sum(), hidden }
    }

    /// What planning a part gives, without keeping it. Errors: no kernel multiplies such numbers.
    fn step(&self, by: By, part: &[Pattern]) -> Result<Option<Step>> {
        let machine = &self.gpu.machine;
        let problem = self.gpu.problem(&ChainPattern::new(part.to_vec())?, &self.case);
        if let By::Several(family) = by {
            let plan = FusedPlan::family(FusedPlan::FAMILIES[family], &problem, machine).ok();
            return Ok(plan.map(|plan| Step {
                seconds: plan.seconds(),
                watts: energy::watts(StepWay::Several(&plan), machine),
                name: format!("{} ({} factors)", plan.name(), part.len()),
            }));
        }
        let ranked = if by == By::One { ranked } else { ranked_beside };
        let best = ranked(&problem.factor(0), machine, self.gpu.library_bytes()).into_iter().next();
        let best = best.ok_or_else(|| Error::Unsupported {
            what: format!("{} on {}", problem.chain, self.gpu.name),
            why: format!("no kernel multiplies {}", self.case.dtype),
        })?;
        let name = match best.choice {
            Choice::Library(_) => format!("{} (cuBLAS)", best.name()),
            Choice::Kernel(_) => best.name().to_owned(),
        };
        Ok(Some(Step { seconds: best.seconds, watts: energy::watts(StepWay::One(&best.choice), machine), name }))
    }

    /// What a chain costs, all of whose fastest parts are planned.
    fn cost(&self, chain: &ChainPattern) -> Cost {
        let Outline { steps, seconds, joules, hidden } = self.outline(chain);
        let how = steps.into_iter().filter_map(|(_, step)| Some(step?.name)).collect();
        let joules = self.gpu.joules(&self.case, seconds, joules);
        cost(chain, &self.case, seconds, joules, hidden, how)
    }

    /// The least that an estimate of a part can be, or nearly: see [`KERNEL`] and [`bounds`]. What a library takes for one factor is
    /// exact, but for what it takes longer beside others. `None` where there is no such way.
    fn least(&self, by: By, part: &[Pattern]) -> Option<f64> {
        let (machine, Case { dtype, precision, layout, batch }) = (&self.gpu.machine, self.case);
        if let By::Several(family) = by {
            return bounds::of_several(FusedPlan::FAMILIES[family], part, &self.case, machine);
        }
        let &[pattern] = part else { return None };
        let (activation, join, aligned, bias) = (Activation::None, Join::None, true, false);
        let problem = GpuProblem { pattern, dtype, precision, layout, batch, aligned, bias, activation, join };
        let memory = problem.bytes() / machine.bytes_per_second;
        let kernel = KERNEL * (LAUNCH + memory.max(problem.flops() / machine.flops.peak(dtype, precision)));
        let Some(limit) = self.gpu.library_bytes() else { return Some(kernel) };
        let libraries = library::ALGORITHMS.into_iter();
        Some(libraries.filter_map(|a| library::seconds(a, &problem, machine, limit)).fold(kernel, f64::min))
    }
}

/// Plans parts, each for the case with its number, on all threads; what is planned already, and what comes twice, once.
pub(super) fn plan(planners: &mut [Planner<'_>], mut parts: Vec<(usize, Open<'_>)>) -> Result<()> {
    parts.sort_unstable();
    parts.dedup();
    parts.retain(|(at, (by, part))| planners[*at].planned(*by, part).is_none());
    let steps = parts.into_par_iter().map(|(at, (by, part))| Ok((at, by, part, planners[at].step(by, part)?)));
    for (at, by, part, step) in steps.collect::<Result<Vec<_>>>()? {
        planners[at].planned.entry(by).or_default().insert(part.into(), step);
    }
    Ok(())
}

/// What each chain costs in each case, as [`ChainPlan`](crate::plan::gpu::ChainPlan) has it: all factors are planned, and of several
/// together what could be faster, since their bounds hold.
pub(super) fn costs(planners: &mut [Planner<'_>], chains: &[ChainPattern]) -> Result<Vec<Vec<Cost>>> {
    let count = planners.len();
    let factors = chains.iter().flat_map(|chain| {
        let by = By::one_of(chain.patterns().len());
        chain.patterns().chunks(1).map(move |part| (by, part))
    });
    plan(planners, factors.flat_map(|part| (0..count).map(move |at| (at, part))).collect())?;
    loop {
        let open = |(at, planner): (usize, &Planner<'_>)| {
            let parts = chains.iter().flat_map(|chain| planner.outline(chain).open().collect::<Vec<_>>());
            parts.map(|part| (at, part)).collect::<Vec<_>>()
        };
        let parts: Vec<_> = planners.iter().enumerate().flat_map(open).collect();
        if parts.is_empty() {
            break;
        }
        plan(planners, parts)?;
    }
    Ok(chains.iter().map(|chain| planners.iter().map(|planner| planner.cost(chain)).collect()).collect())
}

#[cfg(test)]
mod tests;
