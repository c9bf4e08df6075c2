//! One case: prepare and verify every algorithm, sample them in turn, verify again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use kronsparse::cpu::{Operator, Options, Scratch};
use kronsparse::measure::{Evictor, Stopwatch, Summary};
use kronsparse::plan::{Algorithm, Problem};
use kronsparse::tune::Tuning;
use kronsparse::{Chain, DType, Scalar};
use num_complex::{Complex32, Complex64};

use crate::Kind;
use crate::definition::{Cache, Case};
use crate::format::bytes;
use crate::random::Random;
use crate::record::{Row, Status};
use crate::run::{Event, Observer};
use crate::verify::{Oracle, WideScalar, poison};

/// Rounds in which the sampling budget of a case is spent: every algorithm gets its share of each, so that a machine
/// that slows down for a while slows all of them.
const ROUNDS: usize = 8;

/// Fewest samples of an algorithm, however slow.
const FEWEST: usize = 3;

/// Most samples of an algorithm, however fast.
const MOST: usize = 2_000;

/// A warm sample repeats the call until it lasts this long, in seconds; the clock's step is far below.
const WARM_SAMPLE: f64 = 50e-6;

/// What all cases of a run share.
pub(crate) struct Bench<'a> {
    pub(crate) algorithms: &'a [Algorithm],
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    pub(crate) budget: f64,
    pub(crate) memory_limit: usize,
    pub(crate) evictor: &'a mut Evictor,
}

/// Measures every algorithm on one case; one row each, in the order asked for.
pub(crate) fn run_case(case: &Case, bench: &mut Bench<'_>, observe: Observer<'_>) -> Vec<Row> {
    match case.problem.dtype {
        DType::F16 => typed::<f16>(case, bench, observe),
        DType::Bf16 => typed::<bf16>(case, bench, observe),
        DType::F32 => typed::<f32>(case, bench, observe),
        DType::F64 => typed::<f64>(case, bench, observe),
        DType::C64 => typed::<Complex32>(case, bench, observe),
        DType::C128 => typed::<Complex64>(case, bench, observe),
    }
}

/// An algorithm that passed the verification, with its samples so far.
struct Contender<T: Scalar> {
    /// Index of its row.
    row: usize,
    operator: Operator<T>,
    scratch: Scratch,
    /// Calls per warm sample.
    repeats: usize,
    samples: Vec<f64>,
    /// Seconds spent on it, cache sweeps included.
    spent: f64,
}

/// [`run_case`] for one element type.
fn typed<T: Scalar<Wide: WideScalar>>(case: &Case, bench: &mut Bench<'_>, observe: Observer<'_>) -> Vec<Row> {
    let mut rows: Vec<Row> = bench.algorithms.iter().map(|&a| Row::blank(case, a, bench.threads, bench.seed)).collect();
    let missing = (case.kind == Kind::TF32).then(|| "tf32 is a type of products that only GPUs have".to_string());
    if let Some(reason) = missing.or_else(|| too_large(&case.problem)) {
        rows.iter_mut().for_each(|row| row.reason.clone_from(&reason));
        return rows;
    }
    let Problem { chain: ref pattern, batch: n, layout, .. } = case.problem;
    let mut random = Random::new(bench.seed);
    // Weights of variance 1/c keep the size of the numbers from layer to layer, and within reach of f16.
    let scales: Vec<f64> = pattern.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
    let chain = Chain::from_fn(pattern, |at, _, _, _, _| random.scalar::<T>(scales[at]));
    let x: Vec<T> = (0..n * chain.cols()).map(|_| random.scalar(1.0)).collect();
    let mut y = vec![T::ZERO; n * chain.rows()];
    let oracle = Oracle::new(&chain, &x, n, layout, random.bits());

    let mut contenders = Vec::new();
    for (index, row) in rows.iter_mut().enumerate() {
        observe(Event::Verify(row.algorithm));
        row.checked_vectors = oracle.vectors();
        let prepared = prepare(&chain, &case.problem, row.algorithm, bench);
        let (operator, mut scratch) = match prepared {
            Ok(ready) => ready,
            Err((status, reason)) => {
                (row.status, row.reason) = (status, reason);
                continue;
            }
        };
        let first = call(&operator, &x, &mut y, case, &mut scratch, &oracle, row);
        if let Some(first) = first {
            let repeats = (WARM_SAMPLE / first.max(1e-9)).ceil().clamp(1.0, 1_000.0) as usize;
            contenders.push(Contender { row: index, operator, scratch, repeats, samples: Vec::new(), spent: 0.0 });
        }
    }

    observe(Event::Sample);
    sample(&mut contenders, case, bench, &x, &mut y);
    for contender in &mut contenders {
        let row = &mut rows[contender.row];
        let Contender { operator, scratch, samples, .. } = contender;
        // A kernel that is right once and wrong after many calls (scratch left dirty, a race) must not be praised.
        if call(operator, &x, &mut y, case, scratch, &oracle, row).is_some()
            && let Some(summary) = Summary::of(samples)
        {
            fill(row, &summary);
        }
    }
    compare(&mut rows);
    rows
}

