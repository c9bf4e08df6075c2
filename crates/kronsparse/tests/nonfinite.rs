//! NaN and infinity reach exactly the outputs that the mathematics says, and no others.
//!
//! [`Algorithm::Dense`] and, where `d > 1`, [`Algorithm::Bsr`] multiply zeros that they store, and `0 · NaN` is NaN: that
//! is what these two algorithms are. For them the affected outputs must be affected too, and what they may affect
//! besides is computed from the zeros they store ([`Algorithm::Dense`]: the whole vector; [`Algorithm::Bsr`]: the lanes of
//! the same super-block). Every other algorithm, and the planner's choice (which no store of measurements changes here), is held to
//! the exact set.

mod harness;

use fastrand::Rng;
use harness::inputs::{Draw, Fenced, Weights, for_each_dtype, is_nan, nan, real, seed};
use harness::stream;
use kronsparse::cpu::{Operator, Options, Scratch};
use kronsparse::plan::Algorithm;
use kronsparse::scalar::Wide;
use kronsparse::tune::Tuning;
use kronsparse::{Activation, Chain, ChainPattern, ChainSpec, DType, Factor, Layout, Pattern, Scalar, reference};

/// d = 1, 3 and 16; one dimension of one; odd and round blocks; chains of two and three factors, one not chainable.
const CHAINS: [&str; 14] = [
    "(1,5,7,1)",
    "(3,4,5,1)",
    "(2,17,9,1)",
    "(1,6,5,3)",
    "(2,4,7,3)",
    "(1,5,6,16)",
    "(3,2,3,16)",
    "(1,16,16,16)",
    "(1,3,2,67)",
    "(1,4,6,3)(6,3,5,1)",
    "(1,4,4,4)(4,4,4,1)",
    "(2,3,4,16)(8,16,3,1)",
    "(1,6,4,3)(2,2,8,3)(4,3,2,4)",
    "(1,2,2,4)(2,2,2,2)(4,2,2,1)",
];
const BATCHES: [usize; 3] = [1, 5, 50];

fn algorithms() -> impl Iterator<Item = Algorithm> {
    [Algorithm::Auto].into_iter().chain(Algorithm::on_cpu())
}

fn pattern(text: &str) -> ChainPattern {
    match text.parse().unwrap() {
        ChainSpec::Explicit(pattern) => pattern,
        other => panic!("{other} is not explicit"),
    }
}

/// The pattern of what `algorithm` really multiplies for one factor: the support and the zeros stored beside it.
fn stored(p: Pattern, algorithm: Algorithm) -> Pattern {
    match algorithm {
        Algorithm::Dense => Pattern::new(1, p.rows(), p.cols(), 1).unwrap(),
        Algorithm::Bsr => Pattern::new(p.a(), p.b() * p.d(), p.c() * p.d(), 1).unwrap(),
        _ => p,
    }
}

/// Which outputs depend on any of the marked inputs of `patterns` (applied right to left).
fn reached(patterns: &[Pattern], inputs: Vec<bool>) -> Vec<bool> {
    patterns.iter().rev().fold(inputs, |marked, p| {
        (0..p.rows()).map(|row| (0..p.cols()).any(|col| marked[col] && p.contains(row, col))).collect()
    })
}

fn only(at: usize, len: usize) -> Vec<bool> {
    (0..len).map(|x| x == at).collect()
}

/// One chain with one algorithm.
struct Subject<T: Scalar> {
    chain: Chain<T>,
    algorithm: Algorithm,
    operator: Operator<T>,
}

impl<T: Scalar> Subject<T> {
    fn new(chain: &Chain<T>, algorithm: Algorithm, bias: Option<Vec<T>>, activation: Activation) -> Subject<T> {
        let operator = Operator::new(
            chain,
            Options { bias, activation, algorithm, threads: 2, tuning: Tuning::Off, ..Options::default() },
        )
        .unwrap();
        Subject { chain: chain.clone(), algorithm, operator }
    }

    /// Multiplies between fences of NaN, into NaN.
    fn run(&self, x: &[T], n: usize, layout: Layout, scratch: &mut Scratch) -> Vec<T> {
        let (x, mut y) = (Fenced::new(x), Fenced::poisoned(n * self.chain.rows()));
        self.operator.apply_with(x.get(), y.get_mut(), n, layout, scratch).unwrap();
        assert_eq!(y.broken(), None, "{self}");
        y.get().to_vec()
    }

