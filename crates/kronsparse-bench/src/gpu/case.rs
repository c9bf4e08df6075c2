//! The cases of one element type on a GPU: shared arrays, then case by case every algorithm prepared, verified, sampled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use kronsparse::cuda::inspect::Inspector;
use kronsparse::cuda::multiplier::{self, Multiplier};
use kronsparse::cuda::vendor::{Part, weight_bytes};
use kronsparse::cuda::{Buffer, Plans, timing};
use kronsparse::measure::Summary;
use kronsparse::plan::{Algorithm, Problem};
use kronsparse::{Chain, Scalar};

use super::oracle::{Oracle, Tools};
use super::{Bench, FEWEST};
use crate::Result;
use crate::case::{fill, guarded};
use crate::definition::{Cache, Case};
use crate::format::{bytes, seconds};
use crate::random::Random;
use crate::record::{Row, Status};
use crate::run::{Event, Observer};

/// Most samples of an algorithm, however fast.
const MOST: usize = 200;

/// A warm sample replays a graph of so many calls that it lasts about this long, in seconds.
const WARM_SAMPLE: f64 = 200e-6;

/// Share of the free memory that input and output may take: algorithms need as much again between their steps.
const SHARE: f64 = 0.45;

/// Cases of a type that no GPU multiplies.
pub(super) fn refused(
    cases: &[(usize, &Case)],
    total: usize,
    bench: &mut Bench<'_>,
    observe: Observer<'_>,
) -> Result<()> {
    for &(index, case) in cases {
        let reason = format!("the CUDA engine multiplies f16, bf16, f32 and f64, not {}", case.kind);
        skip(case, index, total, &reason, bench, observe)?;
    }
    Ok(())
}

/// Rows that say why a case was skipped.
fn skip(
    case: &Case,
    index: usize,
    total: usize,
    reason: &str,
    bench: &mut Bench<'_>,
    observe: Observer<'_>,
) -> Result<()> {
    observe(Event::Case { index, total, case });
    let rows: Vec<Row> =
        bench.missing(case).into_iter().map(|a| Row { reason: reason.into(), ..bench.blank(case, a) }).collect();
    observe(Event::Done { rows: &rows });
    bench.keep(rows)
}

/// Input, output and tools that all cases of an element type use.
struct Arrays<T: Scalar> {
    x: Buffer<T>,
    y: Buffer<T>,
    inspector: Inspector<T>,
    /// `u_n` by number of vectors.
    mixes: HashMap<usize, Buffer<f64>>,
}

/// Measures the cases of element type `T`.
pub(super) fn group<T: Scalar<Wide = f64>>(
    cases: &[(usize, &Case)],
    total: usize,
    bench: &mut Bench<'_>,
    observe: Observer<'_>,
) -> Result<()> {
    let free = bench.device.free_memory()? as f64;
    let sizes = |case: &Case| {
        let Problem { chain, batch, .. } = &case.problem;
        (batch * chain.cols(), batch * chain.rows())
    };
    let need = |case: &Case| {
        let (x, y) = sizes(case);
        (x as f64 + y as f64) * size_of::<T>() as f64
    };
    let fits = |case: &Case| need(case) <= SHARE * free;
    let open = cases.iter().filter(|(_, case)| fits(case) && !bench.missing(case).is_empty());
    let largest = open.map(|(_, case)| sizes(case)).fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    let mut arrays = if largest == (0, 0) {
        None
    } else {
        let inspector = Inspector::<T>::new(bench.device)?;
        let mut x = Buffer::alloc(bench.device, largest.0)?;
        inspector.fill(&mut x, bench.seed, bench.stream)?;
        Some(Arrays { x, y: Buffer::alloc(bench.device, largest.1)?, inspector, mixes: HashMap::new() })
    };
    for &(index, case) in cases {
        if bench.is_over() {
            break;
        }
        if !fits(case) {
            let reason =
                format!("input and output need {}, {} of device memory are free", bytes(need(case)), bytes(free));
            skip(case, index, total, &reason, bench, observe)?;
            continue;
        }
        observe(Event::Case { index, total, case });
        let missing = bench.missing(case);
        let rows = match &mut arrays {
            Some(arrays) if !missing.is_empty() => one(case, &missing, arrays, bench, observe)?,
            _ => Vec::new(),
        };
        observe(Event::Done { rows: &rows });
        bench.keep(rows)?;
        // An error here has no row to stand in: the GPU is lost, and so is everything that would follow.
        bench.device.synchronize()?;
    }
    Ok(())
}

