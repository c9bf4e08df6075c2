//! The run: ceilings, then every case with all its algorithms, then the ceilings again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kronsparse::DType;
use kronsparse::measure::{Evictor, Stopwatch, copy_bandwidth, peak_flops, resolution};
use kronsparse::plan::Algorithm;

use crate::case::{Bench, run_case};
use crate::definition::{Case, Definition};
use crate::journal::Ledger;
use crate::machine::Machine;
use crate::random::Random;
use crate::record::{Ceiling, Record, Row, Settings, write_whole};
use crate::{Error, Result};

/// How to measure. [`Options::default`] is what the command does without flags.
#[derive(Clone, Debug)]
pub struct Options {
    /// Algorithms, in the order of the table.
    pub algorithms: Vec<Algorithm>,
    /// Threads; 0 means all cores that this process may use.
    pub threads: usize,
    /// Sampling time given to each algorithm on each case, in seconds.
    pub budget: f64,
    /// Bytes of weights or scratch above which an algorithm is skipped, with the reason in its row.
    pub memory_limit: usize,
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

/// What earlier runs into a folder recorded and a later run keeps: when they began, how long they took, and their ceilings.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier {
    /// When the first run began.
    pub date: String,
    /// How long they took together, in seconds.
    pub duration_s: f64,
    /// The best that they measured.
    pub ceilings: Vec<Ceiling>,
    /// The seed of the last one.
    pub seed: u64,
}

impl Earlier {
    /// What a record says of the runs until then.
    pub fn of(record: &Record) -> Earlier {
        let Settings { date, duration_s, seed, .. } = &record.settings;
        Earlier { date: date.clone(), duration_s: *duration_s, ceilings: record.ceilings.clone(), seed: *seed }
    }

