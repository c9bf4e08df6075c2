//! Activations that the engines fuse into the last store.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Applied to `X Wᵀ + bias` before the result is rounded and stored. Real numbers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `x·Φ(x)` with the exact normal distribution function (Hendrycks and Gimpel, 2016).
    Gelu,
    /// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, the approximation of the same paper.
    GeluTanh,
    /// `x / (1 + e^{-x})`.
    Silu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Activation; 5] =
        [Activation::None, Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];

    /// `none`, `relu`, `gelu`, `gelu-tanh` or `silu`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::None => "none",
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu-tanh",
            Activation::Silu => "silu",
        }
    }

    /// The function in f64, as accurate as the standard library: what the oracle uses.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Activation::None => x,
            // Not f64::max, which would turn NaN into zero.
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Gelu if x == f64::NEG_INFINITY => 0.0,
            Activation::Gelu => 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Activation::GeluTanh if x == f64::NEG_INFINITY => 0.0,
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                // 1 + tanh(y) = 2 / (1 + e^{-2y}), which keeps its relative accuracy for negative y.
                x / (1.0 + (-2.0 * inner).exp())
            }
            Activation::Silu if x == f64::NEG_INFINITY => 0.0,
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Activation> {
        Activation::ALL.into_iter().find(|a| a.name() == text).ok_or_else(|| Error::Parse {
            what: "an activation",
            text: text.into(),
            why: "expected one of none, relu, gelu, gelu-tanh, silu".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // GELU(1) = Φ(1) = 0.841344746068543; SiLU(1) = 1/(1 + 1/e); tables of the normal distribution.
        assert!((Activation::Gelu.apply(1.0) - 0.841_344_746_068_543).abs() < 1e-14);
        assert!((Activation::GeluTanh.apply(1.0) - 0.841_191_990_607_477).abs() < 1e-9);
        assert!((Activation::Silu.apply(1.0) - 0.731_058_578_630_005).abs() < 1e-14);
        assert_eq!(Activation::Relu.apply(-3.0), 0.0);
        for activation in Activation::ALL {
            assert!(activation.apply(f64::NAN).is_nan(), "{activation}");
            assert_eq!(activation.apply(f64::INFINITY), f64::INFINITY, "{activation}");
            assert_eq!(activation.name().parse::<Activation>().unwrap(), activation);
        }
    }
}
