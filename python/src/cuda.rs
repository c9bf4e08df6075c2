//! Chains prepared for an NVIDIA GPU, multiplied on device memory and streams that others own.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use half::{bf16, f16};
use kronsparse::cuda::{self, Device};
use kronsparse::{Activation, Chain, DType, Error, Join, Layout};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use crate::address::{Shape, allocated, bias_at, chain_at};
use crate::dtype;
use crate::error::IntoPython;
use crate::gated::Pair;
use crate::operator::Packed;
use crate::streams::LastStream;
use crate::tuning;

/// An operator of an element type that the GPU engine has.
enum Any {
    F16(cuda::Operator<f16>),
    Bf16(cuda::Operator<bf16>),
    F32(cuda::Operator<f32>),
    F64(cuda::Operator<f64>),
}

/// Evaluates `$body` with `$operator` as the typed operator.
macro_rules! each {
    ($any:expr, $operator:ident => $body:expr) => {
        match $any {
            Any::F16($operator) => $body,
            Any::Bf16($operator) => $body,
            Any::F32($operator) => $body,
            Any::F64($operator) => $body,
        }
    };
}

/// Evaluates `$make` with `$T` as the type that `$dtype` names, as a variant of [`Any`]; TypeError where the GPU engine has none.
macro_rules! of_type {
    ($dtype:expr, $T:ident => $make:expr) => {
        match $dtype {
            DType::F16 => {
                type $T = f16;
                Any::F16($make)
            }
            DType::Bf16 => {
                type $T = bf16;
                Any::Bf16($make)
            }
            DType::F32 => {
                type $T = f32;
                Any::F32($make)
            }
            DType::F64 => {
                type $T = f64;
                Any::F64($make)
            }
            DType::C64 | DType::C128 => {
                let found = dtype::numpy_name($dtype);
                return Err(PyTypeError::new_err(format!(
                    "dtype on a GPU: expected float16, bfloat16, float32 or float64, found {found}"
                )));
            }
        }
    };
}

/// A chain whose weights are packed for one NVIDIA GPU. For `kronsparse.torch`.
///
/// Weights and bias lie in host memory in C order, contiguous; `bias` is an address or 0; `adjoint` packs the conjugate
/// transpose. RuntimeError says what of the driver, the GPU or its libraries is missing.
#[pyclass(frozen, module = "kronsparse._kronsparse")]
pub(crate) struct CudaOperator {
    any: Any,
    device: Device,
    state: Mutex<State>,
}

/// What calls on different threads share.
#[derive(Default)]
struct State {
    /// Numbers of vectors that have been prepared.
    prepared: HashSet<usize>,
    /// Its work uses memory of the operator.
    last: LastStream,
}

impl CudaOperator {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// # Safety
    ///
    /// As for [`cuda::Operator::launch`]; the streams of earlier calls are alive.
    unsafe fn launch(&self, x: u64, y: u64, n: usize, stream: usize, capturing: bool) -> kronsparse::Result<()> {
        let mut state = self.state();
        if !state.prepared.contains(&n) {
            if capturing {
                return Err(Error::Unsupported {
                    what: format!("capturing a multiplication of {n} vectors into a CUDA graph"),
                    why: "nothing can be compiled or allocated during a capture; run it once with this number of vectors before"
                        .into(),
                });
            }
            each!(&self.any, operator => operator.prepare(n, Layout::BatchFirst))?;
            state.prepared.insert(n);
        }
        // SAFETY: the caller's word.
        let queue = unsafe { state.last.enter(&self.device, stream, capturing) }?;
        // SAFETY: the caller's word; this stream waits for the one that used the operator's memory last, and the lock keeps
        // other threads away. A capture begins after a synchronisation.
        each!(&self.any, operator => unsafe { operator.launch(x, y, n, Layout::BatchFirst, &queue) })
    }
}

#[pymethods]
impl CudaOperator {
    #[new]
    #[pyo3(signature = (device, dtype, shapes, addresses, bias, adjoint))]
    fn new(
        py: Python<'_>,
        device: usize,
        dtype: &str,
        shapes: Vec<Shape>,
        addresses: Vec<usize>,
        bias: usize,
        adjoint: bool,
    ) -> PyResult<CudaOperator> {
        let dtype = dtype::of_name(dtype)?;
        py.detach(|| {
            let device = Device::open(device).python()?;
            // SAFETY: the Python package passes addresses of contiguous tensors of these shapes in host memory.
            let any = of_type!(dtype, T => unsafe {
                let chain = chain_at::<T>(&shapes, &addresses, adjoint)?;
                let bias = bias_at::<T>(bias, chain.rows())?;
                operator_of(&device, &chain, bias, Activation::None, Join::None)?
            });
            Ok(CudaOperator { any, device, state: Mutex::default() })
        })
    }

