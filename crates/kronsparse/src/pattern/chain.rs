//! A product of Kronecker-sparse matrices with its weights, and a linear layer made of one.

use rayon::prelude::*;

use crate::scalar::Wide;
use crate::{ChainPattern, Error, Factor, Matrix, Pattern, Result, Scalar};

/// `W = K_1 K_2 … K_L`, stored left to right; the right-most factor is applied first.
///
/// ```
/// use kronsparse::{Chain, ChainPattern};
/// let pattern = ChainPattern::monarch(6, 6, 2, 3)?;
/// let chain = Chain::from_fn(&pattern, |_, i, o, l, j| (i + 2 * o + 3 * l + j) as f32);
/// assert_eq!((chain.rows(), chain.cols(), chain.parameters()), (6, 6, 36));
/// assert_eq!(chain.transpose().to_dense(), chain.to_dense().transpose());
/// # Ok::<(), kronsparse::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Chain<T> {
    factors: Vec<Factor<T>>,
    pattern: ChainPattern,
}

impl<T: Scalar> Chain<T> {
    /// From factors, left to right. Checks that there is one and that neighbouring sizes match.
    pub fn new(factors: Vec<Factor<T>>) -> Result<Chain<T>> {
        let pattern = ChainPattern::new(factors.iter().map(Factor::pattern).collect())?;
        Ok(Chain { factors, pattern })
    }

    /// From factors listed in the order in which they are applied (right to left), as the reference implementation
    /// lists them.
    pub fn from_application_order(mut factors: Vec<Factor<T>>) -> Result<Chain<T>> {
        factors.reverse();
        Chain::new(factors)
    }

    /// From a function of `(factor, i, o, l, j)`.
    pub fn from_fn(pattern: &ChainPattern, mut f: impl FnMut(usize, usize, usize, usize, usize) -> T) -> Chain<T> {
        let factors = pattern.patterns().iter().enumerate();
        let factors = factors.map(|(at, &p)| Factor::from_fn(p, |i, o, l, j| f(at, i, o, l, j))).collect();
        Chain { factors, pattern: pattern.clone() }
    }

    /// The factors, left to right.
    pub fn factors(&self) -> &[Factor<T>] {
        &self.factors
    }
    /// Gives up the chain for its factors.
    pub fn into_factors(self) -> Vec<Factor<T>> {
        self.factors
    }
    /// The patterns.
    pub fn pattern(&self) -> &ChainPattern {
        &self.pattern
    }
    /// Rows of the product: the size of an output vector.
    pub fn rows(&self) -> usize {
        self.pattern.rows()
    }
    /// Columns of the product: the size of an input vector.
    pub fn cols(&self) -> usize {
        self.pattern.cols()
    }
    /// Parameters of all factors together.
    pub fn parameters(&self) -> usize {
        self.pattern.parameters()
    }

    /// Two chains of the same patterns as one, whose rows come in twos: row `2r` is row `r` of `gate`, row `2r + 1` is row `r` of
    /// `up`. With [`Join::Gate`](crate::Join::Gate) it makes a gated linear unit that reads `X` once.
    ///
    /// The right-most factor, which is applied first, has twice the outputs, all others twice the lanes: `(a, 2b, c, 1)`, and then
    /// `(a, b, c, 2d)`. Interleaving is possible where the right-most factor has no lanes.
    ///
    /// Errors: [`Error::Mismatch`] for chains of different patterns, [`Error::Unsupported`] for a right-most factor with `d > 1`.
    ///
    /// ```
    /// use kronsparse::{Activation, Chain, ChainPattern, Join, Layout, cpu};
    /// let pattern = ChainPattern::monarch(96, 64, 8, 8)?;
    /// let chain = |shift| Chain::from_fn(&pattern, |at, i, o, l, j| ((at + i + 3 * o + 5 * l + j + shift) % 7) as f32 / 8.0 - 0.4);
    /// let (gate, up) = (chain(0), chain(3));
    /// let options = cpu::Options { activation: Activation::Silu, join: Join::Gate, ..Default::default() };
    /// let both = cpu::Operator::new(&Chain::gated(&gate, &up)?, options)?;
    /// let x: Vec<f32> = (0..10 * 64).map(|k| (k % 11) as f32 / 5.0 - 1.0).collect();
    /// let y = both.multiply(&x, 10, Layout::BatchFirst)?;
    ///
    /// // The same, one after the other.
    /// let alone = |chain, activation| cpu::Operator::new(chain, cpu::Options { activation, ..Default::default() });
    /// let gates = alone(&gate, Activation::Silu)?.multiply(&x, 10, Layout::BatchFirst)?;
    /// let ups = alone(&up, Activation::None)?.multiply(&x, 10, Layout::BatchFirst)?;
    /// let expected: Vec<f32> = gates.iter().zip(&ups).map(|(gate, up)| gate * up).collect();
    /// assert!(kronsparse::relative_error(&y, &expected) < 1e-6);
    /// # Ok::<(), kronsparse::Error>(())
    /// ```
    pub fn gated(gate: &Chain<T>, up: &Chain<T>) -> Result<Chain<T>> {
        if gate.pattern != up.pattern {
            return Err(Error::Mismatch {
                what: "a gate and what it gates have the same patterns",
                left: gate.pattern.to_string(),
                right: up.pattern.to_string(),
            });
        }
        let first = gate.factors.len() - 1;
        let lanes = gate.factors[first].pattern().d();
        if lanes != 1 {
            return Err(Error::Unsupported {
                what: format!("interleaving two chains {}", gate.pattern),
                why: format!("the right-most factor must have d = 1, found {lanes}"),
            });
        }
        let factors = gate.factors.iter().zip(&up.factors).enumerate().map(|(at, (gate, up))| {
            let [a, b, c, d] = gate.pattern().shape();
            let pattern = if at == first { Pattern::new(a, 2 * b, c, 1) } else { Pattern::new(a, b, c, 2 * d) }?;
            Ok(Factor::from_fn(pattern, |i, o, l, j| {
                // The last bit of an output, or of a lane, says which of the two chains it is of.
                let number = if at == first { o } else { j };
                let from = if number % 2 == 0 { gate } else { up };
                if at == first { from.weight(i, o / 2, l, j) } else { from.weight(i, o, l, j / 2) }
            }))
        });
        Chain::new(factors.collect::<Result<_>>()?)
    }

