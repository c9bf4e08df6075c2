//! The short way of a layer's forward: one call that looks whether everything is as it was, allocates and multiplies.
//!
//! What it asks PyTorch it asks through the interpreter, by functions that are found once: nothing links to PyTorch. Whenever
//! anything is not as it was, or somebody might have to see the operation (gradients, autocast, transforms, modes, graphs
//! that are captured), it does nothing and says so; Python's long way then does, or says what is wrong.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::address;
use crate::cuda::CudaOperator;
use crate::operator::Operator;

/// PyTorch's functions that a call asks.
struct Torch {
    tensor: Py<PyAny>,
    is_grad_enabled: Py<PyAny>,
    is_any_autocast_enabled: Py<PyAny>,
    transforms: Py<PyAny>,
    forward_ad: Py<PyAny>,
    modes: Py<PyAny>,
    is_tracing: Py<PyAny>,
    threads: Py<PyAny>,
    empty_cpu: Py<PyAny>,
    gpu: Option<Gpu>,
}

/// Those that a PyTorch without CUDA does not have.
struct Gpu {
    device: Py<PyAny>,
    is_capturing: Py<PyAny>,
    stream: Py<PyAny>,
    empty: Py<PyAny>,
}

static TORCH: PyOnceLock<Torch> = PyOnceLock::new();

/// Raised when packed weights are forgotten: calls that are older take the long way.
static GENERATION: AtomicU64 = AtomicU64::new(0);

impl Torch {
    fn find(py: Python<'_>) -> PyResult<Torch> {
        let torch = py.import("torch")?;
        let inner = torch.getattr("_C")?;
        let functorch = inner.getattr("_functorch")?;
        // What compiled programs allocate with.
        let guards = inner.getattr("_dynamo")?.getattr("guards")?;
        let gpu = || {
            Ok::<_, PyErr>(Gpu {
                device: inner.getattr("_cuda_getDevice")?.unbind(),
                is_capturing: inner.getattr("_cuda_isCurrentStreamCapturing")?.unbind(),
                stream: inner.getattr("_cuda_getCurrentRawStream")?.unbind(),
                empty: guards.getattr("_empty_strided_cuda")?.unbind(),
            })
        };
        Ok(Torch {
            tensor: torch.getattr("Tensor")?.unbind(),
            is_grad_enabled: inner.getattr("is_grad_enabled")?.unbind(),
            is_any_autocast_enabled: inner.getattr("_is_any_autocast_enabled")?.unbind(),
            transforms: functorch.getattr("peek_interpreter_stack")?.unbind(),
            forward_ad: py.import("torch.autograd.forward_ad")?.into_any().unbind(),
            modes: inner.getattr("_len_torch_dispatch_stack")?.unbind(),
            is_tracing: inner.getattr("_is_tracing")?.unbind(),
            threads: torch.getattr("get_num_threads")?.unbind(),
            empty_cpu: guards.getattr("_empty_strided_cpu")?.unbind(),
            gpu: gpu().ok(),
        })
    }

    /// Whether nobody but the caller is concerned by what is computed.
    fn is_unwatched(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.is_any_autocast_enabled.bind(py).call0()?.is_truthy()?
            && self.transforms.bind(py).call0()?.is_none()
            && self.forward_ad.bind(py).getattr(intern!(py, "_current_level"))?.extract::<i64>()? < 0
            && self.modes.bind(py).call0()?.extract::<usize>()? == 0
            && !self.is_tracing.bind(py).call0()?.is_truthy()?)
    }
}

/// A parameter as it was when it was packed.
struct Kept {
    tensor: Py<PyAny>,
    version: i64,
    address: usize,
}

impl Kept {
    fn is_as_it_was(&self, found: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(found.is(&self.tensor)
            && found.getattr(intern!(found.py(), "_version"))?.extract::<i64>()? == self.version
            && address_of(found)? == self.address)
    }
}

enum Engine {
    Cpu { operator: Py<Operator>, threads: usize, addresses: Vec<usize>, bias: usize },
    Cuda { operator: Py<CudaOperator>, device: i64 },
}

