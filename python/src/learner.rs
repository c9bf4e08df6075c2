//! Chains whose weights are trained on an NVIDIA GPU: steps on device memory and streams that others own.

use std::sync::Mutex;

use half::{bf16, f16};
use kronsparse::cuda::{self, Backward, Device};
use kronsparse::{ChainPattern, DType, Error, Pattern, Scalar};
use pyo3::prelude::*;

use crate::address::{Shape, allocated};
use crate::dtype;
use crate::error::IntoPython;
use crate::streams::LastStream;

/// A learner of an element type that has gradients of weights.
enum Any {
    F16(cuda::Learner<f16>),
    Bf16(cuda::Learner<bf16>),
    F32(cuda::Learner<f32>),
}

/// Evaluates `$body` with `$learner` as the typed learner.
macro_rules! each {
    ($any:expr, $learner:ident => $body:expr) => {
        match $any {
            Any::F16($learner) => $body,
            Any::Bf16($learner) => $body,
            Any::F32($learner) => $body,
        }
    };
}

/// Chains of these shapes `(a, b, c, d)`, left to right, trained on one NVIDIA GPU in `f16`, `bf16` or `f32`. For `kronsparse.torch`.
///
/// Weights, biases and vectors are given by device addresses with every call, contiguous; 0 stands for what there is not. RuntimeError says
/// what of the driver, the GPU or its libraries is missing.
#[pyclass(frozen, module = "kronsparse._kronsparse")]
pub(crate) struct CudaLearner {
    any: Any,
    device: Device,
    last: Mutex<LastStream>,
}

impl CudaLearner {
    /// Makes ready what is missing, which cannot be done during a capture, and does `work` on the stream.
    ///
    /// # Safety
    ///
    /// As for [`LastStream::enter`].
    unsafe fn on(
        &self,
        addresses: impl IntoIterator<Item = u64>,
        n: usize,
        (stream, capturing): (usize, bool),
        work: impl FnOnce(&cuda::Stream) -> kronsparse::Result<()>,
    ) -> kronsparse::Result<()> {
        let aligned = addresses.into_iter().fold(0, |all, address| all | address).is_multiple_of(16);
        self.refuse_unprepared(n, aligned, capturing)?;
        // The lock keeps other threads away: packed weights are the learner's own.
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: the caller's word.
        let queue = unsafe { last.enter(&self.device, stream, capturing) }?;
        work(&queue)
    }

    /// Nothing can be made ready while a stream is captured.
    fn refuse_unprepared(&self, n: usize, aligned: bool, capturing: bool) -> kronsparse::Result<()> {
        if !capturing || each!(&self.any, learner => learner.is_prepared(n, aligned)) {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("capturing a training step of {n} vectors into a CUDA graph"),
            why:
                "nothing can be compiled or allocated during a capture; run it once with this number of vectors before"
                    .into(),
        })
    }
}

/// Refuses arrays without memory, to which kernels would write all the same.
fn all_allocated(what: &str, addresses: impl IntoIterator<Item = u64>) -> PyResult<()> {
    addresses.into_iter().try_for_each(|address| allocated(what, address as usize, 1))
}

fn learner<T: Scalar>(device: &Device, pattern: &ChainPattern, bias: bool) -> PyResult<cuda::Learner<T>> {
    cuda::Learner::new(device, pattern, bias).python()
}

#[pymethods]
impl CudaLearner {
    #[new]
    #[pyo3(signature = (device, dtype, shapes, bias))]
    fn new(py: Python<'_>, device: usize, dtype: &str, shapes: Vec<Shape>, bias: bool) -> PyResult<CudaLearner> {
        let dtype = dtype::of_name(dtype)?;
        py.detach(|| {
            let patterns = shapes.iter().map(|&(a, b, c, d)| Pattern::new(a, b, c, d).python());
            let pattern = ChainPattern::new(patterns.collect::<PyResult<_>>()?).python()?;
            let device = Device::open(device).python()?;
            let any = match dtype {
                DType::F16 => Any::F16(learner(&device, &pattern, bias)?),
                DType::Bf16 => Any::Bf16(learner(&device, &pattern, bias)?),
                DType::F32 => Any::F32(learner(&device, &pattern, bias)?),
                DType::F64 | DType::C64 | DType::C128 => {
                    let found = dtype::numpy_name(dtype);
                    return Err(pyo3::exceptions::PyTypeError::new_err(format!(
                        "dtype of weights that are trained on a GPU: expected float16, bfloat16 or float32, found {found}"
                    )));
                }
            };
            Ok(CudaLearner { any, device, last: Mutex::default() })
        })
    }

