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
    /// Floating-point operations per second.
    pub flops: Flops,
}

/// Peak floating-point operations per second, by unit and type. A fused multiply-add counts as two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// CUDA cores, `f64`.
    pub f64: f64,
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
        // Fused multiply-adds per multiprocessor and clock: f64, f32, TF32, half.
        let per_clock = match capability {
            (8, 0) => [32.0, 64.0, 512.0, 1024.0],
            (9, 0) => [64.0, 128.0, 1024.0, 2048.0],
            (10, 0) => [64.0, 128.0, 2048.0, 4096.0],
            (major, _) if major >= 8 => [2.0, 128.0, 256.0, 512.0],
            _ => [2.0, 64.0, 64.0, 256.0],
        };
        let [f64, f32, tf32, half] = per_clock.map(|rate| 2.0 * rate * f64::from(multiprocessors) * hertz);
        Flops { f64, f32, tf32, half }
    }
}

impl GpuMachine {
    /// An H100 SXM: what plans are made for where no GPU is asked.
    pub fn h100() -> GpuMachine {
        GpuMachine {
            capability: (9, 0),
            multiprocessors: 132,
            shared_per_block: 227 << 10,
            l2_bytes: 50 << 20,
            bytes_per_second: 3.35e12,
            flops: Flops::of((9, 0), 132, 1.755e9),
        }
    }
}
