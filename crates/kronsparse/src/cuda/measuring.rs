//! What `tune` measures: ways of each factor, of several together and of the whole by themselves; then what follows each other, as wholes, with
//! outputs joined here or there.

use super::auto::{listed, short, without};
use super::clock::Clock;
use super::joining::JoinPass;
use super::operator::Operator;
use super::prepared::{Key, Prepared, Shared};
use super::step::{Ends, Part, Step, Way};
use super::stream::Stream;
use super::vendor::Trial;
use crate::plan::Join;
use crate::plan::gpu::{Cut, FusedPlan, Ranked, WITHIN, promising};
use crate::tune::Measured;
use crate::tune::lines::{self, Line, Lines};
use crate::{Error, Result, Scalar};

/// Ways of the same factors that are tried in lines, how many at most: so many of the fastest, and the fastest of so many other kinds. More of
/// a chain of two factors, whose pairs are few; what multiplies by all factors is measured already, and costs a line nothing.
const TRIED: usize = 3;
const KINDS: usize = 3;
const OF_TWO: usize = 6;
const WHOLE: usize = 16;
/// How much slower they are than the fastest by themselves, at most: so many times, or seconds.
const CLOSE: f64 = 1.5;
const CLOSE_SECONDS: f64 = 1e-6;
/// The dense product of a chain is tried where its estimate is [`WITHIN`] that of the factors, or larger by so many seconds.
const DENSE_SECONDS: f64 = 5e-6;
/// What is so many times as slow is not sampled once more.
const MUCH_SLOWER: f64 = 1.5;
/// Lines that take at most so many times as long as the fastest are sampled in turn at last, up to so many.
const TIED: f64 = 1.08;
const LAST: usize = 12;

/// What was measured by itself.
struct Tried<T> {
    seconds: f64,
    step: Step<T>,
}

/// All that was measured by itself, and the line of it that stands in `prepared`.
struct Bench<'a, T: Scalar> {
    operator: &'a Operator<T>,
    prepared: Prepared<T>,
    /// The numbers of the steps of `prepared`.
    standing: Line,
    /// By number; none of those that stand.
    waiting: Vec<Option<Step<T>>>,
    ends: Ends,
    n: usize,
}

