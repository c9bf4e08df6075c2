//! One problem measured on this machine's CPU: every algorithm, the dense matrix in any case, beside the estimates that `advise` makes.

use std::hint::black_box;

use kronsparse::advise::Calibration;
use kronsparse::advise::cpu::{chain_seconds, dense_seconds};
use kronsparse::cpu::{self, Operator, Options, Scratch};
use kronsparse::io::{Visit, visit_dtype};
use kronsparse::measure::{Evictor, Stopwatch, cpu_name};
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::Cut;
use kronsparse::tune::{Step, Tuning};
use kronsparse::{Chain, Result, Scalar};

use super::Row;
use super::row::{failed, filled, same};
use super::thrown_away::Stores;
use super::turns::{copied, in_turn};
use super::ways::Way;
use crate::Cache;
use crate::definition::Case;
use crate::gpu::prepare::Target;
use crate::random::Random;

/// Sampling time of each way while tuning, in seconds.
const TUNING: f64 = 0.01;
/// A warm sample repeats the call for about so many seconds.
const WARM: f64 = 50e-6;

/// What all problems share.
pub(super) struct Bench {
    calibration: Calibration,
    evictor: Evictor,
    stores: Stores,
}

impl Bench {
    pub(super) fn open() -> crate::Result<Bench> {
        let (calibration, _, _) = Calibration::of_machine(false)?;
        Ok(Bench { calibration, evictor: Evictor::new(), stores: Stores::new()? })
    }
}

impl super::run::Bench for Bench {
    fn name(&self) -> &str {
        cpu_name()
    }

    fn target(&self) -> Option<Target> {
        None
    }

    fn measure(&mut self, case: &Case, number: usize, seed: u64) -> Result<Vec<Row>> {
        let blank = Row::blank(case, number, seed, cpu_name());
        let rows = visit_dtype(case.kind.dtype, One { bench: self, case, blank: blank.clone(), seed });
        Ok(rows.unwrap_or_else(|error| vec![failed(blank, &error)]))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

struct One<'a> {
    bench: &'a mut Bench,
    case: &'a Case,
    blank: Row,
    seed: u64,
}

/// An operator of a way with its memory.
struct Ready<T: Scalar> {
    operator: Operator<T>,
    scratch: Scratch,
    calls: usize,
}

impl Visit for One<'_> {
    type Output = Result<Vec<Row>>;

    fn visit<T: Scalar>(self) -> Result<Vec<Row>> {
        let One { bench, case, blank, seed } = self;
        let (pattern, n, layout) = (&case.problem.chain, case.problem.batch, case.problem.layout);
        let mut random = Random::new(seed ^ blank.number as u64);
        let scales: Vec<f64> = pattern.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
        let chain = Chain::from_fn(pattern, |at, _, _, _, _| random.scalar::<T>(scales[at]));
        let x: Vec<T> = (0..n * chain.cols()).map(|_| random.scalar(1.0)).collect();
        let mut y = vec![T::ZERO; n * chain.rows()];
        let cold = case.cache == Cache::Cold;
        let usual = Options { tuning: Tuning::Off, ..Options::default() };
        let record = cpu::tune(&chain, &usual, n, layout, cold, TUNING)?;
        let (untuned, tuned) = (record.untuned.steps.clone(), record.best.steps.clone());
        let factors = pattern.patterns().len();
        let mut names: Vec<Vec<Step>> = record.measured.iter().map(|measured| measured.steps.clone()).collect();
        let dense = vec![Step::algorithm(Cut { at: 0, count: factors }, Algorithm::Dense)];
        // Tuning leaves it out where the chain has far fewer weights, but whether chain or dense is faster is asked everywhere.
        if !names.contains(&dense) {
            names.push(dense);
        }
        let ways: Vec<Way> = names
            .into_iter()
            .map(|steps| Way::named(steps, None, factors))
            .map(|way| Way { predicted: predicted(&way, case, &bench.calibration), ..way })
            .collect();
        let tuning = bench.stores.with(record.clone())?;
        let ready = |way: &Way| -> Result<Ready<T>> {
            let step = &way.steps[0];
            let threads = step.arguments.strip_prefix("threads=").and_then(|text| text.parse().ok()).unwrap_or(0);
            // What is tuned comes out of the store, as it would for others.
            let options = if way.steps == tuned && way.steps != untuned {
                Options { algorithm: Algorithm::Auto, tuning: tuning.clone(), ..Options::default() }
            } else {
                Options { algorithm: step.name.parse()?, threads, ..usual.clone() }
            };
            let operator = Operator::new(&chain, options)?;
            same(&operator.steps(n, layout), way)?;
            let scratch = Scratch::new(operator.apply_scratch(n, layout));
            Ok(Ready { operator, scratch, calls: 1 })
        };
        let mut all: Vec<Result<Ready<T>>> = ways.iter().map(ready).collect();
        let judged = |at: usize| ways[at].dense || ways[at].steps == untuned || ways[at].steps == tuned;
        let samples = in_turn(ways.len(), judged, |at| {
            let ready = all[at].as_mut().map_err(|error| copied(error))?;
            let Ready { operator, scratch, calls } = ready;
            if cold {
                black_box(bench.evictor.evict());
            } else {
                operator.apply_with(&x, &mut y, n, layout, scratch)?;
            }
            let repeats = if cold { 1 } else { *calls };
            let watch = Stopwatch::start();
            for _ in 0..repeats {
                operator.apply_with(&x, &mut y, n, layout, scratch)?;
            }
            let seconds = watch.seconds() / repeats as f64;
            *calls = (WARM / seconds.max(1e-9)).ceil().clamp(1.0, 1000.0) as usize;
            Ok(seconds)
        });
        let count = ways.len();
        let row = |(way, samples): (&Way, _)| {
            let mut row = filled(&blank, way, samples);
            (row.rows, row.untuned, row.tuned) = (count, way.steps == untuned, way.steps == tuned);
            row.set_tuned(&record, &way.steps);
            row
        };
        Ok(ways.iter().zip(samples).map(row).collect())
    }
}

/// The estimate of an algorithm on all threads, where `advise` has one.
fn predicted(way: &Way, case: &Case, calibration: &Calibration) -> Option<f64> {
    let (problem, step) = (&case.problem, &way.steps[0]);
    let (chain, dtype, n) = (&problem.chain, problem.dtype, problem.batch);
    match step.name.parse().ok()? {
        Algorithm::Fused if step.arguments.is_empty() => Some(chain_seconds(chain, dtype, n, calibration)),
        Algorithm::Dense => Some(dense_seconds(chain.rows(), chain.cols(), dtype, n, calibration)),
        _ => None,
    }
}
