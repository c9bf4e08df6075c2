//! Several factors of a chain by one kernel: the problem as the planner sees it, and the kernel made ready.

use std::sync::Arc;

use super::launch::Launch;
use super::memory::Buffer;
use super::operator::Operator;
use super::options::Plans;
use super::prepared::{Key, Shared};
use super::step::{Step, Way};
use crate::plan::Join;
use crate::plan::gpu::{Cut, FusedPlan, Rejected, cuts};
use crate::{Error, Result, Scalar};

impl<T: Scalar> Operator<T> {
    /// Whether somebody asks for kernels for several factors.
    fn forced(&self) -> bool {
        match &self.plans {
            Plans::Family(name) => FusedPlan::FAMILIES.contains(&name.as_str()),
            Plans::Fused(_) => true,
            Plans::Best | Plans::Custom(_) => false,
        }
    }

    /// The best plan for the factors of `cut`.
    fn fused_plan(&self, cut: Cut, key: Key) -> std::result::Result<FusedPlan, Rejected> {
        let (problem, machine) = (self.chain_problem(key).part(cut.at, cut.count), self.device.machine());
        match &self.plans {
            Plans::Family(name) => FusedPlan::family(name, &problem, machine),
            Plans::Fused(planner) => planner(&problem, machine),
            Plans::Best | Plans::Custom(_) => FusedPlan::choose(&problem, machine),
        }
    }

    /// How the factors are called.
    pub(super) fn fused_name(&self, cut: Cut) -> String {
        let patterns = self.chain.factors()[cut.at..cut.at + cut.count].iter();
        patterns.map(|factor| factor.pattern().to_string()).collect::<Vec<_>>().join(" after ")
    }

    /// A kernel for the factors of `cut`, by the best plan.
    pub(super) fn together(&self, cut: Cut, key: Key, shared: &mut Shared<T>) -> Result<Step<T>> {
        let plan = self.fused_plan(cut, key).map_err(|rejected| Error::Unsupported {
            what: format!("multiplying by {} in {} in one kernel", self.fused_name(cut), T::DTYPE),
            why: rejected.to_string(),
        })?;
        self.fused(cut, plan, key, shared)
    }

    /// The kernel of a plan for the factors of `cut`.
    pub(super) fn fused(&self, cut: Cut, plan: FusedPlan, key: Key, shared: &mut Shared<T>) -> Result<Step<T>> {
        let launch = Launch::new(&self.device, plan.kernel(), key.n)?;
        let name = (cut.at, format!("{} {}", cut.count, plan.packing()));
        let weights = match shared.weights.get(&name) {
            Some(weights) => weights.clone(),
            None => {
                let factors = self.chain.factors()[cut.at..cut.at + cut.count].iter().rev();
                let packed = plan.pack(&factors.map(|factor| factor.weights()).collect::<Vec<_>>())?;
                let weights = Arc::new(Buffer::from_slice(&self.device, &packed)?);
                shared.weights.insert(name, weights.clone());
                weights
            }
        };
        let why = format!("estimated {:.2} µs", plan.seconds() * 1e6);
        let blocks = plan.kernel().grid(key.n);
        let way = Way::Kernel { plan: plan.into_kernel(), weights, launch, blocks };
        Ok(Step { what: self.fused_name(cut), cut, way, why })
    }

    /// The chain by this project's kernels alone, in the order of application.
    pub(super) fn by_kernels(&self, key: Key, shared: &mut Shared<T>) -> Result<Vec<Step<T>>> {
        let count = self.chain.factors().len();
        // A kernel for several factors may join outputs that none for one factor does.
        let joined = |at: usize| at == 0 && self.join != Join::None && !key.apart;
        let single = |at: usize| match self.planned_seconds(at, key) {
            Err(Error::Unsupported { .. }) if joined(at) => Ok(None),
            seconds => seconds.map(Some),
        };
        let singles = (0..count).map(single).collect::<Result<Vec<_>>>()?;
        // Who asks for a family for several factors gets it wherever it has a plan, for as many factors as it takes.
        let forced = self.forced();
        let several = forced || matches!(self.plans, Plans::Best);
        let seconds = |at: usize, several_factors: usize| match several_factors {
            1 if forced => singles[at].map(|seconds| FORCED * seconds.max(1.0)),
            1 => singles[at],
            count if several => self.fused_plan(Cut { at, count }, key).ok().map(|plan| plan.seconds()),
            _ => None,
        };
        let (found, all) = cuts(count, seconds);
        if !all.is_finite() {
            return Err(Error::Unsupported {
                what: format!("multiplying by {} in {}", self.pattern(), T::DTYPE),
                why: format!("no kernel joins the {}", self.join),
            });
        }
        let steps = found.into_iter().map(|cut| match cut.count {
            1 => self.planned(cut.at, key, shared),
            _ => self.together(cut, key, shared),
        });
        steps.collect()
    }
}

/// Seconds of a single factor where somebody asks for kernels for several: more than any kernel takes.
const FORCED: f64 = 1e9;
