//! The two orders in which a batch of vectors can lie in memory.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Order of `X` and `Y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Layout {
    /// `bsf`: `X (n, cols)` and `Y (n, rows)`, row-major; `Y = X Wᵀ`. What PyTorch and every transformer uses.
    #[default]
    BatchFirst,
    /// `bsl`: `X (cols, n)` and `Y (rows, n)`, row-major; `Y = W X`.
    BatchLast,
}

impl Layout {
    /// Both layouts.
    pub const ALL: [Layout; 2] = [Layout::BatchFirst, Layout::BatchLast];

    /// `bsf` or `bsl`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::BatchFirst => "bsf",
            Layout::BatchLast => "bsl",
        }
    }

    /// Where element `feature` of vector `batch` lies, among `n` vectors of `features` elements.
    #[inline]
    pub fn index(self, batch: usize, feature: usize, n: usize, features: usize) -> usize {
        match self {
            Layout::BatchFirst => batch * features + feature,
            Layout::BatchLast => feature * n + batch,
        }
    }

    /// The shape `(rows, columns)` of the array that holds `n` vectors of `features` elements.
    pub fn shape(self, n: usize, features: usize) -> [usize; 2] {
        match self {
            Layout::BatchFirst => [n, features],
            Layout::BatchLast => [features, n],
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Layout> {
        Layout::ALL.into_iter().find(|l| l.name() == text).ok_or_else(|| Error::Parse {
            what: "a layout",
            text: text.into(),
            why: "expected bsf (batch first) or bsl (batch last)".into(),
        })
    }
}
