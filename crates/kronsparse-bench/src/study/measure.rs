//! The measurement of a study: planned, announced, measured in rounds into a folder, and gone on with after an interruption.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kronsparse::plan::Algorithm;

use super::cells::{Cell, Cells, Request, Shard, key_of};
use super::head::{Head, device_name};
use super::{estimate, page};
use crate::definition::Definition;
use crate::gpu::prepare;
use crate::journal::{self, grouped};
use crate::record::{Record, Row, prepare_folder, write_whole};
use crate::run::{Earlier, Observer, share_of_roofline};
use crate::{Error, Machine, Result, gpu};

/// Cells of the first round, whose kernels are compiled before it on a GPU; every later round has twice as many, up to a limit. Thorough
/// cells are measured before the others of their round only, so that every beginning is spread over the grid.
const FIRST_ROUND: usize = 64;
const LARGEST_ROUND: usize = 512;

/// Where to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// This machine's CPU.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

/// How to measure a study.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub device: Device,
    /// Algorithms of every cell; if empty, all of the device on some cells and those that can win on the others.
    pub algorithms: Vec<Algorithm>,
    /// Sampling time given to each algorithm on each cell, in seconds.
    pub budget: f64,
    /// Seconds over which the energy of every algorithm is measured, on the thorough cells; GPUs only.
    pub energy: Option<f64>,
    /// Threads, at least 1; 1 on a GPU.
    pub threads: usize,
    /// Bytes of weights above which an algorithm is skipped.
    pub memory_limit: usize,
    /// GPU: seconds that a dense product may take at the GPU's peak; above it is skipped.
    pub longest: f64,
    /// GPU: how many times as long as the best of its cell an algorithm may take and still be sampled more than once.
    pub give_up: f64,
    /// After this time no cell is begun.
    pub limit: Option<Duration>,
    /// The command that was typed, for the record.
    pub command: String,
}

/// What will be measured, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cells of this shard, in order.
    pub cells: Cells,
    /// What the study is.
    pub head: Head,
    /// How.
    pub settings: Settings,
}

impl Plan {
    /// The plan of one shard. Errors: a batch size of 0, or a budget or an energy that is no time.
    pub fn new(request: &Request, shard: Shard, settings: Settings) -> Result<Plan> {
        let time = |place: &str, seconds: f64| {
            let why = format!("expected a time of at least 0 and at most 3600 seconds, found {seconds}");
            if (0.0..=3600.0).contains(&seconds) { Ok(()) } else { Err(Error::Definition { place: place.into(), why }) }
        };
        time("--budget", settings.budget)?;
        time("--energy", settings.energy.unwrap_or(0.0))?;
        let whole = Cells::new(request)?;
        let head = Head {
            grid: request.grid,
            dtypes: request.kinds.clone(),
            layouts: request.layouts.clone(),
            batch: request.batch.clone(),
            cells: whole.0.len(),
            digest: format!("{:016x}", whole.digest()),
            device: if request.gpu { "cuda" } else { "cpu" }.into(),
            algorithms: algorithms(&settings, true),
            algorithms_elsewhere: algorithms(&settings, false),
            budget_s: settings.budget,
            energy_s: settings.energy,
            threads: settings.threads,
            shard: shard.to_string(),
            shard_cells: 0,
            merged: Vec::new(),
        };
        let mut plan = Plan { cells: Cells(Vec::new()), head, settings };
        plan.cells = whole.shard(shard, |cell| estimate::weight(cell, &plan));
        plan.head.shard_cells = plan.cells.0.len();
        Ok(plan)
    }

    /// The algorithms of a cell, by whether it is measured thoroughly.
    pub fn algorithms(&self, thorough: bool) -> &[Algorithm] {
        self.head.algorithms(thorough)
    }

