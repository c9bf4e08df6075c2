//! Factorization: exact on structured matrices, optimal where that is known, within its guarantee, and honest in what it
//! reports.

use half::{bf16, f16};
use kronsparse::factorize::{Options, Order, factorize};
use kronsparse::scalar::Wide;
use kronsparse::{Chain, ChainPattern, ChainSpec, Matrix, Pattern, Scalar, transform};
use num_complex::{Complex32, Complex64};

/// Uniform numbers in −1…1, a new sequence for every seed (splitmix64).
struct Random(u64);

impl Random {
    fn real(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
    fn scalar<T: Scalar>(&mut self) -> T {
        T::narrow(T::Wide::from_parts(self.real(), self.real()))
    }
    fn matrix<T: Scalar>(&mut self, rows: usize, cols: usize) -> Matrix<T> {
        Matrix::from_fn(rows, cols, |_, _| self.scalar())
    }
    fn chain<T: Scalar>(&mut self, pattern: &ChainPattern) -> Chain<T> {
        Chain::from_fn(pattern, |_, _, _, _, _| self.scalar())
    }
}

fn chain(text: &str) -> ChainPattern {
    match text.parse().unwrap() {
        ChainSpec::Explicit(pattern) => pattern,
        other => panic!("{other} is no explicit chain"),
    }
}

fn options(order: Order) -> Options {
    Options { order, ..Options::default() }
}

/// Chains of rank 1, 2 and 3, square and not, with `a > 1` or `d > 1` of the product, and one that is redundant.
const CHAINS: [&str; 9] = [
    "(1,8,4,6)(4,6,5,1)",
    "(1,8,8,6)(4,12,5,1)",
    "(1,5,6,4)(2,6,3,2)(6,2,4,1)",
    "(1,4,3,9)(3,3,3,3)(9,3,2,1)",
    "(1,4,6,8)(2,6,6,4)(4,6,6,2)(8,6,4,1)",
    "(2,3,4,6)(4,4,3,3)",
    "(1,2,4,4)(2,4,4,2)(4,4,2,1)",
    "(1,2,2,16)(2,2,2,8)(4,2,2,4)(8,2,2,2)(16,2,2,1)",
    "(1,2,6,4)(2,12,4,1)",
];

/// The true relative error, from dense matrices in the wide type.
fn true_error<T: Scalar>(matrix: &Matrix<T>, chain: &Chain<T>) -> f64 {
    let columns: Vec<Vec<T::Wide>> = (0..chain.cols())
        .map(|col| {
            let mut unit = vec![T::ZERO; chain.cols()];
            unit[col] = T::narrow(T::Wide::ONE);
            kronsparse::reference::vector(chain, &unit)
        })
        .collect();
    let (mut error, mut norm) = (0.0, 0.0);
    for row in 0..matrix.rows() {
        for (col, column) in columns.iter().enumerate() {
            let a = matrix.get(row, col).widen();
            error += (a - column[row]).abs2();
            norm += a.abs2();
        }
    }
    (error / norm).sqrt()
}

fn norm(matrix: &Matrix<f64>) -> f64 {
    matrix.as_slice().iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Rounding level of a product of `factors` rounded factors that approximates a rounded matrix.
fn rounding<T: Scalar>(factors: usize) -> f64 {
    4.0 * (factors + 1) as f64 * T::DTYPE.unit_roundoff()
}

fn recovers<T: Scalar>(seed: u64) {
    let mut random = Random(seed);
    for text in CHAINS {
        let pattern = chain(text);
        let matrix = random.chain::<T>(&pattern).to_dense();
        for order in Order::ALL {
            for orthonormal in [true, false] {
                let result = factorize(&matrix, &pattern, &Options { order, orthonormal, threads: 0 }).unwrap();
                assert_eq!(result.chain.pattern(), &pattern);
                let limit = rounding::<T>(pattern.patterns().len());
                let found = true_error(&matrix, &result.chain);
                assert!(found <= limit, "{text} {order} {} {orthonormal}: {found:e} above {limit:e}", T::DTYPE);
                assert!(result.relative_error <= limit && result.relative_error >= 0.0);
            }
        }
    }
}

#[test]
fn products_of_random_factors_are_recovered_in_every_type() {
    recovers::<f64>(1);
    recovers::<f32>(2);
    recovers::<f16>(3);
    recovers::<bf16>(4);
    recovers::<Complex32>(5);
    recovers::<Complex64>(6);
}

#[test]
fn hadamard_is_recovered_to_rounding() {
    let pattern = ChainPattern::square_dyadic(1024).unwrap();
    let dense = transform::hadamard::<f64>(1024).unwrap().to_dense();
    for order in Order::ALL {
        let result = factorize(&dense, &pattern, &options(order)).unwrap();
        assert!(result.relative_error < 1e-14, "{order}: {:e}", result.relative_error);
        assert_eq!(result.steps.len(), 9);
        assert!(result.steps.iter().all(|step| step.rank == 1 && step.relative_error < 1e-14));
    }
    let dense = transform::hadamard::<f32>(1024).unwrap().to_dense();
    let result = factorize(&dense, &pattern, &options(Order::Balanced)).unwrap();
    assert!(true_error(&dense, &result.chain) < 1e-6);
    assert!(result.relative_error < 1e-6);
}

#[test]
fn dft_times_bit_reversal_is_recovered_and_plain_dft_is_not() {
    let n = 256;
    let dft = transform::dft::<Complex64>(n).unwrap();
    let plain = dft.to_dense();
    // F = chain · P, so F · Pᵀ has the structure: column i of it is column source(i) of F.
    let source = dft.permutation().source();
    let reordered = Matrix::from_fn(n, n, |row, col| plain.get(row, source[col]));
    let pattern = ChainPattern::square_dyadic(n).unwrap();
    for order in Order::ALL {
        let exact = factorize(&reordered, &pattern, &options(order)).unwrap();
        assert!(exact.relative_error < 1e-14, "{order}: {:e}", exact.relative_error);
        assert!(true_error(&reordered, &exact.chain) < 1e-14);
        let inexact = factorize(&plain, &pattern, &options(order)).unwrap();
        assert!(inexact.relative_error > 0.1, "{order}: {:e}", inexact.relative_error);
    }
}

#[test]
fn two_factors_are_optimal() {
    let mut random = Random(7);
    for (text, m, n) in [("(1,8,4,6)(4,6,5,1)", 8, 5), ("(1,8,8,6)(4,12,5,1)", 8, 5), ("(2,6,3,8)(6,8,7,1)", 6, 7)] {
        let pattern = chain(text);
        let (left, right) = (pattern.patterns()[0], pattern.patterns()[1]);
        let rank = pattern.ranks().unwrap()[0];
        let matrix = random.matrix::<f64>(pattern.rows(), pattern.cols());
        // Blocks by the definition of the support: rows of `left` and columns of `right` that share hidden features.
        let mut lost = 0.0;
        let mut kept = 0.0;
        for i2 in 0..right.a() {
            for j1 in 0..left.d() {
                let i = i2 * left.a() / right.a();
                let block =
                    Matrix::from_fn(m, n, |o, l| matrix.get(left.row(i, o, j1), right.col(i2, l, j1 % right.d())));
                let sigma = singular_values(&block);
                lost += sigma[rank..].iter().map(|s| s * s).sum::<f64>();
                kept += sigma[..rank].iter().map(|s| s * s).sum::<f64>();
            }
        }
        // What lies outside of the support of the product is lost too.
        let total = norm(&matrix).powi(2);
        let outside = total - lost - kept;
        for order in Order::ALL {
            for orthonormal in [true, false] {
                let result = factorize(&matrix, &pattern, &Options { order, orthonormal, threads: 0 }).unwrap();
                let expected = ((lost + outside) / total).sqrt();
                assert!((result.relative_error / expected - 1.0).abs() < 1e-8, "{text}: {expected}");
                assert!((result.steps[0].relative_error - (lost / (lost + kept)).sqrt()).abs() < 1e-8);
                assert_eq!(result.bound, 1.0);
            }
        }
    }
}

/// Singular values, largest first, by one-sided Jacobi rotations: slow, accurate, and not the library's route.
fn singular_values(matrix: &Matrix<f64>) -> Vec<f64> {
    let (m, n) = (matrix.rows(), matrix.cols());
    let mut columns: Vec<Vec<f64>> = (0..n).map(|c| (0..m).map(|r| matrix.get(r, c)).collect()).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                let (alpha, beta, gamma) =
                    (dot(&columns[p], &columns[p]), dot(&columns[q], &columns[q]), dot(&columns[p], &columns[q]));
                if gamma.abs() <= 1e-17 * (alpha * beta).sqrt() {
                    continue;
                }
                let zeta = (beta - alpha) / (2.0 * gamma);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                let (head, tail) = columns.split_at_mut(q);
                for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
                    (*x, *y) = (c * (*x - t * *y), c * (t * *x + *y));
                }
            }
        }
    }
    let mut sigma: Vec<f64> = columns.iter().map(|c| dot(c, c).sqrt()).collect();
    sigma.sort_by(|a, b| b.total_cmp(a));
    sigma
}

