//! Advice: whether chains pay for a layer, which, and by how much, as objects with the sentences of the command.

use kronsparse::advise::{self as library, Calibration, Gpu, Options, Search, Target};
use kronsparse::plan::gpu::Precision;
use kronsparse::{DType, Layout};
use pyo3::prelude::*;

use crate::error::IntoPython;
use crate::pattern::{Pattern, listed};
use crate::place::Place;
use crate::waiting::{Interrupted, interruptible};
use crate::{dtype, pool};

/// What one multiplication of a number of vectors is estimated to cost.
#[pyclass(frozen, eq, get_all, module = "kronsparse")]
#[derive(Clone, PartialEq)]
pub(crate) struct Cost {
    /// Number of vectors.
    batch: usize,
    /// Seconds.
    seconds: f64,
    /// Joules; None where there is no basis for an estimate.
    joules: Option<f64>,
    /// Bytes of the weights.
    weight_bytes: f64,
    /// Bytes of input, output, and hidden vectors where they are written to memory.
    activation_bytes: f64,
    /// Floating-point operations, two for each parameter and vector.
    flops: f64,
    /// Bytes that must move: weights, input and output once.
    bytes: f64,
    /// How it is multiplied, in a few words.
    how: String,
}

#[pymethods]
impl Cost {
    fn __repr__(&self) -> String {
        format!("Cost(batch={}, {:.2} µs, {:?})", self.batch, self.seconds * 1e6, self.how)
    }
}

/// A chain, or the dense matrix as a chain of one factor, with what it can express and what it costs.
#[pyclass(frozen, eq, get_all, module = "kronsparse")]
#[derive(Clone, PartialEq)]
pub(crate) struct Candidate {
    /// The patterns, left to right.
    patterns: Vec<Pattern>,
    /// `dense`, `low rank`, `Monarch`, `blocks of low rank`, `butterfly` or `one sparse factor`.
    family: String,
    /// Numbers in all factors.
    parameters: usize,
    /// Parameters over those of the dense matrix.
    share: f64,
    /// The most rank that the whole matrix can have.
    rank: usize,
    /// Estimates, one for each number of vectors.
    costs: Vec<Cost>,
}

impl Candidate {
    fn of(found: &library::Candidate, batches: &[usize]) -> Candidate {
        let costs = found.costs.iter().zip(batches).map(|(cost, &batch)| {
            let library::Cost { seconds, joules, memory, flops, bytes, how, .. } = cost;
            Cost {
                batch,
                seconds: *seconds,
                joules: joules.as_ref().ok().copied(),
                weight_bytes: memory.weights,
                activation_bytes: memory.activations,
                flops: *flops,
                bytes: *bytes,
                how: how.clone(),
            }
        });
        Candidate {
            patterns: listed(&found.chain),
            family: found.family.name().into(),
            parameters: found.chain.parameters(),
            share: found.chain.density(),
            rank: found.rank,
            costs: costs.collect(),
        }
    }
}

#[pymethods]
impl Candidate {
    fn __repr__(&self) -> String {
        let chain: String = self.patterns.iter().map(|pattern| pattern.0.to_string()).collect();
        format!("Candidate('{chain}', {}, {:.1}% of the parameters)", self.family, 100.0 * self.share)
    }
}

/// A recommendation for one number of vectors, or for all together.
#[pyclass(frozen, eq, get_all, module = "kronsparse")]
#[derive(Clone, PartialEq)]
pub(crate) struct Verdict {
    /// Number of vectors; None for all together.
    batch: Option<usize>,
    /// The best chain, recommended or not; None where there is nothing to decide by.
    patterns: Option<Vec<Pattern>>,
    /// Cost of the dense matrix over that of the best chain; None without one.
    gain: Option<f64>,
    /// Whether no chain is recommended.
    stay_dense: bool,
    /// Whether estimates have been so far off that it may be the other way round.
    too_close: bool,
    /// Why there is nothing to decide by, where that is so.
    unknown: Option<String>,
    /// All of this in words.
    sentence: String,
}

