//! Multiplying by a chain whose weights change with every step of a training: they are packed on the GPU, and gradients of the inputs and of
//! the weights have kernels of their own.

mod kernels;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::device::Device;
use super::launch::Launch;
use super::memory::Buffer;
use super::stream::Stream;
use crate::plan::gpu::{self, GpuProblem, GradientProblem, WeightGradientPlan};
use crate::scalar::Wide as _;
use crate::{ChainPattern, DType, Error, Layout, Pattern, Result, Scalar};
use kernels::{Gradient, Packed, Product, Ready};

/// A chain of learned weights on one GPU, batch-first, element types `f16`, `bf16` and `f32`: `Y = X Wᵀ + bias`, and the gradients of
/// `X` and of every factor's weights from that of `Y`.
///
/// Factors are multiplied one after the other, since their inputs are needed for the gradients. Weights are never read from the host:
/// every call is given the addresses of arrays of shape `(a, b, c, d)`. One learner works for one stream at a time.
pub struct Learner<T: Scalar> {
    device: Device,
    pattern: ChainPattern,
    bias: bool,
    state: Mutex<State<T>>,
}

/// What was made ready so far.
struct State<T> {
    /// By factor, whether it is transposed, and the name of the order.
    packed: HashMap<(usize, bool, String), Arc<Packed<T>>>,
    /// By the number of vectors, and whether all arrays start at multiples of 16 bytes.
    ready: HashMap<(usize, bool), Arc<Ready<T>>>,
}

/// Device addresses of what [`Learner::backward`] reads and writes; 0 stands for what is not wanted.
#[derive(Clone, Debug)]
pub struct Backward<'a> {
    /// Of every factor's weights, left to right.
    pub weights: &'a [u64],
    /// Of every factor's inputs, left to right: the last one is `X`, and the others are the outputs of the factor to their right.
    pub inputs: &'a [u64],
    /// Of the gradient of `Y`.
    pub gradient: u64,
    /// Of the gradients of every factor's weights, which are written; multiples of 16.
    pub weight_gradients: &'a [u64],
    /// Of the gradient of the bias, which is written; a multiple of 16.
    pub bias_gradient: u64,
    /// Of the gradient of `X`, which is written.
    pub x_gradient: u64,
    /// Of two arrays for `n` vectors as long as the longest between two factors; 0 for a chain of one factor.
    pub hidden: [u64; 2],
    /// Of [`Learner::parts_len`] numbers in `f32`, for arrays aligned like these, a multiple of 16; 0 if neither the weights' nor the bias' gradient is wanted.
    pub parts: u64,
}

impl Backward<'_> {
    /// All arrays of vectors.
    pub fn vectors(&self) -> impl Iterator<Item = u64> {
        self.inputs.iter().copied().chain([self.gradient, self.x_gradient]).chain(self.hidden)
    }
}

/// What [`Learner::step`] gives.
#[derive(Clone, Debug)]
pub struct Gradients<T> {
    /// `Y`, `n · rows` numbers.
    pub y: Vec<T>,
    /// The gradient of every factor's weights, left to right, shapes `(a, b, c, d)`.
    pub weights: Vec<Vec<T>>,
    /// The gradient of the bias, one number per row; none if there is no bias.
    pub bias: Vec<T>,
    /// The gradient of `X`, `n · cols` numbers.
    pub x: Vec<T>,
}

impl<T: Scalar> Learner<T> {
    /// For chains of these patterns, with or without a bias of one number per row. Nothing is compiled yet.
    ///
    /// Errors: an element type or a GPU without kernels for gradients of weights.
    pub fn new(device: &Device, pattern: &ChainPattern, bias: bool) -> Result<Learner<T>> {
        let problem = GradientProblem::new(pattern.patterns()[0], T::DTYPE, 1);
        WeightGradientPlan::fits(&problem, device.machine()).map_err(|why| refused(problem.pattern, T::DTYPE, why))?;
        let state = Mutex::new(State { packed: HashMap::new(), ready: HashMap::new() });
        Ok(Learner { device: device.clone(), pattern: pattern.clone(), bias, state })
    }

