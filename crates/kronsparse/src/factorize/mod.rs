//! Dense matrix → chain: the hierarchical factorization, with the error of the result and the guarantee it carries.
//!
//! The method is that of Le, Zheng, Riccietti and Gribonval, *Butterfly factorization with error guarantees*
//! (arXiv 2411.04506): the matrix is split in two Kronecker-sparse factors, then a factor in two, and so on. A split cuts
//! its matrix into independent blocks and replaces each by its best approximation of rank `r` (a truncated SVD). Before
//! each later split the factors on its left get orthonormal columns and those on its right orthonormal rows, block by
//! block (QR of neighbouring factors), so that the error made on one factor is the error made on the whole product.
//!
//! # The guarantee
//!
//! Write `A_k` for the product after `k` splits, and `E` for the smallest error `‖A − B‖_F` over all products `B` of the
//! chain. With orthonormalisation `‖A − W‖_F ≤ C · E`, where [`Factorization::bound`] is `C`:
//!
//! * Split `k + 1`, at position `s`, takes the best approximation of `A_k` whose blocks of split `s` have rank `r_s`. An
//!   earlier split at another position acts inside these blocks as a projection from one side, which raises no rank and no
//!   distance. So `‖A_k − A_{k+1}‖ ≤ E` for every split, and their number `L − 1` is a bound by the triangle inequality.
//! * The errors of splits `j < k` are orthogonal whenever the splits `j + 1, …, k` all lie on one side of split `j`: they
//!   then keep the column spaces (or row spaces) onto which split `j` has projected. The squared norm of a sum of `L − 1`
//!   vectors of length at most `E`, of which `p` pairs are not orthogonal, is at most `(L − 1 + 2p) E²`.
//!
//! Hence `C = sqrt(L − 1 + 2p)`. Left to right and right to left have `p = 0`: `C = sqrt(L − 1)`, and two factors are
//! optimal, `C = 1`. Never is `C` above `L − 1`. Without orthonormalisation this argument does not hold and the bound is
//! infinite for three factors and more. The guarantee is one of exact arithmetic: rounding adds its own level.

mod low_rank;
mod order;
mod run;
mod split;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use num_complex::Complex64;

use crate::{Chain, ChainPattern, Error, Matrix, Result, Scalar};

/// The order in which the positions of a chain are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// `l2r`: `K_1` is split off first, then `K_2`. No orthonormalisation is ever needed, and the guarantee is the best.
    #[default]
    LeftToRight,
    /// `r2l`: `K_L` is split off first.
    RightToLeft,
    /// `balanced`: in the middle, then both halves in the same way, the left one first. Smaller blocks, hence the least work.
    Balanced,
}

impl Order {
    /// Every order.
    pub const ALL: [Order; 3] = [Order::LeftToRight, Order::RightToLeft, Order::Balanced];

    /// `l2r`, `r2l` or `balanced`.
    pub fn name(self) -> &'static str {
        match self {
            Order::LeftToRight => "l2r",
            Order::RightToLeft => "r2l",
            Order::Balanced => "balanced",
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Order {
    type Err = Error;

    fn from_str(text: &str) -> Result<Order> {
        Order::ALL.into_iter().find(|order| order.name() == text).ok_or_else(|| Error::Parse {
            what: "an order of factorization",
            text: text.into(),
            why: "expected one of l2r, r2l, balanced".into(),
        })
    }
}

/// How [`factorize`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to split first.
    pub order: Order,
    /// Whether to orthonormalise the other factors before a split. Needed for the guarantee; nearly free.
    pub orthonormal: bool,
    /// How many threads at most; 0 means all of rayon's current pool. The result does not depend on it.
    pub threads: usize,
}

impl Default for Options {
    /// Left to right, orthonormal, all threads.
    fn default() -> Options {
        Options { order: Order::LeftToRight, orthonormal: true, threads: 0 }
    }
}

/// One split of the hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The factors, counted from 0 in chain order, whose product was split.
    pub factors: Range<usize>,
    /// The first factor of the right part: `factors.start < split < factors.end`.
    pub split: usize,
    /// The rank kept in every block.
    pub rank: usize,
    /// `‖M − X·X'‖_F / ‖M‖_F` of the matrix `M` that was split, before its parts were rounded to the element type. With
    /// orthonormalisation it is the error added to the whole product, relative to the product before this step.
    pub relative_error: f64,
}

/// What [`factorize`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Factorization<T> {
    /// The factors, rounded to the element type. Their magnitudes are levelled by powers of two.
    pub chain: Chain<T>,
    /// `‖A − W‖_F / ‖A‖_F`, computed from the rounded factors; 0 for a zero matrix.
    pub relative_error: f64,
    /// The splits, in the order in which they were made: one fewer than factors.
    pub steps: Vec<Step>,
    /// `C` in `‖A − W‖_F ≤ C · min ‖A − B‖_F`, the minimum being over the products `B` of the chain; see the
    /// [module's page](self). [`f64::INFINITY`] where nothing is guaranteed.
    pub bound: f64,
}

/// Approximates `matrix` by a product of Kronecker-sparse factors with the patterns of a chainable chain.
///
/// The work is done in f64 (complex f64) whatever the element type, and rounded once at the end. A matrix that has the
/// structure (Hadamard, DFT times bit reversal, any product of the chain) is recovered to rounding level. Entries outside
/// the support of the chain's product are approximated by zero, and count in the error. A redundant chain, one whose rank
/// exceeds the size of a block, is allowed: its superfluous weights are zero.
///
/// ```
/// use kronsparse::factorize::{Options, factorize};
/// use kronsparse::{ChainPattern, Matrix};
/// let matrix = Matrix::from_fn(64, 64, |i, k| if (i & k).count_ones() % 2 == 0 { 1.0f32 } else { -1.0 });
/// let result = factorize(&matrix, &ChainPattern::square_dyadic(64)?, &Options::default())?;
/// assert_eq!(result.chain.parameters(), 6 * 64 * 2);
/// assert!(result.relative_error < 1e-6);
/// # Ok::<(), kronsparse::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::NotChainable`] names the pair that is not chainable, [`Error::Shape`] a matrix of another shape than the chain,
/// [`Error::Numerical`] the first entry that is NaN or infinite, or factors that overflow the element type.
pub fn factorize<T: Scalar>(matrix: &Matrix<T>, pattern: &ChainPattern, options: &Options) -> Result<Factorization<T>> {
    pattern.ranks()?;
    let (expected, found) = (vec![pattern.rows(), pattern.cols()], vec![matrix.rows(), matrix.cols()]);
    if expected != found {
        return Err(Error::Shape { what: format!("a matrix to factorize by {pattern}"), expected, found });
    }
    let work = || {
        if T::DTYPE.is_complex() {
            run::run::<T, Complex64>(matrix, pattern, options)
        } else {
            run::run::<T, f64>(matrix, pattern, options)
        }
    };
    if options.threads == 0 {
        return work();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| Error::Unsupported {
        what: format!("factorizing with {} threads", options.threads),
        why: e.to_string(),
    })?;
    pool.install(work)
}
