//! A step of a prepared multiplication: the launch of a kernel, or calls of a library, and how it came to be picked.

use std::fmt;
use std::sync::Arc;

use super::launch::{Args, Launch};
use super::memory::Buffer;
use super::operator::Operator;
use super::prepared::{Key, Shared};
use super::stream::Stream;
use super::vendor::{self, Trial, Vendor};
use super::wide::Wide;
use crate::plan::gpu::{ChainProblem, Choice, Cut, GpuPlan, GpuProblem, KernelPlan, Ranked};
use crate::plan::{Algorithm, Layout};
use crate::{Chain, Error, Result, Scalar};

/// What is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One factor, by its place in the chain.
    Factor(usize),
    /// The product of all.
    Whole,
}

/// Device addresses of what a multiplication reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) x: u64,
    /// 0 where nothing is added.
    pub(super) residual: u64,
    pub(super) y: u64,
}

impl Ends {
    /// What plans for them depend on.
    pub(super) fn key(self, n: usize, layout: Layout) -> Key {
        let aligned = (self.x | self.residual | self.y).is_multiple_of(16);
        Key { n, layout, aligned, apart: false }
    }
}

/// One of the things that are queued one after the other.
pub(super) struct Step<T> {
    /// The pattern or the chain.
    pub(super) what: String,
    /// The factors.
    pub(super) cut: Cut,
    pub(super) way: Way<T>,
    /// Estimates or measurements, of this way and of the others.
    pub(super) why: String,
}

/// A way of multiplying, ready to be queued.
pub(super) enum Way<T> {
    Kernel {
        plan: Box<dyn KernelPlan>,
        weights: Arc<Buffer<T>>,
        launch: Launch,
        blocks: u32,
    },
    Library {
        algorithm: Algorithm,
        vendor: Box<Vendor<T>>,
    },
    /// The whole chain, its hidden vectors in f32.
    Wide(Box<Wide>),
}

impl<T: Scalar> Way<T> {
    /// Whether it has working memory, which two streams must not use at the same time.
    pub(super) fn is_exclusive(&self) -> bool {
        !matches!(self, Way::Kernel { .. })
    }

    /// Queues it.
    ///
    /// # Safety
    ///
    /// The device's context is current and `stream` belongs to it; `x` and `y` are addresses of as many elements as the way was
    /// made for, aligned as it was told, alive until the work is done, `residual` too where the way adds one; `bias` is 0 or that of
    /// one number per row. No other launch of a way with working memory overlaps.
    pub(super) unsafe fn run(&self, ends: Ends, bias: u64, n: usize, stream: &Stream) -> Result<()> {
        let Ends { x, residual, y } = ends;
        match self {
            Way::Kernel { weights, launch, .. } => {
                let args = Args { x, w: weights.pointer(), bias, y, n: n as i64, residual };
                // SAFETY: the caller's word; the weights were packed for this plan and are kept by the way.
                unsafe { launch.run(&args, stream.raw()) }
            }
            // SAFETY: the caller's word. Its bias is its own, and it adds no residual.
            Way::Library { vendor, .. } => unsafe { vendor.launch_raw(x, y, stream.raw()) },
            // SAFETY: the caller's word. Its bias is its own.
            Way::Wide(wide) => unsafe { wide.run(ends, n, stream) },
        }
    }
}

impl<T> fmt::Display for Way<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Kernel { plan, launch, blocks, .. } => {
                let (cluster, resources) = (plan.cluster(), launch.resources());
                write!(f, "{plan}; {blocks} blocks, clusters of {cluster}, {resources}")
            }
            Way::Library { algorithm, vendor } => write!(f, "{algorithm}: {vendor}"),
            Way::Wide(wide) => wide.fmt(f),
        }
    }
}

impl<T: Scalar> Operator<T> {
    /// A part as the planner sees it.
    pub(super) fn problem(&self, part: Part, key: Key) -> Result<GpuProblem> {
        match part {
            Part::Factor(at) => Ok(self.chain_problem(key).factor(at)),
            Part::Whole => self.chain_problem(key).whole(),
        }
    }

    /// The whole multiplication as the planner sees it.
    pub(super) fn chain_problem(&self, key: Key) -> ChainProblem {
        let Key { n, layout, aligned, apart } = key;
        let problem = ChainProblem {
            chain: self.chain.pattern().clone(),
            dtype: T::DTYPE,
            precision: self.precision,
            layout,
            batch: n,
            aligned,
            bias: self.bias.is_some(),
            activation: self.activation,
            join: self.join,
        };
        if apart { problem.before_join() } else { problem }
    }

