//! The gradient of a factor's weights, `G[i,o,l,j] = Σ_n V[n,i,o,j] · X[n,i,l,j]`, where `V` is the gradient of the factor's outputs:
//! one kernel sums parts of the batch on the tensor cores (`kernels/weight_gradient.cuh`), another adds up the parts
//! (`kernels/gradient_sum.cuh`). Batch-first arrays, f16, bf16 and f32, compute capability 8.0 and later.

use std::fmt;

use super::fused::fastest_first;
use super::lanes_mma::vector_of;
use super::plain::element;
use super::{GpuMachine, KernelPlan, Precision, Rejected};
use crate::{DType, Pattern};

mod candidates;
mod cost;

/// Which gradient is computed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GradientProblem {
    /// The factor's pattern.
    pub pattern: Pattern,
    /// Element type of `X`, `V` and the gradient.
    pub dtype: DType,
    /// How `f32` is multiplied.
    pub precision: Precision,
    /// Number of vectors.
    pub batch: usize,
    /// Whether `X` and `V` start at multiples of 16 bytes. Otherwise they have the alignment of one element.
    pub aligned: bool,
}

impl GradientProblem {
    /// Aligned arrays, full precision.
    pub fn new(pattern: Pattern, dtype: DType, batch: usize) -> GradientProblem {
        GradientProblem { pattern, dtype, precision: Precision::Full, batch, aligned: true }
    }

    /// Bytes that must move: `X` and `V` once in, the gradient once out.
    pub fn bytes(&self) -> f64 {
        self.pattern.bytes(self.batch, self.dtype.size())
    }
}

/// How a block cuts the work. A warp reads units of `sub · unit_lanes` numbers, 16 of `V` and 8 of `X` a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GradientTile {
    /// Lanes of a unit: a power of two.
    pub unit_lanes: usize,
    /// Lanes of a block: one warp, or one group of warps, for every `unit_lanes` of them.
    pub lanes: usize,
    /// Outputs of a unit of `V`, and inputs of a unit of `X`.
    pub sub: [usize; 2],
    /// Fragments of `V` and of `X` that a warp has.
    pub fragments: [usize; 2],
    /// Warps along the outputs and along the inputs.
    pub warps: [usize; 2],
    /// Vectors of a stage.
    pub rows: usize,
    /// Stages in shared memory.
    pub stages: usize,
    /// Parts of the batch.
    pub chunks: usize,
}

impl GradientTile {
    /// Outputs and inputs of a block.
    fn block(self) -> [usize; 2] {
        let of = |side: usize, group: usize| group * self.fragments[side] * self.warps[side] * self.sub[side];
        [of(0, 16), of(1, 8)]
    }
    fn lane_warps(self) -> usize {
        self.lanes / self.unit_lanes
    }
    fn threads(self) -> usize {
        self.warps[0] * self.warps[1] * self.lane_warps() * 32
    }
    /// Sums of a thread.
    fn sums(self) -> usize {
        self.fragments[0] * self.sub[0] * self.fragments[1] * self.sub[1] * self.unit_lanes * 4
    }
    /// Bytes of a stage.
    fn stage_bytes(self, size: usize) -> usize {
        let apart = if self.lanes == self.unit_lanes { 32 } else { 16 };
        let pitch = |outputs: usize| (outputs * self.lanes * size).next_multiple_of(128) + apart;
        self.rows * self.block().map(pitch).iter().sum::<usize>()
    }
}

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightGradientPlan {
    problem: GradientProblem,
    tile: GradientTile,
    shared: usize,
}

/// Vectors of a step of `mma.sync`.
fn step(dtype: DType) -> usize {
    16 / (dtype.size() / 2)
}

/// Registers of a multiprocessor.
const REGISTERS: usize = 65536;
/// The largest grid that CUDA allows in its first dimension.
const LARGEST_GRID: usize = (1 << 31) - 1;

impl WeightGradientPlan {
    /// The family's name: of its header and of its kernel.
    pub const NAME: &'static str = "weight_gradient";

