//! Is a product on the device right? The checks of [`crate::verify`], without moving the output to the host: a few vectors and
//! a random combination of all of them are computed on the device and compared with the f64 oracle.

use std::cell::LazyCell;
use std::thread::Scope;

use kronsparse::cuda::inspect::Inspector;
use kronsparse::cuda::{Buffer, Stream};
use kronsparse::{Activation, Chain, Layout, Result, Scalar, reference, relative_error_wide};
use rayon::prelude::*;

use crate::random::Random;
use crate::verify::{Verdict, WideScalar, choose};

/// Multiply-adds that the oracle may spend on the vectors of one case.
const BUDGET: usize = 20_000_000;
/// Fewest and most vectors that are compared element by element.
const FEWEST: usize = 3;
const MOST: usize = 64;

/// The right answer for one case, computed while the first algorithm is prepared.
pub(super) struct Oracle<'a> {
    rows: usize,
    n: usize,
    layout: Layout,
    tolerance: f64,
    vectors: Vec<usize>,
    answer: LazyCell<Answer, Box<dyn FnOnce() -> Answer + 'a>>,
}

struct Answer {
    /// Products with the chosen vectors.
    expected: Vec<f64>,
    /// `W Σ_n u_n X_n`.
    mixed: Vec<f64>,
}

/// What the checks of all cases with one element type share.
pub(super) struct Tools<'a, T> {
    pub(super) inspector: &'a Inspector<T>,
    pub(super) stream: &'a Stream,
    /// `u_n`, one per vector of the case.
    pub(super) mix: &'a Buffer<f64>,
}

impl<'a> Oracle<'a> {
    /// Begins to compute the right answer for the `n ≥ 1` vectors at the start of `x`; nothing is measured before it is asked for.
    pub(super) fn begin<'s, T: Scalar<Wide = f64>>(
        scope: &'s Scope<'s, 'a>,
        chain: &'a Chain<T>,
        x: &Buffer<T>,
        (layout, tolerance, seed): (Layout, f64, u64),
        tools: &Tools<'_, T>,
    ) -> Result<Oracle<'s>>
    where
        f64: WideScalar,
    {
        let (n, rows, cols) = (tools.mix.len(), chain.rows(), chain.cols());
        let affordable = (BUDGET / chain.parameters().max(1)).clamp(FEWEST, MOST);
        let vectors = choose(n, affordable, &mut Random::new(seed));
        let subset = tools.inspector.pick(x, n, cols, layout, &vectors, tools.stream)?;
        let sums = tools.inspector.combine(x, cols, layout, tools.mix, tools.stream)?;
        let combination: Vec<f64> = sums.iter().map(|sum| sum[0]).collect();
        let work = scope.spawn(move || {
            let (expected, mixed) = rayon::join(
                || {
                    let one = |x: &[T]| reference::multiply(chain, None, Activation::None, x, 1, Layout::BatchFirst);
                    subset.par_chunks_exact(cols).flat_map_iter(one).collect()
                },
                || reference::wide_vector(chain, combination),
            );
            Answer { expected, mixed }
        });
        let answer: Box<dyn FnOnce() -> Answer + 's> =
            Box::new(move || work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok(Oracle { rows, n, layout, tolerance, vectors, answer: LazyCell::new(answer) })
    }

    /// How many vectors are compared element by element.
    pub(super) fn vectors(&self) -> usize {
        self.vectors.len()
    }

    /// Judges the output at the start of `y`, which was poisoned before the product. Waits for the GPU.
    pub(super) fn judge<T: Scalar<Wide = f64>>(&self, y: &Buffer<T>, tools: &Tools<'_, T>) -> Result<Verdict>
    where
        f64: WideScalar,
    {
        let answer = &*self.answer;
        let sums = tools.inspector.combine(y, self.rows, self.layout, tools.mix, tools.stream)?;
        let checksum = sums.iter().map(|sum| sum[1]).sum();
        // Inputs are finite, so a NaN in a feature's sum is an element that was never stored.
        let missing = sums.iter().filter(|sum| sum[0].is_nan() || sum[1].is_nan()).count();
        if missing > 0 {
            let first = sums.iter().position(|sum| sum[0].is_nan() || sum[1].is_nan()).unwrap_or(0);
            let wrong = format!(
                "{missing} of {} rows hold outputs that are NaN or were never written, the first is row {first}",
                self.rows
            );
            return Ok(Verdict { error: f64::NAN, checksum, wrong: Some(wrong) });
        }
        let found = tools.inspector.pick(y, self.n, self.rows, self.layout, &self.vectors, tools.stream)?;
        let vectors = relative_error_wide(&found, &answer.expected);
        // Adds nothing where every vector is compared, and may cancel out where there are few.
        let mixed = if self.vectors.len() < self.n {
            let mixed: Vec<f64> = sums.iter().map(|sum| sum[0]).collect();
            relative_error_wide(&mixed, &answer.mixed)
        } else {
            0.0
        };
        let error = if vectors.is_nan() || mixed.is_nan() { f64::NAN } else { vectors.max(mixed) };
        let verdict = |error: f64, which: &str| {
            // Written so that NaN fails. The sums over the batch are not compensated: a few roundings in f64 more.
            let tolerance = self.tolerance + 1e-14;
            let right = error <= tolerance;
            (!right).then(|| format!("relative error {error:.2e} of {which} exceeds the tolerance {tolerance:.2e}"))
        };
        let wrong = verdict(vectors, "the checked vectors").or_else(|| verdict(mixed, "a combination of all vectors"));
        Ok(Verdict { error, checksum, wrong })
    }
}