impl<T: Scalar> Bench<'_, T> {
    /// Puts a line in the place of the one that stands.
    fn stand(&mut self, line: &Line) {
        if *line == self.standing {
            return;
        }
        for (part, step) in std::mem::take(&mut self.standing).into_iter().zip(self.prepared.steps.drain(..)) {
            self.waiting[part] = Some(step);
        }
        let steps = line.iter().map(|&part| self.waiting[part].take().expect("a part stands once in a line"));
        self.prepared.steps.extend(steps);
        self.standing.clone_from(line);
    }

    /// Queues a line.
    ///
    /// # Safety
    ///
    /// As for [`Operator::by_measurement`].
    unsafe fn queue(&mut self, line: &Line, stream: &Stream) -> Result<()> {
        self.stand(line);
        // SAFETY: the caller's word.
        unsafe { self.operator.queue(&self.prepared, self.ends, self.n, stream) }
    }

    /// The fastest line, with what is said of others in its last step.
    ///
    /// # Safety
    ///
    /// As for [`Operator::by_measurement`].
    unsafe fn fastest(&mut self, parts: &[lines::Part], factors: usize, clock: &mut Clock) -> Result<Line> {
        let whole = |line: &Line| line.len() == 1 && self.prepared.pass.is_none();
        // What multiplies by all factors was measured already, by itself.
        let known: Vec<bool> = (0..parts.len()).map(|part| whole(&vec![part])).collect();
        let mut found = Lines::new(factors, parts).search(|line, best| {
            if let [part] = line[..]
                && known[part]
            {
                return Ok(parts[part].seconds);
            }
            self.stand(line);
            let estimate = line.iter().map(|&part| parts[part].seconds).sum();
            // SAFETY: the caller's word.
            clock.noted(self.prepared.names(), estimate, best, |stream| unsafe { self.queue(line, stream) })
        })?;
        let Some((_, least)) = found.first().cloned() else {
            return Err(Error::Unsupported {
                what: "all factors".into(),
                why: "no ways of them follow each other".into(),
            });
        };
        let mut tied: Vec<(Line, f64)> = Vec::new();
        let count = found.iter().take(LAST).take_while(|(_, seconds)| *seconds <= TIED * least).count();
        found.truncate(count.max(1));
        if count > 1 {
            let names: Vec<_> = found.iter().map(|(line, _)| self.names(line)).collect();
            // SAFETY: the caller's word.
            let seconds = clock.in_turn(names, least, |at, stream| unsafe { self.queue(&found[at].0, stream) })?;
            tied.extend(found.into_iter().map(|(line, _)| line).zip(seconds));
            tied.sort_by(|p, q| p.1.total_cmp(&q.1));
        } else {
            tied = found;
        }
        let (line, seconds) = tied.remove(0);
        if line.len() > 1 || tied.iter().any(|(other, _)| other.len() > 1) {
            let said: Vec<String> =
                tied.iter().map(|(line, seconds)| format!("{} {:.2} µs", self.short(line), seconds * 1e6)).collect();
            self.stand(&line);
            if let Some(step) = self.prepared.steps.last_mut() {
                step.why.push_str(&format!("; all measured {:.2} µs, others as near {}", seconds * 1e6, listed(&said)));
            }
        }
        Ok(line)
    }

    /// The steps of a line as records name them.
    fn names(&mut self, line: &Line) -> Vec<crate::tune::Step> {
        self.stand(line);
        self.prepared.names()
    }

    /// A line without its numbers.
    fn short(&mut self, line: &Line) -> String {
        self.stand(line);
        self.prepared.steps.iter().map(|step| short(&step.way)).collect::<Vec<_>>().join(" + ")
    }
}

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
        // SAFETY: as above.
        let times = unsafe { self.compared(&[&within, &apart], key, ends, clock) }?;
        let times = [times[0].seconds, times[1].seconds];
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

    /// The seconds of each, sampled in turn; of a few launches only, where one is much slower than another.
    ///
    /// # Safety
    ///
    /// As for [`Operator::by_measurement`].
    pub(super) unsafe fn compared(
        &self,
        all: &[&Prepared<T>],
        key: Key,
        ends: Ends,
        clock: &mut Clock,
    ) -> Result<Vec<Measured>> {
        // SAFETY: the caller's word.
        let queue = |at: usize, stream: &Stream| unsafe { self.queue(all[at], ends, key.n, stream) };
        let mut seconds = Vec::with_capacity(all.len());
        for (at, prepared) in all.iter().enumerate() {
            let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            seconds.push(clock.noted(prepared.names(), 1e-5, best, |stream| queue(at, stream))?);
        }
        let [least, most] = [f64::min, f64::max].map(|of| seconds.iter().copied().reduce(of).unwrap_or(f64::INFINITY));
        if most <= MUCH_SLOWER * least {
            clock.in_turn(all.iter().map(|prepared| prepared.names()).collect(), least, queue)?;
        }
        Ok(clock.measured[clock.measured.len() - all.len()..].to_vec())
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
        let mut tried: Vec<Tried<T>> = Vec::new();
        let mut singles = vec![f64::INFINITY; count];
        let mut least = 0.0;
        for at in (0..count).rev() {
            let here = place(Cut { at, count: 1 });
            let ways = match self.promising(at, key, limit) {
                // A kernel for several factors may join outputs that none for one factor does.
                Err(Error::Unsupported { .. }) if at == 0 && self.join != Join::None && !key.apart => continue,
                ways => ways?,
            };
            least += ways[0].seconds;
            // SAFETY: hidden vectors are as large as the factors need; the ends are the caller's word.
            let found = unsafe { self.tried(at, &ways, key, here, &missing, clock, shared) }?;
            singles[at] = found[0].seconds;
            // The next factor reads what the fastest wrote, not what the last one left.
            // SAFETY: as above.
            unsafe { found[0].step.way.run(here, self.bias_at(at), key.n, &clock.stream) }?;
            tried.extend(found);
        }
        let mut not_measured = Vec::new();
        for (cut, plans) in self.promising_groups(key) {
            let (here, apart) = (place(cut), singles[cut.at..cut.at + cut.count].iter().sum::<f64>());
            let mut found = Vec::new();
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
                let seconds = clock.noted(vec![step.name()], estimate, apart, run)?;
                let by_factor = if apart.is_finite() {
                    format!("; factor by factor {:.2} µs", apart * 1e6)
                } else {
                    String::new()
                };
                step.why = format!("measured {:.2} µs, {}{by_factor}", seconds * 1e6, step.why);
                found.push(Tried { seconds, step });
            }
            tried.extend(kept(found, self.tried_of(cut)));
        }
        let dense = self.chain_problem(key).dense(self.device.machine(), limit).ok();
        // Of one factor it is among the ways.
        if let Some(dense) = dense.filter(|dense| count > 1 && dense.seconds <= WITHIN * least + DENSE_SECONDS) {
            let here = Ends { y: if moves { hidden[0].pointer() } else { ends.y }, ..ends };
            let before = singles.iter().sum();
            // SAFETY: as above.
            match unsafe { self.timed(Part::Whole, &dense, key, here, before, clock, shared) } {
                Ok((seconds, way)) => {
                    let why = format!("measured {:.2} µs, estimated {:.2} µs", seconds * 1e6, dense.seconds * 1e6);
                    tried.push(Tried { seconds, step: self.step(Part::Whole, way, why) });
                }
                Err(error) => not_measured.push(format!("dense of the chain: {error}")),
            }
        }
        if singles.iter().any(|seconds| seconds.is_infinite()) && !tried.iter().any(|tried| tried.step.cut.at == 0) {
            return Err(self.nothing(0, &missing));
        }
        let parts: Vec<lines::Part> =
            tried.iter().map(|tried| lines::Part { cut: tried.step.cut, seconds: tried.seconds }).collect();
        let waiting = tried.into_iter().map(|tried| Some(tried.step)).collect();
        let prepared = Prepared { steps: Vec::new(), hidden, pass };
        let mut bench = Bench { operator: self, prepared, standing: Line::new(), waiting, ends, n: key.n };
        // SAFETY: as above.
        let line = unsafe { bench.fastest(&parts, count, clock) }?;
        bench.stand(&line);
        let mut prepared = bench.prepared;
        if let Some(step) = prepared.steps.last_mut().filter(|_| !not_measured.is_empty()) {
            step.why.push_str(&without(&not_measured));
        }
        Ok(prepared)
    }

    /// Ways of a factor, measured by themselves: those that are worth a try in lines, the fastest first.
    ///
    /// # Safety
    ///
    /// As for [`Operator::way`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn tried(
        &self,
        at: usize,
        ways: &[Ranked],
        key: Key,
        here: Ends,
        missing: &[String],
        clock: &mut Clock,
        shared: &mut Shared<T>,
    ) -> Result<Vec<Tried<T>>> {
        let mut found: Vec<Tried<T>> = Vec::new();
        let mut left_out = missing.to_vec();
        let mut fastest = f64::INFINITY;
        for ranked in ways {
            // SAFETY: the caller's word.
            match unsafe { self.timed(Part::Factor(at), ranked, key, here, fastest, clock, shared) } {
                Ok((seconds, way)) => {
                    let why = format!("measured {:.2} µs, estimated {:.2} µs", seconds * 1e6, ranked.seconds * 1e6);
                    fastest = fastest.min(seconds);
                    found.push(Tried { seconds, step: self.step(Part::Factor(at), way, why) });
                }
                Err(error) => left_out.push(format!("{}: {error}", ranked.name())),
            }
        }
        if found.is_empty() {
            return Err(self.nothing(at, &left_out));
        }
        let said: Vec<String> =
            found.iter().map(|tried| format!("{} {:.2} µs", short(&tried.step.way), tried.seconds * 1e6)).collect();
        for (number, tried) in found.iter_mut().enumerate() {
            let others: Vec<String> =
                said.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, text)| text.clone()).collect();
            tried.step.why.push_str(&format!("; others {}{}", listed(&others), without(&left_out)));
        }
        let most = self.tried_of(Cut { at, count: 1 });
        Ok(kept(found, most))
    }

    /// How many of the fastest ways of these factors are tried in lines.
    fn tried_of(&self, cut: Cut) -> usize {
        match self.chain.factors().len() {
            count if cut.count == count => WHOLE,
            2 => OF_TWO,
            _ => TRIED,
        }
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

/// Those that are worth a try in lines, the fastest first: so many, and those of other kinds.
fn kept<T: Scalar>(mut tried: Vec<Tried<T>>, fastest: usize) -> Vec<Tried<T>> {
    tried.sort_by(|p, q| p.seconds.total_cmp(&q.seconds));
    let most = tried.first().map_or(0.0, |first| (CLOSE * first.seconds).max(first.seconds + CLOSE_SECONDS));
    let (mut kinds, mut same): (Vec<String>, usize) = (Vec::new(), 0);
    tried.retain(|tried| {
        let kind = short(&tried.step.way);
        let new = !kinds.contains(&kind);
        let stays = tried.seconds <= most && (same < fastest || (new && same < fastest + KINDS));
        if stays {
            same += 1;
            kinds.push(kind);
        }
        stays
    });
    tried
}
