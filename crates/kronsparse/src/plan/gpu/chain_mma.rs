//! A whole chain in one kernel, for compute capability 8.0 and later: a block takes its vectors through two factors or more of any
//! patterns, and what passes between them stays in shared memory. Its kernel is `kernels/chain_mma.cuh`.

use std::fmt;

use super::fused::fastest_first;
use super::lanes_mma::vector_of;
use super::plain::{activation_name, join_name, layout_name};
use super::{ChainProblem, GpuMachine, KernelPlan, Precision, Rejected, weight_parts};
use crate::{Activation, DType, Join, Pattern, Result, Scalar};

mod candidates;
mod cost;
mod tile;

use tile::Numbers;
pub use tile::{FactorCut, Tile};

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainMmaPlan {
    problem: ChainProblem,
    tile: Tile,
    numbers: Numbers,
    multiprocessors: usize,
}

/// Bytes of shared memory that the driver keeps for itself, per block.
const SHARED_RESERVED: usize = 1024;

impl ChainMmaPlan {
    /// The family's name: of its header and of its kernel.
    pub const NAME: &'static str = "chain_mma";

    /// The only way to get a plan: f16, bf16 or f32, two factors or more, compute capability 8.0 or later, a tile whose vectors
    /// fit in shared memory.
    pub fn new(
        problem: &ChainProblem,
        tile: Tile,
        machine: &GpuMachine,
    ) -> std::result::Result<ChainMmaPlan, Rejected> {
        let numbers = Self::numbers(problem, &tile, machine)?;
        let (shared, most) = (numbers.shared, machine.shared_per_block as usize);
        let all = most + SHARED_RESERVED;
        if shared > most || tile.blocks * (shared + SHARED_RESERVED) > all {
            let needs = u32::try_from(tile.blocks * (shared + SHARED_RESERVED) - SHARED_RESERVED).unwrap_or(u32::MAX);
            return Err(Rejected::SharedMemory { needs, has: machine.shared_per_block });
        }
        let multiprocessors = machine.multiprocessors as usize;
        Ok(ChainMmaPlan { problem: problem.clone(), tile, numbers, multiprocessors })
    }

    fn numbers(problem: &ChainProblem, tile: &Tile, machine: &GpuMachine) -> std::result::Result<Numbers, Rejected> {
        if !matches!(problem.dtype, DType::F16 | DType::Bf16 | DType::F32) {
            return Err(Rejected::Element(problem.dtype));
        }
        if machine.capability < (8, 0) {
            return Err(Rejected::Capability { needs: (8, 0), has: machine.capability });
        }
        let last = problem.chain.patterns()[0];
        if problem.join == Join::Gate && !(last.b() * last.d()).is_multiple_of(2) {
            return Err(Rejected::Rule(format!("the outputs of a block of {last} do not come in twos")));
        }
        let split = problem.dtype == DType::F32 && problem.precision == Precision::Full;
        let called = !matches!(problem.activation, Activation::None | Activation::Relu);
        Numbers::new(&problem.applied(), problem.dtype.size(), split, called, tile).map_err(Rejected::Rule)
    }

    /// Tiles worth trying, the fastest by estimate first.
    pub fn candidates(problem: &ChainProblem, machine: &GpuMachine) -> Vec<ChainMmaPlan> {
        // No block holds what is wider.
        let narrow = |pattern: &Pattern| pattern.rows() <= machine.shared_per_block as usize;
        if !problem.chain.patterns()[1..].iter().all(narrow) {
            return Vec::new();
        }
        let tiles = candidates::tiles(&problem.applied(), problem.dtype.size()).into_iter();
        fastest_first(tiles.filter_map(|tile| Self::new(problem, tile, machine).ok()), Self::seconds)
    }

    /// The plan with the least estimated time.
    ///
    /// Errors: why the smallest tile is not legal, where none is.
    pub fn choose(problem: &ChainProblem, machine: &GpuMachine) -> std::result::Result<ChainMmaPlan, Rejected> {
        match Self::candidates(problem, machine).into_iter().next() {
            Some(plan) => Ok(plan),
            None => Self::new(problem, candidates::smallest(&problem.applied(), problem.dtype.size()), machine),
        }
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

    /// The widest aligned access to rows of X and Y.
    fn align(&self) -> usize {
        if self.problem.aligned { 16 } else { vector_of(self.problem.dtype.size()) }
    }
}

impl KernelPlan for ChainMmaPlan {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.problem.dtype
    }
    fn arguments(&self) -> String {
        let ChainProblem { dtype, precision, layout, bias, activation, join, .. } = self.problem;
        let Tile { rows, row_warps, column_warps, .. } = self.tile;
        let number = match (dtype, precision) {
            (DType::F16, _) => "ks::MmaF16",
            (DType::Bf16, _) => "ks::MmaBf16",
            (_, Precision::Full) => "ks::MmaF32",
            (_, Precision::Tf32) => "ks::MmaTf32",
        };
        let factors: String = self
            .numbers
            .factors
            .iter()
            .map(|factor| {
                let [a, b, c, d] = factor.pattern.shape();
                let FactorCut { columns, chunk_blocks, chunk_tiles } = factor.cut;
                format!(", ks::ChainFactor<{a}, {b}, {c}, {d}, {columns}, {chunk_blocks}, {chunk_tiles}>")
            })
            .collect();
        format!(
            "ks::ChainTile<{number}, {}, {}, {bias}, {}, {rows}, {row_warps}, {column_warps}, {}, {}{factors}>",
            layout_name(layout),
            activation_name(activation),
            join_name(join),
            self.align(),
            self.numbers.shared,
        )
    }
    fn threads(&self) -> u32 {
        self.tile.threads() as u32
    }
    fn blocks_per_multiprocessor(&self) -> u32 {
        self.tile.blocks as u32
    }
    fn shared_bytes(&self) -> u32 {
        self.numbers.shared as u32
    }
    fn grid(&self, n: usize) -> u32 {
        n.div_ceil(self.tile.rows) as u32
    }
}

impl fmt::Display for ChainMmaPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { rows, row_warps, column_warps, blocks, .. } = self.tile;
        write!(
            f,
            "{}: {rows} vectors a block through {} factors, {row_warps} × {column_warps} warps, {blocks} blocks a multiprocessor, {} bytes of \
             shared memory; hidden vectors stay on the chip",
            Self::NAME,
            self.numbers.factors.len(),
            self.numbers.shared
        )?;
        for factor in &self.numbers.factors {
            let FactorCut { columns, .. } = factor.cut;
            write!(f, "; {}: {} outputs a warp at a time, {} chunks", factor.pattern, 8 * columns, factor.chunks)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
