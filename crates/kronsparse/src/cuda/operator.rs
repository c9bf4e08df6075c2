//! A chain made ready for multiplication on a GPU: checks, plans, packed weights, and the public face of the engine.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::combine::combined;
use super::device::Device;
use super::memory::Buffer;
use super::options::{Options, Plans};
use super::step::{Part, Step};
use super::stream::{Event, Stream};
use super::vendor::Session;
use crate::plan::gpu::Precision;
use crate::plan::{Activation, Algorithm};
use crate::{Chain, ChainPattern, DType, Error, Layout, Result, Scalar};

/// A chain made ready for multiplication on one GPU; element types `f16`, `bf16`, `f32` and `f64`.
///
/// [`Operator::prepare`] plans, compiles, packs and uploads for one number of vectors and one layout; later calls with the
/// same ones only launch. [`Operator::tune`] does it by measuring. One operator works for one stream at a time: chains of
/// several factors keep their hidden vectors in memory of the operator, and libraries have working memory there.
pub struct Operator<T: Scalar> {
    pub(super) device: Device,
    given: ChainPattern,
    /// What is multiplied by: the chain, small factors of it combined.
    pub(super) chain: Chain<T>,
    pub(super) bias: Option<Bias<T>>,
    pub(super) activation: Activation,
    pub(super) algorithm: Algorithm,
    pub(super) precision: Precision,
    pub(super) plans: Plans,
    pub(super) memory_limit: usize,
    prepared: RwLock<HashMap<Key, Arc<Prepared<T>>>>,
    shared: Mutex<Shared<T>>,
    /// The stream that [`Operator::apply`] used last, and the end of its work there.
    last: Mutex<Option<(usize, Event)>>,
    /// Opening a library takes milliseconds, and ways are tried one after the other.
    _session: Session,
}

const _: () = {
    const fn may_be_shared<O: Send + Sync>() {}
    may_be_shared::<Operator<f32>>();
};

/// A bias where the libraries' preparation reads it, and where kernels do.
pub(super) struct Bias<T> {
    pub(super) host: Vec<T>,
    device: Buffer<T>,
}

/// What the plans of a multiplication depend on, beside what the operator fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) n: usize,
    pub(super) layout: Layout,
    pub(super) aligned: bool,
}

/// One multiplication, ready to be launched.
pub(super) struct Prepared<T> {
    /// In the order in which they are applied: the right-most factor first.
    pub(super) steps: Vec<Step<T>>,
    pub(super) hidden: [Arc<Buffer<T>>; 2],
}

impl<T: Scalar> Prepared<T> {
    /// Whether launches must not overlap, since they share memory of the operator.
    fn is_exclusive(&self) -> bool {
        self.steps.len() > 1 || self.steps.iter().any(|step| step.way.is_exclusive())
    }
}

/// What prepared multiplications share.
pub(super) struct Shared<T> {
    /// Packed weights by factor and order.
    pub(super) weights: HashMap<(usize, String), Arc<Buffer<T>>>,
    /// The largest hidden vectors so far.
    hidden: [Arc<Buffer<T>>; 2],
    /// What was replaced; graphs may still name its memory.
    replaced: Vec<Arc<Prepared<T>>>,
}

