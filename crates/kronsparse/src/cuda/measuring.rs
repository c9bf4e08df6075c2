//! What `tune` measures: ways of each factor, of several together, of the whole, with outputs joined here or there.

use super::auto::{listed, short, without};
use super::clock::Clock;
use super::joining::JoinPass;
use super::operator::Operator;
use super::prepared::{Key, Prepared, Shared};
use super::step::{Ends, Part, Step, Way};
use super::stream::Stream;
use super::vendor::Trial;
use crate::plan::Join;
use crate::plan::gpu::{Cut, FusedPlan, Ranked, WITHIN, cuts, promising};
use crate::{Error, Result, Scalar};

/// Ways of a factor that are tried once more in its chain: how many at most, and how much slower than the fastest one behind itself.
const TRIED: usize = 3;
const CLOSE: f64 = 1.5;
/// What is not faster by so much stays as it is.
const FASTER: f64 = 0.99;

impl<T: Scalar> Operator<T> {
    /// The faster of joining outputs in the last kernel and in a pass of its own, where there is something to join.
    ///
    /// # Safety
    ///
    /// As for [`Operator::by_measurement`].
    pub(super) unsafe fn by_measuring_joins(
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
        let mut slower: Vec<Vec<(f64, Way<T>)>> = Vec::new();
        slower.resize_with(count, Vec::new);
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
                        if let Some((seconds, way)) = other {
                            others.push(format!("{} {:.2} µs", short(&way), seconds * 1e6));
                            slower[at].push((seconds, way));
                        }
                    }
                    Err(error) => left_out.push(format!("{}: {error}", ranked.name())),
                }
            }
            let Some((measured, estimate, way)) = best else { return Err(self.nothing(at, &left_out)) };
            slower[at].retain(|(seconds, _)| *seconds <= CLOSE * measured);
            slower[at].sort_by(|p, q| p.0.total_cmp(&q.0));
            slower[at].truncate(TRIED);
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
        // A chain's steps follow each other: they are measured like what would replace them.
        let mut prepared = Prepared { steps, hidden, pass };
        let dense = self.chain_problem(key).dense(self.device.machine(), limit).ok();
        let dense = dense.filter(|dense| dense.seconds <= WITHIN * least);
        if prepared.steps.len() > 1 || dense.is_some() {
            // SAFETY: as above.
            let apart = unsafe { self.exchanged(&mut prepared, slower, seconds, key, ends, clock) }?;
            let Some(dense) = dense else { return Ok(prepared) };
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
        Ok(prepared)
    }

    /// Exchanges ways of single factors for others that were nearly as fast, where all steps together are faster: kernels overlap at their
    /// ends, so that behind another one a way may take another time than behind itself. Returns the seconds of all.
    ///
    /// # Safety
    ///
    /// As for [`Operator::by_measurement`]; `slower` has ways by factor.
    unsafe fn exchanged(
        &self,
        prepared: &mut Prepared<T>,
        mut slower: Vec<Vec<(f64, Way<T>)>>,
        estimate: f64,
        key: Key,
        ends: Ends,
        clock: &mut Clock,
    ) -> Result<f64> {
        let mut seconds = |prepared: &Prepared<T>, best: f64| {
            // SAFETY: the caller's word.
            clock.noted(prepared.names(), estimate, best, |stream| unsafe { self.queue(prepared, ends, key.n, stream) })
        };
        let mut best = seconds(prepared, f64::INFINITY)?;
        for at in 0..prepared.steps.len() {
            let Cut { at: factor, count } = prepared.steps[at].cut;
            if count > 1 || prepared.steps.len() == 1 {
                continue;
            }
            for (_, way) in std::mem::take(&mut slower[factor]) {
                let before = std::mem::replace(&mut prepared.steps[at].way, way);
                let all = seconds(prepared, best)?;
                if all < FASTER * best {
                    let (old, new) = (best * 1e6, all * 1e6);
                    let note =
                        format!("; taken because all steps take {new:.2} µs, with {} {old:.2} µs", short(&before));
                    prepared.steps[at].why.push_str(&note);
                    best = all;
                } else {
                    prepared.steps[at].way = before;
                }
            }
        }
        Ok(best)
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
        let planned = self.device.plan(problem.clone(), None).map(|plan| plan.cuts().to_vec()).unwrap_or_default();
        for cut in planned.into_iter().chain((count > 1).then_some(Cut { at: 0, count })) {
            if cut.count > 1 && !found.contains(&cut) {
                found.push(cut);
            }
        }
        found.into_iter().map(|cut| (cut, FusedPlan::promising(&problem.part(cut.at, cut.count), machine))).collect()
    }
}
