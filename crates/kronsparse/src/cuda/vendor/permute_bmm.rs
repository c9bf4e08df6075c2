//! permute-bmm: `X` permuted so that lanes lie apart, one batched dense product, and the result permuted back.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use super::gemm::{Gemm, Shared};
use super::small::Small;
use super::trial::{Trial, seconds};
use crate::cuda::launch::Args;
use crate::cuda::memory::Buffer;
use crate::plan::Layout;
use crate::plan::permutation::{Permutation, Problem, THREADS};
use crate::plan::product::{Order, Product};
use crate::{Factor, Pattern, Result, Scalar};

/// A part of the algorithm, to be timed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The permutation of `X`.
    Before,
    /// The batched product.
    Product,
    /// The permutation into `Y`.
    After,
}

impl Part {
    /// In the order of execution.
    pub const ALL: [Part; 3] = [Part::Before, Part::Product, Part::After];
}

/// A permutation ready to be launched.
pub(super) struct Permute {
    permutation: Permutation,
    kernel: Small,
    vectors: i64,
}

impl Permute {
    pub(super) fn load(shared: &Shared, permutation: Option<Permutation>, vectors: usize) -> Result<Option<Permute>> {
        let load = |permutation: Permutation| {
            let kernel = Small::load(&shared.device, &permutation.source(), THREADS, permutation.shared_bytes())?;
            Ok(Permute { permutation, kernel, vectors: vectors as i64 })
        };
        permutation.map(load).transpose()
    }

    /// Queues it.
    ///
    /// # Safety
    ///
    /// As for [`Gemm::launch`].
    pub(super) unsafe fn launch(&self, from: u64, to: u64, stream: CUstream) -> Result<()> {
        let args = Args { x: from, w: 0, bias: 0, y: to, n: self.vectors, residual: 0 };
        // SAFETY: the caller answers for arrays and stream.
        unsafe { self.kernel.run(self.permutation.grid(), &args, stream) }
    }
}

impl fmt::Display for Permute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.permutation.fmt(f)
    }
}

/// The arrays between the permutations and the product; `None` where the caller's own takes that place.
pub(super) struct Between<T> {
    pub(super) before: Option<Permute>,
    pub(super) after: Option<Permute>,
    pub(super) input: Option<Buffer<T>>,
    pub(super) output: Option<Buffer<T>>,
}

impl<T: Scalar> Between<T> {
    /// For one factor; `order` matters batch-first only.
    pub(super) fn new(
        shared: &Shared,
        pattern: Pattern,
        vectors: usize,
        layout: Layout,
        order: Order,
    ) -> Result<Between<T>> {
        let problem = Problem { pattern, vectors, layout, dtype: T::DTYPE, order, aligned: shared.aligned };
        let before = Permute::load(shared, Permutation::before(&problem)?, vectors)?;
        let after = Permute::load(shared, Permutation::after(&problem)?, vectors)?;
        let buffer = |needed: bool, features: usize| {
            needed.then(|| Buffer::alloc(&shared.device, vectors * features)).transpose()
        };
        let (input, output) = (buffer(before.is_some(), pattern.cols())?, buffer(after.is_some(), pattern.rows())?);
        Ok(Between { before, after, input, output })
    }

    /// Where the product reads, if the caller's array is at `x`.
    pub(super) fn source(&self, x: u64) -> u64 {
        self.input.as_ref().map_or(x, Buffer::pointer)
    }
    /// Where the product writes, if the caller's array is at `y`.
    pub(super) fn target(&self, y: u64) -> u64 {
        self.output.as_ref().map_or(y, Buffer::pointer)
    }
    pub(super) fn bytes(&self) -> usize {
        [&self.input, &self.output].into_iter().flatten().map(|b| b.len() * size_of::<T>()).sum()
    }

