//! What was measured: one row per case and algorithm, with all that is needed to rebuild every table and plot.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use kronsparse::ChainPattern;
use kronsparse::plan::{Algorithm, Layout, Problem};
use serde::{Deserialize, Serialize};

use crate::definition::Case;
use crate::machine::Machine;
use crate::{Cache, Error, Kind, Result};

/// What became of an algorithm on a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Verified before and after the timing.
    Ok,
    /// Its output differs from the oracle's: no times are given.
    Wrong,
    /// It does not apply, or needs too much memory; the row says why.
    Skipped,
    /// It returned an error or panicked.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Ok => "ok",
            Status::Wrong => "wrong",
            Status::Skipped => "skipped",
            Status::Failed => "failed",
        })
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Status, String> {
        let all = [Status::Ok, Status::Wrong, Status::Skipped, Status::Failed];
        all.into_iter()
            .find(|s| s.to_string() == text)
            .ok_or_else(|| format!("`{text}` is no status; expected ok, wrong, skipped or failed"))
    }
}

/// One algorithm on one case: a line of `samples.csv`, whose columns are these fields in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The chain, left to right.
    #[serde(with = "crate::text::chain")]
    pub chain: ChainPattern,
    /// Element type of weights, input and output.
    #[serde(with = "crate::text")]
    pub dtype: Kind,
    /// Order of input and output.
    #[serde(with = "crate::text")]
    pub layout: Layout,
    /// Number of vectors.
    pub n: usize,
    /// Number of threads.
    pub threads: usize,
    /// State of the caches.
    #[serde(with = "crate::text")]
    pub cache: Cache,
    /// The algorithm.
    #[serde(with = "crate::text")]
    pub algorithm: Algorithm,
    /// What became of it.
    #[serde(with = "crate::text")]
    pub status: Status,
    /// Median time of a call, in seconds.
    pub median_s: Option<f64>,
    /// Interquartile range of the samples, in seconds.
    pub iqr_s: Option<f64>,
    /// Shortest sample, in seconds.
    pub min_s: Option<f64>,
    /// Number of samples.
    pub samples: usize,
    /// Work of the chain over the median, 10⁹ operations per second. The work is the same for every algorithm.
    pub gflops: Option<f64>,
    /// Bytes that must move over the median, 10⁹ per second.
    pub gbs: Option<f64>,
    /// Time at the roofline over the median; 1 is the ceiling measured in the same run.
    pub roofline_share: Option<f64>,
    /// Median of the fastest other algorithm over this median; above 1 this one wins.
    pub speedup_over_best_other: Option<f64>,
    /// Largest relative error seen by the verification.
    pub rel_error: Option<f64>,
    /// Sum of all outputs.
    pub checksum: Option<f64>,
    /// Seed of weights, input and verification.
    pub seed: u64,
    /// Largest relative error that counts as right.
    pub tolerance: f64,
    /// Vectors of the batch that were compared element by element (a combination of all of them too, where these are not all).
    pub checked_vectors: usize,
    /// Why it is wrong, skipped or failed.
    pub reason: String,
    /// Why the case is measured.
    pub why: String,
    /// The GPU; empty for the CPU.
    #[serde(default)]
    pub device: String,
    /// Version of the GPU's driver.
    #[serde(default)]
    pub driver: String,
    /// The kernel or the library's algorithm that was chosen, in words.
    #[serde(default)]
    pub plan: String,
    /// Joules of one call, idle power included, repeated without pause (warm caches).
    #[serde(default)]
    pub energy_j: Option<f64>,
    /// Power of the idle GPU in the same run, in watts.
    #[serde(default)]
    pub idle_w: Option<f64>,
    /// Clock of the GPU's multiprocessors right after the samples, in MHz.
    #[serde(default)]
    pub sm_mhz: Option<u32>,
    /// Bytes of device memory that the algorithm holds beside input and output.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Share of permute-bmm's time that its two permutations take.
    #[serde(default)]
    pub permutation_share: Option<f64>,
}

impl Row {
    /// A row without results: skipped, without a reason yet.
    pub fn blank(case: &Case, algorithm: Algorithm, threads: usize, seed: u64) -> Row {
        let problem = &case.problem;
        Row {
            chain: problem.chain.clone(),
            dtype: case.kind,
            layout: problem.layout,
            n: problem.batch,
            threads,
            cache: case.cache,
            algorithm,
            status: Status::Skipped,
            median_s: None,
            iqr_s: None,
            min_s: None,
            samples: 0,
            gflops: None,
            gbs: None,
            roofline_share: None,
            speedup_over_best_other: None,
            rel_error: None,
            checksum: None,
            seed,
            tolerance: case.kind.tolerance(problem.chain.longest_sum(), problem.chain.patterns().len()),
            checked_vectors: 0,
            reason: String::new(),
            why: case.why.clone(),
            device: String::new(),
            driver: String::new(),
            plan: String::new(),
            energy_j: None,
            idle_w: None,
            sm_mhz: None,
            memory_bytes: None,
            permutation_share: None,
        }
    }

    /// Whether what was measured multiplied by the whole chain as one dense matrix, as `auto` may: no time of the chain then.
    /// A plan names what each step multiplies by, and the chain itself only where that is everything at once.
    pub fn is_one_dense_product(&self) -> bool {
        self.chain.patterns().len() > 1 && self.plan.starts_with(&format!("{} by ", self.chain))
    }

