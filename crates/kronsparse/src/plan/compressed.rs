//! A factor as compressed sparse rows: of numbers (CSR), or of dense blocks once lanes lie apart (BSR).

use crate::{Error, Pattern, Result};

/// A sparse matrix of `rows × cols` square blocks, `size × size` each; `size` 1 is CSR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed<T> {
    /// Rows of blocks.
    pub rows: usize,
    /// Columns of blocks.
    pub cols: usize,
    /// Rows, and columns, of a block.
    pub size: usize,
    /// Where each row of blocks begins among the blocks; `rows + 1` numbers.
    pub offsets: Vec<i32>,
    /// The block column of each block.
    pub columns: Vec<i32>,
    /// The blocks one after the other, each row-major.
    pub values: Vec<T>,
}

/// The largest block of BSR. Larger ones gain nothing and make tiles that do not fit.
const LARGEST_BLOCK: usize = 64;

impl<T: Copy> Compressed<T> {
    /// The factor itself. `weights` as in [`Factor::weights`](crate::Factor::weights).
    pub fn csr(pattern: Pattern, weights: &[T]) -> Result<Compressed<T>> {
        let [a, b, c, d] = pattern.shape();
        check(pattern, pattern.nnz())?;
        let (mut columns, mut values) = (Vec::with_capacity(weights.len()), Vec::with_capacity(weights.len()));
        for (i, o, j) in (0..a * b * d).map(|row| (row / (b * d), row / d % b, row % d)) {
            for l in 0..c {
                columns.push(pattern.col(i, l, j) as i32);
                values.push(weights[pattern.weight_index(i, o, l, j)]);
            }
        }
        let offsets = (0..=pattern.rows()).map(|row| (row * c) as i32).collect();
        Ok(Compressed { rows: pattern.rows(), cols: pattern.cols(), size: 1, offsets, columns, values })
    }

    /// The block-diagonal matrix that is left between the permutations of permute-bmm, in blocks as large as possible: of
    /// the largest divisor of `b` and `c` up to 64. [`Error::Unsupported`] if that is 1.
    pub fn bsr(pattern: Pattern, weights: &[T]) -> Result<Compressed<T>> {
        let [a, b, c, d] = pattern.shape();
        check(pattern, pattern.nnz())?;
        let size = (1..=LARGEST_BLOCK).rev().find(|s| b.is_multiple_of(*s) && c.is_multiple_of(*s)).unwrap_or(1);
        if size == 1 {
            return Err(Error::Unsupported {
                what: format!("algorithm bsr for {pattern}"),
                why: format!("b = {b} and c = {c} have no common block of 2 to {LARGEST_BLOCK} rows"),
            });
        }
        let (down, across) = (b / size, c / size);
        let (mut columns, mut values) = (Vec::new(), Vec::with_capacity(weights.len()));
        for (i, j, row) in (0..a * d * down).map(|k| (k / (d * down), k / down % d, k % down)) {
            for column in 0..across {
                columns.push(((i * d + j) * across + column) as i32);
                for (o, l) in (0..size * size).map(|k| (row * size + k / size, column * size + k % size)) {
                    values.push(weights[pattern.weight_index(i, o, l, j)]);
                }
            }
        }
        let rows = a * d * down;
        let offsets = (0..=rows).map(|row| (row * across) as i32).collect();
        Ok(Compressed { rows, cols: a * d * across, size, offsets, columns, values })
    }
}

/// Indices are 32 bits wide.
fn check(pattern: Pattern, entries: usize) -> Result<()> {
    if entries.max(pattern.rows()).max(pattern.cols()) <= i32::MAX as usize {
        return Ok(());
    }
    let why = format!("{entries} entries need more than 32-bit indices");
    Err(Error::Unsupported { what: format!("a compressed form of {pattern}"), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Factor;

    fn dense(matrix: &Compressed<f64>) -> Vec<Vec<f64>> {
        let size = matrix.size;
        let mut all = vec![vec![0.0; matrix.cols * size]; matrix.rows * size];
        for row in 0..matrix.rows {
            for block in matrix.offsets[row] as usize..matrix.offsets[row + 1] as usize {
                for (r, c) in (0..size * size).map(|k| (k / size, k % size)) {
                    all[row * size + r][matrix.columns[block] as usize * size + c] =
                        matrix.values[block * size * size + r * size + c];
                }
            }
        }
        all
    }

    #[test]
    fn csr_is_the_factor_and_bsr_its_lanes_apart() {
        for text in ["1,4,6,3", "2,6,4,5", "3,2,2,1", "2,8,8,2", "1,130,65,1"] {
            let pattern: Pattern = text.parse().unwrap();
            let [_, b, c, d] = pattern.shape();
            let factor = Factor::from_fn(pattern, |_, _, _, _| fastrand::f64() - 0.5);
            let csr = dense(&Compressed::csr(pattern, factor.weights()).unwrap());
            let bsr = Compressed::bsr(pattern, factor.weights()).unwrap();
            assert!(bsr.size >= 2 && bsr.size <= LARGEST_BLOCK && b % bsr.size == 0 && c % bsr.size == 0);
            let (apart, expected) = (dense(&bsr), factor.to_dense());
            assert_eq!((csr.len(), csr[0].len()), (pattern.rows(), pattern.cols()));
            // Feature (i, f, j) stands at (i·d + j)·features + f between the permutations.
            let place = |feature: usize, features: usize| {
                let (i, f, j) = (feature / (features * d), feature / d % features, feature % d);
                (i * d + j) * features + f
            };
            for (row, col) in (0..pattern.rows() * pattern.cols()).map(|k| (k / pattern.cols(), k % pattern.cols())) {
                assert_eq!(csr[row][col], expected.get(row, col), "{text} ({row}, {col})");
                assert_eq!(apart[place(row, b)][place(col, c)], expected.get(row, col), "{text} ({row}, {col})");
            }
        }
    }

    #[test]
    fn blocks_are_as_large_as_possible_or_refused() {
        let block = |text: &str| {
            let pattern: Pattern = text.parse().unwrap();
            Compressed::bsr(pattern, &vec![1.0f32; pattern.nnz()]).map(|m| m.size)
        };
        assert_eq!(
            [block("1,96,96,1").unwrap(), block("1,256,64,1").unwrap(), block("1,48,192,1").unwrap()],
            [48, 64, 48]
        );
        assert!(block("1,5,7,4").unwrap_err().to_string().contains("no common block"));
    }
}
