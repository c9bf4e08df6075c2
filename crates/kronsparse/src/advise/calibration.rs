//! What this machine's CPU can do, measured in a few seconds and kept in the cache folder for the next time. Every figure is the
//! best of several runs, but on a machine that is busy throughout it is too low: measure on a quiet one.
//!
//! The file is sealed ([`sealed`]) and named by what it was measured on; what cannot be read is an error with a sentence, and
//! [`Calibration::of_machine`] measures again. [`GpuCalibration`] is its counterpart for a GPU.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cpu::{self, Isa};
use crate::measure::{CacheLevel, Evictor, Stopwatch, caches, copy_bandwidth, cpu_name, peak_flops};
use crate::{DType, Error, Result};

mod gpu;
mod sealed;

pub use gpu::{GpuCalibration, GpuDescription};
use sealed::Kept;

/// What a calibration holds for, and what the estimates know of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuDescription {
    /// Architecture and system, as Rust names them: `x86_64 linux`.
    pub platform: String,
    /// The CPU's name as Linux tells it; `unknown` elsewhere.
    pub cpu: String,
    /// Instruction set of the engine's kernels.
    pub isa: String,
    /// Threads that work.
    pub threads: usize,
    /// Bytes of a vector register.
    pub vector_bytes: usize,
    /// Bytes of cache that a core has for itself, as the planner sees them.
    pub core_cache: usize,
    /// The caches, as the system tells them.
    pub caches: Vec<CacheLevel>,
}

impl CpuDescription {
    /// This machine, with the threads of rayon's current pool.
    pub fn detect() -> CpuDescription {
        let (isa, threads) = (Isa::detect(), rayon::current_num_threads());
        let machine = cpu::machine(isa, threads);
        CpuDescription {
            platform: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
            cpu: cpu_name().to_owned(),
            isa: isa.name().into(),
            threads,
            vector_bytes: machine.vector_bytes,
            core_cache: machine.core_cache,
            caches: caches(),
        }
    }
}

/// Measured ceilings of a CPU, all per second and for all threads together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    format: String,
    version: u32,
    /// Where it was measured.
    pub machine: CpuDescription,
    /// Operations of a large dense product in `f32`, which 16-bit types are computed in.
    pub flops_f32: u64,
    /// Operations of a large dense product in `f64`.
    pub flops_f64: u64,
    /// Bytes of a large copy, read and written ones: [`copy_bandwidth`].
    pub memory_bytes: u64,
    /// The same by one thread alone.
    pub memory_bytes_alone: u64,
    /// Bytes of a copy within the cache that each core has for itself.
    pub cache_bytes: u64,
}

/// Where a calibration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Read from a file.
    Read(PathBuf),
    /// Measured now and kept in a file.
    Kept(PathBuf),
    /// Measured now; the reason says why it is not kept.
    NotKept(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Read(path) => write!(f, "read from {}", path.display()),
            Origin::Kept(path) => write!(f, "measured now, kept in {}", path.display()),
            Origin::NotKept(why) => write!(f, "measured now, not kept: {why}"),
        }
    }
}

impl Calibration {
    /// With given rates, for a description of a machine that is not at hand: operations in `f32` and `f64`; bytes from memory by
    /// all threads and by one; bytes within the caches. Errors: a rate that no machine has.
    pub fn new(machine: CpuDescription, flops: [u64; 2], memory: [u64; 2], cache_bytes: u64) -> Result<Calibration> {
        let ([flops_f32, flops_f64], [memory_bytes, memory_bytes_alone]) = (flops, memory);
        let (format, version) = (Self::FORMAT.0.into(), Self::FORMAT.1);
        let made = Calibration {
            format,
            version,
            machine,
            flops_f32,
            flops_f64,
            memory_bytes,
            memory_bytes_alone,
            cache_bytes,
        };
        match made.implausible() {
            None => Ok(made),
            Some(why) => Err(Error::Unsupported { what: "a calibration".into(), why }),
        }
    }

