//! Which of PyTorch's streams used an object's memory last: another one waits for it.

use std::ffi::c_void;

use kronsparse::Result;
use kronsparse::cuda::{Device, Event, Stream};

/// The stream of the last launch, not counting captures.
#[derive(Default)]
pub(crate) struct LastStream(Option<usize>);

impl LastStream {
    /// The stream (a `cudaStream_t`) as the engine's, made to wait for the one before. Nothing waits while it is captured: a capture
    /// begins after a synchronisation.
    ///
    /// # Safety
    ///
    /// `stream` is one of this device's, and those of earlier calls are alive, as PyTorch's are as long as the process.
    pub(crate) unsafe fn enter(&mut self, device: &Device, stream: usize, capturing: bool) -> Result<Stream> {
        // SAFETY: the caller's word.
        let queue = unsafe { Stream::from_raw(device, stream as *mut c_void) };
        if !capturing {
            if let Some(last) = self.0.filter(|&last| last != stream) {
                // SAFETY: the caller's word.
                let before = unsafe { Stream::from_raw(device, last as *mut c_void) };
                let event = Event::new(device)?;
                event.record(&before)?;
                queue.wait(&event)?;
            }
            self.0 = Some(stream);
        }
        Ok(queue)
    }
}
