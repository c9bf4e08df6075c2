//! Is the product right? Every output is looked at; the oracle's slow loops are run on as much as can be afforded.
//!
//! Three checks, on an output that was filled with NaN before the multiplication:
//!
//! 1. **Written**: no output is NaN (inputs are finite, so a NaN is an element that was never stored).
//! 2. **Vectors**: the first, the last and randomly chosen vectors of the batch against [`kronsparse::reference`]; all of
//!    them where the whole problem is small.
//! 3. **Combination**: `Σ_n u_n Y_n` against `W Σ_n u_n X_n` with random `u_n` in `[-1, 1)`, in f64: one more vector for the
//!    oracle, and every output of every vector takes part (Freivalds' check, 1977). Rounding errors are independent, so
//!    the relative error of the combination is of the size of that of `Y`, unless a combination of few numbers happens to
//!    cancel out: where every vector was compared by itself, it is not asked for. The sums are compensated, so that a long
//!    batch adds no error of its own.
//!
//! The error reported is the larger of the two relative Frobenius errors; the tolerance is that of
//! [`DType::tolerance`](kronsparse::DType::tolerance), and for the combination two f64 roundings more: it rounds its
//! products with `u_n` once on either side, which only matters in `f64` and `c128`.

use kronsparse::scalar::Wide;
use kronsparse::{Activation, Chain, DType, Layout, Scalar, reference};

use crate::random::Random;

/// Multiply-adds that the oracle may spend on the vectors of one case: below, all of them are checked.
const BUDGET: usize = 20_000_000;

/// Fewest vectors that are checked, however expensive.
const FEWEST: usize = 3;

/// The wide scalar as an element type of its own, to run the oracle on numbers that no narrow type can hold.
pub trait WideScalar: Wide + Scalar<Wide = Self> {}
impl<T: Wide + Scalar<Wide = T>> WideScalar for T {}

/// What the right answer is, computed once per problem and compared with every algorithm's output.
#[derive(Debug)]
pub struct Oracle<T: Scalar> {
    rows: usize,
    n: usize,
    layout: Layout,
    tolerance: f64,
    /// Which vectors of the batch were computed, ascending.
    vectors: Vec<usize>,
    /// Their outputs, one vector after the other.
    expected: Vec<T::Wide>,
    /// `u_n`.
    mix: Vec<f64>,
    /// `W Σ_n u_n X_n`.
    mixed: Vec<T::Wide>,
}

/// The verdict on one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Largest relative error of the checks; NaN if an output was not written.
    pub error: f64,
    /// Sum of all outputs (real and imaginary parts): equal, up to rounding, for every algorithm on the same inputs.
    pub checksum: f64,
    /// Why the output is wrong, if it is.
    pub wrong: Option<String>,
}

impl<T: Scalar<Wide: WideScalar>> Oracle<T> {
    /// Computes the right answer for `chain` times the `n ≥ 1` vectors of `x`, laid out as `layout` says.
    ///
    /// `seed` chooses the vectors and the combination.
    pub fn new(chain: &Chain<T>, x: &[T], n: usize, layout: Layout, seed: u64) -> Oracle<T> {
        assert!(n > 0, "an empty batch has nothing to verify");
        let (rows, cols) = (chain.rows(), chain.cols());
        let mut random = Random::new(seed);
        let affordable = (BUDGET / chain.parameters().max(1)).max(FEWEST);
        let vectors = choose(n, affordable, &mut random);

        let subset: Vec<T> =
            vectors.iter().flat_map(|&v| (0..cols).map(move |c| x[layout.index(v, c, n, cols)])).collect();
        let none = Activation::None;
        let expected = reference::multiply(chain, None, none, &subset, vectors.len(), Layout::BatchFirst);

        let mix: Vec<f64> = (0..n).map(|_| random.symmetric()).collect();
        let wide_chain = chain.cast::<T::Wide>();
        let mixed = reference::vector(&wide_chain, &combine(x, n, cols, layout, &mix));
        let pattern = chain.pattern();
        let tolerance = T::DTYPE.tolerance(pattern.longest_sum(), pattern.patterns().len());
        Oracle { rows, n, layout, tolerance, vectors, expected, mix, mixed }
    }

    /// The largest relative error that is still right.
    pub fn tolerance(&self) -> f64 {
        self.tolerance
    }
    /// How many vectors of the batch are compared element by element.
    pub fn vectors(&self) -> usize {
        self.vectors.len()
    }

