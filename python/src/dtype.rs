//! Element types between NumPy, names and Rust's generics.

use half::{bf16, f16};
use kronsparse::DType;
use num_complex::{Complex32, Complex64};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::prelude::*;

/// Evaluates `$body` with `$T` as the type that a [`DType`] names.
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            kronsparse::DType::F16 => {
                type $T = half::f16;
                $body
            }
            kronsparse::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            kronsparse::DType::F32 => {
                type $T = f32;
                $body
            }
            kronsparse::DType::F64 => {
                type $T = f64;
                $body
            }
            kronsparse::DType::C64 => {
                type $T = num_complex::Complex32;
                $body
            }
            kronsparse::DType::C128 => {
                type $T = num_complex::Complex64;
                $body
            }
        }
    };
}
pub(crate) use with_dtype;

/// What a chain may hold, in the words of messages.
const NAMES: &str = "float16, bfloat16, float32, float64, complex64 or complex128";

/// NumPy's name of a type.
pub(crate) fn numpy_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::C64 => "complex64",
        DType::C128 => "complex128",
    }
}

/// The element type of an array that is called `what` in messages; a TypeError for anything but the six types in this
/// machine's byte order.
pub(crate) fn of_array(what: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<DType> {
    of_descr(what, &array.dtype())
}

fn of_descr(what: &str, descr: &Bound<'_, PyArrayDescr>) -> PyResult<DType> {
    let py = descr.py();
    let same = |other: Bound<'_, PyArrayDescr>| descr.is_equiv_to(&other);
    let found = if same(numpy::dtype::<f32>(py)) {
        Some(DType::F32)
    } else if same(numpy::dtype::<f64>(py)) {
        Some(DType::F64)
    } else if same(numpy::dtype::<f16>(py)) {
        Some(DType::F16)
    } else if same(numpy::dtype::<Complex32>(py)) {
        Some(DType::C64)
    } else if same(numpy::dtype::<Complex64>(py)) {
        Some(DType::C128)
    } else if descr.typeobj().name()? == "bfloat16" {
        need_bfloat16(py)?;
        same(numpy::dtype::<bf16>(py)).then_some(DType::Bf16)
    } else {
        None
    };
    found.ok_or_else(|| PyTypeError::new_err(format!("{what}: expected {NAMES} in native byte order, found {descr}")))
}

/// NumPy has no bfloat16 of its own: the package ml_dtypes has. Called before an array of them is made.
pub(crate) fn need_bfloat16(py: Python<'_>) -> PyResult<()> {
    py.import("ml_dtypes").map(drop).map_err(|_| {
        PyImportError::new_err("bfloat16 arrays need the package ml_dtypes, which is not installed; or use float32")
    })
}

/// The element type of a name: NumPy's or this project's (`f32`).
pub(crate) fn of_name(name: &str) -> PyResult<DType> {
    let named = DType::ALL.into_iter().find(|&dtype| dtype.name() == name || numpy_name(dtype) == name);
    named.ok_or_else(|| PyTypeError::new_err(format!("dtype: expected {NAMES}, found {name}")))
}
