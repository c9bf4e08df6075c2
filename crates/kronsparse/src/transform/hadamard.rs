//! The Walsh–Hadamard transform as a square dyadic chain.

use super::log2;
use crate::scalar::Wide;
use crate::{Chain, ChainPattern, Factor, Pattern, Result, Scalar};

/// The chain of the Walsh–Hadamard matrix `H[i, k] = (−1)^popcount(i & k)`, natural (Sylvester) order, entries ±1.
///
/// `n` must be a power of two. Every factor is `I ⊗ [[1, 1], [1, −1]] ⊗ I`; all weights are exact in every element type.
pub fn hadamard<T: Scalar>(n: usize) -> Result<Chain<T>> {
    chain(n, |_, _| 1.0)
}

/// [`hadamard`] over `sqrt(n)`: an orthogonal matrix, its own inverse.
///
/// Halves are put into every other factor, so that at most one factor, where `n` is no power of four, has weights that are
/// rounded (`sqrt(1/2)`).
pub fn hadamard_orthonormal<T: Scalar>(n: usize) -> Result<Chain<T>> {
    chain(n, orthonormal_scale)
}

/// The scales of factor `at` of `stages` whose product is `2^(−stages/2)`.
pub(super) fn orthonormal_scale(at: usize, stages: usize) -> f64 {
    match at % 2 {
        1 => 0.5,
        _ if at + 1 == stages => std::f64::consts::FRAC_1_SQRT_2,
        _ => 1.0,
    }
}

fn chain<T: Scalar>(n: usize, scale: impl Fn(usize, usize) -> f64) -> Result<Chain<T>> {
    let stages = log2("Walsh–Hadamard transform", n)?;
    if stages == 0 {
        let one = Factor::new(Pattern::new(1, 1, 1, 1)?, vec![T::narrow(T::Wide::ONE)])?;
        return Ok(Chain::from(one));
    }
    Ok(Chain::from_fn(&ChainPattern::square_dyadic(n)?, |at, _, o, l, _| {
        let sign = if o == 1 && l == 1 { -1.0 } else { 1.0 };
        T::narrow(T::Wide::from_parts(sign * scale(at, stages), 0.0))
    }))
}