    /// Judges an output of `n · rows` elements.
    pub fn judge(&self, y: &[T]) -> Verdict {
        assert_eq!(y.len(), self.n * self.rows, "Y must have n · rows elements");
        let checksum = y.iter().map(|v| v.widen().parts()).map(|(re, im)| re + im).sum();
        if let Some(at) = y.iter().position(|v| v.widen().abs2().is_nan()) {
            let (batch, row) = match self.layout {
                Layout::BatchFirst => (at / self.rows, at % self.rows),
                Layout::BatchLast => (at % self.n, at / self.n),
            };
            let missing = y.iter().filter(|v| v.widen().abs2().is_nan()).count();
            let wrong = format!(
                "{missing} of {} outputs are NaN or were never written, the first is row {row} of vector {batch}",
                y.len()
            );
            return Verdict { error: f64::NAN, checksum, wrong: Some(wrong) };
        }
        let found = self.vectors.iter().flat_map(|&v| (0..self.rows).map(move |r| (v, r)));
        let found: Vec<T> = found.map(|(v, r)| y[self.layout.index(v, r, self.n, self.rows)]).collect();
        let vectors = kronsparse::relative_error_wide(&found, &self.expected);
        let mixed = if self.vectors.len() < self.n {
            kronsparse::relative_error_wide(&combine(y, self.n, self.rows, self.layout, &self.mix), &self.mixed)
        } else {
            0.0
        };
        // Not f64::max alone, which prefers a number over NaN: an infinite output makes NaN of a combination.
        let error = if vectors.is_nan() || mixed.is_nan() { f64::NAN } else { vectors.max(mixed) };
        let verdict = |error: f64, tolerance: f64, which: &str| {
            // Written so that NaN fails.
            let right = error <= tolerance;
            (!right).then(|| format!("relative error {error:.2e} of {which} exceeds the tolerance {tolerance:.2e}"))
        };
        let wrong = verdict(vectors, self.tolerance, "the checked vectors").or_else(|| {
            let two_roundings = 2.0 * DType::F64.unit_roundoff();
            verdict(mixed, self.tolerance + two_roundings, "a combination of all vectors")
        });
        Verdict { error, checksum, wrong }
    }
}

/// Fills an output with NaN, so that what is not written is found.
pub fn poison<T: Scalar>(y: &mut [T]) {
    y.fill(T::narrow(T::Wide::from_parts(f64::NAN, f64::NAN)));
}

/// All of `0..n` if affordable; otherwise the first, the last and random ones in between, ascending, without repetition.
pub(crate) fn choose(n: usize, affordable: usize, random: &mut Random) -> Vec<usize> {
    if n <= affordable {
        return (0..n).collect();
    }
    let mut chosen = std::collections::BTreeSet::from([0, n - 1]);
    while chosen.len() < affordable {
        chosen.insert(random.below(n));
    }
    chosen.into_iter().collect()
}

/// A running sum with the rounding error of its last step (Kahan, *Further remarks on reducing truncation errors*, 1965).
#[derive(Clone, Copy)]
struct Compensated<W> {
    sum: W,
    excess: W,
}

impl<W: Wide> Compensated<W> {
    fn add(&mut self, term: W) {
        let term = term - self.excess;
        let sum = self.sum + term;
        self.excess = (sum - self.sum) - term;
        self.sum = sum;
    }
}

