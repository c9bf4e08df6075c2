//! Fast transforms as chains, exact by construction: Walsh–Hadamard, discrete Fourier, discrete cosine (type II).
//!
//! [`hadamard`] is a chain alone. [`dft`] and [`dct2`] are a chain behind an explicit [`Permutation`] of the input, which no
//! Kronecker-sparse factor can express: a [`Transform`] holds both.

mod cosine;
mod fourier;
mod hadamard;
mod permutation;

pub use cosine::{dct2, dct2_orthonormal};
pub use fourier::{dft, dft_orthonormal};
pub use hadamard::{hadamard, hadamard_orthonormal};
pub use permutation::Permutation;

use crate::cpu::{Operator, Options};
use crate::{Chain, Error, Layout, Matrix, Result, Scalar};

/// The matrix `W = C · P`: a permutation of the input, then a chain.
///
/// ```
/// use kronsparse::{Layout, transform};
/// let dct = transform::dct2::<f64>(8)?;
/// let y = dct.apply(&[1.0; 8], 1, Layout::BatchFirst)?;
/// assert!((y[0] - 8.0).abs() < 1e-14 && y[1..].iter().all(|y| y.abs() < 1e-14));
/// # Ok::<(), kronsparse::Error>(())
/// ```
#[derive(Debug)]
pub struct Transform<T: Scalar> {
    permutation: Permutation,
    chain: Chain<T>,
    operator: Operator<T>,
}

impl<T: Scalar> Transform<T> {
    /// `chain · permutation`, ready for multiplication. Their sizes must match.
    pub fn new(permutation: Permutation, chain: Chain<T>) -> Result<Transform<T>> {
        if permutation.len() != chain.cols() {
            return Err(Error::Length {
                what: "permutation before a chain (columns of the chain)",
                expected: chain.cols(),
                found: permutation.len(),
            });
        }
        let operator = Operator::new(&chain, Options::default())?;
        Ok(Transform { permutation, chain, operator })
    }

    /// What is applied first.
    pub fn permutation(&self) -> &Permutation {
        &self.permutation
    }
    /// What is applied to the permuted input.
    pub fn chain(&self) -> &Chain<T> {
        &self.chain
    }

    /// Transforms `n` vectors of `chain.cols()` elements that lie in `x` as `layout` says; returns `n` vectors of
    /// `chain.rows()` elements in the same layout. Another length of `x` is an error.
    pub fn apply(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        self.operator.multiply(&self.permutation.apply(x, n, layout)?, n, layout)
    }

    /// The matrix `C · P`, dense.
    pub fn to_dense(&self) -> Matrix<T> {
        let chain = self.chain.to_dense();
        // Column i of C meets input source(i).
        let inverse = self.permutation.inverse();
        Matrix::from_fn(chain.rows(), chain.cols(), |row, col| chain.get(row, inverse.source()[col]))
    }
}

/// `log2 n`, or an error that says what a `what` needs.
fn log2(what: &str, n: usize) -> Result<usize> {
    if n.is_power_of_two() {
        return Ok(n.trailing_zeros() as usize);
    }
    Err(Error::Unsupported { what: format!("a {what} of size {n}"), why: "the size must be a power of two".into() })
}
