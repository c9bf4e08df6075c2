//! The ways of multiplying: ours, and those that everybody else uses.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// An algorithm for multiplying by a chain on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Algorithm {
    /// The planner's choice; at present always [`Algorithm::Fused`].
    #[default]
    Auto,
    /// Ours: the whole chain tile by tile of the batch, no permutation through memory.
    Fused,
    /// The product of the chain as one dense matrix.
    Dense,
    /// Permute `X`, one batched dense product, permute back; factor by factor.
    PermuteBmm,
    /// Loops in the order of the index expression, factor by factor, without any copy.
    Einsum,
    /// Compressed sparse rows, factor by factor.
    Csr,
    /// Block-sparse rows: dense blocks where `d = 1`, diagonal `d × d` blocks stored densely otherwise; factor by factor.
    Bsr,
}

impl Algorithm {
    /// Every algorithm but [`Algorithm::Auto`].
    pub const ALL: [Algorithm; 6] =
        [Algorithm::Fused, Algorithm::Dense, Algorithm::PermuteBmm, Algorithm::Einsum, Algorithm::Csr, Algorithm::Bsr];

    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Auto => "auto",
            Algorithm::Fused => "fused",
            Algorithm::Dense => "dense",
            Algorithm::PermuteBmm => "permute-bmm",
            Algorithm::Einsum => "einsum",
            Algorithm::Csr => "csr",
            Algorithm::Bsr => "bsr",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Algorithm> {
        let all = Algorithm::ALL.into_iter().chain([Algorithm::Auto]);
        all.into_iter().find(|a| a.name() == text).ok_or_else(|| Error::Parse {
            what: "an algorithm",
            text: text.into(),
            why: "expected one of auto, fused, dense, permute-bmm, einsum, csr, bsr".into(),
        })
    }
}
