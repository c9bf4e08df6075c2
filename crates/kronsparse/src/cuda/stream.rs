//! Queues of work on a device, events that time it, and graphs that repeat it.

use std::ffi::c_void;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUevent, CUresult, CUstream};

use super::device::{Device, check};
use crate::{Error, Result};

/// A queue: what is given to one stream is done in order.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    raw: CUstream,
    owned: bool,
}

// SAFETY: the driver allows calls on a stream from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver serialises calls on one stream.
unsafe impl Sync for Stream {}

impl Stream {
    /// The device's legacy default stream, which other blocking streams wait for.
    pub fn default(device: &Device) -> Stream {
        Stream { device: device.clone(), raw: std::ptr::null_mut(), owned: false }
    }

    /// A new queue that waits for no other.
    pub fn new(device: &Device) -> Result<Stream> {
        device.bind()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current and the pointer is to a live variable.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Stream { device: device.clone(), raw, owned: true })
    }

    /// A stream that somebody else owns, such as PyTorch's current one: a `CUstream` (`cudaStream_t`); null is the default.
    ///
    /// # Safety
    ///
    /// `raw` must be a stream of this device's primary context and stay alive as long as the result.
    pub unsafe fn from_raw(device: &Device, raw: *mut c_void) -> Stream {
        Stream { device: device.clone(), raw: raw.cast(), owned: false }
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }
    /// The driver's handle, a `CUstream`.
    pub fn raw(&self) -> CUstream {
        self.raw
    }
    /// Waits until everything in this queue is done.
    pub fn synchronize(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw) })
    }
    /// What is queued here from now on waits until `event` is done.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.device.bind()?;
        // SAFETY: stream and event are alive.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.raw, event.raw, 0) })
    }

    /// Records what `work` queues on this stream instead of doing it. Not possible on the default stream. While recording, the
    /// driver refuses whatever a graph cannot hold: allocations, synchronisation.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.device.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.raw, mode) })?;
        let worked = work();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the capture was begun above on this thread; the pointer is to a live variable.
        let ended = check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(self.raw, &raw mut graph) });
        let mut executable = std::ptr::null_mut();
        let made = worked.and(ended).and_then(|()| {
            // SAFETY: the graph was just made; the pointer is to a live variable.
            check("cuGraphInstantiate", unsafe { sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0) })
        });
        if !graph.is_null() {
            // SAFETY: the executable graph does not need the one that it was made from.
            unsafe { sys::cuGraphDestroy(graph) };
        }
        made.map(|()| Graph { device: self.device.clone(), executable })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned && self.device.bind().is_ok() {
            // SAFETY: the stream was made by `new` and is not used again; queued work is still done.
            unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// Recorded work that is queued with one call. The memory that it uses must outlive it.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    executable: sys::CUgraphExec,
}

impl Graph {
    /// Queues the recorded work once.
    ///
    /// # Safety
    ///
    /// All memory and operators that the recorded work uses must still be alive, until it is done.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        self.device.bind()?;
        // SAFETY: graph and stream are alive; the caller answers for what the graph uses.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.executable, stream.raw) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made by `capture` and not used again.
            unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
    }
}

/// A mark in a queue, with the time at which the GPU came past it.
#[derive(Debug)]
pub struct Event {
    device: Device,
    raw: CUevent,
}

// SAFETY: the driver allows calls on an event from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// A mark that is in no queue yet.
    pub fn new(device: &Device) -> Result<Event> {
        device.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current and the pointer is to a live variable.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, 0) })?;
        Ok(Event { device: device.clone(), raw })
    }
    /// Puts the mark at the end of the queue.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.device.bind()?;
        // SAFETY: event and stream are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.raw, stream.raw) })
    }
    /// Waits until the GPU has come past the mark.
    pub fn synchronize(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })
    }
    /// Seconds of GPU time from `earlier` to this mark, after waiting for it. The driver counts in about half microseconds.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64> {
        type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
        // The bindings know only the symbol of CUDA 12.8 and later; this one is in every driver.
        static ELAPSED: OnceLock<Option<Elapsed>> = OnceLock::new();
        let elapsed = ELAPSED.get_or_init(|| {
            // SAFETY: the driver is loaded already; the type is that of cuda.h; the library is never closed.
            unsafe {
                let driver = libloading::Library::new(super::DRIVER).ok()?;
                let function = driver.get::<Elapsed>("cuEventElapsedTime").ok().map(|f| *f);
                std::mem::forget(driver);
                function
            }
        });
        let Some(elapsed) = elapsed else {
            return Err(Error::Cuda { what: "cuEventElapsedTime".into(), why: "the driver does not have it".into() });
        };
        self.synchronize()?;
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive and the pointer is to a live variable.
        check("cuEventElapsedTime", unsafe { elapsed(&raw mut milliseconds, earlier.raw, self.raw) })?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: the event was made by `new` and is not used again.
            unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}
