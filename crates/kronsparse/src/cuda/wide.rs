//! 16-bit chains whose hidden vectors stay in `f32`: X becomes f32, the chain in f32 multiplies it, and what it gives is rounded once.

use std::fmt;
use std::sync::Arc;

use super::device::Device;
use super::joining::{Pass, Shape};
use super::memory::Buffer;
use super::operator::Operator;
use super::options::Options;
use super::prepared::{Key, Shared};
use super::step::{Ends, Part, Step, Way};
use super::stream::Stream;
use super::timing::Caches;
use crate::plan::gpu::Precision;
use crate::plan::{Activation, Algorithm, Join, Layout};
use crate::scalar::Wide as _;
use crate::tune::Record;
use crate::{Chain, Result, Scalar};

/// The chain in f32 between two passes, for one number of vectors.
pub(super) struct Wide {
    chain: Arc<Operator<f32>>,
    widen: Pass,
    round: Pass,
    x: Arc<Buffer<f32>>,
    y: Arc<Buffer<f32>>,
    n: usize,
    layout: Layout,
}

impl Wide {
    /// Queues it.
    ///
    /// # Safety
    ///
    /// As for [`Way::run`].
    pub(super) unsafe fn run(&self, ends: Ends, n: usize, stream: &Stream) -> Result<()> {
        let (x, y) = (self.x.pointer(), self.y.pointer());
        // SAFETY: the caller's word; the wide arrays are as large as the chain needs, and belong to this way and to others that do not
        // run at the same time.
        unsafe {
            self.widen.run(ends.x, 0, x, n, stream)?;
            self.chain.launch(x, y, n, self.layout, stream)?;
            self.round.run(y, ends.residual, ends.y, n, stream)
        }
    }
}

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.chain.summary(self.n, self.layout).unwrap_or_else(|error| error.to_string());
        write!(f, "the chain in f32, between a pass over X and one over Y: {steps}")
    }
}

/// The operator in f32 where `options` ask for it: weights and bias as they are, precision in full. It joins gates; a residual is added
/// when its outputs are rounded.
pub(super) fn widened<T: Scalar>(
    device: &Device,
    chain: &Chain<T>,
    options: &Options<T>,
) -> Result<Option<Arc<Operator<f32>>>> {
    let &Options { activation, algorithm, hidden, memory_limit, combine, .. } = options;
    if algorithm == Algorithm::Dense || !hidden.widens(T::DTYPE, chain.factors().len()) {
        return Ok(None);
    }
    let wide = Options {
        bias: options.bias.as_ref().map(|bias| bias.iter().map(|b| b.widen().parts().0 as f32).collect()),
        activation,
        join: options.join.before_rounding(),
        algorithm,
        precision: Precision::Full,
        hidden,
        plans: options.plans.clone(),
        memory_limit,
        combine,
        tuning: options.tuning.clone(),
    };
    Ok(Some(Arc::new(Operator::new(device, &chain.cast(), wide)?)))
}

impl<T: Scalar> Operator<T> {
    /// The one step of a chain that is multiplied in f32.
    pub(super) fn wide_step(&self, chain: &Arc<Operator<f32>>, key: Key, shared: &mut Shared<T>) -> Result<Step<T>> {
        let Key { n, layout, aligned, .. } = key;
        let [x, y] =
            shared.wide(&self.device, [self.cols(), self.rows()].map(|features| n.saturating_mul(features)))?;
        let pass = |outputs: usize, join: Join| Shape {
            outputs,
            batch: n,
            layout,
            activation: Activation::None,
            join,
            aligned,
        };
        let added = if self.join == Join::Residual { Join::Residual } else { Join::None };
        // Its arrays are aligned, as all that are allocated.
        chain.prepared(Key { n, layout, aligned: true, apart: false })?;
        let wide = Wide {
            chain: chain.clone(),
            widen: Pass::load::<T, f32>(&self.device, &pass(self.cols(), Join::None))?,
            round: Pass::load::<f32, T>(&self.device, &pass(self.rows(), added))?,
            x,
            y,
            n,
            layout,
        };
        Ok(self.step(Part::Whole, Way::Wide(Box::new(wide)), "as was asked".into()))
    }

    /// [`Operator::tune`] of the chain in f32, on X as it is.
    pub(super) fn tune_wide(
        &self,
        chain: &Operator<f32>,
        n: usize,
        layout: Layout,
        caches: Caches,
        x: &Buffer<T>,
    ) -> Result<Option<Record>> {
        let wide = Buffer::<f32>::alloc(&self.device, n.saturating_mul(self.cols()))?;
        let mut y = Buffer::<f32>::alloc(&self.device, n.saturating_mul(self.rows()))?;
        let aligned = x.pointer().is_multiple_of(16);
        let shape =
            Shape { outputs: self.cols(), batch: n, layout, activation: Activation::None, join: Join::None, aligned };
        let widen = Pass::load::<T, f32>(&self.device, &shape)?;
        self.device.bind()?;
        let stream = Stream::new(&self.device)?;
        // Whoever writes X is done.
        self.device.synchronize()?;
        // SAFETY: the caller has checked that X is long enough and of this GPU; all work is done before anything is let go.
        unsafe { widen.run(x.pointer(), 0, wide.pointer(), n, &stream) }?;
        stream.synchronize()?;
        chain.tune(n, layout, caches, &wide, &mut y)
    }
}
