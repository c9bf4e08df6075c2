//! A chain made ready for multiplication on a GPU: checks, plans, packed weights, and the public face of the engine.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, RwLock};

use super::device::Device;
use super::launch::{Args, Launch};
use super::memory::Buffer;
use super::stream::{Event, Stream};
use crate::plan::gpu::{self, GpuMachine, GpuPlan, GpuProblem, Precision, Rejected};
use crate::plan::{Activation, Algorithm};
use crate::{Chain, ChainPattern, DType, Error, Layout, Result, Scalar};

/// A function that picks a plan.
pub type Planner = dyn Fn(&GpuProblem, &GpuMachine) -> std::result::Result<GpuPlan, Rejected> + Send + Sync;

/// Who picks the plan of each factor.
#[derive(Clone, Default)]
pub enum Plans {
    /// The planner: the least estimated time.
    #[default]
    Best,
    /// The planner within one kernel family, by its name; an error where the family has no legal tile.
    Family(String),
    /// This function.
    Custom(Arc<Planner>),
}

impl Plans {
    fn pick(&self, problem: &GpuProblem, machine: &GpuMachine) -> Result<GpuPlan> {
        let picked = match self {
            Plans::Best => gpu::choose(problem, machine),
            Plans::Family(name) => gpu::family(name, problem, machine),
            Plans::Custom(planner) => planner(problem, machine),
        };
        picked.map_err(|rejected| Error::Unsupported {
            what: format!("multiplying by {} in {} on this GPU", problem.pattern, problem.dtype),
            why: rejected.to_string(),
        })
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plans::Best => f.write_str("Best"),
            Plans::Family(name) => write!(f, "Family({name})"),
            Plans::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// How an [`Operator`] multiplies. Every field has a default.
#[derive(Clone, Debug)]
pub struct Options<T> {
    /// Added to every output vector: one number per row of the chain.
    pub bias: Option<Vec<T>>,
    /// Applied after the bias.
    pub activation: Activation,
    /// [`Algorithm::Auto`] or [`Algorithm::Fused`]: this project's kernels.
    pub algorithm: Algorithm,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Who picks the plans.
    pub plans: Plans,
}

impl<T> Default for Options<T> {
    fn default() -> Self {
        Options {
            bias: None,
            activation: Activation::None,
            algorithm: Algorithm::Auto,
            precision: Precision::Full,
            plans: Plans::Best,
        }
    }
}

/// A chain made ready for multiplication on one GPU; element types `f16`, `bf16`, `f32` and `f64`.
///
/// [`Operator::prepare`] plans, compiles, packs and uploads for one number of vectors and one layout; later calls with the
/// same ones only launch. One operator works for one stream at a time: chains of several factors keep their hidden vectors
/// in memory of the operator.
pub struct Operator<T: Scalar> {
    device: Device,
    chain: Chain<T>,
    bias: Option<Buffer<T>>,
    activation: Activation,
    precision: Precision,
    plans: Plans,
    prepared: RwLock<HashMap<Key, Arc<Prepared<T>>>>,
    shared: Mutex<Shared<T>>,
    /// The stream that [`Operator::apply`] used last, and the end of its work there.
    last: Mutex<Option<(usize, Event)>>,
}

/// What the plans of a multiplication depend on, beside what the operator fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    n: usize,
    layout: Layout,
    aligned: bool,
}

/// One multiplication, ready to be launched.
struct Prepared<T> {
    /// In the order in which they are applied: the right-most factor first.
    steps: Vec<Step<T>>,
    hidden: [Arc<Buffer<T>>; 2],
}

struct Step<T> {
    plan: GpuPlan,
    weights: Arc<Buffer<T>>,
    launch: Launch,
}

/// What prepared multiplications share.
struct Shared<T> {
    /// Packed weights by factor and order.
    weights: HashMap<(usize, String), Arc<Buffer<T>>>,
    /// The largest hidden vectors so far.
    hidden: [Arc<Buffer<T>>; 2],
}

impl<T: Scalar> Operator<T> {
    /// Checks the options and uploads the bias. Plans come with [`Operator::prepare`].
    ///
    /// Errors: a complex element type, an algorithm that the GPU engine does not have, a bias of another length than the
    /// rows, no device memory.
    pub fn new(device: &Device, chain: &Chain<T>, options: Options<T>) -> Result<Operator<T>> {
        let Options { bias, activation, algorithm, precision, plans } = options;
        if T::DTYPE.is_complex() {
            return Err(Error::Unsupported {
                what: format!("multiplying in {} on a GPU", T::DTYPE),
                why: "the GPU engine multiplies f16, bf16, f32 and f64; complex chains run on the CPU".into(),
            });
        }
        if !matches!(algorithm, Algorithm::Auto | Algorithm::Fused) {
            return Err(Error::Unsupported {
                what: format!("the algorithm {algorithm} on a GPU"),
                why: "this operator has auto and fused: its own kernels".into(),
            });
        }
        if let Some(bias) = &bias
            && bias.len() != chain.rows()
        {
            return Err(Error::Length { what: "bias (rows of the chain)", expected: chain.rows(), found: bias.len() });
        }
        let none = Arc::new(Buffer::alloc(device, 0)?);
        Ok(Operator {
            device: device.clone(),
            chain: chain.clone(),
            bias: bias.map(|bias| Buffer::from_slice(device, &bias)).transpose()?,
            activation,
            precision,
            plans,
            prepared: RwLock::default(),
            shared: Mutex::new(Shared { weights: HashMap::new(), hidden: [none.clone(), none] }),
            last: Mutex::new(None),
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
    /// The patterns of the chain.
    pub fn pattern(&self) -> &ChainPattern {
        self.chain.pattern()
    }
    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Plans, compiles, packs, uploads and allocates whatever multiplying `n` vectors in `layout` needs, whether or not
    /// `X` and `Y` will be aligned to 16 bytes. A second call does nothing. Not possible while a stream is captured.
    pub fn prepare(&self, n: usize, layout: Layout) -> Result<()> {
        if n > 0 {
            for aligned in [true, false] {
                self.prepared(Key { n, layout, aligned })?;
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
            if *device != self.device {
                return Err(Error::Mismatch {
                    what: "an operator multiplies on its own GPU",
                    left: format!("{what} on {device:?}"),
                    right: format!("the operator on {:?}", self.device),
                });
            }
        }
        if n == 0 {
            return Ok(());
        }
        if self.chain.factors().len() == 1 {
            // SAFETY: lengths and devices are checked; the driver frees memory only after the work that uses it, and
            // copies of `Buffer` wait for the GPU.
            return unsafe { self.launch(x.pointer(), y.pointer(), n, layout, stream) };
        }
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = stream.raw() as usize;
        if let Some((_, event)) = last.as_ref().filter(|(used, _)| *used != name) {
            stream.wait(event)?;
        }
        // SAFETY: as above; and the hidden vectors are free, since the stream waits for whoever used them last.
        unsafe { self.launch(x.pointer(), y.pointer(), n, layout, stream) }?;
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
        let key = Key { n, layout, aligned: (x | y).is_multiple_of(16) };
        let prepared = self.prepared(key)?;
        self.device.bind()?;
        let end = prepared.steps.len() - 1;
        let mut input = x;
        for (at, step) in prepared.steps.iter().enumerate() {
            let output = if at == end { y } else { prepared.hidden[at % 2].pointer() };
            let bias = self.bias.as_ref().filter(|_| at == end).map_or(0, Buffer::pointer);
            let args = Args { x: input, w: step.weights.pointer(), bias, y: output, n: n as i64 };
            // SAFETY: the context is current; the caller answers for `x`, `y` and the stream; weights, bias and hidden
            // vectors were made for this plan and number of vectors, and are kept by the operator.
            unsafe { step.launch.run(&args, stream.raw()) }?;
            input = output;
        }
        Ok(())
    }

    /// Copies `x` to the GPU, multiplies, and copies the result back: for tests and small work.
    pub fn multiply(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        self.check("X (n · columns of the chain)", self.cols(), n, x.len())?;
        let len = n.saturating_mul(self.rows());
        let (x, mut y) = (Buffer::from_slice(&self.device, x)?, Buffer::alloc(&self.device, len)?);
        self.apply(&x, &mut y, n, layout, &Stream::default(&self.device))?;
        y.to_vec()
    }

    /// What is done for `n` vectors in `layout`, in words: one paragraph per factor, in the order of application.
    pub fn explain(&self, n: usize, layout: Layout) -> Result<String> {
        if n == 0 {
            return Ok("nothing: there are no vectors".into());
        }
        let prepared = self.prepared(Key { n, layout, aligned: true })?;
        let mut text = format!(
            "{} factors, {} {layout}, n = {n}, on {} ({})",
            prepared.steps.len(),
            T::DTYPE,
            self.device.name(),
            self.device.architecture()
        );
        for step in &prepared.steps {
            let plan = &step.plan;
            let _ = write!(
                text,
                "\n{} by {plan}; {} blocks, clusters of {}, {}; estimated {:.2} µs",
                plan.problem().pattern,
                plan.grid(n),
                plan.cluster(),
                step.launch.resources(),
                plan.seconds(self.device.machine()) * 1e6
            );
        }
        Ok(text)
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
        let mut shared = self.shared.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(found) = self.prepared.read().unwrap_or_else(|p| p.into_inner()).get(&key) {
            return Ok(found.clone());
        }
        let made = Arc::new(self.make(key, &mut shared)?);
        self.prepared.write().unwrap_or_else(|p| p.into_inner()).insert(key, made.clone());
        Ok(made)
    }

    fn make(&self, key: Key, shared: &mut Shared<T>) -> Result<Prepared<T>> {
        let Key { n, layout, aligned } = key;
        let factors = self.chain.factors();
        let mut steps = Vec::with_capacity(factors.len());
        for (at, factor) in factors.iter().enumerate().rev() {
            let (first, last) = (at == factors.len() - 1, at == 0);
            let problem = GpuProblem {
                pattern: factor.pattern(),
                dtype: T::DTYPE,
                precision: self.precision,
                layout,
                batch: n,
                // Hidden vectors start where an allocation starts.
                aligned: aligned || !(first || last),
                bias: last && self.bias.is_some(),
                activation: if last { self.activation } else { Activation::None },
            };
            let plan = self.plans.pick(&problem, self.device.machine())?;
            let weights = match shared.weights.get(&(at, plan.packing())) {
                Some(weights) => weights.clone(),
                None => {
                    let weights = Arc::new(Buffer::from_slice(&self.device, &plan.pack(factor.weights())?)?);
                    shared.weights.insert((at, plan.packing()), weights.clone());
                    weights
                }
            };
            let launch = Launch::new(&self.device, &plan, n)?;
            steps.push(Step { plan, weights, launch });
        }
        // Step k writes hidden vector k mod 2.
        for (slot, hidden) in shared.hidden.iter_mut().enumerate() {
            let writers = factors.iter().rev().take(factors.len() - 1).skip(slot).step_by(2);
            let features = writers.map(|factor| factor.pattern().rows()).max().unwrap_or(0);
            let len = n.checked_mul(features).ok_or(Error::Length {
                what: "hidden vectors (n · rows of a factor)",
                expected: usize::MAX,
                found: n,
            })?;
            // A larger one replaces it for later calls; earlier ones keep theirs, which graphs may name.
            if hidden.len() < len {
                *hidden = Arc::new(Buffer::alloc(&self.device, len)?);
            }
        }
        Ok(Prepared { steps, hidden: shared.hidden.clone() })
    }
}

impl<T: Scalar> fmt::Debug for Operator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype: DType = T::DTYPE;
        write!(f, "cuda::Operator({:?}, {dtype}, {:?})", self.pattern().patterns(), self.device)
    }
}
