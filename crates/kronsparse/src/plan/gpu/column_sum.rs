//! The gradient of a bias: sums over the batch, in parts (`kernels/column_sum.cuh`) that another kernel adds up (`kernels/gradient_sum.cuh`).

use std::fmt;

use super::plain::element;
use super::{GpuMachine, GradientSum, KernelPlan, Rejected};
use crate::DType;

/// Sums the `columns` numbers of batch-first vectors over parts of the batch; f16, bf16 and f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnSum {
    dtype: DType,
    columns: usize,
    parts: usize,
    count: usize,
}

impl ColumnSum {
    /// The kernel's name and its header's.
    pub const NAME: &'static str = "column_sum";
    const THREADS: usize = 128;
    /// Vectors of a part, at least: fewer are not worth a number in `f32`.
    const ROWS: usize = 32;

    /// For `n` vectors that start at multiples of 16 bytes (`aligned`), or anywhere. Errors: another element type than f16, bf16 and f32.
    pub fn new(
        columns: usize,
        dtype: DType,
        n: usize,
        aligned: bool,
        machine: &GpuMachine,
    ) -> Result<ColumnSum, Rejected> {
        if !matches!(dtype, DType::F16 | DType::Bf16 | DType::F32) {
            return Err(Rejected::Element(dtype));
        }
        let unit = 16 / dtype.size();
        let count = if aligned && columns.is_multiple_of(unit) { unit } else { 1 };
        let across = columns.div_ceil(count * Self::THREADS);
        // Eight blocks a multiprocessor hide the latency of memory.
        let wanted = (8 * machine.multiprocessors as usize).div_ceil(across);
        Ok(ColumnSum { dtype, columns, parts: wanted.min(n.div_ceil(Self::ROWS)).max(1), count })
    }

    /// `f32` numbers of the parts.
    pub fn parts_len(&self) -> usize {
        self.parts * self.columns
    }
    /// The kernel that adds them up.
    pub fn sum(&self) -> GradientSum {
        GradientSum::new(self.dtype, self.columns, self.parts)
    }
}

impl KernelPlan for ColumnSum {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn arguments(&self) -> String {
        format!("{}, {}, {}, {}, {}", element(self.dtype), self.columns, self.parts, self.count, Self::THREADS)
    }
    fn threads(&self) -> u32 {
        Self::THREADS as u32
    }
    fn shared_bytes(&self) -> u32 {
        0
    }
    fn grid(&self, _: usize) -> u32 {
        (self.columns.div_ceil(self.count * Self::THREADS) * self.parts) as u32
    }
}

impl fmt::Display for ColumnSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ColumnSum { columns, parts, count, .. } = self;
        write!(f, "{}: {columns} columns, {count} a thread, {parts} parts of the batch", Self::NAME)
    }
}
