//! Tuning: problems measured one at a time, their records as objects, and the store in which this process looks them up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use kronsparse::cuda::timing::Caches;
use kronsparse::cuda::{self, Buffer, Device};
use kronsparse::io::{Visit, visit_dtype};
use kronsparse::plan::gpu::ChainProblem;
use kronsparse::scalar::Wide;
use kronsparse::tune::{self, Machine, Measured, Record, Store, Tuning};
use kronsparse::{Chain, Error, Layout, Scalar, cpu};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::IntoPython;
use crate::pattern::{self, Pattern, PatternLike, listed};
use crate::place::Place;
use crate::waiting::{Interrupted, interruptible};
use crate::{dtype, pool};

/// So many random numbers are drawn for an input; longer ones repeat them.
const DRAWN: usize = 1 << 20;

/// The store that this process was told to look in; `None`: the user's own, as the library finds it.
static IN_USE: RwLock<Option<Arc<Store>>> = RwLock::new(None);

/// Where operators that are packed from now on look for what was measured.
pub(crate) fn in_use() -> Tuning {
    let store = IN_USE.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    store.clone().map_or(Tuning::OfUser, Tuning::Store)
}

/// Makes operators that are packed from now on look for what was measured in this file; ValueError or OSError says what is wrong
/// with it.
#[pyfunction]
#[pyo3(signature = (path))]
pub(crate) fn look_in(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    let store = py.detach(|| Store::read(&path)).python()?;
    *IN_USE.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Arc::new(store));
    Ok(())
}

/// The user's file of tuning records: the one that `KRONSPARSE_TUNING` names, or else `tuning.txt` in the cache folder, whether it
/// is there or not. None where the variable is `off` or empty, or where there is no cache folder.
#[pyfunction]
pub(crate) fn tuning_path() -> Option<PathBuf> {
    tune::path()
}

/// One way of multiplying, and its time.
#[pyclass(frozen, eq, get_all, module = "kronsparse")]
#[derive(Clone, PartialEq)]
pub(crate) struct Way {
    /// What multiplies, in the order of application: kernels, algorithms.
    name: String,
    /// The same with the factors that each multiplies by, counted from 0 at the left, and what it was compiled with.
    steps: Vec<String>,
    /// Median of the samples on a CPU, interquartile mean on a GPU.
    seconds: f64,
    /// How many samples.
    samples: usize,
}

impl From<&Measured> for Way {
    fn from(way: &Measured) -> Way {
        let steps = way.steps.iter().map(|step| match step.count {
            0 => step.to_string(),
            1 => format!("factor {}: {step}", step.at),
            count => format!("factors {} to {}: {step}", step.at, step.at + count - 1),
        });
        Way { name: way.name(), steps: steps.collect(), seconds: way.seconds, samples: way.samples }
    }
}

#[pymethods]
impl Way {
    fn __repr__(&self) -> String {
        format!("Way({:?}, {:.2} µs, {} samples)", self.name, self.seconds * 1e6, self.samples)
    }
}

/// What tuning found for one problem on one machine.
#[pyclass(frozen, eq, module = "kronsparse")]
#[derive(Clone, PartialEq)]
pub(crate) struct TuningRecord(Record);

#[pymethods]
impl TuningRecord {
    /// The patterns of the chain, left to right.
    #[getter]
    fn patterns(&self) -> Vec<Pattern> {
        listed(&self.0.problem.chain)
    }
    /// NumPy's name of the element type.
    #[getter]
    fn dtype(&self) -> &'static str {
        dtype::numpy_name(self.0.problem.dtype)
    }
    /// Number of vectors.
    #[getter]
    fn batch(&self) -> usize {
        self.0.problem.batch
    }
    /// Whether vectors are columns.
    #[getter]
    fn batch_last(&self) -> bool {
        self.0.problem.layout == Layout::BatchLast
    }
    /// Whether a bias is added.
    #[getter]
    fn bias(&self) -> bool {
        self.0.problem.bias
    }
    /// `none`, `relu`, `gelu`, `gelu-tanh` or `silu`.
    #[getter]
    fn activation(&self) -> &'static str {
        self.0.problem.activation.name()
    }
    /// `none`, `residual` or `gate`.
    #[getter]
    fn join(&self) -> &'static str {
        self.0.problem.join.name()
    }
    /// Where it was measured: device, instruction set or compute capability, threads, driver, compiler.
    #[getter]
    fn machine(&self) -> String {
        self.0.machine.to_string()
    }
    /// Whether caches were `cold` or `warm` before each sample.
    #[getter]
    fn caches(&self) -> &str {
        &self.0.caches
    }
    /// What is done without tuning.
    #[getter]
    fn untuned(&self) -> Way {
        (&self.0.untuned).into()
    }
    /// What is done from now on: the fastest way, or the untuned one where no other is faster by more than two percent.
    #[getter]
    fn chosen(&self) -> Way {
        (&self.0.best).into()
    }
    /// All that was measured, parts of the chain included.
    #[getter]
    fn measured(&self) -> Vec<Way> {
        self.0.measured.iter().map(Way::from).collect()
    }
    /// Time of the untuned way over that of the chosen one: 1 or more.
    #[getter]
    fn gain(&self) -> f64 {
        self.0.gain()
    }

    fn __repr__(&self) -> String {
        let Record { untuned, best, .. } = &self.0;
        format!(
            "TuningRecord({}: {}, {:.2} µs; untuned {}, {:.2} µs)",
            title(&self.0.problem),
            best.name(),
            best.seconds * 1e6,
            untuned.name(),
            untuned.seconds * 1e6
        )
    }
}

