//! The ways of multiplying: ours, and those that everybody else uses.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// An algorithm for multiplying by a chain. Not every one exists everywhere: see [`Algorithm::on_cpu`] and
/// [`Algorithm::on_gpu`]; an engine refuses the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Algorithm {
    /// The planner's choice. On the CPU [`Algorithm::Fused`]. On a GPU for each factor the fastest of this project's
    /// kernels, [`Algorithm::PermuteBmm`], [`Algorithm::Strided`] and [`Algorithm::Dense`], or dense for the whole chain: by
    /// estimates, or measured. On both what [`tune`](crate::tune) remembers to be faster. Where that is dense, the zeros of the
    /// matrix are multiplied too, so that a NaN or an infinity in one input reaches every output of its vector.
    #[default]
    Auto,
    /// Ours: no permutation through memory; on the CPU the whole chain tile by tile of the batch.
    Fused,
    /// The product of the chain as one dense matrix.
    Dense,
    /// Permute `X`, one batched dense product, permute back; factor by factor.
    PermuteBmm,
    /// GPU only: batched dense products whose leading dimensions do the permutation, without any copy; factor by factor.
    /// Batch-last with any pattern, batch-first with `d = 1`.
    Strided,
    /// CPU only: loops in the order of the index expression, factor by factor, without any copy.
    Einsum,
    /// Compressed sparse rows, factor by factor.
    Csr,
    /// Block-sparse rows, factor by factor. On the CPU dense blocks where `d = 1` and diagonal `d × d` blocks stored
    /// densely otherwise; on a GPU dense blocks, after a permutation of `X` and before one of `Y`.
    Bsr,
}

impl Algorithm {
    /// Every algorithm of some engine but [`Algorithm::Auto`].
    pub const ALL: [Algorithm; 7] = [
        Algorithm::Fused,
        Algorithm::Dense,
        Algorithm::PermuteBmm,
        Algorithm::Strided,
        Algorithm::Einsum,
        Algorithm::Csr,
        Algorithm::Bsr,
    ];

    /// Every algorithm of the CPU engine but [`Algorithm::Auto`].
    pub const fn on_cpu() -> [Algorithm; 6] {
        use Algorithm::{Bsr, Csr, Dense, Einsum, Fused, PermuteBmm};
        [Fused, Dense, PermuteBmm, Einsum, Csr, Bsr]
    }

    /// Every algorithm of the CUDA engine but [`Algorithm::Auto`].
    pub const fn on_gpu() -> [Algorithm; 6] {
        use Algorithm::{Bsr, Csr, Dense, Fused, PermuteBmm, Strided};
        [Fused, Dense, PermuteBmm, Strided, Csr, Bsr]
    }

    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Auto => "auto",
            Algorithm::Fused => "fused",
            Algorithm::Dense => "dense",
            Algorithm::PermuteBmm => "permute-bmm",
            Algorithm::Strided => "strided",
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
            why: "expected one of auto, fused, dense, permute-bmm, strided, einsum, csr, bsr".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_every_algorithm_runs_somewhere() {
        for algorithm in Algorithm::ALL.into_iter().chain([Algorithm::Auto]) {
            assert_eq!(algorithm.name().parse::<Algorithm>().unwrap(), algorithm);
        }
        let error = "gemm".parse::<Algorithm>().unwrap_err().to_string();
        assert!(Algorithm::ALL.iter().all(|a| error.contains(a.name())), "{error}");
        for algorithm in Algorithm::ALL {
            let (here, there) = (Algorithm::on_cpu().contains(&algorithm), Algorithm::on_gpu().contains(&algorithm));
            assert!(here || there, "{algorithm}");
            assert_eq!(here != there, matches!(algorithm, Algorithm::Strided | Algorithm::Einsum), "{algorithm}");
        }
    }
}
