//! What is made ready for one number of vectors: steps with their kernels and packed weights, memory between them; who makes it, once.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use super::device::Device;
use super::joining::JoinPass;
use super::memory::Buffer;
use super::operator::Operator;
use super::options::Plans;
use super::step::{Part, Step};
use crate::plan::{Algorithm, Join};
use crate::{Error, Layout, Result, Scalar};

/// What the plans of a multiplication depend on, beside what the operator fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) n: usize,
    pub(super) layout: Layout,
    pub(super) aligned: bool,
    /// Whether outputs are joined in a pass of their own.
    pub(super) apart: bool,
}

/// One multiplication, ready to be launched.
pub(super) struct Prepared<T> {
    /// In the order in which they are applied: the right-most factor first.
    pub(super) steps: Vec<Step<T>>,
    pub(super) hidden: [Arc<Buffer<T>>; 2],
    /// After the steps.
    pub(super) pass: Option<JoinPass>,
}

impl<T: Scalar> Prepared<T> {
    /// Whether launches must not overlap, since they share memory of the operator.
    pub(super) fn is_exclusive(&self) -> bool {
        self.steps.len() > 1
            || self.pass.as_ref().is_some_and(JoinPass::moves)
            || self.steps.iter().any(|step| step.way.is_exclusive())
    }
}

/// What prepared multiplications share.
pub(super) struct Shared<T> {
    /// Packed weights by factor and order.
    pub(super) weights: HashMap<(usize, String), Arc<Buffer<T>>>,
    /// The largest hidden vectors so far.
    hidden: [Arc<Buffer<T>>; 2],
    /// The largest X and Y in f32 so far, of a chain that is multiplied in it.
    wide: [Option<Arc<Buffer<f32>>>; 2],
    /// What was replaced; graphs may still name its memory.
    replaced: Vec<Arc<Prepared<T>>>,
}

impl<T> Shared<T> {
    /// Nothing; `none` is memory of no length.
    pub(super) fn new(none: Arc<Buffer<T>>) -> Shared<T> {
        Shared { weights: HashMap::new(), hidden: [none.clone(), none], wide: [None, None], replaced: Vec::new() }
    }
    /// The memory for hidden vectors.
    pub(super) fn hidden(&self) -> [Arc<Buffer<T>>; 2] {
        self.hidden.clone()
    }
    /// Memory for X and Y in f32, of so many numbers at least.
    pub(super) fn wide(&mut self, device: &Device, lens: [usize; 2]) -> Result<[Arc<Buffer<f32>>; 2]> {
        let mut found = self.wide.clone();
        for (buffer, len) in found.iter_mut().zip(lens) {
            // A larger one replaces it for later calls; earlier ones keep theirs, which graphs may name.
            if buffer.as_ref().is_none_or(|buffer| buffer.len() < len) {
                *buffer = Some(Arc::new(Buffer::alloc(device, len)?));
            }
        }
        self.wide = found.clone();
        Ok(found.map(|buffer| buffer.expect("both are there")))
    }
    /// Goes back to memory of before; whoever uses the other keeps it.
    pub(super) fn set_hidden(&mut self, hidden: [Arc<Buffer<T>>; 2]) {
        self.hidden = hidden;
    }
}