    /// The patterns of the chain.
    pub fn pattern(&self) -> &ChainPattern {
        &self.pattern
    }
    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Plans, compiles and allocates what `n` vectors need, in arrays that start at multiples of 16 bytes. Not possible while a stream
    /// is captured.
    pub fn prepare(&self, n: usize) -> Result<()> {
        self.ready(n, true).map(drop)
    }

    /// Whether `n` vectors are prepared for arrays that start at multiples of 16 bytes (`aligned`), or for any.
    pub fn is_prepared(&self, n: usize, aligned: bool) -> bool {
        self.state().ready.contains_key(&(n, aligned))
    }

    /// Numbers in `f32` that [`Learner::backward`] needs for `n` vectors in arrays that start at multiples of 16 bytes (`aligned`), or in any.
    /// They are prepared if they were not.
    pub fn parts_len(&self, n: usize, aligned: bool) -> Result<usize> {
        let ready = self.ready(n, aligned)?;
        Ok(ready.gradients.iter().chain(&ready.bias).map(|gradient| gradient.parts_len).max().unwrap_or(0))
    }

    /// How `n` vectors are multiplied and gradients computed, a line for each kernel.
    pub fn explain(&self, n: usize) -> Result<String> {
        let ready = self.ready(n, true)?;
        let mut text = String::new();
        for (at, pattern) in self.pattern.patterns().iter().enumerate().rev() {
            let (forward, backward) = (&ready.forward[at].plan, &ready.backward[at].plan);
            text += &format!("{pattern}\n  outputs: {forward}\n  gradient of the inputs: {backward}\n");
            text += &format!("  gradient of the weights: {}\n", ready.gradients[at].plan);
        }
        if let Some(gradient) = &ready.bias {
            text += &format!("bias\n  gradient: {}\n", gradient.plan);
        }
        Ok(text)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ready(&self, n: usize, aligned: bool) -> Result<Arc<Ready<T>>> {
        let mut state = self.state();
        if let Some(ready) = state.ready.get(&(n, aligned)) {
            return Ok(ready.clone());
        }
        let (mut forward, mut backward, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
        for (at, &pattern) in self.pattern.patterns().iter().enumerate() {
            forward.push(self.product(at, false, n, aligned, &mut state)?);
            backward.push(self.product(at, true, n, aligned, &mut state)?);
            gradients.push(Gradient::of_weights::<T>(&self.device, pattern, n, aligned)?);
        }
        let last = self.pattern.patterns()[0];
        let bias = if self.bias { Some(Gradient::of_bias::<T>(&self.device, last, n, aligned)?) } else { None };
        let ready = Arc::new(Ready { forward, backward, gradients, bias });
        state.ready.insert((n, aligned), ready.clone());
        Ok(ready)
    }

    fn product(
        &self,
        at: usize,
        transposed: bool,
        n: usize,
        aligned: bool,
        state: &mut State<T>,
    ) -> Result<Product<T>> {
        let pattern = self.pattern.patterns()[at];
        let pattern = if transposed { pattern.transpose() } else { pattern };
        let problem = GpuProblem {
            aligned,
            bias: self.bias && at == 0 && !transposed,
            ..GpuProblem::new(pattern, T::DTYPE, Layout::BatchFirst, n)
        };
        let plan = gpu::choose(&problem, self.device.machine()).map_err(|why| refused(pattern, T::DTYPE, why))?;
        let launch = Launch::new(&self.device, &plan, n.max(1))?;
        let key = (at, transposed, plan.packing());
        let packed = match state.packed.get(&key) {
            Some(packed) => packed.clone(),
            None => {
                let packed = Arc::new(Packed::new(&self.device, &plan, transposed)?);
                state.packed.insert(key, packed.clone());
                packed
            }
        };
        Ok(Product { plan, launch, packed })
    }

    /// Queues `Y = X Wᵀ + bias` and keeps what is between the factors: `outputs` are the addresses of every factor's outputs, left to right,
    /// so that the first one is `Y`. After [`Learner::prepare`] for this `n`, and with arrays that start at multiples of 16 bytes, nothing is
    /// allocated, nothing waits, and it can be captured into a graph, which reads the weights anew in every replay.
    ///
    /// Errors: other numbers of addresses than factors; a bias where none was announced, or none where one was.
    ///
    /// # Safety
    ///
    /// The addresses are of arrays of this GPU, as large as patterns and `n` say, aligned to one element, that do not overlap and stay
    /// alive until the work is done; `bias` is 0 or that of one number per row. `stream` belongs to the same GPU, and work of this
    /// learner on another stream is done.
    pub unsafe fn forward(
        &self,
        weights: &[u64],
        bias: u64,
        x: u64,
        outputs: &[u64],
        n: usize,
        stream: &Stream,
    ) -> Result<()> {
        self.check("weights (addresses, one per factor)", weights)?;
        self.check("outputs (addresses, one per factor)", outputs)?;
        if (bias != 0) != self.bias {
            let (expected, found) = if self.bias { ("a bias", "none") } else { ("no bias", "one") };
            return Err(self.refuse(format!("expected {expected}, as the learner was made for, found {found}")));
        }
        if n == 0 {
            return Ok(());
        }
        let ready = self.ready(n, aligned(outputs.iter().copied().chain([x])))?;
        self.device.bind()?;
        let (mut input, last) = (x, weights.len() - 1);
        for (product, &from) in ready.forward.iter().zip(weights) {
            // SAFETY: the caller's word; weights are packed here for this factor.
            unsafe { product.packed.pack(from, stream) }?;
        }
        for at in (0..=last).rev() {
            let bias = if at == 0 { bias } else { 0 };
            // SAFETY: the caller's word. Only the first one may find weights that are still being packed.
            unsafe { ready.forward[at].run(input, bias, outputs[at], n, at == last, stream) }?;
            input = outputs[at];
        }
        Ok(())
    }

    /// Queues the gradients that `what` names. As [`Learner::forward`] otherwise.
    ///
    /// Errors: other numbers of addresses than factors; the gradient of a bias that there is not; gradients of weights or of the bias, or
    /// parts, that do not begin at multiples of 16 bytes.
    ///
    /// # Safety
    ///
    /// As for [`Learner::forward`].
    pub unsafe fn backward(&self, what: &Backward<'_>, n: usize, stream: &Stream) -> Result<()> {
        let &Backward { weights, inputs, gradient, weight_gradients, bias_gradient, x_gradient, hidden, parts } = what;
        self.check("weights (addresses, one per factor)", weights)?;
        self.check("inputs (addresses, one per factor)", inputs)?;
        self.check("gradients of weights (addresses, one per factor)", weight_gradients)?;
        if bias_gradient != 0 && !self.bias {
            return Err(self.refuse("expected no gradient of a bias, as the learner was made for, found one".into()));
        }
        if !aligned(weight_gradients.iter().copied().chain([bias_gradient, parts])) {
            let why = "expected gradients of weights and of the bias, and parts, at multiples of 16 bytes";
            return Err(self.refuse(why.into()));
        }
        // The last factor to be gone through, and whether its inputs have a gradient.
        let deepest =
            if x_gradient != 0 { Some(weights.len()) } else { weight_gradients.iter().rposition(|&w| w != 0) };
        if deepest.is_none() && bias_gradient == 0 {
            return Ok(());
        }
        let ready = self.ready(n, aligned(what.vectors()))?;
        self.device.bind()?;
        match &ready.bias {
            // SAFETY: the caller's word.
            Some(sums) if bias_gradient != 0 => unsafe { sums.run(gradient, 0, parts, bias_gradient, n, stream) }?,
            _ => {}
        }
        let products = deepest.unwrap_or(0).min(weights.len());
        for (product, &from) in ready.backward.iter().zip(weights).take(products) {
            // SAFETY: the caller's word; weights are packed here for this factor.
            unsafe { product.packed.pack(from, stream) }?;
        }
        let mut v = gradient;
        for at in 0..deepest.map_or(0, |deepest| weights.len().min(deepest + 1)) {
            if weight_gradients[at] != 0 {
                // SAFETY: the caller's word.
                unsafe { ready.gradients[at].run(inputs[at], v, parts, weight_gradients[at], n, stream) }?;
            }
            if at >= products {
                break;
            }
            let to = if at + 1 == weights.len() { x_gradient } else { hidden[at % 2] };
            if n > 0 {
                // SAFETY: the caller's word. Only the first one may find weights that are still being packed.
                unsafe { ready.backward[at].run(v, 0, to, n, at == 0, stream) }?;
            }
            v = to;
        }
        Ok(())
    }

    /// [`Learner::forward`] and [`Learner::backward`] on arrays of the host, `v` being the gradient of `Y`: for tests and small work.
    pub fn step(&self, weights: &[&[T]], bias: Option<&[T]>, x: &[T], v: &[T], n: usize) -> Result<Gradients<T>> {
        let patterns = self.pattern.patterns();
        let length = |what, expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => Err(Error::Length { what, expected, found }),
        };
        length("weights (one array per factor)", patterns.len(), weights.len())?;
        for (pattern, weights) in patterns.iter().zip(weights) {
            length("weights (a·b·c·d)", pattern.nnz(), weights.len())?;
        }
        length("X (n · columns of the chain)", n.saturating_mul(self.pattern.cols()), x.len())?;
        length("the gradient of Y (n · rows of the chain)", n.saturating_mul(self.pattern.rows()), v.len())?;
        if let Some(bias) = bias {
            length("bias (rows of the chain)", self.pattern.rows(), bias.len())?;
        }
        let device = &self.device;
        let upload = |values: &[T]| Buffer::from_slice(device, values);
        // What is not written is seen.
        let poisoned = |len: usize| upload(&vec![T::narrow(T::Wide::from_parts(f64::NAN, 0.0)); len]);
        let array = |features: usize| poisoned(n.saturating_mul(features));
        let weights_there = weights.iter().map(|w| upload(w)).collect::<Result<Vec<_>>>()?;
        let bias_there = bias.map(upload).transpose()?;
        let (x_there, v_there) = (upload(x)?, upload(v)?);
        let outputs = patterns.iter().map(|p| array(p.rows())).collect::<Result<Vec<_>>>()?;
        let found = patterns.iter().map(|p| poisoned(p.nnz())).collect::<Result<Vec<_>>>()?;
        let bias_found = poisoned(bias.map_or(0, <[T]>::len))?;
        let widest = patterns[1..].iter().map(|p| p.rows()).max().unwrap_or(0);
        let (hidden, x_found) = ([array(widest)?, array(widest)?], array(self.pattern.cols())?);
        let parts = Buffer::<f32>::alloc(device, self.parts_len(n, true)?)?;
        let addresses = |buffers: &[Buffer<T>]| buffers.iter().map(Buffer::pointer).collect::<Vec<_>>();
        let (w, outputs_at) = (addresses(&weights_there), addresses(&outputs));
        let inputs: Vec<u64> = outputs_at[1..].iter().copied().chain([x_there.pointer()]).collect();
        let stream = Stream::default(device);
        let bias_at = bias_there.as_ref().map_or(0, Buffer::pointer);
        // SAFETY: all arrays were just allocated with the lengths that were compared with the patterns; reading them waits for the GPU.
        unsafe {
            self.forward(&w, bias_at, x_there.pointer(), &outputs_at, n, &stream)?;
            let what = Backward {
                weights: &w,
                inputs: &inputs,
                gradient: v_there.pointer(),
                weight_gradients: &addresses(&found),
                bias_gradient: bias_found.pointer(),
                x_gradient: x_found.pointer(),
                hidden: [hidden[0].pointer(), hidden[1].pointer()],
                parts: parts.pointer(),
            };
            self.backward(&what, n, &stream)?;
        }
        let weights = found.iter().map(Buffer::to_vec).collect::<Result<Vec<_>>>()?;
        Ok(Gradients { y: outputs[0].to_vec()?, weights, bias: bias_found.to_vec()?, x: x_found.to_vec()? })
    }

    fn refuse(&self, why: String) -> Error {
        Error::Unsupported { what: format!("multiplying by {}", self.pattern), why }
    }

    fn check(&self, what: &'static str, addresses: &[u64]) -> Result<()> {
        let (expected, found) = (self.pattern.patterns().len(), addresses.len());
        if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
    }
}

/// Whether all addresses are multiples of 16.
fn aligned(addresses: impl Iterator<Item = u64>) -> bool {
    addresses.fold(0, |all, address| all | address).is_multiple_of(16)
}

fn refused(pattern: Pattern, dtype: DType, why: impl fmt::Display) -> Error {
    Error::Unsupported { what: format!("gradients of weights of {pattern} in {dtype} on a GPU"), why: why.to_string() }
}
