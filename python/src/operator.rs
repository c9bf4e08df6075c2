//! Chains packed for multiplication on the CPU, and their use on NumPy arrays.

use std::cell::RefCell;

use half::{bf16, f16};
use kronsparse::cpu::{self, Scratch};
use kronsparse::{Activation, Chain, DType, Join, Layout, Scalar};
use num_complex::{Complex32, Complex64};
use numpy::{Element, PyArrayDyn, PyArrayMethods, PyReadwriteArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::dtype::{self, with_dtype};
use crate::error::IntoPython;
use crate::pattern::{Pattern, listed};
use crate::{arrays, pool, tuning};

thread_local! {
    /// Working memory that stays between calls of one thread.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// An operator of any element type.
pub(crate) enum Any {
    F16(cpu::Operator<f16>),
    Bf16(cpu::Operator<bf16>),
    F32(cpu::Operator<f32>),
    F64(cpu::Operator<f64>),
    C64(cpu::Operator<Complex32>),
    C128(cpu::Operator<Complex64>),
}

/// An element type and its variant of [`Any`].
pub(crate) trait Packed: Scalar + Element {
    /// Into the variant.
    fn wrap(operator: cpu::Operator<Self>) -> Any;
    /// Out of it, if it is this type's.
    fn unwrap(any: &Any) -> Option<&cpu::Operator<Self>>;
}

macro_rules! packed {
    ($($variant:ident $T:ty),*) => {$(
        impl Packed for $T {
            fn wrap(operator: cpu::Operator<$T>) -> Any {
                Any::$variant(operator)
            }
            fn unwrap(any: &Any) -> Option<&cpu::Operator<$T>> {
                if let Any::$variant(operator) = any { Some(operator) } else { None }
            }
        }
    )*};
}
packed!(F16 f16, Bf16 bf16, F32 f32, F64 f64, C64 Complex32, C128 Complex64);

/// A chain whose weights are packed for this machine's CPU: `Y = activation(X Wᵀ + bias)`.
///
/// `weights` are 4-D arrays of one dtype, left to right; `bias` has one number per row; `activation` is `none`, `relu`,
/// `gelu`, `gelu-tanh` or `silu`; `threads` limits the threads, 0 means all. The arrays are copied.
#[pyclass(frozen, module = "kronsparse._kronsparse")]
pub(crate) struct Operator {
    pub(crate) any: Any,
    pub(crate) dtype: DType,
    pub(crate) patterns: kronsparse::ChainPattern,
    /// Size of an output vector: the rows of the chain, or half as many of a gated one.
    pub(crate) outputs: usize,
    /// Of what lies in the memory of others: how many numbers each array has, and a hash of some; see `address.rs`.
    pub(crate) lengths: Vec<usize>,
    pub(crate) fingerprint: u64,
}

impl Operator {
    /// Packs a chain.
    pub(crate) fn pack<T: Packed>(
        chain: &Chain<T>,
        bias: Option<Vec<T>>,
        activation: Activation,
        join: Join,
        threads: usize,
    ) -> kronsparse::Result<Operator> {
        let options = cpu::Options { bias, activation, join, threads, tuning: tuning::in_use(), ..Default::default() };
        let operator = cpu::Operator::new(chain, options)?;
        let (outputs, patterns) = (operator.rows(), chain.pattern().clone());
        let any = T::wrap(operator);
        Ok(Operator { any, dtype: T::DTYPE, patterns, outputs, lengths: Vec::new(), fingerprint: 0 })
    }

    /// Multiplies with the scratch of this thread; the interpreter must not be needed meanwhile.
    pub(crate) fn multiply<T: Packed>(&self, x: &[T], y: &mut [T], n: usize, layout: Layout) -> kronsparse::Result<()> {
        let operator = T::unwrap(&self.any).expect("the caller has looked at the dtype");
        pool::run(|| {
            SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
                Ok(mut scratch) => operator.apply_with(x, y, n, layout, &mut scratch),
                // A thread that waits for its pool may be given another call's work.
                Err(_) => operator.apply(x, y, n, layout),
            })
        })
    }

    fn apply_typed<'py, T: Packed>(
        &self,
        x: &Bound<'py, PyUntypedArray>,
        out: Option<Bound<'py, PyUntypedArray>>,
        layout: Layout,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = x.py();
        let (shape, n) = self.result_shape(x.shape(), layout)?;
        // Same memory: numbers would be overwritten before they are read.
        if let Some(out) = &out
            && py.import("numpy")?.call_method1("may_share_memory", (x, out))?.extract::<bool>()?
        {
            return Err(PyValueError::new_err("out: expected memory apart from x, found the same"));
        }
        let input = arrays::read::<T>("x", x)?;
        let output = match out {
            None => PyArrayDyn::<T>::zeros(py, shape, false),
            Some(out) => {
                if out.shape() != shape {
                    return Err(PyValueError::new_err(format!(
                        "out: expected shape {shape:?}, found {:?}",
                        out.shape()
                    )));
                }
                let typed = out.cast::<PyArrayDyn<T>>().map_err(|_| self.wrong_dtype("out", &out))?.clone();
                if !typed.is_c_contiguous() {
                    return Err(PyValueError::new_err("out: expected an array in C order, found other strides"));
                }
                typed
            }
        };
        let mut writable: PyReadwriteArrayDyn<'py, T> =
            output.try_readwrite().map_err(|why| PyValueError::new_err(format!("out: {why}")))?;
        let (from, to) = (input.as_slice()?, writable.as_slice_mut()?);
        py.detach(|| self.multiply(from, to, n, layout)).python()?;
        drop(writable);
        Ok(output.into_any())
    }

    /// The shape of the result and the number of vectors.
    fn result_shape(&self, shape: &[usize], layout: Layout) -> PyResult<(Vec<usize>, usize)> {
        let (rows, cols) = (self.outputs, self.patterns.cols());
        match (layout, shape) {
            (Layout::BatchFirst, [lead @ .., last]) if *last == cols => {
                Ok((lead.iter().copied().chain([rows]).collect(), lead.iter().product()))
            }
            (Layout::BatchLast, [first, n]) if *first == cols => Ok((vec![rows, *n], *n)),
            (Layout::BatchFirst, _) => Err(PyValueError::new_err(format!(
                "x: expected a shape (…, {cols}), the columns of the chain, found {shape:?}"
            ))),
            (Layout::BatchLast, _) => Err(PyValueError::new_err(format!(
                "x: expected a shape ({cols}, n), the columns of the chain first, found {shape:?}"
            ))),
        }
    }

    fn wrong_dtype(&self, what: &str, array: &Bound<'_, PyUntypedArray>) -> PyErr {
        let expected = dtype::numpy_name(self.dtype);
        PyTypeError::new_err(format!("{what}: expected {expected} like the weights, found {}", array.dtype()))
    }
}

