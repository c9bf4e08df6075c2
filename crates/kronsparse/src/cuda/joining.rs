//! Passes over outputs, by kernels/join.cuh: they are joined, where no kernel that multiplies does it, or become numbers of another type.

use std::fmt;

use super::device::Device;
use super::launch::Args;
use super::operator::Operator;
use super::prepared::Key;
use super::stream::Stream;
use super::vendor::{Small, element};
use crate::plan::gpu::ChainProblem;
use crate::plan::{Activation, Join, Layout};
use crate::{Error, Result, Scalar};

const THREADS: usize = 256;
const TURNS: usize = 4;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) outputs: usize,
    pub(super) batch: usize,
    pub(super) layout: Layout,
    pub(super) activation: Activation,
    pub(super) join: Join,
    pub(super) aligned: bool,
}

impl Shape {
    /// Whether 16 bytes of what is written are moved at a time.
    fn is_wide<T: Scalar>(&self) -> bool {
        let whole = self.join != Join::Gate
            || self.layout == Layout::BatchFirst
            || self.batch.is_multiple_of(16 / T::DTYPE.size());
        T::DTYPE.size() <= 4 && self.aligned && whole
    }

    /// The kernel that reads numbers of `From` and writes numbers of `T`.
    fn source<From: Scalar, T: Scalar>(&self) -> String {
        let Shape { outputs, layout, activation, join, .. } = *self;
        format!(
            "#include \"join.cuh\"\nKS_KERNEL({THREADS}) kronsparse(KS_PARAMETER ks::Args args) {{ ks::Joined<ks::{from}, ks::{element}, \
             ks::Layout::{layout:?}, {outputs}, ks::Activation::{activation:?}, ks::Join::{join:?}, {wide}, {TURNS}, \
             {THREADS}>::run(args); }}\n",
            from = element(From::DTYPE),
            element = element(T::DTYPE),
            wide = self.is_wide::<T>(),
        )
    }
}

/// A pass, ready to be launched.
pub(super) struct Pass {
    kernel: Small,
    grid: u32,
}

impl Pass {
    /// The pass that reads numbers of `From` and writes numbers of `T`.
    pub(super) fn load<From: Scalar, T: Scalar>(device: &Device, shape: &Shape) -> Result<Pass> {
        let units = if shape.is_wide::<T>() { 16 / T::DTYPE.size() } else { 1 };
        let blocks = shape.batch.saturating_mul(shape.outputs).div_ceil(units).div_ceil(THREADS * TURNS);
        let grid = u32::try_from(blocks).ok().filter(|&blocks| blocks < 1 << 31).ok_or_else(|| Error::Unsupported {
            what: format!("a pass over {} · {} outputs", shape.batch, shape.outputs),
            why: "its grid would have 2^31 blocks or more".into(),
        })?;
        Ok(Pass { kernel: Small::load(device, &shape.source::<From, T>(), THREADS, 0)?, grid })
    }

    /// Queues it.
    ///
    /// # Safety
    ///
    /// The device's context is current and `stream` belongs to it; the addresses are of as many elements as it was made for, aligned
    /// as it was told, alive until the work is done.
    pub(super) unsafe fn run(&self, from: u64, residual: u64, to: u64, n: usize, stream: &Stream) -> Result<()> {
        let args = Args { x: from, w: 0, bias: 0, y: to, n: n as i64, residual };
        // SAFETY: the caller's word.
        unsafe { self.kernel.run_overlapping(self.grid, &args, stream.raw()) }
    }
}

/// The pass that joins outputs.
pub(super) struct JoinPass {
    pass: Pass,
    join: Join,
    seconds: f64,
}

impl JoinPass {
    /// Whether what was multiplied stands elsewhere than in `Y`.
    pub(super) fn moves(&self) -> bool {
        self.join == Join::Gate
    }

    /// Queues it: `v` is what was multiplied; the address of `Y` for a residual.
    ///
    /// # Safety
    ///
    /// As for [`Pass::run`].
    pub(super) unsafe fn run(&self, v: u64, residual: u64, y: u64, n: usize, stream: &Stream) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.pass.run(v, residual, y, n, stream) }
    }
}

impl fmt::Display for JoinPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by a pass of its own; estimated {:.2} µs", self.join, self.seconds * 1e6)
    }
}

impl<T: Scalar> Operator<T> {
    /// The pass for what `key` says is multiplied.
    pub(super) fn join_pass(&self, key: Key) -> Result<JoinPass> {
        let problem: ChainProblem = self.chain_problem(Key { apart: false, ..key });
        let shape = Shape {
            outputs: self.rows(),
            batch: key.n,
            layout: key.layout,
            activation: if self.join == Join::Gate { self.activation } else { Activation::None },
            join: self.join,
            aligned: key.aligned,
        };
        let pass = Pass::load::<T, T>(&self.device, &shape)?;
        Ok(JoinPass { pass, join: self.join, seconds: problem.join_seconds(self.device.machine()) })
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::cuda::vendor::assert_compiles;

    #[test]
    fn passes_compile() {
        for join in [Join::Residual, Join::Gate] {
            for (layout, activation) in Layout::ALL.into_iter().zip([Activation::Silu, Activation::Gelu]) {
                for (batch, aligned) in [(64, true), (63, true), (64, false)] {
                    let activation = if join == Join::Gate { activation } else { Activation::None };
                    let shape = Shape { outputs: 48, batch, layout, activation, join, aligned };
                    let small = [shape.source::<f16, f16>(), shape.source::<bf16, bf16>()];
                    let large = [shape.source::<f32, f32>(), shape.source::<f64, f64>()];
                    small.iter().chain(&large).for_each(|source| assert_compiles(source));
                }
            }
        }
        let activation = Activation::None;
        for (join, aligned) in [(Join::None, true), (Join::None, false), (Join::Residual, true)] {
            let shape = Shape { outputs: 48, batch: 63, layout: Layout::BatchFirst, activation, join, aligned };
            let widening = [shape.source::<f16, f32>(), shape.source::<bf16, f32>()];
            let rounding = [shape.source::<f32, f16>(), shape.source::<f32, bf16>()];
            widening.iter().chain(&rounding).for_each(|source| assert_compiles(source));
        }
    }

    #[test]
    fn sixteen_bytes_at_a_time_where_they_are_whole() {
        let shape = Shape {
            outputs: 5,
            batch: 12,
            layout: Layout::BatchLast,
            activation: Activation::Silu,
            join: Join::Gate,
            aligned: true,
        };
        assert!(shape.is_wide::<f32>() && !shape.is_wide::<f16>() && !shape.is_wide::<f64>());
        assert!(Shape { layout: Layout::BatchFirst, ..shape }.is_wide::<f16>());
        assert!(Shape { join: Join::Residual, ..shape }.is_wide::<f16>());
        assert!(!Shape { aligned: false, ..shape }.is_wide::<f32>());
    }
}
