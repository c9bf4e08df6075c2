//! How long work on a GPU takes, between two events in its queue: with a cold second-level cache, or warm in a graph; and what
//! the GPU can do at most.

use cudarc::driver::sys;

use super::device::{Device, check};
use super::inspect::Inspector;
use super::memory::Buffer;
use super::stream::{Event, Stream};
use super::vendor::Peak;
use crate::plan::gpu::Precision;
use crate::{Error, Result, Scalar};

/// What the second-level cache holds when a multiplication begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Caches {
    /// What the same multiplication left there before: as in a loop over a small problem.
    #[default]
    Warm,
    /// Something else.
    Cold,
}

/// A buffer larger than the second-level cache. Overwriting it leaves nothing else in there.
#[derive(Debug)]
pub struct Flusher {
    buffer: Buffer<u32>,
}

impl Flusher {
    /// Four times the cache, at least 128 MiB.
    pub fn new(device: &Device) -> Result<Flusher> {
        let bytes = (4 * device.l2_bytes() as usize).max(128 << 20);
        Ok(Flusher { buffer: Buffer::alloc(device, bytes / 4)? })
    }
    /// Bytes that are overwritten.
    pub fn bytes(&self) -> usize {
        self.buffer.len() * 4
    }
    /// Queues the overwriting.
    pub fn flush(&mut self, stream: &Stream) -> Result<()> {
        self.buffer.device().bind()?;
        // SAFETY: the buffer has that many words and lives longer than the work, since freeing it waits.
        check("cuMemsetD32Async", unsafe {
            sys::cuMemsetD32Async(self.buffer.pointer(), 0, self.buffer.len(), stream.raw())
        })
    }
}

/// Seconds of `count` calls, each after the cache was flushed. The flush is queued outside of the timed interval and hides the
/// time that the host takes to queue the call.
pub fn cold(
    stream: &Stream,
    flusher: &mut Flusher,
    count: usize,
    mut run: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut marks = Vec::with_capacity(count);
    for _ in 0..count {
        flusher.flush(stream)?;
        let (start, end) = (Event::new(stream.device())?, Event::new(stream.device())?);
        start.record(stream)?;
        run()?;
        end.record(stream)?;
        marks.push((start, end));
    }
    marks.iter().map(|(start, end)| end.seconds_since(start)).collect()
}

/// Seconds of the parts of one call that starts cold: between the marks that `run` sets by calling its argument.
pub fn parts(
    stream: &Stream,
    flusher: &mut Flusher,
    run: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut marks = Vec::new();
    let mut mark = || -> Result<()> {
        let event = Event::new(stream.device())?;
        event.record(stream)?;
        marks.push(event);
        Ok(())
    };
    flusher.flush(stream)?;
    mark()?;
    run(&mut mark)?;
    marks.windows(2).map(|pair| pair[1].seconds_since(&pair[0])).collect()
}

/// Seconds of a call as `count` replays of a graph of `calls` calls see it: warm caches, and no host between the calls.
///
/// `stream` must not be the default one. `run` must not allocate or wait.
pub fn warm(stream: &Stream, calls: usize, count: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let calls = calls.max(1);
    // Libraries may load kernels at the first call, which a graph cannot hold.
    run()?;
    stream.synchronize()?;
    let graph = stream.capture(|| (0..calls).try_for_each(|_| run()))?;
    // SAFETY: what `run` uses is borrowed by it, and it is alive until this function returns.
    let replay = || unsafe { graph.launch(stream) };
    replay()?;
    let mut marks = Vec::with_capacity(count);
    for _ in 0..count {
        let (start, end) = (Event::new(stream.device())?, Event::new(stream.device())?);
        start.record(stream)?;
        replay()?;
        end.record(stream)?;
        marks.push((start, end));
    }
    let seconds: Result<Vec<f64>> = marks.iter().map(|(start, end)| end.seconds_since(start)).collect();
    // The graph must not be destroyed before its last replay is done.
    stream.synchronize()?;
    Ok(seconds?.into_iter().map(|seconds| seconds / calls as f64).collect())
}

/// Bytes per second of copying `bytes` bytes from one buffer to another on the device, read and write counted: the best of a
/// few runs.
pub fn copy_bandwidth(stream: &Stream, bytes: usize) -> Result<f64> {
    let device = stream.device();
    let words = (bytes / 4).max(1);
    let (from, to) = (Buffer::<u32>::alloc(device, words)?, Buffer::<u32>::alloc(device, words)?);
    let mut copy = || {
        device.bind()?;
        // SAFETY: both buffers have that many bytes and live longer than the work, since freeing them waits.
        check("cuMemcpyDtoDAsync", unsafe {
            sys::cuMemcpyDtoDAsync_v2(to.pointer(), from.pointer(), words * 4, stream.raw())
        })
    };
    best(stream, 10, &mut copy).map(|seconds| 8.0 * words as f64 / seconds)
}

/// Floating-point operations per second of a square product of `size` by cuBLASLt on random numbers: the best of a few runs of
/// the fastest algorithm that it proposes.
pub fn peak_flops<T: Scalar>(stream: &Stream, precision: Precision, size: usize) -> Result<f64> {
    let device = stream.device();
    let inspector = Inspector::<T>::new(device)?;
    let random = |seed| -> Result<Buffer<T>> {
        let mut buffer = Buffer::alloc(device, size * size)?;
        inspector.fill(&mut buffer, seed, stream)?;
        Ok(buffer)
    };
    let (weights, x) = (random(1)?, random(2)?);
    let mut y = Buffer::alloc(device, size * size)?;
    let product = Peak::new(weights, precision, size, (&x, &mut y, stream))?;
    let seconds = best(stream, 5, &mut || product.launch(&x, &mut y, stream))?;
    Ok(2.0 * (size as f64).powi(3) / seconds)
}

/// The shortest of `count` runs after one that warms up.
fn best(stream: &Stream, count: usize, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let (start, end) = (Event::new(stream.device())?, Event::new(stream.device())?);
    run()?;
    let mut shortest = f64::INFINITY;
    for _ in 0..count {
        start.record(stream)?;
        run()?;
        end.record(stream)?;
        shortest = shortest.min(end.seconds_since(&start)?);
    }
    if shortest > 0.0 && shortest.is_finite() {
        return Ok(shortest);
    }
    Err(Error::Cuda { what: "a ceiling of the GPU".into(), why: format!("measured {shortest} seconds") })
}
