//! The weights of a case, and the plan of its kernel: what the host makes before the GPU is asked for anything, while the GPU measures
//! the case before.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use kronsparse::cuda::Plans;
use kronsparse::plan::Problem;
use kronsparse::plan::gpu::{self, ChainProblem, GpuMachine, GpuPlan, GpuProblem};
use kronsparse::{Chain, Factor, Scalar};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

use crate::Result;
use crate::case::guarded;
use crate::definition::Case;
use crate::random::Random;

/// Numbers that are drawn with one seed.
const CHUNK: usize = 1 << 14;

/// Threads that make a case's inputs while the GPU measures another, and the cores from which on there are any: whoever launches must
/// not wait for them.
const THREADS: usize = 2;
const ENOUGH: usize = 2 * THREADS;

/// What the host makes of a case.
pub(super) struct Made<T: Scalar> {
    pub(super) chain: Chain<T>,
    /// See [`planned`].
    pub(super) planned: Option<GpuPlan>,
}

impl<T: Scalar> Made<T> {
    /// Weights drawn with `seed`, and the plan if our own kernels are measured.
    pub(super) fn new(case: &Case, seed: u64, ours: bool, machine: &GpuMachine) -> Result<Made<T>> {
        // A planner that panics does so again where a row says it.
        let plan = || guarded(|| Ok(planned(case, machine))).ok().flatten();
        let (chain, planned) = rayon::join(|| weights::<T>(case, seed), || ours.then(plan).flatten());
        Ok(Made { chain: chain?, planned })
    }
}

/// The inputs of cases in their order, each made while the one before is measured; in turn where there are few cores.
pub(super) enum Ahead<'a, C, M> {
    Threads(Receiver<M>),
    InTurn(std::vec::IntoIter<C>, &'a dyn Fn(C) -> M),
}

impl<'a, C: Send + 'a, T: Scalar> Ahead<'a, C, Result<Made<T>>> {
    /// Begins with the first case, on threads that end with this if there are enough `cores` for them.
    pub(super) fn begin<'s, F>(scope: &'s Scope<'s, 'a>, cases: Vec<C>, cores: usize, make: &'a F) -> Self
    where
        F: Fn(C) -> Result<Made<T>> + Sync,
    {
        match ThreadPoolBuilder::new().num_threads(THREADS).build() {
            Ok(pool) if cores >= ENOUGH => {
                // Nothing is kept in between: a case's inputs are as large as its weights.
                let (sender, receiver) = sync_channel(0);
                scope.spawn(move || {
                    let mut cases = cases.into_iter();
                    while let Some(case) = cases.next()
                        && sender.send(pool.install(|| make(case))).is_ok()
                    {}
                });
                Ahead::Threads(receiver)
            }
            _ => Ahead::InTurn(cases.into_iter(), make),
        }
    }

    /// The inputs of the next case. Panics if there is none: whoever counts the cases asks for each once.
    pub(super) fn next(&mut self) -> Result<Made<T>> {
        match self {
            Ahead::Threads(receiver) => receiver.recv().expect("a case is left, and making its inputs did not panic"),
            Ahead::InTurn(cases, make) => make(cases.next().expect("a case is left")),
        }
    }
}

/// Random weights of variance 1/c, which keep the size of the numbers from factor to factor; drawn on several threads, the same for one seed.
fn weights<T: Scalar>(case: &Case, seed: u64) -> Result<Chain<T>> {
    let mut seeds = Random::new(seed);
    let factors = case.problem.chain.patterns().iter().map(|&pattern| {
        let (scale, begin) = ((3.0 / pattern.c() as f64).sqrt(), seeds.bits());
        let mut weights = vec![T::ZERO; pattern.nnz()];
        weights.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, weights)| {
            // Neighbouring seeds begin far apart in the generator's sequence once they are mixed.
            let mut random = Random::new(Random::new(begin.wrapping_add(chunk as u64)).bits());
            weights.fill_with(|| random.scalar(scale));
        });
        Factor::new(pattern, weights)
    });
    Ok(Chain::new(factors.collect::<kronsparse::Result<_>>()?)?)
}

/// The plan of our kernel for a case of one factor, made once; planning takes ten milliseconds and more. `None` for chains and where no
/// kernel fits, which the engine says better.
fn planned(case: &Case, machine: &GpuMachine) -> Option<GpuPlan> {
    let Problem { ref chain, dtype, batch, layout } = case.problem;
    if chain.patterns().len() > 1 {
        return None;
    }
    let whole =
        ChainProblem { precision: case.kind.precision(), ..ChainProblem::new(chain.clone(), dtype, layout, batch) };
    gpu::choose(&whole.factor(0), machine).ok()
}