impl<T: Scalar> Operator<T> {
    /// What is prepared for `key`, made now if it is asked for the first time.
    pub(super) fn prepared(&self, key: Key) -> Result<Arc<Prepared<T>>> {
        if let Some(found) = self.prepared.read().unwrap_or_else(|p| p.into_inner()).get(&key) {
            return Ok(found.clone());
        }
        // One at a time: what two calls need is often the same.
        let mut shared = self.shared();
        if let Some(found) = self.prepared.read().unwrap_or_else(|p| p.into_inner()).get(&key) {
            return Ok(found.clone());
        }
        let made = Arc::new(self.make(key, &mut shared)?);
        self.prepared.write().unwrap_or_else(|p| p.into_inner()).insert(key, made.clone());
        Ok(made)
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Puts `prepared` in the place of what is there, which is kept: graphs may name it.
    pub(super) fn replace(&self, key: Key, prepared: Arc<Prepared<T>>, shared: &mut Shared<T>) {
        let old = self.prepared.write().unwrap_or_else(|p| p.into_inner()).insert(key, prepared);
        shared.replaced.extend(old);
        // Those of kernels that were tried and not taken.
        shared.weights.retain(|_, weights| Arc::strong_count(weights) > 1);
    }

    /// What goes by estimate, or as was asked, for `key`; outputs are joined by the last kernel or in a pass of their own.
    pub(super) fn untuned(&self, key: Key, shared: &mut Shared<T>) -> Result<Prepared<T>> {
        if let Some(wide) = &self.wide {
            let steps = vec![self.wide_step(wide, key, shared)?];
            return Ok(Prepared { steps, hidden: shared.hidden(), pass: None });
        }
        let apart = Key { apart: true, ..key };
        match self.algorithm {
            _ if self.join == Join::None => self.make_as(key, shared),
            Algorithm::Auto | Algorithm::Fused if matches!(self.plans, Plans::Best) => {
                let libraries = if self.picks() { self.libraries().ok() } else { None };
                let plan = self.device.plan(self.chain_problem(key), libraries);
                let pass = plan.is_ok_and(|plan| plan.pass().is_some());
                self.make_as(if pass { apart } else { key }, shared)
            }
            Algorithm::Auto | Algorithm::Fused => match self.make_as(key, shared) {
                Err(Error::Unsupported { .. }) => self.make_as(apart, shared),
                made => made,
            },
            _ => self.make_as(apart, shared),
        }
    }

    /// With the join where `key` says.
    fn make_as(&self, key: Key, shared: &mut Shared<T>) -> Result<Prepared<T>> {
        let steps = match self.algorithm {
            _ if self.picks() => self.by_estimate(key, shared)?,
            Algorithm::Auto | Algorithm::Fused => self.by_kernels(key, shared)?,
            algorithm => {
                // SAFETY: nothing is tried at an address.
                let way = unsafe { self.library(Part::Whole, algorithm, key, None) }?;
                vec![self.step(Part::Whole, way, "as was asked".into())]
            }
        };
        let hidden = self.hidden(key, steps.len(), shared)?;
        let pass = if key.apart { Some(self.join_pass(key)?) } else { None };
        Ok(Prepared { steps, hidden, pass })
    }

    /// The estimate of a factor by the kernel that [`Options::plans`] picks.
    pub(super) fn planned_seconds(&self, at: usize, key: Key) -> Result<f64> {
        let (problem, machine) = (self.problem(Part::Factor(at), key)?, self.device.machine());
        Ok(self.plans.pick(&problem, machine)?.seconds(machine))
    }

    /// A factor by the kernel that [`Options::plans`] picks.
    pub(super) fn planned(&self, at: usize, key: Key, shared: &mut Shared<T>) -> Result<Step<T>> {
        let plan = self.plans.pick(&self.problem(Part::Factor(at), key)?, self.device.machine())?;
        let why = format!("estimated {:.2} µs", plan.seconds(self.device.machine()) * 1e6);
        Ok(self.step(Part::Factor(at), self.kernel(at, plan, key, shared)?, why))
    }

    /// Memory for the vectors that pass between so many steps, and to a pass that joins; step `k` writes number `k mod 2`.
    pub(super) fn hidden(&self, key: Key, steps: usize, shared: &mut Shared<T>) -> Result<[Arc<Buffer<T>>; 2]> {
        let ends = usize::from(!(key.apart && self.join == Join::Gate));
        // Which vectors pass between steps depends on the kernels: any of them may.
        let features = self.chain.factors().iter().skip(ends).map(|factor| factor.pattern().rows()).max().unwrap_or(0);
        let len = key.n.checked_mul(features).ok_or(Error::Length {
            what: "hidden vectors (n · rows of a factor)",
            expected: usize::MAX,
            found: key.n,
        })?;
        for hidden in shared.hidden.iter_mut().take(steps.saturating_sub(ends)) {
            // A larger one replaces it for later calls; earlier ones keep theirs, which graphs may name.
            if hidden.len() < len {
                *hidden = Arc::new(Buffer::alloc(&self.device, len)?);
            }
        }
        Ok(shared.hidden.clone())
    }
}
