//! `phases.csv`: where the seconds of every case of a GPU run went, so that the next one is planned by what was seen.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kronsparse::plan::{Algorithm, Layout};
use serde::{Deserialize, Serialize};

use crate::definition::Case;
use crate::{Error, Kind, Result};

/// The file's name.
const NAME: &str = "phases.csv";

/// The seconds of one algorithm on one case, or of what its algorithms share: a line of `phases.csv`, whose columns are these fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// The chain.
    pub chain: String,
    /// Element type.
    pub dtype: String,
    /// Order of input and output.
    pub layout: String,
    /// Number of vectors.
    pub n: usize,
    /// The algorithm; empty for what all of the case share.
    pub algorithm: String,
    /// Waiting for kernels that are compiled ahead.
    pub waiting_s: f64,
    /// Arrays, weights, plans of our kernels, vectors and sums of X for the oracle.
    pub inputs_s: f64,
    /// Weights packed and uploaded, kernels loaded, ways of a library tried.
    pub preparing_s: f64,
    /// Both verifications; the first one waits for the oracle.
    pub verifying_s: f64,
    /// The first sample, which says how many there will be.
    pub warming_s: f64,
    /// The samples.
    pub sampling_s: f64,
    /// The parts of permute-bmm.
    pub parts_s: f64,
    /// Energy.
    pub energy_s: f64,
    /// Memory given back, rows written.
    pub ending_s: f64,
}

/// The columns of times, in order.
const TIMES: [&str; 9] =
    ["waiting", "inputs", "preparing", "verifying", "warming", "sampling", "parts", "energy", "ending"];

impl Phases {
    /// Nothing spent yet, on an algorithm or on what all share.
    pub(super) fn new(case: &Case, algorithm: Option<Algorithm>) -> Phases {
        let (kind, layout): (Kind, Layout) = (case.kind, case.problem.layout);
        Phases {
            chain: case.problem.chain.to_string(),
            dtype: kind.to_string(),
            layout: layout.to_string(),
            n: case.problem.batch,
            algorithm: algorithm.map_or(String::new(), |algorithm| algorithm.name().into()),
            ..Phases::default()
        }
    }

    fn times(&self) -> [f64; 9] {
        [
            self.waiting_s,
            self.inputs_s,
            self.preparing_s,
            self.verifying_s,
            self.warming_s,
            self.sampling_s,
            self.parts_s,
            self.energy_s,
            self.ending_s,
        ]
    }
}

/// Gives every second that passes to one phase.
#[derive(Debug)]
pub(super) struct Laps(Instant);

impl Laps {
    pub(super) fn start() -> Laps {
        Laps(Instant::now())
    }
    /// Adds the seconds since the last lap to a phase.
    pub(super) fn lap(&mut self, phase: &mut f64) {
        let now = Instant::now();
        *phase += (now - self.0).as_secs_f64();
        self.0 = now;
    }
}

/// An open `phases.csv`, or nothing where there is no folder.
#[derive(Debug)]
pub(super) struct Log(Option<(PathBuf, File)>);

impl Log {
    /// Opens `folder/phases.csv` behind its last whole line; anew without `resume`. Errors: it has other columns.
    pub(super) fn open(folder: Option<&Path>, resume: bool) -> Result<Log> {
        let Some(folder) = folder else { return Ok(Log(None)) };
        let path = folder.join(NAME);
        let whole = if resume { text(&path)? } else { String::new() };
        if let Some(found) = whole.lines().next().filter(|found| *found != header().trim_end()) {
            let why = format!("expected the columns {}, found {found}: move it away to go on", header().trim_end());
            return Err(Error::Record { path, why });
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).append(true).truncate(false).open(&path).map_err(Error::io(&path, "append to"))?;
        let mut begin = || {
            file.set_len(whole.len() as u64)?;
            if whole.is_empty() { file.write_all(header().as_bytes()) } else { Ok(()) }
        };
        begin().map_err(Error::io(&path, "append to"))?;
        Ok(Log(Some((path, file))))
    }

    /// Appends lines.
    pub(super) fn append(&mut self, phases: &[Phases]) -> Result<()> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        file.write_all(to_csv(phases).as_bytes()).map_err(Error::io(path, "append to"))
    }
}

/// The names of the columns, as a line.
fn header() -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.serialize(Phases::default()).expect("memory does not fail");
    let text = String::from_utf8(writer.into_inner().expect("memory does not fail")).expect("csv of UTF-8 is UTF-8");
    format!("{}\n", text.lines().next().unwrap_or_default())
}

fn to_csv(phases: &[Phases]) -> String {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    for line in phases {
        writer.serialize(line).expect("memory does not fail");
    }
    String::from_utf8(writer.into_inner().expect("memory does not fail")).expect("csv of UTF-8 is UTF-8")
}