/// Measures some algorithms on one case.
fn one<T: Scalar<Wide = f64>>(
    case: &Case,
    algorithms: &[Algorithm],
    arrays: &mut Arrays<T>,
    bench: &mut Bench<'_>,
    observe: Observer<'_>,
) -> Result<Vec<Row>> {
    let Problem { chain: ref pattern, batch: n, layout, .. } = case.problem;
    let mut random = Random::new(bench.seed);
    let scales: Vec<f64> = pattern.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
    let chain = Chain::from_fn(pattern, |at, _, _, _, _| random.scalar::<T>(scales[at]));
    let Arrays { x, y, inspector, mixes } = arrays;
    let mix = match mixes.entry(n) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let mix: Vec<f64> = (0..n).map(|_| random.symmetric()).collect();
            place.insert(Buffer::from_slice(bench.device, &mix)?)
        }
    };
    let tools = Tools { inspector, stream: bench.stream, mix };
    let tolerance = case.kind.tolerance_on_gpu(pattern.longest_sum(), pattern.patterns().len());
    let oracle = Oracle::new(&chain, x, layout, tolerance, random.bits(), &tools)?;
    let mut rows = Vec::new();
    let mut best = f64::INFINITY;
    for &algorithm in algorithms {
        observe(Event::Verify(algorithm));
        let mut row = bench.blank(case, algorithm);
        row.checked_vectors = oracle.vectors();
        let measured = hopeless(case, algorithm, bench)
            .and_then(|()| measure(case, &chain, &oracle, &tools, (&*x, &mut *y), best, bench, &mut row));
        if let Err((status, reason)) = measured {
            (row.status, row.reason) = (status, reason.replace('\n', " "));
        }
        best = best.min(row.median_s.unwrap_or(f64::INFINITY));
        rows.push(row);
        if let Err(error) = bench.device.synchronize() {
            // The row that lost the GPU is kept, so that a resumed run goes on behind it.
            bench.keep(rows)?;
            return Err(error.into());
        }
    }
    Ok(rows)
}

type Outcome<V> = std::result::Result<V, (Status, String)>;

/// Skips what needs too much memory, or too much time even at the GPU's peak.
fn hopeless(case: &Case, algorithm: Algorithm, bench: &Bench<'_>) -> Outcome<()> {
    let Problem { chain, batch, .. } = &case.problem;
    let (need, limit) = (weight_bytes(chain, case.kind.dtype, algorithm), bench.options.memory_limit as f64);
    if need > limit {
        return Err((Status::Skipped, format!("the weights need {}, the limit is {}", bytes(need), bytes(limit))));
    }
    let ceiling = bench.ceilings.iter().find(|c| c.dtype == case.kind);
    if let (Algorithm::Dense, Some(ceiling)) = (algorithm, ceiling) {
        let least = 2.0 * *batch as f64 * chain.rows() as f64 * chain.cols() as f64 / ceiling.flops_per_second;
        if least > bench.options.longest {
            let limit = seconds(bench.options.longest);
            return Err((Status::Skipped, format!("needs {} at the GPU's peak, the limit is {limit}", seconds(least))));
        }
    }
    Ok(())
}