#[test]
fn the_error_keeps_its_guarantee_under_noise() {
    let mut random = Random(8);
    for text in CHAINS {
        let pattern = chain(text);
        let exact = random.chain::<f64>(&pattern).to_dense();
        for level in [1e-6, 1e-3, 0.1, 1.0] {
            let noise = random.matrix::<f64>(pattern.rows(), pattern.cols());
            let noisy = Matrix::from_fn(exact.rows(), exact.cols(), |r, c| exact.get(r, c) + level * noise.get(r, c));
            // The best product of the chain is at least as near as `exact`.
            let best_at_most = level * norm(&noise) / norm(&noisy);
            for order in Order::ALL {
                let result = factorize(&noisy, &pattern, &options(order)).unwrap();
                let splits = pattern.patterns().len() - 1;
                assert!(result.bound <= splits as f64 && result.bound >= (splits as f64).sqrt());
                let limit = result.bound * best_at_most * (1.0 + 1e-12);
                assert!(result.relative_error <= limit, "{text} {order} {level}: {:e}", result.relative_error);
            }
        }
    }
}

#[test]
fn reported_errors_are_true() {
    fn check<T: Scalar>(seed: u64, digits: f64) {
        let mut random = Random(seed);
        for text in CHAINS {
            let pattern = chain(text);
            let matrix = random.matrix::<T>(pattern.rows(), pattern.cols());
            let dense = pattern.product(0..pattern.patterns().len()).unwrap().density() == 1.0;
            for order in Order::ALL {
                for orthonormal in [true, false] {
                    let result = factorize(&matrix, &pattern, &Options { order, orthonormal, threads: 0 }).unwrap();
                    let found = true_error(&matrix, &result.chain);
                    // A redundant chain is exact: what is left is the rounding of the two computations.
                    assert!(
                        (result.relative_error - found).abs() <= 1e-12 * found + 1e-15,
                        "{text} {order} {}",
                        T::DTYPE
                    );
                    // Steps: one per pair, with the rank of its position.
                    let ranks = pattern.ranks().unwrap();
                    assert_eq!(result.steps.len(), ranks.len());
                    for step in &result.steps {
                        assert!(step.factors.start < step.split && step.split < step.factors.end);
                        assert_eq!(step.rank, ranks[step.split - 1]);
                    }
                    // Errors of an order that works to one side are orthogonal, so that 1 − e² is a product over the steps.
                    if dense && orthonormal && order != Order::Balanced {
                        let kept: f64 = result.steps.iter().map(|s| 1.0 - s.relative_error.powi(2)).product();
                        assert!(((1.0 - kept).sqrt() - found).abs() < digits, "{text} {order}: steps do not add up");
                    }
                }
            }
        }
    }
    check::<f64>(9, 1e-12);
    check::<Complex64>(10, 1e-12);
    check::<f32>(11, 1e-6);
    check::<bf16>(12, 1e-2);
}

