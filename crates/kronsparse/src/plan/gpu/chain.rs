//! How a whole chain is multiplied by: what `auto` picks by estimates, as a value for the engine and for whoever asks.

use std::fmt;

use super::libraries::{self as library, ALGORITHMS};
use super::{
    Choice, Cut, FusedPlan, GpuMachine, GpuPlan, GpuProblem, Precision, Ranked, Rejected, cuts, family, ranked,
    ranked_beside,
};
use crate::plan::{Algorithm, Hidden};
use crate::{Activation, ChainPattern, DType, Join, Layout, Pattern, Result};

#[cfg(test)]
pub(super) mod tests;

/// One multiplication by a chain, without its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainProblem {
    /// The patterns, left to right; the right-most factor is applied first.
    pub chain: ChainPattern,
    /// Element type of `X`, the weights, the bias, `Y` and the hidden vectors.
    pub dtype: DType,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Order of `X` and `Y`.
    pub layout: Layout,
    /// Number of vectors.
    pub batch: usize,
    /// Whether `X` and `Y` start at multiples of 16 bytes.
    pub aligned: bool,
    /// Whether a bias is added.
    pub bias: bool,
    /// What is applied after the bias.
    pub activation: Activation,
    /// What the activated outputs are joined with.
    pub join: Join,
}

impl ChainProblem {
    /// Aligned arrays, full precision, nothing after the product: what most problems are, but for a field or two.
    pub fn new(chain: ChainPattern, dtype: DType, layout: Layout, batch: usize) -> ChainProblem {
        ChainProblem {
            chain,
            dtype,
            precision: Precision::Full,
            layout,
            batch,
            aligned: true,
            bias: false,
            activation: Activation::None,
            join: Join::None,
        }
    }

    /// Factor `at` by itself. Bias and activation belong to the left-most factor, which is applied last.
    pub fn factor(&self, at: usize) -> GpuProblem {
        let (first, last) = (at + 1 == self.chain.patterns().len(), at == 0);
        self.product(self.chain.patterns()[at], first, last)
    }

    /// Numbers of `Y` and of a residual that move per vector.
    pub(super) fn moved_outputs(&self) -> f64 {
        self.join.moved() * self.chain.rows() as f64
    }

    /// The patterns in the order of application, the right-most factor first.
    pub fn applied(&self) -> Vec<Pattern> {
        self.chain.patterns().iter().rev().copied().collect()
    }

    /// Factors `at` to `at + count - 1`, one or more.
    pub fn part(&self, at: usize, count: usize) -> ChainProblem {
        let patterns = self.chain.patterns();
        let (first, last) = (at + count == patterns.len(), at == 0);
        let GpuProblem { dtype, precision, layout, batch, aligned, bias, activation, join, .. } =
            self.product(patterns[at], first, last);
        let chain = ChainPattern::new(patterns[at..at + count].to_vec()).expect("a part of a chain is a chain");
        ChainProblem { chain, dtype, precision, layout, batch, aligned, bias, activation, join }
    }

    /// The chain as one dense matrix; an error where that has too many entries to count.
    pub fn whole(&self) -> Result<GpuProblem> {
        Ok(self.product(Pattern::new(1, self.chain.rows(), self.chain.cols(), 1)?, true, true))
    }

    /// The same with nothing joined: what precedes a pass that joins. A gate's activation is of the pass.
    pub fn before_join(&self) -> ChainProblem {
        let activation = if self.join == Join::Gate { Activation::None } else { self.activation };
        ChainProblem { join: Join::None, activation, ..self.clone() }
    }

    /// Estimated seconds of joining outputs in a pass of its own: two numbers in and one out for each output, as fast as a GPU's
    /// memory streams (the share that copies reached in `record/2026-11-22-h100`), after a launch behind another.
    pub(crate) fn join_seconds(&self, machine: &GpuMachine) -> f64 {
        let outputs = self.join.outputs(self.chain.rows()).unwrap_or_default();
        let bytes = 3.0 * (self.batch as f64) * (outputs * self.dtype.size()) as f64;
        machine.kernel_seconds + bytes / (STREAMED * machine.bytes_per_second)
    }

