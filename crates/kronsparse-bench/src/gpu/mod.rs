//! The benchmark on a GPU: inputs made on the device, outputs verified there, times between events, energy from the driver.
//!
//! # How it differs from the CPU's
//!
//! * Inputs are random numbers in one large array per element type, of which every case uses the beginning; weights are fresh
//!   in every case.
//! * The algorithms of a case are measured one after the other, not in turn: most do not fit into memory together.
//! * An algorithm whose first sample is [`Options::give_up`] times as long as the best of its case keeps that one sample.
//! * On cases that are not measured [thoroughly](Task::thorough), the time of a dense product may be that of another chain of the same
//!   shape, and a strided product is skipped where permute-bmm makes the same calls; their rows say so.
//! * Rows are [written](crate::journal) as they are measured, so that a run that is killed can be gone on with; and beside them
//!   [where the time went](phases).

mod case;
mod inputs;
mod oracle;
pub mod phases;
pub mod prepare;
mod sharing;

use std::path::PathBuf;
use std::time::Instant;

use half::{bf16, f16};
use kronsparse::cuda::energy::Meter;
use kronsparse::cuda::libraries::{self, Library};
use kronsparse::cuda::timing::{Flusher, copy_bandwidth, peak_flops};
use kronsparse::cuda::vendor::Session;
use kronsparse::cuda::{Device, Stream};
use kronsparse::measure::Stopwatch;
use kronsparse::plan::Algorithm;
use kronsparse::{DType, Scalar};

use self::phases::{Laps, Log};
use self::sharing::DenseTimes;
pub(crate) use self::sharing::{is_shared, shape_of};
use crate::definition::{Case, Definition};
use crate::journal::Ledger;
use crate::machine::{Gpu, Machine};
use crate::random::Random;
use crate::record::{Ceiling, Record, Row, Settings, write_whole};
use crate::run::{Earlier, Event, Observer, raise, share_of_roofline};
use crate::{Error, Kind, Result};

/// How to measure on a GPU.
#[derive(Clone, Debug)]
pub struct Options {
    /// The GPU's number, counted from 0.
    pub ordinal: usize,
    /// Algorithms, in the order of the table.
    pub algorithms: Vec<Algorithm>,
    /// Sampling time given to each algorithm on each case, in seconds of the GPU's time; at least [`FEWEST`] samples.
    pub budget: f64,
    /// Bytes of weights above which an algorithm is skipped, with the reason in its row.
    pub memory_limit: usize,
    /// Seconds that a dense product may take at the GPU's peak; above it is skipped, with the reason in its row.
    pub longest: f64,
    /// How many times as long as the best of its case an algorithm may take and still be sampled more than once.
    pub give_up: f64,
    /// Seconds over which the energy of each algorithm is measured; not at all if `None`.
    pub energy: Option<f64>,
    /// Whether to time the permutations of permute-bmm by themselves.
    pub permutation_share: bool,
    /// Seed of weights, inputs and verification; a fresh one if `None`.
    pub seed: Option<u64>,
    /// The command that was typed, for the record.
    pub command: String,
    /// Where rows are written as they are measured; nowhere if `None`.
    pub folder: Option<PathBuf>,
    /// Whether rows that are in `folder` already are kept and not measured again.
    pub resume: bool,
    /// No case is begun after this moment; the record has what is there.
    pub until: Option<Instant>,
    /// What earlier runs into `folder` recorded, which this one adds to.
    pub earlier: Option<Earlier>,
}

/// Fewest samples of an algorithm that is not given up.
pub const FEWEST: usize = 7;

impl Default for Options {
    fn default() -> Options {
        Options {
            ordinal: 0,
            algorithms: Algorithm::on_gpu().to_vec(),
            budget: 0.02,
            memory_limit: 1 << 30,
            longest: 0.05,
            give_up: 8.0,
            energy: None,
            permutation_share: false,
            seed: None,
            command: String::new(),
            folder: None,
            resume: false,
            until: None,
            earlier: None,
        }
    }
}

/// What is measured of one case.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is multiplied.
    pub case: Case,
    /// Algorithms, in the order of the table.
    pub algorithms: Vec<Algorithm>,
    /// Whether each is measured by itself, and energy where that is asked for; otherwise what is known of other cases or algorithms is
    /// taken over.
    pub thorough: bool,
}

/// Who is asked and told during a run.
pub struct Hooks<'a> {
    /// Returns when case number so-and-so may be measured: its kernels are compiled, or nobody compiles them.
    pub ready: &'a mut dyn FnMut(usize),
    /// Is told of the progress.
    pub observe: Observer<'a>,
}

