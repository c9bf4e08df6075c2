//! The engine's front: checks, packing, and the choice of the algorithm.

use super::classic::ClassicChain;
use super::element::Element;
use super::fused::{FusedChain, Work};
use super::join;
use super::narrow;
use super::panel::{Epilogue, View};
use super::scratch::Scratch;
use super::simd::Isa;
use super::tuned::{Tuned, step};
use crate::plan::gpu::ChainProblem;
use crate::plan::{Activation, Algorithm, Join, Layout, Problem, Tile};
use crate::tune::{Step, Tuning};
use crate::{Chain, ChainPattern, Error, Result, Scalar};

/// Less work than this per thread, some ten microseconds, is not worth waking one up: floating-point operations, or bytes
/// moved, each of which takes about as long as ten of them.
const WORK_PER_THREAD: f64 = (1 << 20) as f64;
const WORK_PER_BYTE: f64 = 10.0;

/// How an [`Operator`] multiplies. Every field has a default.
#[derive(Clone, Debug)]
pub struct Options<T> {
    /// Added to every output vector: one number per row of the chain.
    pub bias: Option<Vec<T>>,
    /// Applied after the bias. Real element types only, but for [`Activation::None`].
    pub activation: Activation,
    /// What the activated outputs are joined with, in a pass over them. Real element types only, but for [`Join::None`].
    pub join: Join,
    /// Which algorithm. [`Algorithm::Auto`]: what was the fastest when it was measured, or [`Algorithm::Fused`].
    pub algorithm: Algorithm,
    /// How many threads at most; 0 means all of rayon's current pool.
    pub threads: usize,
    /// Which instruction set; `None` means the widest that this machine has.
    pub isa: Option<Isa>,
    /// Where [`Algorithm::Auto`] looks for what was measured.
    pub tuning: Tuning,
}

impl<T> Default for Options<T> {
    fn default() -> Self {
        let (activation, join, algorithm) = (Activation::None, Join::None, Algorithm::Auto);
        Options { bias: None, activation, join, algorithm, threads: 0, isa: None, tuning: Tuning::OfUser }
    }
}

/// A chain made ready for multiplication on this machine's CPU.
///
/// ```
/// use kronsparse::{Activation, Chain, ChainPattern, Layout, cpu};
/// let pattern = ChainPattern::monarch(64, 32, 8, 4)?;
/// let chain = Chain::from_fn(&pattern, |_, i, o, l, j| ((i + o * 3 + l * 5 + j) % 7) as f32 - 3.0);
/// let options = cpu::Options { activation: Activation::Relu, threads: 1, ..Default::default() };
/// let operator = cpu::Operator::new(&chain, options)?;
/// let x = vec![0.5; 10 * 32];
/// let y = operator.multiply(&x, 10, Layout::BatchFirst)?;
/// assert_eq!(y.len(), 10 * 64);
/// # Ok::<(), kronsparse::Error>(())
/// ```
#[derive(Debug)]
pub struct Operator<T: Element> {
    pattern: ChainPattern,
    engine: Engine<T>,
    /// Other engines for numbers of vectors with which they were measured to be faster.
    tuned: Tuned<Engine<T>>,
    /// What [`Operator::engine`] is.
    algorithm: Algorithm,
    /// What follows the engine's activation: the join, the activation of a gate.
    join: (Join, Activation),
    outputs: usize,
    isa: Isa,
    threads: usize,
}

#[derive(Debug)]
enum Engine<T: Element> {
    Fused(FusedChain<T::Real>),
    Classic(ClassicChain<T::Compute>),
}

impl<T: Scalar> Engine<T> {
    fn new(
        chain: &Chain<T>,
        bias: Option<&[T]>,
        activation: Activation,
        algorithm: Algorithm,
        isa: Isa,
    ) -> Result<Engine<T>> {
        Ok(match algorithm {
            Algorithm::Auto | Algorithm::Fused => {
                let bias = bias.map(|bias| bias.iter().map(|b| b.planes()).collect());
                Engine::Fused(FusedChain::new(chain, Epilogue { bias, activation }, isa))
            }
            other => {
                let bias = bias.map(|bias| bias.iter().map(|b| b.widen_compute()).collect());
                Engine::Classic(ClassicChain::new(chain, bias, activation, other)?)
            }
        })
    }
}