/// A layer's parameters and what was packed of them, for a forward by one call. For `kronsparse.torch`.
///
/// `operator` is an `Operator` or a `CudaOperator` that was packed of parameters (weights, and a bias if there is one more of them
/// than `factors`) when they had these versions and addresses; `extra` is the number of threads, or of the GPU.
#[pyclass(frozen, weakref, module = "kronsparse._kronsparse")]
pub(crate) struct Call {
    engine: Engine,
    weights: Vec<Kept>,
    bias: Option<Kept>,
    dtype: Py<PyAny>,
    is_complex: bool,
    rows: usize,
    cols: usize,
    generation: u64,
}

#[pymethods]
impl Call {
    #[new]
    #[pyo3(signature = (operator, factors, parameters, shape, extra))]
    fn new(
        operator: &Bound<'_, PyAny>,
        factors: usize,
        parameters: Vec<(Bound<'_, PyAny>, i64, usize)>,
        shape: (usize, usize),
        extra: usize,
    ) -> PyResult<Call> {
        let py = operator.py();
        TORCH.get_or_try_init(py, || Torch::find(py))?;
        if factors == 0 || parameters.len() < factors || parameters.len() > factors + 1 {
            return Err(PyValueError::new_err(format!(
                "parameters: expected {factors} weights and at most one bias, found {}",
                parameters.len()
            )));
        }
        let mut weights: Vec<Kept> = parameters
            .into_iter()
            .map(|(tensor, version, address)| Kept { tensor: tensor.unbind(), version, address })
            .collect();
        let bias = weights.drain(factors..).next();
        let engine = match operator.cast::<CudaOperator>() {
            Ok(operator) => Engine::Cuda { operator: operator.clone().unbind(), device: extra as i64 },
            Err(_) => Engine::Cpu {
                operator: operator.cast::<Operator>()?.clone().unbind(),
                threads: extra,
                addresses: weights.iter().map(|weight| weight.address).collect(),
                bias: bias.as_ref().map_or(0, |bias| bias.address),
            },
        };
        let dtype = weights[0].tensor.bind(py).getattr(intern!(py, "dtype"))?;
        let is_complex = dtype.getattr("is_complex")?.is_truthy()?;
        let (rows, cols) = shape;
        Ok(Call {
            engine,
            weights,
            bias,
            dtype: dtype.unbind(),
            is_complex,
            rows,
            cols,
            generation: GENERATION.load(Ordering::Relaxed),
        })
    }

    /// `x @ W.T + bias` for a tensor `(…, cols)`, or None: nothing was done, and the long way must be taken. `factors` and `own`
    /// are the dictionaries in which the layer has its weights and its bias.
    #[pyo3(signature = (x, factors, own))]
    fn run<'py>(
        &self,
        x: &Bound<'py, PyAny>,
        factors: &Bound<'py, PyDict>,
        own: &Bound<'py, PyDict>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = x.py();
        let Some(torch) = TORCH.get(py) else { return Ok(None) };
        // What goes wrong here is odd about the tensors: the long way says it.
        let Ok(Some((n, shape))) = self.ready(torch, x, factors, own) else { return Ok(None) };
        match &self.engine {
            Engine::Cpu { operator, .. } => {
                let y = self.output(torch.empty_cpu.bind(py), shape)?;
                address::apply_at(py, operator.get(), address_of(x)?, address_of(&y)?, n)?;
                Ok(Some(y))
            }
            Engine::Cuda { operator, device } => {
                let Some(gpu) = &torch.gpu else { return Ok(None) };
                let y = self.output(gpu.empty.bind(py), shape)?;
                let stream = gpu.stream.bind(py).call1((*device,))?.extract()?;
                operator.get().apply_at(py, address_of(x)? as u64, address_of(&y)? as u64, n, stream, false)?;
                Ok(Some(y))
            }
        }
    }
}

