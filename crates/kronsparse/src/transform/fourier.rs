//! The discrete Fourier transform: a square dyadic chain behind the bit reversal.

use std::f64::consts::FRAC_PI_4;

use super::hadamard::orthonormal_scale;
use super::{Permutation, Transform, log2};
use crate::scalar::Wide;
use crate::{Chain, ChainPattern, Error, Pattern, Result, Scalar};

/// The discrete Fourier transform `F[k, t] = exp(−2πi·k·t/n)`, unnormalised, as `chain · bit reversal`.
///
/// The chain is that of the radix-2 decimation in time (Cooley and Tukey, 1965): with `m = n / 2^ℓ` factor `ℓ` is
/// `I ⊗ [[1, Ω], [1, −Ω]]`, `Ω = diag(exp(−πi·j/m))`, `j < m`, of pattern `(2^{ℓ−1}, 2, 2, m)`. Each weight is correct to
/// rounding. `n` must be a power of two, `T` complex.
pub fn dft<T: Scalar>(n: usize) -> Result<Transform<T>> {
    transform(n, |_, _| 1.0)
}

/// [`dft`] over `sqrt(n)`: a unitary matrix.
pub fn dft_orthonormal<T: Scalar>(n: usize) -> Result<Transform<T>> {
    transform(n, orthonormal_scale)
}

fn transform<T: Scalar>(n: usize, scale: impl Fn(usize, usize) -> f64) -> Result<Transform<T>> {
    let stages = log2("discrete Fourier transform", n)?;
    if !T::DTYPE.is_complex() {
        return Err(Error::Unsupported {
            what: format!("a discrete Fourier transform in {}", T::DTYPE),
            why: "its weights are complex; use c64 or c128".into(),
        });
    }
    let pattern =
        if stages == 0 { ChainPattern::new(vec![Pattern::new(1, 1, 1, 1)?])? } else { ChainPattern::square_dyadic(n)? };
    let chain = Chain::from_fn(&pattern, |at, _, o, l, j| {
        let (re, im) = butterfly(o, l, j, pattern.patterns()[at].d());
        let scale = if stages == 0 { 1.0 } else { scale(at, stages) };
        T::narrow(T::Wide::from_parts(re * scale, im * scale))
    });
    Transform::new(Permutation::bit_reversal(n)?, chain)
}

/// The weight `(o, l)` of the radix-2 butterfly in lane `j` of `m`: `1` for `l = 0`, else `±exp(−πi·j/m)`.
pub(super) fn butterfly(o: usize, l: usize, j: usize, m: usize) -> (f64, f64) {
    match (o, l) {
        (_, 0) => (1.0, 0.0),
        (0, _) => root_of_unity(j, 2 * m),
        _ => root_of_unity(j + m, 2 * m),
    }
}

/// `exp(−2πi·k/n)`, real and imaginary part. The angle is reduced to an eighth of the circle in whole numbers first, so that
/// multiples of a quarter turn are exact and both parts are right to the last bit or nearly so.
pub(super) fn root_of_unity(k: usize, n: usize) -> (f64, f64) {
    let eighths = 8 * (k % n) as u128; // the angle is eighths / n eighths of a turn
    let n = n as u128;
    let (octant, rest) = ((eighths / n) as u8, eighths % n);
    // Odd octants are mirrored, so the angle counts from their end.
    let part = if octant % 2 == 0 { rest } else { n - rest };
    let (sin, cos) = (FRAC_PI_4 * (part as f64 / n as f64)).sin_cos();
    match octant {
        0 => (cos, -sin),
        1 => (sin, -cos),
        2 => (-sin, -cos),
        3 => (-cos, -sin),
        4 => (-cos, sin),
        5 => (-sin, cos),
        6 => (sin, cos),
        _ => (cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_unity_are_exact_at_quarters_and_close_everywhere() {
        for n in [1, 2, 3, 4, 7, 8, 12, 1000, 1024] {
            for k in 0..2 * n {
                let (re, im) = root_of_unity(k, n);
                let angle = -2.0 * std::f64::consts::PI * (k % n) as f64 / n as f64;
                assert!((re - angle.cos()).abs() < 1e-15 && (im - angle.sin()).abs() < 1e-15, "{k} of {n}");
                if 4 * k % n == 0 {
                    assert_eq!(re * im, 0.0, "{k} of {n}");
                }
            }
        }
    }
}
