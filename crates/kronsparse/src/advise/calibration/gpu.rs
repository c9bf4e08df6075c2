//! What a GPU can do, measured in a few seconds by [`cuda::calibrate`](crate::cuda::calibrate()) and kept in the cache folder: opening
//! the GPU finds it there, and the planner takes its rates for the published ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sealed::{self, Kept};
use crate::plan::gpu::{CACHED, GpuMachine, KERNEL_SECONDS, Rates};
use crate::{Error, Result};

/// What a calibration of a GPU holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuDescription {
    /// Marketing name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory: u64,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
}

/// Measured ceilings of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuCalibration {
    pub(super) format: String,
    pub(super) version: u32,
    /// Where it was measured.
    pub machine: GpuDescription,
    /// When: seconds since the beginning of 1970, UTC.
    pub at: u64,
    /// Bytes of a large copy in device memory, read and written ones, per second.
    pub memory_bytes: u64,
    /// The same within the second-level cache.
    pub cache_bytes: u64,
    /// Operations of a large product of the library per second: f16, TF32, f32, f64.
    pub flops: [u64; 4],
    /// Nanoseconds from one small kernel of a graph to the next.
    pub kernel_ns: u64,
    /// Milliwatts with nothing to do, and during a large product in f16; none where the GPU does not tell.
    pub milliwatts: Option<[u64; 2]>,
}

/// Shares of the published rates that the H100 of `record/2026-11-23-h100-training/calibrate.txt` reached in the same measurements: 3.03 of
/// 3.35 TB/s; 788, 414, 48.3 and 60.2 TFLOP/s in f16, TF32, f32 and f64. The planner's constants were fitted with published rates; a
/// measured rate over this share is what the published one would have to be.
const MEMORY: f64 = 0.9045;
const FLOPS: [f64; 4] = [0.8303, 0.8726, 0.8144, 1.0151];
/// The same for how much faster that GPU's second-level cache is (6.61 TB/s), and for its 860 ns from kernel to kernel, of what was fitted.
const CACHE: f64 = 6.61 / 3.03 / CACHED;
const KERNEL: f64 = 0.86e-6 / KERNEL_SECONDS;
/// What a measured rate can be of a published one, where the driver tells the clocks.
const CREDIBLE: std::ops::RangeInclusive<f64> = 0.1..=3.0;

impl GpuCalibration {
    /// From measured figures; see the fields. Errors: what no GPU has.
    pub fn new(
        machine: GpuDescription,
        at: u64,
        [memory_bytes, cache_bytes]: [u64; 2],
        flops: [u64; 4],
        kernel_ns: u64,
        milliwatts: Option<[u64; 2]>,
    ) -> Result<GpuCalibration> {
        let (format, version) = (Self::FORMAT.0.into(), Self::FORMAT.1);
        let made =
            GpuCalibration { format, version, machine, at, memory_bytes, cache_bytes, flops, kernel_ns, milliwatts };
        match made.implausible() {
            None => Ok(made),
            Some(why) => Err(Error::Unsupported { what: "a calibration of a GPU".into(), why }),
        }
    }

    /// Where the calibration of a GPU is kept; none without a cache folder.
    pub fn path(machine: &GpuDescription) -> Option<PathBuf> {
        crate::cuda::cache::folder().map(|folder| folder.join(sealed::file_name(machine)))
    }

    /// What is kept of a GPU. Errors: as [`Calibration::read`](super::Calibration::read).
    pub fn find(machine: &GpuDescription) -> Result<Option<GpuCalibration>> {
        Self::path(machine).map_or(Ok(None), |path| sealed::read(&path, machine))
    }

    /// Keeps it, for processes that begin later: a GPU that is open keeps its rates. Errors: there is no cache folder, or it cannot be written to.
    pub fn keep(&self) -> Result<PathBuf> {
        let path = Self::path(&self.machine).ok_or_else(|| Error::Unsupported {
            what: "keeping a calibration".into(),
            why: "there is no cache folder: KRONSPARSE_CACHE is empty, or this user has no home".into(),
        })?;
        sealed::write(self, &path)?;
        Ok(path)
    }

