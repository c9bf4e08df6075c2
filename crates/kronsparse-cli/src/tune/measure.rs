//! One problem measured on the device at hand, with random weights and inputs.

use anyhow::Result;
use kronsparse::cuda::timing::Caches;
use kronsparse::cuda::{Buffer, Device as Gpu};
use kronsparse::io::{Visit, visit_dtype};
use kronsparse::plan::gpu::ChainProblem;
use kronsparse::tune::{Machine, Record, Tuning};
use kronsparse::{Chain, Error, Scalar, cpu, cuda};
use kronsparse_bench::Cache;
use kronsparse_bench::random::Random;

use super::TuneArgs;

/// So many random numbers are drawn for an input; longer ones repeat them.
const DRAWN: usize = 1 << 20;

/// Where and how problems are measured.
pub(super) struct Bench {
    /// `None` for the CPU.
    gpu: Option<Gpu>,
    machine: Machine,
    threads: usize,
    cache: Cache,
    seconds: f64,
}

impl Bench {
    pub(super) fn open(args: &TuneArgs) -> Result<Bench> {
        let (gpu, machine) = match args.device.ordinal() {
            None => {
                let threads = if args.threads == 0 { rayon::current_num_threads() } else { args.threads };
                (None, Machine::cpu(cpu::Isa::detect(), threads))
            }
            Some(ordinal) => {
                let gpu = Gpu::open(ordinal)?;
                let machine = gpu.tuning_machine()?;
                (Some(gpu), machine)
            }
        };
        Ok(Bench { gpu, machine, threads: args.threads, cache: args.cache, seconds: args.seconds })
    }

    /// What the results hold for.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(super) fn measure(&self, problem: &ChainProblem) -> kronsparse::Result<Record> {
        visit_dtype(problem.dtype, One { bench: self, problem })
    }
}

struct One<'a> {
    bench: &'a Bench,
    problem: &'a ChainProblem,
}

impl Visit for One<'_> {
    type Output = kronsparse::Result<Record>;

    fn visit<T: Scalar>(self) -> kronsparse::Result<Record> {
        let One { bench, problem } = self;
        let ChainProblem { chain, precision, layout, batch, bias, activation, join, .. } = problem;
        let mut random = Random::new(Random::fresh_seed());
        // Weights of variance 1/c keep the size of the numbers from layer to layer, and within reach of f16.
        let scales: Vec<f64> = chain.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
        let bias = bias.then(|| (0..chain.rows()).map(|_| random.scalar::<T>(1.0)).collect());
        let chain = Chain::from_fn(chain, |at, _, _, _, _| random.scalar::<T>(scales[at]));
        let (activation, join, tuning) = (*activation, *join, Tuning::Off);
        let Some(gpu) = &bench.gpu else {
            let options =
                cpu::Options { bias, activation, join, tuning, threads: bench.threads, ..cpu::Options::default() };
            return cpu::tune(&chain, &options, *batch, *layout, bench.cache == Cache::Cold, bench.seconds);
        };
        let options =
            cuda::Options { bias, activation, join, tuning, precision: *precision, ..cuda::Options::default() };
        let operator = cuda::Operator::new(gpu, &chain, options)?;
        let drawn: Vec<T> = (0..DRAWN.min(batch * chain.cols())).map(|_| random.scalar(1.0)).collect();
        let x: Vec<T> = drawn.into_iter().cycle().take(batch * chain.cols()).collect();
        let x = Buffer::from_slice(gpu, &x)?;
        let mut y = Buffer::alloc(gpu, batch * operator.rows())?;
        let caches = if bench.cache == Cache::Cold { Caches::Cold } else { Caches::Warm };
        operator.tune(*batch, *layout, caches, &x, &mut y)?.ok_or_else(|| Error::Unsupported {
            what: format!("tuning {} for {batch} vectors", chain.pattern()),
            why: "there is nothing to be picked".into(),
        })
    }
}
