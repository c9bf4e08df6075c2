//! Two factors of a chain by one kernel: the problem as the planner sees it, and the kernel made ready.

use std::sync::Arc;

use super::launch::Launch;
use super::memory::Buffer;
use super::operator::{Key, Operator, Shared};
use super::options::Plans;
use super::step::{Step, Way};
use crate::plan::gpu::{Cut, KernelPlan, PairPlan, Rejected, cuts};
use crate::{Error, Result, Scalar};

impl<T: Scalar> Operator<T> {
    /// Whether kernels for two factors are considered, or asked for.
    fn may_pair(&self) -> bool {
        matches!(self.plans, Plans::Best)
    }
    fn forced_pairs(&self) -> bool {
        matches!(&self.plans, Plans::Family(name) if name == PairPlan::NAME)
    }

    /// The best plan for factor `at + 1` and then factor `at`.
    fn pair_plan(&self, at: usize, key: Key) -> std::result::Result<PairPlan, Rejected> {
        PairPlan::choose(&self.chain_problem(key).pair(at), self.device.machine())
    }

    /// How a pair is called.
    fn pair_name(&self, at: usize) -> String {
        let pattern = |at: usize| self.chain.factors()[at].pattern();
        format!("{} after {}", pattern(at), pattern(at + 1))
    }

    /// The estimates of all pairs that one kernel multiplies by, by the place of their left factor.
    fn pair_seconds(&self, key: Key) -> Vec<Option<f64>> {
        let pairs = 0..self.chain.factors().len() - 1;
        pairs.map(|at| self.pair_plan(at, key).ok().map(|plan| plan.seconds())).collect()
    }

    /// A kernel for factors `at + 1` and `at`, by the best plan.
    pub(super) fn pair(&self, at: usize, key: Key, shared: &mut Shared<T>) -> Result<Step<T>> {
        let plan = self.pair_plan(at, key).map_err(|rejected| Error::Unsupported {
            what: format!("multiplying by {} in {} in one kernel", self.pair_name(at), T::DTYPE),
            why: rejected.to_string(),
        })?;
        let launch = Launch::new(&self.device, &plan, key.n)?;
        let name = (at, plan.packing());
        let weights = match shared.weights.get(&name) {
            Some(weights) => weights.clone(),
            None => {
                let factors = self.chain.factors();
                let packed = plan.pack(factors[at + 1].weights(), factors[at].weights())?;
                let weights = Arc::new(Buffer::from_slice(&self.device, &packed)?);
                shared.weights.insert(name, weights.clone());
                weights
            }
        };
        let why = format!("estimated {:.2} µs", plan.seconds() * 1e6);
        let blocks = plan.grid(key.n);
        Ok(Step { what: self.pair_name(at), way: Way::Kernel { plan: Box::new(plan), weights, launch, blocks }, why })
    }

    /// The chain by this project's kernels alone, in the order of application.
    pub(super) fn by_kernels(&self, key: Key, shared: &mut Shared<T>) -> Result<Vec<Step<T>>> {
        let count = self.chain.factors().len();
        let found = match self.forced_pairs() {
            // Pairs from the right end on; what is left over by itself.
            true => (0..count / 2)
                .map(|k| Cut::Pair(count - 2 - 2 * k))
                .chain((count % 2 == 1).then_some(Cut::Factor(0)))
                .collect(),
            false => {
                let seconds = (0..count).map(|at| self.planned_seconds(at, key)).collect::<Result<Vec<_>>>()?;
                let pairs = if self.may_pair() { self.pair_seconds(key) } else { Vec::new() };
                cuts(&seconds, &pairs).0
            }
        };
        let steps = found.into_iter().map(|cut| match cut {
            Cut::Factor(at) => self.planned(at, key, shared),
            Cut::Pair(at) => self.pair(at, key, shared),
        });
        steps.collect()
    }
}
