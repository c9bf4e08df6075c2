//! Laws that hold for every chain, tried on random ones.
//!
//! Most of them use small whole numbers (and Gaussian integers), for which every product and sum is exact in `f32` and
//! `f64`: then a law holds to the last bit, in any order of summation, and no tolerance can hide a mistake. Rounding has
//! its own tests at the end.

mod harness;

use fastrand::Rng;
use harness::inputs::{Draw, Weights, nan};
use harness::stream;
use kronsparse::cpu::{Operator, Options, Scratch};
use kronsparse::plan::Algorithm;
use kronsparse::scalar::Wide;
use kronsparse::tune::Tuning;
use kronsparse::{
    Chain, ChainPattern, Error, Factor, Layout, Matrix, Pattern, Scalar, reference, relative_error, relative_error_wide,
};
use num_complex::{Complex32, Complex64};
use proptest::prelude::*;

/// Failing inputs are printed, shrunk; they are not written into the source tree.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let size = || prop_oneof![3 => 1usize..=6, 1 => 7usize..=18];
    (1usize..=4, size(), size(), size()).prop_map(|(a, b, c, d)| Pattern::new(a, b, c, d).unwrap())
}

/// One to three factors whose sizes match, chainable or not: each next factor splits the columns of the one before in
/// its own way.
fn any_chain() -> impl Strategy<Value = ChainPattern> {
    (any_pattern(), proptest::collection::vec((any::<u64>(), 1usize..=8), 0..=2)).prop_map(|(first, more)| {
        let mut patterns = vec![first];
        for (pick, c) in more {
            let rows = patterns[patterns.len() - 1].cols();
            let divisors = |n: usize| (1..=n).filter(|x| n.is_multiple_of(*x)).collect::<Vec<_>>();
            let all = divisors(rows);
            let a = all[pick as usize % all.len()];
            let rest = divisors(rows / a);
            let d = rest[(pick >> 32) as usize % rest.len()];
            let c = if a * c * d > 300 { 1 } else { c };
            patterns.push(Pattern::new(a, rows / a / d, c, d).unwrap());
        }
        ChainPattern::new(patterns).unwrap()
    })
}

/// Two or three factors, chainable by construction: `a_2 = k a_1`, `d_1 = m d_2`, `c_1 = r k`, `b_2 = r m`.
fn chainable() -> impl Strategy<Value = ChainPattern> {
    let small = || 1usize..=3;
    let link = || (small(), small(), small());
    (proptest::collection::vec(link(), 1..=2), small(), small(), small(), small()).prop_map(|(links, a, d, b, c)| {
        // Left to right: a grows by k, d shrinks by m; r is the rank between neighbours.
        let mut patterns = Vec::new();
        let (mut a, mut lanes) = (a, d * links.iter().map(|link| link.1).product::<usize>());
        let mut outputs = b;
        for (k, m, r) in links {
            patterns.push(Pattern::new(a, outputs, r * k, lanes).unwrap());
            (a, lanes, outputs) = (a * k, lanes / m, r * m);
        }
        patterns.push(Pattern::new(a, outputs, c, lanes).unwrap());
        ChainPattern::new(patterns).unwrap()
    })
}

/// A whole number in −3 … 3, Gaussian for complex types.
fn whole<T: Scalar>(rng: &mut Rng) -> T {
    T::narrow(T::Wide::from_parts(f64::from(rng.i8(-3..=3)), f64::from(rng.i8(-3..=3))))
}

fn whole_chain<T: Scalar>(pattern: &ChainPattern, rng: &mut Rng) -> Chain<T> {
    Chain::from_fn(pattern, |_, _, _, _, _| whole(rng))
}

fn whole_vector<T: Scalar>(len: usize, rng: &mut Rng) -> Vec<T> {
    (0..len).map(|_| whole(rng)).collect()
}

fn multiply<T: Scalar>(chain: &Chain<T>, x: &[T], n: usize, layout: Layout, algorithm: Algorithm) -> Vec<T> {
    let options = Options { algorithm, threads: 2, tuning: Tuning::Off, ..Options::default() };
    Operator::new(chain, options).unwrap().multiply(x, n, layout).unwrap()
}

