//! How long calls of an operator take, on arrays of a caller: what a comparison of ways asks for, one call after the other.

use super::memory::Buffer;
use super::operator::Operator;
use super::stream::Stream;
use super::timing::{self, Flusher};
use crate::{Error, Layout, Result, Scalar};

impl<T: Scalar> Operator<T> {
    /// Seconds of `count` calls with `n` vectors in `layout`, each after the second-level cache was flushed. `x` holds `n · cols` numbers
    /// and `y` gets `n · rows`; both may be longer.
    ///
    /// Errors: as [`Operator::prepare`]; arrays that are too short ([`Error::Length`]) or of another GPU.
    pub fn cold_seconds(
        &self,
        (x, y): (&Buffer<T>, &mut Buffer<T>),
        (n, layout): (usize, Layout),
        stream: &Stream,
        flusher: &mut Flusher,
        count: usize,
    ) -> Result<Vec<f64>> {
        self.check_arrays(x, y, n)?;
        self.check_device("the stream", stream.device())?;
        self.device.synchronize()?;
        // SAFETY: lengths and devices are checked; whatever used this operator's memory is done; the arrays are borrowed until the calls
        // are done, whose times are asked for before this returns.
        timing::cold(stream, flusher, count, || unsafe { self.launch(x.pointer(), y.pointer(), n, layout, stream) })
    }

    /// The same of a call in a graph of `calls`, by `count` replays: warm caches, and no host between the calls.
    pub fn warm_seconds(
        &self,
        (x, y): (&Buffer<T>, &mut Buffer<T>),
        (n, layout): (usize, Layout),
        stream: &Stream,
        calls: usize,
        count: usize,
    ) -> Result<Vec<f64>> {
        self.check_arrays(x, y, n)?;
        self.check_device("the stream", stream.device())?;
        self.device.synchronize()?;
        // SAFETY: as above; the graph is gone when this returns.
        timing::warm(stream, calls, count, || unsafe { self.launch(x.pointer(), y.pointer(), n, layout, stream) })
    }

    /// That arrays are long enough for `n` vectors, and on this operator's GPU.
    pub(super) fn check_arrays(&self, x: &Buffer<T>, y: &Buffer<T>, n: usize) -> Result<()> {
        for (what, features, found) in [
            ("X (n · columns of the chain)", self.cols(), x.len()),
            ("Y (n · rows of the chain)", self.rows(), y.len()),
        ] {
            let expected = n.saturating_mul(features);
            if found < expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        self.check_device("X", x.device())?;
        self.check_device("Y", y.device())
    }
}
