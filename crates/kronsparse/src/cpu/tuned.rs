//! What a store says of a chain on this CPU: with which numbers of vectors another algorithm, or fewer threads, are faster.

use super::simd::Isa;
use crate::Result;
use crate::plan::gpu::{ChainProblem, Cut};
use crate::plan::{Algorithm, Layout};
use crate::tune::{Machine, Record, Step, nearest, user};

/// Engines of other algorithms, and when they are taken.
#[derive(Debug)]
pub(super) struct Tuned<E> {
    engines: Vec<(Algorithm, E)>,
    choices: Vec<Choice>,
    /// Why nothing was looked up, where something should have been.
    note: Option<String>,
    /// On so many threads it was measured.
    threads: usize,
}

/// What was measured for one number of vectors.
#[derive(Debug)]
pub(super) struct Choice {
    layout: Layout,
    n: usize,
    pub(super) algorithm: Algorithm,
    /// `None`: as many as the operator has.
    pub(super) threads: Option<usize>,
    /// Seconds of this way, and of what is done otherwise.
    seconds: [f64; 2],
}

impl<E> Default for Tuned<E> {
    fn default() -> Tuned<E> {
        Tuned { engines: Vec::new(), choices: Vec::new(), note: None, threads: 0 }
    }
}

/// The step that multiplies by a whole chain of so many factors.
pub(super) fn step(factors: usize, algorithm: Algorithm, threads: Option<usize>) -> Step {
    let arguments = threads.map(|threads| format!("threads={threads}")).unwrap_or_default();
    Step { arguments, ..Step::algorithm(Cut { at: 0, count: factors }, algorithm) }
}

impl<E> Tuned<E> {
    /// What the store has for `problem` in any layout and with any number of vectors; `make` packs the weights for an algorithm, and
    /// what it refuses is left out.
    pub(super) fn new(
        found: user::Found,
        problem: &ChainProblem,
        isa: Isa,
        threads: usize,
        make: impl Fn(Algorithm) -> Result<E>,
    ) -> Tuned<E> {
        let mut tuned = Tuned { note: found.note, threads, ..Tuned::default() };
        let Some(store) = found.store.filter(|store| !store.records().is_empty()) else { return tuned };
        let machine = Machine::cpu(isa, threads);
        let usual = step(problem.chain.patterns().len(), Algorithm::Fused, None);
        for layout in Layout::ALL {
            let problem = ChainProblem { layout, ..problem.clone() };
            for record in store.of_problem(&machine, &problem).into_values() {
                let Some(choice) = choice(record, &usual, threads) else { continue };
                let is_there = |engines: &[(Algorithm, E)]| engines.iter().any(|(found, _)| *found == choice.algorithm);
                if choice.algorithm != Algorithm::Fused && !is_there(&tuned.engines) {
                    let Ok(engine) = make(choice.algorithm) else { continue };
                    tuned.engines.push((choice.algorithm, engine));
                }
                tuned.choices.push(choice);
            }
        }
        tuned
    }

    /// What was measured for `n` vectors or a number near it on as many threads, where that is known to be no slower.
    pub(super) fn way(&self, n: usize, layout: Layout, threads: usize) -> Option<&Choice> {
        if threads != self.threads {
            return None;
        }
        let here = || self.choices.iter().filter(|choice| choice.layout == layout);
        let measured = nearest(here().map(|choice| (choice.n, choice.seconds[1] / choice.seconds[0])), n, layout)?;
        here().find(|choice| choice.n == measured)
    }

    /// The engine of a choice; `None` for [`Algorithm::Fused`].
    pub(super) fn engine(&self, choice: &Choice) -> Option<&E> {
        self.engines.iter().find(|(algorithm, _)| *algorithm == choice.algorithm).map(|(_, engine)| engine)
    }

    /// What was measured, as the end of a sentence.
    pub(super) fn why(&self, n: usize, layout: Layout, threads: usize) -> String {
        match (self.way(n, layout, threads), &self.note) {
            (Some(Choice { n, seconds: [tuned, usual], .. }), _) => {
                let [tuned, usual] = [tuned, usual].map(|seconds| seconds * 1e6);
                format!("; measured {tuned:.2} µs with n = {n}, untuned {usual:.2} µs")
            }
            (None, Some(note)) => format!("; {note}"),
            (None, None) => String::new(),
        }
    }
}

/// What a record says; `None` where it knows nothing of what is usual, or names something that is not here, such as more than `all` threads.
fn choice(record: &Record, usual: &Step, all: usize) -> Option<Choice> {
    let [step] = record.best.steps.as_slice() else { return None };
    let gain = record.gain_over(std::slice::from_ref(usual))?;
    let algorithm = step.name.parse().ok().filter(|algorithm| Algorithm::on_cpu().contains(algorithm))?;
    let threads = match step.arguments.as_str() {
        "" => None,
        arguments => {
            Some(arguments.strip_prefix("threads=")?.parse().ok().filter(|&threads| (1..all).contains(&threads))?)
        }
    };
    let (layout, n, seconds) = (record.problem.layout, record.problem.batch, record.best.seconds);
    Some(Choice { layout, n, algorithm, threads, seconds: [seconds, gain * seconds] })
}
