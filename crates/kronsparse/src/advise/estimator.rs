//! What chains cost for several cases at once, as far as that is known: the CPU's estimates are one formula, a GPU's come from
//! the planner part by part.

use super::planner::{self, Open, Planner};
use super::target::{Case, Cost};
use super::{Objective, Target};
use crate::{ChainPattern, Result};

/// The estimates of one target.
pub(super) struct Estimator<'a> {
    target: &'a Target,
    cases: &'a [Case],
    objective: Objective,
    /// One for each case; none for a CPU.
    planners: Vec<Planner<'a>>,
}

impl<'a> Estimator<'a> {
    pub(super) fn new(target: &'a Target, cases: &'a [Case], objective: Objective) -> Estimator<'a> {
        let planners = match target {
            Target::Gpu(gpu) => cases.iter().map(|case| Planner::new(gpu, *case)).collect(),
            Target::Cpu(_) => Vec::new(),
        };
        Estimator { target, cases, objective, planners }
    }

    /// What a chain costs in the unit of the objective with case `at`, or less, and whether it is the estimate itself. Of energy,
    /// seconds times watts, whether that is a basis for a figure or not: it only puts chains in order.
    pub(super) fn least(&self, at: usize, chain: &ChainPattern) -> Result<(f64, bool)> {
        let Some(planner) = self.planners.get(at) else {
            let cost = self.target.chain(chain, &self.cases[at])?;
            let least = if self.objective == Objective::Memory { cost.memory.bytes() } else { cost.seconds };
            return Ok((least, true));
        };
        let outline = planner.outline(chain);
        let is_planned = outline.open().next().is_none();
        let least = match self.objective {
            Objective::Time => outline.seconds,
            Objective::Energy => outline.joules,
            Objective::Memory => super::target::memory(chain, &self.cases[at], outline.hidden).bytes(),
        };
        Ok((least, is_planned))
    }

    /// The parts of a chain that stand between [`Estimator::least`] and the estimate, for the cases with these numbers.
    pub(super) fn open<'c>(&self, cases: &[usize], chain: &'c ChainPattern) -> Vec<(usize, Open<'c>)> {
        let parts = |at: usize| {
            let open: Vec<Open<'c>> = self.planners[at].outline(chain).open().collect();
            open.into_iter().map(move |part| (at, part))
        };
        cases.iter().copied().flat_map(parts).collect()
    }

    /// Plans parts, each for a case.
    pub(super) fn plan(&mut self, parts: Vec<(usize, Open<'_>)>) -> Result<()> {
        planner::plan(&mut self.planners, parts)
    }

    /// What each chain costs in each case.
    pub(super) fn costs(&mut self, chains: &[ChainPattern]) -> Result<Vec<Vec<Cost>>> {
        if !self.planners.is_empty() {
            return planner::costs(&mut self.planners, chains);
        }
        let of = |chain: &ChainPattern| self.cases.iter().map(|case| self.target.chain(chain, case)).collect();
        chains.iter().map(of).collect()
    }
}
