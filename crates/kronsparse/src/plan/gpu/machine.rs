//! What the planner needs to know of a GPU.

use super::Precision;
use crate::DType;

/// A GPU, without a handle to it.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuMachine {
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block can have when it asks for them.
    pub shared_per_block: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
    /// Bytes per second from and to device memory.
    pub bytes_per_second: f64,
    /// How much faster bytes come from the second-level cache.
    pub cached: f64,
    /// Floating-point operations per second.
    pub flops: Flops,
    /// Seconds of launching a small kernel behind another.
    pub kernel_seconds: f64,
    /// Watts with nothing to do and during a large product in f16, where they were measured.
    pub watts: Option<[f64; 2]>,
    /// Where these rates are from.
    pub rates: Rates,
}

/// Where the rates of a GPU are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rates {
    /// Published ones of its compute capability, with the clocks that its driver tells.
    Published,
    /// Published ones of its compute capability with usual clocks, since its driver tells none.
    Assumed,
    /// Measured on it.
    Measured {
        /// When: seconds since the beginning of 1970, UTC.
        at: u64,
    },
    /// Published ones, since what is said to be measured cannot be used, for this reason.
    Refused(String),
}

/// Peak floating-point operations per second, by unit and type. A fused multiply-add counts as two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// CUDA cores, `f64`.
    pub f64: f64,
    /// Products of a library in `f64`: on tensor cores where these have that type.
    pub f64_products: f64,
    /// CUDA cores, `f32`.
    pub f32: f64,
    /// Tensor cores, TF32.
    pub tf32: f64,
    /// Tensor cores, `f16` and `bf16` with `f32` sums.
    pub half: f64,
}

impl Flops {
    /// The most that a type can have: `f32` in full precision is also three TF32 products.
    pub fn peak(&self, dtype: DType, precision: Precision) -> f64 {
        match (dtype, precision) {
            (DType::F16 | DType::Bf16, _) => self.half,
            (DType::F32, Precision::Tf32) => self.tf32,
            (DType::F32 | DType::C64, _) => self.f32.max(self.tf32 / 3.0),
            (DType::F64 | DType::C128, _) => self.f64,
        }
    }

    /// The published rates per multiprocessor and clock of a compute capability, times `multiprocessors · hertz`.
    pub fn of(capability: (u32, u32), multiprocessors: u32, hertz: f64) -> Flops {
        // Fused multiply-adds per multiprocessor and clock: f64, on tensor cores, f32, TF32, half.
        let per_clock = match capability {
            (8, 0) => [32.0, 64.0, 64.0, 512.0, 1024.0],
            (9, 0) => [64.0, 128.0, 128.0, 1024.0, 2048.0],
            (10, 0) => [64.0, 64.0, 128.0, 2048.0, 4096.0],
            (major, _) if major >= 8 => [2.0, 2.0, 128.0, 256.0, 512.0],
            _ => [2.0, 2.0, 64.0, 64.0, 256.0],
        };
        let rates = per_clock.map(|rate| 2.0 * rate * f64::from(multiprocessors) * hertz);
        let [f64, f64_products, f32, tf32, half] = rates;
        Flops { f64, f64_products, f32, tf32, half }
    }
}

/// How much faster bytes come from the second-level cache, and seconds of launching a small kernel behind another, where nothing was
/// measured: fitted to library rows of `record/2026-11-22-h100`.
pub(crate) const CACHED: f64 = 2.1;
pub(crate) const KERNEL_SECONDS: f64 = 1.3e-6;

impl GpuMachine {
    /// An H100 SXM: what plans are made for where no GPU is asked.
    pub fn h100() -> GpuMachine {
        GpuMachine::published((9, 0), 132, [227 << 10, 50 << 20], 3.35e12, 1.755e9)
    }

    /// With the published rates of a compute capability; bytes of shared memory of a block and of the second-level cache, bytes per
    /// second from device memory, hertz.
    pub fn published(
        capability: (u32, u32),
        multiprocessors: u32,
        [shared_per_block, l2_bytes]: [u64; 2],
        bytes_per_second: f64,
        hertz: f64,
    ) -> GpuMachine {
        GpuMachine {
            capability,
            multiprocessors,
            shared_per_block: u32::try_from(shared_per_block).unwrap_or(u32::MAX),
            l2_bytes,
            bytes_per_second,
            cached: CACHED,
            flops: Flops::of(capability, multiprocessors, hertz),
            kernel_seconds: KERNEL_SECONDS,
            watts: None,
            rates: Rates::Published,
        }
    }
}
