//! A record: on which machine, which problem, what was measured, and which way was the fastest.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::Join;
use crate::plan::gpu::{ChainProblem, Precision};
use crate::{ChainPattern, ChainSpec, Error, Result};

/// A way must take less than this share of the untuned one's time to replace it: what is closer is a tie.
pub const TIE: f64 = 0.98;

/// Where something was measured; a record holds for an equal machine only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the GPU or the CPU.
    pub device: String,
    /// A GPU's compute capability and multiprocessors, a CPU's architecture and instruction set.
    pub instructions: String,
    /// Version of a GPU's driver; empty for a CPU.
    pub driver: String,
    /// What compiled the kernels: version of NVRTC, or version and build of this library.
    pub compiler: String,
    /// Hash of a GPU's kernels as the compiler reads them; empty for a CPU, whose kernels belong to the library.
    pub kernels: String,
    /// Threads of a CPU; 0 for a GPU.
    pub threads: usize,
}

impl Machine {
    /// This machine's CPU, with kernels of an instruction set on so many threads.
    pub fn cpu(isa: crate::cpu::Isa, threads: usize) -> Machine {
        // Unoptimised kernels compare otherwise than optimised ones.
        let build = if cfg!(debug_assertions) { "with assertions" } else { "release" };
        Machine {
            device: crate::measure::cpu_name().into(),
            instructions: format!("{} {} {}", std::env::consts::ARCH, std::env::consts::OS, isa.name()),
            driver: String::new(),
            compiler: format!("kronsparse {} {build}", env!("CARGO_PKG_VERSION")),
            kernels: String::new(),
            threads,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { device, instructions, driver, compiler, kernels: _, threads } = self;
        write!(f, "{device} ({instructions}")?;
        if *threads > 0 {
            write!(f, ", {threads} threads")?;
        }
        if !driver.is_empty() {
            write!(f, ", driver {driver}")?;
        }
        write!(f, ", {compiler})")
    }
}

/// One kernel, or one algorithm, for some factors of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The left-most factor, counted from 0.
    pub at: usize,
    /// How many factors; 0 for a pass that joins outputs.
    pub count: usize,
    /// A kernel family, an [`Algorithm`](crate::plan::Algorithm), or `join`.
    pub name: String,
    /// Template arguments of a kernel, and the blocks that a multiprocessor must hold if that is more than one; `threads=N` where a CPU's algorithm runs on fewer threads than there are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arguments: String,
}

impl Step {
    /// The name without template arguments, which can be long.
    fn short(&self) -> String {
        if self.arguments.starts_with("threads=") { self.to_string() } else { self.name.clone() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.arguments.as_str() {
            "" => f.write_str(&self.name),
            arguments => write!(f, "{} {arguments}", self.name),
        }
    }
}

/// A way of multiplying, by the whole chain or by a part of it, and its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// In the order of application.
    pub steps: Vec<Step>,
    /// Median of the samples on a CPU, interquartile mean on a GPU.
    pub seconds: f64,
    /// How many samples.
    pub samples: usize,
}

impl Measured {
    /// The names of the steps.
    pub fn name(&self) -> String {
        self.steps.iter().map(Step::short).collect::<Vec<_>>().join(" + ")
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.steps.is_empty() || !(self.seconds > 0.0 && self.seconds.is_finite()) || self.samples == 0 {
            let Measured { steps, seconds, samples } = self;
            return Err(format!(
                "a way needs steps, a positive time and samples; found {}, {seconds} s and {samples}",
                steps.len()
            ));
        }
        Ok(())
    }
}

/// The result of tuning one problem on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Record {
    /// Where it was measured.
    pub machine: Machine,
    /// What was multiplied.
    pub problem: ChainProblem,
    /// Whether caches were `cold` or `warm` before each sample.
    pub caches: String,
    /// What is done without tuning.
    pub untuned: Measured,
    /// The fastest way; the untuned one where no other is faster by more than [`TIE`].
    pub best: Measured,
    /// All that was measured, parts of the chain included, in the order of measuring.
    pub measured: Vec<Measured>,
}

impl Record {
    /// Decides between what is done without tuning and the fastest other way; ties go to the former.
    pub fn new(
        machine: Machine,
        problem: ChainProblem,
        caches: &str,
        untuned: Measured,
        fastest: Measured,
        measured: Vec<Measured>,
    ) -> Record {
        let best = if fastest.seconds < TIE * untuned.seconds { fastest } else { untuned.clone() };
        Record { machine, problem, caches: caches.into(), untuned, best, measured }
    }

    /// How many times as fast the best way is as the untuned one: 1 or more.
    pub fn gain(&self) -> f64 {
        self.untuned.seconds / self.best.seconds
    }