    /// Queues the permutation of `X`, if there is one.
    ///
    /// # Safety
    ///
    /// As for [`Gemm::launch`].
    pub(super) unsafe fn launch_before(&self, x: u64, stream: CUstream) -> Result<()> {
        match &self.before {
            // SAFETY: the buffer was made for it; the rest is the caller's word.
            Some(permute) => unsafe { permute.launch(x, self.source(x), stream) },
            None => Ok(()),
        }
    }
    /// Queues the permutation into `Y`, if there is one.
    ///
    /// # Safety
    ///
    /// As for [`Gemm::launch`].
    pub(super) unsafe fn launch_after(&self, y: u64, stream: CUstream) -> Result<()> {
        match &self.after {
            // SAFETY: as above.
            Some(permute) => unsafe { permute.launch(self.target(y), y, stream) },
            None => Ok(()),
        }
    }
}

/// One factor by permute-bmm.
pub(super) struct PermuteBmm<T> {
    between: Between<T>,
    product: Gemm<T>,
}

impl<T: Scalar> PermuteBmm<T> {
    /// With a trial, the faster order of the permuted arrays; without one, vectors permuted within themselves.
    pub(super) fn new(
        shared: &Arc<Shared>,
        factor: &Factor<T>,
        vectors: usize,
        layout: Layout,
        trial: Option<&Trial<'_>>,
    ) -> Result<PermuteBmm<T>> {
        let pattern = factor.pattern();
        let packed = Product::pack(pattern, factor.weights());
        let of = |order| -> Result<PermuteBmm<T>> {
            let between = Between::new(shared, pattern, vectors, layout, order)?;
            let product = Product::lanes_apart(pattern, vectors, layout, order)?;
            // The product runs on the arrays between the permutations.
            let inner = trial.map(|t| Trial { x: between.source(t.x), y: between.target(t.y), stream: t.stream });
            let product = Gemm::new(shared, product, &packed, inner.as_ref())?;
            Ok(PermuteBmm { between, product })
        };
        let first = of(Order::Vectors)?;
        let (Some(trial), Layout::BatchFirst, true) = (trial, layout, pattern.d() > 1 && vectors > 1) else {
            return Ok(first);
        };
        // The other order needs as much memory again for a moment; where there is none, the first is good enough.
        let Ok(second) = of(Order::Blocks) else { return Ok(first) };
        // SAFETY: the trial's arrays are as large as the factor's.
        let time = |one: &PermuteBmm<T>| seconds(trial, || unsafe { one.launch(trial.x, trial.y, trial.stream.raw()) });
        if time(&second)? < time(&first)? { Ok(second) } else { Ok(first) }
    }

    /// Queues one part.
    ///
    /// # Safety
    ///
    /// As for [`Gemm::launch`].
    pub(super) unsafe fn launch_part(&self, part: Part, x: u64, y: u64, stream: CUstream) -> Result<()> {
        // SAFETY: the arrays between were made for this factor and batch; the rest is the caller's word.
        unsafe {
            match part {
                Part::Before => self.between.launch_before(x, stream),
                Part::Product => self.product.launch(self.between.source(x), self.between.target(y), stream),
                Part::After => self.between.launch_after(y, stream),
            }
        }
    }

    /// Queues all parts.
    ///
    /// # Safety
    ///
    /// As for [`Gemm::launch`].
    pub(super) unsafe fn launch(&self, x: u64, y: u64, stream: CUstream) -> Result<()> {
        // SAFETY: the caller's word.
        Part::ALL.into_iter().try_for_each(|part| unsafe { self.launch_part(part, x, y, stream) })
    }

    pub(super) fn bytes(&self) -> usize {
        self.between.bytes() + self.product.bytes()
    }
}

impl<T> fmt::Display for PermuteBmm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = &self.between.before {
            write!(f, "{before}; ")?;
        }
        write!(f, "{}", self.product)?;
        match &self.between.after {
            Some(after) => write!(f, "; {after}"),
            None => Ok(()),
        }
    }
}