    /// The transposed product: `K_Lᵀ … K_1ᵀ`.
    pub fn transpose(&self) -> Chain<T> {
        self.reversed(Factor::transpose)
    }
    /// The conjugate transpose.
    pub fn adjoint(&self) -> Chain<T> {
        self.reversed(Factor::adjoint)
    }
    /// The complex conjugate.
    pub fn conj(&self) -> Chain<T> {
        Chain { factors: self.factors.iter().map(Factor::conj).collect(), pattern: self.pattern.clone() }
    }
    /// The product times `scalar`; only the first factor changes.
    pub fn scale(&self, scalar: T) -> Chain<T> {
        let mut scaled = self.clone();
        scaled.factors[0] = self.factors[0].scale(scalar);
        scaled
    }
    /// The chain `self · right`: factors concatenated.
    pub fn then(&self, right: &Chain<T>) -> Result<Chain<T>> {
        Chain::new(self.factors.iter().chain(&right.factors).cloned().collect())
    }
    /// The same chain with its weights rounded to another type.
    pub fn cast<U: Scalar>(&self) -> Chain<U> {
        Chain { factors: self.factors.iter().map(Factor::cast).collect(), pattern: self.pattern.clone() }
    }

    /// Replaces factors `range` by their product, one factor. They must be chainable.
    pub fn fuse(&self, range: std::ops::Range<usize>) -> Result<Chain<T>> {
        if range.is_empty() || range.end > self.factors.len() {
            return Err(Error::Unsupported {
                what: format!("fusing factors {}..{}", range.start, range.end),
                why: format!("the chain has factors 0..{}", self.factors.len()),
            });
        }
        self.pattern.product(range.clone())?;
        let mut product = self.factors[range.start].clone();
        for right in &self.factors[range.start + 1..range.end] {
            product = product.fuse(right)?;
        }
        let mut factors = self.factors.clone();
        factors.splice(range, [product]);
        Chain::new(factors)
    }

    /// The product as a dense matrix of shape `(rows, cols)`, summed in the wide type factor by factor and rounded once.
    ///
    /// Rows are computed in parallel, each as `e_rᵀ K_1 ⋯ K_L` along its support, so a chainable chain of ranks `r` takes
    /// about `rows · cols · r` multiplications. Zeros that the patterns imply are never multiplied: an infinite weight
    /// makes NaN only where a weight of value zero meets it.
    pub fn to_dense(&self) -> Matrix<T> {
        if let [factor] = &self.factors[..] {
            // Copied, not multiplied by zeros: a NaN or an infinite weight stays in its place.
            return factor.to_dense();
        }
        let (rows, cols) = (self.rows(), self.cols());
        let mut dense = vec![T::ZERO; rows * cols];
        dense.par_chunks_mut(cols).enumerate().for_each_init(DenseRow::default, |scratch, (row, out)| {
            scratch.start(row);
            self.factors.iter().for_each(|factor| scratch.times(factor));
            for &(col, value) in &scratch.entries {
                out[col] = T::narrow(value);
            }
        });
        Matrix::new(rows, cols, dense).expect("rows · cols elements")
    }

    fn reversed(&self, f: impl Fn(&Factor<T>) -> Factor<T>) -> Chain<T> {
        Chain { factors: self.factors.iter().rev().map(f).collect(), pattern: self.pattern.transpose() }
    }
}

/// One row of a product that grows factor by factor: its support and the values there.
struct DenseRow<W> {
    entries: Vec<(usize, W)>,
    /// One sum per column of the factor at hand, all zero between factors.
    sums: Vec<W>,
    touched: Vec<bool>,
}