impl<T: Scalar> Operator<T> {
    /// Checks the options and packs the weights.
    ///
    /// Errors: a bias of another length than the rows, a gate where these do not come in twos, an activation or a join on complex numbers, an instruction set that this
    /// machine lacks, a comparison algorithm whose copy of the weights would exceed 4 GiB, one that only a GPU has, or a file that
    /// `KRONSPARSE_TUNING` names and that cannot be read.
    ///
    /// [`Algorithm::Auto`] looks here for what was measured; every other algorithm that was the fastest for some number of vectors
    /// gets its own copy of the weights.
    pub fn new(chain: &Chain<T>, options: Options<T>) -> Result<Operator<T>> {
        let Options { bias, activation, join, algorithm, threads, isa, tuning } = options;
        let outputs = join.outputs(chain.rows())?;
        if let Some(bias) = &bias
            && bias.len() != chain.rows()
        {
            return Err(Error::Length { what: "bias (rows of the chain)", expected: chain.rows(), found: bias.len() });
        }
        if T::DTYPE.is_complex() && activation != Activation::None {
            return Err(Error::Unsupported {
                what: format!("activation {activation} on {}", T::DTYPE),
                why: "activations are defined for real numbers".into(),
            });
        }
        if T::DTYPE.is_complex() && join != Join::None {
            return Err(Error::Unsupported {
                what: format!("a {join} on {}", T::DTYPE),
                why: "outputs are joined for real numbers".into(),
            });
        }
        // A gate's activation comes after the multiplication.
        let (activation, of_gate) =
            if join == Join::Gate { (Activation::None, activation) } else { (activation, Activation::None) };
        let isa = isa.unwrap_or_else(Isa::detect);
        if !Isa::available().contains(&isa) {
            return Err(Error::Unsupported {
                what: format!("instruction set {}", isa.name()),
                why: format!("this machine has {:?}", Isa::available()),
            });
        }
        if algorithm == Algorithm::Strided {
            return Err(Error::Unsupported {
                what: "algorithm strided on the CPU".into(),
                why: format!(
                    "it is a call of a GPU library; here there are {:?}",
                    Algorithm::on_cpu().map(Algorithm::name)
                ),
            });
        }
        let make = |algorithm| Engine::new(chain, bias.as_deref(), activation, algorithm, isa);
        let engine = make(algorithm)?;
        let mut tuned = Tuned::default();
        if algorithm == Algorithm::Auto {
            let given = if join == Join::Gate { of_gate } else { activation };
            let problem = ChainProblem {
                bias: bias.is_some(),
                activation: given,
                join,
                ..ChainProblem::new(chain.pattern().clone(), T::DTYPE, Layout::BatchFirst, 0)
            };
            let all = if threads == 0 { rayon::current_num_threads() } else { threads };
            tuned = Tuned::new(tuning.find()?, &problem, isa, all, make);
        }
        let algorithm = if algorithm == Algorithm::Auto { Algorithm::Fused } else { algorithm };
        let (pattern, join) = (chain.pattern().clone(), (join, of_gate));
        Ok(Operator { pattern, engine, tuned, algorithm, join, outputs, isa, threads })
    }

    /// Size of an output vector: the rows of the chain, or half as many for [`Join::Gate`].
    pub fn rows(&self) -> usize {
        self.outputs
    }
    /// Size of an input vector.
    pub fn cols(&self) -> usize {
        self.pattern.cols()
    }

    /// Bytes of scratch that [`Operator::apply_with`] needs for a batch of `n`.
    pub fn apply_scratch(&self, n: usize, layout: Layout) -> usize {
        self.gated_bytes(n).saturating_add(self.engine_scratch(n, layout))
    }

    /// Bytes of the outputs before a gate, in whole cache lines.
    fn gated_bytes(&self, n: usize) -> usize {
        match self.join.0 {
            Join::Gate => n.saturating_mul(self.pattern.rows() * size_of::<T>()).div_ceil(64).saturating_mul(64),
            Join::None | Join::Residual => 0,
        }
    }