/// Makes all calls that there are take the long way from now on.
#[pyfunction]
pub(crate) fn retire_calls() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

impl Call {
    /// How many vectors `x` has, and the shape of the output, if all is as it was.
    fn ready(
        &self,
        torch: &Torch,
        x: &Bound<'_, PyAny>,
        factors: &Bound<'_, PyDict>,
        own: &Bound<'_, PyDict>,
    ) -> PyResult<Option<(usize, Vec<usize>)>> {
        let py = x.py();
        let retired = GENERATION.load(Ordering::Relaxed) != self.generation;
        if retired || !x.get_type().is(&torch.tensor) || !torch.is_unwatched(py)? {
            return Ok(None);
        }
        let yes =
            |tensor: &Bound<'_, PyAny>, name: &Bound<'_, pyo3::types::PyString>| tensor.getattr(name)?.is_truthy();
        if factors.len() != self.weights.len() {
            return Ok(None);
        }
        for (kept, (_, found)) in self.weights.iter().zip(factors.iter()) {
            if !kept.is_as_it_was(&found)? {
                return Ok(None);
            }
        }
        let Some(bias) = own.get_item(intern!(py, "bias"))? else { return Ok(None) };
        match &self.bias {
            None if bias.is_none() => {}
            Some(kept) if kept.is_as_it_was(&bias)? => {}
            _ => return Ok(None),
        }
        if torch.is_grad_enabled.bind(py).call0()?.is_truthy()? {
            let name = intern!(py, "requires_grad");
            if yes(x, name)? {
                return Ok(None);
            }
            for kept in self.weights.iter().chain(&self.bias) {
                if yes(kept.tensor.bind(py), name)? {
                    return Ok(None);
                }
            }
        }
        let is = |name: &Bound<'_, pyo3::types::PyString>| x.call_method0(name)?.is_truthy();
        if !x.getattr(intern!(py, "dtype"))?.is(&self.dtype)
            || !is(intern!(py, "is_contiguous"))?
            || is(intern!(py, "is_neg"))?
            || (self.is_complex && is(intern!(py, "is_conj"))?)
        {
            return Ok(None);
        }
        match &self.engine {
            Engine::Cpu { operator, threads, addresses, bias } => {
                if !yes(x, intern!(py, "is_cpu"))?
                    || torch.threads.bind(py).call0()?.extract::<usize>()? != *threads
                    || !address::same(operator.get(), addresses, *bias)
                {
                    return Ok(None);
                }
            }
            Engine::Cuda { device, .. } => {
                let Some(gpu) = &torch.gpu else { return Ok(None) };
                if !yes(x, intern!(py, "is_cuda"))?
                    || x.call_method0(intern!(py, "get_device"))?.extract::<i64>()? != *device
                    || gpu.device.bind(py).call0()?.extract::<i64>()? != *device
                    || gpu.is_capturing.bind(py).call0()?.is_truthy()?
                {
                    return Ok(None);
                }
            }
        }
        let mut shape: Vec<usize> = x.getattr(intern!(py, "shape"))?.extract()?;
        let Some(last) = shape.last_mut().filter(|last| **last == self.cols) else { return Ok(None) };
        *last = self.rows;
        let n = shape[..shape.len() - 1].iter().product();
        // No vectors: the long way.
        Ok((n > 0).then_some((n, shape)))
    }

    /// Memory for the output, in C order.
    fn output<'py>(&self, empty: &Bound<'py, PyAny>, shape: Vec<usize>) -> PyResult<Bound<'py, PyAny>> {
        let py = empty.py();
        let mut strides = vec![1; shape.len()];
        for at in (0..shape.len() - 1).rev() {
            strides[at] = strides[at + 1] * shape[at + 1];
        }
        empty.call1((PyTuple::new(py, shape)?, PyTuple::new(py, strides)?, &self.dtype))
    }
}

fn address_of(tensor: &Bound<'_, PyAny>) -> PyResult<usize> {
    tensor.call_method0(intern!(tensor.py(), "data_ptr"))?.extract()
}
