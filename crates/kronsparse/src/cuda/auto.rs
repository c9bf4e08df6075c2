//! How `auto` picks among kernels and libraries: by estimates, or by measuring the ways whose estimates are close.

use std::sync::Arc;

use super::clock::Clock;
use super::joining::JoinPass;
use super::libraries::{self, Library};
use super::memory::Buffer;
use super::operator::Operator;
use super::prepared::{Key, Prepared, Shared};
use super::step::{Ends, Part, Step, Way};
use super::stream::Stream;
use super::timing::Caches;
use super::vendor::Trial;
use crate::plan::gpu::{ChainPlan, Choice, Cut, FusedPlan, Ranked, WITHIN, cuts, promising};
use crate::plan::{Algorithm, Join, Layout};
use crate::tune::Record;
use crate::{Error, Result, Scalar};

impl<T: Scalar> Operator<T> {
    /// [`Operator::prepare`] that measures: where this operator picks its ways itself ([`Algorithm::Auto`] with
    /// [`Plans::Best`](super::Plans::Best)), the kernels and library algorithms with the best estimates are run on `x` and `y`
    /// for each factor, and the fastest is kept for later multiplications of `n` vectors in `layout` on arrays aligned to
    /// 16 bytes. `y` is overwritten; both may be longer than needed. Waits for the GPU; takes the time of compiling and
    /// running about six ways per factor. Numbers in `x` should be like those that will come: a GPU multiplies zeros faster.
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
        for (what, features, found) in [
            ("X (n · columns of the chain)", self.cols(), x.len()),
            ("Y (n · rows of the chain)", self.rows(), y.len()),
        ] {
            let expected = n.saturating_mul(features);
            if found < expected {
                return Err(Error::Length { what, expected, found });
            }
        }
        self.check_device("X", x.device())?;
        self.check_device("Y", y.device())?;
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
        let plan = ChainPlan::new(&self.chain_problem(key), self.device.machine(), found.ok()).map_err(|rejected| {
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

    /// The faster of joining outputs in the last kernel and in a pass of its own, where there is something to join.
    ///
    /// # Safety
    ///
    /// As for [`Operator::by_measurement`].
    unsafe fn by_measuring_joins(
        &self,
        key: Key,
        ends: Ends,
        clock: &mut Clock,
        shared: &mut Shared<T>,
    ) -> Result<Prepared<T>> {
        if self.join == Join::None {
            // SAFETY: the caller's word.
            return unsafe { self.by_measurement(key, ends, clock, shared) };
        }
        // SAFETY: as above.
        let within = unsafe { self.by_measurement(key, ends, clock, shared) };
        let hidden = shared.hidden();
        // SAFETY: as above.
        let apart = unsafe { self.by_measurement(Key { apart: true, ..key }, ends, clock, shared) };
        let (within, apart) = match (within, apart) {
            (Ok(within), Ok(apart)) => (within, apart),
            (Err(Error::Unsupported { .. }), apart) => return apart,
            // What is wrong with a kernel must be seen; what has no room, or no way, is left out.
            (Err(error), _) | (_, Err(error @ Error::Compile { .. })) => return Err(error),
            (Ok(mut within), Err(error)) => {
                shared.set_hidden(hidden);
                if let Some(step) = within.steps.last_mut() {
                    step.why.push_str(&format!("; not joined by a pass of its own: {error}"));
                }
                return Ok(within);
            }
        };
        let mut seconds = |prepared: &Prepared<T>| {
            // SAFETY: as above.
            clock.noted(prepared.names(), 1e-5, f64::INFINITY, |stream| unsafe {
                self.queue(prepared, ends, key.n, stream)
            })
        };
        let times = [seconds(&within)?, seconds(&apart)?];
        let (mut taken, other) = if times[0] <= times[1] { (within, times[1]) } else { (apart, times[0]) };
        if taken.pass.is_none() {
            // What only the pass needed is let go.
            shared.set_hidden(hidden);
        }
        let what = if taken.pass.is_none() { "joined by a pass of its own" } else { "joined by the last kernel" };
        if let Some(step) = taken.steps.last_mut() {
            let seconds = times[0].min(times[1]);
            step.why.push_str(&format!("; all {:.2} µs, {what} {:.2} µs", seconds * 1e6, other * 1e6));
        }
        Ok(taken)
    }

    /// The fastest steps of those that are worth a measurement, with the join where `key` says.
    ///
    /// # Safety
    ///
    /// The addresses are those of `n · cols` and `n · rows` elements that nobody else uses.
    unsafe fn by_measurement(
        &self,
        key: Key,
        ends: Ends,
        clock: &mut Clock,
        shared: &mut Shared<T>,
    ) -> Result<Prepared<T>> {
        let found = self.libraries();
        let limit = found.ok();
        let hidden = self.hidden(key, self.chain.factors().len(), shared)?;
        let pass = if key.apart { Some(self.join_pass(key)?) } else { None };
        let moves = pass.as_ref().is_some_and(JoinPass::moves);
        let missing: Vec<String> = found.err().map(|why| format!("libraries: {why}")).into_iter().collect();
        let count = self.chain.factors().len();
        // Where a part of the chain reads and writes while it is measured: whatever vectors are there.
        let place = |Cut { at, count: several }: Cut| {
            let from = if at + several == count { ends.x } else { hidden[(count - at) % 2].pointer() };
            let to = if at == 0 && !moves { ends.y } else { hidden[(count - 1 - at) % 2].pointer() };
            Ends { x: from, residual: ends.residual, y: to }
        };
        // By factor, and then for several together: seconds, and the step.
        let mut singles: Vec<Option<(f64, Step<T>)>> = Vec::new();
        singles.resize_with(count, || None);
        let mut least = 0.0;
        for at in (0..count).rev() {
            let here = place(Cut { at, count: 1 });
            let ways = match self.promising(at, key, limit) {
                // A kernel for several factors may join outputs that none for one factor does.
                Err(Error::Unsupported { .. }) if at == 0 && self.join != Join::None && !key.apart => continue,
                ways => ways?,
            };
            least += ways[0].seconds;
            let mut best: Option<(f64, f64, Way<T>)> = None;
            let (mut others, mut left_out) = (Vec::new(), missing.clone());
            for ranked in &ways {
                let fastest = best.as_ref().map_or(f64::INFINITY, |best| best.0);
                // SAFETY: hidden vectors are as large as the factors need; the ends are the caller's word.
                match unsafe { self.timed(Part::Factor(at), ranked, key, here, fastest, clock, shared) } {
                    Ok((measured, way)) => {
                        let other = if measured < fastest {
                            best.replace((measured, ranked.seconds, way)).map(|(seconds, _, way)| (seconds, way))
                        } else {
                            Some((measured, way))
                        };
                        others.extend(other.map(|(seconds, way)| format!("{} {:.2} µs", short(&way), seconds * 1e6)));
                    }
                    Err(error) => left_out.push(format!("{}: {error}", ranked.name())),
                }
            }
            let Some((measured, estimate, way)) = best else { return Err(self.nothing(at, &left_out)) };
            // The next factor reads what the fastest wrote, not what the last one left.
            // SAFETY: as above.
            unsafe { way.run(here, self.bias_at(at), key.n, &clock.stream) }?;
            let why = format!(
                "measured {:.2} µs, estimated {:.2} µs; others {}{}",
                measured * 1e6,
                estimate * 1e6,
                listed(&others),
                without(&left_out)
            );
            singles[at] = Some((measured, self.step(Part::Factor(at), way, why)));
        }
        let apart = |Cut { at, count }: Cut| -> f64 {
            singles[at..at + count]
                .iter()
                .map(|single| single.as_ref().map_or(f64::INFINITY, |(seconds, _)| *seconds))
                .sum()
        };
        let mut groups: Vec<(Cut, f64, Step<T>)> = Vec::new();
        let mut not_measured = Vec::new();
        for (cut, plans) in self.promising_groups(key) {
            let here = place(cut);
            let mut best = apart(cut);
            for plan in plans {
                let (estimate, name) = (plan.seconds(), plan.name());
                let mut step = match self.fused(cut, plan, key, shared) {
                    Ok(step) => step,
                    // What is wrong with a kernel must be seen.
                    Err(error @ Error::Compile { .. }) => return Err(error),
                    Err(error) => {
                        not_measured.push(format!("{name} of {}: {error}", self.fused_name(cut)));
                        continue;
                    }
                };
                let run = |stream: &Stream| {
                    // SAFETY: as above.
                    unsafe { step.way.run(here, self.bias_at(cut.at), key.n, stream) }
                };
                let together = clock.noted(vec![step.name()], estimate, best, run)?;
                if together < best {
                    best = together;
                    step.why = format!(
                        "measured {:.2} µs, {}; factor by factor {:.2} µs",
                        together * 1e6,
                        step.why,
                        apart(cut) * 1e6
                    );
                    groups.retain(|(other, ..)| *other != cut);
                    groups.push((cut, together, step));
                }
            }
        }
        let (cuts, seconds) = cuts(count, |at, several| match several {
            1 => singles[at].as_ref().map(|(seconds, _)| *seconds),
            _ => groups.iter().find(|(cut, ..)| *cut == Cut { at, count: several }).map(|(_, seconds, _)| *seconds),
        });
        if !seconds.is_finite() {
            return Err(self.nothing(0, &missing));
        }
        let mut steps: Vec<Step<T>> = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let group = groups.iter().position(|(other, ..)| *other == cut);
            let step = match group {
                Some(found) => Some(groups.swap_remove(found).2),
                None => singles[cut.at].take().map(|(_, step)| step),
            };
            steps.push(step.expect("every cut was measured"));
        }
        for step in steps.iter_mut().filter(|_| !not_measured.is_empty()) {
            step.why.push_str(&without(&not_measured));
        }
        let dense = self.chain_problem(key).dense(self.device.machine(), limit).ok();
        if let Some(dense) = dense.filter(|dense| dense.seconds <= WITHIN * least) {
            // A chain's steps follow each other: together they are measured like the one that would replace them.
            let prepared = Prepared { steps, hidden, pass };
            // SAFETY: as above.
            let apart = clock.noted(prepared.names(), seconds, f64::INFINITY, |stream| unsafe {
                self.queue(&prepared, ends, key.n, stream)
            })?;
            let here = Ends { y: if moves { prepared.hidden[0].pointer() } else { ends.y }, ..ends };
            // SAFETY: as above.
            let whole = unsafe { self.timed(Part::Whole, &dense, key, here, apart, clock, shared) };
            let Prepared { mut steps, hidden, pass } = prepared;
            match whole {
                Ok((measured, way)) if measured < apart => {
                    let why = format!(
                        "measured {:.2} µs, estimated {:.2} µs; by its factors {:.2} µs",
                        measured * 1e6,
                        dense.seconds * 1e6,
                        apart * 1e6
                    );
                    steps = vec![self.step(Part::Whole, way, why)];
                }
                Ok((measured, _)) => {
                    let note = format!("; all factors {:.2} µs, dense {:.2} µs", apart * 1e6, measured * 1e6);
                    steps.iter_mut().for_each(|step| step.why.push_str(&note));
                }
                Err(error) => {
                    steps.iter_mut().for_each(|step| step.why.push_str(&format!("; no dense chain: {error}")))
                }
            }
            return Ok(Prepared { steps, hidden, pass });
        }
        Ok(Prepared { steps, hidden, pass })
    }

    /// A way, and how long it takes.
    ///
    /// # Safety
    ///
    /// As for [`Operator::way`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn timed(
        &self,
        part: Part,
        ranked: &Ranked,
        key: Key,
        ends: Ends,
        best: f64,
        clock: &mut Clock,
        shared: &mut Shared<T>,
    ) -> Result<(f64, Way<T>)> {
        let trial = Trial { x: ends.x, y: ends.y, stream: &clock.stream };
        // SAFETY: the caller's word.
        let way = unsafe { self.way(part, ranked, key, Some(trial), shared) }?;
        let bias = match part {
            Part::Factor(at) => self.bias_at(at),
            Part::Whole => 0,
        };
        // SAFETY: the caller's word.
        let run = |stream: &Stream| unsafe { way.run(ends, bias, key.n, stream) };
        let seconds = clock.noted(vec![way.name(self.cut(part))], ranked.seconds, best, run)?;
        Ok((seconds, way))
    }