/// Why a problem does not fit in this machine's memory at all, if so.
fn too_large(problem: &Problem) -> Option<String> {
    let (chain, n) = (&problem.chain, problem.batch as f64);
    let size = problem.dtype.size() as f64;
    // Input, output and a hidden layer; weights as given, packed and widened for the oracle.
    let vectors = n * size * 2.0 * (chain.rows() + chain.cols()) as f64;
    let need = vectors + chain.parameters() as f64 * (2.0 * size + 16.0);
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let available = system.available_memory() as f64;
    // Where the system does not tell, nothing is refused.
    (available > 0.0 && need > 0.8 * available)
        .then(|| format!("needs about {} of memory, {} are available", bytes(need), bytes(available)))
}

/// Bytes that an algorithm must at least hold for the weights.
fn weight_bytes(problem: &Problem, algorithm: Algorithm) -> f64 {
    let size = problem.dtype.size() as f64;
    let patterns = problem.chain.patterns().iter();
    match algorithm {
        Algorithm::Dense => problem.chain.rows() as f64 * problem.chain.cols() as f64 * size,
        Algorithm::Csr => patterns.map(|p| p.nnz() as f64 * (size + 4.0)).sum(),
        Algorithm::Bsr => patterns.map(|p| p.nnz() as f64 * p.d() as f64 * size).sum(),
        _ => problem.chain.parameters() as f64 * size,
    }
}

/// An operator with its scratch, or the status and reason of a row that has none.
fn prepare<T: Scalar>(
    chain: &Chain<T>,
    problem: &Problem,
    algorithm: Algorithm,
    bench: &Bench<'_>,
) -> Result<(Operator<T>, Scratch), (Status, String)> {
    let limit = bench.memory_limit as f64;
    let check = |what: &str, need: f64| {
        let reason = || format!("{what} need {}, the limit is {}", bytes(need), bytes(limit));
        if need > limit { Err((Status::Skipped, reason())) } else { Ok(()) }
    };
    check("the weights", weight_bytes(problem, algorithm))?;
    // What a user's store says is in no record.
    let options = Options { algorithm, threads: bench.threads, tuning: Tuning::Off, ..Options::default() };
    let operator = guarded(|| Operator::new(chain, options))?;
    let scratch = operator.apply_scratch(problem.batch, problem.layout);
    check("the working arrays", scratch as f64)?;
    Ok((operator, Scratch::new(scratch)))
}

/// Runs a step of an algorithm: what it does not support is skipped, every other error and every panic is a failure.
pub(crate) fn guarded<R>(step: impl FnOnce() -> kronsparse::Result<R>) -> Result<R, (Status, String)> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error @ kronsparse::Error::Unsupported { .. })) => Err((Status::Skipped, error.to_string())),
        Ok(Err(error)) => Err((Status::Failed, error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err((Status::Failed, format!("panicked: {text}")))
        }
    }
}

/// One verified call on a poisoned output. Notes the verdict in the row; the seconds it took if it was right.
fn call<T: Scalar<Wide: WideScalar>>(
    operator: &Operator<T>,
    x: &[T],
    y: &mut [T],
    case: &Case,
    scratch: &mut Scratch,
    oracle: &Oracle<T>,
    row: &mut Row,
) -> Option<f64> {
    poison(y);
    let watch = Stopwatch::start();
    let Problem { batch, layout, .. } = case.problem;
    if let Err((status, reason)) = guarded(|| operator.apply_with(x, y, batch, layout, scratch)) {
        (row.status, row.reason) = (status, reason);
        return None;
    }
    let took = watch.seconds();
    let verdict = oracle.judge(y);
    row.checksum = Some(verdict.checksum);
    // NaN, not f64::max, if an output was not written.
    row.rel_error = Some(match row.rel_error {
        Some(before) if before > verdict.error => before,
        _ => verdict.error,
    });
    match verdict.wrong {
        None => {
            row.status = Status::Ok;
            Some(took)
        }
        Some(why) => {
            (row.status, row.reason) = (Status::Wrong, why);
            None
        }
    }
}