/// The planner's choice, without planning again what is planned already.
pub(super) fn plans(planned: Option<&GpuPlan>) -> Plans {
    let Some(plan) = planned.cloned() else { return Plans::Best };
    Plans::Custom(Arc::new(
        move |problem: &GpuProblem, machine: &GpuMachine| {
            if plan.problem() == problem { Ok(plan.clone()) } else { gpu::choose(problem, machine) }
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Sweep;
    use crate::definition::Definition;

    fn case(chain: &str) -> Case {
        let sweep = Sweep { dtype: vec!["tf32".parse().unwrap()], batch: vec![1000], ..Sweep::default() };
        Definition::from_argument(chain, &sweep).unwrap().cases.remove(0)
    }

    #[test]
    fn weights_are_random_to_the_last_and_the_same_for_one_seed() {
        let case = case("(2,64,128,3)(6,128,64,1)");
        let chain = weights::<f32>(&case, 11).unwrap();
        assert_eq!(chain.pattern(), &case.problem.chain);
        assert_eq!(chain, weights::<f32>(&case, 11).unwrap());
        assert_ne!(chain, weights::<f32>(&case, 12).unwrap());
        for (factor, other) in chain.factors().iter().zip(weights::<f32>(&case, 12).unwrap().factors()) {
            let (all, c) = (factor.weights(), factor.pattern().c() as f64);
            assert!(all.len() > CHUNK, "several seeds");
            let variance = all.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>() / all.len() as f64;
            assert!((variance * c - 1.0).abs() < 0.05, "{variance}");
            // Nothing is left at zero, and no chunk repeats another, of this seed or the next.
            assert!(all.iter().filter(|&&w| w == 0.0).count() < 3);
            assert_ne!(all[..100], all[CHUNK..CHUNK + 100]);
            assert_ne!(all[CHUNK..CHUNK + 100], other.weights()[..100]);
        }
    }

    #[test]
    fn inputs_come_in_order_ahead_or_in_turn_and_may_be_left() {
        let cases: Vec<Case> = ["(1,2,3,4)", "(3,2,1,1)", "(1,5,5,1)", "(2,2,2,2)"].map(case).to_vec();
        let (machine, ours) = (GpuMachine::h100(), |case: &Case| case.problem.chain.patterns()[0].a() < 3);
        for cores in [1, ENOUGH] {
            let made = AtomicUsize::new(0);
            let make = |case: &Case| {
                made.fetch_add(1, Ordering::Relaxed);
                Made::<f32>::new(case, 5, ours(case), &machine)
            };
            let found = std::thread::scope(|scope| {
                let mut ahead = Ahead::begin(scope, cases.iter().collect(), cores, &make);
                assert_eq!(matches!(ahead, Ahead::Threads(_)), cores == ENOUGH);
                // The last one is never asked for, and the threads end all the same.
                [ahead.next().unwrap(), ahead.next().unwrap(), ahead.next().unwrap()]
            });
            for (case, found) in cases.iter().zip(&found) {
                assert_eq!(found.chain, weights::<f32>(case, 5).unwrap());
                assert_eq!(found.planned, ours(case).then(|| planned(case, &machine)).flatten());
            }
            assert!(found[0].planned.is_some() && found[1].planned.is_none());
            assert!((3..=4).contains(&made.into_inner()));
        }
    }

    #[test]
    fn what_is_planned_is_the_planners_choice() {
        let machine = GpuMachine::h100();
        let case = case("(1,64,64,64)");
        let plan = planned(&case, &machine).unwrap();
        let problem = plan.problem().clone();
        assert_eq!(problem.precision, case.kind.precision());
        let Plans::Custom(planner) = plans(Some(&plan)) else { panic!("a plan of its own") };
        assert_eq!(planner(&problem, &machine).unwrap(), gpu::choose(&problem, &machine).unwrap());
        let other = GpuProblem { batch: 7, ..problem };
        assert_eq!(planner(&other, &machine).unwrap(), gpu::choose(&other, &machine).unwrap());
        assert!(planned(&self::case("(1,8,8,8)(8,8,8,1)"), &machine).is_none());
        assert!(matches!(plans(None), Plans::Best));
    }
}