/// Prepares, verifies and samples one algorithm; fills in its row.
#[allow(clippy::too_many_arguments)]
fn measure<T: Scalar<Wide = f64>>(
    case: &Case,
    chain: &Chain<T>,
    oracle: &Oracle<T>,
    tools: &Tools<'_, T>,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    best: f64,
    bench: &mut Bench<'_>,
    row: &mut Row,
) -> Outcome<()> {
    let Problem { batch, layout, .. } = case.problem;
    let (options, stream) = (bench.options, bench.stream);
    let wanted = multiplier::Options {
        algorithm: row.algorithm,
        precision: case.kind.precision(),
        batch,
        layout,
        memory_limit: options.memory_limit,
        plans: Plans::Best,
        caches: match case.cache {
            Cache::Cold => timing::Caches::Cold,
            Cache::Warm => timing::Caches::Warm,
        },
    };
    let multiplier = guarded(|| Multiplier::prepare(stream, chain, &wanted, x, y))?;
    row.plan = multiplier.to_string().replace('\n', " ");
    row.memory_bytes = Some(multiplier.device_bytes() as u64);
    verify(&multiplier, oracle, tools, (x, &mut *y), chain.rows() * batch, row)?;

    let first = guarded(|| timing::cold(stream, &mut bench.flusher, 1, || multiplier.launch(x, y)))?[0];
    let mut samples = vec![first];
    let given_up = first > options.give_up * best;
    if !given_up {
        let count = ((options.budget / first.max(1e-7)) as usize).clamp(FEWEST, MOST);
        samples = guarded(|| match case.cache {
            Cache::Cold => timing::cold(stream, &mut bench.flusher, count, || multiplier.launch(x, y)),
            Cache::Warm => {
                let calls = ((WARM_SAMPLE / first.max(1e-7)) as usize).clamp(1, 100);
                timing::warm(stream, calls, (count / calls).max(FEWEST), || multiplier.launch(x, y))
            }
        })?;
        row.sm_mhz = bench.meter.as_ref().and_then(|meter| meter.state().ok()?.sm_mhz);
    }
    if options.permutation_share && row.algorithm == Algorithm::PermuteBmm {
        row.permutation_share = Some(guarded(|| permutation_share(&multiplier, (x, &mut *y), bench))?);
    }
    if let (Some(seconds), Some(meter), false) = (options.energy, &bench.meter, given_up) {
        let calls = ((WARM_SAMPLE / first.max(1e-7)) as usize).clamp(1, 100);
        let run = || (0..calls).try_for_each(|_| multiplier.launch(x, y));
        row.energy_j = Some(guarded(|| meter.energy_of(stream, calls, seconds, run))?.joules);
        row.idle_w = bench.idle_w;
    }
    // Right once and wrong after many calls (working memory left dirty, a race) must not be praised.
    verify(&multiplier, oracle, tools, (x, y), chain.rows() * batch, row)?;
    if let Some(summary) = Summary::of(&samples) {
        fill(row, &summary);
    }
    if given_up {
        row.reason = format!("given up after one sample, {:.0} times the best of the case", first / best);
    }
    Ok(())
}

/// One call on a poisoned output; the verdict goes into the row.
fn verify<T: Scalar<Wide = f64>>(
    multiplier: &Multiplier<'_, T>,
    oracle: &Oracle<T>,
    tools: &Tools<'_, T>,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    outputs: usize,
    row: &mut Row,
) -> Outcome<()> {
    let verdict = guarded(|| {
        tools.inspector.poison(y, outputs, tools.stream)?;
        multiplier.launch(x, y)?;
        tools.stream.synchronize()?;
        oracle.judge(y, tools)
    })?;
    row.checksum = Some(verdict.checksum);
    row.rel_error = Some(match row.rel_error {
        Some(before) if before > verdict.error => before,
        _ => verdict.error,
    });
    match verdict.wrong {
        None => {
            row.status = Status::Ok;
            Ok(())
        }
        Some(why) => Err((Status::Wrong, why)),
    }
}

/// Median share of the permutations in the time of permute-bmm, parts timed within one cold call.
fn permutation_share<T: Scalar>(
    multiplier: &Multiplier<'_, T>,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    bench: &mut Bench<'_>,
) -> kronsparse::Result<f64> {
    let mut shares = Vec::new();
    for _ in 0..FEWEST {
        let parts = timing::parts(bench.stream, &mut bench.flusher, |mark| {
            Part::ALL.into_iter().try_for_each(|part| {
                multiplier.launch_part(part, x, y)?;
                mark()
            })
        })?;
        shares.push((parts[0] + parts[2]) / parts.iter().sum::<f64>());
    }
    Ok(kronsparse::measure::median(&shares).unwrap_or(f64::NAN))
}
