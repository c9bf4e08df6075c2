//! The run: what is missing is measured, problem by problem, into a folder that can be gone on with.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::problems::{Device, Settings};
use super::shares::whole;
use super::{Row, cpu, cuda};
use crate::case::guarded;
use crate::definition::Case;
use crate::gpu::prepare::Target;
use crate::journal::{self, Journal, lock};
use crate::record::prepare_folder;
use crate::{Error, Result};

/// Problems of the first round, whose kernels are compiled before it; every later round has twice as many, up to a limit.
const FIRST_ROUND: usize = 32;
const LARGEST_ROUND: usize = 128;

/// The file that keeps other processes from measuring into the folder.
const LOCK: &str = "validate.lock";

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
pub(super) trait Bench {
    /// The machine's name.
    fn name(&self) -> &str;
    /// What kernels are compiled for beforehand, on a GPU.
    fn target(&self) -> Option<Target>;
    /// The rows of a problem; what is wrong with one way, or with all, is said in its row. Errors: the device is lost.
    fn measure(&mut self, case: &Case, number: usize, seed: u64) -> kronsparse::Result<Vec<Row>>;
    /// Errors: the device is lost.
    fn check(&self) -> kronsparse::Result<()>;
}

/// Compiles the kernels of the problems with these numbers for a GPU.
pub type Prepare<'a> = &'a mut dyn FnMut(&[usize], &Target) -> Result<()>;

/// Measures the problems that are not in `folder` to their ends yet, until the time is over; returns all rows. `prepare` is asked on a GPU
/// only. A problem that lost the GPU, or whose measurement panicked, has a row that says so and does not count; it is measured again, after
/// all others, when the run is gone on with.
///
/// Errors: a folder that cannot be written, that another process measures into, or that holds rows of another seed, machine, state of the
/// caches or number of kernels, which are left as they are; a lost GPU. What was measured until then is in the folder.
pub fn run(
    settings: &Settings,
    folder: &Path,
    prepare: Prepare<'_>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Row>> {
    let open = || -> Result<Box<dyn Bench>> {
        Ok(match settings.device {
            Device::Cpu => Box::new(cpu::Bench::open()?),
            Device::Cuda(ordinal) => Box::new(cuda::Bench::open(ordinal, settings.kernels)?),
        })
    };
    run_on(&open, settings, folder, prepare, observe)
}

/// [`run`] on what `open` gives, which is asked where something is missing.
fn run_on(
    open: &dyn Fn() -> Result<Box<dyn Bench>>,
    settings: &Settings,
    folder: &Path,
    prepare: Prepare<'_>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Row>> {
    let begin = Instant::now();
    let is_over = || begin.elapsed().as_secs_f64() >= settings.seconds;
    prepare_folder(folder)?;
    let _lock = lock(folder, LOCK)?;
    let (mut rows, missing) = found(settings, journal::read(folder)?);
    let mut bench = if missing.is_empty() { None } else { Some(open()?) };
    check(settings, &rows, bench.as_ref().map(|bench| bench.name()), folder)?;
    let mut journal = Journal::with(folder, &rows)?;
    let mut done = settings.problems - missing.len();
    let (mut from, mut size) = (0, FIRST_ROUND);
    while let Some(bench) = bench.as_mut().filter(|_| from < missing.len() && !is_over()) {
        let round = &missing[from..(from + size).min(missing.len())];
        (from, size) = (from + size, (2 * size).min(LARGEST_ROUND));
        if let Some(target) = bench.target() {
            prepare(round, &target)?;
        }
        for &number in round {
            if is_over() {
                break;
            }
            let (mut found, lost) = measure(bench.as_mut(), settings, number);
            found.iter_mut().for_each(|row| row.kernels = kernels(settings));
            journal.append(&found)?;
            if let Some(lost) = lost {
                journal.save()?;
                return Err(lost);
            }
            done += 1;
            observe(Progress { done, of: settings.problems, rows: &found });
            rows.retain(|row| row.number != number);
            rows.extend(found);
        }
    }
    journal.save()?;
    rows.retain(|row| row.number < settings.problems);
    Ok(rows)
}

