//! Stage 5, LAUNCH: typed arguments, a grid and a stream. Nothing is allocated and nothing waits.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule, CUtensorMapDataType, CUtensorMapSwizzle};

use super::compile::{Cubin, Resources};
use super::device::{Device, check};
use super::source::ENTRY;
use crate::plan::gpu::{KernelPlan, Operand, Swizzle, TensorMap};
use crate::{DType, Error, Result};

/// What every kernel is given: `ks::Args` of `kernels/args.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Device address of `X`.
    pub x: u64,
    /// Of the packed weights.
    pub w: u64,
    /// Of the bias, or 0.
    pub bias: u64,
    /// Of `Y`.
    pub y: u64,
    /// Vectors.
    pub n: i64,
    /// Of what is added to `Y`, or 0.
    pub residual: u64,
}

/// A `CUtensorMap`: `ks::TensorMap` of `kernels/ptx.cuh`.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
pub(super) struct EncodedMap([u64; 16]);

/// A kernel takes at most this many tensor maps.
const MOST_MAPS: usize = 4;

/// A loaded module and its kernel; unloaded when dropped.
pub(super) struct Kernel {
    device: Device,
    module: CUmodule,
    function: CUfunction,
    resources: Resources,
}

// SAFETY: the driver allows calls on modules and functions from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing here changes after `load`.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Loads the machine code at once (not at the first launch, which a graph capture could not hold) and allows the
    /// dynamic shared memory and the cluster that the plan asks for.
    pub(super) fn load(device: &Device, cubin: &Cubin, shared_bytes: u32, cluster: u32) -> Result<Kernel> {
        device.bind()?;
        let resources = cubin.resources();
        let mut kernel =
            Kernel { device: device.clone(), module: std::ptr::null_mut(), function: std::ptr::null_mut(), resources };
        // SAFETY: the image is a whole ELF file, as NVRTC made it or as the checksum vouches for; the pointers are live.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut kernel.module, cubin.bytes.as_ptr().cast())
        })?;
        let name = std::ffi::CString::new(ENTRY).expect("the entry's name holds no zero byte");
        // SAFETY: the module was loaded above; the name ends with a zero byte.
        check("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&raw mut kernel.function, kernel.module, name.as_ptr())
        })?;
        let set = |attribute, value| {
            // SAFETY: the function belongs to the module that was just loaded.
            check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(kernel.function, attribute, value) })
        };
        set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes as i32)?;
        if cluster > 8 {
            set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        }
        let mut registers = 0;
        // SAFETY: asking for an attribute makes a lazily loading driver load the function now; the pointer is live.
        check("cuFuncGetAttribute", unsafe {
            sys::cuFuncGetAttribute(
                &raw mut registers,
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS,
                kernel.function,
            )
        })?;
        Ok(kernel)
    }

    /// What the compiler reported.
    pub(super) fn resources(&self) -> Resources {
        self.resources
    }
    /// The driver's handle.
    pub(super) fn function(&self) -> CUfunction {
        self.function
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // A kernel of it may still be queued; an error has no remedy here.
        let _ = self.device.synchronize();
        if !self.module.is_null() && self.device.bind().is_ok() {
            // SAFETY: nobody can name the module any more, and the GPU is done with it.
            unsafe { sys::cuModuleUnload(self.module) };
        }
    }
}

/// A kernel with everything that does not change from one launch to the next for one number of vectors.
pub(super) struct Launch {
    kernel: Arc<Kernel>,
    grid: u32,
    threads: u32,
    shared_bytes: u32,
    cluster: u32,
    in_clusters: bool,
    /// Whether it may begin before the kernel before it has ended; every kernel waits by itself.
    overlaps: bool,
    maps: Box<[TensorMap]>,
    dtype: DType,
}

