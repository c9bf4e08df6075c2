//! What a study will measure and how: settings, the cells of a shard, their algorithms and the time that they will take.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use kronsparse::plan::Algorithm;

use super::cells::{Cell, Cells, Request, Shard, key_of};
use super::estimate;
use super::head::Head;
use crate::gpu::prepare::{self, Target};
use crate::journal;
use crate::record::Row;
use crate::{Definition, Error, Result};

/// What is measured, for the record.
pub(super) const DESCRIPTION: &str = "The grid of patterns of the article, layers of transformers as chains of two factors, and a few \
                                      patterns over many batch sizes.";

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

    /// Seconds that so many processes compile the kernels of these cells, where none is in the cache yet; an estimate.
    pub fn compilation(&self, cells: usize, processes: usize) -> f64 {
        cells as f64 * estimate::COMPILE / processes.max(1) as f64
    }

    /// Compiles the kernels of a cell into the cache on the disk: for the processes of an [`Ahead`](super::Ahead).
    pub fn compile(&self, cell: &Cell, target: &Target) -> prepare::Compiled {
        prepare::compile_case(&cell.case, self.algorithms(cell.thorough), self.settings.memory_limit, target)
    }

    /// The cells that lack rows in a folder; all if there is nothing in it. Nothing is written. Errors: the folder holds something else.
    pub fn missing(&self, folder: &Path) -> Result<Vec<Cell>> {
        super::measure::owned(self, folder)?;
        let known = journal::read(folder)?;
        Ok(lacking(&self.cells, &self.head, &known).cloned().collect())
    }

    /// The name of the record.
    pub(super) fn name(&self) -> String {
        let Head { grid, shard, .. } = &self.head;
        if shard == "1/1" { format!("study, {grid} grid") } else { format!("study, {grid} grid, shard {shard}") }
    }

    /// Some cells as a definition for the benchmark.
    pub(super) fn definition(&self, cells: &[Cell]) -> Definition {
        let cases = cells.iter().map(|cell| cell.case.clone()).collect();
        Definition { name: self.name(), description: DESCRIPTION.into(), cases }
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::cells::Grid;
    use super::*;

    pub(in crate::study) fn plan(grid: Grid, shard: Shard) -> Plan {
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
