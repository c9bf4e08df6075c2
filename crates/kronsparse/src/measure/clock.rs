//! The clock: monotonic seconds as `f64`.

use std::time::Instant;

/// Measures seconds since its start on the system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    start: Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Stopwatch {
        Stopwatch { start: Instant::now() }
    }
    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

/// Seconds that `f` takes, once.
pub fn seconds(f: impl FnOnce()) -> f64 {
    let watch = Stopwatch::start();
    f();
    watch.seconds()
}

/// The smallest step of the clock that was seen in a few hundred readings, in seconds; at least a nanosecond.
///
/// A sample should be a thousand times longer, or be repeated until it is.
pub fn resolution() -> f64 {
    let mut smallest = f64::INFINITY;
    for _ in 0..256 {
        let watch = Stopwatch::start();
        let mut step = 0.0;
        // A clock that stands still for long is counted as coarse, not waited for.
        for _ in 0..100_000 {
            step = watch.seconds();
            if step > 0.0 {
                break;
            }
        }
        if step > 0.0 {
            smallest = smallest.min(step);
        }
    }
    if smallest.is_finite() { smallest.max(1e-9) } else { 1e-3 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_sleep_is_measured_in_seconds() {
        let took = seconds(|| std::thread::sleep(Duration::from_micros(2_000)));
        // A sleep may last longer than asked on a busy machine, never shorter.
        assert!((0.002..1.0).contains(&took), "{took} s");
    }

    #[test]
    fn the_clock_resolves_microseconds() {
        let step = resolution();
        assert!((1e-9..1e-5).contains(&step), "{step} s");
    }
}
