//! The measurement of a study: planned, announced, measured in rounds into a folder, and gone on with after an interruption.

use std::path::Path;
use std::time::Instant;

use super::cells::{Cell, Cells, key_of};
use super::head::{Head, device_name};
use super::models::Models;
use super::page;
use super::plan::{DESCRIPTION, Device, Plan, Settings};
use crate::gpu::prepare::Target;
use crate::gpu::{Hooks, Task};
use crate::journal::{self, grouped, lock};
use crate::record::{Record, Row, prepare_folder, write_whole};
use crate::run::{Earlier, Observer, share_of_roofline};
use crate::{Definition, Error, Machine, Result, gpu};

/// The file that keeps other processes from measuring into a study's folder.
pub(super) const LOCK: &str = "study.lock";
/// Cells of a round on a GPU. Within one they are ordered by element type, so that a study that is cut off lacks at most so many of one.
const ROUND: usize = 96;
/// Cells of a round on a CPU, whose ceilings are measured before and after, seconds long.
const CPU_ROUND: usize = 256;

/// Thorough cells and others, each with its word; without the empty ones.
fn split(cells: &[Cell]) -> Vec<(bool, Vec<Cell>)> {
    let of = |thorough: bool| (thorough, cells.iter().filter(|c| c.thorough == thorough).cloned().collect::<Vec<_>>());
    [true, false].map(of).into_iter().filter(|(_, cells)| !cells.is_empty()).collect()
}

/// Cells in the order in which a GPU measures them: in rounds, which follow each other as the cells did, one element type after the
/// other, since those share their arrays.
fn in_rounds(mut cells: Vec<Cell>) -> Vec<Cell> {
    cells.chunks_mut(ROUND).for_each(|round| round.sort_by_key(|cell| cell.case.problem.dtype));
    cells
}

/// Compiles the kernels of cells ahead of their measurement, on a GPU.
pub trait Ahead {
    /// Begins with these cells, in their order, and returns. Errors: nobody can be started.
    fn begin(&mut self, cells: &[Cell], target: &Target) -> Result<()>;
    /// Waits until the kernels of cell number `at` are compiled, or nobody compiles any more; the measurement compiles what is missing.
    fn wait(&mut self, at: usize);
}

/// Measures the cells that lack rows in `folder`, and returns the record of all that is there. On a GPU kernels are compiled by `ahead`
/// meanwhile.
///
/// Errors: a folder that cannot be written, that another process measures into, or that holds another study or another machine's; a lost
/// GPU. What was measured until then is in the folder.
pub fn measure(plan: &Plan, folder: &Path, ahead: &mut dyn Ahead, observe: Observer<'_>) -> Result<Record> {
    let until = plan.settings.limit.map(|limit| Instant::now() + limit);
    prepare_folder(folder)?;
    let _lock = lock(folder, LOCK)?;
    if !owned(plan, folder)? {
        plan.head.write(folder)?;
    }
    let before = match folder.join("machine.toml").exists() {
        true => Some(read(folder)?),
        false => None,
    };
    let place = Place { folder, until };
    let open = plan.missing(folder)?;
    let record = match plan.settings.device {
        Device::Cpu => {
            same_machine(before.as_ref(), &device_name(&Machine::detect()), folder)?;
            on_cpu(plan, open, before, &place, observe)?
        }
        Device::Cuda(ordinal) => {
            let device = kronsparse::cuda::Device::open(ordinal)?;
            same_machine(before.as_ref(), device.name(), folder)?;
            on_gpu(plan, &device, open, before, &place, ahead, observe)?
        }
    };
    let mut record = record.ok_or_else(|| Error::Definition {
        place: "--shard".into(),
        why: format!("{} has no cells: there are {} in the whole study", plan.head.shard, plan.head.cells),
    })?;
    order(&mut record.rows, &plan.cells);
    share_of_roofline(&mut record);
    record.write(folder)?;
    Ok(record)
}

/// Where a study is measured into, and until when.
struct Place<'a> {
    folder: &'a Path,
    until: Option<Instant>,
}

/// Errors: the study was begun on another machine than `now`.
fn same_machine(before: Option<&Record>, now: &str, folder: &Path) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    let then = before.machine.gpu.as_ref().map_or_else(|| device_name(&before.machine), |gpu| gpu.name.clone());
    if then == now {
        return Ok(());
    }
    let why = format!("was begun on {then}, and this is {now}: measure each machine's shard into a folder of its own");
    Err(Error::Record { path: folder.to_path_buf(), why })
}

