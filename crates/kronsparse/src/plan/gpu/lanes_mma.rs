//! The tensor-core family for compute capability 8.0 and later: `mma.sync` fed by `cp.async`, any layout, lanes and
//! alignment. Its kernel is `kernels/lanes_mma.cuh`.

use std::fmt;

use super::plain::{activation_name, join_name, layout_name};
use super::{GpuMachine, GpuProblem, Precision, Rejected, TensorMap, WeightParts};
use crate::{Activation, DType, Join};

mod candidates;
mod cost;
mod geometry;

pub(super) use geometry::vector_of;
pub use geometry::{Geometry, Rows};

/// How a block cuts the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Vectors of a block.
    pub rows: usize,
    /// Lanes `j` of a block.
    pub lanes: usize,
    /// Outputs `o` of a block.
    pub outputs: usize,
    /// Inputs `l` of a stage of the ring.
    pub depth: usize,
    /// Stages of the ring.
    pub stages: usize,
    /// Warps that share the rows.
    pub row_warps: usize,
    /// Warps that share the lanes.
    pub lane_warps: usize,
    /// Warps that share the outputs.
    pub output_warps: usize,
    /// Whether the weights stay in shared memory while the block walks over the batch.
    pub resident: bool,
    /// Whether outputs pass through shared memory, to be stored in longer runs.
    pub regroup: bool,
}

impl Tile {
    fn threads(self) -> usize {
        32 * self.row_warps * self.lane_warps * self.output_warps
    }
}

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    problem: GpuProblem,
    tile: Tile,
    geometry: Geometry,
    /// Blocks that the machine holds at once.
    slots: usize,
}

/// 32-bit registers of a multiprocessor.
const REGISTERS: usize = 65536;
/// Bytes of shared memory that the driver keeps for itself, per block.
const SHARED_RESERVED: usize = 1024;
/// The largest grid that CUDA allows in its first dimension.
const LARGEST_GRID: usize = (1 << 31) - 1;

impl Plan {
    /// The only way to get a plan: f16, bf16 or f32 on compute capability 8.0 or later, a tile that its warps share
    /// evenly, registers and shared memory that suffice.
    pub fn new(problem: &GpuProblem, tile: Tile, machine: &GpuMachine) -> Result<Plan, Rejected> {
        Self::fits(problem, machine)?;
        let GpuProblem { pattern, dtype, layout, .. } = *problem;
        if let Some(rule) = Geometry::rule(pattern, dtype, layout, tile) {
            return Err(Rejected::Rule(rule));
        }
        let geometry = Geometry::new(pattern, dtype, layout, tile);
        if problem.join == Join::Gate {
            // The outputs that are joined: neighbouring lanes, or without lanes neighbouring outputs.
            let lanes = pattern.d().is_multiple_of(2) && (tile.lanes / tile.lane_warps).is_multiple_of(2);
            let outputs = match geometry.rows {
                Rows::Whole => (pattern.b() * pattern.d()).is_multiple_of(2),
                Rows::Last => pattern.d() == 1 && pattern.b().is_multiple_of(2),
                Rows::Split | Rows::Gather => false,
            };
            if !lanes && !outputs {
                let why = format!("a thread has not both of the outputs of {pattern} that a gate joins");
                return Err(Rejected::Rule(format!("{why}, with {tile:?}")));
            }
        }
        if geometry.shared > machine.shared_per_block as usize {
            let needs = u32::try_from(geometry.shared).unwrap_or(u32::MAX);
            return Err(Rejected::SharedMemory { needs, has: machine.shared_per_block });
        }
        let (needs, has) = (registers(&geometry, problem), (REGISTERS / tile.threads()).min(255));
        if needs > has {
            let sums = geometry.sums;
            return Err(Rejected::Rule(format!(
                "{sums} sums a thread need about {needs} registers, a thread of {} can have {has}",
                tile.threads()
            )));
        }
        // The opt-in maximum of a block is what a multiprocessor has, less what is reserved for one block.
        let shared = machine.shared_per_block as usize + SHARED_RESERVED;
        let per_multiprocessor = (shared / (geometry.shared + SHARED_RESERVED))
            .min(REGISTERS / (tile.threads() * needs.next_multiple_of(8)))
            .min(1536 / tile.threads())
            .clamp(1, 24);
        let slots = per_multiprocessor * machine.multiprocessors as usize;
        Ok(Plan { problem: problem.clone(), tile, geometry, slots })
    }

    /// Whether any tile can be legal: the element type, the GPU.
    pub fn fits(problem: &GpuProblem, machine: &GpuMachine) -> Result<(), Rejected> {
        if !matches!(problem.dtype, DType::F16 | DType::Bf16 | DType::F32) {
            return Err(Rejected::Element(problem.dtype));
        }
        if machine.capability < (8, 0) {
            return Err(Rejected::Capability { needs: (8, 0), has: machine.capability });
        }
        Ok(())
    }

    /// Tiles worth trying, the fastest by estimate first; at most 48.
    pub fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Plan> {
        candidates::candidates(problem, machine)
    }

