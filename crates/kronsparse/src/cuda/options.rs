//! How a GPU operator multiplies: what a caller may decide.

use std::fmt;
use std::sync::Arc;

use crate::plan::gpu::{self, ChainProblem, FusedPlan, GpuMachine, GpuPlan, GpuProblem, Precision, Rejected};
use crate::plan::{Activation, Algorithm, Hidden, Join};
use crate::tune::Tuning;
use crate::{Error, Result};

/// A function that picks a plan.
pub type Planner = dyn Fn(&GpuProblem, &GpuMachine) -> std::result::Result<GpuPlan, Rejected> + Send + Sync;

/// A function that picks a plan for several factors.
pub type FusedPlanner = dyn Fn(&ChainProblem, &GpuMachine) -> std::result::Result<FusedPlan, Rejected> + Send + Sync;

/// Who picks the plan of each factor.
#[derive(Clone, Default)]
pub enum Plans {
    /// The planner: the least estimated time.
    #[default]
    Best,
    /// The planner within one kernel family, by its name; an error where the family has no legal tile. The families of
    /// [`FusedPlan`] multiply by as many factors at a time as they can, and what is left over goes by the planner's choice.
    Family(String),
    /// This function.
    Custom(Arc<Planner>),
    /// This function, for as many factors at a time as it has a plan for; what is left over goes by the planner's choice.
    Fused(Arc<FusedPlanner>),
}

impl Plans {
    pub(super) fn pick(&self, problem: &GpuProblem, machine: &GpuMachine) -> Result<GpuPlan> {
        let picked = match self {
            Plans::Best => gpu::choose(problem, machine),
            // What no kernel for several factors takes.
            Plans::Family(name) if FusedPlan::FAMILIES.contains(&name.as_str()) => gpu::choose(problem, machine),
            Plans::Family(name) => gpu::family(name, problem, machine),
            Plans::Custom(planner) => planner(problem, machine),
            Plans::Fused(_) => gpu::choose(problem, machine),
        };
        picked.map_err(|rejected| Error::Unsupported {
            what: format!("multiplying by {} in {} on this GPU", problem.pattern, problem.dtype),
            why: rejected.to_string(),
        })
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plans::Best => f.write_str("Best"),
            Plans::Family(name) => write!(f, "Family({name})"),
            Plans::Custom(_) => f.write_str("Custom"),
            Plans::Fused(_) => f.write_str("Fused"),
        }
    }
}

/// How an [`Operator`](super::Operator) multiplies. Every field has a default.
#[derive(Clone, Debug)]
pub struct Options<T> {
    /// Added to every output vector: one number per row of the chain.
    pub bias: Option<Vec<T>>,
    /// Applied after the bias.
    pub activation: Activation,
    /// What the activated outputs are joined with before they are stored: by the last kernel where it can, or else in a pass of its own.
    pub join: Join,
    /// [`Algorithm::Auto`]: what was the fastest when it was measured (see [`Options::tuning`] and
    /// [`Operator::tune`](super::Operator::tune)), or for each factor the kernel or library algorithm with the least estimated time, or
    /// dense for all factors together. [`Algorithm::Fused`]: this project's kernels only. Others of
    /// [`Algorithm::on_gpu`]: that algorithm of the libraries.
    pub algorithm: Algorithm,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Whether the vectors between the factors of a 16-bit chain are rounded to its type. [`Algorithm::Dense`] has none.
    pub hidden: Hidden,
    /// Who picks the plans of this project's kernels; with anything but [`Plans::Best`], [`Algorithm::Auto`] is
    /// [`Algorithm::Fused`].
    pub plans: Plans,
    /// Bytes of weights, as the algorithm stores them, above which a library's algorithm is refused, or not considered.
    pub memory_limit: usize,
    /// Off by default, since its gain has not been measured: whether [`Algorithm::Auto`] with [`Plans::Best`] may multiply small neighbouring factors together
    /// once, as [`groups`](crate::plan::gpu::groups) says: products are formed in f64 and rounded to `T`, and the hidden vectors
    /// between such factors, with their roundings, are gone; infinite inputs may give NaN where they gave none, as with dense.
    pub combine: bool,
    /// Where [`Algorithm::Auto`] with [`Plans::Best`] looks for what was measured.
    pub tuning: Tuning,
}

impl<T> Default for Options<T> {
    fn default() -> Self {
        Options {
            bias: None,
            activation: Activation::None,
            join: Join::None,
            algorithm: Algorithm::Auto,
            precision: Precision::Full,
            hidden: Hidden::Rounded,
            plans: Plans::Best,
            memory_limit: 4 << 30,
            combine: false,
            tuning: Tuning::OfUser,
        }
    }
}