    /// The names of the columns, in order.
    pub fn columns() -> Vec<String> {
        let one = Problem {
            chain: ChainPattern::new(vec![kronsparse::Pattern::new(1, 1, 1, 1).expect("a legal pattern")])
                .expect("a chain of one factor"),
            dtype: kronsparse::DType::F32,
            batch: 1,
            layout: Layout::BatchFirst,
        };
        let case = Case { kind: one.dtype.into(), problem: one, cache: Cache::Cold, why: String::new() };
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.serialize(Row::blank(&case, Algorithm::Auto, 1, 0)).expect("a row can be written to memory");
        let text = writer.into_inner().expect("memory does not fail");
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or_default().split(',').map(str::to_string).collect()
    }

    /// What was computed.
    pub fn problem(&self) -> Problem {
        Problem { chain: self.chain.clone(), dtype: self.dtype.dtype, batch: self.n, layout: self.layout }
    }
    /// Operations per byte: the abscissa of the roofline plot.
    pub fn intensity(&self) -> f64 {
        let problem = self.problem();
        problem.flops() / problem.bytes()
    }
    /// Whether two rows belong to the same case.
    pub fn same_case(&self, other: &Row) -> bool {
        (&self.chain, self.dtype, self.layout, self.n, self.threads, self.cache, &self.device)
            == (&other.chain, other.dtype, other.layout, other.n, other.threads, other.cache, &other.device)
    }
    /// Whether the algorithm is one of this project's own rather than what everybody else uses.
    pub fn is_ours(&self) -> bool {
        matches!(self.algorithm, Algorithm::Fused | Algorithm::Auto)
    }
}

/// The roofline of one element type, measured in the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Element type; on a CPU narrow types have the ceiling of the type that they are accumulated in, on a GPU `f32` that of
    /// the CUDA cores or of three TF32 products, whichever is higher.
    #[serde(with = "crate::text")]
    pub dtype: Kind,
    /// Number of threads.
    pub threads: usize,
    /// Operations per second of a large dense product.
    pub flops_per_second: f64,
    /// Bytes per second of a large copy, read and write counted.
    pub bytes_per_second: f64,
}

/// How the run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the definition.
    pub definition: String,
    /// What was measured, in a sentence; may be empty.
    pub description: String,
    /// The command that was typed.
    pub command: String,
    /// Start of the run, UTC, RFC 3339.
    pub date: String,
    /// Length of the whole run in seconds.
    pub duration_s: f64,
    /// Number of threads.
    pub threads: usize,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Sampling time given to each algorithm on each case, in seconds.
    pub budget_s: f64,
    /// Bytes of weights or scratch above which an algorithm is skipped.
    pub memory_limit: usize,
    /// Bytes streamed over before a cold sample.
    pub evicted_bytes: usize,
    /// Smallest step of the clock, in seconds.
    pub clock_resolution_s: f64,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// The rooflines, one per element type.
    pub ceilings: Vec<Ceiling>,
    /// What came out; the rows of a case follow each other.
    #[serde(default)]
    pub rows: Vec<Row>,
}

impl Record {
    /// The rows of each case.
    pub fn cases(&self) -> Vec<&[Row]> {
        self.rows.chunk_by(|a, b| a.same_case(b)).collect()
    }
    /// The roofline that belongs to a row.
    pub fn ceiling(&self, row: &Row) -> Option<&Ceiling> {
        self.ceilings.iter().find(|c| c.dtype == row.dtype && c.threads == row.threads)
    }
    /// Whether every algorithm that ran gave the right answer.
    pub fn is_right(&self) -> bool {
        self.rows.iter().all(|r| matches!(r.status, Status::Ok | Status::Skipped))
    }

    /// `samples.csv` as text.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &self.rows {
            writer.serialize(row).expect("a row of plain numbers and texts can be written to memory");
        }
        String::from_utf8(writer.into_inner().expect("memory does not fail")).expect("csv of UTF-8 is UTF-8")
    }
    /// `machine.toml` as text: machine, settings and ceilings.
    pub fn to_toml(&self) -> String {
        let without_rows = Head { machine: &self.machine, settings: &self.settings, ceilings: &self.ceilings };
        let body = toml::to_string(&without_rows).expect("plain numbers and texts are TOML");
        format!("# Where and how the figures of samples.csv were measured.\n{body}")
    }
    /// The whole record as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain numbers and texts are JSON")
    }

    /// Writes `samples.csv` and `machine.toml` into `folder`, which is made if need be.
    pub fn write(&self, folder: &Path) -> Result<()> {
        prepare_folder(folder)?;
        write_whole(&folder.join("samples.csv"), &self.to_csv())?;
        write_whole(&folder.join("machine.toml"), &self.to_toml())
    }

    /// Reads what [`Record::write`] wrote, so that tables and plots can be made again without measuring.
    pub fn read(folder: &Path) -> Result<Record> {
        let path = folder.join("machine.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let mut record: Record = toml::from_str(&text).map_err(|e| Error::Record { path, why: e.to_string() })?;
        let path = folder.join("samples.csv");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let rows = csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect::<csv::Result<Vec<Row>>>();
        record.rows = rows.map_err(|e| Error::Record { path, why: e.to_string() })?;
        Ok(record)
    }
}

/// What `machine.toml` holds.
#[derive(Serialize)]
struct Head<'a> {
    machine: &'a Machine,
    settings: &'a Settings,
    ceilings: &'a [Ceiling],
}

/// Makes a folder, and makes sure that files can be written into it.
pub fn prepare_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    std::fs::write(&probe, "").map_err(Error::io(folder, "write into the folder"))?;
    std::fs::remove_file(&probe).map_err(Error::io(folder, "write into the folder"))
}

/// Writes a file under a temporary name beside it and renames it: nobody ever sees half of it.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let attempt = || {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    attempt().map_err(|e| {
        // The file under the temporary name is of no use; that it may not exist does not matter.
        let _ = std::fs::remove_file(&part);
        Error::io(path, "write")(e)
    })
}