impl<W> Default for DenseRow<W> {
    fn default() -> Self {
        DenseRow { entries: Vec::new(), sums: Vec::new(), touched: Vec::new() }
    }
}

impl<W: Wide> DenseRow<W> {
    /// The row `row` of the identity.
    fn start(&mut self, row: usize) {
        self.entries.clear();
        self.entries.push((row, W::ONE));
    }

    /// Multiplies the row by `factor` from the right.
    fn times<T: Scalar<Wide = W>>(&mut self, factor: &Factor<T>) {
        let [_, b, c, d] = factor.pattern().shape();
        let cols = factor.pattern().cols();
        self.sums.resize(self.sums.len().max(cols), W::ZERO);
        self.touched.resize(self.touched.len().max(cols), false);
        let mut support = Vec::with_capacity(self.entries.len() * c);
        for &(row, value) in &self.entries {
            // row = (i·b + o)·d + j
            let (block, lane) = (row / d, row % d);
            let first_weight = block * c * d + lane;
            let first_col = block / b * c * d + lane;
            for l in 0..c {
                let col = first_col + l * d;
                if !self.touched[col] {
                    self.touched[col] = true;
                    support.push(col);
                }
                self.sums[col] += value * factor.weights()[first_weight + l * d].widen();
            }
        }
        self.entries.clear();
        for col in support {
            self.entries.push((col, self.sums[col]));
            self.sums[col] = W::ZERO;
            self.touched[col] = false;
        }
    }
}

impl<T: Scalar> From<Factor<T>> for Chain<T> {
    fn from(factor: Factor<T>) -> Chain<T> {
        Chain::new(vec![factor]).expect("one factor is a chain")
    }
}

/// What a chain file holds: `Y = X Wᵀ + bias`, the structured counterpart of a linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer<T> {
    chain: Chain<T>,
    bias: Option<Vec<T>>,
}

impl<T: Scalar> Layer<T> {
    /// A chain and a bias with one number per row of the chain.
    pub fn new(chain: Chain<T>, bias: Option<Vec<T>>) -> Result<Layer<T>> {
        match &bias {
            Some(b) if b.len() != chain.rows() => {
                Err(Error::Length { what: "bias (rows of the chain)", expected: chain.rows(), found: b.len() })
            }
            _ => Ok(Layer { chain, bias }),
        }
    }
    /// The chain.
    pub fn chain(&self) -> &Chain<T> {
        &self.chain
    }
    /// The bias, if any.
    pub fn bias(&self) -> Option<&[T]> {
        self.bias.as_deref()
    }
    /// Gives up the layer for its parts.
    pub fn into_parts(self) -> (Chain<T>, Option<Vec<T>>) {
        (self.chain, self.bias)
    }
    /// The patterns of the chain's factors.
    pub fn patterns(&self) -> &[Pattern] {
        self.chain.pattern().patterns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small numbers that are all different, so that a wrong index shows.
    fn chain(spec: &str) -> Chain<f64> {
        let patterns = spec.split_inclusive(')').map(|p| p.parse().unwrap()).collect();
        let mut next = 0.0f64;
        Chain::from_fn(&ChainPattern::new(patterns).unwrap(), |_, _, _, _, _| {
            next += 1.0;
            (next * 0.7).sin()
        })
    }

    #[test]
    fn dense_rows_are_those_of_the_oracle() {
        // The last is not chainable.
        for spec in ["(2,3,5,4)", "(1,4,3,6)(3,6,5,1)", "(1,2,2,4)(2,2,2,2)(4,2,2,1)", "(2,3,2,3)(4,3,5,1)"] {
            let chain = chain(spec);
            let dense = chain.to_dense();
            for col in 0..chain.cols() {
                let unit: Vec<f64> = (0..chain.cols()).map(|at| if at == col { 1.0 } else { 0.0 }).collect();
                let expected = crate::reference::vector(&chain, &unit);
                let found: Vec<f64> = (0..chain.rows()).map(|row| dense.get(row, col)).collect();
                assert!(crate::relative_error(&found, &expected) < 1e-15, "{spec}, column {col}");
            }
        }
    }

    #[test]
    fn an_infinite_weight_spoils_only_the_entries_that_hold_it() {
        let plain = chain("(1,4,3,6)(3,6,5,1)");
        let mut weights: Vec<Vec<f64>> = plain.factors().iter().map(|f| f.weights().to_vec()).collect();
        weights[0][7] = f64::INFINITY;
        let factors = plain.factors().iter().zip(weights).map(|(f, w)| Factor::new(f.pattern(), w).unwrap());
        let (dense, plain) = (Chain::new(factors.collect()).unwrap().to_dense(), plain.to_dense());
        // Weight 7 is w[0, 0, 1, 1]: row 1, and of the columns the five of super-block 1 on the right.
        for row in 0..24 {
            for col in 0..15 {
                let holds = row == 1 && (5..10).contains(&col);
                assert_eq!(dense.get(row, col).is_infinite(), holds, "({row}, {col})");
                assert!(holds || dense.get(row, col) == plain.get(row, col), "({row}, {col})");
            }
        }
    }
}
