//! The real types that the engine computes in, and activations written so that loops over them vectorise.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Real};
use crate::Activation;

/// A fused multiply-add where the build's baseline has the instruction: elsewhere the library call would be far slower
/// than two roundings.
const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

impl Real for f32 {
    type Portable = Portable<f32>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Avx2<f32>;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Avx512<f32>;

    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn multiply_add(self, x: f32, y: f32) -> f32 {
        if FUSED { x.mul_add(y, self) } else { x * y + self }
    }
    #[inline(always)]
    fn activate(self, activation: Activation) -> f32 {
        let x = self;
        match activation {
            Activation::None => x,
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Gelu => {
                let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
                let tail = 0.5 * erfc_positive(z);
                let phi = if x < 0.0 { tail } else { 1.0 - tail };
                bounded(x, phi)
            }
            Activation::GeluTanh => {
                // 0.5·(1 + tanh y) = 1 / (1 + e^{-2y}) with y = √(2/π)·(x + 0.044715·x³)
                let y = 0.797_884_6 * (x + 0.044715 * x * x * x);
                bounded(x, 1.0 / (1.0 + exp(-2.0 * y)))
            }
            Activation::Silu => bounded(x, 1.0 / (1.0 + exp(-x))),
        }
    }
}

/// `x · gate`, and zero where `x` is so negative that the gate has vanished: −∞ times 0 would be NaN.
#[inline(always)]
fn bounded(x: f32, gate: f32) -> f32 {
    if x < -120.0 { 0.0 } else { x * gate }
}

/// `e^x` to 1.5 units in the last place, saturating at the ends of the normal numbers; NaN stays NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's two-part ln 2), the Taylor polynomial of degree 7 for `e^r`
/// (its remainder there is below 3·10⁻⁹), and `2ⁿ` through the exponent bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    const SHIFT: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to an integer in the low bits
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    p * scale
}

/// `erfc(z)` for `z ≥ 0` with a relative error below 1.2·10⁻⁷ of the formula, by the rational Chebyshev fit of Press et
/// al., *Numerical Recipes*, section 6.2 (`erfcc`).
#[inline(always)]
#[allow(clippy::excessive_precision)] // the coefficients as published
fn erfc_positive(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = 0.170_872_77_f32;
    for c in [
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ] {
        p = p * t + c;
    }
    t * exp(p - z * z)
}

impl Real for f64 {
    type Portable = Portable<f64>;
    #[cfg(target_arch = "x86_64")]
    type Avx2 = Avx2<f64>;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Avx512<f64>;

    #[inline(always)]
    fn from_f32(x: f32) -> f64 {
        x.into()
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self as f32
    }
    #[inline(always)]
    fn multiply_add(self, x: f64, y: f64) -> f64 {
        if FUSED { x.mul_add(y, self) } else { x * y + self }
    }
    #[inline(always)]
    fn activate(self, activation: Activation) -> f64 {
        activation.apply(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_in_f32_agree_with_the_accurate_ones() {
        let values = (-4000..4000).map(|k| k as f32 * 0.0037).chain([-1e30, 1e30, -200.0, 0.0, f32::NEG_INFINITY]);
        for x in values {
            for activation in Activation::ALL {
                let (fast, exact) = (x.activate(activation), activation.apply(x.into()));
                let allowed = 3e-7 * f64::from(x.abs().clamp(1e-3, 1e30));
                let same = f64::from(fast) == exact; // the difference of two infinities would be NaN
                assert!(same || (f64::from(fast) - exact).abs() <= allowed, "{activation}({x}) = {fast}, not {exact}");
            }
        }
        for activation in Activation::ALL {
            assert!(f32::NAN.activate(activation).is_nan(), "{activation}");
            assert_eq!(f32::INFINITY.activate(activation), f32::INFINITY, "{activation}");
        }
    }
}