impl Launch {
    /// For `n ≥ 1` vectors.
    pub(super) fn new(device: &Device, plan: &dyn KernelPlan, n: usize) -> Result<Launch> {
        let maps = plan.tensor_maps(n).into_boxed_slice();
        if maps.len() > MOST_MAPS {
            let what = format!("a plan of family {}", plan.name());
            return Err(Error::Cuda { what, why: format!("asks for {} tensor maps, {MOST_MAPS} at most", maps.len()) });
        }
        Ok(Launch {
            kernel: device.kernel(plan)?,
            grid: plan.grid(n),
            threads: plan.threads(),
            shared_bytes: plan.shared_bytes(),
            cluster: plan.cluster(),
            in_clusters: plan.in_clusters(),
            overlaps: device.overlaps(),
            maps,
            dtype: plan.dtype(),
        })
    }

    /// What the compiler reported.
    pub(super) fn resources(&self) -> Resources {
        self.kernel.resources()
    }

    /// Queues the kernel, which may begin while those before it end.
    ///
    /// # Safety
    ///
    /// The device's context is current, `stream` is a stream of it, and `args` holds addresses of arrays as large as the
    /// plan and `n` say, which stay alive and are not changed by others until the kernel is done: weights and bias not by kernels before
    /// it either.
    pub(super) unsafe fn run(&self, args: &Args, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.queue(args, stream, self.overlaps) }
    }

    /// Queues the kernel, which begins when all before it have ended: they may write its weights.
    ///
    /// # Safety
    ///
    /// As for [`Launch::run`], but for weights and bias.
    pub(super) unsafe fn run_after_all(&self, args: &Args, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.queue(args, stream, false) }
    }

    /// # Safety
    ///
    /// As for [`Launch::run`], or [`Launch::run_after_all`] unless it `overlaps`.
    unsafe fn queue(&self, args: &Args, stream: sys::CUstream, overlaps: bool) -> Result<()> {
        let mut maps = [EncodedMap([0; 16]); MOST_MAPS];
        for (map, description) in maps.iter_mut().zip(&self.maps) {
            let address = match description.operand {
                Operand::X => args.x,
                Operand::Y => args.y,
            };
            encode(map, description, self.dtype, address)?;
        }
        let mut parameters = [std::ptr::null_mut::<c_void>(); 1 + MOST_MAPS];
        parameters[0] = (&raw const *args).cast_mut().cast();
        for (parameter, map) in parameters[1..].iter_mut().zip(&mut maps) {
            *parameter = (&raw mut *map).cast();
        }
        let none = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { pad: [0; 64] },
        };
        let mut attributes = [none; 2];
        let mut count = 0;
        if self.in_clusters {
            let shape = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: self.cluster, y: 1, z: 1 };
            attributes[count].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[count].value.clusterDim = shape;
            count += 1;
        }
        if overlaps {
            attributes[count] = overlapping();
            count += 1;
        }
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        // SAFETY: the parameters are those of the kernel's declaration, in order and alive during the call, which copies
        // them; unused entries of the array are not read. The caller answers for the addresses.
        check("cuLaunchKernelEx", unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.kernel.function,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}

/// Lets a kernel begin before the one before it has ended.
pub(super) fn overlapping() -> sys::CUlaunchAttribute {
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { pad: [0; 64] },
    };
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}

/// Fills in a tensor map for an array at `address`.
fn encode(map: &mut EncodedMap, description: &TensorMap, dtype: DType, address: u64) -> Result<()> {
    let element = match dtype {
        DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::F64 | DType::C64 | DType::C128 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
    };
    let swizzle = match description.swizzle {
        Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let ones = [1u32; 4];
    // SAFETY: the map has the size and alignment of a CUtensorMap (asserted below); the arrays have four, three, four and
    // four numbers, as a rank of 4 asks. The address is only written down.
    check("cuTensorMapEncodeTiled", unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut *map).cast(),
            element,
            4,
            address as *mut c_void,
            description.dims.as_ptr(),
            description.strides.as_ptr(),
            description.boxed.as_ptr(),
            ones.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    })
}

const _: () = assert!(
    size_of::<EncodedMap>() == size_of::<sys::CUtensorMap>()
        && align_of::<EncodedMap>() >= align_of::<sys::CUtensorMap>()
);