#[test]
fn the_hierarchy_equals_projecting_the_whole_product() {
    // With orthonormalisation a split of one factor is the best approximation of the whole product at that position, so
    // the same result comes from splitting dense matrices in two, again and again.
    let mut random = Random(17);
    for text in CHAINS {
        let pattern = chain(text);
        let len = pattern.patterns().len();
        let matrix = random.matrix::<Complex64>(pattern.rows(), pattern.cols());
        for order in Order::ALL {
            let result = factorize(&matrix, &pattern, &options(order)).unwrap();
            let mut product = matrix.clone();
            for step in &result.steps {
                let halves = [0..step.split, step.split..len].map(|range| pattern.product(range).unwrap());
                let pair = ChainPattern::new(halves.to_vec()).unwrap();
                let two = factorize(&product, &pair, &Options::default()).unwrap();
                product = two.chain.to_dense();
            }
            let error = result.chain.to_dense().relative_error(&product).unwrap();
            assert!(error < 1e-9, "{text} {order}: {error:e}");
        }
    }
}

#[test]
fn orthonormalisation_is_what_makes_the_difference_on_ill_scaled_factors() {
    // The middle factors are almost singular: an error that looks small in one of them is large in the product.
    let mut random = Random(13);
    let pattern = ChainPattern::square_dyadic(64).unwrap();
    let mut worse = 0;
    for _ in 0..5 {
        let skew = Chain::<f64>::from_fn(&pattern, |_, _, o, _, _| random.real() * if o == 0 { 1.0 } else { 1e-3 });
        let exact = skew.to_dense();
        let level = 1e-3 * norm(&exact) / 64.0;
        let noisy = Matrix::from_fn(64, 64, |r, c| exact.get(r, c) + level * random.real());
        let run = |orthonormal| {
            factorize(&noisy, &pattern, &Options { order: Order::LeftToRight, orthonormal, threads: 0 }).unwrap()
        };
        let (with, without) = (run(true), run(false));
        assert_eq!((with.bound, without.bound), (5f64.sqrt(), f64::INFINITY));
        worse += usize::from(without.relative_error > with.relative_error);
    }
    assert!(worse >= 4, "only {worse} of 5 matrices gained from orthonormalisation");
}

