//! A file of rows, such as `samples.csv`, written row by row while a run goes on, so that a run that is killed loses no more than its last case, and can
//! be gone on with.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kronsparse::plan::Algorithm;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::record::{Row, prepare_folder, write_whole};
use crate::{Error, Result};

/// After so long rows are made sure to be on the disk, which takes milliseconds. A process that is killed loses nothing before, a machine
/// that loses its power these seconds.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// Keeps other processes from measuring into the folder for as long as the file that is returned, of this name, lives; the system frees it
/// with the process. Errors: another process measures into it; a folder that cannot be written.
pub(crate) fn lock(folder: &Path, name: &str) -> Result<File> {
    let path = folder.join(name);
    let file = File::create(&path).map_err(Error::io(&path, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let why = "is being measured into by another process: wait until it has ended, or give another --out";
            Err(Error::Record { path: folder.to_path_buf(), why: why.into() })
        }
        // Some network file systems have no locks.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(Error::io(&path, "lock")(error)),
    }
}

/// A row of a file of measurements.
pub trait Line: Serialize + DeserializeOwned {
    /// The file's name.
    const FILE: &'static str;
    /// The names of the columns, in order.
    fn columns() -> Vec<String>;
}

impl Line for Row {
    const FILE: &'static str = "samples.csv";

    fn columns() -> Vec<String> {
        Row::columns()
    }
}

/// An open file of rows: `samples.csv`, unless they are of another kind.
#[derive(Debug)]
pub struct Journal<R = Row> {
    path: PathBuf,
    file: File,
    saved: Instant,
    rows: PhantomData<R>,
}

impl<R: Line> Journal<R> {
    /// Opens the file in `folder`. With `resume` the rows that are there are kept and returned, but for a last line that was cut
    /// off; without, the file begins anew.
    pub fn open(folder: &Path, resume: bool) -> Result<(Journal<R>, Vec<R>)> {
        let rows = if resume { read(folder)? } else { Vec::new() };
        Ok((Journal::with(folder, &rows)?, rows))
    }

    /// Writes the file in `folder` anew with these rows, and opens it behind them.
    pub fn with(folder: &Path, rows: &[R]) -> Result<Journal<R>> {
        prepare_folder(folder)?;
        let path = folder.join(R::FILE);
        // Written whole: the columns may be those of an earlier version, and the end may be half a line.
        write_whole(&path, &to_csv(rows, true))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "append to"))?;
        Ok(Journal { path, file, saved: Instant::now(), rows: PhantomData })
    }

    /// Appends rows, and makes sure now and then that they are on the disk.
    pub fn append(&mut self, rows: &[R]) -> Result<()> {
        let text = to_csv(rows, false);
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path, "append to"))?;
        if self.saved.elapsed() >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Makes sure that all rows are on the disk.
    pub fn save(&mut self) -> Result<()> {
        self.saved = Instant::now();
        self.file.sync_data().map_err(Error::io(&self.path, "append to"))
    }
}

/// The rows of a run so far: in memory, and on the disk where there is a folder for them.
pub(crate) struct Ledger {
    journal: Option<Journal>,
    /// Case and algorithm of every row.
    done: HashSet<(String, Algorithm)>,
    rows: Vec<Row>,
}

impl Ledger {
    /// See [`Journal::open`]; without a folder it begins empty and is kept in memory only.
    pub(crate) fn open(folder: Option<&Path>, resume: bool) -> Result<Ledger> {
        let (journal, rows) = match folder {
            Some(folder) => {
                let (journal, rows) = Journal::open(folder, resume)?;
                (Some(journal), rows)
            }
            None => (None, Vec::new()),
        };
        let done = rows.iter().map(|row| (case_key(row), row.algorithm)).collect();
        Ok(Ledger { journal, done, rows })
    }

    /// Whether the case and algorithm of this row, whose results do not matter, have a row.
    pub(crate) fn has(&self, row: &Row) -> bool {
        self.done.contains(&(case_key(row), row.algorithm))
    }

    /// Keeps the rows of a finished case, on the disk too.
    pub(crate) fn keep(&mut self, rows: Vec<Row>) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.append(&rows)?;
        }
        self.done.extend(rows.iter().map(|row| (case_key(row), row.algorithm)));
        self.rows.extend(rows);
        Ok(())
    }

    /// The rows so far.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// All rows, those of a case side by side and compared with each other; on the disk too.
    pub(crate) fn finish(mut self) -> Result<Vec<Row>> {
        if let Some(journal) = &mut self.journal {
            journal.save()?;
        }
        let mut rows = grouped(self.rows);
        rows.chunk_by_mut(|a, b| a.same_case(b)).for_each(crate::case::compare);
        Ok(rows)
    }
}

