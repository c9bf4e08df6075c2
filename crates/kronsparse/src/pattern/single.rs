//! One pattern `(a, b, c, d)`: the support `I_a ⊗ 1_{b×c} ⊗ I_d` and everything that follows from four numbers.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The support `I_a ⊗ 1_{b×c} ⊗ I_d` of a Kronecker-sparse matrix: `a` diagonal super-blocks, each a `b × c` grid of
/// `d × d` diagonal blocks.
///
/// ```
/// let p: kronsparse::Pattern = "(6,64,32,2)".parse()?;
/// assert_eq!((p.rows(), p.cols(), p.nnz()), (768, 384, 24576));
/// assert_eq!(p.transpose().to_string(), "(6,32,64,2)");
/// # Ok::<(), kronsparse::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    a: usize,
    b: usize,
    c: usize,
    d: usize,
}

impl Pattern {
    /// Checks that all four are positive and that `a·b·c·d`, rows and columns fit in 63 bits even times 16 bytes.
    pub fn new(a: usize, b: usize, c: usize, d: usize) -> Result<Pattern> {
        let fail = |why| Err(Error::Pattern { a, b, c, d, why });
        if [a, b, c, d].contains(&0) {
            return fail("every number must be at least 1");
        }
        let product = [a, b, c, d].iter().try_fold(16usize, |acc, &x| acc.checked_mul(x));
        match product {
            Some(bytes) if bytes <= isize::MAX as usize => Ok(Pattern { a, b, c, d }),
            _ => fail("a·b·c·d entries do not fit in the address space"),
        }
    }

    /// Number of diagonal super-blocks.
    pub fn a(self) -> usize {
        self.a
    }
    /// Outputs of a super-block, per lane.
    pub fn b(self) -> usize {
        self.b
    }
    /// Inputs of a super-block, per lane.
    pub fn c(self) -> usize {
        self.c
    }
    /// Lanes: the size of the diagonal blocks.
    pub fn d(self) -> usize {
        self.d
    }
    /// `[a, b, c, d]`, the shape of the weights.
    pub fn shape(self) -> [usize; 4] {
        [self.a, self.b, self.c, self.d]
    }
    /// Rows of the matrix, `a·b·d`.
    pub fn rows(self) -> usize {
        self.a * self.b * self.d
    }
    /// Columns of the matrix, `a·c·d`.
    pub fn cols(self) -> usize {
        self.a * self.c * self.d
    }
    /// Entries of the support, `a·b·c·d`: the number of parameters.
    pub fn nnz(self) -> usize {
        self.a * self.b * self.c * self.d
    }
    /// `nnz / (rows · cols) = 1 / (a·d)`.
    pub fn density(self) -> f64 {
        1.0 / (self.a as f64 * self.d as f64)
    }
    /// The pattern `(a, c, b, d)` of the transposed matrix.
    pub fn transpose(self) -> Pattern {
        Pattern { a: self.a, b: self.c, c: self.b, d: self.d }
    }

    /// Floating-point operations of multiplying a batch of `n` real vectors: `2·n·a·b·c·d`.
    pub fn flops(self, n: usize) -> f64 {
        2.0 * n as f64 * self.nnz() as f64
    }
    /// Bytes that a multiplication must move at the least: `X` and the weights read once, `Y` written once.
    pub fn bytes(self, n: usize, element_size: usize) -> f64 {
        element_size as f64 * (n as f64 * (self.rows() + self.cols()) as f64 + self.nnz() as f64)
    }

    /// Where weight `(i, o, l, j)` stands in the C-ordered array of shape `(a, b, c, d)`.
    #[inline]
    pub fn weight_index(self, i: usize, o: usize, l: usize, j: usize) -> usize {
        ((i * self.b + o) * self.c + l) * self.d + j
    }
    /// The row `i·b·d + o·d + j` of the matrix that weight `(i, o, ·, j)` contributes to.
    #[inline]
    pub fn row(self, i: usize, o: usize, j: usize) -> usize {
        (i * self.b + o) * self.d + j
    }
    /// The column `i·c·d + l·d + j` of the matrix that weight `(i, ·, l, j)` multiplies.
    #[inline]
    pub fn col(self, i: usize, l: usize, j: usize) -> usize {
        (i * self.c + l) * self.d + j
    }
    /// Whether `(row, col)` lies in the support.
    pub fn contains(self, row: usize, col: usize) -> bool {
        row < self.rows()
            && col < self.cols()
            && row / (self.b * self.d) == col / (self.c * self.d)
            && row % self.d == col % self.d
    }

