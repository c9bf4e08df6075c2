//! The transforms against their defining sums, for every size from 1 to 1024, both layouts and all element types.

use std::f64::consts::PI;

use kronsparse::transform::{Transform, dct2, dct2_orthonormal, dft, dft_orthonormal, hadamard, hadamard_orthonormal};
use kronsparse::{Layout, Matrix, Scalar, relative_error};
use num_complex::{Complex32, Complex64};

fn sizes() -> impl Iterator<Item = usize> {
    (0..=10).map(|e| 1 << e)
}

fn dft_sum(n: usize) -> Matrix<Complex64> {
    Matrix::from_fn(n, n, |k, t| Complex64::from_polar(1.0, -2.0 * PI * ((k * t) % n) as f64 / n as f64))
}

fn dct_sum(n: usize) -> Matrix<f64> {
    Matrix::from_fn(n, n, |k, t| (PI * ((k * (2 * t + 1)) % (4 * n)) as f64 / (2 * n) as f64).cos())
}

fn hadamard_sum(n: usize) -> Matrix<f64> {
    Matrix::from_fn(n, n, |i, k| if (i & k).count_ones() % 2 == 0 { 1.0 } else { -1.0 })
}

/// Rounds a matrix of wide numbers.
fn rounded<T: Scalar>(wide: &Matrix<T::Wide>, scale: impl Fn(usize) -> f64) -> Matrix<T>
where
    T::Wide: Scalar<Wide = T::Wide>,
{
    use kronsparse::scalar::Wide;
    Matrix::from_fn(wide.rows(), wide.cols(), |row, col| {
        T::narrow(wide.get(row, col) * T::Wide::from_parts(scale(row), 0.0))
    })
}

fn close<T: Scalar>(name: &str, found: &Matrix<T>, expected: &Matrix<T>, factors: usize) {
    // Rounded weights: each factor adds its unit roundoff, and the result is rounded once more.
    let tolerance = (factors + 1) as f64 * T::DTYPE.unit_roundoff().max(2e-16);
    let error = found.relative_error(expected).unwrap();
    assert!(error <= tolerance, "{name} {} of size {}: {error:e} above {tolerance:e}", T::DTYPE, expected.rows());
}

/// `apply` in both layouts against the dense matrix, three vectors at a time.
fn applies<T: Scalar>(name: &str, transform: &Transform<T>)
where
    T::Wide: Scalar<Wide = T::Wide>,
{
    use kronsparse::scalar::Wide;
    let (n, batch) = (transform.chain().cols(), 3);
    let dense = transform.to_dense();
    let entry =
        |b: usize, f: usize| T::narrow(T::Wide::from_parts(((7 * f + 3 * b) % 11) as f64 - 5.0, (f % 3) as f64));
    for layout in Layout::ALL {
        let mut x = vec![T::ZERO; batch * n];
        let mut expected = x.clone();
        for b in 0..batch {
            (0..n).for_each(|f| x[layout.index(b, f, batch, n)] = entry(b, f));
            for row in 0..n {
                let sum: T::Wide = (0..n).map(|f| dense.get(row, f).widen() * entry(b, f).widen()).sum();
                expected[layout.index(b, row, batch, n)] = T::narrow(sum);
            }
        }
        let y = transform.apply(&x, batch, layout).unwrap();
        let error = relative_error(&y, &expected);
        let tolerance = 4.0 * T::DTYPE.tolerance(n, transform.chain().factors().len());
        assert!(error <= tolerance, "{name} {} {layout} {n}: {error:e}", T::DTYPE);
        assert!(transform.apply(&x[1..], batch, layout).is_err());
    }
}