/// The number of kernels as rows have it.
fn kernels(settings: &Settings) -> Option<usize> {
    (settings.device != Device::Cpu).then_some(settings.kernels)
}

/// Of the rows that are there, those of problems that were measured to their ends, and one of each other that says why it was not; and the
/// problems that are to be measured, those that failed before after the others.
fn found(settings: &Settings, mut rows: Vec<Row>) -> (Vec<Row>, Vec<usize>) {
    let kept: HashSet<*const Row> = whole(&rows).into_values().flatten().map(std::ptr::from_ref).collect();
    let finished: HashSet<usize> = whole(&rows).into_keys().collect();
    let mut failed: Vec<usize> = Vec::new();
    let stays: Vec<bool> = rows
        .iter()
        .map(|row| {
            let fails = row.rows == 0 && !finished.contains(&row.number) && !failed.contains(&row.number);
            if fails {
                failed.push(row.number);
            }
            fails || kept.contains(&std::ptr::from_ref(row))
        })
        .collect();
    let mut stays = stays.into_iter();
    rows.retain(|_| stays.next().unwrap_or(false));
    let mut missing: Vec<usize> = (0..settings.problems).filter(|number| !finished.contains(number)).collect();
    missing.sort_by_key(|number| failed.contains(number));
    (rows, missing)
}

