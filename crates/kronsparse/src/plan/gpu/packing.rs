//! Packing on the GPU: where a plan's kernel reads each weight, as a table, and the kernel that moves them there (`kernels/pack_weights.cuh`).
//! For weights that change with every step of a training.

use std::fmt;

use super::plain::element;
use super::{GpuPlan, KernelPlan, PlaceTables, WeightParts};
use crate::{DType, Error, Result};

/// Moves `len` weights, of shape `(a, b, c, d)` in C order, to where a plan's kernel reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    dtype: DType,
    len: usize,
    parts: WeightParts,
}

impl Packing {
    /// The kernel's name and its header's.
    pub const NAME: &'static str = "pack_weights";
    const THREADS: usize = 256;

    /// For the weights of `plan`.
    pub fn of(plan: &GpuPlan) -> Packing {
        let problem = plan.problem();
        Packing { dtype: problem.dtype, len: problem.pattern.nnz(), parts: plan.weight_parts() }
    }

    /// Weights: the kernel's `n`, and the length of [`GpuPlan::places`].
    pub fn weights(&self) -> usize {
        self.len
    }
}

impl KernelPlan for Packing {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn arguments(&self) -> String {
        let (parts, low_after) = match self.parts {
            WeightParts::Whole => ("Whole", 0),
            WeightParts::Tf32 => ("Tf32", 0),
            WeightParts::HighLow { low_after } => ("HighLow", low_after),
        };
        format!("{}, ks::Parts::{parts}, {low_after}, {}", element(self.dtype), Self::THREADS)
    }
    fn threads(&self) -> u32 {
        Self::THREADS as u32
    }
    fn shared_bytes(&self) -> u32 {
        0
    }
    fn grid(&self, n: usize) -> u32 {
        n.div_ceil(Self::THREADS) as u32
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {} weights, {:?}", Self::NAME, self.len, self.dtype, self.parts)
    }
}

impl GpuPlan {
    /// Where [`GpuPlan::pack`] puts each weight (the high part, where it is split), for weights of shape `(a, b, c, d)` in C order; if
    /// `transposed`, of shape `(a, c, b, d)`: those of the factor whose transpose the plan multiplies by.
    ///
    /// Errors: more packed weights than 32 bits count.
    pub fn places(&self, transposed: bool) -> Result<Vec<u32>> {
        let (pattern, len) = (self.problem().pattern, self.packed_len());
        if u32::try_from(len).is_err() {
            return Err(Error::Unsupported {
                what: format!("packing the weights of {pattern} on the GPU"),
                why: format!("expected fewer than 2^32 packed numbers, found {len}"),
            });
        }
        let [a, b, c, d] = pattern.shape();
        let PlaceTables { lanes, outputs, inputs } = self.place_tables();
        // The rows of the given weights are outputs of the plan's factor, or, transposed, its inputs.
        let (rows, cols, of_rows, of_cols) =
            if transposed { (c, b, &inputs, &outputs) } else { (b, c, &outputs, &inputs) };
        let mut places = Vec::with_capacity(pattern.nnz());
        for i in 0..a {
            for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                places.extend(lanes[i * d..][..d].iter().map(|lane| (lane + of_rows[row] + of_cols[col]) as u32));
            }
        }
        Ok(places)
    }
}