    /// The engine for `n` vectors, and on how many threads.
    fn way(&self, n: usize, layout: Layout) -> (&Engine<T>, usize) {
        match self.tuned.way(n, layout, self.threads()) {
            Some(choice) => {
                (self.tuned.engine(choice).unwrap_or(&self.engine), choice.threads.unwrap_or_else(|| self.threads()))
            }
            None => (&self.engine, self.threads()),
        }
    }

    fn engine_scratch(&self, n: usize, layout: Layout) -> usize {
        let (engine, threads) = self.way(n, layout);
        match engine {
            Engine::Fused(chain) if Self::is_narrow(n) => narrow::scratch(chain, n) * size_of::<T::Real>(),
            Engine::Fused(chain) => {
                let tile = self.tile(n, layout, threads);
                let work = Work::<T>::items_of(chain, &tile);
                self.workers(work, n, threads) * chain.scratch(&tile).bytes::<T::Real>()
            }
            Engine::Classic(chain) => chain.scratch(n, Self::converts()).saturating_mul(size_of::<T::Compute>()),
        }
    }

    /// `Y = activation(X Wᵀ + bias)` batch-first, `Y = activation(W X + bias)` batch-last, into `y`, joined as [`Options::join`] says.
    ///
    /// `x` has `n · cols` elements, `y` has `n · rows`; every element of `y` is written. `n` may be 0. Nothing is
    /// allocated if `scratch` holds [`Operator::apply_scratch`] bytes and one thread works.
    ///
    /// Errors: arrays of other lengths; [`Join::Residual`], which [`Operator::apply_residual_with`] is for.
    pub fn apply_with(&self, x: &[T], y: &mut [T], n: usize, layout: Layout, scratch: &mut Scratch) -> Result<()> {
        self.apply_joined(x, None, y, n, layout, scratch)
    }

    /// [`Operator::apply_with`] for [`Join::Residual`]: `residual` has `n · rows` elements in `layout`, which are added.
    pub fn apply_residual_with(
        &self,
        x: &[T],
        residual: &[T],
        y: &mut [T],
        n: usize,
        layout: Layout,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.apply_joined(x, Some(residual), y, n, layout, scratch)
    }

    fn apply_joined(
        &self,
        x: &[T],
        residual: Option<&[T]>,
        y: &mut [T],
        n: usize,
        layout: Layout,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let check = |what, features: usize, found| match n.checked_mul(features) {
            Some(expected) if expected == found => Ok(()),
            expected => Err(Error::Length { what, expected: expected.unwrap_or(usize::MAX), found }),
        };
        check("X (n · columns of the chain)", self.cols(), x.len())?;
        check("Y (n · rows of the chain)", self.rows(), y.len())?;
        match (self.join.0, residual) {
            (Join::Residual, Some(residual)) => check("the residual (n · rows)", self.rows(), residual.len())?,
            (Join::Residual, None) => {
                let why = "the operator was made to add one";
                return Err(Error::Unsupported { what: "multiplying without a residual".into(), why: why.into() });
            }
            (_, Some(_)) => {
                let why = "the operator was made without one";
                return Err(Error::Unsupported { what: "multiplying with a residual".into(), why: why.into() });
            }
            (_, None) => {}
        }
        if n == 0 {
            return Ok(());
        }
        let before = self.gated_bytes(n);
        let buffer = scratch.numbers::<T::Real>(before + self.engine_scratch(n, layout));
        let (before, buffer) = buffer.split_at_mut(before / size_of::<T::Real>());
        match (self.join, residual) {
            ((Join::Gate, activation), _) => {
                let v: &mut [T] = &mut bytemuck::cast_slice_mut(before)[..n * self.pattern.rows()];
                self.multiply_into(x, v, n, layout, buffer);
                join::gate(v, y, n, layout, activation, self.threads());
            }
            (_, residual) => {
                self.multiply_into(x, y, n, layout, buffer);
                if let Some(residual) = residual {
                    join::add(y, residual, self.threads());
                }
            }
        }
        Ok(())
    }

