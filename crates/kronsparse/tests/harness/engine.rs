//! What the harness asks of an engine, and the CPU engine behind that question.

use kronsparse::cpu::{Isa, Operator, Options, Scratch};
use kronsparse::plan::Algorithm;
use kronsparse::tune::Tuning;
use kronsparse::{Activation, Chain, ChainPattern, Error, Join, Layout, Result, Scalar};

/// What is to be multiplied, before any input is known.
pub(crate) struct Job<'a, T> {
    pub(crate) chain: &'a Chain<T>,
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) activation: Activation,
    pub(crate) join: Join,
}

// By hand, because the derived ones would ask for `T: Copy`.
impl<T> Clone for Job<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Job<'_, T> {}

/// A way of multiplying: a device, an algorithm, a number of threads.
pub(crate) trait Engine: Sync {
    /// Its configuration, for messages.
    fn name(&self) -> String;
    /// By how much its error may exceed the tolerance of the problem, for a reason that it gives.
    fn slack<T: Scalar>(&self, _chain: &ChainPattern) -> f64 {
        1.0
    }
    /// Packs the weights. [`Error::Unsupported`] means that this engine cannot do this job at all.
    fn prepare<'a, T: Scalar>(&'a self, job: Job<'a, T>) -> Result<Box<dyn Ready<T> + 'a>>;
}

/// An engine with packed weights.
pub(crate) trait Ready<T> {
    /// Multiplies `n` vectors of `x` into `y`, both in `layout`, as is `residual`, which is empty but for [`Join::Residual`].
    fn run(&mut self, x: &[T], residual: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()>;
}

/// The library's CPU engine with one algorithm, a limit on threads and one instruction set.
pub(crate) struct Cpu {
    pub(crate) algorithm: Algorithm,
    pub(crate) threads: usize,
    pub(crate) isa: Option<Isa>,
}

impl Cpu {
    /// Every algorithm and the planner's choice on one thread and on two, and ours with every instruction set besides.
    pub(crate) fn all() -> Vec<Cpu> {
        let algorithms = [Algorithm::Auto].into_iter().chain(Algorithm::on_cpu());
        let usual = algorithms.flat_map(|algorithm| [1, 2].map(|threads| Cpu { algorithm, threads, isa: None }));
        let isas = Isa::available().iter().copied().filter(|&isa| isa != Isa::detect());
        usual.chain(isas.map(|isa| Cpu { algorithm: Algorithm::Fused, threads: 1, isa: Some(isa) })).collect()
    }
}

/// Makes sure that two threads are two threads even on a machine with one core.
pub(crate) fn two_threads_at_least() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).max(2);
    // An error means that the pool exists already, made by an earlier test of this binary.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

impl Engine for Cpu {
    fn name(&self) -> String {
        let isa = self.isa.unwrap_or_else(Isa::detect).name();
        format!("{} threads={} {isa}", self.algorithm, self.threads)
    }

    fn prepare<'a, T: Scalar>(&'a self, job: Job<'a, T>) -> Result<Box<dyn Ready<T> + 'a>> {
        let options = Options {
            tuning: Tuning::Off,
            bias: job.bias.map(<[T]>::to_vec),
            activation: job.activation,
            join: job.join,
            algorithm: self.algorithm,
            threads: self.threads,
            isa: self.isa,
        };
        let operator = Operator::new(job.chain, options)?;
        let (rows, cols) = (operator.rows(), operator.cols());
        if (rows, cols) != (job.join.outputs(job.chain.rows())?, job.chain.cols()) {
            return Err(Error::Numerical { what: "operator".into(), why: format!("says it is {rows} × {cols}") });
        }
        Ok(Box::new(WithScratch { operator, join: job.join, scratch: Scratch::default() }))
    }
}

/// An operator whose scratch is used again and again, so it holds whatever the last batch left in it.
struct WithScratch<T: Scalar> {
    operator: Operator<T>,
    join: Join,
    scratch: Scratch,
}

impl<T: Scalar> Ready<T> for WithScratch<T> {
    fn run(&mut self, x: &[T], residual: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        match self.join {
            Join::Residual => self.operator.apply_residual_with(x, residual, y, n, layout, &mut self.scratch),
            Join::None | Join::Gate => self.operator.apply_with(x, y, n, layout, &mut self.scratch),
        }
    }
}
