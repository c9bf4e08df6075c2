//! The family for few vectors: CUDA cores, small blocks, weights read once. Its kernel is `kernels/narrow.cuh`.

use std::fmt;

use super::plain::{activation_name, element, join_name, layout_name};
use super::{GpuMachine, GpuProblem, Rejected, TensorMap, WeightParts};
use crate::{DType, Join, Layout};

/// How a block cuts the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Vectors of a block, all of them sums of every thread.
    pub vectors: usize,
    /// Lanes `j` of a block.
    pub lanes: usize,
    /// Outputs `o` of a block.
    pub outputs: usize,
    /// Inputs `l` that are staged together.
    pub depth: usize,
    /// Lanes of a thread.
    pub thread_lanes: usize,
    /// Outputs of a thread.
    pub thread_outputs: usize,
    /// Threads that share one sum over `l`.
    pub split: usize,
}

impl Tile {
    fn threads(self) -> usize {
        self.lanes / self.thread_lanes * (self.outputs / self.thread_outputs) * self.split
    }
    /// Weights of one input that a thread holds.
    fn pieces(self) -> usize {
        self.thread_lanes * self.thread_outputs
    }
}

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    problem: GpuProblem,
    tile: Tile,
    shared_bytes: usize,
    registers: usize,
}

/// 32-bit registers of a multiprocessor.
const REGISTERS: usize = 65536;
/// The largest grid that CUDA allows in its first dimension.
const LARGEST_GRID: usize = (1 << 31) - 1;
/// The largest batch that candidates are offered for.
const MOST_VECTORS: usize = 64;

impl Plan {
    /// The only way to get a plan: f16, bf16 or f32, a tile that its threads share evenly in whole warps, registers and
    /// shared memory that suffice. Any number of vectors is legal.
    pub fn new(problem: &GpuProblem, tile: Tile, machine: &GpuMachine) -> Result<Plan, Rejected> {
        Self::needs(problem, machine)?;
        let GpuProblem { pattern, dtype, layout, .. } = *problem;
        let rule = |why: String| Err(Rejected::Rule(why));
        let size = dtype.size();
        let Tile { vectors, lanes, outputs, depth, thread_lanes, thread_outputs, split } = tile;
        let all = [vectors, lanes, outputs, depth, thread_lanes, thread_outputs, split];
        if all.iter().any(|&number| number == 0 || number > 65536) {
            return rule(format!("the tile's numbers must be 1 to 65536, found {all:?}"));
        }
        let [a, b, c, d] = pattern.shape();
        let largest = 1 << 30;
        if [a * b, c * d * size, b * d * size].iter().any(|&x| x >= largest) {
            return rule(format!("a·b and the bytes of c·d and b·d must be below {largest} for {pattern}"));
        }
        if !lanes.is_multiple_of(thread_lanes) || !outputs.is_multiple_of(thread_outputs) {
            let share = format!("{thread_lanes} × {thread_outputs}");
            return rule(format!("threads must share {lanes} lanes × {outputs} outputs evenly by {share}"));
        }
        let threads = tile.threads();
        if !threads.is_multiple_of(32) || !(32..=1024).contains(&threads) {
            return rule(format!("a block must have 32 to 1024 threads, in whole warps; the tile has {threads}"));
        }
        let group = 16 / size;
        if !depth.is_multiple_of(group * split) {
            return rule(format!("{split} threads must share {depth} inputs evenly, {group} at a time"));
        }
        // Sums, loaded weights, the weights and inputs at work, addresses; measured by compilations.
        let turns = depth / (group * split);
        let pieces = tile.pieces();
        let registers = vectors * pieces + turns * pieces * 4 + pieces * group + 4 * thread_lanes + 40;
        let has = (REGISTERS / threads).min(255);
        if layout == Layout::BatchLast && vectors * pieces > 32 {
            return rule(format!("{vectors} vectors × {pieces} sums a thread spill, batch-last; at most 32 do not"));
        }
        let pairs = (d.is_multiple_of(2) && lanes.is_multiple_of(2))
            || (d == 1 && lanes == 1 && b.is_multiple_of(2) && outputs.is_multiple_of(2));
        if problem.join == Join::Gate && !pairs {
            return rule(format!(
                "{lanes} lanes × {outputs} outputs of {pattern} have not both of the outputs that a gate joins"
            ));
        }
        if registers > has {
            let why = format!("{vectors} vectors × {pieces} sums a thread and {turns} × {pieces} loads under way");
            return rule(format!("{why} need about {registers} registers, a thread of {threads} can have {has}"));
        }
        let stages = c.div_ceil(depth);
        let last = usize::from(layout == Layout::BatchLast);
        let x_bytes = (depth * lanes * vectors * size).next_multiple_of(16) * if stages > 1 { 2 } else { 1 };
        let sums = split * (vectors + last) * lanes * outputs * 4;
        let shared_bytes = x_bytes.max(sums);
        if shared_bytes > machine.shared_per_block as usize {
            let needs = u32::try_from(shared_bytes).unwrap_or(u32::MAX);
            return Err(Rejected::SharedMemory { needs, has: machine.shared_per_block });
        }
        Ok(Plan { problem: problem.clone(), tile, shared_bytes, registers })
    }

