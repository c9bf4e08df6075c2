//! A dense row-major matrix: what chains are converted to and factorized from.

use crate::{Error, Result, Scalar};

/// A dense matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix<T> {
    rows: usize,
    cols: usize,
    data: Vec<T>,
}

impl<T: Copy> Matrix<T> {
    /// From row-major `data` of `rows · cols` elements.
    pub fn new(rows: usize, cols: usize, data: Vec<T>) -> Result<Matrix<T>> {
        let expected = rows.checked_mul(cols).ok_or_else(|| Error::Unsupported {
            what: format!("a {rows} × {cols} matrix"),
            why: "its size does not fit in 64 bits".into(),
        })?;
        if data.len() != expected {
            return Err(Error::Length { what: "matrix data (rows · cols)", expected, found: data.len() });
        }
        Ok(Matrix { rows, cols, data })
    }

    /// From a function of row and column.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> T) -> Matrix<T> {
        let mut data = Vec::with_capacity(rows * cols);
        for row in 0..rows {
            data.extend((0..cols).map(|col| f(row, col)));
        }
        Matrix { rows, cols, data }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// All elements, row-major.
    pub fn as_slice(&self) -> &[T] {
        &self.data
    }
    /// All elements, row-major, mutable.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data
    }
    /// Gives up the matrix for its row-major elements.
    pub fn into_vec(self) -> Vec<T> {
        self.data
    }
    /// One row. Panics if `row` is out of range.
    pub fn row(&self, row: usize) -> &[T] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }
    /// One element. Panics if out of range.
    pub fn get(&self, row: usize, col: usize) -> T {
        self.row(row)[col]
    }
    /// The transposed matrix.
    pub fn transpose(&self) -> Matrix<T> {
        Matrix::from_fn(self.cols, self.rows, |row, col| self.get(col, row))
    }
}

impl<T: Scalar> Matrix<T> {
    /// `‖self − other‖_F / ‖other‖_F` in f64; the plain norm of `self` where `other` is zero. NaN where either has one.
    pub fn relative_error(&self, other: &Matrix<T>) -> Result<f64> {
        if (self.rows, self.cols) != (other.rows, other.cols) {
            return Err(Error::Shape {
                what: "relative error".into(),
                expected: vec![other.rows, other.cols],
                found: vec![self.rows, self.cols],
            });
        }
        Ok(crate::relative_error(&self.data, &other.data))
    }
}