fn apply<T: Scalar>(chain: &Chain<T>, x: &[T]) -> Vec<T> {
    multiply(chain, x, x.len() / chain.cols(), Layout::BatchFirst, Algorithm::Auto)
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    let all: Vec<Algorithm> = [Algorithm::Auto, Algorithm::Fused].into_iter().chain(Algorithm::on_cpu()).collect();
    proptest::sample::select(all)
}

fn layout() -> impl Strategy<Value = Layout> {
    proptest::sample::select(Layout::ALL.to_vec())
}

/// `Σ x · conj(y)` in the wide type.
fn inner<T: Scalar>(x: &[T], y: &[T]) -> T::Wide {
    x.iter().zip(y).map(|(x, y)| x.widen() * y.conj().widen()).sum()
}

/// `n` vectors in the other layout.
fn relaid<T: Copy>(x: &[T], n: usize, features: usize, to: Layout) -> Vec<T> {
    let from = if to == Layout::BatchFirst { Layout::BatchLast } else { Layout::BatchFirst };
    let mut out = x.to_vec();
    for batch in 0..n {
        for feature in 0..features {
            out[to.index(batch, feature, n, features)] = x[from.index(batch, feature, n, features)];
        }
    }
    out
}

fn rng_of(seed: u64) -> Rng {
    stream(seed, "properties", kronsparse::DType::F64)
}

