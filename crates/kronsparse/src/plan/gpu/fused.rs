//! Kernels that multiply by several consecutive factors: which there are, and which one is the fastest.

use std::fmt;

use super::chain_mma::ChainMmaPlan;
use super::chain_wgmma::ChainWgmmaPlan;
use super::pair_wgmma::PairPlan;
use super::{ChainProblem, GpuMachine, KernelPlan, Rejected, WITHIN};
use crate::{Result, Scalar};

/// Plans of a family that are measured.
const MEASURED: usize = 3;

/// Plans in the order of their estimates, the fastest first.
pub(super) fn fastest_first<P>(plans: impl Iterator<Item = P>, seconds: impl Fn(&P) -> f64) -> Vec<P> {
    let mut plans: Vec<(f64, P)> = plans.map(|plan| (seconds(&plan), plan)).collect();
    plans.sort_by(|p, q| p.0.total_cmp(&q.0));
    plans.into_iter().map(|(_, plan)| plan).collect()
}

/// Makes [`FusedPlan`] from the list of families: one variant each, and every question passed on.
macro_rules! families {
    ($($variant:ident $plan:ident;)*) => {
        /// A legal way of multiplying by two factors or more with one kernel. Each variant is a kernel family.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum FusedPlan {
            $(
                #[doc = concat!("See [`", stringify!($plan), "`].")]
                $variant($plan),
            )*
        }

        impl FusedPlan {
            /// The names of all families.
            pub const FAMILIES: &'static [&'static str] = &[$($plan::NAME),*];

            /// The fastest plan of the family called `name`; the error says why there is none.
            pub fn family(
                name: &str,
                problem: &ChainProblem,
                machine: &GpuMachine,
            ) -> std::result::Result<FusedPlan, Rejected> {
                match name {
                    $($plan::NAME => $plan::choose(problem, machine).map(FusedPlan::$variant),)*
                    _ => Err(Rejected::Rule(format!(
                        "there is no family {name} of kernels for several factors; there are {:?}", Self::FAMILIES
                    ))),
                }
            }
            /// The plans of the family called `name` that are tried, the fastest by estimate first; none where it has none.
            pub fn candidates(name: &str, problem: &ChainProblem, machine: &GpuMachine) -> Vec<FusedPlan> {
                match name {
                    $($plan::NAME => {
                        $plan::candidates(problem, machine).into_iter().map(FusedPlan::$variant).collect()
                    })*
                    _ => Vec::new(),
                }
            }
            /// The few plans that are worth a measurement: the best of each family by estimate, none much slower than the
            /// best of all.
            pub fn promising(problem: &ChainProblem, machine: &GpuMachine) -> Vec<FusedPlan> {
                let mut plans: Vec<FusedPlan> = Vec::new();
                $(plans.extend($plan::candidates(problem, machine).into_iter().take(MEASURED).map(FusedPlan::$variant));)*
                plans.sort_by(|p, q| p.seconds().total_cmp(&q.seconds()));
                let least = plans.first().map_or(0.0, FusedPlan::seconds);
                plans.retain(|plan| plan.seconds() <= WITHIN * least);
                plans
            }
            /// What is multiplied.
            pub fn problem(&self) -> &ChainProblem {
                match self { $(FusedPlan::$variant(plan) => plan.problem()),* }
            }
            /// Estimated seconds for `problem().batch` vectors.
            pub fn seconds(&self) -> f64 {
                match self { $(FusedPlan::$variant(plan) => plan.seconds()),* }
            }
            /// Names the order of the packed weights: two plans of the same factors with one name share a packed copy.
            pub fn packing(&self) -> String {
                match self { $(FusedPlan::$variant(plan) => plan.packing()),* }
            }
            /// The weights of all factors in the kernel's order: one array per factor, in the order of application, of shape
            /// `(a, b, c, d)` in C order.
            pub fn pack<T: Scalar>(&self, weights: &[&[T]]) -> Result<Vec<T>> {
                match self { $(FusedPlan::$variant(plan) => plan.pack(weights)),* }
            }
            /// What the engine asks of any plan.
            pub fn kernel(&self) -> &dyn KernelPlan {
                match self { $(FusedPlan::$variant(plan) => plan),* }
            }
            /// The same, to keep.
            pub fn into_kernel(self) -> Box<dyn KernelPlan> {
                match self { $(FusedPlan::$variant(plan) => Box::new(plan)),* }
            }
        }
    };
}

families! {
    Pair PairPlan;
    ChainWgmma ChainWgmmaPlan;
    ChainMma ChainMmaPlan;
}

impl FusedPlan {
    /// The fastest plan, or why each family has none.
    pub fn choose(problem: &ChainProblem, machine: &GpuMachine) -> std::result::Result<FusedPlan, Rejected> {
        let (mut best, mut refused) = (None::<FusedPlan>, Vec::new());
        for &name in Self::FAMILIES {
            match Self::family(name, problem, machine) {
                Ok(plan) if best.as_ref().is_none_or(|best| plan.seconds() < best.seconds()) => best = Some(plan),
                Ok(_) => {}
                Err(why) => refused.push(format!("{name}: {why}")),
            }
        }
        best.ok_or_else(|| Rejected::Rule(refused.join("; ")))
    }

    /// The family's name.
    pub fn name(&self) -> &'static str {
        self.kernel().name()
    }
}

impl fmt::Display for FusedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kernel().fmt(f)
    }
}
