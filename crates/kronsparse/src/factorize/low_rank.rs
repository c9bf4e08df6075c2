//! The numerics of one block: its best approximation of rank `r`, and moving the weight of a product to one side.

use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side as Triangle};

use crate::scalar::Wide;

/// `f64` and `Complex64`: what the library of decompositions and our own loops both compute with.
///
/// The two operations are methods, not generic functions, so that the decompositions are compiled in this crate, once, and
/// not in every crate that factorizes.
pub(super) trait Field: Wide + ComplexField<Real = f64> {
    /// [`truncate`].
    fn truncate(
        block: &[Self],
        sizes: Sizes,
        weight: Weight,
        unit_roundoff: f64,
        left: &mut [Self],
        right: &mut [Self],
    ) -> Result<Energy, String>;
    /// [`shift`].
    fn shift(sizes: Sizes, to: Weight, left: &mut [Self], right: &mut [Self]);
}

macro_rules! field {
    ($($t:ty),*) => {$(
        impl Field for $t {
            fn truncate(
                block: &[$t],
                sizes: Sizes,
                weight: Weight,
                unit_roundoff: f64,
                left: &mut [$t],
                right: &mut [$t],
            ) -> Result<Energy, String> {
                truncate(block, sizes, weight, unit_roundoff, left, right)
            }
            fn shift(sizes: Sizes, to: Weight, left: &mut [$t], right: &mut [$t]) {
                shift(sizes, to, left, right);
            }
        }
    )*};
}
field!(f64, num_complex::Complex64);

/// Which factor of a product `left · right` carries its magnitude; the other one is (pseudo-)orthonormal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// `right` has orthonormal rows.
    Left,
    /// `left` has orthonormal columns.
    Right,
    /// Shared: column `s` of `left` and row `s` of `right` have the same norm.
    Both,
}

/// Squared Frobenius norms of a block: all of it, and what its approximation leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Energy {
    pub(super) total: f64,
    pub(super) lost: f64,
}

/// The sizes of a block `m × n` and of its factors `m × rank` and `rank × n`, all row-major.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) rank: usize,
}

/// The least relative error at which the route over the Gram matrix is as good as an SVD: the eigenvalue problem is solved
/// to about `k·u` of the block's squared norm, which raises an error `e` by no more than `k·u / 2e` (`1e-8` relative at
/// `k = 64`).
const CLEARLY_INEXACT: f64 = 6e-4;

/// Writes the best rank-`rank` approximation of `block` as `left · right`; a rank beyond `min(m, n)` is padded with zeros.
///
/// `unit_roundoff` is that of the type in which the result will be stored. Entries should be of magnitude one, so that
/// squares neither overflow nor vanish.
///
/// The dominant eigenvectors of the smaller Gram matrix come at half the price of an SVD, but it knows singular values
/// below `sqrt(u)` of the largest only vaguely. So its result is kept only if the error, which is measured on the
/// block itself, shows that this did not matter: exact to rounding of the stored type, or so inexact that the lost digits
/// are not seen. Anything between is done by the SVD.
fn truncate<W: Field>(
    block: &[W],
    sizes: Sizes,
    weight: Weight,
    unit_roundoff: f64,
    left: &mut [W],
    right: &mut [W],
) -> Result<Energy, String> {
    let Sizes { m, n, rank } = sizes;
    let total = block.iter().map(|x| x.abs2()).sum();
    let matrix = MatRef::from_row_major_slice(block, m, n);
    if rank >= m.min(n) {
        let identity = |k| Mat::<W>::identity(k, k);
        let (l, r, at) = if m <= n {
            (identity(m), matrix.to_owned(), Weight::Right)
        } else {
            (matrix.to_owned(), identity(n), Weight::Left)
        };
        store(l, r, at, weight, sizes, left, right);
        return Ok(Energy { total, lost: 0.0 });
    }
    if let Some((l, r, at)) = by_gram(matrix, rank) {
        let lost = residual(matrix, &l, &r);
        let exact = 8.0 * unit_roundoff;
        if lost <= exact * exact * total || lost >= CLEARLY_INEXACT * CLEARLY_INEXACT * total {
            store(l, r, at, weight, sizes, left, right);
            return Ok(Energy { total, lost });
        }
    }
    let svd = matrix.thin_svd().map_err(|e| format!("the SVD of a {m} × {n} block failed: {e:?}"))?;
    let u = svd.U().subcols(0, rank).to_owned();
    let v = svd.V().subcols(0, rank).adjoint().to_owned();
    let sigma = |s: usize| svd.S()[s];
    let (l, r, at) = if weight == Weight::Left {
        (Mat::from_fn(m, rank, |i, s| u[(i, s)] * sigma(s)), v, Weight::Left)
    } else {
        (u, Mat::from_fn(rank, n, |s, j| sigma(s) * v[(s, j)]), Weight::Right)
    };
    let lost = residual(matrix, &l, &r);
    store(l, r, at, weight, sizes, left, right);
    Ok(Energy { total, lost })
}

