//! How `auto` picks among kernels and libraries: by estimates, or by measuring the ways whose estimates are close (measuring.rs).

use std::sync::Arc;

use super::clock::Clock;
use super::libraries::{self, Library};
use super::memory::Buffer;
use super::operator::Operator;
use super::prepared::{Key, Shared};
use super::step::{Ends, Part, Step, Way};
use super::timing::Caches;
use crate::plan::gpu::{Choice, Cut};
use crate::plan::{Algorithm, Join, Layout};
use crate::tune::Record;
use crate::{Error, Result, Scalar};

impl<T: Scalar> Operator<T> {
    /// [`Operator::prepare`] that measures: where this operator picks its ways itself ([`Algorithm::Auto`] with
    /// [`Plans::Best`](super::Plans::Best)), the kernels and library algorithms with the best estimates are run on `x` and `y`
    /// for each factor, and the fastest is kept for later multiplications of `n` vectors in `layout` on arrays aligned to
    /// 16 bytes. `y` is overwritten; both may be longer than needed. Waits for the GPU; takes the time of compiling and
    /// running up to eight kernels and three algorithms of libraries per factor. Numbers in `x` should be like those that will come: a GPU multiplies zeros faster.
    ///
    /// At last the fastest is compared with what [`Operator::prepare`] does by estimate, which is kept unless it is slower. The record
    /// of all that is for [`Store::append`](crate::tune::Store::append), so that later processes need not measure; there is none where
    /// nothing was to be picked, and that of the chain in `f32` where it is multiplied so.
    ///
    /// Errors: as [`Operator::prepare`]; [`Error::Length`] for arrays that are too short.
    pub fn tune(
        &self,
        n: usize,
        layout: Layout,
        caches: Caches,
        x: &Buffer<T>,
        y: &mut Buffer<T>,
    ) -> Result<Option<Record>> {
        self.check_arrays(x, y, n)?;
        if n == 0 || !self.picks() {
            return self.prepare(n, layout).map(|()| None);
        }
        if let Some(wide) = &self.wide {
            let record = self.tune_wide(wide, n, layout, caches, x)?;
            return self.prepare(n, layout).map(|()| record);
        }
        // Memory of its own, as it will have: what is added does not matter.
        let residual = match self.join {
            Join::Residual => Some(Buffer::<T>::alloc(&self.device, n.saturating_mul(self.rows()))?),
            Join::None | Join::Gate => None,
        };
        let added = residual.as_ref().map_or(0, Buffer::pointer);
        let ends = Ends { x: x.pointer(), residual: added, y: y.pointer() };
        let key = ends.key(n, layout);
        let mut shared = self.shared();
        // Whatever uses the arrays or this operator's memory is done before anything is measured.
        self.device.synchronize()?;
        let mut clock = Clock::new(self, caches)?;
        // SAFETY: the lengths are checked; the arrays are borrowed until all work is done.
        let tuned = unsafe { self.by_measuring_joins(key, ends, &mut clock, &mut shared) };
        // SAFETY: as above.
        let tuned = tuned.and_then(|tuned| unsafe { self.against_untuned(tuned, key, ends, &mut clock, &mut shared) });
        self.device.synchronize()?;
        let (prepared, record) = tuned?;
        self.replace(key, Arc::new(prepared), &mut shared);
        Ok(Some(record))
    }

    /// Whether kernels and libraries are compared at all.
    pub(super) fn picks(&self) -> bool {
        self.algorithm == Algorithm::Auto && matches!(self.plans, super::Plans::Best)
    }

    /// Bytes of weights that a library's algorithm may have, or why there are no libraries.
    pub(super) fn libraries(&self) -> std::result::Result<usize, &'static str> {
        libraries::find(Library::Cublas).map(|_| self.memory_limit)
    }

    /// The steps with the least estimates. A library that fails is passed over.
    pub(super) fn by_estimate(&self, key: Key, shared: &mut Shared<T>) -> Result<Vec<Step<T>>> {
        let found = self.libraries();
        let plan = self.device.plan(self.chain_problem(key), found.ok()).map_err(|rejected| {
            let what = format!("multiplying by {} in {} on this GPU", self.pattern(), T::DTYPE);
            Error::Unsupported { what, why: rejected.to_string() }
        })?;
        let mut left_out: Vec<String> = found.err().map(|why| format!("libraries: {why}")).into_iter().collect();
        if let (Ok(dense), true) = (plan.dense(), plan.is_dense()) {
            // SAFETY: nothing is tried at an address.
            match unsafe { self.way(Part::Whole, dense, key, None, shared) } {
                Ok(way) => {
                    let why = format!(
                        "estimated {:.2} µs; by its factors {:.2} µs{}",
                        dense.seconds * 1e6,
                        plan.seconds_of_cuts() * 1e6,
                        without(&left_out)
                    );
                    return Ok(vec![self.step(Part::Whole, way, why)]);
                }
                Err(error) => left_out.push(format!("dense of the chain: {error}")),
            }
        }
        let mut steps = Vec::new();
        for &Cut { at, count } in plan.cuts() {
            if count > 1 {
                let mut step = self.together(Cut { at, count }, key, shared)?;
                let apart: Option<f64> = (at..at + count).map(|at| plan.ways(at).first().map(|way| way.seconds)).sum();
                if let Some(apart) = apart {
                    step.why.push_str(&format!("; factor by factor {:.2} µs", apart * 1e6));
                }
                steps.push(step);
                continue;
            }
            let ways = plan.ways(at);
            let mut left_out = left_out.clone();
            let mut picked = None;
            for (rank, ranked) in ways.iter().enumerate() {
                // SAFETY: as above.
                match (unsafe { self.way(Part::Factor(at), ranked, key, None, shared) }, &ranked.choice) {
                    (Ok(way), _) => {
                        picked = Some((rank, way));
                        break;
                    }
                    (Err(error), Choice::Library(_)) => left_out.push(format!("{}: {error}", ranked.name())),
                    // What is wrong with a kernel must be seen.
                    (Err(error), Choice::Kernel(_)) => return Err(error),
                }
            }
            let Some((rank, way)) = picked else { return Err(self.nothing(at, &left_out)) };
            let others: Vec<String> =
                ways.iter().enumerate().filter(|(at, _)| *at != rank).map(|(_, way)| way.to_string()).collect();
            let why = format!(
                "estimated {:.2} µs; others {}{}",
                ways[rank].seconds * 1e6,
                listed(&others),
                without(&left_out)
            );
            steps.push(self.step(Part::Factor(at), way, why));
        }
        Ok(steps)
    }

    pub(super) fn nothing(&self, at: usize, left_out: &[String]) -> Error {
        Error::Unsupported {
            what: format!("multiplying by {} in {} on this GPU", self.name(Part::Factor(at)), T::DTYPE),
            why: if left_out.is_empty() { "no kernel has a tile for it".into() } else { left_out.join("; ") },
        }
    }
}

/// A way without its numbers.
pub(super) fn short<T>(way: &Way<T>) -> String {
    match way {
        Way::Kernel { plan, .. } => plan.name().into(),
        Way::Library { algorithm, .. } => algorithm.to_string(),
        Way::Wide(wide) => wide.to_string(),
    }
}

pub(super) fn listed(others: &[String]) -> String {
    if others.is_empty() { "none".into() } else { others.join(", ") }
}

pub(super) fn without(left_out: &[String]) -> String {
    if left_out.is_empty() { String::new() } else { format!("; left out {}", left_out.join("; ")) }
}
