//! Stage 6, SAMPLE: seconds, their statistics, the machine's ceilings, and caches made cold.
//!
//! Every duration is an `f64` of seconds, every rate an `f64` per second: no integer type that could round a microsecond
//! away. [`Summary`] describes samples, [`peak_flops`] and [`copy_bandwidth`] measure what the machine can do, and
//! [`Evictor`] pushes data out of the caches between samples.

mod cache;
mod ceiling;
mod clock;
mod processor;
mod statistics;

pub use cache::{CacheLevel, Evictor, caches, last_level_cache};
pub use ceiling::{copy_bandwidth, peak_flops};
pub use clock::{Stopwatch, resolution, seconds};
pub use processor::cpu_name;
pub use statistics::{Summary, interquartile_mean, median, quantile};