    /// The ways of a factor that are worth a measurement, the least estimate first: at least one.
    fn promising(&self, at: usize, key: Key, limit: Option<usize>) -> Result<Vec<Ranked>> {
        let ways = promising(&self.problem(Part::Factor(at), key)?, self.device.machine(), limit);
        if ways.is_empty() { Err(self.nothing(at, &[])) } else { Ok(ways) }
    }

    /// The plans for several factors that are worth a measurement: those of all factors, of every two neighbours, and of what is cut
    /// by the estimates.
    fn promising_groups(&self, key: Key) -> Vec<(Cut, Vec<FusedPlan>)> {
        let (problem, machine) = (self.chain_problem(key), self.device.machine());
        let count = self.chain.factors().len();
        let mut found: Vec<Cut> = (1..count).map(|end| Cut { at: end - 1, count: 2 }).collect();
        let planned = ChainPlan::new(&problem, machine, None).map(|plan| plan.cuts().to_vec()).unwrap_or_default();
        for cut in planned.into_iter().chain((count > 1).then_some(Cut { at: 0, count })) {
            if cut.count > 1 && !found.contains(&cut) {
                found.push(cut);
            }
        }
        found.into_iter().map(|cut| (cut, FusedPlan::promising(&problem.part(cut.at, cut.count), machine))).collect()
    }

    fn nothing(&self, at: usize, left_out: &[String]) -> Error {
        Error::Unsupported {
            what: format!("multiplying by {} in {} on this GPU", self.name(Part::Factor(at)), T::DTYPE),
            why: if left_out.is_empty() { "no kernel has a tile for it".into() } else { left_out.join("; ") },
        }
    }
}

/// A way without its numbers.
fn short<T>(way: &Way<T>) -> String {
    match way {
        Way::Kernel { plan, .. } => plan.name().into(),
        Way::Library { algorithm, .. } => algorithm.to_string(),
        Way::Wide(wide) => wide.to_string(),
    }
}

fn listed(others: &[String]) -> String {
    if others.is_empty() { "none".into() } else { others.join(", ") }
}

fn without(left_out: &[String]) -> String {
    if left_out.is_empty() { String::new() } else { format!("; left out {}", left_out.join("; ")) }
}