    /// What `folder/machine.toml` says of them; `None` where there is none. Errors: it is damaged.
    pub fn read(folder: &Path) -> Result<Option<Earlier>> {
        let path = folder.join("machine.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let record: Record =
                    toml::from_str(&text).map_err(|e| Error::Record { path, why: e.message().to_string() })?;
                Ok(Some(Earlier::of(&record)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    /// Puts it into the record of a run that says nothing but that run's own.
    pub(crate) fn add_to(&self, record: &mut Record) {
        record.settings.date.clone_from(&self.date);
        record.settings.duration_s += self.duration_s;
        raise(&mut record.ceilings, &self.ceilings);
    }
}

/// The better of two ceilings counts.
pub(crate) fn raise(ceilings: &mut Vec<Ceiling>, others: &[Ceiling]) {
    for other in others {
        match ceilings.iter_mut().find(|c| c.dtype == other.dtype && c.threads == other.threads) {
            Some(own) => {
                own.flops_per_second = own.flops_per_second.max(other.flops_per_second);
                own.bytes_per_second = own.bytes_per_second.max(other.bytes_per_second);
            }
            None => ceilings.push(other.clone()),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            algorithms: Algorithm::on_cpu().to_vec(),
            threads: 0,
            budget: 0.3,
            memory_limit: 1 << 30,
            seed: None,
            command: String::new(),
            folder: None,
            resume: false,
            until: None,
            earlier: None,
        }
    }
}

/// What a run tells of its progress.
#[derive(Debug)]
pub enum Event<'a> {
    /// The ceilings of an element type are being measured.
    Ceiling(DType),
    /// Case `index` of `total` begins.
    Case {
        /// Counted from 0.
        index: usize,
        /// Number of cases.
        total: usize,
        /// The case.
        case: &'a Case,
    },
    /// Within the case: an algorithm is prepared and verified.
    Verify(Algorithm),
    /// Within the case: the algorithms are sampled in turn.
    Sample,
    /// The case is finished.
    Done {
        /// Its rows, one per algorithm.
        rows: &'a [Row],
    },
}

/// Receives events. A closure will do.
pub type Observer<'a> = &'a mut (dyn FnMut(Event<'_>) + Send);

/// Measures all cases. Wrong or failing algorithms are rows of the record, not errors.
pub fn run(definition: &Definition, options: &Options, observe: Observer<'_>) -> Result<Record> {
    if options.algorithms.is_empty() {
        let why = "expected at least one algorithm to measure, found none".into();
        return Err(Error::Definition { place: "algorithms".into(), why });
    }
    if !(options.budget >= 0.0 && options.budget.is_finite()) {
        let why = format!("expected a sampling time of at least 0 seconds, found {}", options.budget);
        return Err(Error::Definition { place: "budget".into(), why });
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::Threads { threads, why: e.to_string() })?;
    pool.install(|| measure(definition, options, threads, observe))
}

/// [`run`] inside the pool of `threads` threads, in which algorithms, ceilings and cache sweeps all take place.
fn measure(definition: &Definition, options: &Options, threads: usize, observe: Observer<'_>) -> Result<Record> {
    let mut ledger = Ledger::open(options.folder.as_deref(), options.resume)?;
    let watch = Stopwatch::start();
    let date = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    let mut evictor = Evictor::new();

    let mut ceilings = Vec::new();
    raise_ceilings(&mut ceilings, definition, threads, evictor.bytes(), observe);
    let mut record = Record {
        machine: Machine::detect(),
        settings: Settings {
            definition: definition.name.clone(),
            description: definition.description.clone(),
            command: options.command.clone(),
            date,
            duration_s: 0.0,
            threads,
            seed,
            budget_s: options.budget,
            memory_limit: options.memory_limit,
            evicted_bytes: evictor.bytes(),
            clock_resolution_s: resolution(),
        },
        ceilings: ceilings.clone(),
        rows: Vec::new(),
    };
    if let Some(earlier) = &options.earlier {
        earlier.add_to(&mut record);
    }
    if let Some(folder) = &options.folder {
        // So that what is there can be read even if the run is killed.
        write_whole(&folder.join("machine.toml"), &record.to_toml())?;
    }
    let total = definition.cases.len();
    for (index, case) in definition.cases.iter().enumerate() {
        if options.until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        observe(Event::Case { index, total, case });
        let missing = |&algorithm: &Algorithm| !ledger.has(&Row::blank(case, algorithm, threads, seed));
        let algorithms: Vec<Algorithm> = options.algorithms.iter().copied().filter(missing).collect();
        let mut found = Vec::new();
        if !algorithms.is_empty() {
            let mut bench = Bench {
                algorithms: &algorithms,
                threads,
                seed,
                budget: options.budget,
                memory_limit: options.memory_limit,
                evictor: &mut evictor,
            };
            found = run_case(case, &mut bench, observe);
        }
        observe(Event::Done { rows: &found });
        ledger.keep(found)?;
    }
    // The machine may have been busier at the start than at the end, or the other way round: the best of both counts.
    raise_ceilings(&mut ceilings, definition, threads, evictor.bytes(), observe);
    raise(&mut record.ceilings, &ceilings);
    record.settings.duration_s += watch.seconds();
    record.rows = ledger.finish()?;
    share_of_roofline(&mut record);
    Ok(record)
}

/// Measures the ceilings of every element type of the definition and keeps the better of old and new.
fn raise_ceilings(
    ceilings: &mut Vec<Ceiling>,
    definition: &Definition,
    threads: usize,
    evicted: usize,
    observe: Observer<'_>,
) {
    let mut dtypes: Vec<DType> = definition.cases.iter().map(|c| c.problem.dtype).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    // Types that are accumulated alike share one measurement.
    let accumulator = |dtype| if matches!(dtype, DType::F16 | DType::Bf16) { DType::F32 } else { dtype };
    let mut measured: Vec<(DType, f64)> = Vec::new();
    let bytes_per_second = copy_bandwidth(2 * evicted, 0.3);
    for dtype in dtypes {
        let wide = accumulator(dtype);
        let flops_per_second = match measured.iter().find(|m| m.0 == wide) {
            Some(&(_, known)) => known,
            None => {
                observe(Event::Ceiling(wide));
                let peak = peak_flops(wide, 0.5);
                measured.push((wide, peak));
                peak
            }
        };
        match ceilings.iter_mut().find(|c| c.dtype == dtype.into()) {
            Some(old) => {
                old.flops_per_second = old.flops_per_second.max(flops_per_second);
                old.bytes_per_second = old.bytes_per_second.max(bytes_per_second);
            }
            None => ceilings.push(Ceiling { dtype: dtype.into(), threads, flops_per_second, bytes_per_second }),
        }
    }
}

/// Fills in the share of the roofline of every row that has a time.
pub(crate) fn share_of_roofline(record: &mut Record) {
    let shares: Vec<Option<f64>> = record
        .rows
        .iter()
        .map(|row| {
            let ceiling = record.ceiling(row)?;
            let best = row.problem().roofline_seconds(ceiling.flops_per_second, ceiling.bytes_per_second);
            row.median_s.map(|median| best / median)
        })
        .collect();
    record.rows.iter_mut().zip(shares).for_each(|(row, share)| row.roofline_share = share);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_of_two_ceilings_counts_and_others_stay() {
        let ceiling = |dtype: DType, flops_per_second, bytes_per_second| Ceiling {
            dtype: dtype.into(),
            threads: 2,
            flops_per_second,
            bytes_per_second,
        };
        let mut own = vec![ceiling(DType::F32, 5e10, 1e10)];
        raise(&mut own, &[ceiling(DType::F32, 4e10, 2e10), ceiling(DType::F64, 1e10, 1e10)]);
        assert_eq!(own, [ceiling(DType::F32, 5e10, 2e10), ceiling(DType::F64, 1e10, 1e10)]);
    }
}
