//! One problem measured on a GPU: every way made ready, then all sampled in turn.

use std::sync::Arc;

use kronsparse::advise::Gpu;
use kronsparse::cuda::inspect::Inspector;
use kronsparse::cuda::timing::{Caches, Flusher};
use kronsparse::cuda::vendor::Session;
use kronsparse::cuda::{Buffer, Device, Operator, Options, Plans, Stream};
use kronsparse::io::{Visit, visit_dtype};
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{ChainPlan, ChainProblem, Rejected};
use kronsparse::tune::{Machine, Measured, Record, Step, Tuning, gpu};
use kronsparse::{Chain, Error, Layout, Result, Scalar};

use super::Row;
use super::row::{failed, filled, same};
use super::thrown_away::Stores;
use super::turns::{copied, in_turn};
use super::ways::{self, By, Way};
use crate::Cache;
use crate::definition::Case;
use crate::gpu::prepare::Target;
use crate::random::Random;

/// Bytes of weights that a library's algorithm may have, as in an engine that is told nothing.
pub(super) const LIBRARY_BYTES: usize = 4 << 30;
/// Operators of each way, sampled in turn: short calls of two operators of the same way were seen to differ by 0.2 µs and more
/// (`record/2026-11-24-h100-tuner`), which says nothing of the way.
const COPIES: usize = 3;
/// Bytes that `X` and `Y` have at least, twice a large page of the GPU's memory: so that no operator's weights share one with them, and
/// another's do not.
const PAGES: usize = 4 << 20;
/// Seconds of calls in a graph, where caches are warm.
const GRAPH: f64 = 100e-6;

/// The GPU, and what all problems share.
pub(super) struct Bench {
    gpu: Gpu,
    device: Device,
    stream: Stream,
    flusher: Flusher,
    /// What results hold for.
    machine: Machine,
    stores: Stores,
    kernels: usize,
    /// Opening a library takes milliseconds.
    _session: Session,
}

impl Bench {
    pub(super) fn open(ordinal: usize, kernels: usize) -> crate::Result<Bench> {
        let gpu = Gpu::open(ordinal)?;
        let device = Device::open(ordinal)?;
        let (stream, flusher, machine) = (Stream::new(&device)?, Flusher::new(&device)?, device.tuning_machine()?);
        let stores = Stores::new()?;
        Ok(Bench { gpu, stream, flusher, machine, stores, kernels, _session: Session::new(&device), device })
    }

    /// A store with one record, by which `best` is done.
    fn store(&self, problem: &ChainProblem, untuned: Vec<Step>, best: Vec<Step>) -> Result<Tuning> {
        let way = |steps, seconds| Measured { steps, seconds, samples: 1 };
        let (untuned, best) = (way(untuned, 1.0), way(best, 1e-6));
        let record = Record::new(self.machine.clone(), problem.clone(), "cold", untuned, best, Vec::new());
        self.stores.with(record)
    }
}

impl super::run::Bench for Bench {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn target(&self) -> Option<Target> {
        Some(Target::of(&self.device))
    }

    fn measure(&mut self, case: &Case, number: usize, seed: u64) -> Result<Vec<Row>> {
        let blank = Row::blank(case, number, seed, self.device.name());
        let rows = visit_dtype(case.kind.dtype, One { bench: self, case, blank: blank.clone(), seed });
        // What is measured on a lost GPU, and why a way failed there, says nothing of the ways.
        self.device.synchronize()?;
        Ok(rows.unwrap_or_else(|error| vec![failed(blank, &error)]))
    }

    fn check(&self) -> Result<()> {
        self.device.synchronize()
    }
}

/// A case as the planner sees it.
pub(super) fn problem(case: &Case) -> ChainProblem {
    let kronsparse::plan::Problem { chain, dtype, batch, layout } = case.problem.clone();
    ChainProblem { precision: case.kind.precision(), ..ChainProblem::new(chain, dtype, layout, batch) }
}

struct One<'a> {
    bench: &'a mut Bench,
    case: &'a Case,
    blank: Row,
    seed: u64,
}

