//! Work that takes long, on a thread of its own, while this one listens to Ctrl-C.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How often it is asked whether Ctrl-C was pressed.
const PATIENCE: Duration = Duration::from_millis(20);

/// What Ctrl-C does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The call ends at once; what the thread has begun is thrown away when it is done.
    Leaves,
    /// The work is brought to its end first; pressed once more, the call ends at once.
    Finishes,
}

/// Runs `work` on a thread of its own while this one listens to signals.
pub(crate) fn interruptible<R: Send + 'static>(
    py: Python<'_>,
    interrupted: Interrupted,
    work: impl FnOnce() -> R + Send + 'static,
) -> PyResult<R> {
    let (send, receive) = mpsc::channel();
    let started = std::thread::Builder::new().name("kronsparse".into()).spawn(move || {
        // Nobody may be left to hear it.
        let _ = send.send(work());
    });
    started.map_err(|e| PyRuntimeError::new_err(format!("cannot start a thread: {e}")))?;
    // Only to let the wait without the interpreter's lock borrow it.
    let receiver = Mutex::new(receive);
    let mut pressed = None;
    loop {
        let got = py.detach(|| receiver.lock().unwrap_or_else(|p| p.into_inner()).recv_timeout(PATIENCE));
        match got {
            Ok(result) => return pressed.map_or(Ok(result), Err),
            Err(mpsc::RecvTimeoutError::Timeout) => match py.check_signals() {
                Err(signal) if interrupted == Interrupted::Finishes && pressed.is_none() => pressed = Some(signal),
                heard => heard?,
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err(
                    "the computation ended without a result; its message is on stderr",
                ));
            }
        }
    }
}
