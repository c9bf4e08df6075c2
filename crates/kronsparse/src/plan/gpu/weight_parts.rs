//! What a packed copy of the weights holds of each: the number itself, or TF32 parts of it.

use crate::scalar::Wide;
use crate::{Error, Pattern, Result, Scalar};

/// What a packed copy holds of each weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightParts {
    /// The weight.
    Whole,
    /// The weight rounded to TF32.
    Tf32,
    /// The weight rounded to TF32 and, `low_after` elements behind it, what that leaves out, rounded too.
    HighLow {
        /// Elements from the high to the low part.
        low_after: usize,
    },
}

/// Rounded to TF32: 10 bits after the point, to nearest, ties away from zero, as `cvt.rna.tf32.f32`.
pub(super) fn tf32<W: Wide>(value: W) -> W {
    W::from_parts(f64::from(rounded(value.parts().0 as f32)), 0.0)
}

/// High and low part. What is not finite goes into the low part alone: ∞ times the low part of an input may be ∞ · 0.
pub(super) fn high_low<W: Wide>(value: W) -> (W, W) {
    let value = value.parts().0 as f32;
    let high = rounded(value);
    let (high, low) = if high.is_finite() { (high, rounded(value - high)) } else { (0.0, value) };
    (W::from_parts(f64::from(high), 0.0), W::from_parts(f64::from(low), 0.0))
}

fn rounded(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1FFF)
}

/// The weights of several factors, each of shape `(a, b, c, d)` in C order, in an array of `len` numbers where `index(factor, [i, o, l, j])`
/// says; zeros elsewhere.
///
/// Errors: [`Error::Length`] for other numbers of arrays, or of weights, than `patterns` ask for.
pub(super) fn pack<T: Scalar>(
    patterns: &[Pattern],
    weights: &[&[T]],
    len: usize,
    index: impl Fn(usize, [usize; 4]) -> usize,
) -> Result<Vec<T>> {
    if weights.len() != patterns.len() {
        return Err(Error::Length {
            what: "weights (one array per factor)",
            expected: patterns.len(),
            found: weights.len(),
        });
    }
    let mut packed = vec![T::ZERO; len];
    for (factor, (pattern, weights)) in patterns.iter().zip(weights).enumerate() {
        if weights.len() != pattern.nnz() {
            return Err(Error::Length { what: "weights (a·b·c·d)", expected: pattern.nnz(), found: weights.len() });
        }
        let [a, b, c, d] = pattern.shape();
        let mut weights = weights.iter();
        for i in 0..a {
            for o in 0..b {
                for l in 0..c {
                    for j in 0..d {
                        packed[index(factor, [i, o, l, j])] = *weights.next().expect("a·b·c·d weights");
                    }
                }
            }
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_hold_twenty_two_bits() {
        for k in 1..2000u32 {
            let value = f64::from((f64::from(k) * 0.7310585).sin() as f32);
            let (high, low) = high_low(value);
            assert!((value - high).abs() <= value.abs() * 2f64.powi(-11), "{value} {high}");
            assert!((value - high - low).abs() <= value.abs() * 2f64.powi(-22), "{value} {high} {low}");
            assert_eq!((high as f32).to_bits() & 0x1FFF, 0);
            assert_eq!(tf32(value), high);
        }
    }

    #[test]
    fn what_is_not_finite_is_in_the_low_part() {
        assert_eq!(high_low(f64::INFINITY), (0.0, f64::INFINITY));
        let (high, low) = high_low(f64::NAN);
        assert!(high == 0.0 && low.is_nan());
        let (high, low) = high_low(f64::from(f32::MAX));
        assert_eq!((high, low), (0.0, f64::from(f32::MAX)));
    }
}