    /// A machine with these rates instead of the published ones; with a sentence where they cannot be its.
    pub fn apply(&self, published: GpuMachine) -> GpuMachine {
        let [half, tf32, f32, f64] = [0, 1, 2, 3].map(|at| self.flops[at] as f64 / FLOPS[at]);
        let bytes_per_second = self.memory_bytes as f64 / MEMORY;
        let told = published.rates != Rates::Assumed;
        for (what, measured, known) in [
            ("bytes of memory", bytes_per_second, published.bytes_per_second),
            ("operations in f16", half, published.flops.half),
            ("operations in TF32", tf32, published.flops.tf32),
            ("operations in f32", f32, published.flops.f32),
            ("operations in f64", f64, published.flops.f64_products),
        ] {
            if told && !CREDIBLE.contains(&(measured / known)) {
                let why = format!("{measured:.3e} {what} per second were measured, and {known:.3e} are published");
                return GpuMachine { rates: Rates::Refused(why), ..published };
            }
        }
        let mut machine = published;
        let flops = &mut machine.flops;
        // f64 on the CUDA cores is not what the library's products show, where these have units of their own.
        (flops.half, flops.tf32, flops.f32, flops.f64_products) = (half, tf32, f32, f64);
        GpuMachine {
            bytes_per_second,
            cached: (self.cache_bytes as f64 / self.memory_bytes as f64 / CACHE).max(1.0),
            kernel_seconds: self.kernel_ns as f64 * 1e-9 / KERNEL,
            watts: self.milliwatts.map(|watts| watts.map(|milliwatts| milliwatts as f64 * 1e-3)),
            rates: Rates::Measured { at: self.at },
            ..machine
        }
    }

    /// [`GpuCalibration::apply`] of what is kept, or the published rates; a file that cannot be used leaves them, with its sentence.
    pub fn applied(machine: &GpuDescription, published: GpuMachine) -> GpuMachine {
        match Self::find(machine) {
            Ok(Some(calibration)) => calibration.apply(published),
            Ok(None) => published,
            Err(error) => GpuMachine { rates: Rates::Refused(error.to_string()), ..published },
        }
    }
}