#[test]
fn hadamard_is_exact_in_every_type() {
    fn check<T: Scalar<Wide = f64>>() {
        for n in sizes() {
            assert_eq!(hadamard::<T>(n).unwrap().to_dense(), rounded::<T>(&hadamard_sum(n), |_| 1.0), "{n}");
        }
        let n = 256;
        let expected = rounded::<T>(&hadamard_sum(n), |_| 1.0 / 16.0);
        assert_eq!(hadamard_orthonormal::<T>(n).unwrap().to_dense(), expected, "a power of four has exact weights");
        let expected = rounded::<T>(&hadamard_sum(2 * n), |_| 512f64.sqrt().recip());
        close("hadamard", &hadamard_orthonormal::<T>(2 * n).unwrap().to_dense(), &expected, 1);
    }
    check::<f64>();
    check::<f32>();
    check::<half::f16>();
    check::<half::bf16>();
    let complex = hadamard::<Complex32>(64).unwrap().to_dense();
    assert!((0..64).all(|i| {
        complex.row(i).iter().zip(hadamard_sum(64).row(i)).all(|(c, &r)| *c == Complex32::new(r as f32, 0.0))
    }));
}

#[test]
fn dft_is_its_defining_sum() {
    for n in sizes() {
        let transform = dft::<Complex64>(n).unwrap();
        close("dft", &transform.to_dense(), &dft_sum(n), transform.chain().factors().len());
        assert_eq!(transform.permutation().inverse(), *transform.permutation());
        if n <= 128 {
            applies("dft", &transform);
            applies("dft", &dft::<Complex32>(n).unwrap());
            let unitary = dft_orthonormal::<Complex64>(n).unwrap();
            close("unitary dft", &unitary.to_dense(), &rounded(&dft_sum(n), |_| (n as f64).sqrt().recip()), 10);
        }
    }
    let single = dft::<Complex32>(256).unwrap();
    close("dft", &single.to_dense(), &rounded(&dft_sum(256), |_| 1.0), 8);
}

#[test]
fn dct2_is_its_defining_sum() {
    for n in sizes() {
        let transform = dct2::<f64>(n).unwrap();
        close("dct2", &transform.to_dense(), &dct_sum(n), transform.chain().factors().len());
        assert!(transform.chain().pattern().is_chainable());
        if n <= 128 {
            applies("dct2", &transform);
            applies("dct2", &dct2::<f32>(n).unwrap());
            applies("dct2", &dct2::<Complex64>(n).unwrap());
        }
        let orthonormal = dct2_orthonormal::<f64>(n).unwrap().to_dense();
        let scale = |row: usize| if row == 0 { (1.0 / n as f64).sqrt() } else { (2.0 / n as f64).sqrt() };
        close("orthonormal dct2", &orthonormal, &rounded(&dct_sum(n), scale), 10);
    }
    close("dct2", &dct2::<half::f16>(64).unwrap().to_dense(), &rounded(&dct_sum(64), |_| 1.0), 6);
    close("dct2", &dct2::<half::bf16>(64).unwrap().to_dense(), &rounded(&dct_sum(64), |_| 1.0), 6);
}

#[test]
fn the_dct_chain_is_the_documented_one() {
    let transform = dct2::<f64>(16).unwrap();
    assert_eq!(transform.chain().pattern().to_string(), "(1,2,4,8)(2,4,4,4)(4,4,4,2)(8,4,2,1)");
    assert_eq!(transform.chain().pattern().ranks().unwrap(), [2, 2, 2]);
}

#[test]
fn refusals_say_what_is_wrong() {
    let message = |e: kronsparse::Error| e.to_string();
    assert!(message(hadamard::<f64>(12).unwrap_err()).contains("size 12"));
    assert!(message(hadamard::<f64>(0).unwrap_err()).contains("power of two"));
    assert!(message(dft::<f64>(8).unwrap_err()).contains("use c64 or c128"));
    assert!(message(dft::<Complex64>(6).unwrap_err()).contains("size 6"));
    assert!(message(dct2::<f32>(3).unwrap_err()).contains("size 3"));
    let chain = hadamard::<f64>(8).unwrap();
    let wrong = kronsparse::transform::Permutation::identity(4);
    assert!(message(Transform::new(wrong, chain).unwrap_err()).contains("expected 8 elements, found 4"));
}
