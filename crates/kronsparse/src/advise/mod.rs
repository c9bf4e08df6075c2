//! When a chain pays, and which: for a shape or a model, what the chains of a parameter budget cost against the dense matrix,
//! and a recommendation in plain words, "stay dense" included.
//!
//! [`advise()`] goes through these steps, one file each:
//!
//! 1. [`Search`]: the chains of the shape within a [`Budget`], and [`ranks::splits`]: the ranks that each of them allows.
//! 2. [`Target`]: what a chain costs, by the planner's estimates for a GPU ([`crate::plan::gpu::ChainPlan`]), by a roofline of
//!    measured ceilings ([`Calibration`]) for a CPU; joules where there is a basis for them.
//! 3. `shortlist`: the best of every family and size, without those that another chain beats in parameters, ranks and time at
//!    once. `explore` finds them by bounds, so that few of thousands of chains are planned in full (`planner`).
//! 4. [`Verdict`]: which is best for each number of vectors and for all together, by how much, or why to stay dense. Where
//!    somebody measured ([`Advice::set_measured`]), the measured figures decide.
//!
//! ```
//! use kronsparse::advise::{Gpu, Options, Target, advise};
//! use kronsparse::{DType, plan::gpu::Precision};
//! let options = Options { batches: vec![25088], ..Options::default() };
//! let target = Target::Gpu(Box::new(Gpu::h100()));
//! let advice = advise(1024, 1024, DType::F16, Precision::Full, &options, &target)?;
//! let verdict = &advice.verdicts()[0];
//! println!("{}", verdict.sentence);
//! assert_eq!(verdict.stay_dense, verdict.gain < 1.05);
//! # Ok::<(), kronsparse::Error>(())
//! ```

mod bounds;
mod calibration;
mod candidate;
pub mod cpu;
pub mod energy;
mod estimator;
mod explore;
mod model;
mod planner;
pub mod ranks;
mod search;
mod shortlist;
pub mod spread;
mod target;
mod verdict;
mod words;

use std::fmt;
use std::str::FromStr;

pub use calibration::{Calibration, CpuDescription, GpuCalibration, GpuDescription, Origin};
pub use candidate::{Candidate, Family, Measured};
pub use model::{LayerAdvice, ModelAdvice, Total, advise_model};
pub use search::{Budget, Search};
pub use target::{Case, Cost, Gpu, Memory, Roof, Target};
pub use verdict::{Verdict, WORTH};

use crate::plan::gpu::Precision;
use crate::{ChainPattern, DType, Error, Layout, Pattern, Result};

/// What is to be least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Objective {
    /// Seconds of a multiplication.
    #[default]
    Time,
    /// Joules of a multiplication.
    Energy,
    /// Bytes of weights and activations.
    Memory,
}

impl Objective {
    const ALL: [Objective; 3] = [Objective::Time, Objective::Energy, Objective::Memory];

    /// `time`, `energy` or `memory`.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Time => "time",
            Objective::Energy => "energy",
            Objective::Memory => "memory",
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Objective {
    type Err = Error;

    fn from_str(text: &str) -> Result<Objective> {
        Objective::ALL.into_iter().find(|objective| objective.name() == text).ok_or_else(|| Error::Parse {
            what: "an objective",
            text: text.into(),
            why: "expected time, energy or memory".into(),
        })
    }
}

/// What is asked beside the shape and the element type.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Numbers of vectors, each at least 1.
    pub batches: Vec<usize>,
    /// Order of input and output.
    pub layout: Layout,
    /// Which chains.
    pub search: Search,
    /// What is to be least.
    pub objective: Objective,
}

impl Options {
    /// What is wrong with them for any shape, said before anything is searched or read. Errors: no number of vectors, one that is 0,
    /// one that no matrix of two numbers could have; what [`Search::check`] refuses.
    pub fn check(&self) -> Result<()> {
        if self.batches.is_empty() {
            let why = "expected at least one number of vectors, found none".into();
            return Err(Error::Unsupported { what: "advice".into(), why });
        }
        self.check_batches(2)?;
        self.search.check()
    }

    fn check_batches(&self, features: usize) -> Result<()> {
        self.batches.iter().try_for_each(|&batch| check_batch(batch, features))
    }
}

/// Refuses no vectors, and more vectors of `features` numbers than can be addressed, even times 16 bytes, as patterns are checked.
pub fn check_batch(batch: usize, features: usize) -> Result<()> {
    let why = match (batch, fits(features, batch)) {
        (0, _) => "expected at least one vector".to_owned(),
        (_, false) => format!("so many vectors of {features} numbers do not fit in the address space"),
        _ => return Ok(()),
    };
    Err(Error::Unsupported { what: format!("a batch of {batch}"), why })
}

impl Default for Options {
    /// 1, 32 and 2048 vectors, batch-first, least time.
    fn default() -> Options {
        Options {
            batches: vec![1, 32, 2048],
            layout: Layout::BatchFirst,
            search: Search::default(),
            objective: Objective::Time,
        }
    }
}

/// The answer for one shape.
#[derive(Clone, Debug)]
pub struct Advice {
    rows: usize,
    cols: usize,
    dtype: DType,
    precision: Precision,
    options: Options,
    target: Target,
    looked_at: usize,
    dense: Candidate,
    chains: Vec<Candidate>,
    verdicts: Vec<Verdict>,
    overall: Verdict,
}