    /// Packs two layers of the same shapes: `activation(x @ G.T + g) * (x @ U.T + u)`. `pair` as for `pack_gated_at`.
    #[staticmethod]
    #[pyo3(signature = (device, dtype, pair, activation))]
    fn gated(py: Python<'_>, device: usize, dtype: &str, pair: Pair, activation: &str) -> PyResult<CudaOperator> {
        let (dtype, activation) = (dtype::of_name(dtype)?, activation.parse().python()?);
        py.detach(|| {
            let device = Device::open(device).python()?;
            let any = of_type!(dtype, T => {
                // SAFETY: the Python package passes addresses of contiguous tensors of these shapes in host memory.
                let (chain, bias) = unsafe { pair.interleaved::<T>() }?;
                operator_of(&device, &chain, bias, activation, Join::Gate)?
            });
            Ok(CudaOperator { any, device, state: Mutex::default() })
        })
    }

    /// Queues `Y = X Wᵀ + bias` for `n` vectors at device addresses `x` and `y` on `stream` (a `cudaStream_t`). The first call for a
    /// number of vectors compiles and allocates; later ones only launch. `capturing` says that the stream is being captured.
    #[pyo3(signature = (x, y, n, stream, capturing))]
    pub(crate) fn apply_at(
        &self,
        py: Python<'_>,
        x: u64,
        y: u64,
        n: usize,
        stream: usize,
        capturing: bool,
    ) -> PyResult<()> {
        if n == 0 {
            return Ok(());
        }
        // A kernel would write there all the same, and no other could run after it.
        allocated("x", x as usize, 1)?;
        allocated("y", y as usize, 1)?;
        // SAFETY: the Python package passes contiguous tensors of this device and its current stream, and PyTorch's
        // streams live as long as the process.
        py.detach(|| unsafe { self.launch(x, y, n, stream, capturing) }).python()
    }

    /// Compiles and allocates what multiplying `n` vectors needs. Not possible during a capture.
    #[pyo3(signature = (n))]
    fn prepare(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        py.detach(|| {
            let mut state = self.state();
            each!(&self.any, operator => operator.prepare(n, Layout::BatchFirst))?;
            state.prepared.insert(n);
            Ok(())
        })
        .python()
    }

    /// The numbers of vectors that have been prepared, in no order.
    fn prepared(&self, py: Python<'_>) -> Vec<usize> {
        // Another thread may be compiling.
        py.detach(|| self.state().prepared.iter().copied().collect())
    }

    /// Whether multiplying `n` vectors only launches.
    #[pyo3(signature = (n))]
    fn is_prepared(&self, py: Python<'_>, n: usize) -> bool {
        py.detach(|| self.state().prepared.contains(&n))
    }

    /// How `n` vectors are multiplied, in words. Prepares what is missing.
    #[pyo3(signature = (n))]
    fn explain(&self, py: Python<'_>, n: usize) -> PyResult<String> {
        py.detach(|| {
            // What is prepared may move working memory.
            let _state = self.state();
            each!(&self.any, operator => operator.explain(n, Layout::BatchFirst))
        })
        .python()
    }

    fn __repr__(&self) -> String {
        each!(&self.any, operator => format!("{operator:?}"))
    }
}

fn operator_of<T: Packed>(
    device: &Device,
    chain: &Chain<T>,
    bias: Option<Vec<T>>,
    activation: Activation,
    join: Join,
) -> PyResult<cuda::Operator<T>> {
    let options = cuda::Options { bias, activation, join, tuning: tuning::in_use(), ..Default::default() };
    cuda::Operator::new(device, chain, options).python()
}

/// The names of this machine's NVIDIA GPUs as the driver sees them; RuntimeError says why there are none.
#[pyfunction]
pub(crate) fn cuda_devices(py: Python<'_>) -> PyResult<Vec<String>> {
    let found = py.detach(cuda::find).map_err(PyRuntimeError::new_err)?;
    Ok(found.devices.into_iter().map(|gpu| gpu.name).collect())
}
