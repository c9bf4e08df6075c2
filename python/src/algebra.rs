//! Dense matrices, factorization, products of factors, the fast transforms, and chain files.

use std::path::PathBuf;

use kronsparse::factorize::{self as split, Order};
use kronsparse::io::{self, AnyLayer};
use kronsparse::{Chain, ChainPattern, DType, Error, Layer, Layout, Matrix, Scalar, transform};
use numpy::{Element, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::dtype::{self, with_dtype};
use crate::error::IntoPython;
use crate::pattern::PatternLike;
use crate::waiting::{Interrupted, interruptible};
use crate::{arrays, pattern, pool};

/// Weights of a chain, and what else a function returns.
type Weights<'py> = Vec<Bound<'py, PyAny>>;
/// One split of a factorization: first factor, first factor of the right part, end, rank, relative error.
type Step = (usize, usize, usize, usize, f64);

/// The product of the factors as an array of shape `(rows, cols)`, summed in float64 and rounded once.
#[pyfunction]
pub(crate) fn to_dense<'py>(py: Python<'py>, weights: Vec<Bound<'py, PyUntypedArray>>) -> PyResult<Bound<'py, PyAny>> {
    with_dtype!(arrays::common_dtype(&weights)?, T => {
        let chain = arrays::chain::<T>(&weights)?;
        let dense = py.detach(|| pool::run(|| chain.to_dense()));
        let shape = [dense.rows(), dense.cols()];
        arrays::array(py, dense.into_vec(), &shape)
    })
}

/// Replaces factors `start … end-1` by their product; ValueError where they are not chainable.
#[pyfunction]
pub(crate) fn fuse<'py>(
    py: Python<'py>,
    weights: Vec<Bound<'py, PyUntypedArray>>,
    start: usize,
    end: usize,
) -> PyResult<Weights<'py>> {
    with_dtype!(arrays::common_dtype(&weights)?, T => {
        let chain = arrays::chain::<T>(&weights)?;
        let fused = py.detach(|| chain.fuse(start..end)).python()?;
        arrays::weights(py, fused)
    })
}

/// Approximates `matrix` by a chain of these patterns: weights, relative error, steps (first factor, split, end, rank,
/// relative error), and the factor `C` of the guarantee, infinite where there is none.
///
/// `order` is `l2r`, `r2l` or `balanced`. The work is done in float64. Ctrl-C is heard: the call then ends at once, and what
/// the threads have begun is thrown away when it is done.
#[pyfunction]
#[pyo3(signature = (matrix, patterns, *, order = "l2r", orthonormal = true, threads = 0))]
pub(crate) fn factorize<'py>(
    py: Python<'py>,
    matrix: Bound<'py, PyUntypedArray>,
    patterns: Vec<PatternLike>,
    order: &str,
    orthonormal: bool,
    threads: usize,
) -> PyResult<(Weights<'py>, f64, Vec<Step>, f64)> {
    let pattern = pattern::chain(patterns)?;
    let order: Order = order.parse().python()?;
    let options = split::Options { order, orthonormal, threads };
    with_dtype!(dtype::of_array("matrix", &matrix)?, T => {
        let &[rows, cols] = matrix.shape() else {
            return Err(PyValueError::new_err(format!("matrix: expected two dimensions, found shape {:?}", matrix.shape())));
        };
        let values = arrays::read::<T>("matrix", &matrix)?.as_slice()?.to_vec();
        let matrix = Matrix::<T>::new(rows, cols, values).python()?;
        let found = interruptible(py, Interrupted::Leaves, move || pool::run(|| split::factorize(&matrix, &pattern, &options)))?.python()?;
        let steps = found.steps.iter();
        let steps = steps.map(|step| (step.factors.start, step.split, step.factors.end, step.rank, step.relative_error));
        Ok((arrays::weights(py, found.chain)?, found.relative_error, steps.collect(), found.bound))
    })
}

