//! The algorithms that are calls of NVIDIA's libraries: dense, strided, permute-bmm, CSR, BSR; for comparison, and for `auto`
//! where a library is already at the limit.
//!
//! A [`Vendor`] is prepared for one number of vectors and one layout: weights packed and uploaded, handles opened, working
//! memory allocated, ways tried. [`Vendor::launch`] allocates nothing and waits for nothing, so a graph can capture it.

mod finish;
mod gemm;
mod handles;
mod lt;
mod numbers;
mod permute_bmm;
pub(in crate::cuda) mod small;
mod sparse;
mod trial;

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;

pub use self::handles::Session;
pub use self::permute_bmm::Part;
pub(super) use self::small::Small;
#[cfg(test)]
pub(super) use self::small::assert_compiles;
pub(super) use self::trial::Trial;

use self::finish::Finish;
use self::gemm::{Gemm, Shared};
use self::numbers::Numbers;
use self::permute_bmm::PermuteBmm;
use self::sparse::Sparse;
use super::device::Device;
use super::memory::Buffer;
use super::stream::Stream;
use crate::plan::gpu::Precision;
use crate::plan::product::Product;
use crate::plan::{Activation, Algorithm, Layout};
use crate::{Chain, ChainPattern, DType, Error, Result, Scalar};

/// How a [`Vendor`] multiplies.
#[derive(Clone, Debug)]
pub struct Options<'a, T> {
    /// One of the library algorithms of [`Algorithm::on_gpu`].
    pub algorithm: Algorithm,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Number of vectors.
    pub batch: usize,
    /// Order of `X` and `Y`.
    pub layout: Layout,
    /// Added to every output vector: one number per row of the chain.
    pub bias: Option<&'a [T]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Whether `X` and `Y` will begin at multiples of 16 bytes, as buffers do; otherwise at those of an element.
    pub aligned: bool,
    /// Bytes of weights, as the algorithm stores them, above which it is refused.
    pub memory_limit: usize,
}

impl<T> Options<'_, T> {
    /// With everything else as usual: full precision, no bias, no activation, aligned arrays, at most 4 GiB of weights.
    pub fn new(algorithm: Algorithm, batch: usize, layout: Layout) -> Self {
        Options {
            algorithm,
            precision: Precision::Full,
            batch,
            layout,
            bias: None,
            activation: Activation::None,
            aligned: true,
            memory_limit: 4 << 30,
        }
    }
}

/// A chain made ready for one of the libraries' algorithms, for one number of vectors and one layout.
pub struct Vendor<T> {
    device: Device,
    pattern: ChainPattern,
    algorithm: Algorithm,
    batch: usize,
    aligned: bool,
    /// In the order of application.
    steps: Vec<Step<T>>,
    /// Hidden activations; a step reads one and writes the other.
    hidden: Vec<Buffer<T>>,
    finish: Option<Finish<T>>,
    workspace_bytes: usize,
}

enum Step<T> {
    Product(Gemm<T>),
    Permuted(Box<PermuteBmm<T>>),
    Sparse(Sparse<T>),
}

impl<T: Scalar> Vendor<T> {
    /// Prepares everything. With `trial`, arrays of at least `batch · cols` and `batch · rows` elements on a stream, the ways
    /// that the libraries offer are timed and the fastest is taken; the output is overwritten, the input only read.
    ///
    /// Errors: [`Error::Unsupported`] where the algorithm, the layout, the element type or the size is not possible;
    /// [`Error::Cuda`] where a library is missing or memory is short; [`Error::Length`] for a bias of the wrong length.
    pub fn prepare(
        device: &Device,
        chain: &Chain<T>,
        options: &Options<'_, T>,
        trial: Option<(&Buffer<T>, &mut Buffer<T>, &Stream)>,
    ) -> Result<Vendor<T>> {
        if let Some((x, y, _)) = &trial {
            check_len("the trial's X (n · columns of the chain)", options.batch, chain.cols(), x.len())?;
            check_len("the trial's Y (n · rows of the chain)", options.batch, chain.rows(), y.len())?;
        }
        let trial = trial.map(|(x, y, stream)| Trial { x: x.pointer(), y: y.pointer(), stream });
        // SAFETY: the arrays are large enough and borrowed until this returns; freeing them waits for the GPU.
        unsafe { Vendor::prepare_at(device, chain, options, trial) }
    }