    /// Seconds that these cells will take, without the compilation of kernels; an estimate.
    pub fn estimate<'a>(&self, cells: impl IntoIterator<Item = &'a Cell>) -> f64 {
        cells.into_iter().map(|cell| estimate::seconds(cell, self)).sum()
    }

    /// Seconds that `cores` cores plan and compile the kernels of so many cells on a GPU, where none is in the cache yet; an estimate.
    pub fn compilation(&self, cells: usize, cores: usize) -> f64 {
        cells as f64 * estimate::COMPILE / cores.max(1) as f64
    }

    /// Compiles the kernels of every `of`-th of these cells, beginning with number `share`, into the cache on the disk. For the worker
    /// processes of a [`Prepare`].
    pub fn compile(&self, cells: &[Cell], ordinal: usize, (share, of): (usize, usize)) -> Result<prepare::Compiled> {
        let own: Vec<Cell> = cells.iter().skip(share).step_by(of.max(1)).cloned().collect();
        let mut done = prepare::Compiled::default();
        for (thorough, cells) in split(&own) {
            let (definition, limit) = (self.definition(&cells), self.settings.memory_limit);
            let part = prepare::compile(&definition, self.algorithms(thorough), limit, ordinal, (0, 1))?;
            done.all += part.all;
            done.fresh += part.fresh;
            done.failed += part.failed;
        }
        Ok(done)
    }

    /// The cells that lack rows in a folder; all if there is nothing in it. Nothing is written. Errors: the folder holds something else.
    pub fn missing(&self, folder: &Path) -> Result<Vec<Cell>> {
        owned(self, folder)?;
        let known = journal::read(folder)?;
        Ok(lacking(&self.cells, &self.head, &known).cloned().collect())
    }

    /// Some cells as a definition for the benchmark.
    fn definition(&self, cells: &[Cell]) -> Definition {
        let Head { grid, shard, .. } = &self.head;
        let description =
            "The grid of patterns of the article, layers of transformers as chains of two factors, and a few patterns \
                           over many batch sizes."
                .into();
        let name = if self.head.shard == "1/1" {
            format!("study, {grid} grid")
        } else {
            format!("study, {grid} grid, shard {shard}")
        };
        Definition { name, description, cases: cells.iter().map(|cell| cell.case.clone()).collect() }
    }
}

/// The cells whose algorithms do not all have rows.
pub(super) fn lacking<'a>(cells: &'a Cells, head: &'a Head, rows: &[Row]) -> impl Iterator<Item = &'a Cell> {
    let done: HashSet<(String, Algorithm)> = rows.iter().map(|row| (key_of(row), row.algorithm)).collect();
    cells.0.iter().filter(move |cell| {
        let key = cell.key();
        head.algorithms(cell.thorough).iter().any(|&algorithm| !done.contains(&(key.clone(), algorithm)))
    })
}

/// The algorithms of thorough cells and of others.
fn algorithms(settings: &Settings, thorough: bool) -> Vec<Algorithm> {
    use Algorithm::{Dense, Einsum, Fused, PermuteBmm, Strided};
    match (settings.device, &settings.algorithms[..]) {
        (Device::Cpu, []) if thorough => Algorithm::on_cpu().to_vec(),
        (Device::Cpu, []) => vec![Fused, Dense, PermuteBmm, Einsum],
        (Device::Cuda(_), []) if thorough => Algorithm::on_gpu().to_vec(),
        (Device::Cuda(_), []) => vec![Fused, Dense, PermuteBmm, Strided],
        (_, given) => given.to_vec(),
    }
}

/// Thorough cells and others, each with its word; without the empty ones.
fn split(cells: &[Cell]) -> Vec<(bool, Vec<Cell>)> {
    let of = |thorough: bool| (thorough, cells.iter().filter(|c| c.thorough == thorough).cloned().collect::<Vec<_>>());
    [true, false].map(of).into_iter().filter(|(_, cells)| !cells.is_empty()).collect()
}

/// Compiles the kernels of some cells, before they are measured.
pub type Prepare<'a> = &'a mut dyn FnMut(&[Cell]) -> Result<()>;

