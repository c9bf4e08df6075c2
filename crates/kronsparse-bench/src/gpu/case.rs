//! The cases of one element type on a GPU: shared arrays, then case by case every algorithm prepared, verified, sampled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use kronsparse::cuda::inspect::Inspector;
use kronsparse::cuda::multiplier::{self, Multiplier};
use kronsparse::cuda::vendor::{Part, weight_bytes};
use kronsparse::cuda::{Buffer, Plans, timing};
use kronsparse::measure::Summary;
use kronsparse::plan::gpu::{GpuMachine, GpuPlan, GpuProblem, libraries};
use kronsparse::plan::{Algorithm, Problem};
use kronsparse::{Chain, Scalar};

use super::inputs::{self, Ahead, Made};
use super::oracle::{Oracle, Tools};
use super::phases::Phases;
use super::{Bench, FEWEST, Hooks, Task};
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

/// Fewest calls of permute-bmm whose parts are timed, where calls are long.
const PARTS: usize = 3;

/// How far a library's time may be above its estimate: the estimates of strided products on an H100 were 0.73 to 1.15 of the times.
const DOUBT: f64 = 1.5;

/// Cases of a type that no GPU multiplies.
pub(super) fn refused(
    tasks: &[Task],
    at: usize,
    total: usize,
    bench: &mut Bench<'_>,
    hooks: &mut Hooks<'_>,
) -> Result<()> {
    for (index, task) in (at..).zip(tasks) {
        let reason = format!("the CUDA engine multiplies f16, bf16, f32 and f64, not {}", task.case.kind);
        skip(task, (index, total), &reason, bench, hooks)?;
    }
    Ok(())
}