    /// [`Vendor::prepare`] with device addresses to try on.
    ///
    /// # Safety
    ///
    /// Those of `batch · cols` and `batch · rows` elements on `device`, as the stream is, which nobody else uses meanwhile.
    pub(super) unsafe fn prepare_at(
        device: &Device,
        chain: &Chain<T>,
        options: &Options<'_, T>,
        trial: Option<Trial<'_>>,
    ) -> Result<Vendor<T>> {
        let Options { algorithm, batch, layout, bias, activation, aligned, memory_limit, precision } = *options;
        let (rows, cols) = (chain.rows(), chain.cols());
        if !Algorithm::on_gpu().contains(&algorithm) || algorithm == Algorithm::Fused {
            return Err(Error::Unsupported {
                what: format!("algorithm {algorithm} of NVIDIA's libraries"),
                why: "they have dense, permute-bmm, strided, csr and bsr".into(),
            });
        }
        let numbers = Numbers::new(T::DTYPE, precision)?;
        let needed = weight_bytes(chain.pattern(), T::DTYPE, algorithm);
        if needed > memory_limit as f64 {
            return Err(Error::Unsupported {
                what: format!("algorithm {algorithm} for {}", chain.pattern()),
                why: format!("its weights take {needed:.0} bytes, the limit is {memory_limit}"),
            });
        }
        if let Some(bias) = bias
            && bias.len() != rows
        {
            return Err(Error::Length { what: "bias (rows of the chain)", expected: rows, found: bias.len() });
        }
        device.bind()?;
        let trial = trial.filter(|_| batch > 0);
        let shared = Arc::new(Shared::new(device, numbers, aligned)?);
        let mut this = Vendor {
            device: device.clone(),
            pattern: chain.pattern().clone(),
            algorithm,
            batch,
            aligned,
            steps: Vec::new(),
            hidden: Vec::new(),
            finish: None,
            workspace_bytes: shared.workspace.len(),
        };
        if batch == 0 {
            return Ok(this);
        }
        if algorithm == Algorithm::Dense {
            let matrix = chain.to_dense();
            let product = Product::dense(rows, cols, batch, layout)?;
            this.steps.push(Step::Product(Gemm::new(&shared, product, matrix.as_slice(), trial.as_ref())?));
        } else {
            let factors: Vec<_> = chain.factors().iter().rev().collect();
            let widest = factors[1..].iter().map(|factor| factor.pattern().cols()).max().unwrap_or(0);
            let buffers = (factors.len() - 1).min(2);
            this.hidden = (0..buffers).map(|_| Buffer::alloc(device, batch * widest)).collect::<Result<_>>()?;
            for (at, factor) in factors.iter().enumerate() {
                let trial = trial.as_ref().map(|trial| {
                    let (x, y) = this.ends(at, factors.len(), trial.x, trial.y);
                    Trial { x, y, stream: trial.stream }
                });
                let trial = trial.as_ref();
                this.steps.push(match algorithm {
                    Algorithm::PermuteBmm => {
                        Step::Permuted(Box::new(PermuteBmm::new(&shared, factor, batch, layout, trial)?))
                    }
                    Algorithm::Csr => Step::Sparse(Sparse::csr(&shared, factor, batch, layout, trial)?),
                    Algorithm::Bsr => Step::Sparse(Sparse::bsr(&shared, factor, batch, layout, trial)?),
                    _ => {
                        let product = Product::strided(factor.pattern(), batch, layout)?;
                        let packed = Product::pack(factor.pattern(), factor.weights());
                        Step::Product(Gemm::new(&shared, product, &packed, trial)?)
                    }
                });
            }
        }
        if bias.is_some() || activation != Activation::None {
            this.finish = Some(Finish::new(device, batch, rows, layout, bias, activation)?);
        }
        Ok(this)
    }

    /// Where step `at` of `steps` reads and writes.
    fn ends(&self, at: usize, steps: usize, x: u64, y: u64) -> (u64, u64) {
        let from = if at == 0 { x } else { self.hidden[(at - 1) % 2].pointer() };
        let to = if at + 1 == steps { y } else { self.hidden[at % 2].pointer() };
        (from, to)
    }

