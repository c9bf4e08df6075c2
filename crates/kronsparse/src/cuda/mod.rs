//! The GPU engine: plan → source → module → launch, each a file. Which NVIDIA GPUs this machine has is asked of the driver
//! at run time. Nothing of CUDA is needed to build, and without a driver everything else works.
//!
//! A [`Device`] is opened, an [`Operator`] packs a chain for it, picks a kernel or a library for each factor, and [`Operator::apply`] queues a multiplication on a [`Stream`].

mod auto;
pub mod cache;
mod calibrate;
mod clock;
mod combine;
pub mod compile;
mod device;
pub mod energy;
pub mod inspect;
mod joining;
mod launch;
mod learner;
pub mod libraries;
mod measuring;
mod memory;
pub mod multiplier;
mod operator;
mod options;
mod prepared;
mod sampled;
pub mod source;
mod step;
mod stream;
pub mod timing;
mod together;
mod tuned;
pub mod vendor;
mod wide;

pub use calibrate::{calibrate, describe};
pub use device::Device;
pub use launch::Args;
pub use learner::{Backward, Gradients, Learner};
pub use memory::Buffer;
pub use operator::Operator;
pub use options::{FusedPlanner, Options, Planner, Plans};
pub use stream::{Event, Graph, Stream};

use std::ffi::{c_char, c_int, c_uint};

use libloading::Library;

/// One GPU as the driver describes it.
pub struct Gpu {
    /// Marketing name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

/// The driver and its devices.
pub struct Gpus {
    /// The newest CUDA version that the driver supports, major and minor.
    pub cuda: (i32, i32),
    /// At least one.
    pub devices: Vec<Gpu>,
}

#[cfg(target_os = "windows")]
const DRIVER: &str = "nvcuda.dll";
#[cfg(not(target_os = "windows"))]
const DRIVER: &str = "libcuda.so.1";

/// `CUdevice_attribute` numbers of the CUDA driver API.
const MULTIPROCESSOR_COUNT: c_int = 16;
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;

type Init = unsafe extern "system" fn(c_uint) -> c_int;
type GetInt = unsafe extern "system" fn(*mut c_int) -> c_int;
type DeviceGet = unsafe extern "system" fn(*mut c_int, c_int) -> c_int;
type DeviceName = unsafe extern "system" fn(*mut c_char, c_int, c_int) -> c_int;
type DeviceAttribute = unsafe extern "system" fn(*mut c_int, c_int, c_int) -> c_int;
type DeviceMemory = unsafe extern "system" fn(*mut usize, c_int) -> c_int;

/// The GPUs, or one sentence that says why there is none: no driver, a driver without GPU, one that is too old or does
/// not answer.
pub fn find() -> Result<Gpus, String> {
    // SAFETY: loading the vendor's driver library runs its initialisers, which have no preconditions.
    let driver = unsafe { Library::new(DRIVER) }
        .map_err(|_| format!("no NVIDIA driver: {DRIVER} is not on this machine's library path"))?;
    // SAFETY: the types are those that cuda.h declares for these functions.
    let (init, version, count, get, name, attribute, memory) = unsafe {
        (
            symbol::<Init>(&driver, "cuInit")?,
            symbol::<GetInt>(&driver, "cuDriverGetVersion")?,
            symbol::<GetInt>(&driver, "cuDeviceGetCount")?,
            symbol::<DeviceGet>(&driver, "cuDeviceGet")?,
            symbol::<DeviceName>(&driver, "cuDeviceGetName")?,
            symbol::<DeviceAttribute>(&driver, "cuDeviceGetAttribute")?,
            symbol::<DeviceMemory>(&driver, "cuDeviceTotalMem_v2")?,
        )
    };
    let (mut cuda, mut devices) = (0, 0);
    // SAFETY: 0 is the only flag that cuInit accepts.
    match unsafe { init(0) } {
        0 => {}
        NO_DEVICE => return Err("the NVIDIA driver is installed but sees no GPU".into()),
        code => return Err(format!("the NVIDIA driver does not start: cuInit returns error {code}")),
    }
    // SAFETY: the driver is initialised and both pointers are to live integers.
    check("cuDriverGetVersion", unsafe { version(&raw mut cuda) })?;
    // SAFETY: as above.
    check("cuDeviceGetCount", unsafe { count(&raw mut devices) })?;
    let describe = |ordinal: c_int| -> Result<Gpu, String> {
        let (mut device, mut major, mut minor, mut units, mut bytes) = (0, 0, 0, 0, 0usize);
        let mut text = [0u8; 256];
        // SAFETY: `ordinal` is below the count; the pointers are to live variables of the declared types, and the
        // name's buffer has the 256 bytes that the call is told.
        unsafe {
            check("cuDeviceGet", get(&raw mut device, ordinal))?;
            check("cuDeviceGetName", name(text.as_mut_ptr().cast(), 256, device))?;
            check("cuDeviceGetAttribute", attribute(&raw mut major, COMPUTE_CAPABILITY_MAJOR, device))?;
            check("cuDeviceGetAttribute", attribute(&raw mut minor, COMPUTE_CAPABILITY_MINOR, device))?;
            check("cuDeviceGetAttribute", attribute(&raw mut units, MULTIPROCESSOR_COUNT, device))?;
            check("cuDeviceTotalMem", memory(&raw mut bytes, device))?;
        }
        let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        let name = String::from_utf8_lossy(&text[..length]).into_owned();
        Ok(Gpu { name, capability: (major, minor), memory_bytes: bytes as u64, multiprocessors: units.max(0) as u32 })
    };
    let devices = (0..devices).map(describe).collect::<Result<Vec<_>, _>>()?;
    if devices.is_empty() {
        return Err("the NVIDIA driver is installed but sees no GPU".into());
    }
    // The driver writes 12040 for 12.4.
    Ok(Gpus { cuda: (cuda / 1000, cuda % 1000 / 10), devices })
}

/// A function of the driver by name.
///
/// # Safety
///
/// `F` must be the function's type as cuda.h declares it.
unsafe fn symbol<F: Copy>(driver: &Library, name: &str) -> Result<F, String> {
    // SAFETY: the caller vouches for the type; the copied pointer is used only while `driver` is loaded.
    let found = unsafe { driver.get::<F>(name) };
    found.map(|f| *f).map_err(|_| format!("the NVIDIA driver is too old: it has no {name}"))
}

fn check(call: &str, code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("the NVIDIA driver does not answer: {call} returns error {code}")) }
}
