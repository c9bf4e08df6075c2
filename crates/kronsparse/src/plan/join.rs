//! What the activated outputs are joined with before they are stored: another array, or each other.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The last operation of a multiplication, after the bias and the activation. Real numbers only, but for [`Join::None`].
///
/// Some algorithms and kernels round outputs to the element type before they join them, others join wider numbers and round once: in
/// `f16` and `bf16` the results may differ by a rounding, and one may overflow where the other does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Join {
    /// Nothing: `Y = activation(X Wᵀ + bias)`.
    #[default]
    None,
    /// The residual connection of a transformer: `Y = activation(X Wᵀ + bias) + R`, with `R` in the shape and layout of `Y`.
    Residual,
    /// A gated linear unit (Dauphin et al., 2017; Shazeer, 2020): the rows of `W` come in twos, `V = X Wᵀ + bias`, and
    /// `Y[r] = activation(V[2r]) · V[2r + 1]`, so that `Y` has half as many features. [`Chain::gated`](crate::Chain::gated) makes such
    /// a chain of two.
    Gate,
}

impl Join {
    /// Every one.
    pub const ALL: [Join; 3] = [Join::None, Join::Residual, Join::Gate];

    /// `none`, `residual` or `gate`.
    pub fn name(self) -> &'static str {
        match self {
            Join::None => "none",
            Join::Residual => "residual",
            Join::Gate => "gate",
        }
    }

    /// Numbers of `Y` and of a residual that move for each row of the chain.
    pub(crate) fn moved(self) -> f64 {
        match self {
            Join::None => 1.0,
            Join::Residual => 2.0,
            Join::Gate => 0.5,
        }
    }

    /// What a chain in `f32` joins whose outputs are rounded in a pass: gates; a residual is added by the pass.
    pub(crate) fn before_rounding(self) -> Join {
        if self == Join::Residual { Join::None } else { self }
    }

    /// How many features `Y` has where the chain has `rows`.
    ///
    /// Errors: an odd number of rows for [`Join::Gate`].
    pub fn outputs(self, rows: usize) -> Result<usize> {
        match self {
            Join::None | Join::Residual => Ok(rows),
            Join::Gate if rows.is_multiple_of(2) => Ok(rows / 2),
            Join::Gate => Err(Error::Length {
                what: "rows of a gated chain, which come in twos",
                expected: rows + 1,
                found: rows,
            }),
        }
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Join {
    type Err = Error;

    fn from_str(text: &str) -> Result<Join> {
        Join::ALL.into_iter().find(|join| join.name() == text).ok_or_else(|| Error::Parse {
            what: "what outputs are joined with",
            text: text.into(),
            why: "expected one of none, residual, gate".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_and_an_odd_number_of_gated_rows_is_refused() {
        for join in Join::ALL {
            assert_eq!(join.name().parse::<Join>().unwrap(), join);
        }
        assert_eq!(Join::Gate.outputs(6).unwrap(), 3);
        assert_eq!(Join::Residual.outputs(7).unwrap(), 7);
        assert!(Join::Gate.outputs(7).unwrap_err().to_string().contains("in twos"));
        assert!("add".parse::<Join>().unwrap_err().to_string().contains("residual"));
    }
}