/// Rows as CSV; the header is that of a row, also where there is none.
fn to_csv<R: Line>(rows: &[R], header: bool) -> String {
    let mut writer = csv::WriterBuilder::new().has_headers(header).from_writer(Vec::new());
    if header && rows.is_empty() {
        return format!("{}\n", R::columns().join(","));
    }
    for row in rows {
        writer.serialize(row).expect("a row of plain numbers and texts can be written to memory");
    }
    String::from_utf8(writer.into_inner().expect("memory does not fail")).expect("csv of UTF-8 is UTF-8")
}

/// The rows of the file in `folder`; none if it does not exist. A last row that is cut off, be it within a character, is left out.
/// Nothing is written: another process may be appending to the file.
pub fn read<R: Line>(folder: &Path) -> Result<Vec<R>> {
    let path = &folder.join(R::FILE);
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(path, "read")(error)),
    };
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let whole = std::str::from_utf8(&bytes[..end])
        .map_err(|e| Error::Record { path: path.clone(), why: format!("expected UTF-8: {e}") })?;
    let mut rows: Vec<csv::Result<R>> = csv::Reader::from_reader(whole.as_bytes()).into_deserialize().collect();
    if rows.last().is_some_and(|row| row.is_err()) {
        rows.pop();
    }
    let rows: csv::Result<Vec<R>> = rows.into_iter().collect();
    rows.map_err(|e| Error::Record { path: path.to_path_buf(), why: e.to_string() })
}

/// Which rows belong to one case, as text.
pub fn case_key(row: &Row) -> String {
    let Row { chain, dtype, layout, n, threads, cache, device, .. } = row;
    format!("{chain} {dtype} {layout} {n} {threads} {cache} {device}")
}

/// Puts the rows of each case side by side, in the order in which the cases were first seen. A later row of the same case and
/// algorithm replaces an earlier one.
pub fn grouped(rows: Vec<Row>) -> Vec<Row> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut cases: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        let at = *places.entry(case_key(&row)).or_insert(cases.len());
        if at == cases.len() {
            cases.push(Vec::new());
        }
        match cases[at].iter_mut().find(|known| known.algorithm == row.algorithm) {
            Some(known) => *known = row,
            None => cases[at].push(row),
        }
    }
    cases.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;

    #[test]
    fn a_killed_run_keeps_every_whole_row_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let first = row("(1,2,2,2)", 5, Algorithm::Fused, Some(1e-3));
        // Its plan has a character of two bytes, which a cut may halve.
        let second = Row { plan: "tile 64×32".into(), ..row("(1,2,2,2)", 5, Algorithm::Dense, Some(2e-3)) };
        let (mut journal, none) = Journal::<Row>::open(folder.path(), true).unwrap();
        assert!(none.is_empty());
        journal.append(std::slice::from_ref(&first)).unwrap();
        journal.append(std::slice::from_ref(&second)).unwrap();
        drop(journal);
        let path = folder.path().join("samples.csv");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        // Killed in the middle of the last line, at every byte of it.
        let begin = text.trim_end().rfind('\n').unwrap() + 1;
        for cut in begin..text.len() {
            std::fs::write(&path, &text.as_bytes()[..cut]).unwrap();
            // Whoever only looks leaves the file as it is.
            assert_eq!(read::<Row>(folder.path()).unwrap(), std::slice::from_ref(&first), "cut at {cut}");
            assert_eq!(std::fs::read(&path).unwrap(), &text.as_bytes()[..cut]);
            let (mut journal, rows) = Journal::<Row>::open(folder.path(), true).unwrap();
            assert_eq!(rows, std::slice::from_ref(&first), "cut at {cut}");
            journal.append(std::slice::from_ref(&second)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert!(Journal::<Row>::open(folder.path(), false).unwrap().1.is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        std::fs::write(&path, text.replacen("fused", "fussed", 1)).unwrap();
        assert!(Journal::<Row>::open(folder.path(), true).unwrap_err().to_string().contains("fussed"));
    }

    #[test]
    fn one_process_measures_into_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path(), "a.lock").unwrap();
        let error = lock(folder.path(), "a.lock").unwrap_err().to_string();
        assert!(error.contains("is being measured into by another process"), "{error}");
        drop(held);
        lock(folder.path(), "a.lock").unwrap();
    }

    #[test]
    fn rows_of_a_case_are_brought_together() {
        let rows = vec![
            row("(1,2,2,2)", 5, Algorithm::Fused, Some(1e-3)),
            row("(1,2,2,2)", 6, Algorithm::Fused, Some(1e-3)),
            row("(1,2,2,2)", 5, Algorithm::Dense, Some(1e-3)),
            row("(1,2,2,2)", 6, Algorithm::Fused, Some(4e-3)),
        ];
        let found: Vec<_> = grouped(rows).iter().map(|r| (r.n, r.algorithm, r.median_s.unwrap())).collect();
        let (fused, dense) = (Algorithm::Fused, Algorithm::Dense);
        assert_eq!(found, [(5, fused, 1e-3), (5, dense, 1e-3), (6, fused, 4e-3)]);
    }
}