/// The engine against the definition, on exact numbers: not one bit may differ.
fn exact<T: Scalar>(pattern: &ChainPattern, n: usize, layout: Layout, algorithm: Algorithm, seed: u64) {
    let mut rng = rng_of(seed);
    let chain = whole_chain::<T>(pattern, &mut rng);
    let x = whole_vector(n * chain.cols(), &mut rng);
    let expected = reference::multiply(&chain, None, kronsparse::Activation::None, &x, n, layout);
    let expected: Vec<T> = expected.into_iter().map(T::narrow).collect();
    assert_eq!(multiply(&chain, &x, n, layout, algorithm), expected, "{}", T::DTYPE);
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn every_algorithm_is_exact_on_whole_numbers(
        pattern in any_chain(), n in 0usize..70, layout in layout(), algorithm in algorithm(), seed: u64,
    ) {
        exact::<f32>(&pattern, n, layout, algorithm, seed);
        exact::<f64>(&pattern, n, layout, algorithm, seed);
        exact::<Complex32>(&pattern, n, layout, algorithm, seed);
        exact::<Complex64>(&pattern, n, layout, algorithm, seed);
    }

    #[test]
    fn linear(pattern in any_chain(), n in 1usize..20, algorithm in algorithm(), layout in layout(), seed: u64) {
        let mut rng = rng_of(seed);
        let chain = whole_chain::<Complex64>(&pattern, &mut rng);
        let (alpha, beta): (Complex64, Complex64) = (whole(&mut rng), whole(&mut rng));
        let (x, y) = (whole_vector(n * chain.cols(), &mut rng), whole_vector(n * chain.cols(), &mut rng));
        let mix = |x: &[Complex64], y: &[Complex64]| -> Vec<Complex64> {
            x.iter().zip(y).map(|(x, y)| alpha * x + beta * y).collect()
        };
        let of = |x: &[Complex64]| multiply(&chain, x, n, layout, algorithm);
        prop_assert_eq!(of(&mix(&x, &y)), mix(&of(&x), &of(&y)));
        prop_assert_eq!(apply(&chain.scale(alpha), &x), apply(&chain, &x).iter().map(|v| alpha * v).collect::<Vec<_>>());
    }

    #[test]
    fn adjoint_moves_to_the_other_side(pattern in any_chain(), seed: u64) {
        let mut rng = rng_of(seed);
        let chain = whole_chain::<Complex64>(&pattern, &mut rng);
        let (x, y) = (whole_vector(chain.cols(), &mut rng), whole_vector(chain.rows(), &mut rng));
        prop_assert_eq!(inner(&apply(&chain, &x), &y), inner(&x, &apply(&chain.adjoint(), &y)));
        prop_assert_eq!(chain.adjoint(), chain.transpose().conj());
        let real = whole_chain::<f32>(&pattern, &mut rng);
        let (x, y) = (whole_vector(real.cols(), &mut rng), whole_vector(real.rows(), &mut rng));
        prop_assert_eq!(inner(&apply(&real, &x), &y), inner(&x, &apply(&real.transpose(), &y)));
    }

    #[test]
    fn transposing_twice_changes_nothing(pattern in any_chain(), seed: u64) {
        let chain = whole_chain::<Complex32>(&pattern, &mut rng_of(seed));
        prop_assert_eq!(&chain.transpose().transpose(), &chain);
        prop_assert_eq!(&chain.adjoint().adjoint(), &chain);
        prop_assert_eq!(chain.transpose().to_dense(), chain.to_dense().transpose());
        prop_assert_eq!(chain.transpose().pattern().clone(), pattern.transpose());
    }

    #[test]
    fn fusing_changes_no_product(pattern in chainable(), n in 1usize..6, seed: u64) {
        let mut rng = rng_of(seed);
        let chain = whole_chain::<Complex64>(&pattern, &mut rng);
        let x = whole_vector(n * chain.cols(), &mut rng);
        let count = chain.factors().len();
        for range in (0..count).flat_map(|from| (from + 1..=count).map(move |to| from..to)) {
            let fused = chain.fuse(range.clone()).unwrap();
            prop_assert_eq!(fused.factors().len(), count - range.len() + 1);
            prop_assert_eq!(fused.factors()[range.start].pattern(), pattern.product(range).unwrap());
            prop_assert_eq!(apply(&fused, &x), apply(&chain, &x));
        }
    }

    #[test]
    fn concatenated_chains_apply_one_after_the_other(pattern in any_chain(), n in 1usize..6, seed: u64) {
        let mut rng = rng_of(seed);
        let right = whole_chain::<f64>(&pattern, &mut rng);
        let left = right.transpose();
        let x = whole_vector(n * right.cols(), &mut rng);
        prop_assert_eq!(apply(&left.then(&right).unwrap(), &x), apply(&left, &apply(&right, &x)));
    }

    #[test]
    fn dense_round_trip_and_refusal(p in any_pattern(), seed: u64) {
        let mut rng = rng_of(seed);
        let factor = Factor::from_fn(p, |_, _, _, _| whole::<Complex32>(&mut rng));
        let dense = factor.to_dense();
        prop_assert_eq!(&Factor::from_dense(p, &dense).unwrap(), &factor);
        prop_assert_eq!(&Chain::from(factor.clone()).to_dense(), &dense);
        // The matrix multiplies as the factor does.
        let x = whole_vector::<Complex32>(p.cols(), &mut rng);
        let by_rows = (0..p.rows()).map(|r| dense.row(r).iter().zip(&x).map(|(w, x)| w * x).sum::<Complex32>());
        prop_assert_eq!(apply(&Chain::from(factor), &x), by_rows.collect::<Vec<_>>());
        // An entry off the support is refused by its place, be it ever so small, or NaN.
        let off: Vec<(usize, usize)> = (0..p.rows())
            .flat_map(|row| (0..p.cols()).map(move |col| (row, col)))
            .filter(|&(row, col)| !p.contains(row, col))
            .collect();
        if !off.is_empty() {
            let (row, col) = off[rng.usize(0..off.len())];
            for value in [Complex32::new(1e-30, 0.0), Complex32::new(0.0, -1.0), nan()] {
                let mut wrong = dense.clone();
                wrong.as_mut_slice()[row * p.cols() + col] = value;
                match Factor::from_dense(p, &wrong) {
                    Err(Error::OffSupport { row: r, col: c, pattern, .. }) => prop_assert_eq!((r, c, pattern), (row, col, p)),
                    other => prop_assert!(false, "({}, {}) was not refused: {:?}", row, col, other),
                }
            }
        }
        let wide = Matrix::from_fn(p.rows(), p.cols() + 1, |_, _| Complex32::new(0.0, 0.0));
        let refused = matches!(Factor::from_dense(p, &wide), Err(Error::Shape { .. }));
        prop_assert!(refused, "a matrix of another shape was accepted");
    }

    #[test]
    fn layouts_are_each_others_transpose(pattern in any_chain(), n in 0usize..40, algorithm in algorithm(), seed: u64) {
        let mut rng = rng_of(seed);
        let chain = whole_chain::<f32>(&pattern, &mut rng);
        let x = whole_vector(n * chain.cols(), &mut rng);
        let first = multiply(&chain, &x, n, Layout::BatchFirst, algorithm);
        let last = multiply(&chain, &relaid(&x, n, chain.cols(), Layout::BatchLast), n, Layout::BatchLast, algorithm);
        prop_assert_eq!(relaid(&last, n, chain.rows(), Layout::BatchFirst), first);
    }

    #[test]
    fn sizes_that_do_not_match_are_named(left in any_pattern(), right in any_pattern(), before in 0usize..3) {
        prop_assume!(left.cols() != right.rows());
        let lead = Pattern::new(left.rows(), 1, 1, 1).unwrap();
        let mut patterns = vec![lead; before];
        patterns.extend([left, right]);
        let error = ChainPattern::new(patterns).unwrap_err();
        let text = error.to_string();
        for part in [
            format!("factors {before} and {}", before + 1),
            format!("factor {before} {left} has {} columns", left.cols()),
            format!("factor {} {right} has {} rows", before + 1, right.rows()),
        ] {
            prop_assert!(text.contains(&part), "`{}` lacks `{}`", text, part);
        }
    }

    #[test]
    fn a_bias_of_the_wrong_length_and_wrong_inputs_are_named(pattern in any_chain(), n in 1usize..9, extra in 1usize..4) {
        let chain = whole_chain::<f32>(&pattern, &mut rng_of(1));
        let (rows, cols) = (chain.rows(), chain.cols());
        let options = Options { bias: Some(vec![0.0; rows + extra]), ..Options::default() };
        let bias = Operator::new(&chain, options).unwrap_err().to_string();
        prop_assert!(bias.contains(&format!("expected {rows} elements, found {}", rows + extra)), "{}", bias);
        let operator = Operator::new(&chain, Options::default()).unwrap();
        for layout in Layout::ALL {
            let (mut y, x) = (vec![0.5; n * rows], vec![0.0; n * cols + extra]);
            let error = operator.apply(&x, &mut y, n, layout).unwrap_err().to_string();
            prop_assert!(error.contains(&format!("expected {} elements, found {}", n * cols, x.len())), "{}", error);
            y.pop();
            let error = operator.apply(&x[extra..], &mut y, n, layout).unwrap_err().to_string();
            prop_assert!(error.contains(&format!("expected {} elements, found {}", n * rows, y.len())), "{}", error);
            prop_assert!(y.iter().all(|&y| y == 0.5), "a refused product wrote into its output");
        }
    }
}

