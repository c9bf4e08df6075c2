//! On which threads work runs: rayon's global pool, or, in a process that was forked after that pool had started, one of its
//! own, since the threads of a pool do not survive a fork and work given to it would wait for ever.

use std::sync::{Arc, Mutex, OnceLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process in which the extension was loaded, or first worked.
static HOME: OnceLock<u32> = OnceLock::new();
/// The pool of a forked process, and which process that is.
static FORKED: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// Runs `work` where all the threads that it asks for are alive.
pub(crate) fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let process = std::process::id();
    if *HOME.get_or_init(|| process) == process {
        return work();
    }
    let pool = {
        let mut forked = FORKED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*forked {
            Some((owner, pool)) if *owner == process => Some(pool.clone()),
            _ => {
                // Dropping the pool of the parent would wait for its threads.
                if let Some(dead) = forked.take() {
                    std::mem::forget(dead);
                }
                let made = ThreadPoolBuilder::new().build().ok().map(Arc::new);
                *forked = made.clone().map(|pool| (process, pool));
                made
            }
        }
    };
    match pool {
        Some(pool) => pool.install(work),
        // No thread can be started: what asks for one thread still works.
        None => work(),
    }
}
