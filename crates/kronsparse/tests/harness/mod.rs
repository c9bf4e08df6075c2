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
use kronsparse::{Activation, DType, Join, Layout, Scalar, reference};
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
        let (activation, join) = (case.activation, case.join);
        let job = Job { chain: &weights.chain, bias: weights.bias.as_deref(), activation, join };
        let mut problems: Vec<Problem<T>> = Vec::new();
        for n in batches {
            for &layout in &case.layouts {
                let x = weights.draw_input(n, layout, &mut rng);
                problems.push(Problem::drawn(job, x, n, layout, &mut rng));
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
    /// What is added to the result, of its size; empty where nothing is.
    pub(crate) residual: Vec<T>,
    /// The oracle's unrounded result, `n · rows` elements.
    pub(crate) expected: Vec<T::Wide>,
    /// The largest relative error that an engine may show.
    pub(crate) tolerance: f64,
}

impl<T: Scalar> Problem<T> {
    /// [`Problem::new`] with a residual where the job wants one, of numbers about as large as the result's.
    pub(crate) fn drawn(job: Job<T>, x: Vec<T>, n: usize, layout: Layout, rng: &mut Rng) -> Problem<T> {
        let count = if job.join == Join::Residual { n * job.chain.rows() } else { 0 };
        let mut number = || 2.0 * rng.f64() - 1.0;
        let residual = (0..count).map(|_| T::narrow(T::Wide::from_parts(number(), 0.0))).collect();
        Problem::new(job, (x, residual), n, layout)
    }

    /// Asks the oracle. The tolerance is [`DType::tolerance`]; where a bias, an activation or a residual makes the result smaller
    /// than the product before it, the product's rounding errors stay, so it grows by `(‖W x‖ + ‖bias‖ + ‖R‖) / ‖result‖`. Of a gate
    /// `f(u)·v` errors of `u` and of `v`, which are as large for all elements, are multiplied by the other: as `f` is no steeper
    /// than 1.13 (GELU), by `(1.13 · rms(u) · ‖v‖ + rms(v) · ‖f(u)‖) / ‖result‖`.
    pub(crate) fn new(job: Job<T>, (x, residual): (Vec<T>, Vec<T>), n: usize, layout: Layout) -> Problem<T> {
        let pattern = job.chain.pattern();
        let Job { chain, bias, activation, join } = job;
        let expected = reference::multiply_joined(chain, bias, activation, join, (&x, &residual), n, layout);
        let mut tolerance = T::DTYPE.tolerance(pattern.longest_sum(), pattern.patterns().len());
        let result = norm(expected.iter().copied());
        let larger = match join {
            Join::Gate => {
                let rows = chain.rows();
                let v = reference::multiply(chain, bias, Activation::None, &x, n, layout);
                let half = |odd: usize| {
                    let places = (0..n).flat_map(move |batch| (odd..rows).step_by(2).map(move |row| (batch, row)));
                    places.map(|(batch, row)| v[layout.index(batch, row, n, rows)].parts().0).collect::<Vec<f64>>()
                };
                let (gates, ups) = (half(0), half(1));
                let size = |numbers: &[f64]| numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
                let activated: Vec<f64> = gates.iter().map(|&x| activation.apply(x)).collect();
                let count = (gates.len().max(1) as f64).sqrt();
                (1.13 * size(&gates) * size(&ups) + size(&ups) * size(&activated)) / count
            }
            _ if bias.is_some() || activation != Activation::None || join == Join::Residual => {
                let product = norm(reference::multiply(chain, None, Activation::None, &x, n, layout));
                let bias = norm(bias.unwrap_or_default().iter().map(|b| b.widen())) * (n as f64).sqrt();
                product + bias + norm(residual.iter().map(|r| r.widen()))
            }
            _ => result,
        };
        if result > 0.0 {
            tolerance *= (larger / result).max(1.0);
        }
        Problem { n, layout, x, residual, expected, tolerance }
    }
}

fn norm<W: Wide>(values: impl IntoIterator<Item = W>) -> f64 {
    values.into_iter().map(Wide::abs2).sum::<f64>().sqrt()
}