#[test]
fn threads_do_not_change_the_result() {
    let mut random = Random(14);
    for text in CHAINS.into_iter().chain(["(1,16,16,16)(16,16,16,1)"]) {
        let pattern = chain(text);
        let matrix = random.matrix::<f32>(pattern.rows(), pattern.cols());
        for order in Order::ALL {
            let run = |threads| factorize(&matrix, &pattern, &Options { order, orthonormal: true, threads }).unwrap();
            assert_eq!(run(1), run(2), "{text} {order}");
        }
    }
}

#[test]
fn extreme_magnitudes_zero_and_a_single_factor() {
    let mut random = Random(15);
    let pattern = chain("(1,4,6,8)(2,6,6,4)(4,6,6,2)(8,6,4,1)");
    let exact = random.chain::<f64>(&pattern).to_dense();
    for scale in [1e-290, 1e-160, 1e160, 1e300] {
        let scaled = Matrix::from_fn(exact.rows(), exact.cols(), |r, c| exact.get(r, c) * scale);
        let result = factorize(&scaled, &pattern, &options(Order::Balanced)).unwrap();
        assert!(result.relative_error < 1e-14, "{scale:e}: {:e}", result.relative_error);
    }
    // The whole range of f16: the largest entry is near its maximum, hidden values included.
    let largest = exact.as_slice().iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let narrow = Matrix::from_fn(exact.rows(), exact.cols(), |r, c| f16::from_f64(exact.get(r, c) * 6e4 / largest));
    let result = factorize(&narrow, &pattern, &Options::default()).unwrap();
    assert!(result.relative_error < rounding::<f16>(4), "{:e}", result.relative_error);

    let zero = Matrix::from_fn(exact.rows(), exact.cols(), |_, _| 0.0f32);
    for order in Order::ALL {
        let result = factorize(&zero, &pattern, &options(order)).unwrap();
        assert_eq!(result.relative_error, 0.0);
        assert_eq!(result.chain.to_dense(), zero);
    }

    let single = ChainPattern::new(vec![Pattern::new(2, 3, 4, 2).unwrap()]).unwrap();
    let matrix = random.matrix::<f32>(12, 16);
    let result = factorize(&matrix, &single, &Options::default()).unwrap();
    let found = true_error(&matrix, &result.chain);
    assert!((result.relative_error - found).abs() < 1e-12 && found > 0.5);
    assert_eq!((result.steps.len(), result.bound), (0, 1.0));
    for row in 0..12 {
        for col in 0..16 {
            let expected = if single.patterns()[0].contains(row, col) { matrix.get(row, col) } else { 0.0 };
            assert_eq!(result.chain.to_dense().get(row, col), expected);
        }
    }
}

