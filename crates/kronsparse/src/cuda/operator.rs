//! A chain made ready for multiplication on a GPU: checks, plans, packed weights, and the public face of the engine.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, RwLock};

use super::combine::combined;
use super::device::Device;
use super::joining::JoinPass;
use super::memory::Buffer;
use super::options::{Options, Plans};
use super::prepared::{Key, Prepared, Shared};
use super::step::{Ends, Step};
use super::stream::{Event, Stream};
use super::vendor::Session;
use super::wide::widened;
use crate::plan::gpu::Precision;
use crate::plan::{Activation, Algorithm, Join};
use crate::tune::Tuning;
use crate::{Chain, ChainPattern, DType, Error, Layout, Result, Scalar};

/// A chain made ready for multiplication on one GPU; element types `f16`, `bf16`, `f32` and `f64`.
///
/// [`Operator::prepare`] plans, compiles, packs and uploads for one number of vectors and one layout; later calls with the
/// same ones only launch. [`Operator::tune`] does it by measuring. One operator works for one stream at a time: chains of
/// several factors keep their hidden vectors in memory of the operator, and libraries have working memory there.
pub struct Operator<T: Scalar> {
    pub(super) device: Device,
    given: ChainPattern,
    /// What is multiplied by: the chain, small factors of it combined.
    pub(super) chain: Chain<T>,
    pub(super) bias: Option<Bias<T>>,
    pub(super) activation: Activation,
    pub(super) join: Join,
    /// Size of an output vector.
    outputs: usize,
    pub(super) algorithm: Algorithm,
    pub(super) precision: Precision,
    pub(super) plans: Plans,
    pub(super) memory_limit: usize,
    /// The chain in f32, where its hidden vectors are to be kept in that.
    pub(super) wide: Option<Arc<Operator<f32>>>,
    pub(super) tuning: Tuning,
    pub(super) prepared: RwLock<HashMap<Key, Arc<Prepared<T>>>>,
    pub(super) shared: Mutex<Shared<T>>,
    /// The stream that [`Operator::apply`] used last, and the end of its work there.
    last: Mutex<Option<(usize, Event)>>,
    /// Opening a library takes milliseconds, and ways are tried one after the other.
    _session: Session,
}

const _: () = {
    const fn may_be_shared<O: Send + Sync>() {}
    may_be_shared::<Operator<f32>>();
};

/// A bias where the libraries' preparation reads it, and where kernels do.
pub(super) struct Bias<T> {
    pub(super) host: Vec<T>,
    device: Buffer<T>,
}

impl<T: Scalar> Operator<T> {
    /// Checks the options and uploads the bias. Plans come with [`Operator::prepare`].
    ///
    /// Errors: a complex element type, an algorithm that the GPU engine does not have, a bias of another length than the
    /// rows, a gate where the chain has an odd number of rows, no device memory.
    pub fn new(device: &Device, chain: &Chain<T>, options: Options<T>) -> Result<Operator<T>> {
        let outputs = options.join.outputs(chain.rows())?;
        let wide = widened(device, chain, &options)?;
        let Options { bias, activation, join, algorithm, precision, hidden: _, plans, memory_limit, combine, tuning } =
            options;
        if T::DTYPE.is_complex() {
            return Err(Error::Unsupported {
                what: format!("multiplying in {} on a GPU", T::DTYPE),
                why: "the GPU engine multiplies f16, bf16, f32 and f64; complex chains run on the CPU".into(),
            });
        }
        if algorithm != Algorithm::Auto && !Algorithm::on_gpu().contains(&algorithm) {
            let all = Algorithm::on_gpu().map(Algorithm::name).join(", ");
            return Err(Error::Unsupported {
                what: format!("the algorithm {algorithm} on a GPU"),
                why: format!("there are auto, {all}"),
            });
        }
        if let Some(bias) = &bias
            && bias.len() != chain.rows()
        {
            return Err(Error::Length { what: "bias (rows of the chain)", expected: chain.rows(), found: bias.len() });
        }
        let combines = wide.is_none()
            && combine
            && algorithm == Algorithm::Auto
            && matches!(plans, Plans::Best)
            && chain.factors().len() > 1;
        let none = Arc::new(Buffer::alloc(device, 0)?);
        Ok(Operator {
            device: device.clone(),
            given: chain.pattern().clone(),
            chain: if combines { combined(chain, precision, device.machine())? } else { chain.clone() },
            bias: match bias {
                Some(host) => Some(Bias { device: Buffer::from_slice(device, &host)?, host }),
                None => None,
            },
            activation,
            join,
            outputs,
            algorithm,
            precision,
            plans,
            memory_limit,
            wide,
            tuning,
            prepared: RwLock::default(),
            shared: Mutex::new(Shared::new(none)),
            last: Mutex::new(None),
            _session: Session::new(device),
        })
    }

