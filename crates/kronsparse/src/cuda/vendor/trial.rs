//! Which of several ways is fastest, by trying them once at preparation.

use crate::Result;
use crate::cuda::device::Device;
use crate::cuda::stream::{Event, Stream};

/// Arrays on which ways may be tried: as large as the operator's input and output, whatever they hold. The output is
/// overwritten.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Trial<'a> {
    pub(in crate::cuda) x: u64,
    pub(in crate::cuda) y: u64,
    pub(in crate::cuda) stream: &'a Stream,
}

/// Seconds of GPU time that the timed calls of one way may take, about.
const BUDGET: f64 = 1e-3;

/// Calls that take less are timed so many times; the least counts. Not in a graph: while one is captured, no other thread may wait for the
/// GPU.
const SHORT: f64 = 100e-6;
const TIMES: usize = 3;

/// A way takes the place of one before it if it is faster by so much, so that equal ones are not drawn by lot: where a host queues calls more
/// slowly than a GPU does them, all are.
const FASTER: f64 = 0.97;

/// A first call that takes so many seconds counts: loading a kernel is little of it, and another call would take as long.
const LONG: f64 = 0.2;

/// The way with the shortest time; the first of those that differ by little. Ways that return an error are left out; if all do, the first
/// one's error counts.
pub(super) fn fastest<W: Copy>(trial: &Trial<'_>, ways: &[W], mut run: impl FnMut(&W) -> Result<()>) -> Result<W> {
    let mut best: Option<(W, f64)> = None;
    let mut error = None;
    for way in ways {
        match seconds(trial, || run(way)) {
            Ok(seconds) if best.is_none_or(|(_, before)| seconds < FASTER * before) => best = Some((*way, seconds)),
            Ok(_) => {}
            Err(why) => error = error.or(Some(why)),
        }
    }
    match (best, error) {
        (Some((way, _)), _) => Ok(way),
        (None, Some(error)) => Err(error),
        (None, None) => panic!("expected at least one way to try"),
    }
}

/// GPU seconds of one call, after one that warms up (a library loads its kernels when they are first used) unless that takes [`LONG`].
pub(super) fn seconds(trial: &Trial<'_>, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let device: &Device = trial.stream.device();
    let (start, end) = (Event::new(device)?, Event::new(device)?);
    let mut once = |calls: usize| -> Result<f64> {
        start.record(trial.stream)?;
        for _ in 0..calls {
            run()?;
        }
        end.record(trial.stream)?;
        Ok(end.seconds_since(&start)? / calls as f64)
    };
    let cold = once(1)?;
    if cold >= LONG {
        return Ok(cold);
    }
    let first = once(1)?;
    let more = (BUDGET / first.max(1e-6)) as usize;
    if more < 2 {
        return Ok(first);
    }
    let times = if first < SHORT { TIMES } else { 1 };
    (0..times).try_fold(f64::INFINITY, |least, _| Ok(least.min(once(more.min(20))?)))
}