    /// Numbers in float32 that `backward_at` needs for `n` vectors, in arrays whose addresses are all multiples of 16 if `aligned`. Compiles and
    /// allocates what is missing for them, which is refused if a stream is being captured (`capturing`).
    #[pyo3(signature = (n, aligned, capturing))]
    fn parts_len(&self, py: Python<'_>, n: usize, aligned: bool, capturing: bool) -> PyResult<usize> {
        py.detach(|| {
            self.refuse_unprepared(n, aligned, capturing)?;
            each!(&self.any, learner => learner.parts_len(n, aligned))
        })
        .python()
    }

    /// Queues `Y = X Wᵀ + bias` for `n` vectors on `stream` (a `cudaStream_t`): `outputs` are the addresses of every factor's outputs, left
    /// to right. `capturing` says that the stream is being captured.
    #[pyo3(signature = (weights, bias, x, outputs, n, stream, capturing))]
    #[allow(clippy::too_many_arguments)]
    fn forward_at(
        &self,
        py: Python<'_>,
        weights: Vec<u64>,
        bias: u64,
        x: u64,
        outputs: Vec<u64>,
        n: usize,
        stream: usize,
        capturing: bool,
    ) -> PyResult<()> {
        if n > 0 {
            all_allocated("a weight", weights.iter().copied())?;
            all_allocated("x", [x])?;
            all_allocated("an output", outputs.iter().copied())?;
        }
        let addresses = outputs.iter().copied().chain([x]);
        // SAFETY: the Python package passes contiguous tensors of this device and its current stream, and PyTorch's streams live as long
        // as the process; this stream waits for the one that used the packed weights last.
        py.detach(|| unsafe {
            self.on(
                addresses,
                n,
                (stream, capturing),
                |queue| each!(&self.any, learner => learner.forward(&weights, bias, x, &outputs, n, queue)),
            )
        })
        .python()
    }

    /// Queues the gradients that have addresses. `inputs` are those of every factor's inputs, left to right, the last one being X; `hidden`
    /// two arrays for vectors between factors, `parts` one of `parts_len` numbers.
    #[pyo3(signature = (weights, inputs, gradient, weight_gradients, bias_gradient, x_gradient, hidden, parts, n, stream, capturing))]
    #[allow(clippy::too_many_arguments)]
    fn backward_at(
        &self,
        py: Python<'_>,
        weights: Vec<u64>,
        inputs: Vec<u64>,
        gradient: u64,
        weight_gradients: Vec<u64>,
        bias_gradient: u64,
        x_gradient: u64,
        hidden: [u64; 2],
        parts: u64,
        n: usize,
        stream: usize,
        capturing: bool,
    ) -> PyResult<()> {
        if n > 0 {
            all_allocated("a weight", weights.iter().copied())?;
            all_allocated("the gradient", [gradient])?;
            let wanted = inputs.iter().zip(&weight_gradients).filter(|&(_, &found)| found != 0);
            all_allocated("the input of a factor whose weights have a gradient", wanted.map(|(&input, _)| input))?;
            all_allocated("hidden", hidden.into_iter().take(weights.len().saturating_sub(1)))?;
        }
        let what = Backward {
            weights: &weights,
            inputs: &inputs,
            gradient,
            weight_gradients: &weight_gradients,
            bias_gradient,
            x_gradient,
            hidden,
            parts,
        };
        // SAFETY: as in `forward_at`.
        py.detach(|| unsafe {
            self.on(
                what.vectors(),
                n,
                (stream, capturing),
                |queue| each!(&self.any, learner => learner.backward(&what, n, queue)),
            )
        })
        .python()
    }
}