/// What all cases of a run share.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) device: &'a Device,
    pub(crate) stream: &'a Stream,
    pub(crate) flusher: Flusher,
    pub(crate) meter: Option<Meter>,
    pub(crate) driver: String,
    pub(crate) idle_w: Option<f64>,
    pub(crate) ceilings: Vec<Ceiling>,
    pub(crate) seed: u64,
    laps: Laps,
    log: Log,
    dense: DenseTimes,
    ledger: Ledger,
}

/// Measures all cases, each thoroughly. Wrong or failing algorithms are rows of the record, not errors; a GPU that is lost is an error,
/// after which a run with [`Options::resume`] goes on behind the row that lost it.
pub fn run(definition: &Definition, options: &Options, observe: Observer<'_>) -> Result<Record> {
    let task = |case: &Case| Task { case: case.clone(), algorithms: options.algorithms.clone(), thorough: true };
    let mut tasks: Vec<Task> = definition.cases.iter().map(task).collect();
    by_type(&mut tasks);
    let about = (definition.name.as_str(), definition.description.as_str());
    measure(about, &tasks, options, &mut Hooks { ready: &mut |_| {}, observe })
}

/// Cases of one element type after those of another, since they share their arrays; otherwise in the order in which they were.
pub fn by_type(tasks: &mut [Task]) {
    tasks.sort_by_key(|task| task.case.kind.dtype);
}

/// Measures the tasks in their order, for a record of this name and description. Neighbours of one element type share their arrays; see
/// [`by_type`]. [`Options::algorithms`] does not matter. Errors: as [`run`].
pub fn measure(
    (name, description): (&str, &str),
    tasks: &[Task],
    options: &Options,
    hooks: &mut Hooks<'_>,
) -> Result<Record> {
    if tasks.iter().any(|task| task.algorithms.is_empty()) {
        let why = "expected at least one algorithm to measure, found none".into();
        return Err(Error::Definition { place: "algorithms".into(), why });
    }
    let watch = Stopwatch::start();
    let date = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let device = Device::open(options.ordinal)?;
    let stream = Stream::new(&device)?;
    let _session = Session::new(&device);
    let meter = match (Meter::new(&device), options.energy) {
        (Err(error), Some(_)) => return Err(error.into()),
        (meter, _) => meter.ok(),
    };
    let ledger = Ledger::open(options.folder.as_deref(), options.resume)?;
    let log = Log::open(options.folder.as_deref(), options.resume)?;
    let mut dense = DenseTimes::default();
    ledger.rows().iter().for_each(|row| dense.note(row));
    let mut bench = Bench {
        options,
        device: &device,
        stream: &stream,
        flusher: Flusher::new(&device)?,
        driver: meter.as_ref().and_then(|m| m.driver().ok()).unwrap_or_default(),
        idle_w: match (&meter, options.energy) {
            (Some(meter), Some(seconds)) => Some(meter.idle_watts(seconds.max(0.5))?),
            _ => None,
        },
        meter,
        ceilings: Vec::new(),
        seed: options.seed.unwrap_or_else(Random::fresh_seed),
        laps: Laps::start(),
        log,
        dense,
        ledger,
    };
    bench.raise_ceilings(tasks, hooks.observe)?;
    let mut record = Record {
        machine: Machine { gpu: Some(describe(&device, &bench.driver)), ..Machine::detect() },
        settings: Settings {
            definition: name.into(),
            description: description.into(),
            command: options.command.clone(),
            date,
            duration_s: 0.0,
            threads: 1,
            seed: bench.seed,
            budget_s: options.budget,
            memory_limit: options.memory_limit,
            evicted_bytes: bench.flusher.bytes(),
            // What the driver documents for events.
            clock_resolution_s: 5e-7,
        },
        ceilings: bench.ceilings.clone(),
        rows: Vec::new(),
    };
    if let Some(earlier) = &options.earlier {
        earlier.add_to(&mut record);
    }
    if let Some(folder) = &options.folder {
        // So that what is there can be read even if the run is killed.
        write_whole(&folder.join("machine.toml"), &record.to_toml())?;
    }
    bench.laps = Laps::start();
    let (mut at, total) = (0, tasks.len());
    for group in tasks.chunk_by(|a, b| a.case.kind.dtype == b.case.kind.dtype) {
        match group[0].case.kind.dtype {
            DType::F16 => case::group::<f16>(group, at, total, &mut bench, hooks)?,
            DType::Bf16 => case::group::<bf16>(group, at, total, &mut bench, hooks)?,
            DType::F32 => case::group::<f32>(group, at, total, &mut bench, hooks)?,
            DType::F64 => case::group::<f64>(group, at, total, &mut bench, hooks)?,
            DType::C64 | DType::C128 => case::refused(group, at, total, &mut bench, hooks)?,
        }
        at += group.len();
    }
    bench.raise_ceilings(tasks, hooks.observe)?;
    raise(&mut record.ceilings, &bench.ceilings);
    record.settings.duration_s += watch.seconds();
    record.rows = bench.ledger.finish()?;
    share_of_roofline(&mut record);
    Ok(record)
}