/// `Σ_n u_n V_n` for `n` vectors of `features` elements.
fn combine<T: Scalar>(values: &[T], n: usize, features: usize, layout: Layout, mix: &[f64]) -> Vec<T::Wide> {
    let mut sums = vec![Compensated { sum: T::Wide::ZERO, excess: T::Wide::ZERO }; features];
    let weights: Vec<T::Wide> = mix.iter().map(|&u| T::Wide::from_parts(u, 0.0)).collect();
    match layout {
        Layout::BatchFirst => {
            for (vector, &u) in values.chunks_exact(features).zip(&weights) {
                sums.iter_mut().zip(vector).for_each(|(s, v)| s.add(u * v.widen()));
            }
        }
        Layout::BatchLast => {
            for (s, feature) in sums.iter_mut().zip(values.chunks_exact(n)) {
                feature.iter().zip(&weights).for_each(|(v, &u)| s.add(u * v.widen()));
            }
        }
    }
    sums.into_iter().map(|s| s.sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use kronsparse::ChainPattern;
    use num_complex::Complex32;

    /// A chain, its input, its oracle and the right output, rounded.
    fn problem<T: Scalar<Wide: WideScalar>>(n: usize, layout: Layout) -> (Oracle<T>, Vec<T>) {
        let pattern = ChainPattern::monarch(24, 36, 4, 6).unwrap();
        let mut random = Random::new(Random::fresh_seed());
        let chain = Chain::from_fn(&pattern, |_, _, _, _, _| random.scalar::<T>(0.7));
        let x: Vec<T> = (0..n * 36).map(|_| random.scalar(1.0)).collect();
        let y = reference::multiply(&chain, None, Activation::None, &x, n, layout);
        (Oracle::new(&chain, &x, n, layout, random.bits()), y.into_iter().map(T::narrow).collect())
    }

    #[test]
    fn the_right_answer_passes_in_every_layout() {
        for layout in Layout::ALL {
            for n in [1, 2, 37] {
                let (oracle, y) = problem::<f32>(n, layout);
                let verdict = oracle.judge(&y);
                assert_eq!(verdict.wrong, None, "{layout} {n}");
                assert!(verdict.error < 1e-7 && verdict.error > 0.0, "{verdict:?}");
                let (oracle, y) = problem::<bf16>(n, layout);
                assert_eq!(oracle.judge(&y).wrong, None, "{layout} {n}");
                let (oracle, y) = problem::<Complex32>(n, layout);
                assert_eq!(oracle.judge(&y).wrong, None, "{layout} {n}");
            }
        }
    }

    #[test]
    fn a_long_batch_adds_no_error_of_its_own() {
        for layout in Layout::ALL {
            // The outputs are the oracle's own: what is left is the noise of the check, a few units of 1.1e-16.
            let (oracle, y) = problem::<f64>(5000, layout);
            let verdict = oracle.judge(&y);
            assert_eq!(verdict.wrong, None);
            assert!(verdict.error < 4e-16, "{}", verdict.error);
        }
    }

    #[test]
    fn an_output_that_was_not_written_is_named() {
        let (oracle, mut y) = problem::<f32>(10, Layout::BatchLast);
        poison(&mut y[23..25]);
        let why = oracle.judge(&y).wrong.unwrap();
        assert!(why.contains("2 of 240") && why.contains("row 2 of vector 3"), "{why}");
    }

    #[test]
    fn one_wrong_element_is_found_even_outside_the_checked_vectors() {
        for layout in Layout::ALL {
            let (mut oracle, mut y) = problem::<f32>(50, layout);
            // As if the problem were so large that only the first and the last vector could be computed.
            oracle.expected.drain(24..49 * 24);
            oracle.vectors = vec![0, 49];
            assert_eq!(oracle.judge(&y).wrong, None);
            y[layout.index(31, 7, 50, 24)] += 0.01;
            let why = oracle.judge(&y).wrong.unwrap();
            assert!(why.contains("combination"), "{why}");
        }
    }

    #[test]
    fn infinity_and_a_swapped_layout_are_wrong() {
        let (oracle, mut y) = problem::<f64>(5, Layout::BatchFirst);
        y[3] = f64::INFINITY;
        assert!(oracle.judge(&y).wrong.is_some());
        let (mut oracle, mut y) = problem::<Complex32>(50, Layout::BatchFirst);
        oracle.expected.drain(24..49 * 24);
        oracle.vectors = vec![0, 49];
        y[24 * 20].re = f32::INFINITY;
        assert!(oracle.judge(&y).wrong.is_some());
        let (oracle, y) = problem::<f64>(5, Layout::BatchFirst);
        let swapped: Vec<f64> = (0..24).flat_map(|r| (0..5).map(move |v| (v, r))).map(|(v, r)| y[v * 24 + r]).collect();
        assert!(oracle.judge(&swapped).wrong.is_some());
    }

    #[test]
    fn the_subset_has_both_ends_and_no_repetition() {
        let mut random = Random::new(3);
        assert_eq!(choose(5, 9, &mut random), [0, 1, 2, 3, 4]);
        let chosen = choose(1000, 9, &mut random);
        assert_eq!((chosen.len(), chosen[0], chosen[8]), (9, 0, 999));
        assert!(chosen.windows(2).all(|w| w[0] < w[1]));
    }
}