impl Visit for One<'_> {
    type Output = Result<Vec<Row>>;

    fn visit<T: Scalar>(self) -> Result<Vec<Row>> {
        let One { bench, case, blank, seed } = self;
        let problem = problem(case);
        let libraries = bench.gpu.libraries.as_ref().ok().copied();
        let plan = ChainPlan::new(&problem, &bench.gpu.machine, libraries).map_err(|rejected| Error::Unsupported {
            what: format!("multiplying by {} on {}", problem.chain, bench.gpu.name),
            why: rejected.to_string(),
        })?;
        let mut random = Random::new(seed ^ blank.number as u64);
        let scales: Vec<f64> = problem.chain.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
        let chain = Chain::from_fn(&problem.chain, |at, _, _, _, _| random.scalar::<T>(scales[at]));
        let (n, layout) = (problem.batch, problem.layout);
        let array = |features: usize| Buffer::<T>::alloc(&bench.device, (n * features).max(PAGES / size_of::<T>()));
        let (mut x, mut y) = (array(chain.cols())?, array(chain.rows())?);
        Inspector::<T>::new(&bench.device)?.fill(&mut x, random.bits(), &bench.stream)?;
        bench.stream.synchronize()?;
        let caches = if case.cache == Cache::Cold { Caches::Cold } else { Caches::Warm };
        let usual = Options::<T> { precision: problem.precision, tuning: Tuning::Off, ..Options::default() };

        let mut ways = ways::all(&plan, bench.kernels);
        let usually = Operator::new(&bench.device, &chain, usual.clone());
        // What the engine does, rather than what it should do; where it fails, that is the way that fails.
        let untuned = usually.as_ref().ok().and_then(|operator| operator.steps(n, layout).ok());
        let planned = gpu::steps(&plan);
        let untuned = untuned.unwrap_or_else(|| planned.clone());
        if !ways.iter().any(|way| way.steps == untuned) {
            let predicted = (untuned == planned).then(|| plan.seconds());
            ways.push(Way::named(untuned.clone(), predicted, problem.chain.patterns().len()));
        }
        let record = usually.and_then(|operator| operator.tune(n, layout, caches, &x, &mut y));
        let (record, not_tuned) = match record {
            Ok(record) => (record, None),
            Err(error) => (None, Some(error.to_string().replace('\n', " "))),
        };
        let tuned = match &record {
            Some(record) => Some(record.best.steps.clone()),
            None if not_tuned.is_none() => Some(untuned.clone()),
            None => None,
        };
        if let Some(steps) = tuned.as_ref().filter(|steps| !ways.iter().any(|way| way.steps == **steps)) {
            ways.push(Way::named(steps.clone(), None, problem.chain.patterns().len()));
        }
        let ready = |way: &Way| {
            let operator = operator(bench, &chain, way, &untuned, &problem, &usual)?;
            // An operator that cannot do what it is asked for may go on by estimate.
            same(&operator.steps(n, layout)?, way).map_err(|error| match operator.explain(n, layout) {
                Ok(text) if text.contains("not as ") => Error::Unsupported { what: error.to_string(), why: text },
                _ => error,
            })?;
            Ok(operator)
        };
        let operators: Vec<Result<Vec<Operator<T>>>> =
            ways.iter().map(|way| (0..COPIES).map(|_| ready(way)).collect()).collect();
        let judged = |at: usize| {
            let way = &ways[at];
            way.dense || way.steps == untuned || tuned.as_ref() == Some(&way.steps)
        };
        let mut calls = vec![0; ways.len()];
        let all = in_turn(ways.len(), judged, |at| {
            let operator = &operators[at].as_ref().map_err(copied)?[calls[at] % COPIES];
            calls[at] += 1;
            sample(bench, operator, (&x, &mut y), (n, layout), case.cache)
        });
        let mut rows: Vec<Row> = Vec::new();
        for (way, samples) in ways.iter().zip(all) {
            let mut row = filled(&blank, way, samples);
            row.untuned = way.steps == untuned;
            row.tuned = tuned.as_ref() == Some(&way.steps);
            if let Some(record) = &record {
                row.set_tuned(record, &way.steps);
            }
            rows.push(row);
        }
        if let Some(reason) = not_tuned {
            rows.push(Row { way: "tuned".into(), tuned: true, reason, ..blank });
        }
        let count = rows.len();
        rows.iter_mut().for_each(|row| row.rows = count);
        Ok(rows)
    }
}

/// An operator that multiplies in this way.
fn operator<T: Scalar>(
    bench: &Bench,
    chain: &Chain<T>,
    way: &Way,
    untuned: &[Step],
    problem: &ChainProblem,
    usual: &Options<T>,
) -> Result<Operator<T>> {
    let other = || Rejected::Rule("another way is measured".into());
    let options = match way.by.clone() {
        By::Kernels(plans) => {
            let pick =
                move |problem: &_, _: &_| plans.iter().find(|p| p.problem() == problem).cloned().ok_or_else(other);
            Options { algorithm: Algorithm::Fused, plans: Plans::Custom(Arc::new(pick)), ..usual.clone() }
        }
        By::Fused(plan) => {
            let pick = move |problem: &_, _: &_| (plan.problem() == problem).then(|| (*plan).clone()).ok_or_else(other);
            Options { algorithm: Algorithm::Fused, plans: Plans::Fused(Arc::new(pick)), ..usual.clone() }
        }
        By::Library(algorithm) => Options { algorithm, ..usual.clone() },
        By::Stored if way.steps == untuned => usual.clone(),
        By::Stored => Options { tuning: bench.store(problem, untuned.to_vec(), way.steps.clone())?, ..usual.clone() },
    };
    Operator::new(&bench.device, chain, options)
}

/// Seconds of one call. With cold caches it is the second one: the multiprocessors hold its instructions, whatever was sampled before.
fn sample<T: Scalar>(
    bench: &mut Bench,
    operator: &Operator<T>,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    problem: (usize, Layout),
    cache: Cache,
) -> Result<f64> {
    let Bench { stream, flusher, .. } = bench;
    let once = operator.cold_seconds((x, y), problem, stream, flusher, 2)?[1];
    if cache == Cache::Cold {
        return Ok(once);
    }
    let calls = ((GRAPH / once.max(1e-6)) as usize).clamp(1, 50);
    operator.warm_seconds((x, y), problem, stream, calls, 1).map(|samples| samples[0])
}