/// Rows that say why a case was skipped.
fn skip(
    task: &Task,
    (index, total): (usize, usize),
    reason: &str,
    bench: &mut Bench<'_>,
    hooks: &mut Hooks<'_>,
) -> Result<()> {
    let case = &task.case;
    (hooks.observe)(Event::Case { index, total, case });
    let rows: Vec<Row> =
        bench.missing(task).into_iter().map(|a| Row { reason: reason.into(), ..bench.blank(case, a) }).collect();
    (hooks.observe)(Event::Done { rows: &rows });
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

/// Measures cases of element type `T`, the first of which is number `at` of `total`.
pub(super) fn group<T: Scalar<Wide = f64>>(
    tasks: &[Task],
    at: usize,
    total: usize,
    bench: &mut Bench<'_>,
    hooks: &mut Hooks<'_>,
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
    // What each is to be measured by.
    let open: Vec<Vec<Algorithm>> =
        tasks.iter().map(|task| if fits(&task.case) { bench.missing(task) } else { Vec::new() }).collect();
    let waiting = || tasks.iter().zip(&open).filter(|(_, missing)| !missing.is_empty());
    let largest = waiting().map(|(task, _)| sizes(&task.case)).fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    let mut arrays = if largest == (0, 0) || bench.is_over() {
        None
    } else {
        let inspector = Inspector::<T>::new(bench.device)?;
        let mut x = Buffer::alloc(bench.device, largest.0)?;
        inspector.fill(&mut x, bench.seed, bench.stream)?;
        Some(Arrays { x, y: Buffer::alloc(bench.device, largest.1)?, inspector, mixes: HashMap::new() })
    };
    let (mut random, machine) = (Random::new(bench.seed), bench.device.machine());
    let (seed, cores) = (random.bits(), std::thread::available_parallelism().map_or(1, usize::from));
    let make = |(case, ours): (&Case, bool)| Made::<T>::new(case, seed, ours, machine);
    let waiting = waiting().map(|(task, missing)| (&task.case, missing.contains(&Algorithm::Fused))).collect();
    std::thread::scope(|scope| {
        let mut inputs = Ahead::begin(scope, waiting, cores, &make);
        for ((index, task), open) in (at..).zip(tasks).zip(&open) {
            if bench.is_over() {
                break;
            }
            let case = &task.case;
            if !fits(case) {
                let reason =
                    format!("input and output need {}, {} of device memory are free", bytes(need(case)), bytes(free));
                skip(task, (index, total), &reason, bench, hooks)?;
                continue;
            }
            (hooks.observe)(Event::Case { index, total, case });
            let mut phases = vec![Phases::new(case, None)];
            // A case that stands twice has its rows by the second time, and what was made for it is let go.
            let made = if open.is_empty() { None } else { Some(inputs.next()?) };
            let missing = bench.missing(task);
            let rows = match (&mut arrays, made) {
                (Some(arrays), Some(made)) if !missing.is_empty() => {
                    // The arrays of the group count as inputs of its first case.
                    bench.laps.lap(&mut phases[0].inputs_s);
                    (hooks.ready)(index);
                    bench.laps.lap(&mut phases[0].waiting_s);
                    one((task, made), &missing, arrays, bench, hooks.observe, &mut phases)?
                }
                _ => Vec::new(),
            };
            (hooks.observe)(Event::Done { rows: &rows });
            bench.keep(rows)?;
            // An error here has no row to stand in: the GPU is lost, and so is everything that would follow.
            bench.device.synchronize()?;
            bench.laps.lap(&mut phases[0].ending_s);
            // A case all of whose rows were there took no time, and is counted already.
            if !missing.is_empty() {
                bench.log.append(&phases)?;
            }
        }
        Ok(())
    })
}

/// Measures some algorithms on one case.
fn one<T: Scalar<Wide = f64>>(
    (task, made): (&Task, Made<T>),
    algorithms: &[Algorithm],
    arrays: &mut Arrays<T>,
    bench: &mut Bench<'_>,
    observe: Observer<'_>,
    phases: &mut Vec<Phases>,
) -> Result<Vec<Row>> {
    let case = &task.case;
    let Problem { chain: ref pattern, batch: n, layout, .. } = case.problem;
    // Weights are drawn with the seed itself.
    let mut random = Random::new(bench.seed.wrapping_add(1));
    let Made { chain, planned } = made;
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
    std::thread::scope(|scope| {
        let oracle = Oracle::begin(scope, &chain, x, (layout, tolerance, random.bits()), &tools)?;
        let cell = Cell { task, chain: &chain, oracle: &oracle, tools: &tools, planned: planned.as_ref() };
        let mut rows = Vec::new();
        let mut best = f64::INFINITY;
        bench.laps.lap(&mut phases[0].inputs_s);
        for &algorithm in algorithms {
            observe(Event::Verify(algorithm));
            let mut phase = Phases::new(case, Some(algorithm));
            let row = match shared(task, algorithm, best, bench) {
                Some(row) => row,
                None => {
                    let mut row = bench.blank(case, algorithm);
                    row.checked_vectors = oracle.vectors();
                    let measured = hopeless(task, algorithm, best, bench)
                        .and_then(|()| measure(&cell, (&*x, &mut *y), best, bench, (&mut row, &mut phase)));
                    if let Err((status, reason)) = measured {
                        (row.status, row.reason) = (status, reason.replace('\n', " "));
                    }
                    bench.dense.note(&row);
                    row
                }
            };
            best = best.min(row.median_s.unwrap_or(f64::INFINITY));
            rows.push(row);
            let alive = bench.device.synchronize();
            bench.laps.lap(&mut phase.ending_s);
            phases.push(phase);
            if let Err(error) = alive {
                // The row that lost the GPU is kept, so that a resumed run goes on behind it.
                bench.keep(rows)?;
                return Err(error.into());
            }
        }
        Ok(rows)
    })
}

/// A dense product whose time is known of another chain, on cells that are not measured thoroughly.
fn shared(task: &Task, algorithm: Algorithm, best: f64, bench: &mut Bench<'_>) -> Option<Row> {
    if algorithm != Algorithm::Dense || task.thorough {
        return None;
    }
    let blank = bench.blank(&task.case, algorithm);
    bench.dense.take(&blank, best, bench.options.give_up)
}

type Outcome<V> = std::result::Result<V, (Status, String)>;

/// Skips what needs too much memory, or too much time even at the GPU's peak; and on cells that are not measured thoroughly, what
/// another algorithm shows as well.
fn hopeless(task: &Task, algorithm: Algorithm, best: f64, bench: &Bench<'_>) -> Outcome<()> {
    let case = &task.case;
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
    match needless(task, algorithm, best, bench.options.give_up, bench.device.machine()) {
        Some(reason) if !task.thorough => Err((Status::Skipped, reason)),
        _ => Ok(()),
    }
}

/// Why a strided product of one pattern need not be measured: permute-bmm makes the same calls, or its estimate is far above `best`, the
/// shortest time of the case.
fn needless(task: &Task, algorithm: Algorithm, best: f64, give_up: f64, machine: &GpuMachine) -> Option<String> {
    let Problem { ref chain, dtype, batch, layout } = task.case.problem;
    let ([pattern], Algorithm::Strided) = (chain.patterns(), algorithm) else { return None };
    let precision = task.case.kind.precision();
    let problem = GpuProblem { precision, ..GpuProblem::new(*pattern, dtype, layout, batch) };
    let measured = task.algorithms.contains(&Algorithm::PermuteBmm);
    if measured && libraries::same_as(Algorithm::PermuteBmm, &problem) == Some(algorithm) {
        return Some("makes the same calls as permute-bmm, which is measured".into());
    }
    let estimate = libraries::seconds(algorithm, &problem, machine, usize::MAX)?;
    (estimate > DOUBT * give_up * best)
        .then(|| format!("estimated to take {}, {:.0} times the best of the case", seconds(estimate), estimate / best))
}

/// A case with all that its algorithms share.
struct Cell<'a, 'o, T: Scalar> {
    task: &'a Task,
    chain: &'a Chain<T>,
    oracle: &'a Oracle<'o>,
    tools: &'a Tools<'a, T>,
    planned: Option<&'a GpuPlan>,
}

/// Prepares, verifies and samples one algorithm; fills in its row and its phases.
fn measure<T: Scalar<Wide = f64>>(
    cell: &Cell<'_, '_, T>,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    best: f64,
    bench: &mut Bench<'_>,
    (row, phase): (&mut Row, &mut Phases),
) -> Outcome<()> {
    let (case, outputs) = (&cell.task.case, cell.chain.rows() * cell.task.case.problem.batch);
    let Problem { batch, layout, .. } = case.problem;
    let (options, stream) = (bench.options, bench.stream);
    let wanted = multiplier::Options {
        algorithm: row.algorithm,
        precision: case.kind.precision(),
        batch,
        layout,
        memory_limit: options.memory_limit,
        plans: if row.algorithm == Algorithm::Fused { inputs::plans(cell.planned) } else { Plans::Best },
        caches: match case.cache {
            Cache::Cold => timing::Caches::Cold,
            Cache::Warm => timing::Caches::Warm,
        },
    };
    let multiplier = guarded(|| Multiplier::prepare(stream, cell.chain, &wanted, x, y));
    bench.laps.lap(&mut phase.preparing_s);
    let multiplier = multiplier?;
    row.plan = multiplier.to_string().replace('\n', " ");
    row.memory_bytes = Some(multiplier.device_bytes() as u64);
    verify(&multiplier, cell, (x, &mut *y), outputs, row)?;
    bench.laps.lap(&mut phase.verifying_s);

    let first = guarded(|| timing::cold(stream, &mut bench.flusher, 1, || multiplier.launch(x, y)))?[0];
    bench.laps.lap(&mut phase.warming_s);
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
        bench.laps.lap(&mut phase.sampling_s);
    }
    if options.permutation_share && row.algorithm == Algorithm::PermuteBmm {
        let count = ((options.budget / first.max(1e-7)) as usize).clamp(PARTS, FEWEST);
        row.permutation_share = Some(guarded(|| permutation_share(&multiplier, count, (x, &mut *y), bench))?);
        bench.laps.lap(&mut phase.parts_s);
    }
    let energy = options.energy.filter(|_| cell.task.thorough && !given_up);
    if let (Some(seconds), Some(meter)) = (energy, &bench.meter) {
        let calls = ((WARM_SAMPLE / first.max(1e-7)) as usize).clamp(1, 100);
        let run = || (0..calls).try_for_each(|_| multiplier.launch(x, y));
        row.energy_j = Some(guarded(|| meter.energy_of(stream, calls, seconds, run))?.joules);
        row.idle_w = bench.idle_w;
        bench.laps.lap(&mut phase.energy_s);
    }
    // Right once and wrong after many calls (working memory left dirty, a race) must not be praised.
    verify(&multiplier, cell, (x, y), outputs, row)?;
    bench.laps.lap(&mut phase.verifying_s);
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
    cell: &Cell<'_, '_, T>,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    outputs: usize,
    row: &mut Row,
) -> Outcome<()> {
    let (oracle, tools) = (cell.oracle, cell.tools);
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

/// Median share of the permutations in the time of permute-bmm, parts timed within each of `count` cold calls.
fn permutation_share<T: Scalar>(
    multiplier: &Multiplier<'_, T>,
    count: usize,
    (x, y): (&Buffer<T>, &mut Buffer<T>),
    bench: &mut Bench<'_>,
) -> kronsparse::Result<f64> {
    let mut shares = Vec::new();
    for _ in 0..count {
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