    /// The only way to get a plan. The error says which rule the tile breaks.
    pub fn new(
        problem: &GradientProblem,
        tile: GradientTile,
        machine: &GpuMachine,
    ) -> Result<WeightGradientPlan, Rejected> {
        Self::fits(problem, machine)?;
        let rule = |why: String| Err(Rejected::Rule(why));
        let GradientTile { unit_lanes, lanes, sub, fragments, warps, rows, stages, chunks } = tile;
        let (d, size) = (problem.pattern.d(), problem.dtype.size());
        let units = sub.map(|sub| sub * unit_lanes * size);
        if !unit_lanes.is_power_of_two() || !sub.iter().all(|sub| sub.is_power_of_two()) {
            return rule(format!("lanes, outputs and inputs of a unit must be powers of two, found {tile:?}"));
        }
        if units.iter().any(|&bytes| bytes > 16) {
            return rule(format!("a unit has at most 16 bytes, found {units:?}"));
        }
        if lanes == 0 || !d.is_multiple_of(lanes) || !lanes.is_multiple_of(unit_lanes) {
            return rule(format!("units of {unit_lanes} lanes must divide the block's {lanes}, and these the {d}"));
        }
        if lanes > unit_lanes && (unit_lanes * size != 16 || lanes * size > 64) {
            return rule(format!("several units of lanes must have 16 bytes each and 64 at most, found {tile:?}"));
        }
        if fragments.contains(&0) || warps.contains(&0) || chunks == 0 || stages < 2 {
            return rule(format!("expected a fragment, a warp and a part at least, and two stages, found {tile:?}"));
        }
        if rows == 0 || !rows.is_multiple_of(step(problem.dtype)) {
            return rule(format!("a stage must have a multiple of {} vectors, found {rows}", step(problem.dtype)));
        }
        let (needs, has) = (registers(problem, tile), (REGISTERS / tile.threads()).min(255));
        if tile.threads() > 1024 || needs > has {
            return rule(format!("a thread of {} needs about {needs} registers, it can have {has}", tile.threads()));
        }
        let shared = stages * tile.stage_bytes(size);
        if shared > machine.shared_per_block as usize {
            let needs = u32::try_from(shared).unwrap_or(u32::MAX);
            return Err(Rejected::SharedMemory { needs, has: machine.shared_per_block });
        }
        let plan = WeightGradientPlan { problem: problem.clone(), tile, shared };
        if plan.groups().saturating_mul(chunks) > LARGEST_GRID || problem.pattern.nnz() > LARGEST_GRID {
            return rule(format!("{} has too many weights, or the grid would have too many blocks", problem.pattern));
        }
        Ok(plan)
    }

    /// Whether any tile can be legal: the element type, the GPU.
    pub fn fits(problem: &GradientProblem, machine: &GpuMachine) -> Result<(), Rejected> {
        if !matches!(problem.dtype, DType::F16 | DType::Bf16 | DType::F32) {
            return Err(Rejected::Element(problem.dtype));
        }
        if machine.capability < (8, 0) {
            return Err(Rejected::Capability { needs: (8, 0), has: machine.capability });
        }
        Ok(())
    }

    /// Tiles worth trying, the fastest by estimate first.
    pub fn candidates(problem: &GradientProblem, machine: &GpuMachine) -> Vec<WeightGradientPlan> {
        if Self::fits(problem, machine).is_err() {
            return Vec::new();
        }
        let tiles = candidates::tiles(problem, machine).into_iter();
        fastest_first(tiles.filter_map(|tile| Self::new(problem, tile, machine).ok()), |plan| plan.seconds(machine))
    }

    /// The plan with the least estimated time. Errors: the element type or the GPU has none.
    pub fn choose(problem: &GradientProblem, machine: &GpuMachine) -> Result<WeightGradientPlan, Rejected> {
        Self::fits(problem, machine)?;
        Self::candidates(problem, machine)
            .into_iter()
            .next()
            .ok_or_else(|| Rejected::Rule(format!("no tile for the gradient of {}", problem.pattern)))
    }

    /// What is computed.
    pub fn problem(&self) -> &GradientProblem {
        &self.problem
    }
    /// How the work is cut.
    pub fn tile(&self) -> GradientTile {
        self.tile
    }
    /// `f32` numbers of the parts, which [`GradientSum`] adds up.
    pub fn parts_len(&self) -> usize {
        self.tile.chunks * self.problem.pattern.nnz()
    }
    /// The kernel that adds them up.
    pub fn sum(&self) -> GradientSum {
        GradientSum::new(self.problem.dtype, self.problem.pattern.nnz(), self.tile.chunks)
    }

    /// Blocks that share a part of the batch.
    fn groups(&self) -> usize {
        let [a, b, c, d] = self.problem.pattern.shape();
        let [outputs, inputs] = self.tile.block();
        a * (d / self.tile.lanes) * b.div_ceil(outputs) * c.div_ceil(inputs)
    }