    /// How many times as fast the best way is as `steps`; `None` where these were not measured.
    pub fn gain_over(&self, steps: &[Step]) -> Option<f64> {
        Some(self.measured(steps)?.seconds / self.best.seconds)
    }

    /// What was measured of `steps`, with the most samples where it was more than once; `None` where they were not measured.
    pub fn measured(&self, steps: &[Step]) -> Option<&Measured> {
        let ways = std::iter::once(&self.untuned).chain(&self.measured).filter(|way| way.steps == steps);
        ways.max_by_key(|way| way.samples)
    }
}

/// Whether steps multiply by all factors, each once, from right to left; a pass that joins outputs may follow.
pub(super) fn is_complete(steps: &[Step], problem: &ChainProblem) -> bool {
    let mut next = problem.chain.patterns().len();
    let mut joined = false;
    for step in steps {
        if joined {
            return false;
        }
        match next.checked_sub(step.count) {
            Some(at) if step.at == at => next = at,
            _ => return false,
        }
        joined = step.count == 0;
        if joined && (problem.join == Join::None || *step != Step::join()) {
            return false;
        }
    }
    next == 0
}

/// A record as the file holds it: names instead of types.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    machine: Machine,
    chain: String,
    dtype: String,
    tf32: bool,
    layout: String,
    n: usize,
    aligned: bool,
    bias: bool,
    activation: String,
    join: String,
    caches: String,
    untuned: Measured,
    best: Measured,
    measured: Vec<Measured>,
}

impl From<Record> for Text {
    fn from(record: Record) -> Text {
        let Record { machine, problem, caches, untuned, best, measured } = record;
        // No `..`: a new field of a problem must be told apart here too.
        let ChainProblem { chain, dtype, precision, layout, batch, aligned, bias, activation, join } = problem;
        Text {
            machine,
            chain: chain.to_string(),
            dtype: dtype.name().into(),
            tf32: precision == Precision::Tf32,
            layout: layout.to_string(),
            n: batch,
            aligned,
            bias,
            activation: activation.to_string(),
            join: join.to_string(),
            caches,
            untuned,
            best,
            measured,
        }
    }
}

impl TryFrom<Text> for Record {
    type Error = String;

    fn try_from(text: Text) -> std::result::Result<Record, String> {
        let problem = problem(&text).map_err(|error| error.to_string())?;
        let Text { machine, caches, untuned, best, measured, .. } = text;
        for way in [&untuned, &best].into_iter().chain(&measured) {
            way.check()?;
        }
        if !is_complete(&untuned.steps, &problem) || !is_complete(&best.steps, &problem) {
            return Err(format!("the steps of a way do not multiply by {} once", problem.chain));
        }
        Ok(Record { machine, problem, caches, untuned, best, measured })
    }
}

fn problem(text: &Text) -> Result<ChainProblem> {
    let chain: ChainPattern = match text.chain.parse()? {
        ChainSpec::Explicit(chain) => chain,
        _ => {
            let why = "expected (a,b,c,d)(a,b,c,d)…".into();
            return Err(Error::Parse { what: "a chain", text: text.chain.clone(), why });
        }
    };
    Ok(ChainProblem {
        chain,
        dtype: text.dtype.parse()?,
        precision: if text.tf32 { Precision::Tf32 } else { Precision::Full },
        layout: text.layout.parse()?,
        batch: text.n,
        aligned: text.aligned,
        bias: text.bias,
        activation: text.activation.parse()?,
        join: text.join.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Algorithm;
    use crate::plan::gpu::Cut;
    use crate::{DType, Layout};

    #[test]
    fn a_pass_comes_last_and_only_where_something_is_joined() {
        let chain = ChainPattern::monarch(16, 16, 4, 4).unwrap();
        let plain = ChainProblem::new(chain, DType::F16, Layout::BatchFirst, 8);
        let joined = ChainProblem { join: Join::Residual, ..plain.clone() };
        let one = |at| Step::algorithm(Cut { at, count: 1 }, Algorithm::Dense);
        let steps = |extra: &[Step]| [&[one(1), one(0)][..], extra].concat();
        assert!(is_complete(&steps(&[]), &plain) && is_complete(&steps(&[]), &joined));
        assert!(is_complete(&steps(&[Step::join()]), &joined));
        assert!(!is_complete(&steps(&[Step::join()]), &plain));
        assert!(!is_complete(&steps(&[Step { count: 0, ..one(0) }]), &joined));
        assert!(!is_complete(&steps(&[Step::join(), Step::join()]), &joined));
        assert!(!is_complete(&[one(0), one(1)], &plain) && !is_complete(&[one(1)], &plain));
    }
}
