//! One Kronecker-sparse matrix: a pattern and its weights.

use crate::scalar::Wide;
use crate::{Error, Matrix, Pattern, Result, Scalar};

/// A Kronecker-sparse matrix `K` with `K[i·b·d + o·d + j, i·c·d + l·d + j] = w[i, o, l, j]`, zero elsewhere.
///
/// The weights are a dense array of shape `(a, b, c, d)` in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor<T> {
    pattern: Pattern,
    weights: Vec<T>,
}

impl<T: Scalar> Factor<T> {
    /// From weights of shape `(a, b, c, d)` in C order. Another length than `a·b·c·d` is an error.
    pub fn new(pattern: Pattern, weights: Vec<T>) -> Result<Factor<T>> {
        if weights.len() != pattern.nnz() {
            return Err(Error::Length {
                what: "factor weights (a·b·c·d)",
                expected: pattern.nnz(),
                found: weights.len(),
            });
        }
        Ok(Factor { pattern, weights })
    }

    /// From a function of `(i, o, l, j)`.
    pub fn from_fn(pattern: Pattern, mut f: impl FnMut(usize, usize, usize, usize) -> T) -> Factor<T> {
        let [a, b, c, d] = pattern.shape();
        let mut weights = Vec::with_capacity(pattern.nnz());
        for i in 0..a {
            for o in 0..b {
                for l in 0..c {
                    weights.extend((0..d).map(|j| f(i, o, l, j)));
                }
            }
        }
        Factor { pattern, weights }
    }

    /// The pattern.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }
    /// The weights, shape `(a, b, c, d)`, C order.
    pub fn weights(&self) -> &[T] {
        &self.weights
    }
    /// Gives up the factor for its weights.
    pub fn into_weights(self) -> Vec<T> {
        self.weights
    }
    /// One weight. Panics if out of range.
    pub fn weight(&self, i: usize, o: usize, l: usize, j: usize) -> T {
        self.weights[self.pattern.weight_index(i, o, l, j)]
    }

    /// The same matrix, dense.
    pub fn to_dense(&self) -> Matrix<T> {
        let p = self.pattern;
        let mut dense = Matrix::from_fn(p.rows(), p.cols(), |_, _| T::ZERO);
        self.for_each(|row, col, weight| dense.as_mut_slice()[row * p.cols() + col] = weight);
        dense
    }

    /// The factor with this pattern that equals `dense`.
    ///
    /// Refuses another shape, and any entry off the support that is not zero (NaN included).
    pub fn from_dense(pattern: Pattern, dense: &Matrix<T>) -> Result<Factor<T>> {
        if (dense.rows(), dense.cols()) != (pattern.rows(), pattern.cols()) {
            return Err(Error::Shape {
                what: format!("a dense matrix for pattern {pattern}"),
                expected: vec![pattern.rows(), pattern.cols()],
                found: vec![dense.rows(), dense.cols()],
            });
        }
        for row in 0..dense.rows() {
            for (col, &value) in dense.row(row).iter().enumerate() {
                if value != T::ZERO && !pattern.contains(row, col) {
                    return Err(Error::OffSupport { row, col, value: format!("{value:?}"), pattern });
                }
            }
        }
        Ok(Factor::from_fn(pattern, |i, o, l, j| dense.get(pattern.row(i, o, j), pattern.col(i, l, j))))
    }

    /// The transposed matrix: pattern `(a, c, b, d)`, weights `w[i, l, o, j]`.
    pub fn transpose(&self) -> Factor<T> {
        Factor::from_fn(self.pattern.transpose(), |i, l, o, j| self.weight(i, o, l, j))
    }
    /// The complex conjugate.
    pub fn conj(&self) -> Factor<T> {
        self.map(T::conj)
    }
    /// The conjugate transpose.
    pub fn adjoint(&self) -> Factor<T> {
        self.transpose().conj()
    }
    /// Every weight times `scalar`, rounded once.
    pub fn scale(&self, scalar: T) -> Factor<T> {
        self.map(|w| T::narrow(w.widen() * scalar.widen()))
    }
    /// The sum of two factors of one pattern, rounded once.
    pub fn add(&self, other: &Factor<T>) -> Result<Factor<T>> {
        if self.pattern != other.pattern {
            return Err(Error::Mismatch {
                what: "the sum of two factors needs one pattern",
                left: self.pattern.to_string(),
                right: other.pattern.to_string(),
            });
        }
        let weights = self.weights.iter().zip(&other.weights);
        let weights = weights.map(|(x, y)| T::narrow(x.widen() + y.widen())).collect();
        Ok(Factor { pattern: self.pattern, weights })
    }

    /// The same factor with its weights rounded to another type. Imaginary parts are dropped by real types.
    pub fn cast<U: Scalar>(&self) -> Factor<U> {
        let convert = |w: &T| {
            let (re, im) = w.widen().parts();
            U::narrow(U::Wide::from_parts(re, im))
        };
        Factor { pattern: self.pattern, weights: self.weights.iter().map(convert).collect() }
    }

    /// The product `self · right` as one factor of pattern `(a1, b1·d1/d2, a2·c2/a1, d2)`, summed in the wide type and
    /// rounded once. Only chainable pairs have such a product.
    pub fn fuse(&self, right: &Factor<T>) -> Result<Factor<T>> {
        let (p, q) = (self.pattern, right.pattern);
        let product = p.product(q).map_err(|why| Error::NotChainable { at: 0, left: p, right: q, why })?;
        let rank = p.rank_with(q).expect("the product exists");
        // Row `(o1, j1)` of the left's super-block and column `(l2, j2)` of the right's meet in `rank` hidden indices.
        let blocks = q.a() / p.a(); // right super-blocks under one left super-block
        let fused = Factor::from_fn(product, |i, o, l, j| {
            let (o1, j1) = ((o * q.d() + j) / p.d(), (o * q.d() + j) % p.d());
            let (i2, l2) = (i * blocks + l / q.c(), l % q.c());
            let mut sum = T::Wide::ZERO;
            for s in 0..rank {
                // The hidden feature inside right block i2 with lane j1 of the left: (o2, j) with (o2·d2 + j) % d1 == j1.
                let in_block = s * p.d() + j1;
                let hidden = i2 * q.b() * q.d() + in_block;
                let l1 = hidden % (p.c() * p.d()) / p.d();
                debug_assert_eq!(in_block % q.d(), j);
                sum += self.weight(i, o1, l1, j1).widen() * right.weight(i2, in_block / q.d(), l2, j).widen();
            }
            T::narrow(sum)
        });
        Ok(fused)
    }

    /// Calls `f(row, col, weight)` for every entry of the support.
    pub fn for_each(&self, mut f: impl FnMut(usize, usize, T)) {
        let p = self.pattern;
        let mut weights = self.weights.iter();
        for i in 0..p.a() {
            for o in 0..p.b() {
                for l in 0..p.c() {
                    for j in 0..p.d() {
                        f(p.row(i, o, j), p.col(i, l, j), *weights.next().expect("nnz weights"));
                    }
                }
            }
        }
    }

    fn map(&self, f: impl FnMut(T) -> T) -> Factor<T> {
        Factor { pattern: self.pattern, weights: self.weights.iter().copied().map(f).collect() }
    }
}