#[test]
fn blocks_with_tiny_singular_values_keep_all_their_digits() {
    // Rank 2, second singular value 1e-10 of the first: a Gram matrix alone would lose it in f64.
    let pattern = chain("(1,16,4,6)(2,12,20,1)");
    assert_eq!(pattern.ranks().unwrap(), [2]);
    let mut random = Random(16);
    let exact = Chain::<f64>::from_fn(&pattern, |at, _, _, l, _| {
        random.real() * if at == 0 && l % 2 == 1 { 1e-10 } else { 1.0 }
    });
    let result = factorize(&exact.to_dense(), &pattern, &Options::default()).unwrap();
    assert!(result.relative_error < 1e-15, "{:e}", result.relative_error);
}

#[test]
fn refusals_name_what_is_wrong() {
    let options = Options::default();
    let matrix = Matrix::from_fn(16, 16, |_, _| 1.0f64);
    let message =
        |matrix: &Matrix<f64>, pattern: &str| factorize(matrix, &chain(pattern), &options).unwrap_err().to_string();
    let text = message(&matrix, "(1,4,4,4)(16,1,1,1)(16,1,1,1)");
    assert!(text.contains("factors 0 and 1 are not chainable") && text.contains("(16,1,1,1)"), "{text}");
    let text = message(&matrix, "(1,4,4,4)(4,4,4,1)(1,16,16,1)");
    assert!(text.contains("factors 1 and 2 are not chainable"), "{text}");
    let text = message(&matrix, "(1,4,4,2)(4,2,4,1)");
    assert!(text.contains("expected shape [8, 16], found [16, 16]"), "{text}");
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let broken = Matrix::from_fn(16, 16, |r, c| if (r, c) == (3, 7) || r == 9 { bad } else { 1.0 });
        let text = message(&broken, "(1,4,4,4)(4,4,4,1)");
        assert!(text.contains("entry (3, 7)") && text.contains("finite"), "{text}");
    }
    let broken = Matrix::from_fn(4, 4, |r, c| Complex32::new(1.0, if (r, c) == (2, 1) { f32::NAN } else { 0.0 }));
    let text = factorize(&broken, &chain("(1,2,2,2)(2,2,2,1)"), &options).unwrap_err().to_string();
    assert!(text.contains("entry (2, 1)"), "{text}");
    assert!("middle".parse::<Order>().unwrap_err().to_string().contains("l2r, r2l, balanced"));
    assert!(Order::ALL.iter().all(|order| order.to_string().parse::<Order>().unwrap() == *order));
}