/// A fast transform of size `n`, a power of two: its weights, and the permutation of the input that comes first (`source[i]` is the
/// input that becomes element `i`), or None. `name` is `hadamard`, `dft` (complex dtypes) or `dct2`.
#[pyfunction]
#[pyo3(signature = (name, n, dtype, *, orthonormal = false))]
pub(crate) fn fast_transform<'py>(
    py: Python<'py>,
    name: &str,
    n: usize,
    dtype: &str,
    orthonormal: bool,
) -> PyResult<(Weights<'py>, Option<Vec<usize>>)> {
    let dtype = dtype::of_name(dtype)?;
    if dtype == DType::Bf16 {
        dtype::need_bfloat16(py)?;
    }
    if name == "dft" && !dtype.is_complex() {
        let found = dtype::numpy_name(dtype);
        return Err(PyTypeError::new_err(format!("dtype of a DFT: expected complex64 or complex128, found {found}")));
    }
    with_dtype!(dtype, T => {
        let (chain, source) = py.detach(|| transformed::<T>(name, n, orthonormal)).python()?;
        Ok((arrays::weights(py, chain)?, source))
    })
}

fn transformed<T: Scalar>(
    name: &str,
    n: usize,
    orthonormal: bool,
) -> kronsparse::Result<(Chain<T>, Option<Vec<usize>>)> {
    let both = |transform: transform::Transform<T>| {
        (transform.chain().clone(), Some(transform.permutation().source().to_vec()))
    };
    match (name, orthonormal) {
        ("hadamard", false) => transform::hadamard(n).map(|chain| (chain, None)),
        ("hadamard", true) => transform::hadamard_orthonormal(n).map(|chain| (chain, None)),
        ("dft", false) => transform::dft(n).map(both),
        ("dft", true) => transform::dft_orthonormal(n).map(both),
        ("dct2", false) => transform::dct2(n).map(both),
        ("dct2", true) => transform::dct2_orthonormal(n).map(both),
        _ => Err(Error::Parse { what: "a transform", text: name.into(), why: "expected hadamard, dft or dct2".into() }),
    }
}

/// Writes a chain file (safetensors) with a checksum, whole or not at all.
#[pyfunction]
#[pyo3(signature = (path, weights, bias = None, *, batch_last = false))]
pub(crate) fn save(
    py: Python<'_>,
    path: PathBuf,
    weights: Vec<Bound<'_, PyUntypedArray>>,
    bias: Option<Bound<'_, PyUntypedArray>>,
    batch_last: bool,
) -> PyResult<()> {
    let layout = if batch_last { Layout::BatchLast } else { Layout::BatchFirst };
    with_dtype!(arrays::common_dtype(&weights)?, T => {
        let chain = arrays::chain::<T>(&weights)?;
        let bias = bias.map(|bias| Ok::<_, PyErr>(arrays::read::<T>("bias", &bias)?.as_slice()?.to_vec())).transpose()?;
        let layer = Layer::new(chain, bias).python()?;
        py.detach(|| io::write_layer(&path, &layer, layout)).python()
    })
}

/// Reads and checks a chain file: weights, bias or None, and whether it was meant for batch-last.
#[pyfunction]
pub(crate) fn load<'py>(py: Python<'py>, path: PathBuf) -> PyResult<(Weights<'py>, Option<Bound<'py, PyAny>>, bool)> {
    let (layer, layout) = py.detach(|| io::read_layer_and_layout(&path)).python()?;
    if layer.dtype() == DType::Bf16 {
        dtype::need_bfloat16(py)?;
    }
    with_dtype!(layer.dtype(), T => loaded::<T>(py, layer, layout))
}

fn loaded<'py, T: Scalar + Element>(
    py: Python<'py>,
    layer: AnyLayer,
    layout: Layout,
) -> PyResult<(Weights<'py>, Option<Bound<'py, PyAny>>, bool)> {
    let (chain, bias) = layer.into_layer::<T>().into_parts();
    let bias = bias.map(|bias| {
        let shape = [bias.len()];
        arrays::array(py, bias, &shape)
    });
    Ok((arrays::weights(py, chain)?, bias.transpose()?, layout == Layout::BatchLast))
}

/// Rounding and summing allowed to a product: the relative Frobenius error against float64 that the engine keeps below, for
/// sums of `terms` numbers and so many factors.
#[pyfunction]
pub(crate) fn tolerance(dtype: &str, patterns: Vec<PatternLike>) -> PyResult<f64> {
    let chain: ChainPattern = pattern::chain(patterns)?;
    Ok(dtype::of_name(dtype)?.tolerance(chain.longest_sum(), chain.patterns().len()))
}