impl Bench<'_> {
    /// A row without results.
    pub(crate) fn blank(&self, case: &Case, algorithm: Algorithm) -> Row {
        let mut row = Row::blank(case, algorithm, 1, self.seed);
        row.device = self.device.name().into();
        row.driver.clone_from(&self.driver);
        row
    }

    /// The algorithms of a case that have no row yet.
    pub(crate) fn missing(&self, task: &Task) -> Vec<Algorithm> {
        let algorithms = task.algorithms.iter().copied();
        algorithms.filter(|&algorithm| !self.ledger.has(&self.blank(&task.case, algorithm))).collect()
    }

    /// Keeps a finished case's rows, on the disk too.
    pub(crate) fn keep(&mut self, mut rows: Vec<Row>) -> Result<()> {
        crate::case::compare(&mut rows);
        for row in &mut rows {
            let ceiling = self.ceilings.iter().find(|c| c.dtype == row.dtype);
            let best = ceiling.map(|c| row.problem().roofline_seconds(c.flops_per_second, c.bytes_per_second));
            row.roofline_share = best.zip(row.median_s).map(|(best, median)| best / median);
        }
        self.ledger.keep(rows)
    }

    /// Whether the time for new cases is over.
    pub(crate) fn is_over(&self) -> bool {
        self.options.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Measures the ceilings of every kind of the tasks and keeps the better of old and new.
    fn raise_ceilings(&mut self, tasks: &[Task], observe: Observer<'_>) -> Result<()> {
        let mut kinds: Vec<Kind> =
            tasks.iter().map(|task| task.case.kind).filter(|kind| !kind.dtype.is_complex()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let bytes_per_second = copy_bandwidth(self.stream, 2 << 30)?;
        for kind in kinds {
            observe(Event::Ceiling(kind.dtype));
            let flops_per_second = match kind.dtype {
                DType::F16 => self.peak::<f16>(kind)?,
                DType::Bf16 => self.peak::<bf16>(kind)?,
                DType::F64 => self.peak::<f64>(kind)?,
                // Three TF32 products have the accuracy of one in f32.
                _ if kind == DType::F32.into() => self.peak::<f32>(kind)?.max(self.peak::<f32>(Kind::TF32)? / 3.0),
                _ => self.peak::<f32>(kind)?,
            };
            match self.ceilings.iter_mut().find(|c| c.dtype == kind) {
                Some(old) => {
                    old.flops_per_second = old.flops_per_second.max(flops_per_second);
                    old.bytes_per_second = old.bytes_per_second.max(bytes_per_second);
                }
                None => {
                    self.ceilings.push(Ceiling { dtype: kind, threads: 1, flops_per_second, bytes_per_second });
                }
            }
        }
        Ok(())
    }

    fn peak<T: Scalar>(&self, kind: Kind) -> Result<f64> {
        Ok(peak_flops::<T>(self.stream, kind.precision(), 8192)?)
    }
}

/// A GPU for the record.
fn describe(device: &Device, driver: &str) -> Gpu {
    let (major, minor) = device.capability();
    // Names only: where a file lies is the machine's own affair.
    let found = Library::ALL.into_iter().filter(|&library| libraries::find(library).is_ok());
    let mut libraries: Vec<String> = found.map(|library| library.name().to_string()).collect();
    if let Ok((major, minor)) = kronsparse::cuda::compile::version() {
        libraries.push(format!("NVRTC {major}.{minor}"));
    }
    Gpu {
        name: device.name().into(),
        driver: driver.into(),
        capability: [major, minor],
        multiprocessors: device.multiprocessors(),
        memory_bytes: device.memory(),
        l2_bytes: device.l2_bytes(),
        libraries,
    }
}
