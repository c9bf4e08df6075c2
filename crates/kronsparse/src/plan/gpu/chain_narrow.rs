//! A whole chain for few vectors in one launch: the blocks of [`narrow`] for every factor, those of a factor waiting for those of the one
//! before. Its kernel is `kernels/chain_narrow.cuh`.

use std::fmt;

use super::narrow::{self, Tile};
use super::plain::{activation_name, element, join_name, layout_name};
use super::{ChainProblem, GpuMachine, GpuProblem, KernelPlan, Rejected, Scratch, weight_parts};
use crate::{DType, Result, Scalar};

/// A legal tile for every factor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainNarrowPlan {
    problem: ChainProblem,
    /// In the order of application.
    factors: Vec<narrow::Plan>,
    /// The estimate, in picoseconds.
    picoseconds: u64,
}

/// Most factors of one launch: their code and the combinations of their tiles add up.
const MOST_FACTORS: usize = 4;
/// Tiles of a factor and a number of threads that are combined with those of the others.
const TILES: usize = 3;
/// Plans that are handed out.
const MOST_PLANS: usize = 16;
/// Blocks that a factor is given at most: `MOST_BLOCKS` of the kernel.
const MOST_BLOCKS: usize = 1 << 24;
/// What counters and vectors that are passed on are aligned to: `SCRATCH_LINE` of the kernel.
const LINE: usize = 128;
/// Seconds that a launch by itself takes longer than a wait for the blocks of the factor before.
const SAVED: f64 = 1.0e-6;

impl ChainNarrowPlan {
    /// The family's name: of its header and of its kernel.
    pub const NAME: &'static str = "chain_narrow";

    /// The only way to get a plan: f16, bf16 or f32, two to four factors, one [`narrow::Tile`] for each in the order of application, all
    /// of as many threads, each legal for its factor. Any number of vectors is legal.
    pub fn new(
        problem: &ChainProblem,
        tiles: &[Tile],
        machine: &GpuMachine,
    ) -> std::result::Result<ChainNarrowPlan, Rejected> {
        let problems = Self::problems(problem)?;
        if tiles.len() != problems.len() {
            let why = format!("expected a tile for each of {} factors, found {}", problems.len(), tiles.len());
            return Err(Rejected::Rule(why));
        }
        let plans = problems.iter().zip(tiles).map(|(problem, &tile)| narrow::Plan::new(problem, tile, machine));
        Self::of(problem, plans.collect::<std::result::Result<_, _>>()?, machine)
    }

    /// The factors by themselves, in the order of application, where their number is legal.
    pub(crate) fn problems(problem: &ChainProblem) -> std::result::Result<Vec<GpuProblem>, Rejected> {
        let count = problem.chain.patterns().len();
        if !(2..=MOST_FACTORS).contains(&count) {
            let why = format!("the kernel multiplies by two to {MOST_FACTORS} factors, found {count}");
            return Err(Rejected::Rule(why));
        }
        Ok((0..count).rev().map(|at| problem.factor(at)).collect())
    }

    fn of(
        problem: &ChainProblem,
        factors: Vec<narrow::Plan>,
        machine: &GpuMachine,
    ) -> std::result::Result<ChainNarrowPlan, Rejected> {
        let threads: Vec<u32> = factors.iter().map(narrow::Plan::threads).collect();
        if threads.iter().any(|&other| other != threads[0]) {
            return Err(Rejected::Rule(format!("all tiles must have as many threads, found {threads:?}")));
        }
        let all: f64 = factors.iter().map(|factor| factor.seconds(machine)).sum();
        let seconds = all - SAVED * (factors.len() - 1) as f64;
        Ok(ChainNarrowPlan { problem: problem.clone(), factors, picoseconds: (seconds * 1e12) as u64 })
    }

    /// Combinations of tiles worth trying for up to 64 vectors, the fastest by estimate first; none for more.
    pub fn candidates(problem: &ChainProblem, machine: &GpuMachine) -> Vec<ChainNarrowPlan> {
        let Ok(problems) = Self::problems(problem) else { return Vec::new() };
        let best: Vec<_> = problems.iter().map(|problem| Self::best_of_factor(problem, machine)).collect();
        Self::combined(problem, &best.iter().map(Vec::as_slice).collect::<Vec<_>>(), machine)
    }

    /// What one factor brings to [`ChainNarrowPlan::combined`]: for each number of threads its best tiles, the fastest first. It takes
    /// milliseconds, and depends on nothing but the factor.
    pub(crate) fn best_of_factor(problem: &GpuProblem, machine: &GpuMachine) -> Vec<narrow::Plan> {
        let mut counts = [0; 11];
        let mut plans = narrow::Plan::every(problem, machine);
        plans.retain(|plan| {
            let count = &mut counts[plan.threads().ilog2() as usize];
            *count += 1;
            *count <= TILES
        });
        plans
    }

