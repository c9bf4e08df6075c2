//! Measuring the algorithms for a chain on this CPU, so that [`Algorithm::Auto`] can take the fastest.

use std::hint::black_box;

use super::operator::{Operator, Options};
use super::scratch::Scratch;
use super::simd::Isa;
use super::tuned::step;
use crate::measure::{Evictor, Stopwatch, Summary, median};
use crate::plan::gpu::ChainProblem;
use crate::plan::{Algorithm, Join, Layout};
use crate::tune::{Machine, Measured, Record, Tuning};
use crate::{Chain, Error, Result, Scalar};

/// A way that takes so many times as long as the fastest so far is sampled once.
const SLOWER: f64 = 2.0;
/// An algorithm that stores more than so many times the chain's weights is not tried: the fused one would have to reach less than this
/// share of its speed.
const LARGER: f64 = 32.0;
/// Fewest and most samples of the others.
const SAMPLES: [usize; 2] = [5, 1000];
/// A sample with warm caches repeats the call until it has taken so many seconds.
const WARM: f64 = 50e-6;

/// One of the ways, with its samples.
struct Contender<T: Scalar> {
    algorithm: Algorithm,
    threads: Option<usize>,
    operator: Operator<T>,
    scratch: Scratch,
    calls: usize,
    samples: Vec<f64>,
}

/// Runs every algorithm of [`Algorithm::on_cpu`], and the fused one also on fewer threads, on `n` random vectors in `layout`, and says
/// which is the fastest with these `options`, whose algorithm does not matter. With `cold` caches a large buffer is read before each
/// sample. Takes about `seconds` for each way that is not much slower than the fastest; ways are sampled in turn, so that a machine that
/// slows down slows all of them; where their samples overlap too much, the fused algorithm on all threads is kept. [`Store::append`](crate::tune::Store::append) keeps the result.
///
/// Errors: as [`Operator::new`]; no vectors; arrays that are too large to count.
pub fn tune<T: Scalar>(
    chain: &Chain<T>,
    options: &Options<T>,
    n: usize,
    layout: Layout,
    cold: bool,
    seconds: f64,
) -> Result<Record> {
    let length = |features: usize| match n.checked_mul(features) {
        Some(length) if length > 0 => Ok(length),
        _ => Err(Error::Unsupported {
            what: format!("tuning for {n} vectors of {features} numbers"),
            why: "expected at least one vector, and fewer numbers than 64 bits can count".into(),
        }),
    };
    let threads = if options.threads == 0 { rayon::current_num_threads() } else { options.threads };
    let mut contenders = Vec::new();
    for (algorithm, fewer) in ways(threads) {
        if stored(chain, algorithm) > LARGER * chain.pattern().parameters() as f64 {
            continue;
        }
        let options =
            Options { algorithm, threads: fewer.unwrap_or(options.threads), tuning: Tuning::Off, ..options.clone() };
        match Operator::new(chain, options) {
            Ok(operator) => {
                let scratch = Scratch::new(operator.apply_scratch(n, layout));
                let (calls, samples) = (1, Vec::new());
                contenders.push(Contender { algorithm, threads: fewer, operator, scratch, calls, samples });
            }
            Err(Error::Unsupported { .. }) if algorithm != Algorithm::Fused => {}
            Err(error) => return Err(error),
        }
    }
    let outputs = contenders.first().map_or(0, |usual| usual.operator.rows());
    let x: Vec<T> = random(length(chain.cols())?);
    let residual: Vec<T> = random(if options.join == Join::Residual { length(outputs)? } else { 0 });
    let mut y = vec![T::ZERO; length(outputs)?];
    let mut evictor = cold.then(Evictor::new);
    let mut sample = |way: &mut Contender<T>| -> Result<f64> {
        let mut call = || match options.join {
            Join::Residual => way.operator.apply_residual_with(&x, &residual, &mut y, n, layout, &mut way.scratch),
            Join::None | Join::Gate => way.operator.apply_with(&x, &mut y, n, layout, &mut way.scratch),
        };
        let calls = if let Some(evictor) = &mut evictor {
            black_box(evictor.evict());
            1
        } else {
            call()?;
            way.calls
        };
        let watch = Stopwatch::start();
        for _ in 0..calls {
            call()?;
        }
        let seconds = watch.seconds() / calls as f64;
        way.calls = (WARM / seconds.max(1e-9)).ceil().clamp(1.0, 1000.0) as usize;
        Ok(seconds)
    };
    let mut fastest = f64::INFINITY;
    for way in &mut contenders {
        // The first call touches memory for the first time.
        let first = sample(way)?;
        let again = if first > SLOWER * SLOWER * fastest { first } else { sample(way)? };
        way.samples.push(again);
        fastest = fastest.min(again);
    }
    let watch = Stopwatch::start();
    let close = |way: &Contender<T>| way.algorithm == Algorithm::Fused || way.samples[0] <= SLOWER * fastest;
    let budget = seconds * contenders.iter().filter(|way| close(way)).count() as f64;
    for round in 1..SAMPLES[1] {
        if round >= SAMPLES[0] && watch.seconds() > budget {
            break;
        }
        for way in contenders.iter_mut().filter(|way| close(way)) {
            let seconds = sample(way)?;
            way.samples.push(seconds);
        }
    }
    let factors = chain.factors().len();
    let measured = |way: &Contender<T>| Measured {
        steps: vec![step(factors, way.algorithm, way.threads)],
        // A clock that stands still would give zero.
        seconds: median(&way.samples).unwrap_or(f64::INFINITY).max(1e-9),
        samples: way.samples.len(),
    };
    let all: Vec<Measured> = contenders.iter().map(measured).collect();
    let least = (0..all.len()).min_by(|&x, &y| all[x].seconds.total_cmp(&all[y].seconds)).unwrap_or(0);
    let faster = is_clear(&contenders[least].samples, &contenders[0].samples);
    let fastest = all[if faster { least } else { 0 }].clone();
    let problem = ChainProblem {
        bias: options.bias.is_some(),
        activation: options.activation,
        join: options.join,
        ..ChainProblem::new(chain.pattern().clone(), T::DTYPE, layout, n)
    };
    let machine = Machine::cpu(options.isa.unwrap_or_else(Isa::detect), threads);
    let caches = if cold { "cold" } else { "warm" };
    Ok(Record::new(machine, problem, caches, all[0].clone(), fastest, all))
}

