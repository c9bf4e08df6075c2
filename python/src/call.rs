//! The short way of a layer's forward: one call that looks whether everything is as it was, allocates and multiplies.
//!
//! What it asks PyTorch it asks through the interpreter, by functions that are found once: nothing links to PyTorch. Whenever
//! anything is not as it was, or somebody might have to see the operation (gradients, autocast, transforms, modes, graphs
//! that are captured), it does nothing and says so; Python's long way then does, or says what is wrong.
//!
//! Each question takes a tenth of a microsecond, and there are two dozen. Most are about the input and about who is watching: when
//! an input of one shape comes for the second time in a row they are put to one of the guards with which compiled programs decide
//! whether they still hold. It compares type, dtype, device, sizes, strides and dispatch keys, those of the thread included,
//! which are there under autocast, transforms, modes, tracing and inference mode.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyDict, PyString, PyTuple};

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
    /// The class of guards on tensors, if there is one.
    guards: Option<Py<PyAny>>,
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
            guards: guards.getattr("TensorGuards").ok().map(Bound::unbind),
            gpu: gpu().ok(),
        })
    }

    /// Whether forward-mode differentiation is at work, which leaves no trace in tensors that have no part in it.
    fn differentiates_forward(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.forward_ad.bind(py).getattr(intern!(py, "_current_level"))?.extract::<i64>()? >= 0)
    }

    /// Whether nobody but the caller is concerned by what is computed, forward-mode differentiation apart.
    fn is_unwatched(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(!self.is_any_autocast_enabled.bind(py).call0()?.is_truthy()?
            && self.transforms.bind(py).call0()?.is_none()
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

/// An input that has been seen, and the output that it gets.
struct Input {
    /// Says whether a tensor is like it, and watched as little.
    is_like_it: Option<Py<PyAny>>,
    vectors: usize,
    sizes: Py<PyTuple>,
    strides: Py<PyTuple>,
}

enum Engine {
    Cpu { operator: Py<Operator>, threads: usize, addresses: Vec<usize> },
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
    /// The last input that was looked at.
    input: Mutex<Option<Arc<Input>>>,
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
                addresses: weights.iter().chain(&bias).map(|kept| kept.address).collect(),
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
            input: Mutex::new(None),
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
        let Ok(Some(input)) = self.ready(torch, x, factors, own) else { return Ok(None) };
        let n = input.vectors;
        match &self.engine {
            Engine::Cpu { operator, .. } => {
                let Ok((y, at)) = self.output(torch.empty_cpu.bind(py), &input) else { return Ok(None) };
                let Ok(from) = address_of(x) else { return Ok(None) };
                address::apply_at(py, operator.get(), from, at, n)?;
                Ok(Some(y))
            }
            Engine::Cuda { operator, device } => {
                let Some(gpu) = &torch.gpu else { return Ok(None) };
                let Ok((y, at)) = self.output(gpu.empty.bind(py), &input) else { return Ok(None) };
                let stream = gpu.stream.bind(py).call1((*device,)).and_then(|stream| stream.extract());
                let (Ok(from), Ok(stream)) = (address_of(x), stream) else { return Ok(None) };
                operator.get().apply_at(py, from as u64, at as u64, n, stream, false)?;
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
    /// The input as it is known, if all is as it was.
    fn ready(
        &self,
        torch: &Torch,
        x: &Bound<'_, PyAny>,
        factors: &Bound<'_, PyDict>,
        own: &Bound<'_, PyDict>,
    ) -> PyResult<Option<Arc<Input>>> {
        let py = x.py();
        let retired = GENERATION.load(Ordering::Relaxed) != self.generation;
        if retired || torch.differentiates_forward(py)? || factors.len() != self.weights.len() {
            return Ok(None);
        }
        let last = self.input.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let input = match last {
            Some(input) if input.is_known(x)? => input,
            last => {
                let Some(input) = self.looked_at(torch, x, last)? else { return Ok(None) };
                *self.input.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(input.clone());
                input
            }
        };
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
            for tensor in self.weights.iter().chain(&self.bias).map(|kept| kept.tensor.bind(py)).chain([x]) {
                if tensor.getattr(intern!(py, "requires_grad"))?.is_truthy()? {
                    return Ok(None);
                }
            }
        }
        let ready = match &self.engine {
            Engine::Cpu { operator, threads, addresses } => {
                torch.threads.bind(py).call0()?.extract::<usize>()? == *threads
                    && address::same(operator.get(), addresses)
            }
            Engine::Cuda { device, .. } => match &torch.gpu {
                Some(gpu) => {
                    gpu.device.bind(py).call0()?.extract::<i64>()? == *device
                        && !gpu.is_capturing.bind(py).call0()?.is_truthy()?
                }
                None => false,
            },
        };
        Ok(ready.then_some(input))
    }

    /// An input that is not known, if it goes with the layer and nobody is watching; with a guard where the `last` one was of the same
    /// shape, since making one takes as long as a dozen questions.
    fn looked_at(&self, torch: &Torch, x: &Bound<'_, PyAny>, last: Option<Arc<Input>>) -> PyResult<Option<Arc<Input>>> {
        let py = x.py();
        let yes = |name: &Bound<'_, PyString>| x.getattr(name)?.is_truthy();
        let is = |name: &Bound<'_, PyString>| x.call_method0(name)?.is_truthy();
        if !x.get_type().is(&torch.tensor)
            || !torch.is_unwatched(py)?
            || !x.getattr(intern!(py, "dtype"))?.is(&self.dtype)
            || !is(intern!(py, "is_contiguous"))?
            || is(intern!(py, "is_neg"))?
            || (self.is_complex && is(intern!(py, "is_conj"))?)
        {
            return Ok(None);
        }
        let here = match &self.engine {
            Engine::Cpu { .. } => yes(intern!(py, "is_cpu"))?,
            Engine::Cuda { device, .. } => {
                yes(intern!(py, "is_cuda"))? && x.call_method0(intern!(py, "get_device"))?.extract::<i64>()? == *device
            }
        };
        if !here {
            return Ok(None);
        }
        let mut shape: Vec<usize> = x.getattr(intern!(py, "shape"))?.extract()?;
        let Some(size) = shape.last_mut().filter(|size| **size == self.cols) else { return Ok(None) };
        *size = self.rows;
        let vectors = shape[..shape.len() - 1].iter().product();
        if vectors == 0 {
            // The long way.
            return Ok(None);
        }
        let mut strides = vec![1; shape.len()];
        for at in (0..shape.len() - 1).rev() {
            strides[at] = strides[at + 1] * shape[at + 1];
        }
        let sizes = PyTuple::new(py, shape)?;
        let again = match last {
            Some(last) => last.sizes.bind(py).eq(&sizes)?,
            None => false,
        };
        let is_like_it = match &torch.guards {
            // One that cannot be made is done without. It reads these arguments without asking whether there are any.
            Some(guards) if again => {
                let fixed =
                    [("dynamic_dims_sizes", py.None()), ("dynamic_dims_strides", py.None())].into_py_dict(py)?;
                guards.bind(py).call((x,), Some(&fixed)).and_then(|made| made.getattr("check")).ok()
            }
            _ => None,
        };
        let (sizes, strides) = (sizes.unbind(), PyTuple::new(py, strides)?.unbind());
        Ok(Some(Arc::new(Input { is_like_it: is_like_it.map(Bound::unbind), vectors, sizes, strides })))
    }

    /// Memory for the output, in C order, and its address. An error says that another PyTorch does it in another way, or that there is no
    /// memory: the long way has its own.
    fn output<'py>(&self, empty: &Bound<'py, PyAny>, input: &Input) -> PyResult<(Bound<'py, PyAny>, usize)> {
        let y = empty.call1((&input.sizes, &input.strides, &self.dtype))?;
        let at = address_of(&y)?;
        Ok((y, at))
    }
}

impl Input {
    /// Whether `x` is like it in all that matters.
    fn is_known(&self, x: &Bound<'_, PyAny>) -> PyResult<bool> {
        match &self.is_like_it {
            Some(check) => check.bind(x.py()).call1((x,))?.is_truthy(),
            None => Ok(false),
        }
    }
}

fn address_of(tensor: &Bound<'_, PyAny>) -> PyResult<usize> {
    tensor.call_method0(intern!(tensor.py(), "data_ptr"))?.extract()
}
