//! Kernels that are not a plan of a family: permutations, bias and activation, tables of pointers, inspection.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUstream};

use crate::Result;
use crate::cuda::cache::Cache;
use crate::cuda::device::{Device, check};
use crate::cuda::launch::{Kernel, overlapping};

/// A loaded kernel with its block; the grid may change from launch to launch.
pub(in crate::cuda) struct Small {
    kernel: Kernel,
    threads: u32,
    shared_bytes: u32,
    /// Whether the GPU knows of kernels that overlap at their ends.
    overlaps: bool,
}

impl Small {
    /// Loads the kernel `kronsparse` of `source`, from the cache on the disk or compiled now.
    pub(in crate::cuda) fn load(device: &Device, source: &str, threads: usize, shared_bytes: usize) -> Result<Small> {
        let (cubin, _) = Cache::of_user().compile(source, device.architecture())?;
        let (threads, shared_bytes) = (threads as u32, shared_bytes as u32);
        let overlaps = device.overlaps();
        Ok(Small { kernel: Kernel::load(device, &cubin, shared_bytes, 1)?, threads, shared_bytes, overlaps })
    }

    /// Queues `grid` blocks.
    ///
    /// # Safety
    ///
    /// The device's context is current and `stream` is one of its streams. `args` is the kernel's one parameter, and the
    /// memory that it names is as large as the kernel expects and stays alive until it is done.
    pub(in crate::cuda) unsafe fn run<A: Copy>(&self, grid: u32, args: &A, stream: CUstream) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.launch(grid, args, stream, false) }
    }

    /// [`Small::run`] of a kernel that may begin before the one before it has ended, where the GPU knows of that.
    ///
    /// # Safety
    ///
    /// As for [`Small::run`]; and the kernel calls `wait_for_previous` before it touches what others write or read.
    pub(in crate::cuda) unsafe fn run_overlapping<A: Copy>(&self, grid: u32, args: &A, stream: CUstream) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.launch(grid, args, stream, self.overlaps) }
    }

    /// # Safety
    ///
    /// As for [`Small::run`] or [`Small::run_overlapping`].
    unsafe fn launch<A: Copy>(&self, grid: u32, args: &A, stream: CUstream, overlaps: bool) -> Result<()> {
        let mut parameters = [(&raw const *args).cast_mut().cast::<c_void>()];
        let mut attribute = overlapping();
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(overlaps),
        };
        // SAFETY: the function is loaded, the parameter outlives the call, which copies it; the rest is the caller's word.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.kernel.function(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}

/// Compiles a source for two architectures where this machine has NVRTC, and checks that nothing is spilled.
#[cfg(test)]
pub(in crate::cuda) fn assert_compiles(source: &str) {
    use crate::cuda::{compile, libraries};
    if let Err(why) = libraries::find(libraries::Library::Nvrtc) {
        println!("not compiled: {why}");
        return;
    }
    for architecture in ["sm_80", "sm_90a"] {
        let resources = compile::compile(source, architecture).unwrap_or_else(|e| panic!("{source}{e}")).resources();
        assert!(resources.registers > 0 && resources.registers <= 128, "{source}{resources}");
        assert_eq!((resources.spill_store_bytes, resources.stack_bytes), (0, 0), "{source}{resources}");
    }
}