    /// What a 16-bit chain is multiplied as whose hidden vectors stay in `f32`, where they are to: the chain in `f32`, and the estimated
    /// seconds of the passes that turn `X` into that and `Y` back, adding a residual.
    pub fn widened(&self, hidden: Hidden, machine: &GpuMachine) -> Option<(ChainProblem, f64)> {
        if !hidden.widens(self.dtype, self.chain.patterns().len()) {
            return None;
        }
        let (dtype, precision, join) = (DType::F32, Precision::Full, self.join.before_rounding());
        let wide = ChainProblem { dtype, precision, aligned: true, join, ..self.clone() };
        let (small, large) = (self.dtype.size(), DType::F32.size());
        let outputs = self.join.outputs(self.chain.rows()).unwrap_or_default();
        let added = if self.join == Join::Residual { small } else { 0 };
        let bytes =
            self.batch as f64 * (self.chain.cols() * (small + large) + outputs * (large + small + added)) as f64;
        Some((wide, 2.0 * machine.kernel_seconds + bytes / (STREAMED * machine.bytes_per_second)))
    }

    /// The chain as one dense product of a library, where that is not the same as its one factor; the error says why not.
    pub fn dense(&self, machine: &GpuMachine, libraries: Option<usize>) -> std::result::Result<Ranked, Rejected> {
        let limit = libraries.ok_or_else(|| Rejected::Rule(NO_LIBRARIES.into()))?;
        if self.chain.patterns().len() == 1 {
            return Err(Rejected::Rule("the chain has one factor, whose own ways are listed".into()));
        }
        let (whole, algorithm) = (self.whole().map_err(|error| Rejected::Rule(error.to_string()))?, Algorithm::Dense);
        library::fits(algorithm, &whole, limit)?;
        let seconds = library::seconds(algorithm, &whole, machine, limit).ok_or(Rejected::Element(self.dtype))?;
        Ok(Ranked { choice: Choice::Library(algorithm), seconds })
    }

    fn product(&self, pattern: Pattern, first: bool, last: bool) -> GpuProblem {
        let ChainProblem { chain: _, dtype, precision, layout, batch, aligned, bias, activation, join } = *self;
        GpuProblem {
            pattern,
            dtype,
            precision,
            layout,
            batch,
            // Hidden vectors start where an allocation starts.
            aligned: aligned || !(first || last),
            bias: last && bias,
            activation: if last { activation } else { Activation::None },
            join: if last { join } else { Join::None },
        }
    }
}

/// Seconds that a call takes beside its steps, from an idle GPU to an idle GPU. On an H100 two kernels took 2.5 to 3.7 µs less as one
/// call than as two (`record/2026-11-23-h100/landed`, cold); in a graph, where calls follow each other, none of this is seen.
pub const CALL: f64 = 2e-6;

/// Share of a GPU's bytes per second that a pass reaches.
const STREAMED: f64 = 0.9;

/// What one step multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One factor, by its place in the chain.
    Factor(usize),
    /// Several factors, two or more, in one kernel.
    Together(Cut),
    /// All factors as one dense matrix.
    Whole,
    /// Nothing: outputs are joined in a pass of their own.
    Join,
}

/// One kernel, or one algorithm of a library.
#[derive(Clone, Debug)]
pub struct ChainStep<'a> {
    /// What it multiplies by.
    pub part: Part,
    /// The kernel's family, or the library's algorithm.
    pub name: &'static str,
    /// Estimated seconds.
    pub seconds: f64,
    /// How.
    pub way: StepWay<'a>,
}

/// A kernel, or a library's algorithm, of one step.
#[derive(Clone, Copy, Debug)]
pub enum StepWay<'a> {
    /// Of one factor, or of the whole chain.
    One(&'a Choice),
    /// Of several factors.
    Several(&'a FusedPlan),
    /// A pass that joins outputs.
    Pass(Join),
}

impl fmt::Display for ChainStep<'_> {
    /// The plan of the kernel in words, or the algorithm's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            StepWay::One(choice) => choice.fmt(f),
            StepWay::Several(plan) => plan.fmt(f),
            StepWay::Pass(join) => write!(f, "a pass of its own for the {join}"),
        }
    }
}

/// A way that is not considered, and why in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kernel's family, or the library's algorithm.
    pub name: &'static str,
    /// The sentence.
    pub why: String,
}