impl<T: Scalar> Operator<T> {
    /// Checks the options and uploads the bias. Plans come with [`Operator::prepare`].
    ///
    /// Errors: a complex element type, an algorithm that the GPU engine does not have, a bias of another length than the
    /// rows, no device memory.
    pub fn new(device: &Device, chain: &Chain<T>, options: Options<T>) -> Result<Operator<T>> {
        let Options { bias, activation, algorithm, precision, plans, memory_limit, combine } = options;
        if T::DTYPE.is_complex() {
            return Err(Error::Unsupported {
                what: format!("multiplying in {} on a GPU", T::DTYPE),
                why: "the GPU engine multiplies f16, bf16, f32 and f64; complex chains run on the CPU".into(),
            });
        }
        if algorithm != Algorithm::Auto && !Algorithm::on_gpu().contains(&algorithm) {
            let all = Algorithm::on_gpu().map(Algorithm::name).join(", ");
            return Err(Error::Unsupported {
                what: format!("the algorithm {algorithm} on a GPU"),
                why: format!("there are auto, {all}"),
            });
        }
        if let Some(bias) = &bias
            && bias.len() != chain.rows()
        {
            return Err(Error::Length { what: "bias (rows of the chain)", expected: chain.rows(), found: bias.len() });
        }
        let combines =
            combine && algorithm == Algorithm::Auto && matches!(plans, Plans::Best) && chain.factors().len() > 1;
        let none = Arc::new(Buffer::alloc(device, 0)?);
        Ok(Operator {
            device: device.clone(),
            given: chain.pattern().clone(),
            chain: if combines { combined(chain, precision, device.machine())? } else { chain.clone() },
            bias: match bias {
                Some(host) => Some(Bias { device: Buffer::from_slice(device, &host)?, host }),
                None => None,
            },
            activation,
            algorithm,
            precision,
            plans,
            memory_limit,
            prepared: RwLock::default(),
            shared: Mutex::new(Shared { weights: HashMap::new(), hidden: [none.clone(), none], replaced: Vec::new() }),
            last: Mutex::new(None),
            _session: Session::new(device),
        })
    }