/// All cells that are open, in one run.
fn on_gpu(
    plan: &Plan,
    device: &kronsparse::cuda::Device,
    open: Vec<Cell>,
    before: Option<Record>,
    place: &Place<'_>,
    ahead: &mut dyn Ahead,
    observe: Observer<'_>,
) -> Result<Option<Record>> {
    if open.is_empty() {
        return Ok(before);
    }
    let Settings { budget, energy, memory_limit, longest, give_up, ref command, .. } = plan.settings;
    let cells = in_rounds(open);
    ahead.begin(&cells, &Target::of(device))?;
    let task = |cell: Cell| Task {
        algorithms: plan.algorithms(cell.thorough).to_vec(),
        thorough: cell.thorough,
        case: cell.case,
    };
    let tasks: Vec<Task> = cells.into_iter().map(task).collect();
    let options = gpu::Options {
        ordinal: device.ordinal(),
        // Each task has its own.
        algorithms: Vec::new(),
        budget,
        memory_limit,
        longest,
        give_up,
        energy,
        permutation_share: true,
        seed: before.as_ref().map(|record| record.settings.seed),
        command: command.clone(),
        folder: Some(place.folder.to_path_buf()),
        resume: true,
        until: place.until,
        earlier: before.as_ref().map(Earlier::of),
    };
    let mut hooks = Hooks { ready: &mut |at| ahead.wait(at), observe };
    gpu::measure((&plan.name(), DESCRIPTION), &tasks, &options, &mut hooks).map(Some)
}

/// Rounds of the cells that are open, each with ceilings of its own.
fn on_cpu(
    plan: &Plan,
    open: Vec<Cell>,
    mut before: Option<Record>,
    place: &Place<'_>,
    observe: Observer<'_>,
) -> Result<Option<Record>> {
    // The ceilings and the first round are begun in any case, so that there is a record.
    let in_time = || place.until.is_none_or(|until| Instant::now() < until);
    for round in open.chunks(CPU_ROUND) {
        for (thorough, cells) in split(round) {
            if before.is_some() && !in_time() {
                return Ok(before);
            }
            let record = run(plan, thorough, &plan.definition(&cells), before.as_ref(), place, observe)?;
            write_whole(&place.folder.join("machine.toml"), &record.to_toml())?;
            before = Some(record);
        }
    }
    Ok(before)
}

/// One run of the benchmark on the CPU, into the folder, after what is there.
fn run(
    plan: &Plan,
    thorough: bool,
    definition: &Definition,
    before: Option<&Record>,
    place: &Place<'_>,
    observe: Observer<'_>,
) -> Result<Record> {
    let Settings { budget, threads, memory_limit, ref command, .. } = plan.settings;
    let options = crate::Options {
        algorithms: plan.algorithms(thorough).to_vec(),
        threads,
        budget,
        memory_limit,
        seed: before.map(|record| record.settings.seed),
        command: command.clone(),
        folder: Some(place.folder.to_path_buf()),
        resume: true,
        until: place.until,
        earlier: before.map(Earlier::of),
    };
    crate::run(definition, &options, observe)
}

/// Whether the folder is this study's already; if not, it is free. Errors: it holds something else.
pub(super) fn owned(plan: &Plan, folder: &Path) -> Result<bool> {
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

/// Writes `study.html` into a study's folder, and nothing else; with the [`Models`] that are in the folder. Errors: those are damaged.
pub fn write_page(record: &Record, head: &Head, folder: &Path) -> Result<()> {
    let models = Models::of_study(folder)?;
    write_whole(&folder.join("study.html"), &page::page(record, head, models.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::cells::{Grid, Shard};
    use super::super::plan::tests::plan;
    use super::*;

    #[test]
    fn rounds_are_spread_and_within_them_types_are_side_by_side() {
        let cells = plan(Grid::Paper, Shard::default()).cells.0;
        let rounds = in_rounds(cells.clone());
        let keys = |cells: &[Cell]| cells.iter().map(Cell::key).collect::<std::collections::BTreeSet<_>>();
        for (round, before) in rounds.chunks(ROUND).zip(cells.chunks(ROUND)) {
            assert_eq!(keys(round), keys(before));
            let types: Vec<_> = round.iter().map(|cell| cell.case.problem.dtype).collect();
            assert!(types.is_sorted(), "{types:?}");
            // Energy is not put off to the end, nor measured first of all.
            let thorough = round.iter().filter(|cell| cell.thorough).count();
            assert!(round.len() < ROUND || (1..=ROUND / 8).contains(&thorough), "{thorough}");
        }
    }
}
