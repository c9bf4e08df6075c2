//! In which type the vectors between two factors of a chain are kept.

use std::fmt;
use std::str::FromStr;

use crate::{DType, Error, Result};

/// The hidden vectors of a chain of `f16` or `bf16`, on a GPU. Chains of other types keep them in their own type.
///
/// The CPU engine keeps the hidden vectors of 16-bit chains in `f32` always: there it costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Hidden {
    /// Rounded to the element type, as factor-by-factor multiplication in that type rounds them, whether or not factors share a kernel:
    /// each factor adds a relative error of half a unit in the last place (2⁻¹¹ in `f16`, 2⁻⁸ in `bf16`), and in `f16` hidden numbers beyond 65504
    /// are infinite.
    #[default]
    Rounded,
    /// Kept in `f32`: the outputs are those of the chain in `f32` with the same numbers, rounded once, after a residual has been added.
    /// Takes the time and the memory of a chain in `f32`, and a pass over `X` and one over `Y`.
    Wide,
}

impl Hidden {
    /// Every one.
    pub const ALL: [Hidden; 2] = [Hidden::Rounded, Hidden::Wide];

    /// `rounded` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Hidden::Rounded => "rounded",
            Hidden::Wide => "f32",
        }
    }

    /// Whether a chain of so many factors is multiplied in `f32`.
    pub fn widens(self, dtype: DType, factors: usize) -> bool {
        self == Hidden::Wide && matches!(dtype, DType::F16 | DType::Bf16) && factors > 1
    }
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Hidden {
    type Err = Error;

    fn from_str(text: &str) -> Result<Hidden> {
        Hidden::ALL.into_iter().find(|hidden| hidden.name() == text).ok_or_else(|| Error::Parse {
            what: "what hidden vectors are kept in",
            text: text.into(),
            why: "expected one of rounded, f32".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chains_of_sixteen_bits_are_widened() {
        for hidden in Hidden::ALL {
            assert_eq!(hidden.name().parse::<Hidden>().unwrap(), hidden);
            for (dtype, small) in [(DType::F16, true), (DType::Bf16, true), (DType::F32, false), (DType::F64, false)] {
                assert_eq!(hidden.widens(dtype, 2), small && hidden == Hidden::Wide);
                assert!(!hidden.widens(dtype, 1));
            }
        }
        assert!("wide".parse::<Hidden>().unwrap_err().to_string().contains("rounded, f32"));
    }
}