    /// The outputs that depend on factor `at`'s marked outputs, by the mathematics and by what the algorithm stores.
    fn spread(&self, at: usize, marked: Vec<bool>) -> (Vec<bool>, Vec<bool>) {
        let patterns = self.chain.pattern().patterns();
        let stored: Vec<Pattern> = patterns.iter().map(|&p| stored(p, self.algorithm)).collect();
        // A NaN weight in a dense product reaches all that its factor's neighbours could.
        let may = if self.algorithm == Algorithm::Dense && patterns.len() > 1 {
            vec![true; self.chain.rows()]
        } else {
            reached(&stored[..at], marked.clone())
        };
        (reached(&patterns[..at], marked), may)
    }
}

impl<T: Scalar> std::fmt::Display for Subject<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.chain.pattern(), T::DTYPE, self.algorithm)
    }
}

fn is_finite<T: Scalar>(value: T) -> bool {
    let (re, im) = value.widen().parts();
    re.is_finite() && im.is_finite()
}

fn bits<T: Scalar>(value: &T) -> &[u8] {
    bytemuck::bytes_of(value)
}

/// Calls `f` for every subject, batch and layout, with finite inputs that have no zero.
fn each<T: Scalar>(mut f: impl FnMut(&Subject<T>, &[T], usize, Layout, &mut Rng)) {
    let mut rng = stream(seed(), "nonfinite", T::DTYPE);
    for text in CHAINS {
        let weights = Weights::<T>::draw(&pattern(text), false, Draw::Aligned, &mut rng);
        for algorithm in algorithms() {
            let subject = Subject::new(&weights.chain, algorithm, None, Activation::None);
            for n in BATCHES {
                for layout in Layout::ALL {
                    let x = weights.draw_input(n, layout, &mut rng);
                    f(&subject, &x, n, layout, &mut rng);
                }
            }
        }
    }
}

/// Compares a run with one on finite inputs: bad exactly where it must be (or may), the same bits elsewhere.
fn judge<T: Scalar>(
    subject: &Subject<T>,
    (clean, dirty): (&[T], &[T]),
    (n, layout): (usize, Layout),
    (must, may): (impl Fn(usize, usize) -> bool, impl Fn(usize, usize) -> bool),
    bad: impl Fn(T) -> bool,
) {
    let rows = subject.chain.rows();
    for batch in 0..n {
        for row in 0..rows {
            let at = layout.index(batch, row, n, rows);
            let place = || format!("{subject} {layout} n={n}: vector {batch}, row {row}: {:?}", dirty[at]);
            assert!(!must(batch, row) || bad(dirty[at]), "{}, which hides a bad input", place());
            if !may(batch, row) {
                assert_eq!(bits(&dirty[at]), bits(&clean[at]), "{}, which depends on no bad input", place());
            }
        }
    }
}

fn nan_in_an_input<T: Scalar>() {
    // For complex numbers a NaN in one part alone is bad enough.
    let half: T = T::narrow(T::Wide::from_parts(1.0, f64::NAN));
    each::<T>(|subject, x, n, layout, rng| {
        let (cols, count) = (subject.chain.cols(), subject.chain.pattern().patterns().len());
        let clean = subject.run(x, n, layout, &mut Scratch::default());
        for (batch, col) in [(0, 0), (n - 1, cols - 1), (rng.usize(0..n), rng.usize(0..cols))] {
            let mut bad = x.to_vec();
            bad[layout.index(batch, col, n, cols)] = if T::DTYPE.is_complex() && col > 0 { half } else { nan() };
            let dirty = subject.run(&bad, n, layout, &mut Scratch::default());
            let (must, may) = subject.spread(count, only(col, cols));
            let one = (|b, r: usize| b == batch && must[r], |b, r: usize| b == batch && may[r]);
            judge(subject, (&clean, &dirty), (n, layout), one, is_nan);
        }
    });
}

#[test]
fn nan_in_an_input_reaches_its_outputs_only() {
    for_each_dtype!(nan_in_an_input());
}

fn nan_in_a_weight<T: Scalar>() {
    each::<T>(|subject, x, n, layout, rng| {
        let clean = subject.run(x, n, layout, &mut Scratch::default());
        let mut factors = subject.chain.factors().to_vec();
        let at = rng.usize(0..factors.len());
        let (mut weights, p) = (factors[at].weights().to_vec(), factors[at].pattern());
        let [i, o, l, j] = p.shape().map(|size| rng.usize(0..size));
        weights[p.weight_index(i, o, l, j)] = nan();
        factors[at] = Factor::new(p, weights).unwrap();
        let broken = Subject::new(&Chain::new(factors).unwrap(), subject.algorithm, None, Activation::None);
        let dirty = broken.run(x, n, layout, &mut Scratch::default());
        let (must, may) = broken.spread(at, only(p.row(i, o, j), p.rows()));
        judge(&broken, (&clean, &dirty), (n, layout), (|_, r: usize| must[r], |_, r: usize| may[r]), is_nan);
    });
}

