//! The text by which people name a chain: `monarch:p,q`, `square-dyadic`, `butterfly:4,4,4` or `(a,b,c,d)(a,b,c,d)…`.

use std::fmt;
use std::str::FromStr;

use crate::{ChainPattern, Error, Pattern, Result};

/// A chain as a user names it; [`ChainSpec::resolve`] makes it concrete for a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainSpec {
    /// `monarch:p,q`.
    Monarch {
        /// Divides the rows.
        p: usize,
        /// Divides the columns.
        q: usize,
    },
    /// `square-dyadic`.
    SquareDyadic,
    /// `butterfly:r1,r2,…`: mixed radices, left to right.
    Butterfly(Vec<usize>),
    /// `(a,b,c,d)(a,b,c,d)…`, left to right.
    Explicit(ChainPattern),
}

impl ChainSpec {
    /// The chain for a `rows × cols` matrix, or an error that says why it does not fit that shape.
    pub fn resolve(&self, rows: usize, cols: usize) -> Result<ChainPattern> {
        let chain = match self {
            ChainSpec::Monarch { p, q } => ChainPattern::monarch(rows, cols, *p, *q)?,
            ChainSpec::SquareDyadic => ChainPattern::square_dyadic(rows)?,
            ChainSpec::Butterfly(radices) => ChainPattern::butterfly(radices)?,
            ChainSpec::Explicit(chain) => chain.clone(),
        };
        if (chain.rows(), chain.cols()) != (rows, cols) {
            return Err(Error::Shape {
                what: format!("chain {chain}, a matrix to fit it"),
                expected: vec![chain.rows(), chain.cols()],
                found: vec![rows, cols],
            });
        }
        Ok(chain)
    }
}

impl FromStr for ChainSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<ChainSpec> {
        let fail = |why: String| Error::Parse { what: "a chain", text: text.into(), why };
        let numbers = |list: &str| -> Result<Vec<usize>> {
            let number = |part: &str| part.trim().parse().map_err(|_| fail(format!("`{part}` is no whole number")));
            list.split(',').map(number).collect()
        };
        let spec = text.trim();
        if spec == "square-dyadic" {
            return Ok(ChainSpec::SquareDyadic);
        }
        if let Some(list) = spec.strip_prefix("monarch:") {
            return match numbers(list)?[..] {
                [p, q] => Ok(ChainSpec::Monarch { p, q }),
                ref other => Err(fail(format!("monarch takes two numbers p,q, found {}", other.len()))),
            };
        }
        if let Some(list) = spec.strip_prefix("butterfly:") {
            return Ok(ChainSpec::Butterfly(numbers(list)?));
        }
        if !spec.starts_with('(') {
            return Err(fail("expected monarch:p,q, square-dyadic, butterfly:r1,r2,… or (a,b,c,d)(a,b,c,d)…".into()));
        }
        let patterns = spec.split_inclusive(')').map(str::parse::<Pattern>).collect::<Result<Vec<_>>>()?;
        ChainPattern::new(patterns).map(ChainSpec::Explicit)
    }
}

impl fmt::Display for ChainSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChainSpec::Monarch { p, q } => write!(f, "monarch:{p},{q}"),
            ChainSpec::SquareDyadic => f.write_str("square-dyadic"),
            ChainSpec::Butterfly(radices) => {
                let list: Vec<String> = radices.iter().map(usize::to_string).collect();
                write!(f, "butterfly:{}", list.join(","))
            }
            ChainSpec::Explicit(chain) => chain.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_round_trips() {
        for text in ["monarch:4,8", "square-dyadic", "butterfly:4,2,8", "(1,2,3,4)(3,4,5,1)"] {
            assert_eq!(text.parse::<ChainSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refusals_say_what_was_expected() {
        let message = |s: &str| s.parse::<ChainSpec>().unwrap_err().to_string();
        assert!(message("monarch").contains("expected monarch:p,q"));
        assert!(message("monarch:1").contains("two numbers"));
        assert!(message("(1,2,3,4)(1,1,1,1)").contains("12 columns"));
        assert!(message("(1,2,3").contains("parenthesis"));
        let spec: ChainSpec = "(1,2,2,2)(2,2,2,1)".parse().unwrap();
        assert!(spec.resolve(8, 8).unwrap_err().to_string().contains("[4, 4], found [8, 8]"));
    }
}