    /// What is multiplied.
    pub fn problem(&self) -> &GpuProblem {
        &self.problem
    }
    /// How the work is cut.
    pub fn tile(&self) -> Tile {
        self.tile
    }
    /// What follows from the tile.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// The template's numbers, in the order of `ks::lanes_mma`.
    pub fn arguments(&self) -> String {
        let Plan { problem, tile, geometry, slots: _ } = self;
        let GpuProblem { pattern, dtype, precision, layout, batch: _, aligned, bias, activation, join } = problem;
        let Tile { rows, lanes, outputs, depth, stages, row_warps, lane_warps, output_warps, resident, regroup } = tile;
        let [a, b, c, d] = pattern.shape();
        let number = match (dtype, precision) {
            (DType::F16, _) => "ks::MmaF16",
            (DType::Bf16, _) => "ks::MmaBf16",
            (_, Precision::Tf32) => "ks::MmaTf32",
            (_, Precision::Full) => "ks::MmaF32",
        };
        let align = if *aligned { 16 } else { geometry.size };
        format!(
            "{number}, {}, {}, {bias}, {}, {a}, {b}, {c}, {d}, {rows}, {lanes}, {outputs}, {depth}, {stages}, {row_warps}, \
             {lane_warps}, {output_warps}, {resident}, {regroup}, {align}, {}",
            layout_name(*layout),
            activation_name(*activation),
            join_name(*join),
            geometry.shared,
        )
    }
    /// None.
    pub fn prelude(&self) -> String {
        String::new()
    }
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.tile.threads() as u32
    }
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.geometry.shared as u32
    }
    /// As many blocks as the machine holds at once, which walk over the batch. Blocks with resident weights stay with
    /// their lanes and outputs, so their number is a multiple of the groups.
    pub fn grid(&self, n: usize) -> u32 {
        let row_tiles = n.div_ceil(self.tile.rows).max(1);
        let blocks = if self.tile.resident {
            self.geometry.groups * self.walkers(row_tiles)
        } else {
            self.geometry.groups.saturating_mul(row_tiles).min(self.slots)
        };
        blocks.min(LARGEST_GRID) as u32
    }
    /// No clusters.
    pub fn cluster(&self) -> u32 {
        1
    }
    /// `[group][step][lane][16 outputs][thread][word][number]`, everything rounded up to whole tiles.
    pub fn packed_len(&self) -> usize {
        self.geometry.groups * self.geometry.weight_bytes / self.geometry.size
    }
    /// Where weight `(i, o, l, j)` stands: in the fragment of its lane, its term's step and its 16 outputs.
    pub fn packed_index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
        let Tile { lanes, outputs, depth, output_warps, .. } = self.tile;
        let geometry = &self.geometry;
        let Geometry { size, step, own, terms, chunks, lane_tiles, output_tiles, .. } = *geometry;
        let group = (i * lane_tiles + j / lanes) * output_tiles + o / outputs;
        let (quad, place) = geometry.term_place(l);
        let at_step = l / (4 * terms) * (terms / own) + place / own;
        let (word, number) = (place % own / (own / 2), place % own % (own / 2));
        let warp_outputs = outputs / output_warps;
        let (column, pair, x) = geometry.output_place(o % warp_outputs);
        let column = o % outputs / warp_outputs * (warp_outputs / 8) + column;
        let thread = (2 * pair + x) * 4 + quad;
        let fragment = ((group * (chunks * depth / step) + at_step) * lanes + j % lanes) * (outputs / 16) + column / 2;
        ((fragment * 32 + thread) * 4 + column % 2 * 2 + word) * (4 / size) + number
    }
    /// The order depends on the lanes and outputs of block and warp, and on which terms a thread takes.
    pub fn packing(&self) -> String {
        let Tile { lanes, outputs, depth, output_warps, .. } = self.tile;
        let Geometry { terms, paired, run, chunks, .. } = self.geometry;
        let (warp, inputs) = (outputs / output_warps, chunks * depth);
        format!("lanes of {lanes}, outputs of {outputs} in {warp} by {run}, inputs to {inputs} by {terms}/{paired}")
    }
    /// Weights as they are.
    pub fn weight_parts(&self) -> WeightParts {
        WeightParts::Whole
    }
    /// None.
    pub fn tensor_maps(&self, _n: usize) -> Vec<TensorMap> {
        Vec::new()
    }

    /// Blocks per group that walk over `row_tiles` tiles of rows: the number that ends first.
    fn walkers(&self, row_tiles: usize) -> usize {
        let groups = self.geometry.groups;
        let most = row_tiles.min(2 * self.slots / groups + 1);
        // Loading the weights costs about as much as a tile of rows.
        let cost = |walkers: usize| (groups * walkers).div_ceil(self.slots) * (row_tiles.div_ceil(walkers) + 1);
        (1..=most).min_by_key(|&walkers| cost(walkers)).unwrap_or(1)
    }

    /// Estimated seconds for the plan's batch.
    pub fn seconds(&self, machine: &GpuMachine) -> f64 {
        cost::seconds(self, machine)
    }
}

/// Registers of a thread, as compilations showed: sums, loaded words of X, fragments and addresses, called activations.
fn registers(geometry: &Geometry, problem: &GpuProblem) -> usize {
    let full = problem.dtype == DType::F32 && problem.precision == Precision::Full;
    let called = !matches!(problem.activation, Activation::None | Activation::Relu);
    geometry.sums + geometry.words + if full { 160 } else { 64 } + if called { 64 } else { 0 }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { rows, lanes, outputs, depth, stages, row_warps, lane_warps, output_warps, resident, regroup } =
            self.tile;
        let weights = if resident { "resident" } else { "streamed" };
        let regrouped = if regroup { ", outputs regrouped" } else { "" };
        write!(
            f,
            "{rows} rows × {lanes} lanes × {outputs} outputs a block, {stages} stages of {depth} inputs, \
             {row_warps} × {lane_warps} × {output_warps} warps, weights {weights}{regrouped}, {} bytes of shared memory",
            self.geometry.shared
        )
    }
}
