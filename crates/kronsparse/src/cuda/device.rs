//! One GPU: its context, its properties, and the modules that are loaded into it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};

use super::cache::Cache;
use super::compile;
use super::launch::Kernel;
use crate::advise::{GpuCalibration, GpuDescription};
use crate::plan::gpu::{ChainPlan, ChainProblem, GpuMachine, KernelPlan, Rates, Rejected};
use crate::{Error, Result};

/// A GPU that is ready for work. Clones share it; it is given back when the last one goes.
///
/// The driver's primary context of the device is used, the one that PyTorch and other libraries of the process use.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    context: Arc<CudaContext>,
    name: String,
    memory: u64,
    machine: GpuMachine,
    overlaps: bool,
    architecture: String,
    cache: Cache,
    /// By source. An entry lives as long as an operator uses it.
    kernels: Mutex<HashMap<String, Weak<Kernel>>>,
    /// Planning takes milliseconds, and the layers of a model are alike.
    plans: Mutex<Plans>,
}

/// By the problem and the bytes of weights that a library may have.
type Plans = HashMap<(ChainProblem, Option<usize>), Arc<ChainPlan>>;
/// So many plans are kept.
const PLANS: usize = 256;

impl Device {
    /// GPU number `ordinal`, counted from 0 as the driver counts them (`CUDA_VISIBLE_DEVICES` applies).
    ///
    /// [`Error::Cuda`] says what is missing: a driver, a GPU, or one of this number.
    pub fn open(ordinal: usize) -> Result<Device> {
        static OPEN: LazyLock<Mutex<HashMap<usize, Weak<Inner>>>> = LazyLock::new(Mutex::default);
        let fail = |why| Error::Cuda { what: format!("GPU {ordinal}"), why };
        let gpus = super::find().map_err(fail)?;
        if ordinal >= gpus.devices.len() {
            return Err(fail(format!("this machine has {}, counted from 0", gpus.devices.len())));
        }
        // SAFETY: opening the driver runs its initialisers, which have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            return Err(fail("the driver library cannot be opened".into()));
        }
        let mut open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(inner) = open.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(Device { inner });
        }
        let context = CudaContext::new(ordinal).map_err(|e| fail(e.to_string()))?;
        // SAFETY: no memory of this crate is owned by cudarc's slices, whose streams the events would order.
        unsafe { context.disable_event_tracking() };
        let gpu = &gpus.devices[ordinal];
        let attribute = |which| {
            let value = context.attribute(which).map_err(|e| fail(e.to_string()))?;
            Ok::<u32, Error>(u32::try_from(value).unwrap_or(0))
        };
        let capability = (gpu.capability.0 as u32, gpu.capability.1 as u32);
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let rate_of = |which| attribute(which).unwrap_or(0);
        let kilohertz = rate_of(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
        let memory_kilohertz = rate_of(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
        let bus_bits = rate_of(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
        // Two transfers per clock. Some drivers and virtual machines report no clock: then the planner takes a usual rate.
        let rate = 2e3 * f64::from(memory_kilohertz) * f64::from(bus_bits) / 8.0;
        let hertz = if kilohertz == 0 { 1.5e9 } else { 1e3 * f64::from(kilohertz) };
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let l2_bytes = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into();
        let rates = if rate > 0.0 && kilohertz > 0 { Rates::Published } else { Rates::Assumed };
        let rate = if rate > 0.0 { rate } else { 1e12 };
        let published = GpuMachine::published(capability, multiprocessors, [shared.into(), l2_bytes], rate, hertz);
        let published = GpuMachine { rates, ..published };
        let description =
            GpuDescription { name: gpu.name.clone(), capability, multiprocessors, memory: gpu.memory_bytes, l2_bytes };
        // Where somebody has measured what this GPU can do, that is what plans are made with.
        let machine = GpuCalibration::applied(&description, published);
        let inner = Arc::new(Inner {
            context,
            name: gpu.name.clone(),
            memory: gpu.memory_bytes,
            machine,
            // Streams that are captured know of it since this version.
            overlaps: capability >= (9, 0) && gpus.cuda >= (12, 3),
            architecture: compile::architecture(capability),
            cache: Cache::of_user(),
            kernels: Mutex::default(),
            plans: Mutex::default(),
        });
        open.insert(ordinal, Arc::downgrade(&inner));
        Ok(Device { inner })
    }

    /// [`ChainPlan::new`] for this GPU, as it was made before where it was.
    pub(super) fn plan(
        &self,
        problem: ChainProblem,
        libraries: Option<usize>,
    ) -> std::result::Result<Arc<ChainPlan>, Rejected> {
        let key = (problem, libraries);
        let kept = || self.inner.plans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(plan) = kept().get(&key) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(ChainPlan::new(&key.0, &self.inner.machine, libraries)?);
        let mut kept = kept();
        if kept.len() >= PLANS {
            kept.clear();
        }
        kept.insert(key, plan.clone());
        Ok(plan)
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.inner.context.ordinal()
    }
    /// Marketing name, such as `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }
    /// Compute capability, major and minor.
    pub fn capability(&self) -> (u32, u32) {
        self.inner.machine.capability
    }
    /// Whether a kernel may begin before the one before it has ended: programmatic dependent launch.
    pub(super) fn overlaps(&self) -> bool {
        self.inner.overlaps
    }
    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.inner.machine.multiprocessors
    }
    /// Bytes of shared memory that one block can have when it asks for them.
    pub fn shared_per_block(&self) -> u32 {
        self.inner.machine.shared_per_block
    }
    /// Bytes of the second-level cache.
    pub fn l2_bytes(&self) -> u64 {
        self.inner.machine.l2_bytes
    }
    /// Bytes of device memory.
    pub fn memory(&self) -> u64 {
        self.inner.memory
    }
    /// Bytes of device memory that are free now.
    pub fn free_memory(&self) -> Result<u64> {
        let (free, _) = self.inner.context.mem_get_info().map_err(|e| driver("cuMemGetInfo", e))?;
        Ok(free as u64)
    }
    /// What the planner is told of this GPU.
    pub fn machine(&self) -> &GpuMachine {
        &self.inner.machine
    }
    /// The architecture that kernels are compiled for, such as `sm_90a`.
    pub fn architecture(&self) -> &str {
        &self.inner.architecture
    }
    /// cudarc's context, for calls to vendor libraries.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.inner.context
    }
    /// Waits until everything that was given to this GPU by this process is done.
    pub fn synchronize(&self) -> Result<()> {
        self.inner.context.synchronize().map_err(|e| driver("cuCtxSynchronize", e))
    }

    /// Makes this GPU the calling thread's current one.
    pub(super) fn bind(&self) -> Result<()> {
        self.inner.context.bind_to_thread().map_err(|e| driver("cuCtxSetCurrent", e))
    }

    /// The plan's kernel, loaded: from this process, from the disk, or compiled now.
    pub(super) fn kernel(&self, plan: &dyn KernelPlan) -> Result<Arc<Kernel>> {
        let source = super::source::source(plan);
        let kernels = || self.inner.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(kernel) = kernels().get(&source).and_then(Weak::upgrade) {
            return Ok(kernel);
        }
        // Not under the lock: other threads compile other kernels meanwhile.
        let (cubin, _) = self.inner.cache.compile(&source, &self.inner.architecture)?;
        let kernel = Arc::new(Kernel::load(self, &cubin, plan.shared_bytes(), plan.cluster())?);
        let mut kernels = kernels();
        kernels.retain(|_, kernel| kernel.strong_count() > 0);
        kernels.insert(source, Arc::downgrade(&kernel));
        Ok(kernel)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {})", self.ordinal(), self.name())
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.inner.context, &other.inner.context) || self.ordinal() == other.ordinal()
    }
}

/// A driver call's code as an error that names the call.
pub(super) fn check(call: &str, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the pointer is to a live variable; the driver is loaded, since it returned the code.
    let known = unsafe { sys::cuGetErrorString(code, &raw mut text) };
    let why = if known == CUresult::CUDA_SUCCESS && !text.is_null() {
        // SAFETY: the driver's texts are static and end with a zero byte.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Err(Error::Cuda { what: call.into(), why: format!("{code:?} {why}").trim().into() })
}

/// cudarc's error as ours.
pub(super) fn driver(call: &str, error: cudarc::driver::DriverError) -> Error {
    match check(call, error.0) {
        Err(error) => error,
        Ok(()) => Error::Cuda { what: call.into(), why: "failed without a code".into() },
    }
}