/// Rounded numbers: what may differ in the last bits, and what may not.
fn rounded<T: Scalar>(pattern: &ChainPattern, n: [usize; 2], layout: Layout, algorithm: Algorithm, seed: u64) {
    let mut rng = rng_of(seed);
    let weights = Weights::<T>::draw(pattern, false, Draw::Aligned, &mut rng);
    let operator =
        Operator::new(&weights.chain, Options { algorithm, threads: 2, tuning: Tuning::Off, ..Options::default() })
            .unwrap();
    let (rows, cols, total) = (weights.chain.rows(), weights.chain.cols(), n[0] + n[1]);
    let tolerance = T::DTYPE.tolerance(pattern.longest_sum(), pattern.patterns().len());
    let x = weights.draw_input(total, Layout::BatchFirst, &mut rng);
    let expected =
        reference::multiply(&weights.chain, None, kronsparse::Activation::None, &x, total, Layout::BatchFirst);
    let laid = |x: &[T], n, features| match layout {
        Layout::BatchFirst => x.to_vec(),
        Layout::BatchLast => relaid(x, n, features, Layout::BatchLast),
    };
    let unlaid = |y: Vec<T>, n| match layout {
        Layout::BatchFirst => y,
        Layout::BatchLast => relaid(&y, n, rows, Layout::BatchFirst),
    };
    let run = |x: &[T], n| unlaid(operator.multiply(&laid(x, n, cols), n, layout).unwrap(), n);
    let place = format!("{} {layout} {algorithm} n={total}", T::DTYPE);

    // Split batches agree with the whole within rounding. Not bit for bit: another tile may sum in another order.
    let whole = run(&x, total);
    let mut parts = run(&x[..n[0] * cols], n[0]);
    parts.extend(run(&x[n[0] * cols..], n[1]));
    let error = relative_error_wide(&whole, &expected);
    assert!(error <= tolerance, "{place}: error {error:e} > {tolerance:e}");
    let error = relative_error(&parts, &whole);
    assert!(error <= 2.0 * tolerance, "{place}: split into {n:?}: {error:e} > {:e}", 2.0 * tolerance);

    // The same call gives the same bits, with fresh scratch and with one that another batch has used.
    let mut scratch = Scratch::new(operator.apply_scratch(total, layout));
    let laid_x = laid(&x, total, cols);
    for other in [total + 3, total] {
        let mut y = vec![T::ZERO; other * rows];
        operator.apply_with(&vec![nan(); other * cols], &mut y, other, layout, &mut scratch).unwrap();
        let mut again = vec![nan(); total * rows];
        operator.apply_with(&laid_x, &mut again, total, layout, &mut scratch).unwrap();
        let same = bytemuck::cast_slice::<T, u8>(&unlaid(again, total)) == bytemuck::cast_slice::<T, u8>(&whole);
        assert!(same, "{place}: used scratch changed the result");
    }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn split_batches_and_used_scratch(
        pattern in any_chain(), n in [0usize..40, 8usize..40], layout in layout(), algorithm in algorithm(), seed: u64,
    ) {
        rounded::<half::f16>(&pattern, n, layout, algorithm, seed);
        rounded::<half::bf16>(&pattern, n, layout, algorithm, seed);
        rounded::<f32>(&pattern, n, layout, algorithm, seed);
        rounded::<f64>(&pattern, n, layout, algorithm, seed);
        rounded::<Complex32>(&pattern, n, layout, algorithm, seed);
        rounded::<Complex64>(&pattern, n, layout, algorithm, seed);
    }
}

