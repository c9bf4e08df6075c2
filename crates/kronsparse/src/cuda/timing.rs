//! How long work on a GPU takes, between two events in its queue: with a cold second-level cache, or warm in a graph; and what
//! the GPU can do at most.

use cudarc::driver::sys;

use super::device::{Device, check};
use super::inspect::Inspector;
use super::memory::Buffer;
use super::stream::{Event, Graph, Stream};
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
/// time that the host takes to queue the call. Nothing else is queued: in a long queue small kernels were seen to take up to 30 % longer, and
/// unevenly (`record/2026-11-24-h100-tuner`).
pub fn cold(
    stream: &Stream,
    flusher: &mut Flusher,
    count: usize,
    mut run: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    Ok(cold_in_turn(stream, flusher, 1, count, |_| run())?.remove(0))
}

/// [`cold`] of so many ways, in turn: one call of each in every round, so that a GPU whose clock changes does so for all. A call that does
/// not count comes before, so that the multiprocessors hold the instructions of the way itself, as in [`cold`], and not of those before.
pub(super) fn cold_in_turn(
    stream: &Stream,
    flusher: &mut Flusher,
    ways: usize,
    rounds: usize,
    mut run: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<f64>>> {
    let (start, end) = (Event::new(stream.device())?, Event::new(stream.device())?);
    let mut samples: Vec<Vec<f64>> = (0..ways).map(|_| Vec::with_capacity(rounds)).collect();
    stream.synchronize()?;
    for _ in 0..rounds {
        for (way, samples) in samples.iter_mut().enumerate() {
            if ways > 1 {
                run(way)?;
            }
            flusher.flush(stream)?;
            start.record(stream)?;
            run(way)?;
            end.record(stream)?;
            // This waits for the call.
            samples.push(end.seconds_since(&start)?);
        }
    }
    Ok(samples)
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
    Ok(warm_in_turn(stream, calls, 1, count, |_| run())?.remove(0))
}

/// [`warm`] of so many ways, in turn: one replay of each graph in every round.
pub(super) fn warm_in_turn(
    stream: &Stream,
    calls: usize,
    ways: usize,
    rounds: usize,
    mut run: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<f64>>> {
    let calls = calls.max(1);
    let mut graphs = Vec::with_capacity(ways);
    for way in 0..ways {
        // Libraries may load kernels at the first call, which a graph cannot hold.
        run(way)?;
        stream.synchronize()?;
        graphs.push(stream.capture(|| (0..calls).try_for_each(|_| run(way)))?);
    }
    // SAFETY: what `run` uses is borrowed by it, and it is alive until this function returns.
    let replay = |graph: &Graph| unsafe { graph.launch(stream) };
    graphs.iter().try_for_each(replay)?;
    let mut marks: Vec<Vec<(Event, Event)>> = (0..ways).map(|_| Vec::with_capacity(rounds)).collect();
    for _ in 0..rounds {
        for (graph, marks) in graphs.iter().zip(&mut marks) {
            let (start, end) = (Event::new(stream.device())?, Event::new(stream.device())?);
            start.record(stream)?;
            replay(graph)?;
            end.record(stream)?;
            marks.push((start, end));
        }
    }
    let of = |(start, end): &(Event, Event)| Ok(end.seconds_since(start)? / calls as f64);
    let seconds = marks.iter().map(|marks| marks.iter().map(of).collect()).collect();
    // A graph must not be destroyed before its last replay is done.
    stream.synchronize()?;
    seconds
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