/// Advice for `Y = X Wᵀ` with a `rows × cols` matrix `W`: `cols` inputs, `rows` outputs.
///
/// Errors: what [`Options::check`] refuses; more numbers than can be addressed; complex numbers, or TF32 on a CPU;
/// [`Error::NoChain`] for sizes and budgets that have no chain; the objective energy where there is no basis for an estimate
/// with any number of vectors.
pub fn advise(
    rows: usize,
    cols: usize,
    dtype: DType,
    precision: Precision,
    options: &Options,
    target: &Target,
) -> Result<Advice> {
    options.check()?;
    Pattern::new(1, rows, cols, 1)?;
    options.check_batches(rows.max(cols))?;
    let case = |batch: usize| Case { dtype, precision, layout: options.layout, batch };
    let most = options.batches.iter().copied().max().unwrap_or(0);
    let cases: Vec<Case> = options.batches.iter().map(|&batch| case(batch)).collect();
    let costs = cases.iter().map(|case| target.dense(rows, cols, case)).collect::<Result<_>>()?;
    let dense = Candidate::new(ChainPattern::new(vec![Pattern::new(1, rows, cols, 1)?])?, costs)?;

    let mut space = options.search.chains(rows, cols)?;
    space.retain(|chain| chain.patterns().iter().all(|pattern| fits(pattern.cols(), most)));
    if space.is_empty() {
        let what = format!("advice for {most} vectors");
        return Err(Error::Unsupported { what, why: "the hidden vectors do not fit in the address space".into() });
    }
    let looked_at = space.len();
    let chains = shortlist::undominated(shortlist::pick(&space, &cases, options, target)?, options.objective);
    let (options, target) = (options.clone(), target.clone());
    let pending = Verdict::pending();
    let mut advice = Advice {
        rows,
        cols,
        dtype,
        precision,
        options,
        target,
        looked_at,
        dense,
        chains,
        verdicts: Vec::new(),
        overall: pending,
    };
    advice.decide()?;
    Ok(advice)
}

/// Whether `batch` vectors of `features` numbers can be addressed, even times 16 bytes.
fn fits(features: usize, batch: usize) -> bool {
    let bytes = features.checked_mul(batch).and_then(|numbers| numbers.checked_mul(16));
    bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok())
}

impl Advice {
    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }
    /// Element type, and how `f32` is multiplied.
    pub fn dtype(&self) -> (DType, Precision) {
        (self.dtype, self.precision)
    }
    /// What was asked.
    pub fn options(&self) -> &Options {
        &self.options
    }
    /// What it is for.
    pub fn target(&self) -> &Target {
        &self.target
    }
    /// How many chains were looked at.
    pub fn looked_at(&self) -> usize {
        self.looked_at
    }
    /// The dense matrix.
    pub fn dense(&self) -> &Candidate {
        &self.dense
    }
    /// The best chains, by the geometric mean of their estimates over all numbers of vectors, the best first.
    pub fn chains(&self) -> &[Candidate] {
        &self.chains
    }
    /// One for each number of vectors, in their order.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }
    /// For all numbers of vectors together, since a layer has one set of weights: the geometric mean of the gains.
    pub fn overall(&self) -> &Verdict {
        &self.overall
    }
    /// What a chain gives up, in plain words.
    pub fn caveat(&self) -> String {
        words::caveat(self.overall.best.map(|best| &self.chains[best]), [self.rows, self.cols])
    }

    /// The chains that are worth a measurement: the best `count` for each number of vectors, by the estimates.
    pub fn promising(&self, count: usize) -> Vec<usize> {
        let mut picked: Vec<usize> = Vec::new();
        for at in 0..self.options.batches.len() {
            let mut order: Vec<usize> = (0..self.chains.len()).collect();
            // Energy is estimated of some chains only; all have a time.
            let known = self.chains.iter().all(|way| way.estimate(at, self.options.objective).is_ok());
            let objective = if known { self.options.objective } else { Objective::Time };
            order.sort_by(|&x, &y| {
                let of = |way: usize| self.chains[way].estimate(at, objective).unwrap_or(f64::INFINITY);
                of(x).total_cmp(&of(y))
            });
            picked.extend(order.into_iter().take(count));
        }
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    /// Notes what was measured of the dense matrix (`chain` is `None`) or of a chain with number `at` of the batches, and decides
    /// anew: where the dense matrix and a chain were measured, only measured figures count. Errors: figures that are not
    /// positive, and numbers beyond what there is.
    pub fn set_measured(&mut self, chain: Option<usize>, at: usize, measured: Measured) -> Result<()> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if !positive(measured.seconds) || measured.joules.is_some_and(|joules| !positive(joules)) {
            let what = "a measurement".into();
            return Err(Error::Numerical { what, why: format!("expected positive figures, found {measured:?}") });
        }
        let count = self.chains.len();
        let way = match chain {
            None => Some(&mut self.dense),
            Some(chain) => self.chains.get_mut(chain),
        };
        let Some(place) = way.and_then(|way| way.measured.get_mut(at)) else {
            return Err(Error::Unsupported {
                what: format!("a measurement of chain {chain:?} and batch {at}"),
                why: format!("there are {count} chains and {} numbers of vectors", self.options.batches.len()),
            });
        };
        *place = Some(measured);
        self.decide()
    }

    /// Decides anew for another objective; on an error nothing changes. The chains stay those that were picked for the first one.
    ///
    /// Energy that cannot be estimated can be measured: ask for time, measure, then decide by energy. Errors: the objective has
    /// no figures.
    pub fn set_objective(&mut self, objective: Objective) -> Result<()> {
        let before = std::mem::replace(&mut self.options.objective, objective);
        self.decide().inspect_err(|_| self.options.objective = before)
    }

    fn decide(&mut self) -> Result<()> {
        (self.verdicts, self.overall) = verdict::decide(self)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
