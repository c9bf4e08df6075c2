//! Permutations as operators: the part of a fast transform that no Kronecker-sparse factor can express.

use crate::scalar::Wide;
use crate::{Error, Layout, Matrix, Result, Scalar};

/// The operator `y[i] = x[source[i]]`.
///
/// ```
/// use kronsparse::{Layout, transform::Permutation};
/// let p = Permutation::bit_reversal(8)?;
/// assert_eq!(p.source(), [0, 4, 2, 6, 1, 5, 3, 7]);
/// assert_eq!(p.inverse(), p);
/// # Ok::<(), kronsparse::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permutation {
    source: Vec<usize>,
}

impl Permutation {
    /// From `source`, which must hold each of `0..len` once.
    pub fn new(source: Vec<usize>) -> Result<Permutation> {
        let mut seen = vec![false; source.len()];
        for (at, &from) in source.iter().enumerate() {
            let fail =
                |why: String| Error::Unsupported { what: format!("a permutation of {} elements", source.len()), why };
            match seen.get_mut(from) {
                None => return Err(fail(format!("source[{at}] = {from} is out of range"))),
                Some(true) => return Err(fail(format!("source[{at}] = {from} occurs twice"))),
                Some(free) => *free = true,
            }
        }
        Ok(Permutation { source })
    }

    /// Leaves everything in place.
    pub fn identity(len: usize) -> Permutation {
        Permutation { source: (0..len).collect() }
    }

    /// Reverses the bits of each index; `len` must be a power of two. Its own inverse.
    pub fn bit_reversal(len: usize) -> Result<Permutation> {
        let bits = super::log2("bit reversal", len)? as u32;
        let reverse = |i: usize| if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) };
        Ok(Permutation { source: (0..len).map(reverse).collect() })
    }

    /// How many elements a vector has.
    pub fn len(&self) -> usize {
        self.source.len()
    }
    /// Whether a vector has no elements.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }
    /// For each output element the input element that it takes.
    pub fn source(&self) -> &[usize] {
        &self.source
    }

    /// The permutation that undoes this one, which is also its transpose.
    pub fn inverse(&self) -> Permutation {
        let mut source = vec![0; self.len()];
        self.source.iter().enumerate().for_each(|(to, &from)| source[from] = to);
        Permutation { source }
    }

    /// The product `self · first`: `first` is applied first. Their sizes must match.
    pub fn after(&self, first: &Permutation) -> Result<Permutation> {
        if self.len() != first.len() {
            return Err(Error::Mismatch {
                what: "the product of two permutations needs one size",
                left: self.len().to_string(),
                right: first.len().to_string(),
            });
        }
        Ok(Permutation { source: self.source.iter().map(|&from| first.source[from]).collect() })
    }

    /// Permutes each of the `n` vectors that lie in `x` as `layout` says, into `y`. Both must have `n · len` elements.
    pub fn apply_into<T: Copy>(&self, x: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        let expected = n * self.len();
        for (what, found) in
            [("X (n · size of the permutation)", x.len()), ("Y (n · size of the permutation)", y.len())]
        {
            if found != expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        if expected == 0 {
            return Ok(());
        }
        match layout {
            Layout::BatchFirst => {
                for (x, y) in x.chunks(self.len()).zip(y.chunks_mut(self.len())) {
                    y.iter_mut().zip(&self.source).for_each(|(y, &from)| *y = x[from]);
                }
            }
            Layout::BatchLast => {
                y.chunks_mut(n).zip(&self.source).for_each(|(y, &from)| y.copy_from_slice(&x[from * n..][..n]));
            }
        }
        Ok(())
    }

    /// [`Permutation::apply_into`] a new vector.
    pub fn apply<T: Copy>(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        let mut y = x.to_vec();
        self.apply_into(x, &mut y, n, layout)?;
        Ok(y)
    }

    /// The matrix with ones at `(i, source[i])`.
    pub fn to_dense<T: Scalar>(&self) -> Matrix<T> {
        let one = T::narrow(T::Wide::ONE);
        Matrix::from_fn(self.len(), self.len(), |row, col| if self.source[row] == col { one } else { T::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_permutation() {
        assert!(Permutation::new(vec![0, 2]).unwrap_err().to_string().contains("source[1] = 2 is out of range"));
        assert!(Permutation::new(vec![1, 0, 1]).unwrap_err().to_string().contains("source[2] = 1 occurs twice"));
        assert!(Permutation::bit_reversal(12).is_err());
        let three = Permutation::identity(3);
        assert!(three.after(&Permutation::identity(2)).is_err());
        assert!(three.apply(&[1, 2, 3, 4], 1, Layout::BatchFirst).is_err());
        assert!(three.apply_into(&[1, 2, 3], &mut [0; 4], 1, Layout::BatchFirst).is_err());
    }

    #[test]
    fn both_layouts_the_matrix_and_the_inverse_agree() {
        let p = Permutation::new(vec![3, 0, 4, 1, 2]).unwrap();
        let n = 3;
        let value = |batch: usize, feature: usize| (10 * batch + feature) as f64;
        for layout in Layout::ALL {
            let mut x = vec![0.0; 5 * n];
            (0..n).for_each(|b| (0..5).for_each(|f| x[layout.index(b, f, n, 5)] = value(b, f)));
            let y = p.apply(&x, n, layout).unwrap();
            let dense = p.to_dense::<f64>();
            for b in 0..n {
                for i in 0..5 {
                    let sum: f64 = (0..5).map(|f| dense.get(i, f) * value(b, f)).sum();
                    assert_eq!(y[layout.index(b, i, n, 5)], sum);
                }
            }
            assert_eq!(p.inverse().apply(&y, n, layout).unwrap(), x);
        }
        assert_eq!(p.after(&p.inverse()).unwrap(), Permutation::identity(5));
        assert_eq!(p.after(&p).unwrap().source(), [1, 3, 2, 0, 4]);
        assert!(p.apply::<u8>(&[], 0, Layout::BatchLast).unwrap().is_empty());
    }
}