    /// Estimated seconds, of both kernels.
    pub fn seconds(&self, machine: &GpuMachine) -> f64 {
        cost::seconds(self, machine)
    }
}

/// Registers of a thread: sums, fragments of `X`, units of `V`, addresses and loops, as compilations showed. With one fragment of `V`, those of
/// `X` are taken as they are needed.
fn registers(problem: &GradientProblem, tile: GradientTile) -> usize {
    let words = |sub: usize| (sub * tile.unit_lanes * problem.dtype.size()).div_ceil(4);
    let (terms, parts, rest) = match (problem.dtype, problem.precision) {
        (DType::F32, Precision::Full) => (2, 3, 120),
        (DType::F32, Precision::Tf32) => (2, 1, 56),
        _ => (4, 1, 60),
    };
    let inputs = tile.fragments[1] * tile.sub[1] * tile.unit_lanes * 2 * parts;
    let inputs = if tile.fragments[0] == 1 && parts == 1 { inputs / 2 } else { inputs };
    // One warp has all copies of a stage to itself.
    let copies = if tile.threads() == 32 { 32 } else { 0 };
    tile.sums() + inputs + 2 * terms * words(tile.sub[0]) + rest + copies
}

impl KernelPlan for WeightGradientPlan {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.problem.dtype
    }
    fn arguments(&self) -> String {
        let GradientProblem { pattern, dtype, precision, aligned, .. } = self.problem;
        let GradientTile { unit_lanes, lanes, sub, fragments, warps, rows, stages, chunks } = self.tile;
        let number = match (dtype, precision) {
            (DType::F16, _) => "ks::MmaF16",
            (DType::Bf16, _) => "ks::MmaBf16",
            (_, Precision::Full) => "ks::MmaF32",
            (_, Precision::Tf32) => "ks::MmaTf32",
        };
        let [a, b, c, d] = pattern.shape();
        let align = if aligned { 16 } else { vector_of(dtype.size()) };
        format!(
            "{number}, {a}, {b}, {c}, {d}, {unit_lanes}, {lanes}, {}, {}, {}, {}, {}, {}, {rows}, {stages}, {chunks}, {align}",
            sub[0], sub[1], fragments[0], fragments[1], warps[0], warps[1]
        )
    }
    fn threads(&self) -> u32 {
        self.tile.threads() as u32
    }
    fn shared_bytes(&self) -> u32 {
        self.shared as u32
    }
    fn grid(&self, _: usize) -> u32 {
        (self.groups() * self.tile.chunks) as u32
    }
}

impl fmt::Display for WeightGradientPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GradientTile { lanes, warps, rows, stages, chunks, .. } = self.tile;
        let [outputs, inputs] = self.tile.block();
        write!(
            f,
            "{}: {outputs} outputs × {inputs} inputs × {lanes} lanes a block, {} × {} × {} warps, {stages} stages of {rows} vectors, \
             {chunks} parts of the batch, {} bytes of shared memory",
            Self::NAME,
            warps[0],
            warps[1],
            self.tile.lane_warps(),
            self.shared
        )
    }
}

/// The kernel that adds up the parts of a gradient, of weights or of a bias, and rounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GradientSum {
    dtype: DType,
    len: usize,
    parts: usize,
}

impl GradientSum {
    /// The kernel's name and its header's.
    pub const NAME: &'static str = "gradient_sum";
    const THREADS: usize = 256;

    /// For `parts` parts of `len` numbers each.
    pub(super) fn new(dtype: DType, len: usize, parts: usize) -> GradientSum {
        GradientSum { dtype, len, parts }
    }
    /// Numbers of the gradient: the kernel's `n`.
    pub fn numbers(&self) -> usize {
        self.len
    }
    /// Numbers that a thread adds up.
    fn count(&self) -> usize {
        if self.len.is_multiple_of(4) { 4 } else { 1 }
    }
}

impl KernelPlan for GradientSum {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn arguments(&self) -> String {
        format!("{}, {}, {}, {}", element(self.dtype), self.parts, self.count(), Self::THREADS)
    }
    fn threads(&self) -> u32 {
        Self::THREADS as u32
    }
    fn shared_bytes(&self) -> u32 {
        0
    }
    fn grid(&self, n: usize) -> u32 {
        n.div_ceil(self.count() * Self::THREADS) as u32
    }
}

impl fmt::Display for GradientSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} parts of {} numbers", Self::NAME, self.parts, self.len)
    }
}

#[cfg(test)]
mod tests;