    /// Plans out of the best tiles of the factors, which are given in the order of application: all that have one number of threads, each
    /// with each.
    pub(crate) fn combined(
        problem: &ChainProblem,
        best: &[&[narrow::Plan]],
        machine: &GpuMachine,
    ) -> Vec<ChainNarrowPlan> {
        let mut plans = Vec::new();
        for threads in (5..=10).map(|bit| 1 << bit) {
            let mut combined: Vec<Vec<narrow::Plan>> = vec![Vec::new()];
            for tiles in best {
                let fitting = || tiles.iter().filter(|tile| tile.threads() == threads);
                let with_each = |before: &Vec<narrow::Plan>| {
                    fitting().map(|tile| [before.as_slice(), std::slice::from_ref(tile)].concat()).collect::<Vec<_>>()
                };
                combined = combined.iter().flat_map(with_each).collect();
            }
            plans.extend(combined.into_iter().filter_map(|factors| Self::of(problem, factors, machine).ok()));
        }
        plans.sort_by_key(|plan| plan.picoseconds);
        plans.truncate(MOST_PLANS);
        plans
    }

    /// The plan with the least estimated time; the error says why there is none.
    pub fn choose(problem: &ChainProblem, machine: &GpuMachine) -> std::result::Result<ChainNarrowPlan, Rejected> {
        for factor in Self::problems(problem)? {
            narrow::Plan::fits(&factor, machine)?;
        }
        Self::candidates(problem, machine)
            .into_iter()
            .next()
            .ok_or_else(|| Rejected::Rule("the factors have no tiles of as many threads".into()))
    }

    /// What is multiplied.
    pub fn problem(&self) -> &ChainProblem {
        &self.problem
    }
    /// The tiles of the factors, in the order of application.
    pub fn tiles(&self) -> Vec<Tile> {
        self.factors.iter().map(narrow::Plan::tile).collect()
    }
    /// Estimated seconds for `problem().batch` vectors.
    pub fn seconds(&self) -> f64 {
        self.picoseconds as f64 * 1e-12
    }
    /// Names the order of the packed weights: two plans of the same factors with one name share a packed copy.
    pub fn packing(&self) -> String {
        let factors: Vec<String> = self.factors.iter().map(narrow::Plan::packing).collect();
        format!("{} {}", Self::NAME, factors.join("; "))
    }

    /// The weights of all factors, each of shape `(a, b, c, d)` in C order, in the order of application, in the kernel's order.
    pub fn pack<T: Scalar>(&self, weights: &[&[T]]) -> Result<Vec<T>> {
        let mut starts = vec![0];
        for factor in &self.factors {
            starts.push(starts[starts.len() - 1] + factor.packed_len());
        }
        let index = |at: usize, [i, o, l, j]: [usize; 4]| starts[at] + self.factors[at].packed_index(i, o, l, j);
        weight_parts::pack(&self.problem.applied(), weights, starts[self.factors.len()], index)
    }

    /// Blocks of a factor for `n` vectors: one per item, as far as the kernel goes.
    fn blocks(factor: &narrow::Plan, n: usize) -> usize {
        factor.items(n).min(MOST_BLOCKS)
    }
}

impl KernelPlan for ChainNarrowPlan {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.problem.dtype
    }
    fn arguments(&self) -> String {
        let ChainProblem { dtype, layout, aligned, bias, activation, join, .. } = self.problem;
        let align = if aligned { 16 } else { dtype.size() };
        let factors: String =
            self.factors.iter().map(|factor| format!(", ks::NarrowFactor<{}>", factor.numbers())).collect();
        format!(
            "ks::ChainNarrow<{}, {}, {}, {bias}, {}, {align}{factors}>",
            element(dtype),
            layout_name(layout),
            activation_name(activation),
            join_name(join),
        )
    }
    fn threads(&self) -> u32 {
        self.factors[0].threads()
    }
    fn shared_bytes(&self) -> u32 {
        self.factors.iter().map(narrow::Plan::shared_bytes).max().unwrap_or_default()
    }
    fn grid(&self, n: usize) -> u32 {
        self.factors.iter().map(|factor| Self::blocks(factor, n)).sum::<usize>() as u32
    }
    fn scratch(&self, n: usize) -> Scratch {
        let passed = &self.problem.applied()[..self.factors.len() - 1];
        let counters = passed.len() * LINE;
        let bytes = |rows: usize| (n * rows * self.problem.dtype.size()).next_multiple_of(LINE);
        Scratch { counters, bytes: counters + passed.iter().map(|pattern| bytes(pattern.rows())).sum::<usize>() }
    }
    fn waits(&self) -> bool {
        true
    }
}

impl fmt::Display for ChainNarrowPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} factors in one launch, {} threads and {} bytes of shared memory a block; a factor's blocks wait for those of the one before",
            Self::NAME,
            self.factors.len(),
            self.threads(),
            self.shared_bytes()
        )?;
        for (factor, pattern) in self.factors.iter().zip(self.problem.applied()) {
            let Tile { vectors, lanes, outputs, depth, thread_lanes, thread_outputs, split } = factor.tile();
            write!(
                f,
                "; {pattern}: {vectors} vectors × {lanes} lanes × {outputs} outputs, {depth} inputs a stage, {thread_lanes} × \
                 {thread_outputs} sums a vector and thread, {split} threads a sum"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
