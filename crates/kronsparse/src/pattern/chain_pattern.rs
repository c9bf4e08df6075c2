//! A product of patterns: the shape of a chain without its weights, and whether it can be factorized or fused.

use std::fmt;

use crate::{Error, Pattern, Result};

/// The patterns of a chain `K_1 K_2 … K_L`, left to right as in mathematics; neighbouring sizes match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainPattern {
    patterns: Vec<Pattern>,
}

impl ChainPattern {
    /// Checks that there is a factor and that `cols(K_ℓ) = rows(K_{ℓ+1})` throughout.
    pub fn new(patterns: Vec<Pattern>) -> Result<ChainPattern> {
        if patterns.is_empty() {
            return Err(Error::EmptyChain);
        }
        for (at, pair) in patterns.windows(2).enumerate() {
            let (left, right) = (pair[0], pair[1]);
            let (cols, rows) = (left.cols(), right.rows());
            if cols != rows {
                return Err(Error::ChainSizes { at, left, right, cols, rows });
            }
        }
        Ok(ChainPattern { patterns })
    }

    /// The patterns, left to right.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
    /// Rows of the product.
    pub fn rows(&self) -> usize {
        self.patterns[0].rows()
    }
    /// Columns of the product.
    pub fn cols(&self) -> usize {
        self.patterns[self.patterns.len() - 1].cols()
    }
    /// Parameters of all factors together.
    pub fn parameters(&self) -> usize {
        self.patterns.iter().map(|p| p.nnz()).sum()
    }
    /// Parameters over those of the dense matrix of the same shape.
    pub fn density(&self) -> f64 {
        self.parameters() as f64 / (self.rows() as f64 * self.cols() as f64)
    }
    /// Floating-point operations of multiplying a batch of `n` real vectors factor by factor.
    pub fn flops(&self, n: usize) -> f64 {
        self.patterns.iter().map(|p| p.flops(n)).sum()
    }
    /// Bytes that a fused multiplication must move at the least: hidden activations do not count.
    pub fn bytes(&self, n: usize, element_size: usize) -> f64 {
        element_size as f64 * (n as f64 * (self.rows() + self.cols()) as f64 + self.parameters() as f64)
    }
    /// The largest `c`: the longest sum that one output of one factor takes.
    pub fn longest_sum(&self) -> usize {
        self.patterns.iter().map(|p| p.c()).max().unwrap_or(1)
    }
    /// The patterns of the transposed product: reversed, each transposed.
    pub fn transpose(&self) -> ChainPattern {
        ChainPattern { patterns: self.patterns.iter().rev().map(|p| p.transpose()).collect() }
    }

    /// The rank of every neighbouring pair, or the pair that is not chainable and why.
    pub fn ranks(&self) -> Result<Vec<usize>> {
        let rank = |(at, pair): (usize, &[Pattern])| {
            pair[0].rank_with(pair[1]).map_err(|why| Error::NotChainable { at, left: pair[0], right: pair[1], why })
        };
        self.patterns.windows(2).enumerate().map(rank).collect()
    }
    /// Whether every neighbouring pair is chainable.
    pub fn is_chainable(&self) -> bool {
        self.ranks().is_ok()
    }
    /// The single pattern of the product of factors `range`; they must be chainable.
    pub fn product(&self, range: std::ops::Range<usize>) -> Result<Pattern> {
        let mut product = *self.patterns.get(range.start).ok_or(Error::EmptyChain)?;
        for at in range.start + 1..range.end {
            let right = self.patterns[at];
            product = product.product(right).map_err(|why| Error::NotChainable {
                at: at - 1,
                left: self.patterns[at - 1],
                right,
                why,
            })?;
        }
        Ok(product)
    }
}

impl fmt::Display for ChainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.patterns.iter().try_for_each(|p| write!(f, "{p}"))
    }
}