    /// Size of an output vector.
    pub fn rows(&self) -> usize {
        self.chain.rows()
    }
    /// Size of an input vector.
    pub fn cols(&self) -> usize {
        self.chain.cols()
    }
    /// The patterns of the chain, as it was given.
    pub fn pattern(&self) -> &ChainPattern {
        &self.given
    }
    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Plans, compiles, packs, uploads and allocates whatever multiplying `n` vectors in `layout` needs, whether or not
    /// `X` and `Y` will be aligned to 16 bytes: so the working memory of libraries is there twice. A second call does nothing.
    /// Not possible while a stream is captured.
    pub fn prepare(&self, n: usize, layout: Layout) -> Result<()> {
        if n > 0 {
            self.prepared(Key { n, layout, aligned: true })?;
            match self.prepared(Key { n, layout, aligned: false }) {
                // A kernel family that somebody asks for may need aligned arrays: others are refused when they come.
                Err(Error::Unsupported { .. }) if matches!(self.plans, Plans::Family(_)) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// `Y = activation(X Wᵀ + bias)` batch-first, `Y = activation(W X + bias)` batch-last, queued on `stream`: `x` holds
    /// `n · cols` elements, `y` gets `n · rows`. Waits for nothing, but for work of this operator on another stream.
    pub fn apply(&self, x: &Buffer<T>, y: &mut Buffer<T>, n: usize, layout: Layout, stream: &Stream) -> Result<()> {
        self.check("X (n · columns of the chain)", self.cols(), n, x.len())?;
        self.check("Y (n · rows of the chain)", self.rows(), n, y.len())?;
        for (what, device) in [("X", x.device()), ("Y", y.device()), ("the stream", stream.device())] {
            self.check_device(what, device)?;
        }
        if n == 0 {
            return Ok(());
        }
        let aligned = (x.pointer() | y.pointer()).is_multiple_of(16);
        let prepared = self.prepared(Key { n, layout, aligned })?;
        if !prepared.is_exclusive() {
            // SAFETY: lengths and devices are checked; the driver frees memory only after the work that uses it, and
            // copies of `Buffer` wait for the GPU.
            return unsafe { self.queue(&prepared, x.pointer(), y.pointer(), n, stream) };
        }
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = stream.raw() as usize;
        if let Some((_, event)) = last.as_ref().filter(|(used, _)| *used != name) {
            stream.wait(event)?;
        }
        // SAFETY: as above; and the operator's memory is free, since the stream waits for whoever used it last.
        unsafe { self.queue(&prepared, x.pointer(), y.pointer(), n, stream) }?;
        let event = match last.take() {
            Some((_, event)) => event,
            None => Event::new(&self.device)?,
        };
        event.record(stream)?;
        *last = Some((name, event));
        Ok(())
    }

    /// [`Operator::apply`] on device addresses that others own. After [`Operator::prepare`] for this `n` and `layout` it
    /// allocates nothing, waits for nothing, and can be captured into a graph.
    ///
    /// # Safety
    ///
    /// `x` is the address of `n · cols` elements and `y` of `n · rows` on this operator's GPU, aligned to one element, not
    /// overlapping, alive until the work is done. `stream` belongs to the same GPU. Work that this operator queued on
    /// another stream is done, or this stream waits for it. Operator, `x` and `y` outlive a graph that this is captured into.
    pub unsafe fn launch(&self, x: u64, y: u64, n: usize, layout: Layout, stream: &Stream) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let prepared = self.prepared(Key { n, layout, aligned: (x | y).is_multiple_of(16) })?;
        // SAFETY: the caller's word; it was prepared for arrays that are aligned like these.
        unsafe { self.queue(&prepared, x, y, n, stream) }
    }

    /// Queues all steps.
    ///
    /// # Safety
    ///
    /// As for [`Operator::launch`], for what was prepared for `n` vectors and arrays aligned like these.
    pub(super) unsafe fn queue(&self, prepared: &Prepared<T>, x: u64, y: u64, n: usize, stream: &Stream) -> Result<()> {
        self.device.bind()?;
        let end = prepared.steps.len() - 1;
        let mut input = x;
        for (at, step) in prepared.steps.iter().enumerate() {
            let output = if at == end { y } else { prepared.hidden[at % 2].pointer() };
            // The last step is the left-most factor, or all.
            let bias = if at == end { self.bias_at(0) } else { 0 };
            // SAFETY: the context is current; the caller answers for `x`, `y` and the stream; weights, bias and hidden
            // vectors were made for this step and number of vectors, and are kept by the operator.
            unsafe { step.way.run(input, output, bias, n, stream) }?;
            input = output;
        }
        Ok(())
    }

    /// The address of the bias that factor `at` adds, or 0.
    pub(super) fn bias_at(&self, at: usize) -> u64 {
        self.bias.as_ref().filter(|_| at == 0).map_or(0, |bias| bias.device.pointer())
    }

    /// Copies `x` to the GPU, multiplies, and copies the result back: for tests and small work.
    pub fn multiply(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        self.check("X (n · columns of the chain)", self.cols(), n, x.len())?;
        let len = n.saturating_mul(self.rows());
        let (x, mut y) = (Buffer::from_slice(&self.device, x)?, Buffer::alloc(&self.device, len)?);
        self.apply(&x, &mut y, n, layout, &Stream::default(&self.device))?;
        y.to_vec()
    }

    /// What is done for `n` vectors in `layout`, in words: one paragraph per factor, in the order of application, with what
    /// was estimated or measured of the ways that were not taken; or one paragraph for all factors together.
    pub fn explain(&self, n: usize, layout: Layout) -> Result<String> {
        if n == 0 {
            return Ok("nothing: there are no vectors".into());
        }
        let prepared = self.prepared(Key { n, layout, aligned: true })?;
        let mut text = format!(
            "{} factors{}, {} {layout}, n = {n}, on {} ({})",
            self.given.patterns().len(),
            match self.chain.factors().len() {
                fewer if fewer < self.given.patterns().len() => format!(" combined to {fewer}"),
                _ => String::new(),
            },
            T::DTYPE,
            self.device.name(),
            self.device.architecture()
        );
        for Step { what, way, why } in &prepared.steps {
            let _ = write!(text, "\n{what} by {way}; {why}");
        }
        Ok(text)
    }

    /// The steps alone, on one line.
    pub(super) fn summary(&self, n: usize, layout: Layout) -> Result<String> {
        if n == 0 {
            return Ok("nothing".into());
        }
        let prepared = self.prepared(Key { n, layout, aligned: true })?;
        let steps = prepared.steps.iter().map(|Step { what, way, .. }| format!("{what} by {way}"));
        Ok(steps.collect::<Vec<_>>().join(" | "))
    }

    pub(super) fn check_device(&self, what: &str, device: &Device) -> Result<()> {
        if *device == self.device {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: "an operator multiplies on its own GPU",
            left: format!("{what} on {device:?}"),
            right: format!("the operator on {:?}", self.device),
        })
    }

    fn check(&self, what: &'static str, features: usize, n: usize, found: usize) -> Result<()> {
        match n.checked_mul(features) {
            Some(expected) if expected == found => Ok(()),
            expected => Err(Error::Length { what, expected: expected.unwrap_or(usize::MAX), found }),
        }
    }

    fn prepared(&self, key: Key) -> Result<Arc<Prepared<T>>> {
        if let Some(found) = self.prepared.read().unwrap_or_else(|p| p.into_inner()).get(&key) {
            return Ok(found.clone());
        }
        // One at a time: what two calls need is often the same.
        let mut shared = self.shared();
        if let Some(found) = self.prepared.read().unwrap_or_else(|p| p.into_inner()).get(&key) {
            return Ok(found.clone());
        }
        let made = Arc::new(self.make(key, &mut shared)?);
        self.prepared.write().unwrap_or_else(|p| p.into_inner()).insert(key, made.clone());
        Ok(made)
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts `prepared` in the place of what is there, which is kept: graphs may name it.
    pub(super) fn replace(&self, key: Key, prepared: Arc<Prepared<T>>, shared: &mut Shared<T>) {
        let old = self.prepared.write().unwrap_or_else(|p| p.into_inner()).insert(key, prepared);
        shared.replaced.extend(old);
        // Those of kernels that were tried and not taken.
        shared.weights.retain(|_, weights| Arc::strong_count(weights) > 1);
    }

    fn make(&self, key: Key, shared: &mut Shared<T>) -> Result<Prepared<T>> {
        let steps = match self.algorithm {
            _ if self.picks() => self.by_estimate(key, shared)?,
            Algorithm::Auto | Algorithm::Fused => self.by_kernels(key, shared)?,
            algorithm => {
                // SAFETY: nothing is tried at an address.
                let way = unsafe { self.library(Part::Whole, algorithm, key, None) }?;
                vec![Step { what: self.name(Part::Whole), way, why: "as was asked".into() }]
            }
        };
        let hidden = self.hidden(key.n, steps.len(), shared)?;
        Ok(Prepared { steps, hidden })
    }

    /// The estimate of a factor by the kernel that [`Options::plans`] picks.
    pub(super) fn planned_seconds(&self, at: usize, key: Key) -> Result<f64> {
        let (problem, machine) = (self.problem(Part::Factor(at), key)?, self.device.machine());
        Ok(self.plans.pick(&problem, machine)?.seconds(machine))
    }

    /// A factor by the kernel that [`Options::plans`] picks.
    pub(super) fn planned(&self, at: usize, key: Key, shared: &mut Shared<T>) -> Result<Step<T>> {
        let plan = self.plans.pick(&self.problem(Part::Factor(at), key)?, self.device.machine())?;
        let why = format!("estimated {:.2} µs", plan.seconds(self.device.machine()) * 1e6);
        Ok(Step { what: self.name(Part::Factor(at)), way: self.kernel(at, plan, key, shared)?, why })
    }

    /// Memory for the vectors that pass between so many steps; step `k` writes number `k mod 2`.
    pub(super) fn hidden(&self, n: usize, steps: usize, shared: &mut Shared<T>) -> Result<[Arc<Buffer<T>>; 2]> {
        // Which vectors pass between steps depends on the kernels: any of them may.
        let features = self.chain.factors().iter().skip(1).map(|factor| factor.pattern().rows()).max().unwrap_or(0);
        let len = n.checked_mul(features).ok_or(Error::Length {
            what: "hidden vectors (n · rows of a factor)",
            expected: usize::MAX,
            found: n,
        })?;
        for hidden in shared.hidden.iter_mut().take(steps.saturating_sub(1)) {
            // A larger one replaces it for later calls; earlier ones keep theirs, which graphs may name.
            if hidden.len() < len {
                *hidden = Arc::new(Buffer::alloc(&self.device, len)?);
            }
        }
        Ok(shared.hidden.clone())
    }
}

impl<T: Scalar> fmt::Debug for Operator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype: DType = T::DTYPE;
        write!(f, "cuda::Operator({:?}, {dtype}, {:?})", self.pattern().patterns(), self.device)
    }
}
