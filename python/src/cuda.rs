//! Chains prepared for an NVIDIA GPU, multiplied on device memory and streams that others own.

use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard};

use half::{bf16, f16};
use kronsparse::cuda::{self, Device, Event, Stream};
use kronsparse::{DType, Error, Layout};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::address::{Shape, bias_at, chain_at};
use crate::dtype;
use crate::error::IntoPython;
use crate::operator::Packed;

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
    /// The stream of the last launch, not counting captures. Its work uses memory of the operator.
    last: Option<usize>,
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
        let queue = unsafe { Stream::from_raw(&self.device, stream as *mut c_void) };
        if !capturing {
            if let Some(last) = state.last.filter(|&last| last != stream) {
                // SAFETY: the caller's word.
                let before = unsafe { Stream::from_raw(&self.device, last as *mut c_void) };
                let event = Event::new(&self.device)?;
                event.record(&before)?;
                queue.wait(&event)?;
            }
            state.last = Some(stream);
        }
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
            let any = unsafe {
                match dtype {
                    DType::F16 => Any::F16(operator_at(&device, &shapes, &addresses, bias, adjoint)?),
                    DType::Bf16 => Any::Bf16(operator_at(&device, &shapes, &addresses, bias, adjoint)?),
                    DType::F32 => Any::F32(operator_at(&device, &shapes, &addresses, bias, adjoint)?),
                    DType::F64 => Any::F64(operator_at(&device, &shapes, &addresses, bias, adjoint)?),
                    DType::C64 | DType::C128 => {
                        let found = dtype::numpy_name(dtype);
                        return Err(pyo3::exceptions::PyTypeError::new_err(format!(
                            "dtype on a GPU: expected float16, bfloat16, float32 or float64, found {found}"
                        )));
                    }
                }
            };
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
    fn prepared(&self) -> Vec<usize> {
        self.state().prepared.iter().copied().collect()
    }

    /// Whether multiplying `n` vectors only launches.
    #[pyo3(signature = (n))]
    fn is_prepared(&self, n: usize) -> bool {
        self.state().prepared.contains(&n)
    }

    /// How `n` vectors are multiplied, in words. Prepares what is missing.
    #[pyo3(signature = (n))]
    fn explain(&self, py: Python<'_>, n: usize) -> PyResult<String> {
        py.detach(|| each!(&self.any, operator => operator.explain(n, Layout::BatchFirst))).python()
    }

    fn __repr__(&self) -> String {
        each!(&self.any, operator => format!("{operator:?}"))
    }
}

/// # Safety
///
/// As for [`chain_at`].
unsafe fn operator_at<T: Packed>(
    device: &Device,
    shapes: &[Shape],
    addresses: &[usize],
    bias: usize,
    adjoint: bool,
) -> PyResult<cuda::Operator<T>> {
    // SAFETY: the caller's word.
    let chain = unsafe { chain_at::<T>(shapes, addresses, adjoint) }?;
    // SAFETY: the caller's word.
    let bias = unsafe { bias_at::<T>(bias, chain.rows()) };
    cuda::Operator::new(device, &chain, cuda::Options { bias, ..Default::default() }).python()
}

/// The names of this machine's NVIDIA GPUs as the driver sees them; RuntimeError says why there are none.
#[pyfunction]
pub(crate) fn cuda_devices(py: Python<'_>) -> PyResult<Vec<String>> {
    let found = py.detach(cuda::find).map_err(PyRuntimeError::new_err)?;
    Ok(found.devices.into_iter().map(|gpu| gpu.name).collect())
}
