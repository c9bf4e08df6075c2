//! The algorithms that everybody else uses, for comparison: dense, permute + batched product, loops in index order, CSR, BSR.
//!
//! Each multiplies by one matrix at a time, hidden activations in memory, bias and activation in a pass of their own:
//! that is what these algorithms cost their users. Narrow types are widened to `f32` first and rounded once at the end.

mod dense;
mod einsum;
mod gemm;
mod permute_bmm;
mod sparse;

pub(in crate::cpu) use self::gemm::gemm;
pub(crate) use self::gemm::square_product;
pub(in crate::cpu) use self::gemm::{GemmOperand, Strided};
use super::element::{Compute, Element};
use crate::plan::{Activation, Algorithm, Layout};
use crate::{Chain, Error, Result, Scalar};

/// One matrix, ready for one of the algorithms.
trait Kernel<C>: Send + Sync + std::fmt::Debug {
    fn rows(&self) -> usize;
    fn cols(&self) -> usize;
    /// Numbers of scratch for a batch of `n`.
    fn scratch(&self, n: usize) -> usize {
        let _ = n;
        0
    }
    /// Writes every element of `y`.
    fn multiply(&self, x: &[C], y: &mut [C], scratch: &mut [C], n: usize, layout: Layout, threads: usize);
}

/// A chain prepared for one of the comparison algorithms.
#[derive(Debug)]
pub(super) struct ClassicChain<C> {
    /// In the order of application.
    kernels: Vec<Box<dyn Kernel<C>>>,
    bias: Option<Vec<C>>,
    activation: Activation,
}

/// Dense or block-dense copies beyond this many bytes are refused: the algorithm would only swap.
const LARGEST_COPY: usize = 4 << 30;

impl<C: Compute> ClassicChain<C> {
    pub(super) fn new<T: Scalar + Element<Compute = C>>(
        chain: &Chain<T>,
        bias: Option<Vec<C>>,
        activation: Activation,
        algorithm: Algorithm,
    ) -> Result<ClassicChain<C>> {
        let too_large = |elements: usize, copy: &str| match elements.checked_mul(size_of::<C>()) {
            Some(bytes) if bytes <= LARGEST_COPY => Ok(()),
            _ => Err(Error::Unsupported {
                what: format!("algorithm {algorithm} for {}", chain.pattern()),
                why: format!("its {copy} of {elements} elements exceeds 4 GiB"),
            }),
        };
        let mut kernels: Vec<Box<dyn Kernel<C>>> = Vec::new();
        if algorithm == Algorithm::Dense {
            too_large(chain.rows().saturating_mul(chain.cols()), "dense matrix")?;
            kernels.push(Box::new(dense::Dense::new(chain)));
        } else {
            for factor in chain.factors().iter().rev() {
                let p = factor.pattern();
                kernels.push(match algorithm {
                    Algorithm::PermuteBmm => Box::new(permute_bmm::PermuteBmm::new(factor)),
                    Algorithm::Einsum => Box::new(einsum::Einsum::new(factor)),
                    Algorithm::Csr => Box::new(sparse::Csr::new(factor)),
                    Algorithm::Bsr => {
                        too_large(p.nnz().saturating_mul(p.d()), "array of d × d blocks")?;
                        Box::new(sparse::Bsr::new(factor))
                    }
                    other => unreachable!("{other} is not a comparison algorithm"),
                });
            }
        }
        Ok(ClassicChain { kernels, bias, activation })
    }

    /// Numbers of scratch for a batch of `n`; `converts` says that `X` and `Y` have to be widened.
    pub(super) fn scratch(&self, n: usize, converts: bool) -> usize {
        let [input, hidden, output, inner] = self.parts(n, converts);
        input + 2 * hidden + output + inner
    }

    fn parts(&self, n: usize, converts: bool) -> [usize; 4] {
        let hidden = self.kernels.iter().skip(1).map(|k| k.cols()).max().unwrap_or(0);
        let last = &self.kernels[self.kernels.len() - 1];
        let ends = if converts { [self.kernels[0].cols(), last.rows()] } else { [0, 0] };
        let inner = self.kernels.iter().map(|k| k.scratch(n)).max().unwrap_or(0);
        [n * ends[0], n * hidden, n * ends[1], inner]
    }

    pub(super) fn multiply<T: Scalar + Element<Compute = C>>(
        &self,
        x: &[T],
        y: &mut [T],
        n: usize,
        layout: Layout,
        threads: usize,
        scratch: &mut [C],
    ) {
        if n == 0 {
            return;
        }
        let converts = std::any::TypeId::of::<T>() != std::any::TypeId::of::<C>();
        let [input, hidden, output, inner] = self.parts(n, converts);
        let (input, rest) = scratch.split_at_mut(input);
        let (ping, rest) = rest.split_at_mut(hidden);
        let (pong, rest) = rest.split_at_mut(hidden);
        let (output, rest) = rest.split_at_mut(output);
        let inner = &mut rest[..inner];
        let x: &[C] = if converts {
            input.iter_mut().zip(x).for_each(|(wide, x)| *wide = x.widen_compute());
            input
        } else {
            bytemuck::cast_slice(x)
        };
        let last = self.kernels.len() - 1;
        let (mut from, mut to) = (ping, pong);
        for (at, kernel) in self.kernels[..last].iter().enumerate() {
            let source = if at == 0 { x } else { &from[..n * kernel.cols()] };
            kernel.multiply(source, &mut to[..n * kernel.rows()], inner, n, layout, threads);
            std::mem::swap(&mut from, &mut to);
        }
        let kernel = &self.kernels[last];
        let source = if last == 0 { x } else { &from[..n * kernel.cols()] };
        let target: &mut [C] = if converts { output } else { bytemuck::cast_slice_mut(&mut *y) };
        kernel.multiply(source, target, inner, n, layout, threads);
        self.finish(target, n, layout);
        if converts {
            y.iter_mut().zip(output).for_each(|(y, wide)| *y = T::from_compute(*wide));
        }
    }

    fn finish(&self, y: &mut [C], n: usize, layout: Layout) {
        if let Some(bias) = &self.bias {
            match layout {
                Layout::BatchFirst => y
                    .chunks_exact_mut(bias.len())
                    .for_each(|row| row.iter_mut().zip(bias).for_each(|(y, &bias)| *y += bias)),
                Layout::BatchLast => {
                    y.chunks_exact_mut(n).zip(bias).for_each(|(row, &bias)| row.iter_mut().for_each(|y| *y += bias))
                }
            }
        }
        if self.activation != Activation::None {
            y.iter_mut().for_each(|y| *y = y.activate(self.activation));
        }
    }
}

/// Splits `y` into up to `threads` runs of whole chunks of `chunk` elements, and calls `f(first_chunk, run)` for each, at
/// the same time.
fn in_parallel<C: Send>(threads: usize, y: &mut [C], chunk: usize, f: impl Fn(usize, &mut [C]) + Sync) {
    let chunks = y.len() / chunk.max(1);
    let per_thread = chunks.div_ceil(threads.max(1)).max(1);
    if threads <= 1 || chunks <= 1 {
        return f(0, y);
    }
    rayon::scope(|scope| {
        for (at, run) in y.chunks_mut(per_thread * chunk).enumerate() {
            let f = &f;
            scope.spawn(move |_| f(at * per_thread, run));
        }
    });
}