/// Measures the cells that lack rows in `folder`, and returns the record of all that is there. On a GPU kernels are compiled by
/// `prepare`, round by round.
///
/// Errors: a folder that cannot be written, that another process measures into, or that holds another study or another machine's; a lost GPU. What was measured until then is in
/// the folder.
pub fn measure(plan: &Plan, folder: &Path, prepare: Prepare<'_>, observe: Observer<'_>) -> Result<Record> {
    let watch = Instant::now();
    let until = plan.settings.limit.map(|limit| watch + limit);
    prepare_folder(folder)?;
    let _lock = lock(folder)?;
    if !owned(plan, folder)? {
        plan.head.write(folder)?;
    }
    let mut before = match folder.join("machine.toml").exists() {
        true => Some(read(folder)?),
        false => None,
    };
    if let Some(before) = &before {
        let now = device_of(plan.settings.device)?;
        let then = before.machine.gpu.as_ref().map_or_else(|| device_name(&before.machine), |gpu| gpu.name.clone());
        if then != now {
            let why = format!(
                "was begun on {then}, and this is {now}: measure each machine's shard into a folder of its own"
            );
            return Err(Error::Record { path: folder.to_path_buf(), why });
        }
    }
    let open = plan.missing(folder)?;
    let (mut from, mut size) = (0, FIRST_ROUND);
    // The ceilings and the first round are begun in any case, so that there is a record.
    while from < open.len() && (before.is_none() || until.is_none_or(|until| Instant::now() < until)) {
        let round = &open[from..(from + size).min(open.len())];
        (from, size) = (from + size, (2 * size).min(LARGEST_ROUND));
        if plan.settings.device != Device::Cpu {
            prepare(round)?;
        }
        for (thorough, cells) in split(round) {
            let definition = plan.definition(&cells);
            let record = run(plan, thorough, &definition, (folder, before.as_ref(), until), observe)?;
            write_whole(&folder.join("machine.toml"), &record.to_toml())?;
            before = Some(record);
        }
    }
    let mut record = before.ok_or_else(|| Error::Definition {
        place: "--shard".into(),
        why: format!("{} has no cells: there are {} in the whole study", plan.head.shard, plan.head.cells),
    })?;
    order(&mut record.rows, &plan.cells);
    share_of_roofline(&mut record);
    record.write(folder)?;
    Ok(record)
}

/// One run of the benchmark, into the folder, after what is there.
fn run(
    plan: &Plan,
    thorough: bool,
    definition: &Definition,
    (folder, before, until): (&Path, Option<&Record>, Option<Instant>),
    observe: Observer<'_>,
) -> Result<Record> {
    let Settings { device, budget, energy, threads, memory_limit, longest, give_up, ref command, .. } = plan.settings;
    let (algorithms, command) = (plan.algorithms(thorough).to_vec(), command.clone());
    let folder: Option<PathBuf> = Some(folder.to_path_buf());
    let (seed, earlier) = (before.map(|record| record.settings.seed), before.map(Earlier::of));
    match device {
        Device::Cpu => {
            let options = crate::Options {
                algorithms,
                threads,
                budget,
                memory_limit,
                seed,
                command,
                folder,
                resume: true,
                until,
                earlier,
            };
            crate::run(definition, &options, observe)
        }
        Device::Cuda(ordinal) => {
            let options = gpu::Options {
                ordinal,
                algorithms,
                budget,
                memory_limit,
                longest,
                give_up,
                energy: energy.filter(|_| thorough),
                permutation_share: true,
                seed,
                command,
                folder,
                resume: true,
                until,
                earlier,
            };
            gpu::run(definition, &options, observe)
        }
    }
}

/// Keeps other processes from measuring into the folder for as long as the file that is returned lives; the system frees it with the process.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("study.lock");
    let file = File::create(&path).map_err(Error::io(&path, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let why = "is being measured into by another process: wait until it has ended, or give another --out";
            Err(Error::Record { path: folder.to_path_buf(), why: why.into() })
        }
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(Error::io(&path, "lock")(error)),
    }
}

/// Whether the folder is this study's already; if not, it is free. Errors: it holds something else.
fn owned(plan: &Plan, folder: &Path) -> Result<bool> {
    let fail = |why: String| Err(Error::Record { path: folder.to_path_buf(), why });
    match Head::read(folder)? {
        Some(there) if there == plan.head => Ok(true),
        Some(there) => {
            let what = match plan.head.difference(&there) {
                Some(difference) => difference,
                None if there.threads != plan.head.threads => {
                    format!("threads: {} here, {} there", plan.head.threads, there.threads)
                }
                None if !there.merged.is_empty() => "it is merged of shards".into(),
                None => format!("shard: {} here, {} there", plan.head.shard, there.shard),
            };
            fail(format!("holds another study ({what}): give another --out, or the flags that it was begun with"))
        }
        None if folder.join("samples.csv").exists() => {
            fail("holds measurements that are no study's: give another --out".into())
        }
        None => Ok(false),
    }
}