    /// A step that multiplies by a part.
    pub(super) fn step(&self, part: Part, way: Way<T>, why: String) -> Step<T> {
        Step { what: self.name(part), cut: self.cut(part), way, why }
    }

    /// The factors of a part.
    pub(super) fn cut(&self, part: Part) -> Cut {
        match part {
            Part::Factor(at) => Cut { at, count: 1 },
            Part::Whole => Cut { at: 0, count: self.chain.factors().len() },
        }
    }

    /// How a part is called.
    pub(super) fn name(&self, part: Part) -> String {
        match part {
            Part::Factor(at) => self.chain.factors()[at].pattern().to_string(),
            Part::Whole => self.pattern().to_string(),
        }
    }

    /// A ranked way of a part. Those of a library are tried at `trial`, or in arrays that are allocated for it.
    ///
    /// # Safety
    ///
    /// `trial` has addresses of as many elements as the part takes and gives, which nobody else uses meanwhile.
    pub(super) unsafe fn way(
        &self,
        part: Part,
        ranked: &Ranked,
        key: Key,
        trial: Option<Trial<'_>>,
        shared: &mut Shared<T>,
    ) -> Result<Way<T>> {
        match (&ranked.choice, part) {
            (Choice::Kernel(plan), Part::Factor(at)) => self.kernel(at, plan.as_ref().clone(), key, shared),
            (Choice::Kernel(plan), Part::Whole) => Err(Error::Unsupported {
                what: format!("a whole chain by {plan}"),
                why: "kernels multiply by one factor".into(),
            }),
            // SAFETY: the caller's word.
            (Choice::Library(algorithm), part) => unsafe { self.library(part, *algorithm, key, trial) },
        }
    }

    /// A kernel for one factor.
    pub(super) fn kernel(&self, at: usize, plan: GpuPlan, key: Key, shared: &mut Shared<T>) -> Result<Way<T>> {
        // First, so that nothing is uploaded for a kernel that does not compile.
        let launch = Launch::new(&self.device, &plan, key.n)?;
        let weights = match shared.weights.get(&(at, plan.packing())) {
            Some(weights) => weights.clone(),
            None => {
                let packed = plan.pack(self.chain.factors()[at].weights())?;
                let weights = Arc::new(Buffer::from_slice(&self.device, &packed)?);
                shared.weights.insert((at, plan.packing()), weights.clone());
                weights
            }
        };
        let blocks = plan.grid(key.n);
        Ok(Way::Kernel { plan: Box::new(plan), weights, launch, blocks })
    }

    /// A library's algorithm for a part. It is run here at least once where memory allows it: a library loads its kernels when
    /// they are first used, which a captured launch could not.
    ///
    /// # Safety
    ///
    /// As for [`Operator::way`].
    pub(super) unsafe fn library(
        &self,
        part: Part,
        algorithm: Algorithm,
        key: Key,
        trial: Option<Trial<'_>>,
    ) -> Result<Way<T>> {
        let problem = self.problem(part, key)?;
        let one;
        let chain = match part {
            Part::Whole => &self.chain,
            Part::Factor(at) => {
                one = Chain::from(self.chain.factors()[at].clone());
                &one
            }
        };
        let options = vendor::Options {
            algorithm,
            precision: self.precision,
            batch: key.n,
            layout: key.layout,
            bias: self.bias.as_ref().filter(|_| problem.bias).map(|bias| bias.host.as_slice()),
            activation: problem.activation,
            aligned: problem.aligned,
            memory_limit: self.memory_limit,
        };
        let scratch = match trial {
            Some(_) => None,
            None => self.scratch(chain, key.n).ok(),
        };
        let own = scratch.as_ref().map(|(x, y, stream)| Trial { x: x.pointer(), y: y.pointer(), stream });
        // SAFETY: the caller's word, or arrays that were just allocated.
        let vendor = unsafe { Vendor::prepare_at(&self.device, chain, &options, trial.or(own)) }?;
        if let Some((x, y, stream)) = &scratch {
            // SAFETY: as above; freeing the arrays waits for the GPU.
            unsafe { vendor.launch_raw(x.pointer(), y.pointer(), stream.raw()) }?;
            stream.synchronize()?;
        }
        Ok(Way::Library { algorithm, vendor: Box::new(vendor) })
    }

    /// Arrays and a stream to try a library on.
    fn scratch(&self, chain: &Chain<T>, n: usize) -> Result<(Buffer<T>, Buffer<T>, Stream)> {
        let array = |features: usize| Buffer::alloc(&self.device, n.saturating_mul(features));
        Ok((array(chain.cols())?, array(chain.rows())?, Stream::new(&self.device)?))
    }
}
