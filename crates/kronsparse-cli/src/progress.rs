//! Progress on stderr: a spinner or a bar that appears after one second, on a terminal only, and is gone when dropped.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work under way. Quick work never shows it; dropping it clears the line.
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Dropped to end the thread that waits to show the bar.
    alive: Option<mpsc::Sender<()>>,
    waiting: Option<JoinHandle<()>>,
}

impl Progress {
    /// A spinner with a message.
    pub(crate) fn spinner(message: &str) -> Progress {
        Progress::start(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()), message)
    }

    /// A bar of `total` steps.
    pub(crate) fn bar(total: u64, message: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (about {eta} left) {wide_msg}")
        {
            bar.set_style(style);
        }
        Progress::start(bar, message)
    }

    fn start(bar: ProgressBar, message: &str) -> Progress {
        bar.set_message(message.to_owned());
        let (alive, ended) = mpsc::channel();
        let shown = bar.clone();
        let waiting = thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                // Stays hidden when stderr is no terminal.
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(120));
            }
        });
        Progress { bar, alive: Some(alive), waiting: Some(waiting) }
    }

    /// `position` of the bar's steps are done; `message` says what is next.
    pub(crate) fn update(&self, position: usize, message: &str) {
        self.bar.set_position(position as u64);
        self.bar.set_message(message.to_owned());
    }

    /// Sets the number of steps, once it is known.
    pub(crate) fn set_total(&self, total: usize) {
        self.bar.set_length(total as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(waiting) = self.waiting.take() {
            let _ = waiting.join();
        }
        self.bar.finish_and_clear();
    }
}