/// The rows of a problem. Where its measurement panics they are one row that says so; where the device is lost too, and why comes back.
fn measure(bench: &mut dyn Bench, settings: &Settings, number: usize) -> (Vec<Row>, Option<Error>) {
    let case = settings.problem(number);
    let measured = guarded(|| Ok(bench.measure(&case, number, settings.seed)));
    // What panicked may have left the device in any state.
    let (why, lost) = match measured {
        Ok(Ok(rows)) => return (rows, None),
        Ok(Err(lost)) => (lost.to_string(), true),
        Err((_, why)) => match bench.check() {
            Ok(()) => (why, false),
            Err(lost) => (format!("{why}; {lost}"), true),
        },
    };
    let row = Row::unfinished(&case, number, settings.seed, bench.name(), &why);
    let error = lost.then(|| Error::Definition {
        place: format!("problem {number}, {}", row.problem()),
        why: format!("the device is lost, go on by typing the command again: {why}"),
    });
    (vec![row], error)
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
        if let (Some(found), Some(wanted)) = (row.kernels, kernels(settings))
            && found != wanted
        {
            return fail(format!(
                "was begun with --kernels {found}, and this is {wanted}: give another --out, or {found}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::Evaluation;

    /// Measures nothing: two ways, the problem number 2 panics and 3 loses the device, unless `well`.
    struct MadeUp {
        well: bool,
    }

    impl Bench for MadeUp {
        fn name(&self) -> &str {
            "made up"
        }
        fn target(&self) -> Option<Target> {
            None
        }
        fn measure(&mut self, case: &Case, number: usize, seed: u64) -> kronsparse::Result<Vec<Row>> {
            assert!(number != 2 || self.well, "of problem two");
            if number == 3 && !self.well {
                return Err(kronsparse::Error::Unsupported { what: "this".into(), why: "the bus is gone".into() });
            }
            let blank = Row { rows: 2, time_s: Some(1e-6), ..Row::blank(case, number, seed, "made up") };
            Ok(vec![Row { untuned: true, tuned: true, ..blank.clone() }, Row { dense: true, ..blank }])
        }
        fn check(&self) -> kronsparse::Result<()> {
            Ok(())
        }
    }

    fn settings(kernels: usize) -> Settings {
        Settings { problems: 6, kernels, ..Settings::new(Device::Cuda(0), 3) }
    }

    fn go(settings: &Settings, folder: &Path, well: bool) -> Result<Vec<Row>> {
        run_on(&|| Ok(Box::new(MadeUp { well })), settings, folder, &mut |_, _| Ok(()), &mut |_| {})
    }

    fn numbers(folder: &Path) -> Vec<(usize, usize)> {
        journal::read::<Row>(folder).unwrap().iter().map(|row| (row.number, row.rows)).collect()
    }

    #[test]
    fn a_panic_and_a_lost_device_leave_no_row_that_counts_and_a_run_goes_on_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let error = go(&settings(8), folder.path(), false).unwrap_err().to_string();
        assert!(error.starts_with("problem 3, ") && error.contains("the bus is gone"), "{error}");
        let first = [(0, 2), (0, 2), (1, 2), (1, 2), (2, 0), (3, 0)];
        assert_eq!(numbers(folder.path()), first);
        let evaluation = Evaluation::of(&journal::read::<Row>(folder.path()).unwrap());
        assert_eq!((evaluation.problems, evaluation.unmeasured.len()), (2, 2));
        assert!(evaluation.unmeasured[0].contains("panicked: of problem two"), "{:?}", evaluation.unmeasured);
        // The others come first, so that the run ends in the same way with more measured.
        go(&settings(8), folder.path(), false).unwrap_err();
        assert_eq!(numbers(folder.path())[6..], [(4, 2), (4, 2), (5, 2), (5, 2), (2, 0), (3, 0)]);
        let rows = go(&settings(8), folder.path(), true).unwrap();
        let evaluation = Evaluation::of(&rows);
        assert_eq!((rows.len(), evaluation.problems, evaluation.unmeasured.len()), (12, 6, 0));
        // What was said of failures is gone when the file is opened again.
        assert_eq!(numbers(folder.path()).len(), 14);
        assert_eq!(go(&settings(8), folder.path(), true).unwrap().len(), 12);
        assert_eq!(numbers(folder.path()).len(), 12);
    }

    #[test]
    fn a_problem_that_was_cut_off_is_measured_again_and_its_rows_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        go(&settings(8), folder.path(), true).unwrap();
        let path = folder.path().join("validate.csv");
        let text = std::fs::read_to_string(&path).unwrap();
        let last = text.trim_end().rfind('\n').unwrap();
        std::fs::write(&path, &text[..last + 8]).unwrap();
        assert_eq!(numbers(folder.path()).len(), 11);
        let begun = journal::read::<Row>(folder.path()).unwrap();
        let (kept, missing) = found(&settings(8), begun);
        assert_eq!((kept.len(), missing), (10, vec![5]));
        go(&settings(8), folder.path(), true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn one_process_measures_and_other_flags_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        go(&settings(8), folder.path(), true).unwrap();
        let path = folder.path().join("validate.csv");
        // Half a row at the end, which opening would cut off.
        let text = std::fs::read_to_string(&path).unwrap() + "5,2,";
        std::fs::write(&path, &text).unwrap();
        let more = Settings { problems: 7, ..settings(4) };
        let refused = go(&more, folder.path(), true).unwrap_err().to_string();
        assert!(refused.contains("was begun with --kernels 8, and this is 4"), "{refused}");
        let held = lock(folder.path(), LOCK).unwrap();
        let refused = go(&settings(8), folder.path(), true).unwrap_err().to_string();
        assert!(refused.contains("is being measured into by another process"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        drop(held);
        // Files of before do not have the number, nor what follows it.
        let header = text.lines().next().unwrap();
        let without: String = text
            .lines()
            .filter(|line| line.contains("made up") || *line == header)
            .map(|line| format!("{}\n", line.rsplitn(4, ',').nth(3).unwrap()))
            .collect();
        std::fs::write(&path, without).unwrap();
        assert_eq!(go(&more, folder.path(), true).unwrap().len(), 14);
    }
}