    /// Whether any tile can be legal and worth trying: the element type, the GPU, at most 64 vectors.
    pub fn fits(problem: &GpuProblem, machine: &GpuMachine) -> Result<(), Rejected> {
        Self::needs(problem, machine)?;
        if problem.batch > MOST_VECTORS {
            let why = format!("the kernel is for up to {MOST_VECTORS} vectors, found {}", problem.batch);
            return Err(Rejected::Rule(why));
        }
        Ok(())
    }

    /// What every tile needs.
    fn needs(problem: &GpuProblem, machine: &GpuMachine) -> Result<(), Rejected> {
        if !matches!(problem.dtype, DType::F16 | DType::Bf16 | DType::F32) {
            return Err(Rejected::Element(problem.dtype));
        }
        if machine.capability < (8, 0) {
            return Err(Rejected::Capability { needs: (8, 0), has: machine.capability });
        }
        Ok(())
    }

    /// Tiles worth trying for up to 64 vectors, the fastest by estimate first; none for more.
    pub fn candidates(problem: &GpuProblem, machine: &GpuMachine) -> Vec<Plan> {
        let [_, b, c, d] = problem.pattern.shape();
        let mut plans = Vec::new();
        if Self::fits(problem, machine).is_err() {
            return plans;
        }
        let group = 16 / problem.dtype.size();
        let powers = |most: usize| (0..=16).map(|bit| 1usize << bit).take_while(move |&x| x <= most);
        let mut thread_lanes = vec![1, 2, 4];
        if d == 3 {
            thread_lanes.push(3);
        }
        thread_lanes.retain(|&lanes| lanes <= d);
        for vectors in powers(problem.batch.max(1).next_power_of_two().min(32)) {
            // Fewer vectors than there are only where the weights are not read too often.
            if vectors * 4 < problem.batch {
                continue;
            }
            for &own_lanes in &thread_lanes {
                for lane_threads in powers(32) {
                    let lanes = own_lanes * lane_threads;
                    if lanes >= d + own_lanes * lane_threads.div_ceil(2) && lanes > own_lanes {
                        continue;
                    }
                    for own_outputs in [1, 2, 4].into_iter().filter(|&outputs| outputs <= b) {
                        for output_threads in powers(64) {
                            let outputs = own_outputs * output_threads;
                            // No more than there are, but at least a warp's worth.
                            if outputs > own_outputs && outputs >= 2 * b && lane_threads * output_threads > 32 {
                                continue;
                            }
                            for split in powers(32.min(c.div_ceil(group).next_power_of_two())) {
                                let threads = lane_threads * output_threads * split;
                                if !(32..=256).contains(&threads) {
                                    continue;
                                }
                                // As many inputs as are left, or as the registers hold on their way.
                                let turns = c.div_ceil(group * split).min(16 / (own_lanes * own_outputs)).max(1);
                                for turns in [turns, turns.div_ceil(2)] {
                                    let tile = Tile {
                                        vectors,
                                        lanes,
                                        outputs,
                                        depth: group * split * turns,
                                        thread_lanes: own_lanes,
                                        thread_outputs: own_outputs,
                                        split,
                                    };
                                    plans.extend(Plan::new(problem, tile, machine));
                                }
                            }
                        }
                    }
                }
            }
        }
        plans.sort_by(|p, q| p.seconds(machine).total_cmp(&q.seconds(machine)));
        plans.dedup();
        plans.truncate(MOST_PLANS);
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
    /// The template's numbers, in the order of `ks::narrow`.
    pub fn arguments(&self) -> String {
        let Plan { problem, tile, shared_bytes, registers: _ } = self;
        let GpuProblem { pattern, dtype, precision: _, layout, batch: _, aligned, bias, activation, join } = problem;
        let Tile { vectors, lanes, outputs, depth, thread_lanes, thread_outputs, split } = tile;
        let [a, b, c, d] = pattern.shape();
        let align = if *aligned { 16 } else { dtype.size() };
        format!(
            "{}, {}, {}, {bias}, {}, {a}, {b}, {c}, {d}, {vectors}, {lanes}, {outputs}, {depth}, {thread_lanes}, \
             {thread_outputs}, {split}, {align}, {shared_bytes}",
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
        self.tile.threads() as u32
    }
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes as u32
    }
    /// One block per tile, as far as CUDA allows; the kernel walks over what is left.
    pub fn grid(&self, n: usize) -> u32 {
        self.tiles().saturating_mul(n.div_ceil(self.tile.vectors)).clamp(1, LARGEST_GRID) as u32
    }
    /// No clusters.
    pub fn cluster(&self) -> u32 {
        1
    }
    /// `[tile][group of inputs][lane and output of thread][thread][input]`, everything rounded up.
    pub fn packed_len(&self) -> usize {
        let Tile { lanes, outputs, depth, .. } = self.tile;
        self.tiles() * self.problem.pattern.c().next_multiple_of(depth) * lanes * outputs
    }
    /// Where weight `(i, o, l, j)` stands: among the 16 bytes that its thread loads at once.
    pub fn packed_index(&self, i: usize, o: usize, l: usize, j: usize) -> usize {
        let Tile { lanes, outputs, depth, thread_lanes, thread_outputs, .. } = self.tile;
        let [_, b, c, d] = self.problem.pattern.shape();
        let group = 16 / self.problem.dtype.size();
        let tile = (i * d.div_ceil(lanes) + j / lanes) * b.div_ceil(outputs) + o / outputs;
        let (lane, output) = (j % lanes, o % outputs);
        let thread = lane / thread_lanes + output / thread_outputs * (lanes / thread_lanes);
        let piece = lane % thread_lanes * thread_outputs + output % thread_outputs;
        let together = lanes * outputs / self.tile.pieces();
        let groups = c.next_multiple_of(depth) / group;
        (((tile * groups + l / group) * self.tile.pieces() + piece) * together + thread) * group + l % group
    }
    /// The order depends on the lanes and outputs of block and thread; the length on the inputs of a stage.
    pub fn packing(&self) -> String {
        let Tile { lanes, outputs, depth, thread_lanes, thread_outputs, .. } = self.tile;
        let inputs = self.problem.pattern.c().next_multiple_of(depth);
        format!("lanes of {lanes} by {thread_lanes}, outputs of {outputs} by {thread_outputs}, inputs to {inputs}")
    }
    /// Weights as they are.
    pub fn weight_parts(&self) -> WeightParts {
        WeightParts::Whole
    }
    /// None.
    pub fn tensor_maps(&self, _n: usize) -> Vec<TensorMap> {
        Vec::new()
    }

    /// Rounds of blocks, each with its latency, its share of memory and cache traffic, and its instructions.
    pub fn seconds(&self, machine: &GpuMachine) -> f64 {
        let Tile { vectors, lanes, outputs, depth, thread_lanes, thread_outputs, split } = self.tile;
        let Plan { problem, shared_bytes, registers, .. } = self;
        let [_, _, c, d] = problem.pattern.shape();
        let size = problem.dtype.size() as f64;
        let threads = self.tile.threads();
        let blocks = self.grid(problem.batch.max(1)) as f64;
        let fitting = (REGISTERS / (registers.next_multiple_of(8) * threads))
            .min((machine.shared_per_block as usize + 1024) / (shared_bytes + 1024))
            .clamp(1, (1536 / threads).clamp(1, 24));
        let multiprocessors = f64::from(machine.multiprocessors);
        let slots = fitting as f64 * multiprocessors;
        let rounds = (blocks / slots).ceil();
        let clock = machine.flops.f32 / (256.0 * multiprocessors);

        // Instructions of a thread per group of inputs: loads of X, conversions, sums.
        let group = 16.0 / size;
        let pieces = (thread_lanes * thread_outputs) as f64;
        let contiguous = problem.layout == Layout::BatchLast || (thread_lanes == d && lanes == d);
        let loads = if contiguous { size * thread_lanes as f64 / 16.0 } else { 1.0 };
        let convert = if problem.dtype == DType::F32 { 0.0 } else { 2.0 };
        let per_input = vectors as f64 * (2.0 * loads + convert * thread_lanes as f64 + pieces) + convert * pieces;
        let stages = c.div_ceil(depth) as f64;
        let inputs = stages * (depth / split) as f64;
        // X in, partial sums out and in.
        let staging = stages * (depth * lanes * vectors) as f64 * size / 16.0 * 4.0 / threads as f64;
        let summing =
            (vectors * lanes * outputs) as f64 * (split as f64 + 20.0) / threads as f64 + vectors as f64 * pieces;
        let instructions = inputs * per_input + staging + summing;
        // A warp starts one instruction in four clocks when alone; a multiprocessor starts four a clock.
        let warps = (threads as f64 / 32.0) * (blocks / multiprocessors).ceil().min(fitting as f64);
        let compute = rounds * instructions * (warps / 4.0).max(2.0) / clock;

        let vector_tiles = problem.batch.max(1).div_ceil(vectors) as f64;
        let weights = self.packed_len() as f64 * size;
        let x = blocks * stages * (depth * lanes * vectors) as f64 * size;
        // Runs of lanes shorter than a sector.
        let run = if problem.layout == Layout::BatchLast || lanes >= d { 32.0 } else { lanes as f64 * size };
        let sector = (32.0 / run).max(1.0);
        let cache = (weights * vector_tiles + x * sector) / (2.0 * machine.bytes_per_second);
        // Too few bytes under way do not fill the memory.
        let under_way =
            (blocks.min(slots) * threads as f64 * 16.0 * pieces * (depth / split) as f64 / group).min(weights);
        let filled = (under_way / (machine.bytes_per_second * 1.0e-6)).min(1.0);
        let memory = weights / machine.bytes_per_second / filled.max(0.05).sqrt();
        1.5e-6 + rounds * 1.0e-6 + (stages - 1.0) * 0.5e-6 + memory.max(cache) + compute
    }

    fn tiles(&self) -> usize {
        let [a, b, _, d] = self.problem.pattern.shape();
        a * d.div_ceil(self.tile.lanes) * b.div_ceil(self.tile.outputs)
    }
}

/// Plans that are handed out.
const MOST_PLANS: usize = 32;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { vectors, lanes, outputs, depth, thread_lanes, thread_outputs, split } = self.tile;
        write!(
            f,
            "{vectors} vectors × {lanes} lanes × {outputs} outputs a block, {depth} inputs a stage, {thread_lanes} × \
             {thread_outputs} sums a vector and thread, {split} threads a sum, {} threads, {} bytes of shared memory",
            self.threads(),
            self.shared_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(pattern: &str, dtype: DType, layout: Layout, batch: usize) -> GpuProblem {
        GpuProblem::new(pattern.parse().unwrap(), dtype, layout, batch)
    }

    #[test]
    fn every_pattern_has_a_tile_and_every_weight_one_place() {
        let machine = GpuMachine::h100();
        for d in [1, 2, 3, 5, 8, 17, 28, 64] {
            for (dtype, layout) in [(DType::F16, Layout::BatchFirst), (DType::F32, Layout::BatchLast)] {
                for (b, c) in [(1, 1), (7, 50), (64, 64), (300, 20)] {
                    for batch in [1, 16, 64] {
                        let problem = problem(&format!("2,{b},{c},{d}"), dtype, layout, batch);
                        let plans = Plan::candidates(&problem, &machine);
                        assert!(!plans.is_empty(), "{problem:?}");
                        let plan = &plans[batch % plans.len()];
                        let mut used = vec![false; plan.packed_len()];
                        for (i, o, l, j) in
                            (0..2 * b * c * d).map(|k| (k / (b * c * d), k / (c * d) % b, k / d % c, k % d))
                        {
                            let at = plan.packed_index(i, o, l, j);
                            assert!(!std::mem::replace(&mut used[at], true), "({i}, {o}, {l}, {j}) of {plan}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_batch_keeps_all_multiprocessors_busy() {
        let machine = GpuMachine::h100();
        for (pattern, batch) in [("1,64,64,64", 16), ("1,64,64,64", 1), ("16,64,64,16", 16), ("6,64,64,1", 16)] {
            let plan =
                Plan::candidates(&problem(pattern, DType::F16, Layout::BatchFirst, batch), &machine).swap_remove(0);
            assert!(plan.grid(batch) * plan.threads() >= 132 * 64 / 2, "{pattern}: {plan}");
        }
    }

    #[test]
    fn broken_tiles_are_refused_with_their_numbers() {
        let machine = GpuMachine::h100();
        let problem = problem("1,64,64,64", DType::F16, Layout::BatchFirst, 16);
        let (vectors, lanes, outputs, depth) = (8, 16, 4, 64);
        let tile = Tile { vectors, lanes, outputs, depth, thread_lanes: 2, thread_outputs: 1, split: 8 };
        let plan = Plan::new(&problem, tile, &machine).unwrap();
        assert_eq!((plan.threads(), plan.shared_bytes(), plan.grid(16)), (256, 16384, 128));
        let why = |tile| Plan::new(&problem, tile, &machine).unwrap_err().to_string();
        assert!(why(Tile { depth: 40, ..tile }).contains("40 inputs"));
        assert!(why(Tile { thread_lanes: 3, ..tile }).contains("16 lanes"));
        assert!(why(Tile { vectors: 256, ..tile }).contains("registers"));
    }
}
