//! NumPy arrays to chains and back.

use kronsparse::{Chain, DType, Factor, Pattern, Scalar};
use numpy::{
    Element, IntoPyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::dtype;
use crate::error::IntoPython;

/// The one element type of all weights, which are called `weights[k]` in messages.
pub(crate) fn common_dtype(weights: &[Bound<'_, PyUntypedArray>]) -> PyResult<DType> {
    let [first, rest @ ..] = weights else {
        return Err(PyValueError::new_err("a chain needs at least one factor, found none"));
    };
    let dtype = dtype::of_array("weights[0]", first)?;
    for (at, other) in rest.iter().enumerate() {
        let found = dtype::of_array(&format!("weights[{}]", at + 1), other)?;
        if found != dtype {
            let (expected, found) = (dtype::numpy_name(dtype), dtype::numpy_name(found));
            return Err(PyTypeError::new_err(format!(
                "weights[{}]: expected {expected} like weights[0], found {found}",
                at + 1
            )));
        }
    }
    Ok(dtype)
}

/// The pattern that the shape of some weights says.
pub(crate) fn pattern_of(at: usize, shape: &[usize]) -> PyResult<Pattern> {
    match *shape {
        [a, b, c, d] => Pattern::new(a, b, c, d).python(),
        _ => Err(PyValueError::new_err(format!(
            "weights[{at}]: expected four dimensions (a, b, c, d), found shape {shape:?}"
        ))),
    }
}

/// An array of a known type for reading, copied only if it is not in C order.
pub(crate) fn read<'py, T: Element>(
    what: &str,
    array: &Bound<'py, PyUntypedArray>,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let typed = array.cast::<PyArrayDyn<T>>().map_err(|_| {
        PyTypeError::new_err(format!("{what}: expected {}, found {}", numpy::dtype::<T>(array.py()), array.dtype()))
    })?;
    let array = if typed.is_c_contiguous() {
        typed.clone()
    } else {
        let numpy = array.py().import("numpy")?;
        numpy.call_method1("ascontiguousarray", (typed,))?.cast_into::<PyArrayDyn<T>>()?
    };
    array.try_readonly().map_err(|why| PyValueError::new_err(format!("{what}: {why}")))
}

/// The chain with these weights, copied.
pub(crate) fn chain<T: Scalar + Element>(weights: &[Bound<'_, PyUntypedArray>]) -> PyResult<Chain<T>> {
    let mut factors = Vec::with_capacity(weights.len());
    for (at, array) in weights.iter().enumerate() {
        let pattern = pattern_of(at, array.shape())?;
        let values = read::<T>(&format!("weights[{at}]"), array)?;
        factors.push(Factor::new(pattern, values.as_slice()?.to_vec()).python()?);
    }
    Chain::new(factors).python()
}

/// A new array with these elements, without a copy.
pub(crate) fn array<'py, T: Element>(py: Python<'py>, values: Vec<T>, shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    Ok(values.into_pyarray(py).reshape(shape.to_vec())?.into_any())
}

/// The weights of a chain as 4-D arrays, without a copy.
pub(crate) fn weights<T: Scalar + Element>(py: Python<'_>, chain: Chain<T>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    let factors = chain.into_factors().into_iter();
    let one = |factor: Factor<T>| {
        let shape = factor.pattern().shape();
        array(py, factor.into_weights(), &shape)
    };
    factors.map(one).collect()
}

/// Refuses an array whose dtype no chain can have.
#[pyfunction]
pub(crate) fn check_dtype(array: Bound<'_, PyUntypedArray>) -> PyResult<()> {
    dtype::of_array("weights", &array).map(drop)
}
