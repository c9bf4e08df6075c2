//! The engine-independent harness: reads cases, draws inputs, asks an engine, judges the result against the oracle.
//!
//! An engine is anything that implements [`Engine`]; the harness knows nothing else of it. Each run of one case in one
//! element type, layout, batch and engine ends in one of three [`Outcome`]s, and [`Report::assert`] lets a test pass only
//! when nothing failed, something ran, and whatever is unsupported stands on the test's own list.

// Every test binary compiles this module and uses a part of it.
#![allow(dead_code)]

pub(crate) mod case;
pub(crate) mod engine;
pub(crate) mod inputs;
pub(crate) mod judge;
pub(crate) mod mutant;
pub(crate) mod report;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::scalar::Wide;
use kronsparse::{Activation, DType, Layout, Scalar, reference};
use num_complex::{Complex32, Complex64};

pub(crate) use case::Case;
pub(crate) use engine::{Engine, Job, Ready};
use inputs::Draw;
pub(crate) use report::{Outcome, Record, Report};

/// Says for which runs an engine may refuse, and why; `None` where it must deliver.
pub(crate) type Refusals = dyn Fn(&Case, DType, &str) -> Option<&'static str> + Sync;

/// Runs every case × dtype × layout × batch through every engine, on as many threads as the machine has.
///
/// `seed` fixes all random numbers: each case and dtype has its own stream, so leaving cases out changes no other.
pub(crate) fn run<E: Engine>(cases: &[Case], engines: &[E], refusals: &Refusals, seed: u64) -> Report {
    let units: Vec<(&Case, DType)> =
        cases.iter().flat_map(|case| case.dtypes.iter().map(move |&dtype| (case, dtype))).collect();
    let (next, records) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(case, dtype)) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = match dtype {
                        DType::F16 => unit::<f16, E>(case, engines, refusals, seed),
                        DType::Bf16 => unit::<bf16, E>(case, engines, refusals, seed),
                        DType::F32 => unit::<f32, E>(case, engines, refusals, seed),
                        DType::F64 => unit::<f64, E>(case, engines, refusals, seed),
                        DType::C64 => unit::<Complex32, E>(case, engines, refusals, seed),
                        DType::C128 => unit::<Complex64, E>(case, engines, refusals, seed),
                    };
                    records.lock().expect("no thread panics with the lock").extend(done);
                }
            });
        }
    });
    Report { seed, records: records.into_inner().expect("no thread panics with the lock") }
}

/// The random stream of one case and dtype.
pub(crate) fn stream(seed: u64, name: &str, dtype: DType) -> Rng {
    // FNV-1a over the name: stable between runs and compilers, unlike the standard hasher.
    let bytes = name.bytes().chain(dtype.name().bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    Rng::with_seed(seed ^ hash)
}

/// One case in one dtype: the weights are drawn once for all batches that suit the same [`inputs::Draw`], and each engine
/// packs them once for these batches and both layouts.
fn unit<T: Scalar, E: Engine>(case: &Case, engines: &[E], refusals: &Refusals, seed: u64) -> Vec<Record> {
    let mut rng = stream(seed, &case.name, T::DTYPE);
    let mut records = Vec::new();
    for draw in [Draw::Aligned, Draw::Symmetric] {
        let batches: Vec<usize> = case.batch.iter().copied().filter(|&n| Draw::of(&case.chain, n) == draw).collect();
        if batches.is_empty() {
            continue;
        }
        let weights = inputs::Weights::<T>::draw(&case.chain, case.bias, draw, &mut rng);
        let job = Job { chain: &weights.chain, bias: weights.bias.as_deref(), activation: case.activation };
        let mut problems: Vec<Problem<T>> = Vec::new();
        for n in batches {
            for &layout in &case.layouts {
                let x = weights.draw_input(n, layout, &mut rng);
                problems.push(Problem::new(job, x, n, layout));
            }
        }
        for engine in engines {
            let name = engine.name();
            let refusal = refusals(case, T::DTYPE, &name);
            let mut ready = judge::guarded(|| engine.prepare(job));
            for problem in &problems {
                let outcome = match &mut ready {
                    Ok(ready) => judge::one(ready.as_mut(), problem, engine.slack::<T>(&case.chain)),
                    Err(refused) => refused.clone(),
                };
                records.push(Record {
                    case: case.name.clone(),
                    dtype: T::DTYPE,
                    layout: problem.layout,
                    batch: problem.n,
                    engine: name.clone(),
                    outcome: outcome.against(refusal),
                });
            }
        }
    }
    records
}

/// One multiplication with the oracle's answer.
pub(crate) struct Problem<T: Scalar> {
    /// Number of vectors.
    pub(crate) n: usize,
    /// Order of `x` and of the result.
    pub(crate) layout: Layout,
    /// The input, `n · cols` elements.
    pub(crate) x: Vec<T>,
    /// The oracle's unrounded result, `n · rows` elements.
    pub(crate) expected: Vec<T::Wide>,
    /// The largest relative error that an engine may show.
    pub(crate) tolerance: f64,
}

impl<T: Scalar> Problem<T> {
    /// Asks the oracle. The tolerance is [`DType::tolerance`]; where a bias or an activation makes the result smaller
    /// than the product before it, the product's rounding errors stay, so it grows by `(‖W x‖ + ‖bias‖) / ‖result‖`.
    pub(crate) fn new(job: Job<T>, x: Vec<T>, n: usize, layout: Layout) -> Problem<T> {
        let pattern = job.chain.pattern();
        let expected = reference::multiply(job.chain, job.bias, job.activation, &x, n, layout);
        let mut tolerance = T::DTYPE.tolerance(pattern.longest_sum(), pattern.patterns().len());
        if job.bias.is_some() || job.activation != Activation::None {
            let product = norm(reference::multiply(job.chain, None, Activation::None, &x, n, layout));
            let bias = norm(job.bias.unwrap_or_default().iter().map(|b| b.widen())) * (n as f64).sqrt();
            let result = norm(expected.iter().copied());
            if result > 0.0 {
                tolerance *= ((product + bias) / result).max(1.0);
            }
        }
        Problem { n, layout, x, expected, tolerance }
    }
}

fn norm<W: Wide>(values: impl IntoIterator<Item = W>) -> f64 {
    values.into_iter().map(Wide::abs2).sum::<f64>().sqrt()
}
