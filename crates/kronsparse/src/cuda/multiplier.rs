//! Any algorithm of the GPU, ready for one number of vectors and one layout, behind one face: what a benchmark times.

use std::fmt;

use super::memory::Buffer;
use super::operator::Operator;
use super::options::{self, Plans};
use super::stream::Stream;
use super::timing::Caches;
use super::vendor::{self, Part, Vendor};
use crate::plan::gpu::Precision;
use crate::plan::{Algorithm, Layout};
use crate::{Chain, Error, Result, Scalar};

/// What a [`Multiplier`] is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// One of [`Algorithm::on_gpu`], or [`Algorithm::Auto`].
    pub algorithm: Algorithm,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Number of vectors.
    pub batch: usize,
    /// Order of `X` and `Y`.
    pub layout: Layout,
    /// Bytes of weights above which a library's algorithm is refused.
    pub memory_limit: usize,
    /// Who picks the plans of this project's own kernels.
    pub plans: Plans,
    /// What [`Algorithm::Auto`] is to be fast with; see [`Operator::tune`].
    pub caches: Caches,
}

/// A chain with an algorithm, bound to a stream.
pub struct Multiplier<'s, T: Scalar> {
    stream: &'s Stream,
    engine: Engine<T>,
    batch: usize,
    layout: Layout,
    ends: [usize; 2],
    device_bytes: usize,
}

enum Engine<T: Scalar> {
    Ours(Box<Operator<T>>),
    Library(Vendor<T>),
}

impl<'s, T: Scalar> Multiplier<'s, T> {
    /// Prepares everything: later launches allocate nothing and wait for nothing. [`Algorithm::Auto`] is measured on `x` and `y`,
    /// which hold at least `batch` vectors, and so are a library's ways; `y` is overwritten.
    ///
    /// Errors: as [`Operator::new`] and [`Vendor::prepare`].
    pub fn prepare(
        stream: &'s Stream,
        chain: &Chain<T>,
        options: &Options,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<Multiplier<'s, T>> {
        let device = stream.device();
        let Options { algorithm, precision, batch, layout, memory_limit, ref plans, caches } = *options;
        let ends = [chain.cols(), chain.rows()];
        let (engine, device_bytes) = match algorithm {
            Algorithm::Auto | Algorithm::Fused => {
                let before = device.free_memory()?;
                let plans = plans.clone();
                let options =
                    options::Options { algorithm, precision, plans, memory_limit, ..options::Options::default() };
                let operator = Operator::new(device, chain, options)?;
                match algorithm {
                    Algorithm::Auto => drop(operator.tune(batch, layout, caches, x, y)?),
                    _ => operator.prepare_aligned(batch, layout)?,
                }
                (Engine::Ours(Box::new(operator)), before.saturating_sub(device.free_memory()?) as usize)
            }
            library => {
                let options =
                    vendor::Options { precision, memory_limit, ..vendor::Options::new(library, batch, layout) };
                let vendor = Vendor::prepare(device, chain, &options, Some((x, y, stream)))?;
                let bytes = vendor.device_bytes();
                (Engine::Library(vendor), bytes)
            }
        };
        Ok(Multiplier { stream, engine, batch, layout, ends, device_bytes })
    }

    /// Queues the multiplication. Both buffers may be larger than needed; what lies beyond stays as it is.
    pub fn launch(&self, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        match &self.engine {
            Engine::Ours(operator) => {
                let what = ["X (n · columns of the chain)", "Y (n · rows of the chain)"];
                for (at, found) in [x.len(), y.len()].into_iter().enumerate() {
                    let expected = self.batch.saturating_mul(self.ends[at]);
                    if found < expected {
                        return Err(Error::Length { what: what[at], expected, found });
                    }
                }
                // SAFETY: the buffers are large enough, begin where an allocation begins, and cannot be freed before the work
                // is done, since that waits; this operator works on no other stream.
                unsafe { operator.launch(x.pointer(), y.pointer(), self.batch, self.layout, self.stream) }
            }
            Engine::Library(vendor) => vendor.launch(x, y, self.stream),
        }
    }

    /// Queues one part of permute-bmm; see [`Vendor::launch_part`].
    pub fn launch_part(&self, part: Part, x: &Buffer<T>, y: &mut Buffer<T>) -> Result<()> {
        match &self.engine {
            Engine::Library(vendor) => vendor.launch_part(part, x, y, self.stream),
            Engine::Ours(_) => Err(Error::Unsupported {
                what: "a part of auto or fused".into(),
                why: "only permute-bmm by itself is timed in parts".into(),
            }),
        }
    }

    /// Bytes of device memory that it holds: weights, working memory, loaded code; for this project's own kernels as the
    /// driver reports it, in steps of megabytes.
    pub fn device_bytes(&self) -> usize {
        self.device_bytes
    }
}

impl<T: Scalar> fmt::Display for Multiplier<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Engine::Library(vendor) => vendor.fmt(f),
            Engine::Ours(operator) => {
                f.write_str(&operator.summary(self.batch, self.layout).unwrap_or_else(|error| error.to_string()))
            }
        }
    }
}