/// Samples all contenders in turn until each has used its budget. Slow ones sit out rounds, but get a few samples spread
/// over the whole; the one that begins changes from round to round.
fn sample<T: Scalar>(contenders: &mut [Contender<T>], case: &Case, bench: &mut Bench<'_>, x: &[T], y: &mut [T]) {
    for round in 0..ROUNDS {
        let due = bench.budget * (round + 1) as f64 / ROUNDS as f64;
        let least = (FEWEST * (round + 1)).div_ceil(ROUNDS);
        for turn in 0..contenders.len() {
            let at = (turn + round) % contenders.len();
            let contender = &mut contenders[at];
            while contender.samples.len() < least || (contender.spent < due && contender.samples.len() < MOST) {
                let whole = Stopwatch::start();
                // An error here was none a moment ago: the verification after the samples reports it.
                let Some(sample) = one_sample(contender, case, bench, x, y) else { break };
                contender.samples.push(sample);
                contender.spent += whole.seconds();
            }
        }
    }
}

/// Seconds of one call: after a sweep of the caches, or right after a call on the same data.
fn one_sample<T: Scalar>(
    contender: &mut Contender<T>,
    case: &Case,
    bench: &mut Bench<'_>,
    x: &[T],
    y: &mut [T],
) -> Option<f64> {
    let Contender { operator, scratch, repeats, .. } = contender;
    let Problem { batch, layout, .. } = case.problem;
    let mut apply = || guarded(|| operator.apply_with(x, y, batch, layout, scratch)).ok();
    match case.cache {
        Cache::Cold => {
            std::hint::black_box(bench.evictor.evict());
            let watch = Stopwatch::start();
            apply()?;
            Some(watch.seconds())
        }
        Cache::Warm => {
            apply()?;
            let watch = Stopwatch::start();
            for _ in 0..*repeats {
                apply()?;
            }
            Some(watch.seconds() / *repeats as f64)
        }
    }
}

/// Notes the times and the rates that follow from them.
pub(crate) fn fill(row: &mut Row, summary: &Summary) {
    let problem = row.problem();
    row.samples = summary.count;
    row.median_s = Some(summary.median);
    row.iqr_s = Some(summary.iqr());
    row.min_s = Some(summary.min);
    row.gflops = Some(problem.flops() / summary.median / 1e9);
    row.gbs = Some(problem.bytes() / summary.median / 1e9);
}

/// Notes the speed-up over the best other algorithm. Our own algorithms do not compete with each other.
pub(crate) fn compare(rows: &mut [Row]) {
    let medians: Vec<(Algorithm, bool, Option<f64>)> =
        rows.iter().map(|r| (r.algorithm, r.is_ours(), r.median_s)).collect();
    for row in rows {
        let others = medians.iter().filter(|m| m.0 != row.algorithm && !(m.1 && row.is_ours()));
        let best = others.filter_map(|m| m.2).min_by(f64::total_cmp);
        row.speedup_over_best_other = best.zip(row.median_s).map(|(best, own)| best / own);
    }
}

#[cfg(test)]
mod tests {
    use kronsparse::plan::Layout;
    use kronsparse::{ChainPattern, Error};

    use super::*;

    fn case(chain: ChainPattern, dtype: DType, batch: usize, cache: Cache) -> Case {
        let problem = Problem { chain, dtype, batch, layout: Layout::BatchLast };
        Case { problem, kind: dtype.into(), cache, why: "a test".into() }
    }

    fn bench<'a>(algorithms: &'a [Algorithm], evictor: &'a mut Evictor, memory_limit: usize) -> Bench<'a> {
        Bench { algorithms, threads: 1, seed: Random::fresh_seed(), budget: 0.01, memory_limit, evictor }
    }

