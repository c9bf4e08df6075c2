//! The file of records: read whole, appended to line by line, refused where it is damaged or something else.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Machine, Record};
use crate::error::in_one_line;
use crate::io::make_private;
use crate::plan::gpu::ChainProblem;
use crate::{Error, Result};

/// What the first line begins with; a version follows.
const FORMAT: &str = "kronsparse tuning ";
/// Changes when older readers would misunderstand a record.
const VERSION: u32 = 1;
/// Larger files are no stores: a record has some kilobytes, and each took seconds to measure.
const LARGEST: u64 = 256 << 20;

/// Records in a file; see the [module](super) for the format.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    records: Vec<Record>,
    note: Option<String>,
}

impl Store {
    /// Reads a store.
    ///
    /// Errors: there is no such file, or it cannot be read ([`Error::Io`]); it is no store, a damaged one, or one of a newer version
    /// ([`Error::File`]).
    pub fn read(path: &Path) -> Result<Store> {
        let content = || {
            check_kind(path)?;
            let mut file = File::open(path).map_err(fail(path, "open"))?;
            read_all(path, &mut file)
        };
        // Another process may have been between cutting off a line and writing the next one.
        let parsed = parse(path, &content()?).or_else(|_| parse(path, &content()?))?;
        Ok(Store::of(path, parsed))
    }

    /// Reads a store to append to, made where it is missing, a line that was cut off removed: so it is known that it can be written.
    ///
    /// Errors: as [`Store::read`]; the folder cannot be written to, or the disk is full.
    pub fn open(path: &Path) -> Result<Store> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            make_private(folder).map_err(fail(folder, "make the folder"))?;
        }
        let mut file = locked(path)?;
        let parsed = parse(path, &read_all(path, &mut file)?)?;
        repair(&mut file).map_err(fail(path, "write"))?;
        Ok(Store::of(path, parsed))
    }

    fn of(path: &Path, Parsed { records, torn }: Parsed) -> Store {
        let note = torn.then(|| {
            let path = path.display();
            format!("{path}: the last line is left out: whoever wrote it was stopped before its end")
        });
        Store { path: path.into(), records, note }
    }

    /// Adds a record at the end of the file, and to this store. It is on the disk when this returns; where it fails, the file is as it
    /// was before.
    pub fn append(&mut self, record: Record) -> Result<()> {
        let line = line(&record);
        let written = |file: &mut File| {
            let end = repair(file)?;
            let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
            if written.is_err() {
                // The next one who appends would do it too.
                let _ = file.set_len(end);
            }
            written
        };
        written(&mut locked(&self.path)?).map_err(fail(&self.path, "write"))?;
        self.records.push(record);
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// All records, the oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
    /// What was left out when the file was read, in a sentence.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The latest record of exactly this problem on this machine.
    pub fn find(&self, machine: &Machine, problem: &ChainProblem) -> Option<&Record> {
        self.records.iter().rev().find(|record| record.problem == *problem && record.machine == *machine)
    }

    /// The latest record for each number of vectors of what is this problem otherwise.
    pub(crate) fn of_problem(&self, machine: &Machine, problem: &ChainProblem) -> BTreeMap<usize, &Record> {
        let same = |record: &&Record| {
            let found = &record.problem;
            found.dtype == problem.dtype
                && found.chain == problem.chain
                && ChainProblem { batch: problem.batch, ..found.clone() } == *problem
                && record.machine == *machine
        };
        self.records.iter().filter(same).map(|record| (record.problem.batch, record)).collect()
    }
}

fn fail(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { path: path.into(), action, source }
}

/// Asked before anything is opened: opening a pipe would wait for its other end.
fn check_kind(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Err(error) => Err(fail(path, "open")(error)),
        Ok(kind) if kind.is_file() && kind.len() <= LARGEST => Ok(()),
        Ok(_) => {
            let why = format!("no tuning store: expected a regular file of at most {LARGEST} bytes");
            Err(Error::File { path: path.into(), why })
        }
    }
}

/// The file for reading and writing, made where it is missing, with a lock that ends when it is dropped.
fn locked(path: &Path) -> Result<File> {
    if path.exists() {
        check_kind(path)?;
    }
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(fail(path, "write"))?;
    file.lock().map_err(fail(path, "lock"))?;
    Ok(file)
}

fn read_all(path: &Path, file: &mut File) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content).map_err(fail(path, "read"))?;
    Ok(content)
}

/// Cuts off a line without end, writes the first line where there is none, and goes to the end, which it returns.
fn repair(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut last = [0];
    if end > 0 {
        file.seek(SeekFrom::Start(end - 1))?;
        file.read_exact(&mut last)?;
    }
    if end > 0 && last != *b"\n" {
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut content)?;
        end = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at as u64 + 1);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
    }
    if end == 0 {
        let first = first_line();
        if let Err(error) = file.write_all(first.as_bytes()) {
            let _ = file.set_len(0);
            return Err(error);
        }
        end = first.len() as u64;
    }
    Ok(end)
}

fn first_line() -> String {
    format!("{FORMAT}{VERSION}\n")
}

/// A record as its line.
fn line(record: &Record) -> String {
    let json = serde_json::to_string(record).expect("a record is numbers and text");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

struct Parsed {
    records: Vec<Record>,
    /// Whether a line without end was left out.
    torn: bool,
}

/// The records of a file's content. Errors: it is no store, a newer one, or a damaged one.
fn parse(path: &Path, content: &[u8]) -> Result<Parsed> {
    let wrong = |why: String| Err(Error::File { path: path.into(), why });
    let first = first_line();
    if first.as_bytes().starts_with(content) && content.len() < first.len() {
        return Ok(Parsed { records: Vec::new(), torn: !content.is_empty() });
    }
    let Some(rest) = content.strip_prefix(first.as_bytes()) else {
        let line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = in_one_line(&String::from_utf8_lossy(&line[..line.len().min(80)]));
        let expected = first.trim_end();
        return match line.strip_prefix(FORMAT).map(str::parse::<u32>) {
            Some(Ok(newer)) if newer > VERSION => wrong(format!(
                "a tuning store of a newer version: expected version {VERSION}, found {newer}; use a newer kronsparse, or name \
                 another file"
            )),
            _ => wrong(format!(
                "no tuning store: expected the first line `{expected}`, found `{line}`; name another file, or delete this one"
            )),
        };
    };
    let mut records = Vec::new();
    let mut lines = rest.split_inclusive(|&byte| byte == b'\n').enumerate();
    for (at, line) in &mut lines {
        let Some(line) = line.strip_suffix(b"\n") else { return Ok(Parsed { records, torn: true }) };
        match record(line) {
            Ok(record) => records.push(record),
            Err(why) => {
                return wrong(format!(
                    "line {} of the tuning store is damaged: {why}; delete that line, which forgets one measurement, or the file",
                    at + 2
                ));
            }
        }
    }
    Ok(Parsed { records, torn: false })
}

/// The record of a line, or what is wrong with it.
fn record(line: &[u8]) -> std::result::Result<Record, String> {
    let form = "expected eight hexadecimal digits, a space and a record";
    let text = std::str::from_utf8(line).map_err(|_| format!("{form}, found bytes that are no text"))?;
    let (expected, json) = text.split_once(' ').filter(|(sum, _)| sum.len() == 8).ok_or(form)?;
    let found = format!("{:08x}", crc32fast::hash(json.as_bytes()));
    if found != expected {
        return Err(format!("its checksum is {}, that of its content {found}", in_one_line(expected)));
    }
    serde_json::from_str(json).map_err(|error| in_one_line(&error.to_string()))
}

#[cfg(test)]
mod tests;