impl Verdict {
    fn of(found: &library::Verdict, chains: &[library::Candidate]) -> Verdict {
        Verdict {
            batch: found.batch,
            patterns: found.best.map(|best| listed(&chains[best].chain)),
            gain: found.best.map(|_| found.gain),
            stay_dense: found.stay_dense,
            too_close: found.too_close,
            unknown: found.unknown.clone(),
            sentence: found.sentence.clone(),
        }
    }
}

#[pymethods]
impl Verdict {
    fn __repr__(&self) -> String {
        format!("Verdict({:?})", self.sentence)
    }
}

/// The answer of `advise`; `print` shows its sentences.
#[pyclass(frozen, eq, get_all, module = "kronsparse")]
#[derive(Clone, PartialEq)]
pub(crate) struct Advice {
    /// Outputs and inputs of the layer.
    shape: (usize, usize),
    /// NumPy's name of the element type, or `tf32`.
    dtype: String,
    /// What it is for.
    device: String,
    /// How many chains were looked at.
    looked_at: usize,
    /// The dense matrix.
    dense: Candidate,
    /// The best chains, by the geometric mean of their estimates over all numbers of vectors, the best first.
    chains: Vec<Candidate>,
    /// One for each number of vectors, in their order.
    verdicts: Vec<Verdict>,
    /// For all numbers of vectors together, since a layer has one set of weights.
    overall: Verdict,
    /// What a chain gives up, in words.
    caveat: String,
}

#[pymethods]
impl Advice {
    fn __repr__(&self) -> String {
        let (rows, cols) = self.shape;
        format!("Advice({rows} × {cols}, {}, {}: {:?})", self.dtype, self.device, self.overall.sentence)
    }
    fn __str__(&self) -> String {
        let overall = (self.verdicts.len() > 1).then_some(&self.overall);
        let sentences = self.verdicts.iter().chain(overall).map(|verdict| verdict.sentence.as_str());
        sentences.chain([self.caveat.as_str()]).collect::<Vec<_>>().join("\n")
    }
}

/// Whether chains pay for a linear layer of `rows` outputs and `cols` inputs: see `kronsparse.advise`.
#[pyfunction]
#[pyo3(signature = (rows, cols, batch, dtype, budget, device, objective, batch_last, max_factors, low_rank, partial))]
#[expect(clippy::too_many_arguments, reason = "they have names where it is called")]
pub(crate) fn advise(
    py: Python<'_>,
    rows: usize,
    cols: usize,
    batch: Vec<usize>,
    dtype: &str,
    budget: &str,
    device: &str,
    objective: &str,
    batch_last: bool,
    max_factors: usize,
    low_rank: bool,
    partial: bool,
) -> PyResult<Advice> {
    let (kind, precision) = match dtype {
        "tf32" => (DType::F32, Precision::Tf32),
        _ => (dtype::of_name(dtype)?, Precision::Full),
    };
    let options = Options {
        batches: batch,
        layout: if batch_last { Layout::BatchLast } else { Layout::BatchFirst },
        search: Search { budget: budget.parse().python()?, max_factors, low_rank, partial },
        objective: objective.parse().python()?,
    };
    // Before the CPU's ceilings are measured.
    options.check().python()?;
    let place = Place::of_name(device, true)?;
    let work = move || {
        pool::run(|| {
            let target = match place {
                Place::Cpu => Target::Cpu(Box::new(Calibration::of_machine(false)?.0)),
                Place::Cuda(ordinal) => Target::Gpu(Box::new(Gpu::open(ordinal)?)),
                Place::H100 => Target::Gpu(Box::new(Gpu::h100())),
            };
            library::advise(rows, cols, kind, precision, &options, &target)
        })
    };
    let found = interruptible(py, Interrupted::Leaves, work)?.python()?;
    let (batches, chains) = (&found.options().batches, found.chains());
    Ok(Advice {
        shape: (rows, cols),
        dtype: if precision == Precision::Tf32 { "tf32".into() } else { dtype::numpy_name(kind).into() },
        device: found.target().name(),
        looked_at: found.looked_at(),
        dense: Candidate::of(found.dense(), batches),
        chains: chains.iter().map(|chain| Candidate::of(chain, batches)).collect(),
        verdicts: found.verdicts().iter().map(|verdict| Verdict::of(verdict, chains)).collect(),
        overall: Verdict::of(found.overall(), chains),
        caveat: found.caveat(),
    })
}
