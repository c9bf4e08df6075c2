//! Large arrays on the device without moving them: random contents, poison, sums that verify an output, a few vectors.

use std::marker::PhantomData;

use cudarc::driver::sys;

use super::device::{Device, check};
use super::memory::Buffer;
use super::stream::Stream;
use super::vendor::element;
use super::vendor::small::Small;
use crate::{DType, Error, Layout, Result, Scalar};

const THREADS: usize = 256;

/// The kernels of `inspect.cuh` for one real element type.
pub struct Inspector<T> {
    fill: Small,
    /// Batch-first, batch-last.
    combine: [Small; 2],
    pick: [Small; 2],
    multiprocessors: usize,
    element: PhantomData<T>,
}

/// `ks::FillArgs`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FillArgs {
    to: u64,
    count: i64,
    seed: u64,
}

/// `ks::InspectArgs`.
#[repr(C)]
#[derive(Clone, Copy)]
struct InspectArgs {
    from: u64,
    mix: u64,
    to: u64,
    n: i64,
    features: i64,
    slices: i64,
}

/// The sources of the kernels for an element type, with their bytes of shared memory: fill, combine × 2, pick × 2.
fn sources(dtype: DType) -> [(String, usize); 5] {
    let element = element(dtype);
    let source = |call: &str, args: &str, size: usize| {
        format!(
            "#include \"inspect.cuh\"\nstatic_assert(sizeof(ks::{args}) == {size}, \"Rust and CUDA disagree\");\n\
             KS_KERNEL({THREADS}) kronsparse(KS_PARAMETER ks::{args} args) {{ ks::{call}(args); }}\n"
        )
    };
    let inspect = |kernel: &str, layout: Layout| {
        source(
            &format!("{kernel}<ks::{element}, ks::Layout::{layout:?}, {THREADS}>"),
            "InspectArgs",
            size_of::<InspectArgs>(),
        )
    };
    let [first, last] = Layout::ALL;
    [
        (source(&format!("fill<ks::{element}, {THREADS}>"), "FillArgs", size_of::<FillArgs>()), 0),
        (inspect("combine", first), 0),
        (inspect("combine", last), 2 * THREADS * size_of::<f64>()),
        (inspect("pick", first), 0),
        (inspect("pick", last), 0),
    ]
}

impl<T: Scalar> Inspector<T> {
    /// Loads the kernels. [`Error::Unsupported`] for complex types.
    pub fn new(device: &Device) -> Result<Inspector<T>> {
        if T::DTYPE.is_complex() {
            let why = "the CUDA engine has f16, bf16, f32 and f64".into();
            return Err(Error::Unsupported { what: format!("element type {} on a GPU", T::DTYPE), why });
        }
        let [fill, first, last, pick_first, pick_last] =
            sources(T::DTYPE).map(|(source, shared)| Small::load(device, &source, THREADS, shared));
        Ok(Inspector {
            fill: fill?,
            combine: [first?, last?],
            pick: [pick_first?, pick_last?],
            multiprocessors: device.multiprocessors() as usize,
            element: PhantomData,
        })
    }