/// Whether a way is faster than the usual one beyond what the samples scatter: three quarters of its samples take less time than three
/// quarters of the other's.
fn is_clear(samples: &[f64], usual: &[f64]) -> bool {
    let both = Summary::of(samples).zip(Summary::of(usual));
    both.is_some_and(|(way, usual)| way.q3 < usual.q1)
}

/// The usual way first: every algorithm, and the fused one on half of the threads and on one, where these are fewer.
fn ways(threads: usize) -> Vec<(Algorithm, Option<usize>)> {
    let mut ways: Vec<_> = Algorithm::on_cpu().map(|algorithm| (algorithm, None)).to_vec();
    for fewer in [threads / 2, 1] {
        let way = (Algorithm::Fused, Some(fewer));
        if (1..threads).contains(&fewer) && !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}

/// Numbers that an algorithm stores.
fn stored<T: Scalar>(chain: &Chain<T>, algorithm: Algorithm) -> f64 {
    let pattern = chain.pattern();
    match algorithm {
        Algorithm::Dense => pattern.rows() as f64 * pattern.cols() as f64,
        Algorithm::Bsr => pattern.patterns().iter().map(|p| p.nnz() as f64 * p.d() as f64).sum(),
        _ => pattern.parameters() as f64,
    }
}

/// Numbers between -1 and 1, by Marsaglia's xorshift (2003): what is multiplied hardly matters on a CPU, but zeros might.
fn random<T: Scalar>(count: usize) -> Vec<T> {
    use crate::scalar::Wide;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| T::narrow(T::Wide::from_parts(next(), next()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scatters_as_much_as_it_gains_is_no_gain() {
        let usual = [10.0, 11.0, 12.0, 13.0, 14.0];
        assert!(is_clear(&[8.0, 9.0, 9.5, 10.0, 30.0], &usual));
        assert!(!is_clear(&[8.0, 9.0, 9.5, 11.0, 11.0], &usual));
        assert!(!is_clear(&usual, &usual) && !is_clear(&[], &usual));
    }

    #[test]
    fn fewer_threads_are_tried_where_there_are_fewer() {
        let threads = |all: usize| -> Vec<usize> { ways(all).into_iter().filter_map(|(_, threads)| threads).collect() };
        assert_eq!([1, 2, 3, 8].map(threads), [vec![], vec![1], vec![1], vec![4, 1]]);
    }
}