/// Makes one factor of `left · right` orthonormal without changing the product: QR of `left` for [`Weight::Right`], of
/// the adjoint of `right` for [`Weight::Left`].
fn shift<W: Field>(sizes: Sizes, to: Weight, left: &mut [W], right: &mut [W]) {
    let Sizes { m, n, rank } = sizes;
    let l = MatRef::from_row_major_slice(&*left, m, rank).to_owned();
    let r = MatRef::from_row_major_slice(&*right, rank, n).to_owned();
    let from = if to == Weight::Left { Weight::Right } else { Weight::Left };
    store(l, r, from, to, sizes, left, right);
}

/// `M ≈ l · r` from the eigenvectors of `M Mᴴ` or `Mᴴ M`, whichever is smaller, and where the weight is.
fn by_gram<W: Field>(matrix: MatRef<'_, W>, rank: usize) -> Option<(Mat<W>, Mat<W>, Weight)> {
    let (m, n) = matrix.shape();
    let k = m.min(n);
    let gram = if m <= n {
        product(matrix, matrix.adjoint().to_owned().as_ref())
    } else {
        product(matrix.adjoint().to_owned().as_ref(), matrix)
    };
    let eigen = gram.self_adjoint_eigen(Triangle::Lower).ok()?;
    // Eigenvalues come in nondecreasing order.
    let dominant = Mat::from_fn(k, rank, |i, s| eigen.U()[(i, k - 1 - s)]);
    let adjoint = dominant.adjoint().to_owned();
    Some(if m <= n {
        let r = product(adjoint.as_ref(), matrix);
        (dominant, r, Weight::Right)
    } else {
        (product(matrix, dominant.as_ref()), adjoint, Weight::Left)
    })
}

fn product<W: Field>(a: MatRef<'_, W>, b: MatRef<'_, W>) -> Mat<W> {
    let mut c = Mat::zeros(a.nrows(), b.ncols());
    matmul(c.as_mut(), Accum::Replace, a, b, W::ONE, Par::Seq);
    c
}

/// `‖M − l r‖²`, computed as written and not as a difference of energies, which could not see errors below `sqrt(u)`.
fn residual<W: Field>(matrix: MatRef<'_, W>, l: &Mat<W>, r: &Mat<W>) -> f64 {
    let mut difference = matrix.to_owned();
    matmul(difference.as_mut(), Accum::Add, l.as_ref(), r.as_ref(), W::from_parts(-1.0, 0.0), Par::Seq);
    difference.squared_norm_l2()
}

/// Writes `l · r`, whose weight is at `at`, with the weight where it is `wanted`, padded with zeros to the given rank.
fn store<W: Field>(
    mut l: Mat<W>,
    mut r: Mat<W>,
    at: Weight,
    wanted: Weight,
    sizes: Sizes,
    left: &mut [W],
    right: &mut [W],
) {
    match (at, wanted) {
        (Weight::Left, Weight::Right) => {
            let qr = l.qr();
            r = product(qr.thin_R(), r.as_ref());
            l = qr.compute_thin_Q();
        }
        (Weight::Right, Weight::Left) => {
            let qr = r.adjoint().qr();
            l = product(l.as_ref(), qr.thin_R().adjoint().to_owned().as_ref());
            r = qr.compute_thin_Q().adjoint().to_owned();
        }
        (_, Weight::Both) => level(&mut l, &mut r),
        _ => {}
    }
    left.fill(W::ZERO);
    right.fill(W::ZERO);
    let used = l.ncols();
    MatMut::from_row_major_slice_mut(left, sizes.m, sizes.rank).subcols_mut(0, used).copy_from(&l);
    MatMut::from_row_major_slice_mut(right, sizes.rank, sizes.n).subrows_mut(0, used).copy_from(&r);
}

/// Gives column `s` of `l` and row `s` of `r` the same norm. A pair with a zero is left as it is.
fn level<W: Field>(l: &mut Mat<W>, r: &mut Mat<W>) {
    for s in 0..l.ncols() {
        let ratio = (r.row(s).norm_l2() / l.col(s).norm_l2()).sqrt();
        if ratio.is_finite() && ratio > 0.0 {
            let times = |factor: f64| move |x: &mut W| *x = W::from_parts(factor, 0.0) * *x;
            l.col_mut(s).iter_mut().for_each(times(ratio));
            r.row_mut(s).iter_mut().for_each(times(1.0 / ratio));
        }
    }
}