    /// The chain with bias and activation: lengths are checked, `n` is at least 1, `buffer` is as large as the engine needs.
    fn multiply_into(&self, x: &[T], y: &mut [T], n: usize, layout: Layout, buffer: &mut [T::Real]) {
        let (rows, cols) = (self.pattern.rows(), self.pattern.cols());
        let (engine, threads) = self.way(n, layout);
        match engine {
            Engine::Fused(chain) if Self::is_narrow(n) => {
                let buffer = &mut buffer[..narrow::scratch(chain, n)];
                let y = View { data: y.as_mut_ptr(), n, features: rows, layout, stream: false };
                narrow::multiply(chain, x, y, threads, buffer);
            }
            Engine::Fused(chain) => {
                let tile = self.tile(n, layout, threads);
                let x = View { data: x.as_ptr().cast_mut(), n, features: cols, layout, stream: false };
                let y = View { data: y.as_mut_ptr(), n, features: rows, layout, stream: tile.stream };
                let work = Work::new(chain, &tile, x, y);
                let workers = self.workers(work.items(), n, threads);
                let bytes = chain.scratch(&tile).bytes::<T::Real>();
                let mut buffers = buffer.chunks_exact_mut((bytes / size_of::<T::Real>()).max(1));
                if workers == 1 {
                    work.run(buffers.next().unwrap_or_default());
                } else {
                    rayon::scope(|scope| {
                        for buffer in buffers.take(workers) {
                            scope.spawn(|_| work.run(buffer));
                        }
                    });
                }
            }
            Engine::Classic(chain) => {
                chain.multiply(x, y, n, layout, threads, bytemuck::cast_slice_mut(buffer));
            }
        }
    }

    /// [`Operator::apply_with`] with scratch of its own.
    pub fn apply(&self, x: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        self.apply_with(x, y, n, layout, &mut Scratch::default())
    }

    /// [`Operator::apply`] into a new vector.
    pub fn multiply(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        let length = n.checked_mul(self.rows()).filter(|_| n.checked_mul(self.cols()) == Some(x.len()));
        let Some(length) = length else {
            let expected = n.saturating_mul(self.cols());
            return Err(Error::Length { what: "X (n · columns of the chain)", expected, found: x.len() });
        };
        let mut y = vec![T::ZERO; length];
        self.apply(x, &mut y, n, layout)?;
        Ok(y)
    }

    /// The algorithm for `n` vectors in `layout`; never [`Algorithm::Auto`].
    pub fn algorithm(&self, n: usize, layout: Layout) -> Algorithm {
        self.tuned.way(n, layout, self.threads()).map_or(self.algorithm, |choice| choice.algorithm)
    }

    /// What is done for `n` vectors in `layout`, as records name it: one step, with its threads where these are fewer than all that rayon has.
    pub fn steps(&self, n: usize, layout: Layout) -> Vec<Step> {
        let (_, threads) = self.way(n, layout);
        let fewer = (threads != rayon::current_num_threads()).then_some(threads);
        vec![step(self.pattern.patterns().len(), self.algorithm(n, layout), fewer)]
    }

    /// How `n` vectors in `layout` are multiplied, in words, with what was measured of it.
    pub fn explain(&self, n: usize, layout: Layout) -> String {
        let ((_, threads), algorithm) = (self.way(n, layout), self.algorithm(n, layout));
        let plural = if threads == 1 { "" } else { "s" };
        format!("{algorithm} on up to {threads} thread{plural}{}", self.tuned.why(n, layout, self.threads()))
    }

    fn tile(&self, batch: usize, layout: Layout, threads: usize) -> Tile {
        let problem = Problem { chain: self.pattern.clone(), dtype: T::DTYPE, batch, layout };
        let machine = super::machine(self.isa, threads);
        Tile::new(&problem, &machine, size_of::<T::Real>(), T::PLANES)
    }

    fn threads(&self) -> usize {
        if self.threads == 0 { rayon::current_num_threads() } else { self.threads }
    }

    /// How many of so many threads share so many items of `n` vectors.
    fn workers(&self, items: usize, n: usize, threads: usize) -> usize {
        let work = self.pattern.flops(n).max(WORK_PER_BYTE * self.pattern.bytes(n, size_of::<T>()));
        threads.min(items).min((work / WORK_PER_THREAD) as usize).max(1)
    }

    fn is_narrow(n: usize) -> bool {
        T::PLANES == 1 && n <= narrow::WIDEST
    }

    fn converts() -> bool {
        std::any::TypeId::of::<T>() != std::any::TypeId::of::<T::Compute>()
    }
}
