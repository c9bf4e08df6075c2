//! A whole chain in one kernel on Hopper: vectors pass through two factors or more by `wgmma`, what lies between two factors stays in
//! shared memory, and all weights stream through one ring. Its kernel is `kernels/chain_wgmma.cuh`.

use std::collections::BTreeSet;
use std::fmt;

use super::fused::fastest_first;
use super::lanes_wgmma::{Kind, wgmma_shared_header};
use super::plain::{activation_name, can_join, join_name};
use super::{ChainProblem, GpuMachine, KernelPlan, Operand, Rejected, Swizzle, TensorMap, weight_parts};
use crate::{Activation, DType, Join, Layout, Pattern, Result, Scalar};

mod tile;

use tile::Numbers;
pub use tile::{FactorCut, Tile};

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainWgmmaPlan {
    problem: ChainProblem,
    tile: Tile,
    numbers: Numbers,
    /// Clusters that the machine holds at once.
    clusters: usize,
}

/// Bytes of shared memory that the driver keeps for itself, per block.
const SHARED_RESERVED: usize = 1024;

impl ChainWgmmaPlan {
    /// The family's name: of its header and of its kernel.
    pub const NAME: &'static str = "chain_wgmma";

    /// The only way to get a plan: f16 or bf16, batch-first, on compute capability 9.0; aligned arrays with rows of whole 16 bytes; a first factor
    /// `(a, b, c, 1)` and a last one with few lanes; a tile whose vectors fit in shared memory.
    pub fn new(
        problem: &ChainProblem,
        tile: Tile,
        machine: &GpuMachine,
    ) -> std::result::Result<ChainWgmmaPlan, Rejected> {
        if !matches!(problem.dtype, DType::F16 | DType::Bf16) {
            return Err(Rejected::Element(problem.dtype));
        }
        if machine.capability != (9, 0) {
            return Err(Rejected::Capability { needs: (9, 0), has: machine.capability });
        }
        if !problem.aligned {
            return Err(Rejected::Alignment);
        }
        let rule = |why: String| Err(Rejected::Rule(why));
        if problem.layout != Layout::BatchFirst {
            return rule(format!("the kernel multiplies batch-first arrays, found {}", problem.layout));
        }
        can_join(problem.join, &[Join::Residual])?;
        let called = !matches!(problem.activation, Activation::None | Activation::Relu);
        if problem.join == Join::Residual && called && tile.blocks > 1 {
            // Compilations spilled a few registers.
            let what = format!("{} beside a residual takes registers", problem.activation);
            return rule(format!("{what}: at most one block a multiprocessor, found {}", tile.blocks));
        }
        let (rows, cols) = (problem.chain.rows(), problem.chain.cols());
        if !rows.is_multiple_of(8) || !cols.is_multiple_of(8) {
            return rule(format!("the copy engine moves rows of whole 16 bytes, found {cols} columns and {rows} rows"));
        }
        if problem.batch > i32::MAX as usize {
            return rule(format!("the copy engine counts up to {}, found {} vectors", i32::MAX, problem.batch));
        }
        let numbers = Numbers::new(&problem.applied(), &tile).map_err(Rejected::Rule)?;
        let most = machine.shared_per_block as usize;
        let needs = tile.blocks * (numbers.shared + SHARED_RESERVED) - SHARED_RESERVED;
        if needs > most {
            return Err(Rejected::SharedMemory {
                needs: u32::try_from(needs).unwrap_or(u32::MAX),
                has: machine.shared_per_block,
            });
        }
        let multiprocessors = machine.multiprocessors as usize;
        let clusters = match tile.cluster {
            1 => multiprocessors * tile.blocks,
            of => super::lanes_wgmma::clusters(of, multiprocessors),
        };
        Ok(ChainWgmmaPlan { problem: problem.clone(), tile, numbers, clusters })
    }

    /// Tiles worth trying, the fastest by estimate first.
    pub fn candidates(problem: &ChainProblem, machine: &GpuMachine) -> Vec<ChainWgmmaPlan> {
        let tiles = tiles(&problem.applied()).into_iter();
        fastest_first(tiles.filter_map(|tile| Self::with_most_stages(problem, tile, machine)), Self::seconds)
    }

    /// The plan with the least estimated time.
    ///
    /// Errors: why the smallest tile is not legal, where none is.
    pub fn choose(problem: &ChainProblem, machine: &GpuMachine) -> std::result::Result<ChainWgmmaPlan, Rejected> {
        match Self::candidates(problem, machine).into_iter().next() {
            Some(plan) => Ok(plan),
            None => Self::new(problem, smallest(&problem.applied()), machine),
        }
    }

