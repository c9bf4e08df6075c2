//! How long a launch takes, as tuning asks: a few launches of what is slow, more of what may be the fastest.

use super::operator::Operator;
use super::stream::Stream;
use super::timing::{self, Caches, Flusher};
use crate::tune::{Measured, Step as Name};
use crate::{Result, Scalar};

/// A measurement begins with so many launches, and goes on with so many if they were not much slower than the best before.
const LAUNCHES: [usize; 2] = [2, 7];
/// What much slower is.
const SLOWER: f64 = 1.5;
/// What is sampled in turn takes about so many seconds in all, in so many rounds at least and at most.
const IN_TURN: f64 = 20e-3;
const ROUNDS: [usize; 2] = [7, 31];
/// With warm caches a launch is timed within a graph of about so many seconds.
const GRAPH: f64 = 100e-6;

/// Times launches on a stream of its own.
pub(super) struct Clock {
    pub(super) stream: Stream,
    flusher: Option<Flusher>,
    /// What was timed by [`Clock::noted`].
    pub(super) measured: Vec<Measured>,
}

impl Clock {
    pub(super) fn new<T: Scalar>(operator: &Operator<T>, caches: Caches) -> Result<Clock> {
        let flusher = match caches {
            Caches::Warm => None,
            Caches::Cold => Some(Flusher::new(operator.device())?),
        };
        Ok(Clock { stream: Stream::new(operator.device())?, flusher, measured: Vec::new() })
    }

    /// How the caches are before each sample.
    pub(super) fn caches(&self) -> &'static str {
        if self.flusher.is_some() { "cold" } else { "warm" }
    }

    /// The seconds of a launch of these steps, for the record too; of a few launches only, where it is much slower than `best`.
    pub(super) fn noted(
        &mut self,
        steps: Vec<Name>,
        estimate: f64,
        best: f64,
        run: impl FnMut(&Stream) -> Result<()>,
    ) -> Result<f64> {
        let (seconds, samples) = self.seconds(estimate, best, run)?;
        self.measured.push(Measured { steps, seconds, samples });
        Ok(seconds)
    }

    /// The seconds of a launch of each of several ways, sampled in turn, for the record too. `estimate` is what one takes.
    pub(super) fn in_turn(
        &mut self,
        ways: Vec<Vec<Name>>,
        estimate: f64,
        mut run: impl FnMut(usize, &Stream) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let Clock { stream, flusher, measured } = self;
        let (stream, count) = (&*stream, ways.len());
        let calls = calls(estimate);
        // Flushing a cache takes about as long as the calls of a graph.
        let round = estimate.max(1e-7) * (calls * count) as f64;
        let rounds = ((IN_TURN / round) as usize).clamp(ROUNDS[0], ROUNDS[1]);
        let samples = match flusher.as_mut() {
            Some(flusher) => timing::cold_in_turn(stream, flusher, count, rounds, |way| run(way, stream)),
            None => timing::warm_in_turn(stream, calls, count, rounds, |way| run(way, stream)),
        }?;
        let means: Vec<f64> = samples.iter().map(|samples| middle(samples)).collect();
        let noted = ways.into_iter().zip(&means).map(|(steps, &seconds)| Measured { steps, seconds, samples: rounds });
        measured.extend(noted);
        Ok(means)
    }

    /// The seconds of a launch, and how many samples it is of.
    fn seconds(
        &mut self,
        estimate: f64,
        best: f64,
        mut run: impl FnMut(&Stream) -> Result<()>,
    ) -> Result<(f64, usize)> {
        let Clock { stream, flusher, .. } = self;
        let stream = &*stream;
        let calls = calls(estimate);
        // Libraries load kernels at the first launch.
        run(stream)?;
        let mut sample = |count: usize| match flusher.as_mut() {
            Some(flusher) => timing::cold(stream, flusher, count, || run(stream)),
            None => timing::warm(stream, calls, count, || run(stream)),
        };
        let first = middle(&sample(LAUNCHES[0])?);
        if first > SLOWER * best {
            return Ok((first, LAUNCHES[0]));
        }
        Ok((middle(&sample(LAUNCHES[1])?), LAUNCHES[1]))
    }
}

/// Launches in a graph, where one takes about so many seconds.
fn calls(estimate: f64) -> usize {
    ((GRAPH / estimate.max(1e-7)) as usize).clamp(1, 50)
}

/// Of two samples their mean; a clock that counts in steps makes medians of many jump.
fn middle(samples: &[f64]) -> f64 {
    crate::measure::interquartile_mean(samples).unwrap_or(f64::INFINITY)
}
