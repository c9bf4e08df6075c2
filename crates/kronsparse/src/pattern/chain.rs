//! A product of Kronecker-sparse matrices with its weights, and a linear layer made of one.

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
    pub fn to_dense(&self) -> Matrix<T> {
        if let [factor] = &self.factors[..] {
            // Copied, not multiplied by zeros: a NaN or an infinite weight stays in its place.
            return factor.to_dense();
        }
        let (rows, cols) = (self.rows(), self.cols());
        let mut dense = Vec::with_capacity(rows * cols);
        let transposed = self.transpose();
        let mut unit = vec![T::ZERO; rows];
        // Row r of W is Wᵀ e_r; the oracle keeps hidden values in the wide type.
        for row in 0..rows {
            unit[row] = T::narrow(<T::Wide as crate::scalar::Wide>::ONE);
            dense.extend(crate::reference::vector(&transposed, &unit).into_iter().map(T::narrow));
            unit[row] = T::ZERO;
        }
        Matrix::new(rows, cols, dense).expect("rows · cols elements")
    }

    fn reversed(&self, f: impl Fn(&Factor<T>) -> Factor<T>) -> Chain<T> {
        Chain { factors: self.factors.iter().rev().map(f).collect(), pattern: self.pattern.transpose() }
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
