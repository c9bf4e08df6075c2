//! Outputs joined in a pass of their own, where no kernel that multiplies does it: kernels/join.cuh made ready.

use std::fmt;

use super::device::Device;
use super::launch::Args;
use super::operator::Operator;
use super::prepared::Key;
use super::stream::Stream;
use super::vendor::{Small, element};
use crate::plan::gpu::{ChainProblem, GpuMachine};
use crate::plan::{Activation, Join, Layout};
use crate::{Error, Result, Scalar};

const THREADS: usize = 256;
const TURNS: usize = 4;

/// What the kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    outputs: usize,
    batch: usize,
    layout: Layout,
    activation: Activation,
    join: Join,
    aligned: bool,
}

impl Shape {
    /// Whether 16 bytes are moved at a time.
    fn is_wide<T: Scalar>(&self) -> bool {
        let whole = self.join == Join::Residual
            || self.layout == Layout::BatchFirst
            || self.batch.is_multiple_of(16 / T::DTYPE.size());
        T::DTYPE.size() <= 4 && self.aligned && whole
    }

    fn source<T: Scalar>(&self) -> String {
        let Shape { outputs, layout, activation, join, .. } = *self;
        format!(
            "#include \"join.cuh\"\nKS_KERNEL({THREADS}) kronsparse(KS_PARAMETER ks::Args args) {{ ks::Joined<ks::{element}, \
             ks::Layout::{layout:?}, {outputs}, ks::Activation::{activation:?}, ks::Join::{join:?}, {wide}, {TURNS}, \
             {THREADS}>::run(args); }}\n",
            element = element(T::DTYPE),
            wide = self.is_wide::<T>(),
        )
    }
}

/// The pass, ready to be launched.
pub(super) struct JoinPass {
    kernel: Small,
    join: Join,
    grid: u32,
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
    /// The device's context is current and `stream` belongs to it; the addresses are of as many elements as it was made for, aligned
    /// as it was told, alive until the work is done.
    pub(super) unsafe fn run(&self, v: u64, residual: u64, y: u64, n: usize, stream: &Stream) -> Result<()> {
        let args = Args { x: v, w: 0, bias: 0, y, n: n as i64, residual };
        // SAFETY: the caller's word.
        unsafe { self.kernel.run_overlapping(self.grid, &args, stream.raw()) }
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
        let outputs = self.rows();
        let shape = Shape {
            outputs,
            batch: key.n,
            layout: key.layout,
            activation: if self.join == Join::Gate { self.activation } else { Activation::None },
            join: self.join,
            aligned: key.aligned,
        };
        let units = if shape.is_wide::<T>() { 16 / T::DTYPE.size() } else { 1 };
        let blocks = key.n.saturating_mul(outputs).div_ceil(units).div_ceil(THREADS * TURNS);
        let grid = u32::try_from(blocks).ok().filter(|&blocks| blocks < 1 << 31).ok_or_else(|| Error::Unsupported {
            what: format!("joining {} · {outputs} outputs", key.n),
            why: "its grid would have 2^31 blocks or more".into(),
        })?;
        let (device, machine): (&Device, &GpuMachine) = (&self.device, self.device.machine());
        let kernel = Small::load(device, &shape.source::<T>(), THREADS, 0)?;
        Ok(JoinPass { kernel, join: self.join, grid, seconds: problem.join_seconds(machine) })
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
                    let sources = [shape.source::<f16>(), shape.source::<bf16>(), shape.source::<f32>()];
                    sources.iter().chain([&shape.source::<f64>()]).for_each(|source| assert_compiles(source));
                }
            }
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