/// Every way of multiplying by a chain with its estimate, and the steps with the least sum.
#[derive(Clone, Debug)]
pub struct ChainPlan {
    problem: ChainProblem,
    machine: GpuMachine,
    libraries: Option<usize>,
    /// By factor, the least estimate first.
    ways: Vec<Vec<Ranked>>,
    /// By the place of the left-most factor and the number of factors, from two on.
    together: Vec<Vec<std::result::Result<FusedPlan, Rejected>>>,
    cuts: Vec<Cut>,
    /// The sum of `cuts`.
    by_cuts: f64,
    /// What outputs are joined with in a pass of its own, and its estimated seconds.
    pass: Option<(Join, f64)>,
    dense: std::result::Result<Ranked, Rejected>,
}

impl ChainPlan {
    /// Plans. `libraries` says how many bytes of weights a library's algorithm may have, `None` that there are no libraries.
    ///
    /// Outputs are joined by the last kernel or in a pass of its own, whichever is estimated to be faster.
    ///
    /// Rejected where a factor has no way at all: complex numbers; a gate whose chain has an odd number of rows.
    pub fn new(
        problem: &ChainProblem,
        machine: &GpuMachine,
        libraries: Option<usize>,
    ) -> std::result::Result<ChainPlan, Rejected> {
        if problem.join == Join::None {
            return Self::by_kernels(problem, machine, libraries);
        }
        problem.join.outputs(problem.chain.rows()).map_err(|error| Rejected::Rule(error.to_string()))?;
        let within = Self::by_kernels(problem, machine, libraries);
        let mut apart = Self::by_kernels(&problem.before_join(), machine, libraries)?;
        apart.pass = Some((problem.join, problem.join_seconds(machine)));
        Ok(match within {
            Ok(within) if within.seconds() <= apart.seconds() => within,
            _ => apart,
        })
    }

    /// Without a pass.
    fn by_kernels(
        problem: &ChainProblem,
        machine: &GpuMachine,
        libraries: Option<usize>,
    ) -> std::result::Result<ChainPlan, Rejected> {
        let count = problem.chain.patterns().len();
        let ways_of = if count > 1 { ranked_beside } else { ranked };
        let ways: Vec<Vec<Ranked>> = (0..count).map(|at| ways_of(&problem.factor(at), machine, libraries)).collect();
        let of = |at: usize, count: usize| FusedPlan::choose(&problem.part(at, count), machine);
        let together: Vec<Vec<_>> =
            (0..count).map(|at| (2..=count - at).map(|several| of(at, several)).collect()).collect();
        let (cuts, by_cuts) = cuts(count, |at, several| match several {
            1 => ways[at].first().map(|way| way.seconds),
            _ => together[at][several - 2].as_ref().ok().map(FusedPlan::seconds),
        });
        if !by_cuts.is_finite() {
            return Err(match problem.join {
                Join::None => Rejected::Element(problem.dtype),
                join => Rejected::Rule(format!("no kernel joins the {join}")),
            });
        }
        let dense = problem.dense(machine, libraries);
        let (problem, machine) = (problem.clone(), machine.clone());
        Ok(ChainPlan { problem, machine, libraries, ways, together, cuts, by_cuts, pass: None, dense })
    }