    /// Queues `Y = activation(X Wᵀ + bias)` or its batch-last counterpart. Both buffers may be larger than needed; what lies
    /// beyond stays as it is. No allocation, no synchronisation.
    ///
    /// An operator has one set of working memory: do not let two of its launches overlap on different streams.
    pub fn launch(&self, x: &Buffer<T>, y: &mut Buffer<T>, stream: &Stream) -> Result<()> {
        check_len("X (n · columns of the chain)", self.batch, self.pattern.cols(), x.len())?;
        check_len("Y (n · rows of the chain)", self.batch, self.pattern.rows(), y.len())?;
        // SAFETY: the buffers are as large as the operator needs; freeing them waits for the GPU.
        unsafe { self.launch_raw(x.pointer(), y.pointer(), stream.raw()) }
    }

    /// [`Vendor::launch`] on device addresses.
    ///
    /// # Safety
    ///
    /// `x` and `y` are addresses of `n · cols` and `n · rows` elements on this operator's device, aligned as was promised, and
    /// alive until the work is done; `stream` belongs to the device. No other launch of this operator overlaps.
    pub unsafe fn launch_raw(&self, x: u64, y: u64, stream: CUstream) -> Result<()> {
        let promised = if self.aligned { 16 } else { size_of::<T>() as u64 };
        if !x.is_multiple_of(promised) || !y.is_multiple_of(promised) {
            return Err(Error::Unsupported {
                what: format!("X at {x:#x} and Y at {y:#x}"),
                why: format!("the operator was prepared for multiples of {promised} bytes"),
            });
        }
        self.device.bind()?;
        for (at, step) in self.steps.iter().enumerate() {
            let (from, to) = self.ends(at, self.steps.len(), x, y);
            // SAFETY: hidden arrays were allocated for the widest factor; the rest is the caller's word.
            unsafe {
                match step {
                    Step::Product(product) => product.launch(from, to, stream)?,
                    Step::Permuted(permuted) => permuted.launch(from, to, stream)?,
                    Step::Sparse(sparse) => sparse.launch(from, to, stream)?,
                }
            }
        }
        match &self.finish {
            // SAFETY: the caller's word.
            Some(finish) => unsafe { finish.launch(self.batch, y, stream) },
            None => Ok(()),
        }
    }

    /// Queues one part of every factor of [`Algorithm::PermuteBmm`], to time the parts by themselves: afterwards `Y` is right
    /// for a single factor after all three parts in order. [`Error::Unsupported`] for other algorithms.
    pub fn launch_part(&self, part: Part, x: &Buffer<T>, y: &mut Buffer<T>, stream: &Stream) -> Result<()> {
        check_len("X (n · columns of the chain)", self.batch, self.pattern.cols(), x.len())?;
        check_len("Y (n · rows of the chain)", self.batch, self.pattern.rows(), y.len())?;
        self.device.bind()?;
        for (at, step) in self.steps.iter().enumerate() {
            let Step::Permuted(permuted) = step else {
                return Err(Error::Unsupported {
                    what: format!("a part of algorithm {}", self.algorithm),
                    why: "only permute-bmm consists of permutations and a product".into(),
                });
            };
            let (from, to) = self.ends(at, self.steps.len(), x.pointer(), y.pointer());
            // SAFETY: the arrays are as large as the operator needs.
            unsafe { permuted.launch_part(part, from, to, stream.raw())? };
        }
        Ok(())
    }

    /// Bytes of device memory that it holds: weights, arrays between the steps, workspace.
    pub fn device_bytes(&self) -> usize {
        let step = |step: &Step<T>| match step {
            Step::Product(product) => product.bytes(),
            Step::Permuted(permuted) => permuted.bytes(),
            Step::Sparse(sparse) => sparse.bytes(),
        };
        let hidden: usize = self.hidden.iter().map(|buffer| buffer.len() * size_of::<T>()).sum();
        self.steps.iter().map(step).sum::<usize>() + hidden + self.workspace_bytes
    }
}

impl<T> fmt::Display for Vendor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                f.write_str(" | ")?;
            }
            match step {
                Step::Product(product) => product.fmt(f)?,
                Step::Permuted(permuted) => permuted.fmt(f)?,
                Step::Sparse(sparse) => sparse.fmt(f)?,
            }
        }
        if self.finish.is_some() { f.write_str(" | bias and activation") } else { Ok(()) }
    }
}

