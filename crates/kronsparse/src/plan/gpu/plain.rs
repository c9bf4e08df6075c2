//! The family that is always legal: CUDA cores, any type, any size, any alignment. Its kernel is `kernels/plain.cuh`.

use std::fmt;

use super::{GpuMachine, GpuProblem, Rejected, TensorMap, WeightParts};
use crate::{Activation, DType, Join, Layout};

mod cost;

/// How a block cuts the work. All numbers are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Lanes (pairs `(i, j)`) of a block.
    pub lanes: u32,
    /// Outputs `o` of a block.
    pub outputs: u32,
    /// Vectors of a block.
    pub vectors: u32,
    /// Inputs `l` that are staged together.
    pub depth: u32,
    /// Outputs of a thread.
    pub thread_outputs: u32,
    /// Vectors of a thread.
    pub thread_vectors: u32,
}

impl Tile {
    fn threads(self) -> u32 {
        self.lanes * (self.outputs / self.thread_outputs) * (self.vectors / self.thread_vectors)
    }
}

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    problem: GpuProblem,
    tile: Tile,
    shared_bytes: u32,
}

/// The largest grid that CUDA allows in its first dimension.
const LARGEST_GRID: u64 = (1 << 31) - 1;

impl Plan {
    /// The only way to get a plan. Any real element type is legal; the tile must consist of powers of two, whole warps, at
    /// most 1024 threads, and fit the shared memory.
    pub fn new(problem: &GpuProblem, tile: Tile, machine: &GpuMachine) -> Result<Plan, Rejected> {
        Self::fits(problem, machine)?;
        let Tile { lanes, outputs, vectors, depth, thread_outputs, thread_vectors } = tile;
        let all = [lanes, outputs, vectors, depth, thread_outputs, thread_vectors];
        let rule = |why: String| Err(Rejected::Rule(why));
        if !all.iter().all(|&number| number.is_power_of_two() && number <= 1024) {
            return rule(format!("the tile's numbers must be powers of two up to 1024, found {all:?}"));
        }
        if lanes > 32 {
            return rule(format!("a block has at most 32 lanes, found {lanes}"));
        }
        if outputs < thread_outputs || vectors < thread_vectors {
            return rule(format!("a thread's {thread_outputs} × {thread_vectors} sums exceed {outputs} × {vectors}"));
        }
        let threads = u64::from(lanes) * u64::from(outputs / thread_outputs) * u64::from(vectors / thread_vectors);
        if !threads.is_multiple_of(32) || threads > 1024 {
            return rule(format!("a block must have 32 to 1024 threads, in whole warps; the tile has {threads}"));
        }
        let rows = if problem.layout == Layout::BatchFirst { vectors + 1 + outputs } else { vectors + outputs };
        let needs = u64::from(depth) * u64::from(lanes) * u64::from(rows) * sum_bytes(problem.dtype) as u64;
        if needs > u64::from(machine.shared_per_block) {
            return Err(Rejected::SharedMemory {
                needs: u32::try_from(needs).unwrap_or(u32::MAX),
                has: machine.shared_per_block,
            });
        }
        Ok(Plan { problem: problem.clone(), tile, shared_bytes: needs as u32 })
    }

    /// Whether any tile can be legal; complex numbers have none, nor have gates.
    pub fn fits(problem: &GpuProblem, _machine: &GpuMachine) -> Result<(), Rejected> {
        if problem.dtype.is_complex() {
            return Err(Rejected::Element(problem.dtype));
        }
        can_join(problem.join, &[Join::Residual])
    }

    /// Tiles worth trying: blocks of at most 256 threads that are no larger than the problem needs, with register tiles
    /// from one sum to 64, and a depth that keeps two blocks per multiprocessor.
    pub fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Plan> {
        let [a, b, c, d] = problem.pattern.shape();
        let up_to = |most: u32, size: usize| -> Vec<u32> {
            let needed = size.max(1).checked_next_power_of_two().unwrap_or(usize::MAX);
            (0..=10).map(|bit| 1u32 << bit).filter(|&x| x <= most && x as usize <= needed).collect()
        };
        let sum = sum_bytes(problem.dtype) as u32;
        let mut plans = Vec::new();
        for &lanes in &up_to(32, a * d) {
            for &thread_outputs in &up_to(8, b) {
                for &thread_vectors in &up_to(8, problem.batch) {
                    if thread_outputs * thread_vectors * sum > 256 {
                        continue;
                    }
                    for &outputs in up_to(128, b).iter().filter(|&&o| o >= thread_outputs) {
                        let across = lanes * (outputs / thread_outputs);
                        if across > 256 {
                            continue;
                        }
                        // As many vectors as a block of 256 threads has, or as there are, in whole warps.
                        let wanted = problem.batch.max(1).checked_next_power_of_two().unwrap_or(usize::MAX);
                        let vector_threads =
                            (256 / across).min((wanted / thread_vectors as usize).clamp(1, 256) as u32).max(1);
                        let vector_threads = vector_threads.max(32u32.div_ceil(across).next_power_of_two());
                        let vectors = vector_threads * thread_vectors;
                        let threads = across * vector_threads;
                        // Staged bytes of one `l`, and the registers in which the next stage waits.
                        let rows = lanes * (vectors + 1 + outputs);
                        let waiting = if thread_outputs * thread_vectors * sum > 128 { 16 } else { 24 };
                        let most = (40960 / (rows * sum)).min(waiting * threads * 4 / sum / rows).max(1);
                        let depth = up_to(32.min(most), c).last().copied().unwrap_or(1);
                        let tile = Tile { lanes, outputs, vectors, depth, thread_outputs, thread_vectors };
                        plans.extend(Plan::new(problem, tile, machine));
                    }
                }
            }
        }
        plans
    }