    /// What is multiplied: without the join, where that is a pass of its own.
    pub fn problem(&self) -> &ChainProblem {
        &self.problem
    }
    /// The GPU that this was planned for.
    pub fn machine(&self) -> &GpuMachine {
        &self.machine
    }
    /// Bytes of weights that a library's algorithm may have, where there are libraries.
    pub fn libraries(&self) -> Option<usize> {
        self.libraries
    }
    /// Whether all factors together as one dense matrix are estimated to be the fastest.
    pub fn is_dense(&self) -> bool {
        self.dense.as_ref().is_ok_and(|dense| dense.seconds < self.by_cuts)
    }
    /// Estimated seconds of a call, with cold caches: all steps, and [`CALL`].
    pub fn seconds(&self) -> f64 {
        let multiplied = match &self.dense {
            Ok(dense) if self.is_dense() => dense.seconds,
            _ => self.by_cuts,
        };
        CALL + multiplied + self.pass.map_or(0.0, |(_, seconds)| seconds)
    }
    /// What outputs are joined with in a pass of its own after the multiplication, and its estimated seconds.
    pub fn pass(&self) -> Option<(Join, f64)> {
        self.pass
    }
    /// The cuts with the least sum, in the order of application: what is done unless dense is faster.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }
    /// Estimated seconds of [`ChainPlan::cuts`].
    pub fn seconds_of_cuts(&self) -> f64 {
        self.by_cuts
    }
    /// Estimated seconds where every factor goes by itself, without a pass; none where no kernel for one factor joins the outputs.
    pub fn seconds_apart(&self) -> Option<f64> {
        self.ways.iter().map(|ways| ways.first().map(|way| way.seconds)).sum()
    }
    /// The ways of factor `at`, the least estimate first; at least one, but for the left-most factor where outputs are joined.
    pub fn ways(&self, at: usize) -> &[Ranked] {
        &self.ways[at]
    }
    /// The kernel for two factors or more, or why there is none.
    pub fn together(&self, cut: Cut) -> std::result::Result<&FusedPlan, &Rejected> {
        self.together[cut.at][cut.count - 2].as_ref()
    }
    /// The chain as one dense product of a library, or why that is not considered.
    pub fn dense(&self) -> std::result::Result<&Ranked, &Rejected> {
        self.dense.as_ref()
    }

    /// What is done, in the order of application.
    pub fn steps(&self) -> Vec<ChainStep<'_>> {
        let mut steps = match self.dense() {
            Ok(dense) if self.is_dense() => vec![step(Part::Whole, dense)],
            _ => self.steps_of_cuts(),
        };
        steps.extend(self.pass.map(|(join, seconds)| ChainStep {
            part: Part::Join,
            name: "pass",
            seconds,
            way: StepWay::Pass(join),
        }));
        steps
    }

    /// [`ChainPlan::cuts`] as steps.
    pub fn steps_of_cuts(&self) -> Vec<ChainStep<'_>> {
        let of = |&cut: &Cut| match cut.count {
            1 => step(Part::Factor(cut.at), &self.ways[cut.at][0]),
            _ => {
                let plan = self.together(cut).expect("only what exists is cut");
                let (part, way) = (Part::Together(cut), StepWay::Several(plan));
                ChainStep { part, name: plan.name(), seconds: plan.seconds(), way }
            }
        };
        self.cuts.iter().map(of).collect()
    }

    /// A part's patterns, in words.
    pub fn name(&self, part: Part) -> String {
        let pattern = |at: usize| self.problem.chain.patterns()[at];
        match part {
            Part::Factor(at) => pattern(at).to_string(),
            Part::Together(Cut { at, count }) => {
                let all: Vec<String> = (at..at + count).map(|at| pattern(at).to_string()).collect();
                all.join(" after ")
            }
            Part::Whole => self.problem.chain.to_string(),
            Part::Join => "join".into(),
        }
    }

    /// The kernel families and library algorithms that are not among [`ChainPlan::ways`] of factor `at`, each with its reason.
    pub fn refused(&self, at: usize) -> Vec<Refusal> {
        let problem = self.problem.factor(at);
        let absent = |name: &str| !self.ways[at].iter().any(|way| way.name() == name);
        let kernels = GpuPlan::FAMILIES.iter().copied().filter(|name| absent(name)).filter_map(|name| {
            let why = family(name, &problem, &self.machine).err()?.to_string();
            Some(Refusal { name, why })
        });
        let algorithms = ALGORITHMS.into_iter().filter(|algorithm| absent(algorithm.name())).filter_map(|algorithm| {
            let why = match self.libraries {
                None => NO_LIBRARIES.into(),
                Some(limit) => match library::fits(algorithm, &problem, limit) {
                    Err(rejected) => rejected.to_string(),
                    Ok(_) => format!("the same calls as {}", library::same_as(algorithm, &problem)?),
                },
            };
            Some(Refusal { name: algorithm.name(), why })
        });
        kernels.chain(algorithms).collect()
    }
}

/// Why no algorithm of a library is considered.
const NO_LIBRARIES: &str = "there is no cuBLAS";

fn step(part: Part, ranked: &Ranked) -> ChainStep<'_> {
    ChainStep { part, name: ranked.name(), seconds: ranked.seconds, way: StepWay::One(&ranked.choice) }
}
