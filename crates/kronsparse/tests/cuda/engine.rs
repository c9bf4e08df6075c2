//! The GPU engine behind the harness's question: inputs go to fenced memory of the device, at any element's offset.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kronsparse::cuda::{Buffer, Device, Operator, Options, Plans, Stream};
use kronsparse::plan::{Algorithm, gpu};
use kronsparse::tune::Tuning;
use kronsparse::{ChainPattern, DType, Error, Join, Layout, Result, Scalar};

use crate::harness::inputs::{is_nan, nan};
use crate::harness::{Case, Engine, Job, Ready};

/// NaN elements before and after an array: 128 bytes at least, so that only the offset decides the alignment.
const FENCE: usize = 64;

/// The library's GPU engine, with arrays that start `offset` elements after an aligned address.
pub(crate) struct Cuda {
    pub(crate) device: Device,
    pub(crate) algorithm: Algorithm,
    pub(crate) offset: usize,
    pub(crate) plans: Plans,
}

/// Plans of the family that was asked for.
static OF_FAMILY: AtomicUsize = AtomicUsize::new(0);

/// How many plans [`preferring`] has made of its family.
pub(crate) fn of_family() -> usize {
    OF_FAMILY.load(Ordering::Relaxed)
}

/// The best plan of a family, and the planner's choice where the family has none.
fn preferring(family: String) -> Plans {
    Plans::Custom(Arc::new(move |problem, machine| match gpu::family(&family, problem, machine) {
        Ok(plan) => {
            OF_FAMILY.fetch_add(1, Ordering::Relaxed);
            Ok(plan)
        }
        Err(_) => gpu::choose(problem, machine),
    }))
}

impl Cuda {
    /// This project's kernels with aligned arrays, and with arrays that start one and three elements later.
    pub(crate) fn all(device: &Device, family: Option<String>) -> Vec<Cuda> {
        let (algorithm, plans) = (Algorithm::Fused, family.map_or(Plans::Best, preferring));
        [0, 1, 3].map(|offset| Cuda { device: device.clone(), algorithm, offset, plans: plans.clone() }).into()
    }
}

/// What the GPU engine refuses. Nothing else.
pub(crate) fn refusals(_case: &Case, dtype: DType, _engine: &str) -> Option<&'static str> {
    dtype.is_complex().then_some("the GPU engine has no complex numbers")
}

impl Engine for Cuda {
    fn name(&self) -> String {
        format!("cuda {} {:?} offset={}", self.algorithm, self.plans, self.offset)
    }

    /// [`DType::tolerance_on_gpu`].
    fn slack<T: Scalar>(&self, chain: &ChainPattern) -> f64 {
        let (terms, factors) = (chain.longest_sum(), chain.patterns().len());
        T::DTYPE.tolerance_on_gpu(terms, factors) / T::DTYPE.tolerance(terms, factors)
    }
    fn prepare<'a, T: Scalar>(&'a self, job: Job<'a, T>) -> Result<Box<dyn Ready<T> + 'a>> {
        let options = Options {
            bias: job.bias.map(<[T]>::to_vec),
            activation: job.activation,
            join: job.join,
            algorithm: self.algorithm,
            plans: self.plans.clone(),
            tuning: Tuning::Off,
            ..Options::default()
        };
        let operator = Operator::new(&self.device, job.chain, options)?;
        let stream = Stream::new(&self.device)?;
        Ok(Box::new(OnDevice { operator, join: job.join, stream, offset: self.offset }))
    }
}

struct OnDevice<T: Scalar> {
    operator: Operator<T>,
    join: Join,
    stream: Stream,
    offset: usize,
}

impl<T: Scalar> Ready<T> for OnDevice<T> {
    fn run(&mut self, x: &[T], residual: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        let device = self.operator.device().clone();
        let start = FENCE + self.offset;
        let fenced = |inside: &[T]| -> Result<Buffer<T>> {
            let mut memory = vec![nan::<T>(); inside.len() + 2 * FENCE + self.offset];
            memory[start..start + inside.len()].copy_from_slice(inside);
            Buffer::from_slice(&device, &memory)
        };
        let (on_device, result) = (fenced(x)?, fenced(&vec![nan::<T>(); y.len()])?);
        let added = fenced(residual)?;
        let (from, to) = (on_device.pointer_at(start), result.pointer_at(start));
        self.operator.prepare(n, layout)?;
        // SAFETY: the addresses are those of `n · cols` and `n · rows` elements, which live until the end of this function;
        // the copy below waits for the GPU.
        unsafe {
            match self.join {
                Join::Residual => {
                    let added = added.pointer_at(start);
                    self.operator.launch_residual(from, added, to, n, layout, &self.stream)?;
                }
                Join::None | Join::Gate => self.operator.launch(from, to, n, layout, &self.stream)?,
            }
        }
        let memory = result.to_vec()?;
        y.copy_from_slice(&memory[start..start + y.len()]);
        let outside = memory[..start].iter().chain(&memory[start + y.len()..]);
        match outside.filter(|value| !is_nan(**value)).count() {
            0 => Ok(()),
            count => Err(Error::Numerical {
                what: "device memory".into(),
                why: format!("{count} elements beside Y were written"),
            }),
        }
    }
}