/// A problem in a few words.
fn title(problem: &ChainProblem) -> String {
    let ChainProblem { chain, dtype, precision: _, layout, batch, aligned: _, bias, activation, join } = problem;
    let bias = if *bias { " with a bias" } else { "" };
    let mut text = format!("{chain} {} {layout} n = {batch}{bias}", dtype::numpy_name(*dtype));
    for (name, nothing) in [(activation.name(), "none"), (join.name(), "none")] {
        if name != nothing {
            text.push_str(&format!(", {name}"));
        }
    }
    text
}

/// A file of records that is added to. For `kronsparse.tune`.
#[pyclass(frozen, module = "kronsparse._kronsparse")]
pub(crate) struct Tuner {
    store: Arc<Mutex<Store>>,
    /// How many records were added to it.
    added: Arc<AtomicUsize>,
}

impl Tuner {
    fn store(&self) -> MutexGuard<'_, Store> {
        locked(&self.store)
    }
}

fn locked(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[pymethods]
impl Tuner {
    /// Opens a file, the user's own if there is no path; ValueError or OSError says what is wrong with it.
    #[new]
    #[pyo3(signature = (path))]
    fn new(py: Python<'_>, path: Option<PathBuf>) -> PyResult<Tuner> {
        let Some(path) = path.or_else(tune::path) else {
            return Err(PyValueError::new_err(
                "store: there is no place for results: KRONSPARSE_TUNING is off, or KRONSPARSE_CACHE is empty, or this user has \
                 no home; name a file",
            ));
        };
        let store = py.detach(|| Store::open(&path)).python()?;
        Ok(Tuner { store: Arc::new(Mutex::new(store)), added: Arc::default() })
    }

    /// The file.
    #[getter]
    fn path(&self) -> PathBuf {
        self.store().path().to_owned()
    }

    /// What was left out when the file was read, in a sentence.
    #[getter]
    fn note(&self) -> Option<String> {
        self.store().note().map(str::to_owned)
    }

    /// How many records this object has added, those of calls that were interrupted included.
    #[getter]
    fn added(&self) -> usize {
        self.added.load(Ordering::Acquire)
    }

    /// The record of a problem, and whether it was measured now: it is unless the file has it, or if `again`. It is in the file when
    /// this returns. Ctrl-C lets the measurement end, and be kept, first; pressed again, it ends at once.
    #[pyo3(signature = (patterns, dtype, batch, *, batch_last, bias, activation, join, device, threads, caches, seconds, again))]
    #[expect(clippy::too_many_arguments, reason = "they have names where it is called")]
    fn tune(
        &self,
        py: Python<'_>,
        patterns: Vec<PatternLike>,
        dtype: &str,
        batch: usize,
        batch_last: bool,
        bias: bool,
        activation: &str,
        join: &str,
        device: &str,
        threads: usize,
        caches: &str,
        seconds: f64,
        again: bool,
    ) -> PyResult<(TuningRecord, bool)> {
        let layout = if batch_last { Layout::BatchLast } else { Layout::BatchFirst };
        let chain = pattern::chain(patterns)?;
        let features = chain.patterns().iter().flat_map(|p| [p.rows(), p.cols()]).max().unwrap_or(1);
        kronsparse::advise::check_batch(batch, features).python()?;
        let problem = ChainProblem {
            bias,
            activation: activation.parse().python()?,
            join: join.parse().python()?,
            ..ChainProblem::new(chain, dtype::of_name(dtype)?, layout, batch)
        };
        let cold = match caches {
            "cold" => true,
            "warm" => false,
            other => return Err(PyValueError::new_err(format!("caches: expected cold or warm, found {other}"))),
        };
        if !(0.0..=3600.0).contains(&seconds) {
            return Err(PyValueError::new_err(format!("seconds: expected 0 to 3600, found {seconds}")));
        }
        let bench = Bench { place: Place::of_name(device, false)?, threads, cold, seconds };
        let (store, added) = (self.store.clone(), self.added.clone());
        let work = move || {
            let found = pool::run(|| bench.record(&store, problem, again));
            if matches!(found, Ok((_, true))) {
                added.fetch_add(1, Ordering::Release);
            }
            found
        };
        let (record, new) = interruptible(py, Interrupted::Finishes, work)?.python()?;
        Ok((TuningRecord(record), new))
    }
}

/// Where and how problems are measured.
struct Bench {
    place: Place,
    threads: usize,
    cold: bool,
    /// Sampling time of each way on a CPU.
    seconds: f64,
}

impl Bench {
    /// The record that the store has, or one that is measured now and kept there.
    fn record(&self, store: &Mutex<Store>, problem: ChainProblem, again: bool) -> kronsparse::Result<(Record, bool)> {
        let gpu = match self.place {
            Place::Cuda(ordinal) => Some(Device::open(ordinal)?),
            Place::Cpu | Place::H100 => None,
        };
        let machine = match &gpu {
            Some(gpu) => gpu.tuning_machine()?,
            None => {
                let threads = if self.threads == 0 { rayon::current_num_threads() } else { self.threads };
                Machine::cpu(cpu::Isa::detect(), threads)
            }
        };
        if let Some(known) = locked(store).find(&machine, &problem).filter(|_| !again) {
            return Ok((known.clone(), false));
        }
        let record = visit_dtype(problem.dtype, One { bench: self, gpu: gpu.as_ref(), problem: &problem })?;
        locked(store).append(record.clone())?;
        Ok((record, true))
    }
}

struct One<'a> {
    bench: &'a Bench,
    gpu: Option<&'a Device>,
    problem: &'a ChainProblem,
}