/// A square product by the fastest way of the libraries, for measuring the GPU's peak: `Y = X Wᵀ` on arrays of `size²` elements.
pub(super) struct Peak<T> {
    gemm: Gemm<T>,
    device: Device,
    size: usize,
}

impl<T: Scalar> Peak<T> {
    /// Tries the ways on `x` and `y`.
    pub(super) fn new(
        weights: Buffer<T>,
        precision: Precision,
        size: usize,
        (x, y, stream): (&Buffer<T>, &mut Buffer<T>, &Stream),
    ) -> Result<Peak<T>> {
        let device = stream.device();
        for (what, buffer) in [("weights of a square product", &weights), ("X of a square product", x)] {
            check_len(what, size, size, buffer.len())?;
        }
        check_len("Y of a square product", size, size, y.len())?;
        device.bind()?;
        let shared = Arc::new(Shared::new(device, Numbers::new(T::DTYPE, precision)?, true)?);
        let trial = Trial { x: x.pointer(), y: y.pointer(), stream };
        let product = Product::dense(size, size, size, Layout::BatchFirst)?;
        let gemm = Gemm::with(&shared, product, weights, Some(&trial))?;
        Ok(Peak { gemm, device: device.clone(), size })
    }

    /// Queues the product.
    pub(super) fn launch(&self, x: &Buffer<T>, y: &mut Buffer<T>, stream: &Stream) -> Result<()> {
        check_len("X of a square product", self.size, self.size, x.len())?;
        check_len("Y of a square product", self.size, self.size, y.len())?;
        self.device.bind()?;
        // SAFETY: both arrays are as large as the product's.
        unsafe { self.gemm.launch(x.pointer(), y.pointer(), stream.raw()) }
    }
}

/// The name of an element type in `epilogue.cuh`; complex types have none and are refused before.
pub(in crate::cuda) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "F16",
        DType::Bf16 => "Bf16",
        DType::F32 => "F32",
        DType::F64 | DType::C64 | DType::C128 => "F64",
    }
}

/// Bytes of the weights as an algorithm stores them on the device.
pub fn weight_bytes(chain: &ChainPattern, dtype: DType, algorithm: Algorithm) -> f64 {
    let size = dtype.size() as f64;
    match algorithm {
        Algorithm::Dense => chain.rows() as f64 * chain.cols() as f64 * size,
        Algorithm::Csr => chain.parameters() as f64 * (size + 4.0),
        _ => chain.parameters() as f64 * size,
    }
}

fn check_len(what: &'static str, batch: usize, features: usize, found: usize) -> Result<()> {
    match batch.checked_mul(features) {
        Some(expected) if expected <= found => Ok(()),
        expected => Err(Error::Length { what, expected: expected.unwrap_or(usize::MAX), found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::permutation::{Permutation, Problem};
    use crate::plan::product::Order;

    #[test]
    fn the_kernels_beside_the_libraries_compile_without_spilling() {
        for layout in Layout::ALL {
            for (activation, bias) in [(Activation::Relu, true), (Activation::Gelu, false), (Activation::Silu, true)] {
                small::assert_compiles(&Finish::<half::f16>::source(384, layout, bias, activation));
                small::assert_compiles(&Finish::<f64>::source(7, layout, bias, activation));
            }
        }
        for (pattern, dtype) in [("1,64,64,64", DType::F16), ("3,5,7,11", DType::F32), ("1,768,192,2", DType::F64)] {
            for layout in Layout::ALL {
                for (order, aligned) in [(Order::Vectors, true), (Order::Blocks, false)] {
                    let pattern = pattern.parse().unwrap();
                    let problem = Problem { pattern, vectors: 1000, layout, dtype, order, aligned };
                    for permutation in [Permutation::before(&problem), Permutation::after(&problem)] {
                        small::assert_compiles(&permutation.unwrap().expect("d > 1").source());
                    }
                }
            }
        }
        small::assert_compiles(&gemm::table_source());
    }

    #[test]
    fn memory_of_the_weights_is_counted_as_stored() {
        let chain = ChainPattern::monarch(64, 64, 8, 8).unwrap();
        let of = |algorithm| weight_bytes(&chain, DType::F16, algorithm);
        assert_eq!([of(Algorithm::Dense), of(Algorithm::Csr), of(Algorithm::Strided)], [8192.0, 6144.0, 2048.0]);
    }
}
