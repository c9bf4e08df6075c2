//! Bias and activation after a library's product, in a pass of their own.

use cudarc::driver::sys::CUstream;

use super::element;
use super::small::Small;
use crate::cuda::device::Device;
use crate::cuda::launch::Args;
use crate::cuda::memory::Buffer;
use crate::plan::{Activation, Layout};
use crate::{Error, Result, Scalar};

/// The pass, ready to be launched.
pub(super) struct Finish<T> {
    kernel: Small,
    bias: Option<Buffer<T>>,
    grid: u32,
}

impl<T: Scalar> Finish<T> {
    const THREADS: usize = 256;
    const TURNS: usize = 8;

    pub(super) fn new(
        device: &Device,
        batch: usize,
        rows: usize,
        layout: Layout,
        bias: Option<&[T]>,
        activation: Activation,
    ) -> Result<Finish<T>> {
        let blocks = (batch * rows).div_ceil(Self::THREADS * Self::TURNS);
        let grid = u32::try_from(blocks).ok().filter(|&blocks| blocks < 1 << 31).ok_or_else(|| Error::Unsupported {
            what: format!("bias and activation of {batch} · {rows} outputs"),
            why: "its grid would have 2^31 blocks or more".into(),
        })?;
        let source = Self::source(rows, layout, bias.is_some(), activation);
        let kernel = Small::load(device, &source, Self::THREADS, 0)?;
        Ok(Finish { kernel, bias: bias.map(|bias| Buffer::from_slice(device, bias)).transpose()?, grid })
    }

    pub(super) fn source(rows: usize, layout: Layout, bias: bool, activation: Activation) -> String {
        format!(
            "#include \"finish.cuh\"\nKS_KERNEL({threads}) kronsparse(KS_PARAMETER ks::Args args) {{ \
             ks::finish_in_place<ks::{element}, ks::Layout::{layout:?}, {rows}, {bias}, ks::Activation::{activation:?}, \
             {turns}, {threads}>(args); }}\n",
            threads = Self::THREADS,
            turns = Self::TURNS,
            element = element(T::DTYPE),
        )
    }

    /// # Safety
    ///
    /// As for [`Vendor::launch_raw`](super::Vendor::launch_raw).
    pub(super) unsafe fn launch(&self, batch: usize, y: u64, stream: CUstream) -> Result<()> {
        let bias = self.bias.as_ref().map_or(0, Buffer::pointer);
        // SAFETY: the caller's word; the bias has one number per row.
        unsafe { self.kernel.run(self.grid, &Args { x: 0, w: 0, bias, y, n: batch as i64, residual: 0 }, stream) }
    }
}
