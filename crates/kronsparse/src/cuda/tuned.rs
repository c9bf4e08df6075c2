//! What is remembered: what was measured becomes a record, and what a store has of a problem is made ready.

use std::sync::OnceLock;

use super::cache;
use super::clock::Clock;
use super::compile;
use super::device::Device;
use super::energy::Meter;
use super::libraries::{self, Library};
use super::operator::Operator;
use super::prepared::{Key, Prepared, Shared};
use super::step::{Ends, Part, Step, Way};
use crate::plan::gpu::Cut;
use crate::tune::gpu::{Found, remembered};
use crate::tune::{Machine, Record, Step as Name, Store};
use crate::{Error, Layout, Result, Scalar};

impl Device {
    /// What measurements on this GPU hold for: device, driver, compiler, libraries and kernels.
    ///
    /// Errors: there is no compiler ([`Error::Cuda`]).
    pub fn tuning_machine(&self) -> Result<Machine> {
        static DRIVER: OnceLock<String> = OnceLock::new();
        let driver = DRIVER.get_or_init(|| {
            let version = Meter::new(self).and_then(|meter| meter.driver());
            // Without the management library: the newest CUDA version that the driver knows.
            version
                .unwrap_or_else(|_| super::find().map_or("unknown".into(), |gpus| format!("of CUDA {:?}", gpus.cuda)))
        });
        let (major, minor) = compile::version()?;
        let library = match libraries::find(Library::CublasLt) {
            // SAFETY: the library is present; the function takes nothing and has no preconditions.
            Ok(_) => format!("cuBLASLt {}", unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() }),
            Err(_) => "no cuBLAS".into(),
        };
        Ok(Machine {
            device: self.name().into(),
            instructions: format!("{}, {} multiprocessors", self.architecture(), self.multiprocessors()),
            driver: driver.clone(),
            compiler: format!("NVRTC {major}.{minor}, {library}"),
            kernels: cache::kernels(self.architecture()),
            threads: 0,
        })
    }
}

impl<T: Scalar> Way<T> {
    /// As records name it.
    pub(super) fn name(&self, cut: Cut) -> Name {
        match self {
            Way::Kernel { plan, .. } => Name::kernel(cut, plan.as_ref()),
            Way::Library { algorithm, .. } => Name::algorithm(cut, *algorithm),
            Way::Wide(_) => Name { at: cut.at, count: cut.count, name: "wide".into(), arguments: String::new() },
        }
    }
}

impl<T: Scalar> Step<T> {
    /// As records name it.
    pub(super) fn name(&self) -> Name {
        self.way.name(self.cut)
    }
}

impl<T: Scalar> Prepared<T> {
    /// The steps as records name them.
    pub(super) fn names(&self) -> Vec<Name> {
        self.steps.iter().map(Step::name).chain(self.pass.as_ref().map(|_| Name::join())).collect()
    }

    /// Adds to what is said of the last step.
    fn remark(&mut self, text: &str) {
        if let Some(step) = self.steps.last_mut() {
            step.why.push_str("; ");
            step.why.push_str(text);
        }
    }
}

impl<T: Scalar> Operator<T> {
    /// What is done for `n` vectors in `layout`, as records name it: the steps in the order of application, a pass that joins last; none
    /// without vectors. Arrays begin where allocations do.
    ///
    /// Errors: as [`Operator::prepare`].
    pub fn steps(&self, n: usize, layout: Layout) -> Result<Vec<Name>> {
        if n == 0 {
            return Ok(Vec::new());
        }
        Ok(self.prepared(Key { n, layout, aligned: true, apart: false })?.names())
    }

