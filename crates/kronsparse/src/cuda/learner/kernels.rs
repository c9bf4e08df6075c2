//! The kernels of a training step, made ready for one number of vectors: what packs weights, multiplies, and sums over the batch.

use std::sync::Arc;

use super::refused;
use crate::cuda::device::Device;
use crate::cuda::launch::{Args, Launch};
use crate::cuda::memory::Buffer;
use crate::cuda::stream::Stream;
use crate::plan::gpu::{ColumnSum, GpuPlan, GradientProblem, GradientSum, KernelPlan, Packing, WeightGradientPlan};
use crate::{Pattern, Result, Scalar};

/// A factor's weights in a kernel's order, and how they get there.
pub(super) struct Packed<T> {
    pub(super) weights: Buffer<T>,
    pub(super) places: Buffer<u32>,
    pub(super) pack: Launch,
}

impl<T: Scalar> Packed<T> {
    /// For a plan that multiplies by a factor, or by its transpose if `transposed`; zeros so far.
    pub(super) fn new(device: &Device, plan: &GpuPlan, transposed: bool) -> Result<Packed<T>> {
        let packing = Packing::of(plan);
        Ok(Packed {
            weights: Buffer::from_slice(device, &vec![T::ZERO; plan.packed_len()])?,
            places: Buffer::from_slice(device, &plan.places(transposed)?)?,
            pack: Launch::new(device, &packing, packing.weights())?,
        })
    }

    /// # Safety
    ///
    /// As for [`Launch::run`]; `from` is the address of the factor's weights.
    pub(super) unsafe fn pack(&self, from: u64, stream: &Stream) -> Result<()> {
        let n = self.places.len() as i64;
        let args = Args { x: from, w: self.places.pointer(), bias: 0, y: self.weights.pointer(), n, residual: 0 };
        // SAFETY: the caller's word; the table's places are those of this array.
        unsafe { self.pack.run(&args, stream.raw()) }
    }
}

/// A multiplication by a factor or its transpose.
pub(super) struct Product<T> {
    pub(super) plan: GpuPlan,
    pub(super) launch: Launch,
    pub(super) packed: Arc<Packed<T>>,
}

/// A gradient of weights or of a bias: sums over parts of the batch, and the sum of these.
pub(super) struct Gradient {
    /// In words.
    pub(super) plan: String,
    pub(super) parts_len: usize,
    pub(super) len: usize,
    pub(super) parts: Launch,
    pub(super) sum: Launch,
}

/// Everything for one number of vectors; by the place of the factor in the chain.
pub(super) struct Ready<T> {
    pub(super) forward: Vec<Product<T>>,
    pub(super) backward: Vec<Product<T>>,
    pub(super) gradients: Vec<Gradient>,
    pub(super) bias: Option<Gradient>,
}

impl<T: Scalar> Product<T> {
    /// # Safety
    ///
    /// As for [`Launch::run`].
    pub(super) unsafe fn run(&self, x: u64, bias: u64, y: u64, n: usize, first: bool, stream: &Stream) -> Result<()> {
        let args = Args { x, w: self.packed.weights.pointer(), bias, y, n: n as i64, residual: 0 };
        // Kernels read weights before they wait for those before them: not while these pack the weights.
        // SAFETY: the caller's word.
        unsafe {
            if first { self.launch.run_after_all(&args, stream.raw()) } else { self.launch.run(&args, stream.raw()) }
        }
    }
}

impl Gradient {
    /// Of a factor's weights.
    pub(super) fn of_weights<T: Scalar>(
        device: &Device,
        pattern: Pattern,
        n: usize,
        aligned: bool,
    ) -> Result<Gradient> {
        let problem = GradientProblem { aligned, ..GradientProblem::new(pattern, T::DTYPE, n) };
        let plan =
            WeightGradientPlan::choose(&problem, device.machine()).map_err(|why| refused(pattern, T::DTYPE, why))?;
        Gradient::new(device, &plan, plan.parts_len(), plan.sum(), n)
    }

    /// Of a bias, one number per row of the left-most factor.
    pub(super) fn of_bias<T: Scalar>(device: &Device, pattern: Pattern, n: usize, aligned: bool) -> Result<Gradient> {
        let plan = ColumnSum::new(pattern.rows(), T::DTYPE, n, aligned, device.machine())
            .map_err(|why| refused(pattern, T::DTYPE, why))?;
        Gradient::new(device, &plan, plan.parts_len(), plan.sum(), n)
    }

    fn new(device: &Device, plan: &dyn KernelPlan, parts_len: usize, sum: GradientSum, n: usize) -> Result<Gradient> {
        Ok(Gradient {
            plan: plan.to_string(),
            parts_len,
            len: sum.numbers(),
            parts: Launch::new(device, plan, n)?,
            sum: Launch::new(device, &sum, sum.numbers())?,
        })
    }

    /// # Safety
    ///
    /// As for [`Launch::run`].
    pub(super) unsafe fn run(&self, x: u64, v: u64, parts: u64, to: u64, n: usize, stream: &Stream) -> Result<()> {
        let of_parts = Args { x, w: 0, bias: 0, y: parts, n: n as i64, residual: v };
        let of_sum = Args { x: parts, w: 0, bias: 0, y: to, n: self.len as i64, residual: 0 };
        // SAFETY: the caller's word.
        unsafe {
            self.parts.run(&of_parts, stream.raw())?;
            self.sum.run(&of_sum, stream.raw())
        }
    }
}