#[test]
fn nan_in_a_weight_reaches_its_row_in_every_vector_only() {
    for_each_dtype!(nan_in_a_weight());
}

fn infinity_in_an_input<T: Scalar>() {
    each::<T>(|subject, x, n, layout, rng| {
        let (cols, count) = (subject.chain.cols(), subject.chain.pattern().patterns().len());
        let clean = subject.run(x, n, layout, &mut Scratch::default());
        let (batch, col) = (rng.usize(0..n), rng.usize(0..cols));
        let mut bad = x.to_vec();
        bad[layout.index(batch, col, n, cols)] = real(if rng.bool() { f64::INFINITY } else { f64::NEG_INFINITY });
        let dirty = subject.run(&bad, n, layout, &mut Scratch::default());
        let (must, may) = subject.spread(count, only(col, cols));
        let one = (|b, r: usize| b == batch && must[r], |b, r: usize| b == batch && may[r]);
        judge(subject, (&clean, &dirty), (n, layout), one, |y| !is_finite(y));
        if count == 1 && !T::DTYPE.is_complex() && must == may {
            // One factor, one infinite term in each affected sum: its sign is known.
            let expected = reference::multiply(&subject.chain, None, Activation::None, &bad, n, layout);
            for (y, e) in dirty.iter().zip(expected).filter(|(_, e)| !e.parts().0.is_finite()) {
                assert_eq!(y.widen(), e, "{subject} {layout} n={n}");
            }
        }
    });
}

#[test]
fn infinity_in_an_input_reaches_its_outputs_only() {
    for_each_dtype!(infinity_in_an_input());
}