impl Kept for GpuCalibration {
    type Machine = GpuDescription;
    const FORMAT: (&'static str, u32) = ("kronsparse calibration of a GPU", 1);

    fn format(&self) -> (&str, u32) {
        (&self.format, self.version)
    }

    fn machine(&self) -> &GpuDescription {
        &self.machine
    }

    fn name(machine: &GpuDescription) -> String {
        let GpuDescription { name, capability: (major, minor), multiprocessors, .. } = machine;
        format!("{name} (compute capability {major}.{minor}, {multiprocessors} SMs)")
    }

    fn implausible(&self) -> Option<String> {
        let GpuCalibration { memory_bytes, cache_bytes, flops: [half, tf32, f32, f64], kernel_ns, milliwatts, .. } =
            *self;
        if !(100..=50_000).contains(&kernel_ns) {
            return Some(format!("expected 100 to 50000 nanoseconds of a kernel, found {kernel_ns}"));
        }
        if cache_bytes > 30 * memory_bytes {
            return Some(format!(
                "expected a cache at most 30 times as fast as the memory, found {cache_bytes} and {memory_bytes} B/s"
            ));
        }
        if let Some([idle, busy]) = milliwatts.filter(|[idle, busy]| !(*idle > 0 && idle < busy && *busy < 10_000_000))
        {
            return Some(format!("expected less power with nothing to do than at work, found {idle} and {busy} mW"));
        }
        sealed::implausible_rate(&[
            ("bytes of memory", memory_bytes),
            ("bytes of cache", cache_bytes),
            ("f16 operations", half),
            ("TF32 operations", tf32),
            ("f32 operations", f32),
            ("f64 operations", f64),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> GpuDescription {
        let name = "NVIDIA H100 80GB HBM3".into();
        GpuDescription { name, capability: (9, 0), multiprocessors: 132, memory: 80 << 30, l2_bytes: 50 << 20 }
    }

    fn made_up() -> GpuCalibration {
        let flops = [788_000_000_000_000, 414_000_000_000_000, 48_300_000_000_000, 60_200_000_000_000];
        let memory = [3_030_000_000_000, 6_610_000_000_000];
        GpuCalibration::new(h100(), 1_790_000_000, memory, flops, 860, Some([118_000, 665_000])).unwrap()
    }

    #[test]
    fn an_h100_measured_like_that_of_the_record_has_the_published_rates() {
        let (published, measured) = (GpuMachine::h100(), made_up().apply(GpuMachine::h100()));
        let close = |x: f64, y: f64| assert!((x / y - 1.0).abs() < 0.01, "{x} {y}");
        close(measured.bytes_per_second, published.bytes_per_second);
        close(measured.flops.half, published.flops.half);
        close(measured.flops.tf32, published.flops.tf32);
        close(measured.flops.f32, published.flops.f32);
        close(measured.flops.f64_products, published.flops.f64_products);
        assert_eq!(measured.flops.f64, published.flops.f64);
        close(measured.cached, published.cached);
        close(measured.kernel_seconds, published.kernel_seconds);
        assert_eq!(measured.watts, Some([118.0, 665.0]));
        assert_eq!(measured.rates, Rates::Measured { at: 1_790_000_000 });
    }

    #[test]
    fn rates_that_are_not_this_gpus_are_not_taken() {
        let slow = GpuCalibration { memory_bytes: 3_000_000_000, ..made_up() };
        let machine = slow.apply(GpuMachine::h100());
        assert!(matches!(&machine.rates, Rates::Refused(why) if why.contains("bytes of memory")), "{machine:?}");
        assert_eq!(GpuMachine { rates: Rates::Published, ..machine }, GpuMachine::h100());
        let disturbed =
            GpuCalibration { flops: [788e12 as u64, 414e12 as u64, 1_000_000_000, 60e12 as u64], ..made_up() };
        let machine = disturbed.apply(GpuMachine::h100());
        assert!(matches!(&machine.rates, Rates::Refused(why) if why.contains("operations in f32")), "{machine:?}");
        // Where the driver tells no clocks there is nothing to compare with.
        let unknown = GpuMachine { bytes_per_second: 1e12, rates: Rates::Assumed, ..GpuMachine::h100() };
        assert_eq!(made_up().apply(unknown).rates, Rates::Measured { at: 1_790_000_000 });
        let made = |kernel, watts| {
            let GpuCalibration { machine, at, memory_bytes, cache_bytes, flops, .. } = made_up();
            GpuCalibration::new(machine, at, [memory_bytes, cache_bytes], flops, kernel, watts)
        };
        assert!(made(1300, None).is_ok());
        assert!(made(7, None).unwrap_err().to_string().contains("found 7"));
        assert!(made(1300, Some([700, 100])).unwrap_err().to_string().contains("700 and 100 mW"));
    }

    #[test]
    fn a_file_is_read_back_and_a_damaged_or_foreign_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calibration.json");
        sealed::write(&made_up(), &path).unwrap();
        assert_eq!(sealed::read(&path, &h100()).unwrap(), Some(made_up()));
        let other = GpuDescription { multiprocessors: 114, ..h100() };
        let why = sealed::read::<GpuCalibration>(&path, &other).unwrap_err().to_string();
        assert!(why.contains("another machine") && why.contains("114 SMs"), "{why}");
        let text = std::fs::read_to_string(&path).unwrap().replace("3030", "3031");
        std::fs::write(&path, text).unwrap();
        let why = sealed::read::<GpuCalibration>(&path, &h100()).unwrap_err().to_string();
        assert!(why.contains("damaged"), "{why}");
        // A CPU's is another format.
        super::super::tests::made_up().write(&path).unwrap();
        assert!(sealed::read::<GpuCalibration>(&path, &h100()).unwrap_err().to_string().contains("no calibration"));
        assert_ne!(sealed::file_name(&h100()), sealed::file_name(&other));
    }
}