    /// The rank `r = a1·c1 / a2 = b2·d2 / d1` that a factorization step recovers between `self` (left) and `right`.
    ///
    /// The error names the condition that fails: `a1 | a2`, `d2 | d1`, or the equality of the two quotients, which must
    /// be a positive integer (Le, Zheng, Riccietti, Gribonval 2024, definition of a chainable pair).
    pub fn rank_with(self, right: Pattern) -> std::result::Result<usize, String> {
        let (l, r) = (self, right);
        if r.a % l.a != 0 {
            return Err(format!("a of the left, {}, does not divide a of the right, {}", l.a, r.a));
        }
        if l.d % r.d != 0 {
            return Err(format!("d of the right, {}, does not divide d of the left, {}", r.d, l.d));
        }
        if (l.a * l.c) % r.a != 0 {
            return Err(format!("a·c of the left, {}, is no multiple of a of the right, {}", l.a * l.c, r.a));
        }
        if (r.b * r.d) % l.d != 0 {
            return Err(format!("b·d of the right, {}, is no multiple of d of the left, {}", r.b * r.d, l.d));
        }
        let (from_left, from_right) = (l.a * l.c / r.a, r.b * r.d / l.d);
        if from_left != from_right {
            return Err(format!(
                "rank a·c/a = {from_left} seen from the left differs from rank b·d/d = {from_right} seen from the right"
            ));
        }
        Ok(from_left)
    }

    /// The pattern `(a1, b1·d1/d2, a2·c2/a1, d2)` of the product of two chainable patterns.
    pub fn product(self, right: Pattern) -> std::result::Result<Pattern, String> {
        self.rank_with(right)?;
        Pattern::new(self.a, self.b * self.d / right.d, right.a * right.c / self.a, right.d).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{},{},{})", self.a, self.b, self.c, self.d)
    }
}

impl FromStr for Pattern {
    type Err = Error;

    /// Reads `(a,b,c,d)` or `a,b,c,d`; spaces around the numbers are allowed.
    fn from_str(text: &str) -> Result<Pattern> {
        let fail = |why: String| Error::Parse { what: "a pattern", text: text.into(), why };
        let inner = text.trim();
        let inner = match (inner.strip_prefix('('), inner.ends_with(')')) {
            (Some(rest), true) => &rest[..rest.len() - 1],
            (None, false) => inner,
            _ => return Err(fail("unbalanced parenthesis; expected (a,b,c,d)".into())),
        };
        let numbers = inner
            .split(',')
            .map(|part| part.trim().parse::<usize>().map_err(|_| fail(format!("`{}` is no whole number", part.trim()))))
            .collect::<Result<Vec<usize>>>()?;
        match numbers[..] {
            [a, b, c, d] => Pattern::new(a, b, c, d),
            _ => Err(fail(format!("expected four numbers a,b,c,d, found {}", numbers.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_refuses_text() {
        assert_eq!("(1, 2,3,4)".parse::<Pattern>().unwrap(), Pattern::new(1, 2, 3, 4).unwrap());
        assert_eq!("5,6,7,8".parse::<Pattern>().unwrap().shape(), [5, 6, 7, 8]);
        for bad in ["", "(1,2,3,4", "1,2,3,4)", "1,2,3", "1,2,3,4,5", "1,0,1,1", "1,x,1,1", "-1,1,1,1", ")("] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn sizes_beyond_the_address_space_are_refused() {
        let big = 1usize << 20;
        assert!(Pattern::new(big, big, big, big).is_err());
        // Far beyond 2^31 elements, still within 64-bit indices.
        let p = Pattern::new(1 << 10, 1 << 12, 1 << 12, 1 << 5).unwrap();
        assert_eq!(p.nnz(), 1 << 39);
        assert_eq!(p.weight_index(1023, 4095, 4095, 31), (1 << 39) - 1);
        assert_eq!(p.row(1023, 4095, 31), p.rows() - 1);
        assert_eq!(p.col(1023, 4095, 31), p.cols() - 1);
        assert!(p.contains(p.rows() - 1, p.cols() - 1));
        assert_eq!(p.flops(1 << 20), 2f64.powi(60));
    }

    #[test]
    fn support_is_where_the_kronecker_product_has_ones() {
        let p = Pattern::new(2, 3, 2, 4).unwrap();
        let mut seen = 0;
        for row in 0..p.rows() {
            for col in 0..p.cols() {
                let (i, o, j) = (row / 12, row / 4 % 3, row % 4);
                let expected = (0..2).any(|l| p.col(i, l, j) == col) && p.row(i, o, j) == row;
                assert_eq!(p.contains(row, col), expected, "({row},{col})");
                seen += usize::from(expected);
            }
        }
        assert_eq!(seen, p.nnz());
    }

    #[test]
    fn chainable_pairs_and_their_product() {
        let p = |s: &str| s.parse::<Pattern>().unwrap();
        assert_eq!(p("1,64,64,64").rank_with(p("64,64,64,1")), Ok(1));
        assert_eq!(p("1,64,64,64").product(p("64,64,64,1")).unwrap(), p("1,4096,4096,1"));
        assert_eq!(p("1,16,32,24").rank_with(p("32,24,48,1")), Ok(1));
        let why = p("1,128,128,3").rank_with(p("6,64,256,1")).unwrap_err();
        assert!(why.contains("128") && why.contains('6'), "{why}");
    }
}