    #[test]
    fn every_algorithm_has_a_row_with_times_or_a_reason() {
        let mut evictor = Evictor::of_size(1 << 16);
        let chain = ChainPattern::monarch(24, 12, 4, 3).unwrap();
        for (dtype, cache) in [(DType::F32, Cache::Cold), (DType::C64, Cache::Warm), (DType::Bf16, Cache::Warm)] {
            let case = case(chain.clone(), dtype, 5, cache);
            let mut events = 0;
            let rows = run_case(&case, &mut bench(&Algorithm::on_cpu(), &mut evictor, 1 << 30), &mut |_| events += 1);
            assert_eq!(rows.len(), Algorithm::on_cpu().len());
            assert_eq!(events, Algorithm::on_cpu().len() + 1);
            for row in &rows {
                match row.status {
                    Status::Ok => {
                        assert!(row.samples >= FEWEST && row.rel_error.unwrap() <= row.tolerance, "{row:?}");
                        assert!(row.min_s.unwrap() > 0.0 && row.min_s <= row.median_s, "{row:?}");
                        let gflops = row.problem().flops() / row.median_s.unwrap() / 1e9;
                        assert_eq!(row.gflops, Some(gflops));
                    }
                    Status::Skipped => assert!(!row.reason.is_empty() && row.median_s.is_none(), "{row:?}"),
                    Status::Wrong | Status::Failed => panic!("{row:?}"),
                }
            }
            assert_eq!(rows[0].status, Status::Ok, "ours must run everywhere: {:?}", rows[0]);
            let sums: Vec<f64> = rows.iter().filter_map(|r| r.checksum).collect();
            assert!(sums.iter().all(|s| (s - sums[0]).abs() < 0.5), "{sums:?}");
        }
    }

    #[test]
    fn one_seed_gives_one_checksum() {
        let mut evictor = Evictor::of_size(1 << 12);
        let case = case(ChainPattern::square_dyadic(8).unwrap(), DType::F64, 3, Cache::Warm);
        let mut of = |seed| {
            let mut bench = Bench { seed, ..bench(&[Algorithm::Fused], &mut evictor, 1 << 30) };
            run_case(&case, &mut bench, &mut |_| ())[0].checksum.unwrap()
        };
        assert_eq!(of(5), of(5));
        assert_ne!(of(5), of(6));
    }

    #[test]
    fn what_needs_too_much_memory_is_skipped_with_the_figures() {
        let mut evictor = Evictor::of_size(1 << 12);
        let case = case(ChainPattern::monarch(64, 64, 8, 8).unwrap(), DType::F32, 2, Cache::Cold);
        // The chain has 1024 weights of 4 bytes; the dense matrix 4096.
        let algorithms = [Algorithm::Dense, Algorithm::Bsr, Algorithm::Csr];
        let rows = run_case(&case, &mut bench(&algorithms, &mut evictor, 10_000), &mut |_| ());
        assert_eq!((rows[0].status, rows[1].status), (Status::Skipped, Status::Skipped));
        assert_eq!(rows[0].reason, "the weights need 16.0 KiB, the limit is 9.77 KiB");
        assert_eq!(rows[2].status, Status::Ok, "{}", rows[2].reason);
        let huge = ChainPattern::monarch(1 << 20, 1 << 20, 1 << 10, 1 << 10).unwrap();
        let why = too_large(&Problem { chain: huge, dtype: DType::C128, batch: 1 << 30, layout: Layout::BatchFirst });
        assert!(why.unwrap().contains("TiB of memory"));
    }

    #[test]
    fn refusals_errors_and_panics_are_told_apart() {
        let refusal = || -> kronsparse::Result<()> {
            Err(Error::Unsupported { what: "bsr on c64".into(), why: "a test".into() })
        };
        assert_eq!(guarded(refusal).unwrap_err().0, Status::Skipped);
        let error = guarded(|| -> kronsparse::Result<()> { Err(Error::EmptyChain) }).unwrap_err();
        assert_eq!((error.0, error.1.contains("at least one factor")), (Status::Failed, true));
        let panic = guarded(|| -> kronsparse::Result<()> { panic!("index {} out of bounds", 7) }).unwrap_err();
        assert_eq!(panic, (Status::Failed, "panicked: index 7 out of bounds".into()));
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }
}