    /// Size of an output vector: the rows of the chain, or half as many for [`Join::Gate`].
    pub fn rows(&self) -> usize {
        self.outputs
    }
    /// Size of an input vector.
    pub fn cols(&self) -> usize {
        self.chain.cols()
    }
    /// The patterns of the chain, as it was given.
    pub fn pattern(&self) -> &ChainPattern {
        &self.given
    }
    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Plans, compiles, packs, uploads and allocates whatever multiplying `n` vectors in `layout` needs, whether or not
    /// `X` and `Y` will be aligned to 16 bytes: so the working memory of libraries is there twice. A second call does nothing.
    /// Not possible while a stream is captured.
    ///
    /// Where [`Options::tuning`] has what was measured of this problem on this GPU, that is what is made ready. Errors: it cannot be
    /// planned, compiled or allocated; the file that `KRONSPARSE_TUNING` names cannot be read.
    pub fn prepare(&self, n: usize, layout: Layout) -> Result<()> {
        if n > 0 {
            let key = Key { n, layout, aligned: true, apart: false };
            self.prepared(key)?;
            match self.prepared(Key { aligned: false, ..key }) {
                // A kernel family that somebody asks for may need aligned arrays: others are refused when they come.
                Err(Error::Unsupported { .. }) if matches!(self.plans, Plans::Family(_)) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// [`Operator::prepare`] for `X` and `Y` that begin at multiples of 16 bytes, as a [`Buffer`] does: half of the kernels and packed
    /// weights. Others are made ready when they come.
    pub fn prepare_aligned(&self, n: usize, layout: Layout) -> Result<()> {
        if n > 0 {
            self.prepared(Key { n, layout, aligned: true, apart: false })?;
        }
        Ok(())
    }

    /// `Y = activation(X Wᵀ + bias)` batch-first, `Y = activation(W X + bias)` batch-last, queued on `stream`, joined as
    /// [`Options::join`] says: `x` holds `n · cols` elements, `y` gets `n · rows`. Waits for nothing, but for work of this operator on
    /// another stream.
    ///
    /// Errors: arrays of other lengths or of another GPU; [`Join::Residual`], which [`Operator::apply_residual`] is for.
    pub fn apply(&self, x: &Buffer<T>, y: &mut Buffer<T>, n: usize, layout: Layout, stream: &Stream) -> Result<()> {
        self.check_residual(false)?;
        self.apply_to(Ends { x: x.pointer(), residual: 0, y: y.pointer() }, [x, y], n, layout, stream)
    }

    /// [`Operator::apply`] for [`Join::Residual`]: `residual` holds `n · rows` elements in `layout`, which are added.
    pub fn apply_residual(
        &self,
        x: &Buffer<T>,
        residual: &Buffer<T>,
        y: &mut Buffer<T>,
        n: usize,
        layout: Layout,
        stream: &Stream,
    ) -> Result<()> {
        self.check_residual(true)?;
        self.check("the residual (n · rows)", self.rows(), n, residual.len())?;
        self.check_device("the residual", residual.device())?;
        let ends = Ends { x: x.pointer(), residual: residual.pointer(), y: y.pointer() };
        self.apply_to(ends, [x, y], n, layout, stream)
    }

    fn apply_to(&self, ends: Ends, [x, y]: [&Buffer<T>; 2], n: usize, layout: Layout, stream: &Stream) -> Result<()> {
        self.check("X (n · columns of the chain)", self.cols(), n, x.len())?;
        self.check("Y (n · rows of the chain)", self.rows(), n, y.len())?;
        for (what, device) in [("X", x.device()), ("Y", y.device()), ("the stream", stream.device())] {
            self.check_device(what, device)?;
        }
        if n == 0 {
            return Ok(());
        }
        let prepared = self.prepared(ends.key(n, layout))?;
        if !prepared.is_exclusive() {
            // SAFETY: lengths and devices are checked; the driver frees memory only after the work that uses it, and
            // copies of `Buffer` wait for the GPU.
            return unsafe { self.queue(&prepared, ends, n, stream) };
        }
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = stream.raw() as usize;
        if let Some((_, event)) = last.as_ref().filter(|(used, _)| *used != name) {
            stream.wait(event)?;
        }
        // SAFETY: as above; and the operator's memory is free, since the stream waits for whoever used it last.
        unsafe { self.queue(&prepared, ends, n, stream) }?;
        let event = match last.take() {
            Some((_, event)) => event,
            None => Event::new(&self.device)?,
        };
        event.record(stream)?;
        *last = Some((name, event));
        Ok(())
    }

    /// [`Operator::apply`] on device addresses that others own. After [`Operator::prepare`] for this `n` and `layout` it
    /// allocates nothing, waits for nothing, and can be captured into a graph.
    ///
    /// # Safety
    ///
    /// `x` is the address of `n · cols` elements and `y` of `n · rows` on this operator's GPU, aligned to one element, not
    /// overlapping, alive until the work is done. `stream` belongs to the same GPU. Work that this operator queued on
    /// another stream is done, or this stream waits for it. Operator, `x` and `y` outlive a graph that this is captured into.
    pub unsafe fn launch(&self, x: u64, y: u64, n: usize, layout: Layout, stream: &Stream) -> Result<()> {
        self.check_residual(false)?;
        // SAFETY: the caller's word.
        unsafe { self.launch_at(Ends { x, residual: 0, y }, n, layout, stream) }
    }

    /// [`Operator::launch`] for [`Join::Residual`], whose residual is at `residual`.
    ///
    /// Errors: `residual` is `y`, which a pass of its own could not add any more.
    ///
    /// # Safety
    ///
    /// As for [`Operator::launch`]; `residual` is the address of `n · rows` elements, which do not overlap `y`.
    pub unsafe fn launch_residual(
        &self,
        x: u64,
        residual: u64,
        y: u64,
        n: usize,
        layout: Layout,
        stream: &Stream,
    ) -> Result<()> {
        self.check_residual(true)?;
        if residual == y && n > 0 {
            let why = "Y may be written before the residual is read: they need memory of their own";
            return Err(Error::Unsupported { what: "adding a residual in place".into(), why: why.into() });
        }
        // SAFETY: the caller's word.
        unsafe { self.launch_at(Ends { x, residual, y }, n, layout, stream) }
    }

    /// # Safety
    ///
    /// As for [`Operator::launch_residual`].
    unsafe fn launch_at(&self, ends: Ends, n: usize, layout: Layout, stream: &Stream) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let prepared = self.prepared(ends.key(n, layout))?;
        // SAFETY: the caller's word; it was prepared for arrays that are aligned like these.
        unsafe { self.queue(&prepared, ends, n, stream) }
    }

    /// Whether a residual is `given` where one is wanted, and only there.
    fn check_residual(&self, given: bool) -> Result<()> {
        let wanted = self.join == Join::Residual;
        if wanted == given {
            return Ok(());
        }
        let why = if wanted { "the operator was made to add one" } else { "the operator was made without one" };
        Err(Error::Unsupported {
            what: format!("multiplying {} a residual", if given { "with" } else { "without" }),
            why: why.into(),
        })
    }

    /// Queues all steps.
    ///
    /// # Safety
    ///
    /// As for [`Operator::launch_residual`], for what was prepared for `n` vectors and arrays aligned like these.
    pub(super) unsafe fn queue(&self, prepared: &Prepared<T>, ends: Ends, n: usize, stream: &Stream) -> Result<()> {
        self.device.bind()?;
        let end = prepared.steps.len() - 1;
        let last = match &prepared.pass {
            Some(pass) if pass.moves() => prepared.hidden[end % 2].pointer(),
            _ => ends.y,
        };
        let mut input = ends.x;
        for (at, step) in prepared.steps.iter().enumerate() {
            let output = if at == end { last } else { prepared.hidden[at % 2].pointer() };
            // The last step is the left-most factor, or all.
            let bias = if at == end { self.bias_at(0) } else { 0 };
            // SAFETY: the context is current; the caller answers for `x`, `y` and the stream; weights, bias and hidden
            // vectors were made for this step and number of vectors, and are kept by the operator.
            unsafe { step.way.run(Ends { x: input, residual: ends.residual, y: output }, bias, n, stream) }?;
            input = output;
        }
        match &prepared.pass {
            // SAFETY: as above.
            Some(pass) => unsafe { pass.run(last, ends.residual, ends.y, n, stream) },
            None => Ok(()),
        }
    }

    /// The address of the bias that factor `at` adds, or 0.
    pub(super) fn bias_at(&self, at: usize) -> u64 {
        self.bias.as_ref().filter(|_| at == 0).map_or(0, |bias| bias.device.pointer())
    }

    /// Copies `x` to the GPU, multiplies, and copies the result back: for tests and small work.
    pub fn multiply(&self, x: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        let (x, mut y) = self.upload(x, n)?;
        self.apply(&x, &mut y, n, layout, &Stream::default(&self.device))?;
        y.to_vec()
    }

    /// [`Operator::multiply`] for [`Join::Residual`].
    pub fn multiply_residual(&self, x: &[T], residual: &[T], n: usize, layout: Layout) -> Result<Vec<T>> {
        let (x, mut y) = self.upload(x, n)?;
        let residual = Buffer::from_slice(&self.device, residual)?;
        self.apply_residual(&x, &residual, &mut y, n, layout, &Stream::default(&self.device))?;
        y.to_vec()
    }

    fn upload(&self, x: &[T], n: usize) -> Result<(Buffer<T>, Buffer<T>)> {
        self.check("X (n · columns of the chain)", self.cols(), n, x.len())?;
        let len = n.saturating_mul(self.rows());
        Ok((Buffer::from_slice(&self.device, x)?, Buffer::alloc(&self.device, len)?))
    }

    /// What is done for `n` vectors in `layout`, in words: one paragraph per factor, in the order of application, with what
    /// was estimated or measured of the ways that were not taken; or one paragraph for all factors together.
    pub fn explain(&self, n: usize, layout: Layout) -> Result<String> {
        if n == 0 {
            return Ok("nothing: there are no vectors".into());
        }
        let prepared = self.prepared(Key { n, layout, aligned: true, apart: false })?;
        let mut text = format!(
            "{} factors{}, {} {layout}, n = {n}, on {} ({})",
            self.given.patterns().len(),
            match self.chain.factors().len() {
                fewer if fewer < self.given.patterns().len() => format!(" combined to {fewer}"),
                _ => String::new(),
            },
            T::DTYPE,
            self.device.name(),
            self.device.architecture()
        );
        for Step { what, way, why, .. } in &prepared.steps {
            let _ = write!(text, "\n{what} by {way}; {why}");
        }
        if let Some(pass) = &prepared.pass {
            let _ = write!(text, "\n{pass}");
        }
        Ok(text)
    }

    /// The steps alone, on one line.
    pub(super) fn summary(&self, n: usize, layout: Layout) -> Result<String> {
        if n == 0 {
            return Ok("nothing".into());
        }
        let prepared = self.prepared(Key { n, layout, aligned: true, apart: false })?;
        let steps = prepared.steps.iter().map(|Step { what, way, .. }| format!("{what} by {way}"));
        let steps = steps.chain(prepared.pass.iter().map(JoinPass::to_string));
        Ok(steps.collect::<Vec<_>>().join(" | "))
    }

    pub(super) fn check_device(&self, what: &str, device: &Device) -> Result<()> {
        if *device == self.device {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: "an operator multiplies on its own GPU",
            left: format!("{what} on {device:?}"),
            right: format!("the operator on {:?}", self.device),
        })
    }

    fn check(&self, what: &'static str, features: usize, n: usize, found: usize) -> Result<()> {
        match n.checked_mul(features) {
            Some(expected) if expected == found => Ok(()),
            expected => Err(Error::Length { what, expected: expected.unwrap_or(usize::MAX), found }),
        }
    }
}

impl<T: Scalar> fmt::Debug for Operator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype: DType = T::DTYPE;
        write!(f, "cuda::Operator({:?}, {dtype}, {:?})", self.pattern().patterns(), self.device)
    }
}