    /// What is multiplied.
    pub fn problem(&self) -> &GpuProblem {
        &self.problem
    }
    /// How the work is cut.
    pub fn tile(&self) -> Tile {
        self.tile
    }
    /// The template's numbers, in the order of `ks::Plain`.
    pub fn arguments(&self) -> String {
        let Plan { problem, tile, shared_bytes: _ } = self;
        let GpuProblem { pattern, dtype, precision: _, layout, batch: _, aligned: _, bias, activation, join } = problem;
        let Tile { lanes, outputs, vectors, depth, thread_outputs, thread_vectors } = tile;
        let [a, b, c, d] = pattern.shape();
        format!(
            "{}, {}, {}, {bias}, {}, {a}, {b}, {c}, {d}, {lanes}, {outputs}, {vectors}, {depth}, {thread_outputs}, {thread_vectors}",
            element(*dtype),
            layout_name(*layout),
            activation_name(*activation),
            join_name(*join),
        )
    }
    /// None.
    pub fn prelude(&self) -> String {
        String::new()
    }
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.tile.threads()
    }
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }
    /// One block per tile, as far as CUDA allows; the kernel walks over what is left.
    pub fn grid(&self, n: usize) -> u32 {
        self.tiles(n).min(LARGEST_GRID) as u32
    }
    /// No clusters.
    pub fn cluster(&self) -> u32 {
        1
    }
    /// `[lanes / tile][c][b][tile]`, lanes rounded up.
    pub fn packed_len(&self) -> usize {
        let [a, b, c, d] = self.problem.pattern.shape();
        (a * d).next_multiple_of(self.tile.lanes as usize) * b * c
    }
    /// Where weight `(i, o, l, j)` stands.
    pub fn packed_index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
        let [_, b, c, d] = self.problem.pattern.shape();
        let (lane, width) = (i * d + j, self.tile.lanes as usize);
        ((lane / width * c + l) * b + o) * width + lane % width
    }
    /// The order depends on the lanes of a block alone.
    pub fn packing(&self) -> String {
        format!("lanes of {}", self.tile.lanes)
    }
    /// Weights as they are.
    pub fn weight_parts(&self) -> WeightParts {
        WeightParts::Whole
    }
    /// None.
    pub fn tensor_maps(&self, _n: usize) -> Vec<TensorMap> {
        Vec::new()
    }

    /// Estimated seconds for the plan's batch.
    pub fn seconds(&self, machine: &GpuMachine) -> f64 {
        cost::seconds(self, machine)
    }

    fn tiles(&self, n: usize) -> u64 {
        let [a, b, _, d] = self.problem.pattern.shape();
        let Tile { lanes, outputs, vectors, .. } = self.tile;
        let tiles = |size: usize, tile: u32| size.div_ceil(tile as usize) as u64;
        tiles(a * d, lanes) * tiles(b, outputs).saturating_mul(tiles(n, vectors))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { lanes, outputs, vectors, depth, thread_outputs, thread_vectors } = self.tile;
        write!(
            f,
            "{lanes} lanes × {outputs} outputs × {vectors} vectors a block, {depth} inputs a stage, {thread_outputs} × \
             {thread_vectors} sums a thread, {} threads, {} bytes of shared memory",
            self.threads(),
            self.shared_bytes
        )
    }
}

fn sum_bytes(dtype: DType) -> usize {
    dtype.size().max(4)
}

/// The kernels' name of an element type; complex types have none and are refused before.
pub(super) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "ks::F16",
        DType::Bf16 => "ks::BF16",
        DType::F32 => "ks::F32",
        DType::F64 => "ks::F64",
        DType::C64 | DType::C128 => "void",
    }
}

/// The kernels' name of a layout.
pub(super) fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::BatchFirst => "ks::Layout::BatchFirst",
        Layout::BatchLast => "ks::Layout::BatchLast",
    }
}

/// The kernels' name of what outputs are joined with.
pub(super) fn join_name(join: Join) -> &'static str {
    match join {
        Join::None => "ks::Join::None",
        Join::Residual => "ks::Join::Residual",
        Join::Gate => "ks::Join::Gate",
    }
}

/// Whether a family that joins outputs in these ways, beside not at all, multiplies a problem.
pub(super) fn can_join(join: Join, ways: &[Join]) -> Result<(), Rejected> {
    match join {
        Join::None => Ok(()),
        _ if ways.contains(&join) => Ok(()),
        Join::Residual => Err(Rejected::Rule("no residual is added".into())),
        Join::Gate => Err(Rejected::Rule("no gates are joined".into())),
    }
}

/// The kernels' name of an activation.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::None => "ks::Activation::None",
        Activation::Relu => "ks::Activation::Relu",
        Activation::Gelu => "ks::Activation::Gelu",
        Activation::GeluTanh => "ks::Activation::GeluTanh",
        Activation::Silu => "ks::Activation::Silu",
    }
}
