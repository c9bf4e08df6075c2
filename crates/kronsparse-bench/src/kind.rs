//! In which numbers a case is computed: an element type, or `tf32`, which is `f32` in memory.

use std::fmt;
use std::str::FromStr;

use kronsparse::plan::gpu::Precision;
use kronsparse::{DType, Error};

/// An element type with the precision of its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Element type of weights, input and output.
    pub dtype: DType,
    /// Whether `f32` is multiplied as TF32; never set for other types.
    tf32: bool,
}

impl Kind {
    /// `f32` in memory, multiplied as TF32; on GPUs only.
    pub const TF32: Kind = Kind { dtype: DType::F32, tf32: true };

    /// How `f32` is multiplied.
    pub fn precision(self) -> Precision {
        if self.tf32 { Precision::Tf32 } else { Precision::Full }
    }

    /// The largest relative error that counts as right on a GPU; see [`DType::tolerance_on_gpu`].
    pub fn tolerance_on_gpu(self, terms: usize, factors: usize) -> f64 {
        if self.tf32 { DType::tolerance_tf32(factors) } else { self.dtype.tolerance_on_gpu(terms, factors) }
    }

    /// The largest relative error that counts as right; see [`DType::tolerance`].
    pub fn tolerance(self, terms: usize, factors: usize) -> f64 {
        if self.tf32 { DType::tolerance_tf32(factors) } else { self.dtype.tolerance(terms, factors) }
    }
}

impl From<DType> for Kind {
    fn from(dtype: DType) -> Kind {
        Kind { dtype, tf32: false }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tf32 { "tf32" } else { self.dtype.name() })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Kind, Error> {
        if text == "tf32" { Ok(Kind::TF32) } else { text.parse::<DType>().map(Kind::from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_and_tf32_is_f32_in_memory() {
        for kind in DType::ALL.into_iter().map(Kind::from).chain([Kind::TF32]) {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        assert_eq!((Kind::TF32.dtype, Kind::TF32.precision()), (DType::F32, Precision::Tf32));
        assert_ne!(Kind::TF32, DType::F32.into());
        assert!(Kind::TF32.tolerance(64, 1) > 100.0 * Kind::from(DType::F32).tolerance(64, 1));
        assert!("tf33".parse::<Kind>().is_err());
    }
}
