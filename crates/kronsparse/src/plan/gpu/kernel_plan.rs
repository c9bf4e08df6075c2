//! What the engine asks of a plan, whatever it multiplies by: enough to print its source, compile it and launch it.

use std::fmt;

use super::{GpuPlan, TensorMap};
use crate::DType;

/// A plan of one kernel.
pub trait KernelPlan: fmt::Display + Send + Sync {
    /// The family's name: of its header, and of its kernel.
    fn name(&self) -> &'static str;
    /// Element type of `X` and `Y`.
    fn dtype(&self) -> DType;
    /// The kernel's template argument.
    fn arguments(&self) -> String;
    /// Text before the header is included: macros that it needs, code that only the host can print.
    fn prelude(&self) -> String {
        String::new()
    }
    /// Threads of a block.
    fn threads(&self) -> u32;
    /// Blocks that a multiprocessor must be able to hold at once: the compiler sees to the registers.
    fn blocks_per_multiprocessor(&self) -> u32 {
        1
    }
    /// Bytes of dynamic shared memory of a block.
    fn shared_bytes(&self) -> u32;
    /// Blocks for `n` vectors; `n` is at least 1.
    fn grid(&self, n: usize) -> u32;
    /// Blocks of a cluster, 1 where there are none.
    fn cluster(&self) -> u32 {
        1
    }
    /// Whether it is launched in clusters, be they of one block.
    fn in_clusters(&self) -> bool {
        self.cluster() > 1
    }
    /// The tensor maps that the kernel takes after its `Args`, in order, for `n` vectors.
    fn tensor_maps(&self, _n: usize) -> Vec<TensorMap> {
        Vec::new()
    }
    /// Whether the kernel itself waits for the kernels before it, once it has done what does not depend on them; others wait before
    /// they do anything.
    fn waits(&self) -> bool {
        false
    }
}

impl KernelPlan for GpuPlan {
    fn name(&self) -> &'static str {
        self.name()
    }
    fn dtype(&self) -> DType {
        self.problem().dtype
    }
    fn arguments(&self) -> String {
        self.arguments()
    }
    fn prelude(&self) -> String {
        self.prelude()
    }
    fn threads(&self) -> u32 {
        self.threads()
    }
    fn shared_bytes(&self) -> u32 {
        self.shared_bytes()
    }
    fn grid(&self, n: usize) -> u32 {
        self.grid(n)
    }
    fn cluster(&self) -> u32 {
        self.cluster()
    }
    fn tensor_maps(&self, n: usize) -> Vec<TensorMap> {
        self.tensor_maps(n)
    }
    fn waits(&self) -> bool {
        matches!(self, GpuPlan::Narrow(_) | GpuPlan::LanesMma(_) | GpuPlan::LanesWgmma(_))
    }
}
