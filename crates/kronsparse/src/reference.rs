//! The oracle: nested loops in f64 (or complex f64) over the definition. Dull on purpose, and never optimised.

use crate::scalar::Wide;
use crate::{Activation, Chain, Factor, Join, Layout, Pattern, Scalar};

/// `K x` for one vector of wide numbers.
fn factor_vector<T: Scalar>(factor: &Factor<T>, x: &[T::Wide]) -> Vec<T::Wide> {
    let p = factor.pattern();
    let mut y = vec![T::Wide::ZERO; p.rows()];
    for i in 0..p.a() {
        for o in 0..p.b() {
            for j in 0..p.d() {
                let mut sum = T::Wide::ZERO;
                for l in 0..p.c() {
                    sum += factor.weight(i, o, l, j).widen() * x[p.col(i, l, j)];
                }
                y[p.row(i, o, j)] = sum;
            }
        }
    }
    y
}

/// `K_1 ⋯ K_L x` for one vector; hidden values stay wide.
pub fn vector<T: Scalar>(chain: &Chain<T>, x: &[T]) -> Vec<T::Wide> {
    wide_vector(chain, x.iter().map(|v| v.widen()).collect())
}

/// [`vector`] of wide numbers.
pub fn wide_vector<T: Scalar>(chain: &Chain<T>, x: Vec<T::Wide>) -> Vec<T::Wide> {
    chain.factors().iter().rev().fold(x, |x, factor| factor_vector(factor, &x))
}

/// `activation(X Wᵀ + bias)` (or `activation(W X + bias)` batch-last), unrounded, laid out as the engine's output.
pub fn multiply<T: Scalar>(
    chain: &Chain<T>,
    bias: Option<&[T]>,
    activation: Activation,
    x: &[T],
    n: usize,
    layout: Layout,
) -> Vec<T::Wide> {
    let (rows, cols) = (chain.rows(), chain.cols());
    assert_eq!(x.len(), n * cols, "X must have n · cols elements");
    let mut y = vec![T::Wide::ZERO; n * rows];
    for batch in 0..n {
        let input: Vec<T> = (0..cols).map(|col| x[layout.index(batch, col, n, cols)]).collect();
        for (row, mut value) in vector(chain, &input).into_iter().enumerate() {
            if let Some(bias) = bias {
                value += bias[row].widen();
            }
            let (re, im) = value.parts();
            let value = if T::DTYPE.is_complex() { (re, im) } else { (activation.apply(re), 0.0) };
            y[layout.index(batch, row, n, rows)] = T::Wide::from_parts(value.0, value.1);
        }
    }
    y
}

/// [`multiply`], and then the join: `residual` is laid out as the result, and empty where nothing is added.
pub fn multiply_joined<T: Scalar>(
    chain: &Chain<T>,
    bias: Option<&[T]>,
    activation: Activation,
    join: Join,
    (x, residual): (&[T], &[T]),
    n: usize,
    layout: Layout,
) -> Vec<T::Wide> {
    match join {
        Join::None => multiply(chain, bias, activation, x, n, layout),
        Join::Residual => {
            let mut y = multiply(chain, bias, activation, x, n, layout);
            assert_eq!(residual.len(), y.len(), "the residual must have n · rows elements");
            y.iter_mut().zip(residual).for_each(|(y, r)| *y += r.widen());
            y
        }
        Join::Gate => {
            let rows = chain.rows();
            assert_eq!(rows % 2, 0, "the rows of a gated chain come in twos");
            let v = multiply(chain, bias, Activation::None, x, n, layout);
            let mut y = vec![T::Wide::ZERO; n * rows / 2];
            for batch in 0..n {
                for row in 0..rows / 2 {
                    let of = |row: usize| v[layout.index(batch, row, n, rows)].parts().0;
                    let value = activation.apply(of(2 * row)) * of(2 * row + 1);
                    y[layout.index(batch, row, n, rows / 2)] = T::Wide::from_parts(value, 0.0);
                }
            }
            y
        }
    }
}

/// The gradient of a factor's weights, `G[i,o,l,j] = Σ_n V[n,i,o,j] · conj(X[n,i,l,j])`, unrounded, as an array of shape `(a, b, c, d)`: `v` is
/// the gradient of the factor's outputs and `x` has its inputs, both batch-first.
pub fn weight_gradient<T: Scalar>(pattern: Pattern, v: &[T], x: &[T], n: usize) -> Vec<T::Wide> {
    let (rows, cols) = (pattern.rows(), pattern.cols());
    assert_eq!((v.len(), x.len()), (n * rows, n * cols), "V must have n · rows elements, X n · cols");
    let [a, b, c, d] = pattern.shape();
    let mut gradient = vec![T::Wide::ZERO; pattern.nnz()];
    for i in 0..a {
        for o in 0..b {
            for l in 0..c {
                for j in 0..d {
                    let mut sum = T::Wide::ZERO;
                    for batch in 0..n {
                        let (re, im) = x[batch * cols + pattern.col(i, l, j)].widen().parts();
                        sum += v[batch * rows + pattern.row(i, o, j)].widen() * T::Wide::from_parts(re, -im);
                    }
                    gradient[pattern.weight_index(i, o, l, j)] = sum;
                }
            }
        }
    }
    gradient
}