    /// Measures this machine for about `seconds`, at least a few runs of each, on the threads of rayon's current pool.
    pub fn measure(seconds: f64) -> Result<Calibration> {
        let machine = CpuDescription::detect();
        let flops = [DType::F32, DType::F64].map(|dtype| peak_flops(dtype, 0.3 * seconds) as u64);
        let large = 2 * Evictor::new().bytes();
        let memory = copy_bandwidth(large, 0.2 * seconds);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| Error::Unsupported {
            what: "a calibration".into(),
            why: format!("a thread cannot be started: {error}"),
        })?;
        let alone = alone.install(|| copy_bandwidth(large, 0.2 * seconds));
        // Source and target together take half of the core's cache.
        let cache = cache_bandwidth(machine.core_cache / 4, 0.1 * seconds);
        Calibration::new(machine, flops, [memory, alone].map(|rate| rate as u64), cache as u64)
    }

    /// The calibration of this machine from the cache folder of the library (see [`cuda::cache::folder`]); where there is
    /// none, or `again` is set, it is measured and kept there. One that cannot be read is measured again, and the sentence
    /// that says what was wrong with it comes back too.
    ///
    /// [`cuda::cache::folder`]: crate::cuda::cache::folder
    pub fn of_machine(again: bool) -> Result<(Calibration, Origin, Option<String>)> {
        let Some(path) = Calibration::path() else {
            let why = "there is no cache folder: KRONSPARSE_CACHE is empty, or this user has no home".into();
            return Ok((Calibration::measure(1.0)?, Origin::NotKept(why), None));
        };
        let mut remark = None;
        if !again {
            match Calibration::read(&path) {
                Ok(Some(found)) => return Ok((found, Origin::Read(path), None)),
                Ok(None) => {}
                Err(error) => remark = Some(format!("{error}; it was measured again")),
            }
        }
        // Measured in any case: a folder that cannot be written to costs the next call some seconds, not this one its answer.
        let measured = Calibration::measure(1.0)?;
        let origin = match measured.write(&path) {
            Ok(()) => Origin::Kept(path),
            Err(error) => Origin::NotKept(error.to_string()),
        };
        Ok((measured, origin, remark))
    }

    /// The calibration of this machine from a file that was asked for; where there is none, or `again` is set, it is measured and
    /// kept there. Errors: what [`Calibration::read`] refuses, and, before anything is measured, a place that cannot be written to.
    pub fn of_file(path: &Path, again: bool) -> Result<(Calibration, Origin)> {
        if !again && let Some(found) = Calibration::read(path)? {
            return Ok((found, Origin::Read(path.into())));
        }
        sealed::place(path)?;
        let measured = Calibration::measure(1.0)?;
        measured.write(path)?;
        Ok((measured, Origin::Kept(path.into())))
    }

    /// Where the calibration of this machine is kept; none without a cache folder.
    pub fn path() -> Option<PathBuf> {
        crate::cuda::cache::folder().map(|folder| folder.join(sealed::file_name(&CpuDescription::detect())))
    }

    /// Reads a calibration of this machine; `None` where there is no file. Errors: what is no regular file, too large, no
    /// calibration, damaged, of another version or machine, or holds rates that no machine has.
    pub fn read(path: &Path) -> Result<Option<Calibration>> {
        sealed::read(path, &CpuDescription::detect())
    }

    /// Writes it, whole or not at all; the folder is made where it is missing, for this user alone.
    pub fn write(&self, path: &Path) -> Result<()> {
        sealed::write(self, path)
    }
}

impl Kept for Calibration {
    type Machine = CpuDescription;
    const FORMAT: (&'static str, u32) = ("kronsparse calibration", 1);

    fn format(&self) -> (&str, u32) {
        (&self.format, self.version)
    }

    fn machine(&self) -> &CpuDescription {
        &self.machine
    }

    fn name(machine: &CpuDescription) -> String {
        let CpuDescription { platform, cpu, isa, threads, .. } = machine;
        format!("{cpu} ({platform}, {isa}, {threads} threads)")
    }

    fn implausible(&self) -> Option<String> {
        let Calibration { flops_f32, flops_f64, memory_bytes, memory_bytes_alone, cache_bytes, .. } = *self;
        let CpuDescription { threads, vector_bytes, core_cache, .. } = self.machine;
        if threads == 0 || vector_bytes < 8 || core_cache == 0 {
            return Some(format!(
                "expected at least one thread, vectors of 8 bytes and a cache; found {threads}, {vector_bytes}, {core_cache}"
            ));
        }
        sealed::implausible_rate(&[
            ("f32 operations", flops_f32),
            ("f64 operations", flops_f64),
            ("bytes of memory", memory_bytes),
            ("bytes of memory by one thread", memory_bytes_alone),
            ("bytes of cache", cache_bytes),
        ])
    }
}

/// Bytes per second, read and written, of copying `bytes` bytes within each thread's own cache; the sum over all threads,
/// each at its best within about `seconds`.
fn cache_bandwidth(bytes: usize, seconds: f64) -> f64 {
    let rate = |_: rayon::BroadcastContext<'_>| {
        let source: Vec<u64> = (0..(bytes / 8).max(1) as u64).collect();
        let mut target = vec![0u64; source.len()];
        let (whole, mut best) = (Stopwatch::start(), f64::INFINITY);
        for run in 0.. {
            let watch = Stopwatch::start();
            for _ in 0..8 {
                target.copy_from_slice(std::hint::black_box(&source));
                std::hint::black_box(&mut target);
            }
            best = best.min(watch.seconds());
            if run >= 16 && whole.seconds() > seconds {
                break;
            }
        }
        8.0 * 16.0 * source.len() as f64 / best.max(1e-9)
    };
    rayon::broadcast(rate).into_iter().sum()
}

#[cfg(test)]
pub(super) mod tests;