/// An infinite weight against a zero input, and an infinite input against a zero weight: NaN there, infinite or finite
/// elsewhere. One factor only, so that the oracle's answer is the only right one.
fn infinity_times_zero<T: Scalar>() {
    let mut rng = stream(seed(), "infinity times zero", T::DTYPE);
    for text in CHAINS.into_iter().filter(|text| text.matches('(').count() == 1) {
        let weights = Weights::<T>::draw(&pattern(text), false, Draw::Aligned, &mut rng);
        let p = weights.chain.factors()[0].pattern();
        for (n, layout) in BATCHES.into_iter().flat_map(|n| Layout::ALL.map(|layout| (n, layout))) {
            let [i, o, l, j] = p.shape().map(|size| rng.usize(0..size));
            let zero_at = rng.usize(0..n);
            for (weight, input) in [(f64::INFINITY, 0.0), (f64::NEG_INFINITY, 0.0), (0.0, f64::INFINITY)] {
                let mut w = weights.chain.factors()[0].weights().to_vec();
                w[p.weight_index(i, o, l, j)] = real(weight);
                let chain = Chain::from(Factor::new(p, w).unwrap());
                let mut x = weights.draw_input(n, layout, &mut rng);
                x[layout.index(zero_at, p.col(i, l, j), n, p.cols())] = real(input);
                let expected = reference::multiply(&chain, None, Activation::None, &x, n, layout);
                let hit = layout.index(zero_at, p.row(i, o, j), n, p.rows());
                assert!(expected[hit].parts().0.is_nan(), "the oracle says NaN");
                for algorithm in algorithms().filter(|&algorithm| stored(p, algorithm) == p) {
                    let subject = Subject::new(&chain, algorithm, None, Activation::None);
                    let y = subject.run(&x, n, layout, &mut Scratch::default());
                    for (at, (&y, e)) in y.iter().zip(&expected).enumerate() {
                        let place = format!("{subject} {layout} n={n}, {weight} · {input}, element {at}");
                        let (re, im) = e.parts();
                        assert_eq!(is_finite(y), re.is_finite() && im.is_finite(), "{place}: {y:?} for {e:?}");
                        if !T::DTYPE.is_complex() {
                            assert_eq!(is_nan(y), re.is_nan(), "{place}: {y:?} for {e:?}");
                            assert!(!re.is_infinite() || y.widen() == *e, "{place}: {y:?} for {e:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn infinity_times_zero_is_nan_there_only() {
    for_each_dtype!(infinity_times_zero());
}

/// What lies in scratch from an earlier batch, NaN throughout, is never used.
fn dirty_scratch<T: Scalar>() {
    each::<T>(|subject, x, n, layout, _| {
        let clean = subject.run(x, n, layout, &mut Scratch::default());
        let mut scratch = Scratch::new(subject.operator.apply_scratch(BATCHES[2], layout));
        let poison = vec![nan::<T>(); BATCHES[2] * subject.chain.cols()];
        for other in Layout::ALL {
            let y = subject.run(&poison, BATCHES[2], other, &mut scratch);
            assert!(y.iter().all(|&y| is_nan(y)), "{subject} {other}: NaN in all inputs, and not in all outputs");
        }
        let again = subject.run(x, n, layout, &mut scratch);
        judge(subject, (&clean, &again), (n, layout), (|_, _| false, |_, _| false), is_nan);
    });
}

#[test]
fn nan_left_in_scratch_never_leaks() {
    for_each_dtype!(dirty_scratch());
}

fn bias_and_activation<T: Scalar>() {
    let mut rng = stream(seed(), "bias and activation", T::DTYPE);
    let activations = if T::DTYPE.is_complex() { &Activation::ALL[..1] } else { &Activation::ALL[..] };
    for text in ["(2,17,9,1)", "(1,6,5,3)", "(3,2,3,16)", "(1,4,6,3)(6,3,5,1)"] {
        let weights = Weights::<T>::draw(&pattern(text), true, Draw::Aligned, &mut rng);
        let rows = weights.chain.rows();
        for (algorithm, &activation) in algorithms().flat_map(|g| activations.iter().map(move |a| (g, a))) {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let mut bias = weights.bias.clone().unwrap();
                let hit = rng.usize(0..rows);
                bias[hit] = real(bad);
                let subject = Subject::new(&weights.chain, algorithm, Some(bias.clone()), activation);
                for (n, layout) in BATCHES.into_iter().flat_map(|n| Layout::ALL.map(|layout| (n, layout))) {
                    let x = weights.draw_input(n, layout, &mut rng);
                    let y = subject.run(&x, n, layout, &mut Scratch::default());
                    for (batch, row) in (0..n).flat_map(|batch| (0..rows).map(move |row| (batch, row))) {
                        let re = y[layout.index(batch, row, n, rows)].widen().parts().0;
                        let place = format!("{subject} {activation} {layout} n={n} vector {batch} row {row}: {re}");
                        // −∞ is a limit of ReLU, GELU and SiLU, and the limit is zero.
                        let expected = if row == hit { activation.apply(bad) } else { 0.0 };
                        match expected {
                            e if e.is_nan() => assert!(re.is_nan(), "{place}, bias {bad}"),
                            e if e.is_infinite() || row == hit => assert_eq!(re, e, "{place}, bias {bad}"),
                            _ => assert!(re.is_finite(), "{place}, bias {bad} in row {hit}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_bad_bias_reaches_its_row_only_and_activations_take_limits() {
    for_each_dtype!(bias_and_activation());
}

/// A result above the largest number of its type becomes infinite, and only that result.
#[test]
fn overflow_is_infinite_where_it_happens_only() {
    fn check<T: Scalar>() {
        let largest = match T::DTYPE {
            DType::F16 => 65504.0,
            DType::Bf16 | DType::F32 | DType::C64 => 2f64.powi(127),
            DType::F64 | DType::C128 => 2f64.powi(1023),
        };
        for (text, n) in CHAINS[..9].iter().flat_map(|text| BATCHES.map(|n| (text, n))) {
            let p = pattern(text).patterns()[0];
            let chain = Chain::from(Factor::<T>::from_fn(p, |_, _, _, _| real(4.0)));
            let (batch, col) = (fastrand::usize(0..n), fastrand::usize(0..p.cols()));
            for (algorithm, layout) in algorithms().flat_map(|g| Layout::ALL.map(move |layout| (g, layout))) {
                let subject = Subject::new(&chain, algorithm, None, Activation::None);
                let mut x = vec![real::<T>(1.0); n * p.cols()];
                let clean = subject.run(&x, n, layout, &mut Scratch::default());
                x[layout.index(batch, col, n, p.cols())] = real(-0.75 * largest);
                let dirty = subject.run(&x, n, layout, &mut Scratch::default());
                let must = reached(&[p], only(col, p.cols()));
                let one = (|b, r: usize| b == batch && must[r], |b, r: usize| b == batch && must[r]);
                judge(&subject, (&clean, &dirty), (n, layout), one, |y| y.widen().parts().0 == f64::NEG_INFINITY);
            }
        }
    }
    for_each_dtype!(check());
}