/// The whole lines of the file; nothing where there is none.
fn text(path: &Path) -> Result<String> {
    let mut bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io(path, "read")(error)),
    };
    bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
    String::from_utf8(bytes).map_err(|e| Error::Record { path: path.into(), why: format!("expected UTF-8: {e}") })
}

/// The lines of `folder/phases.csv`, but for a last one that was cut off; none where there is no such file. Errors: what is no line of
/// it.
pub fn read(folder: &Path) -> Result<Vec<Phases>> {
    let path = folder.join(NAME);
    let text = text(&path)?;
    let lines = csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect::<csv::Result<Vec<Phases>>>();
    lines.map_err(|e| Error::Record { path, why: e.to_string() })
}

/// Where the time went, as a table for the terminal: minutes by algorithm and phase. Empty without lines.
pub fn table(lines: &[Phases]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for line in lines {
        if !names.contains(&line.algorithm.as_str()) {
            names.push(&line.algorithm);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let cases = lines.iter().filter(|line| line.algorithm.is_empty()).count();
    let mut rows: Vec<(String, [f64; 9])> = Vec::new();
    let mut all = [0.0; 9];
    for name in names {
        let mut sum = [0.0; 9];
        for line in lines.iter().filter(|line| line.algorithm == name) {
            sum.iter_mut().zip(line.times()).for_each(|(sum, time)| *sum += time);
        }
        all.iter_mut().zip(sum).for_each(|(all, sum)| *all += sum);
        rows.push((if name.is_empty() { "shared".into() } else { name.to_string() }, sum));
    }
    rows.push(("all".into(), all));
    let total: f64 = all.iter().sum();
    let per_case = total / cases.max(1) as f64;
    let mut text = format!("{cases} cells in {:.1} minutes, {per_case:.3} s each; minutes of it:\n", total / 60.0);
    text += &format!("{:12}{:>10}", "", "all");
    text += &TIMES.map(|name| format!("{name:>10}")).concat();
    for (name, times) in rows {
        let minutes = |seconds: f64| format!("{:>10.2}", seconds / 60.0);
        text += &format!("\n{name:12}{}{}", minutes(times.iter().sum()), times.map(minutes).concat());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(algorithm: &str, sampling_s: f64) -> Phases {
        Phases { chain: "(1,2,2,1)".into(), n: 3, algorithm: algorithm.into(), sampling_s, ..Phases::default() }
    }

    #[test]
    fn lines_survive_a_kill_and_are_summed_up() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty() && table(&[]).is_empty());
        let mut log = Log::open(Some(folder.path()), true).unwrap();
        log.append(&[line("", 1.0), line("fused", 60.0)]).unwrap();
        drop(log);
        // Cut off within the last line.
        let path = folder.path().join(NAME);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 4]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), [line("", 1.0)]);
        let mut log = Log::open(Some(folder.path()), true).unwrap();
        log.append(&[line("fused", 120.0), line("dense", 30.0)]).unwrap();
        let lines = read(folder.path()).unwrap();
        assert_eq!(lines, [line("", 1.0), line("fused", 120.0), line("dense", 30.0)]);
        let table = table(&lines);
        let row = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).map(|x| x.parse::<f64>().unwrap()).collect::<Vec<_>>()
        };
        assert!(table.starts_with("1 cells in 2.5 minutes, 151.000 s each"), "{table}");
        assert_eq!((row("fused")[0], row("fused")[6], row("fused")[7]), (2.0, 2.0, 0.0));
        assert_eq!(row("all")[0], 2.52);
        std::fs::write(&path, "chain,other\na,b\n").unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("phases.csv"));
        // Other columns are not appended to, and not thrown away.
        let refused = Log::open(Some(folder.path()), true).unwrap_err().to_string();
        assert!(refused.contains("phases.csv") && refused.contains("found chain,other"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "chain,other\na,b\n");
        assert!(Log::open(Some(folder.path()), false).is_ok());
        assert!(read(folder.path()).unwrap().is_empty());
        let mut none = Log::open(None, true).unwrap();
        none.append(&[line("", 1.0)]).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(NAME)).unwrap();
        let opened = Log::open(Some(folder.path()), false).and_then(|mut log| log.append(&[line("", 1.0)]));
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("phases.csv: cannot append to: "), "{error}");
    }

    #[test]
    fn every_second_is_given_to_one_phase() {
        let begin = Instant::now();
        let (mut laps, mut one, mut two) = (Laps::start(), 0.0, 0.0);
        std::thread::sleep(std::time::Duration::from_millis(3));
        laps.lap(&mut one);
        laps.lap(&mut two);
        laps.lap(&mut one);
        assert!(one >= 3e-3 && one + two <= begin.elapsed().as_secs_f64());
    }
}