    /// The tile with as many stages, up to 8, as shared memory holds.
    fn with_most_stages(problem: &ChainProblem, tile: Tile, machine: &GpuMachine) -> Option<ChainWgmmaPlan> {
        let plan = ChainWgmmaPlan::new(problem, tile.clone(), machine).ok()?;
        let stage = plan.numbers.stage_bytes + 16;
        let each = (machine.shared_per_block as usize + SHARED_RESERVED) / tile.blocks - SHARED_RESERVED;
        let stages = ((each - (plan.numbers.shared - tile.stages * stage)) / stage).min(8);
        ChainWgmmaPlan::new(problem, Tile { stages, ..tile }, machine).ok()
    }

    /// What is multiplied.
    pub fn problem(&self) -> &ChainProblem {
        &self.problem
    }
    /// How the work is cut.
    pub fn tile(&self) -> &Tile {
        &self.tile
    }
    /// Names the order of the packed weights: two plans of the same factors with one name share a packed copy.
    pub fn packing(&self) -> String {
        format!("{} {:?}", Self::NAME, self.tile.cuts)
    }

    /// The weights of all factors, each of shape `(a, b, c, d)` in C order, in the order of application, in the kernel's order.
    pub fn pack<T: Scalar>(&self, weights: &[&[T]]) -> Result<Vec<T>> {
        let index = |factor: usize, [i, o, l, j]: [usize; 4]| self.numbers.factors[factor].index(i, o, l, j);
        weight_parts::pack(&self.problem.applied(), weights, self.numbers.packed, index)
    }

    /// Estimated seconds for `problem().batch` vectors on an H100, from what the parts of a tile took there (clock by clock, in
    /// `record/2026-11-23-h100`): X is waited for, then every output tile is multiplied by one warpgroup after the other and given out.
    pub fn seconds(&self) -> f64 {
        let numbers = &self.numbers;
        let cols = self.problem.chain.cols();
        let at_once = (self.tile.groups * self.tile.blocks) as f64;
        let x_bytes = (64 * cols * 2) as f64 * at_once;
        let mut clocks = X_LATENCY + x_bytes / MOVED_BYTES;
        for (k, factor) in numbers.factors.iter().enumerate() {
            let jobs = factor.jobs() as f64;
            let boxes = if k + 1 == numbers.factors.len() {
                factor.numbers_of_a_job() / 64.0
            } else {
                factor.numbers_of_a_job() / 128.0
            };
            clocks += factor.clocks() * at_once + jobs * (JOB + boxes * BOX);
        }
        let tiles = self.problem.batch.max(1).div_ceil(numbers.rows);
        let rounds = tiles.div_ceil(self.clusters * self.tile.cluster) as f64;
        let bytes = (self.problem.batch * 2) as f64 * (cols as f64 + self.problem.moved_outputs());
        START + (rounds * clocks / CLOCK).max(bytes / BYTES_PER_SECOND)
    }

    /// Tiles of the vectors of a cluster.
    fn tiles(&self, n: usize) -> usize {
        n.div_ceil(self.numbers.rows * self.tile.cluster).max(1)
    }
}

/// Seconds of a launch with its ends.
const START: f64 = 3.5e-6;
/// Hertz.
const CLOCK: f64 = 1.7e9;
/// Bytes of X a clock and multiprocessor, and of X and Y a second.
const MOVED_BYTES: f64 = 13.0;
const BYTES_PER_SECOND: f64 = 2.9e12;
/// Clocks until the first numbers of X are there.
const X_LATENCY: f64 = 2000.0;
/// Clocks of a job beside its products, and of 64 columns of 64 vectors that are given out.
const JOB: f64 = 100.0;
const BOX: f64 = 340.0;

/// Over warpgroups and outputs; the fewest stages.
fn tiles(patterns: &[Pattern]) -> Vec<Tile> {
    let mut all = Vec::new();
    for groups in [1, 2, 3] {
        for (cluster, blocks) in [(1, 1), (1, 2), (2, 1), (4, 1)] {
            for outs in [128, 64] {
                for depth in [12, 8, 6, 4, 2] {
                    let cuts = cuts(patterns, outs, depth);
                    let last = patterns.last().zip(cuts.last());
                    // Warpgroups that take turns have a whole job in the ring.
                    let chunks = last.map_or(0, |(pattern, cut)| pattern.c().div_ceil(16) / cut.depth);
                    let stages = if groups == 1 { 2 } else { chunks.max(2) };
                    let tile = Tile { cluster, groups, stages, blocks, cuts };
                    if !all.contains(&tile) {
                        all.push(tile);
                    }
                }
            }
        }
    }
    all
}

/// The tile that takes the least shared memory.
fn smallest(patterns: &[Pattern]) -> Tile {
    Tile { cluster: 1, groups: 1, stages: 2, blocks: 1, cuts: cuts(patterns, 64, 4) }
}

