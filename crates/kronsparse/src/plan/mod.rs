//! Stage 2, HOW: what is to be computed, by which algorithm, with which tile. Never touches a device.

mod activation;
mod algorithm;
pub mod compressed;
pub mod gpu;
mod hidden;
mod join;
mod layout;
pub mod permutation;
pub mod product;
mod tile;

pub use activation::Activation;
pub use algorithm::Algorithm;
pub use hidden::Hidden;
pub use join::Join;
pub use layout::Layout;
pub use tile::{CpuMachine, Tile};

use crate::{ChainPattern, DType};

/// One multiplication, without its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The patterns of the chain.
    pub chain: ChainPattern,
    /// Element type of `X`, the weights and `Y`.
    pub dtype: DType,
    /// Number of vectors.
    pub batch: usize,
    /// Order of `X` and `Y`.
    pub layout: Layout,
}

impl Problem {
    /// Floating-point operations: `2·n·Σ a·b·c·d`, four times as many for complex numbers.
    pub fn flops(&self) -> f64 {
        let complex = if self.dtype.is_complex() { 4.0 } else { 1.0 };
        complex * self.chain.flops(self.batch)
    }
    /// Bytes that must move: `X` and the weights once in, `Y` once out; hidden activations do not count.
    pub fn bytes(&self) -> f64 {
        self.chain.bytes(self.batch, self.dtype.size())
    }
    /// Seconds at the roofline of a machine that does `flops_per_second` and moves `bytes_per_second`.
    pub fn roofline_seconds(&self, flops_per_second: f64, bytes_per_second: f64) -> f64 {
        (self.flops() / flops_per_second).max(self.bytes() / bytes_per_second)
    }
}