#[test]
fn gated_chains_interleave_the_rows_of_two() {
    let mut rng = Rng::with_seed(harness::inputs::seed());
    let pattern = |[a, b, c, d]: [usize; 4]| Pattern::new(a, b, c, d).unwrap();
    for patterns in [
        vec![[3, 5, 4, 1]],
        vec![[1, 7, 4, 6], [4, 6, 5, 1]],
        vec![[2, 3, 5, 4], [1, 40, 9, 1]],
        vec![[1, 4, 3, 12], [3, 6, 2, 2], [4, 3, 5, 1]],
    ] {
        let pattern = ChainPattern::new(patterns.into_iter().map(pattern).collect()).unwrap();
        let mut draw = || Chain::from_fn(&pattern, |_, _, _, _, _| 2.0 * rng.f64() - 1.0);
        let (gate, up) = (draw(), draw());
        let both = Chain::gated(&gate, &up).unwrap();
        assert_eq!((both.rows(), both.cols()), (2 * gate.rows(), gate.cols()), "{pattern}");
        assert_eq!(both.parameters(), 2 * gate.parameters(), "{pattern}");
        let (both, gate, up) = (both.to_dense(), gate.to_dense(), up.to_dense());
        for row in 0..gate.rows() {
            for (found, expected) in [(2 * row, &gate), (2 * row + 1, &up)] {
                let error = relative_error(both.row(found), expected.row(row));
                assert!(error < 1e-13, "{pattern}, row {found}: {error}");
            }
        }
    }
    let of = |patterns: Vec<[usize; 4]>| {
        let pattern = ChainPattern::new(patterns.into_iter().map(pattern).collect()).unwrap();
        Chain::from_fn(&pattern, |_, _, _, _, _| 1.0)
    };
    let lanes = Chain::gated(&of(vec![[2, 3, 4, 5]]), &of(vec![[2, 3, 4, 5]])).unwrap_err().to_string();
    assert!(lanes.contains("d = 1, found 5"), "{lanes}");
    let other = Chain::gated(&of(vec![[1, 6, 4, 1]]), &of(vec![[2, 3, 2, 1]])).unwrap_err().to_string();
    assert!(other.contains("(1,6,4,1)") && other.contains("(2,3,2,1)"), "{other}");
}