impl Visit for One<'_> {
    type Output = kronsparse::Result<Record>;

    fn visit<T: Scalar>(self) -> kronsparse::Result<Record> {
        let One { bench, gpu, problem } = self;
        let ChainProblem { chain, precision, layout, batch, aligned: _, bias, activation, join, dtype: _ } = problem;
        let mut random = uniform();
        let mut number = |scale: f64| T::narrow(T::Wide::from_parts(scale * random(), scale * random()));
        // Weights of variance 1/c keep the size of the numbers from layer to layer, and within reach of f16.
        let scales: Vec<f64> = chain.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
        let bias = bias.then(|| (0..chain.rows()).map(|_| number(1.0)).collect());
        let chain = Chain::from_fn(chain, |at, _, _, _, _| number(scales[at]));
        let (activation, join, tuning) = (*activation, *join, Tuning::Off);
        let Some(gpu) = gpu else {
            let threads = bench.threads;
            let options = cpu::Options { bias, activation, join, tuning, threads, ..cpu::Options::default() };
            return cpu::tune(&chain, &options, *batch, *layout, bench.cold, bench.seconds);
        };
        let options =
            cuda::Options { bias, activation, join, tuning, precision: *precision, ..cuda::Options::default() };
        let operator = cuda::Operator::new(gpu, &chain, options)?;
        let length = batch * chain.cols();
        let drawn: Vec<T> = (0..DRAWN.min(length)).map(|_| number(1.0)).collect();
        let x: Vec<T> = drawn.into_iter().cycle().take(length).collect();
        let x = Buffer::from_slice(gpu, &x)?;
        let mut y = Buffer::alloc(gpu, batch * operator.rows())?;
        let caches = if bench.cold { Caches::Cold } else { Caches::Warm };
        operator.tune(*batch, *layout, caches, &x, &mut y)?.ok_or_else(|| Error::Unsupported {
            what: format!("tuning {} for {batch} vectors", chain.pattern()),
            why: "there is nothing to be picked".into(),
        })
    }
}

/// Numbers between -1 and 1 by Marsaglia's xorshift (2003), another sequence at every call: a GPU multiplies zeros faster than others.
fn uniform() -> impl FnMut() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    // Not zero, which would stay zero.
    let mut state = std::hash::RandomState::new().build_hasher().finish() | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// The records of a file, the oldest first, whatever machine they are of; ValueError or OSError says what is wrong with it.
#[pyfunction]
#[pyo3(signature = (path))]
pub(crate) fn read_tuning(py: Python<'_>, path: PathBuf) -> PyResult<Vec<TuningRecord>> {
    let store = py.detach(|| Store::read(&path)).python()?;
    Ok(store.records().iter().cloned().map(TuningRecord).collect())
}