    /// Queues filling a buffer with numbers uniform in [-1, 1) that belong to `seed`.
    pub fn fill(&self, buffer: &mut Buffer<T>, seed: u64, stream: &Stream) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        stream.device().bind()?;
        let args = FillArgs { to: buffer.pointer(), count: buffer.len() as i64, seed };
        let blocks = buffer.len().div_ceil(THREADS).min(32 * self.multiprocessors);
        // SAFETY: the kernel writes `count` elements, which the buffer has.
        unsafe { self.fill.run(blocks as u32, &args, stream.raw()) }
    }

    /// Queues overwriting the first `count` elements with NaN, so that what is not written afterwards is found.
    pub fn poison(&self, buffer: &mut Buffer<T>, count: usize, stream: &Stream) -> Result<()> {
        if count > buffer.len() {
            return Err(Error::Length { what: "elements to poison", expected: buffer.len(), found: count });
        }
        if count == 0 {
            return Ok(());
        }
        stream.device().bind()?;
        // All bits set are a NaN in every floating-point type.
        // SAFETY: the buffer has that many bytes.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(buffer.pointer(), 0xff, count * size_of::<T>(), stream.raw())
        })
    }

    /// For every feature of the `mix.len()` vectors in `values`, `Σ u·value` and `Σ value` in f64. Waits for the GPU. NaN where a
    /// value is NaN.
    pub fn combine(
        &self,
        values: &Buffer<T>,
        features: usize,
        layout: Layout,
        mix: &Buffer<f64>,
        stream: &Stream,
    ) -> Result<Vec<[f64; 2]>> {
        let n = mix.len();
        self.check(values, n, features)?;
        if n == 0 || features == 0 {
            return Ok(vec![[0.0; 2]; features]);
        }
        let groups = match layout {
            Layout::BatchFirst => features.div_ceil(THREADS),
            Layout::BatchLast => features,
        };
        let slices = (8 * self.multiprocessors / groups).clamp(1, n.div_ceil(64));
        let sums = Buffer::<[f64; 2]>::alloc(stream.device(), slices * features)?;
        let args = InspectArgs {
            from: values.pointer(),
            mix: mix.pointer(),
            to: sums.pointer(),
            n: n as i64,
            features: features as i64,
            slices: slices as i64,
        };
        stream.device().bind()?;
        // SAFETY: the arrays have the sizes that the arguments say; the kernel writes one pair per slice and feature.
        unsafe { self.combine[layout as usize].run((groups * slices) as u32, &args, stream.raw())? };
        let parts = sums.to_vec()?;
        let mut whole = vec![[0.0; 2]; features];
        for part in parts.chunks_exact(features) {
            whole.iter_mut().zip(part).for_each(|(sum, part)| {
                sum[0] += part[0];
                sum[1] += part[1];
            });
        }
        Ok(whole)
    }

    /// The vectors named by `which`, one after the other, of the `n` in `values`. Waits for the GPU.
    pub fn pick(
        &self,
        values: &Buffer<T>,
        n: usize,
        features: usize,
        layout: Layout,
        which: &[usize],
        stream: &Stream,
    ) -> Result<Vec<T>> {
        self.check(values, n, features)?;
        if let Some(&beyond) = which.iter().find(|&&vector| vector >= n) {
            return Err(Error::Length { what: "number of a vector to pick", expected: n, found: beyond });
        }
        if which.is_empty() || features == 0 {
            return Ok(Vec::new());
        }
        let numbers: Vec<i64> = which.iter().map(|&vector| vector as i64).collect();
        let numbers = Buffer::from_slice(stream.device(), &numbers)?;
        let picked = Buffer::<T>::alloc(stream.device(), which.len() * features)?;
        let args = InspectArgs {
            from: values.pointer(),
            mix: numbers.pointer(),
            to: picked.pointer(),
            n: n as i64,
            features: features as i64,
            slices: which.len() as i64,
        };
        stream.device().bind()?;
        let blocks = (which.len() * features).div_ceil(THREADS) as u32;
        // SAFETY: the arrays have the sizes that the arguments say, and every number is below `n`.
        unsafe { self.pick[layout as usize].run(blocks, &args, stream.raw())? };
        picked.to_vec()
    }

    fn check(&self, values: &Buffer<T>, n: usize, features: usize) -> Result<()> {
        match n.checked_mul(features) {
            Some(expected) if expected <= values.len() => Ok(()),
            expected => Err(Error::Length {
                what: "an array to inspect (vectors · features)",
                expected: expected.unwrap_or(usize::MAX),
                found: values.len(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_compile_without_spilling() {
        for dtype in [DType::F16, DType::Bf16, DType::F32, DType::F64] {
            for (source, _) in sources(dtype) {
                crate::cuda::vendor::small::assert_compiles(&source);
            }
        }
    }
}