/// What will be measured, by name.
fn device_of(device: Device) -> Result<String> {
    match device {
        Device::Cpu => Ok(device_name(&Machine::detect())),
        Device::Cuda(ordinal) => Ok(kronsparse::cuda::Device::open(ordinal)?.name().to_string()),
    }
}

/// Rows in the order of the cells.
pub(super) fn order(rows: &mut [Row], cells: &Cells) {
    let places: std::collections::HashMap<String, usize> =
        cells.0.iter().enumerate().map(|(at, cell)| (cell.key(), at)).collect();
    rows.sort_by_cached_key(|row| places.get(&key_of(row)).copied().unwrap_or(usize::MAX));
}

/// The record of a study's folder, however far it has come: what was cut off in the last line is left out. Nothing is written.
pub fn read(folder: &Path) -> Result<Record> {
    let path = folder.join("machine.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    let mut record: Record = toml::from_str(&text).map_err(|e| Error::Record { path, why: e.to_string() })?;
    record.rows = grouped(journal::read(folder)?);
    record.rows.chunk_by_mut(|a, b| a.same_case(b)).for_each(crate::case::compare);
    share_of_roofline(&mut record);
    Ok(record)
}

/// Writes `study.html` into a study's folder, and nothing else.
pub fn write_page(record: &Record, head: &Head, folder: &Path) -> Result<()> {
    write_whole(&folder.join("study.html"), &page::page(record, head))
}

#[cfg(test)]
mod tests {
    use super::super::cells::Grid;
    use super::*;

    fn plan(grid: Grid, shard: Shard) -> Plan {
        let request = Request { grid, gpu: true, kinds: Vec::new(), layouts: Vec::new(), batch: Vec::new() };
        let settings = Settings {
            device: Device::Cuda(0),
            algorithms: Vec::new(),
            budget: 0.003,
            energy: None,
            threads: 1,
            memory_limit: 1 << 28,
            longest: 0.004,
            give_up: 3.0,
            limit: None,
            command: String::new(),
        };
        Plan::new(&request, shard, settings).unwrap()
    }

    #[test]
    fn the_estimate_is_shared_out_and_energy_takes_longer() {
        let whole = plan(Grid::Paper, Shard::default());
        let time = whole.estimate(&whole.cells.0);
        for number in 1..=3 {
            let shard = plan(Grid::Paper, Shard { number, of: 3 });
            let part = shard.estimate(&shard.cells.0);
            assert!((part / time - 1.0 / 3.0).abs() < 0.01, "{number}: {part} of {time}");
        }
        assert_eq!(whole.compilation(100, 4), 2.0 * whole.compilation(100, 8));
        let mut more = whole.clone();
        more.settings.energy = Some(0.4);
        assert!(more.estimate(&more.cells.0) > 1.1 * time);
    }

    #[test]
    fn shards_do_not_depend_on_the_threads_of_a_machine() {
        let cpu = |threads, number| {
            let request =
                Request { grid: Grid::Paper, gpu: false, kinds: Vec::new(), layouts: Vec::new(), batch: Vec::new() };
            let settings = Settings { device: Device::Cpu, threads, ..plan(Grid::Quick, Shard::default()).settings };
            Plan::new(&request, Shard { number, of: 2 }, settings).unwrap()
        };
        let (one, two) = (cpu(8, 1), cpu(4, 2));
        let keys: HashSet<String> = one.cells.0.iter().chain(&two.cells.0).map(Cell::key).collect();
        assert_eq!(keys.len(), one.head.cells);
        assert_eq!(one.cells.0.len() + two.cells.0.len(), one.head.cells);
    }

    #[test]
    fn one_process_measures_into_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is being measured into by another process"), "{error}");
        drop(held);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn budgets_that_are_no_times_are_refused() {
        let request =
            Request { grid: Grid::Quick, gpu: false, kinds: Vec::new(), layouts: Vec::new(), batch: Vec::new() };
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            let settings = Settings { budget: wrong, ..plan(Grid::Quick, Shard::default()).settings };
            let error = Plan::new(&request, Shard::default(), settings).unwrap_err().to_string();
            assert!(error.contains("--budget: expected a time"), "{error}");
        }
    }
}