/// `numbers` of Y at a time, at most `depth` steps.
fn cuts(patterns: &[Pattern], numbers: usize, depth: usize) -> Vec<FactorCut> {
    let count = patterns.len();
    let cut = |(k, pattern): (usize, &Pattern)| {
        let [_, b, c, d] = pattern.shape();
        let steps = c.div_ceil(16);
        // All steps, or whole lines of them, where that is not too much at a time.
        let fits = |x: &usize| steps.is_multiple_of(*x) && (*x == steps || x.is_multiple_of(4));
        let divisor =
            (1..=depth).rev().find(fits).or_else(|| (1..=depth).rev().find(|x| steps.is_multiple_of(*x))).unwrap_or(1);
        if k == 0 {
            return FactorCut { outs: b.next_multiple_of(32).min(256), depth: 1 };
        }
        if k + 1 == count {
            // No wider than there are outputs.
            let most = (b * d).next_multiple_of(64).min(numbers);
            return FactorCut { outs: (most / d).max(8), depth: divisor };
        }
        FactorCut {
            outs: if b.is_multiple_of(32) || b > 32 { b.next_multiple_of(32).min(128) } else { b.next_multiple_of(8) },
            depth: divisor,
        }
    };
    patterns.iter().enumerate().map(cut).collect()
}

impl KernelPlan for ChainWgmmaPlan {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.problem.dtype
    }
    fn arguments(&self) -> String {
        let ChainProblem { dtype, bias, activation, join, .. } = self.problem;
        let Tile { cluster, groups, stages, .. } = self.tile;
        let element = if dtype == DType::F16 { "F16" } else { "BF16" };
        let factors: String = self
            .numbers
            .factors
            .iter()
            .map(|factor| {
                let ([a, b, c, d], FactorCut { outs, depth }) = (factor.pattern.shape(), factor.cut);
                format!(", ks::WgmmaFactor<{a}, {b}, {c}, {d}, {outs}, {depth}>")
            })
            .collect();
        format!(
            "ks::ChainWgmmaTile<ks::{element}, {}, {bias}, {}, {cluster}, {groups}, {stages}, {}, {}{factors}>",
            activation_name(activation),
            join_name(join),
            if groups == 1 { 0 } else { self.numbers.registers },
            self.numbers.shared,
        )
    }
    fn prelude(&self) -> String {
        let kind = if self.problem.dtype == DType::F16 { Kind::F16 } else { Kind::Bf16 };
        let sizes: BTreeSet<u32> = self.tile.cuts.iter().map(|cut| cut.outs as u32).collect();
        let products: String = sizes.into_iter().map(|n| wgmma_shared_header(kind, n)).collect();
        format!("#define KS_WGMMA 1\n{products}")
    }
    fn threads(&self) -> u32 {
        self.numbers.threads as u32
    }
    fn blocks_per_multiprocessor(&self) -> u32 {
        self.tile.blocks as u32
    }
    fn shared_bytes(&self) -> u32 {
        self.numbers.shared as u32
    }
    fn grid(&self, n: usize) -> u32 {
        (self.tiles(n).min(self.clusters) * self.tile.cluster) as u32
    }
    fn cluster(&self) -> u32 {
        self.tile.cluster as u32
    }
    fn tensor_maps(&self, n: usize) -> Vec<TensorMap> {
        let map = |operand: Operand, features: usize, rows: usize| {
            let (n, line) = (n.max(1) as u64, (features * self.problem.dtype.size()) as u64);
            TensorMap {
                operand,
                dims: [features as u64, n, 1, 1],
                strides: [line, line * n, line * n],
                boxed: [64, rows as u32, 1, 1],
                swizzle: Swizzle::Bytes128,
            }
        };
        vec![
            map(Operand::X, self.problem.chain.cols(), self.numbers.rows),
            map(Operand::Y, self.problem.chain.rows(), 64),
        ]
    }
    fn waits(&self) -> bool {
        true
    }
}

impl fmt::Display for ChainWgmmaPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Tile { cluster, groups, stages, blocks, .. }, numbers) = (&self.tile, &self.numbers);
        write!(
            f,
            "{}: {} vectors a block through {} factors by {groups} warpgroups, clusters of {cluster} that share weights, {stages} stages of {} bytes, {} threads, {blocks} blocks a multiprocessor, {} \
             bytes of shared memory; hidden vectors stay on the chip",
            Self::NAME,
            numbers.rows,
            numbers.factors.len(),
            numbers.stage_bytes,
            numbers.threads,
            numbers.shared
        )?;
        for factor in &numbers.factors {
            write!(f, "; {}: {} outputs at a time", factor.pattern, factor.cut.outs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
