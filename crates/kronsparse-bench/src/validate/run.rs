//! The run: what is missing is measured, problem by problem, into a folder that can be gone on with.

use std::path::Path;
use std::time::Instant;

use super::problems::{Device, Settings};
use super::shares::whole;
use super::{Row, cpu, cuda};
use crate::journal::Journal;
use crate::{Error, Result};

/// Problems of the first round, whose kernels are compiled before it; every later round has twice as many, up to a limit.
const FIRST_ROUND: usize = 32;
const LARGEST_ROUND: usize = 128;

/// How far a run has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Problems that are done, those of earlier runs included.
    pub done: usize,
    /// Problems of the whole run.
    pub of: usize,
    /// The rows of the last one.
    pub rows: &'a [Row],
}

/// Where it is measured.
enum Bench {
    Cpu(Box<cpu::Bench>),
    Cuda(Box<cuda::Bench>),
}

/// Measures the problems that have no rows in `folder` yet, until the time is over; returns all rows. `prepare` compiles the kernels of
/// the problems with these numbers, on a GPU.
///
/// Errors: a folder that cannot be written, or that holds rows of another seed, machine or state of the caches; a lost GPU. What was
/// measured until then is in the folder.
pub fn run(
    settings: &Settings,
    folder: &Path,
    prepare: &mut dyn FnMut(&[usize]) -> Result<()>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Row>> {
    let begin = Instant::now();
    let is_over = || begin.elapsed().as_secs_f64() >= settings.seconds;
    let (mut journal, mut rows) = Journal::<Row>::open(folder, true)?;
    let known = whole(&rows);
    let open: Vec<usize> = (0..settings.problems).filter(|number| !known.contains_key(number)).collect();
    let mut bench = match settings.device {
        _ if open.is_empty() => None,
        Device::Cpu => Some(Bench::Cpu(Box::new(cpu::Bench::open()?))),
        Device::Cuda(ordinal) => Some(Bench::Cuda(Box::new(cuda::Bench::open(ordinal, settings.kernels)?))),
    };
    let name = match &bench {
        None => None,
        Some(Bench::Cpu(_)) => Some(kronsparse::measure::cpu_name().to_owned()),
        Some(Bench::Cuda(bench)) => Some(bench.name().to_owned()),
    };
    check(settings, &rows, name.as_deref(), folder)?;
    let mut done = settings.problems - open.len();
    let (mut from, mut size) = (0, FIRST_ROUND);
    while let Some(bench) = bench.as_mut().filter(|_| from < open.len() && !is_over()) {
        let round = &open[from..(from + size).min(open.len())];
        (from, size) = (from + size, (2 * size).min(LARGEST_ROUND));
        if settings.device != Device::Cpu {
            prepare(round)?;
        }
        for &number in round {
            if is_over() {
                break;
            }
            let case = settings.problem(number);
            let found = match bench {
                Bench::Cpu(bench) => bench.measure(&case, number, settings.seed),
                Bench::Cuda(bench) => bench.measure(&case, number, settings.seed)?,
            };
            journal.append(&found)?;
            done += 1;
            observe(Progress { done, of: settings.problems, rows: &found });
            rows.extend(found);
        }
    }
    rows.retain(|row| row.number < settings.problems);
    Ok(rows)
}

/// Whether rows belong to this run.
fn check(settings: &Settings, rows: &[Row], device: Option<&str>, folder: &Path) -> Result<()> {
    let fail = |why: String| Err(Error::Record { path: folder.to_path_buf(), why });
    for row in rows {
        if let Some(device) = device.filter(|device| *device != row.device) {
            return fail(format!("holds rows of {}, and this is {device}: give another --out", row.device));
        }
        let expected = Row::blank(&settings.problem(row.number), row.number, settings.seed, &row.device);
        if (row.problem(), row.cache, row.seed) != (expected.problem(), expected.cache, expected.seed) {
            let (found, wanted) =
                (format!("{} {}", row.problem(), row.cache), format!("{} {}", expected.problem(), expected.cache));
            return fail(format!(
                "holds another run: problem {} is {found} there and {wanted} here; give another --out, or the flags it was begun with",
                row.number
            ));
        }
    }
    Ok(())
}
