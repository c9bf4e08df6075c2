//! What this GPU can do at most, measured: bytes from memory and from the second-level cache, operations, launches, power.

use std::time::{SystemTime, UNIX_EPOCH};

use cudarc::driver::sys;
use half::f16;

use super::device::{Device, check};
use super::energy::Meter;
use super::inspect::Inspector;
use super::memory::Buffer;
use super::stream::Stream;
use super::timing::{copy_bandwidth, peak_flops, warm};
use super::vendor::Peak;
use crate::advise::{GpuCalibration, GpuDescription};
use crate::plan::gpu::Precision;
use crate::{Error, Result};

/// Bytes of a copy in device memory at most, and the part of the free memory that each of its sides may take.
const LARGE: u64 = 2 << 30;
const PART: u64 = 4;
/// Rows of the matrices: of types that are fast everywhere, and of others.
const SIZES: [usize; 2] = [8192, 2048];
/// Kernels and copies of a graph, and its replays.
const GRAPH: [usize; 2] = [50, 9];
/// Seconds over which each power is measured.
const POWER: f64 = 1.0;

/// Measures for about ten seconds; nothing else should run on the GPU. Keeps nothing: [`GpuCalibration::keep`] does.
///
/// Errors: no libraries, no memory, what no GPU has. A GPU that does not count energy has no power in it.
pub fn calibrate(device: &Device) -> Result<GpuCalibration> {
    let stream = Stream::new(device)?;
    let large = LARGE.min(device.free_memory()? / PART);
    let memory = copy_bandwidth(&stream, large as usize)?;
    let kernel = kernel_seconds(&stream)?;
    let cache = cache_bandwidth(&stream, kernel)?;
    let (full, [fast, other]) = (Precision::Full, SIZES);
    let flops = [
        peak_flops::<f16>(&stream, full, fast)?,
        peak_flops::<f32>(&stream, Precision::Tf32, fast)?,
        peak_flops::<f32>(&stream, full, other)?,
        peak_flops::<f64>(&stream, full, other)?,
    ];
    let watts = match power(&stream) {
        Err(Error::Unsupported { .. }) => None,
        measured => Some(measured?),
    };
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    GpuCalibration::new(
        describe(device),
        at,
        [memory as u64, cache as u64],
        flops.map(|rate| rate as u64),
        (kernel * 1e9) as u64,
        watts.map(|watts| watts.map(|watts| (watts * 1e3) as u64)),
    )
}

/// What a calibration of this GPU is found by.
pub fn describe(device: &Device) -> GpuDescription {
    GpuDescription {
        name: device.name().to_owned(),
        capability: device.capability(),
        multiprocessors: device.multiprocessors(),
        memory: device.memory(),
        l2_bytes: device.l2_bytes(),
    }
}

/// Seconds from one kernel of a graph to the next, of kernels that do next to nothing.
fn kernel_seconds(stream: &Stream) -> Result<f64> {
    let inspector = Inspector::<f32>::new(stream.device())?;
    let mut few = Buffer::<f32>::alloc(stream.device(), 32)?;
    least(warm(stream, GRAPH[0], GRAPH[1], || inspector.fill(&mut few, 1, stream))?)
}

/// Bytes per second, read and written, of a copy that stays in the second-level cache; each takes so many seconds to launch.
fn cache_bandwidth(stream: &Stream, launch: f64) -> Result<f64> {
    let device = stream.device();
    // Both sides together take half of the cache.
    let words = (device.l2_bytes() as usize / 4 / size_of::<u32>()).max(1 << 16);
    let (from, to) = (Buffer::<u32>::alloc(device, words)?, Buffer::<u32>::alloc(device, words)?);
    let seconds = least(warm(stream, GRAPH[0], GRAPH[1], || {
        // SAFETY: both buffers have that many bytes and outlive the work: `warm` waits for it.
        check("cuMemcpyDtoDAsync", unsafe {
            sys::cuMemcpyDtoDAsync_v2(to.pointer(), from.pointer(), words * size_of::<u32>(), stream.raw())
        })
    })?)?;
    Ok((2 * words * size_of::<u32>()) as f64 / (seconds - launch).max(0.1 * seconds))
}

/// Watts with nothing to do, and during a large product in f16.
fn power(stream: &Stream) -> Result<[f64; 2]> {
    let (device, size) = (stream.device(), SIZES[0]);
    // A driver without its management library tells no power either.
    let meter = Meter::new(device).map_err(|error| Error::Unsupported {
        what: format!("the power of {}", device.name()),
        why: error.to_string(),
    })?;
    let idle = meter.idle_watts(POWER)?;
    let inspector = Inspector::<f16>::new(device)?;
    let random = |seed| -> Result<Buffer<f16>> {
        let mut buffer = Buffer::alloc(device, size * size)?;
        inspector.fill(&mut buffer, seed, stream)?;
        Ok(buffer)
    };
    let (weights, x) = (random(1)?, random(2)?);
    let mut y = Buffer::alloc(device, size * size)?;
    let product = Peak::new(weights, Precision::Full, size, (&x, &mut y, stream))?;
    let busy = meter.energy_of(stream, 1, POWER, || product.launch(&x, &mut y, stream))?;
    Ok([idle, busy.joules / busy.seconds])
}

/// The least of some times.
fn least(seconds: Vec<f64>) -> Result<f64> {
    let least = seconds.into_iter().fold(f64::INFINITY, f64::min);
    if least > 0.0 && least.is_finite() {
        return Ok(least);
    }
    Err(Error::Cuda { what: "a ceiling of the GPU".into(), why: format!("measured {least} seconds") })
}