#[pymethods]
impl Operator {
    #[new]
    #[pyo3(signature = (weights, bias = None, *, activation = "none", threads = 0))]
    fn new(
        py: Python<'_>,
        weights: Vec<Bound<'_, PyUntypedArray>>,
        bias: Option<Bound<'_, PyUntypedArray>>,
        activation: &str,
        threads: usize,
    ) -> PyResult<Operator> {
        let activation: Activation = activation.parse().python()?;
        with_dtype!(arrays::common_dtype(&weights)?, T => {
            let chain = arrays::chain::<T>(&weights)?;
            let bias = bias.map(|bias| Ok::<_, PyErr>(arrays::read::<T>("bias", &bias)?.as_slice()?.to_vec())).transpose()?;
            py.detach(|| Operator::pack(&chain, bias, activation, Join::None, threads)).python()
        })
    }

    /// Size of an output vector.
    #[getter]
    fn rows(&self) -> usize {
        self.outputs
    }
    /// Size of an input vector.
    #[getter]
    fn cols(&self) -> usize {
        self.patterns.cols()
    }
    /// NumPy's name of the element type.
    #[getter]
    fn dtype(&self) -> &'static str {
        dtype::numpy_name(self.dtype)
    }
    /// The patterns of the factors, left to right.
    #[getter]
    fn patterns(&self) -> Vec<Pattern> {
        listed(&self.patterns)
    }

    /// Multiplies: `x` of shape `(…, cols)` gives `(…, rows)`; with `batch_last`, `(cols, n)` gives `(rows, n)`.
    ///
    /// Arrays in C order are used where they lie; others are copied. `out` is overwritten and returned. The interpreter's lock
    /// is released meanwhile. TypeError for another dtype than that of the weights, ValueError for another shape.
    #[pyo3(signature = (x, out = None, *, batch_last = false))]
    fn apply<'py>(
        &self,
        x: Bound<'py, PyUntypedArray>,
        out: Option<Bound<'py, PyUntypedArray>>,
        batch_last: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        if dtype::of_array("x", &x)? != self.dtype {
            return Err(self.wrong_dtype("x", &x));
        }
        let layout = if batch_last { Layout::BatchLast } else { Layout::BatchFirst };
        with_dtype!(self.dtype, T => self.apply_typed::<T>(&x, out, layout))
    }

    /// How `n` vectors are multiplied, in words, with what was measured of it.
    #[pyo3(signature = (n, *, batch_last = false))]
    fn explain(&self, n: usize, batch_last: bool) -> String {
        let layout = if batch_last { Layout::BatchLast } else { Layout::BatchFirst };
        match &self.any {
            Any::F16(operator) => operator.explain(n, layout),
            Any::Bf16(operator) => operator.explain(n, layout),
            Any::F32(operator) => operator.explain(n, layout),
            Any::F64(operator) => operator.explain(n, layout),
            Any::C64(operator) => operator.explain(n, layout),
            Any::C128(operator) => operator.explain(n, layout),
        }
    }

    fn __repr__(&self) -> String {
        format!("Operator('{}', '{}')", self.patterns, dtype::numpy_name(self.dtype))
    }
}