    /// What is prepared for `key`: what a store has, or what goes by estimate.
    pub(super) fn make(&self, key: Key, shared: &mut Shared<T>) -> Result<Prepared<T>> {
        let mut note = None;
        if self.picks() && self.wide.is_none() {
            let found = self.tuning.find()?;
            note = found.note;
            if let Some(store) = found.store.filter(|store| !store.records().is_empty()) {
                match self.stored(&store, key, shared) {
                    Ok(Some(prepared)) => return Ok(prepared),
                    Ok(None) => {}
                    // What is wrong with a kernel must be seen.
                    Err(error @ Error::Compile { .. }) => return Err(error),
                    Err(error) => note = Some(format!("not as {} has it: {error}", store.path().display())),
                }
            }
        }
        let mut prepared = self.untuned(key, shared)?;
        if let Some(note) = note {
            prepared.remark(&note);
        }
        Ok(prepared)
    }

    /// The way that a store has for this problem, ready; `None` where it has none that is known to be no slower.
    fn stored(&self, store: &Store, key: Key, shared: &mut Shared<T>) -> Result<Option<Prepared<T>>> {
        let problem = self.chain_problem(key);
        let here = self.device.tuning_machine()?;
        let planned = || self.device.plan(problem.clone(), self.libraries().ok()).ok();
        let found = remembered(store, &here, &problem, planned);
        let Some((record, way)) = found.map_err(|why| Error::Unsupported { what: "what was measured".into(), why })?
        else {
            return Ok(None);
        };
        let [best, untuned] = [&record.best, &record.untuned].map(|way| way.seconds * 1e6);
        let n = record.problem.batch;
        let why =
            format!("from {}: all measured {best:.2} µs with n = {n}, untuned {untuned:.2} µs", store.path().display());
        let key = Key { apart: way.pass, ..key };
        let mut steps = Vec::with_capacity(way.steps.len());
        for (cut, found) in way.steps {
            let part = if cut.count == 1 { Part::Factor(cut.at) } else { Part::Whole };
            let made = match found {
                Found::Kernel(plan) => self.kernel(cut.at, *plan, key, shared)?,
                Found::Fused(plan) => {
                    let step = self.fused(cut, *plan, key, shared)?;
                    steps.push(Step { why: why.clone(), ..step });
                    continue;
                }
                // SAFETY: nothing is tried at an address.
                Found::Library(algorithm) => unsafe { self.library(part, algorithm, key, None) }?,
            };
            steps.push(self.step(part, made, why.clone()));
        }
        let hidden = self.hidden(key, steps.len(), shared)?;
        let pass = if key.apart { Some(self.join_pass(key)?) } else { None };
        Ok(Some(Prepared { steps, hidden, pass }))
    }

    /// The faster of what was found by measuring and what goes by estimate, each measured as a whole, with the record of everything
    /// that was measured.
    ///
    /// # Safety
    ///
    /// The addresses are those of `n · cols` and `n · rows` elements that nobody else uses.
    pub(super) unsafe fn against_untuned(
        &self,
        tuned: Prepared<T>,
        key: Key,
        ends: Ends,
        clock: &mut Clock,
        shared: &mut Shared<T>,
    ) -> Result<(Prepared<T>, Record)> {
        let machine = self.device.tuning_machine()?;
        let untuned = self.untuned(key, shared)?;
        let both = [&untuned, &tuned];
        let names = both.map(Prepared::names);
        let different = names[0] != names[1];
        // SAFETY: the caller's word.
        let mut last = unsafe { self.compared(&both[..if different { 2 } else { 1 }], key, ends, clock) }?;
        let by_estimate = last.remove(0);
        let by_measuring = last.pop().unwrap_or_else(|| by_estimate.clone());
        let seconds = [&by_estimate, &by_measuring].map(|way| way.seconds * 1e6);
        let measured = std::mem::take(&mut clock.measured);
        let record = Record::new(machine, self.chain_problem(key), clock.caches(), by_estimate, by_measuring, measured);
        let mut taken = if record.best.steps == names[1] { tuned } else { untuned };
        if different {
            taken.remark(&format!(
                "measured as a whole: by estimate {:.2} µs, by measuring {:.2} µs",
                seconds[0], seconds[1]
            ));
        }
        Ok((taken, record))
    }
}
