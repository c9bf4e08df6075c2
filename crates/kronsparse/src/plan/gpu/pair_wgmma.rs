//! Two consecutive factors in one kernel on Hopper: the hidden vectors never leave the chip. Its kernel is
//! `kernels/pair_wgmma.cuh`.

use std::fmt;

use super::fused::fastest_first;
use super::lanes_wgmma::{Kind, wgmma_header, wgmma_shared_header};
use super::plain::{activation_name, join_name};
use super::{ChainProblem, GpuMachine, KernelPlan, Operand, Rejected, Swizzle, TensorMap, weight_parts};
use crate::{Activation, DType, Join, Layout, Pattern, Result, Scalar};

mod tile;

use tile::Numbers;
pub use tile::Tile;

/// A legal tile for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PairPlan {
    problem: ChainProblem,
    tile: Tile,
    numbers: Numbers,
    /// Clusters that the machine holds at once.
    clusters: usize,
}

/// Sums of the first factor that a thread can hold beside the exact GELU of all outputs without spilling hundreds of bytes, as
/// compilations showed.
const MOST_FIRST_SUMS: usize = 96;
/// The largest coordinate of a tensor map that the kernel counts with.
const LARGEST_INDEX: usize = i32::MAX as usize;

impl PairPlan {
    /// The family's name: of its header and of its kernel.
    pub const NAME: &'static str = "pair_wgmma";

    /// The only way to get a plan: f16 or bf16, batch-first, on compute capability 9.0; patterns `(a1, b1, c1, 1)` and
    /// `(1, b2, c2, d2)` whose hidden vectors have one size; aligned arrays; a tile that fits them.
    pub fn new(problem: &ChainProblem, tile: Tile, machine: &GpuMachine) -> std::result::Result<PairPlan, Rejected> {
        let ChainProblem { dtype, layout, batch, aligned, .. } = *problem;
        let &[second, first] = problem.chain.patterns() else {
            let found = problem.chain.patterns().len();
            return Err(Rejected::Rule(format!("the kernel multiplies by two factors, found {found}")));
        };
        if !matches!(dtype, DType::F16 | DType::Bf16) {
            return Err(Rejected::Element(dtype));
        }
        if machine.capability != (9, 0) {
            return Err(Rejected::Capability { needs: (9, 0), has: machine.capability });
        }
        if !aligned {
            return Err(Rejected::Alignment);
        }
        let rule = |why: String| Err(Rejected::Rule(why));
        if layout != Layout::BatchFirst {
            return rule(format!("the kernel multiplies batch-first arrays, found {layout}"));
        }
        if first.d() != 1 || second.a() != 1 {
            return rule(format!(
                "the kernel multiplies by (a, b, c, 1) and then (1, b, c, d), found {first} and {second}"
            ));
        }
        let extents = [first.cols(), second.rows(), batch];
        if extents.iter().any(|&extent| extent > LARGEST_INDEX) {
            return rule(format!("the copy engine counts up to {LARGEST_INDEX}, found {extents:?}"));
        }
        let costly = problem.activation == Activation::Gelu && problem.join != Join::Gate;
        if costly && Numbers::first_sums(first) > MOST_FIRST_SUMS {
            let found = Numbers::first_sums(first);
            return rule(format!(
                "{} takes registers: at most {MOST_FIRST_SUMS} sums of the first factor a thread, found {found}",
                problem.activation
            ));
        }
        let numbers = Numbers::new(first, second, tile).map_err(Rejected::Rule)?;
        if numbers.shared > machine.shared_per_block as usize {
            let needs = u32::try_from(numbers.shared).unwrap_or(u32::MAX);
            return Err(Rejected::SharedMemory { needs, has: machine.shared_per_block });
        }
        let clusters = super::lanes_wgmma::clusters(tile.cluster, machine.multiprocessors as usize);
        Ok(PairPlan { problem: problem.clone(), tile, numbers, clusters })
    }

    /// Tiles worth trying, the fastest by estimate first.
    pub fn candidates(problem: &ChainProblem, machine: &GpuMachine) -> Vec<PairPlan> {
        fastest_first(Tile::all().filter_map(|tile| Self::with_most_stages(problem, tile, machine)), Self::seconds)
    }

    /// The plan with the least estimated time.
    ///
    /// Errors: why the most ordinary tile is not legal, where none is.
    pub fn choose(problem: &ChainProblem, machine: &GpuMachine) -> std::result::Result<PairPlan, Rejected> {
        match Self::candidates(problem, machine).into_iter().next() {
            Some(plan) => Ok(plan),
            None => Self::new(problem, Tile::ORDINARY, machine),
        }
    }

    /// The tile with as many stages, up to 16, as shared memory holds.
    fn with_most_stages(problem: &ChainProblem, tile: Tile, machine: &GpuMachine) -> Option<PairPlan> {
        let plan = PairPlan::new(problem, tile, machine).ok()?;
        let stage = plan.numbers.stage_bytes + 16;
        let rest = plan.numbers.shared - tile.stages * stage;
        let stages = ((machine.shared_per_block as usize - rest) / stage).min(16);
        PairPlan::new(problem, Tile { stages, ..tile }, machine).ok()
    }

    /// The factor that is applied first, and the one that is applied to its result, rounded to the element type.
    fn first(&self) -> Pattern {
        self.problem.chain.patterns()[1]
    }
    fn second(&self) -> Pattern {
        self.problem.chain.patterns()[0]
    }
    /// What is multiplied.
    pub fn problem(&self) -> &ChainProblem {
        &self.problem
    }
    /// How the work is cut.
    pub fn tile(&self) -> Tile {
        self.tile
    }
    /// Names the order of the packed weights: two plans of one pair with one name share a packed copy.
    pub fn packing(&self) -> String {
        let Tile { cluster, members, item_units, group_outs, depth, row_groups: _, stages: _, prefetch: _ } = self.tile;
        format!("{} {cluster} {members} {item_units} {group_outs} {depth}", Self::NAME)
    }

    /// The weights of both factors, in the order of application, of shapes `(a1, b1, c1, 1)` and `(1, b2, c2, d2)` in C order,
    /// in the kernel's order.
    pub fn pack<T: Scalar>(&self, weights: &[&[T]]) -> Result<Vec<T>> {
        let index = |factor: usize, [i, o, l, j]: [usize; 4]| match factor {
            0 => self.numbers.first_index(i, o, l),
            _ => self.numbers.second_index(&self.tile, o, l, j),
        };
        weight_parts::pack(&self.problem.applied(), weights, self.numbers.packed * self.tile.cluster, index)
    }

    /// Estimated seconds for `problem().batch` vectors on an H100: every round of the clusters moves X and Y of a block's tile
    /// at a pace that was measured, with 16-byte runs of Y at less than half of it. Fitted to the tiles
    /// in `record/2026-11-22-h100/attempts.md`, which it meets within a seventh.
    pub fn seconds(&self) -> f64 {
        let (first, second) = (self.first(), self.second());
        let tiles = self.problem.batch.max(1).div_ceil(self.numbers.rows);
        let rounds = tiles.div_ceil(self.clusters) as f64;
        let bytes = |features: usize| (self.numbers.rows * features * 2) as f64 / self.tile.cluster as f64;
        let runs = if self.tile.item_units == 1 { SHORT_RUNS } else { 1.0 };
        // A residual is read; a gate leaves half of Y, in runs of half the length.
        let moved = bytes(first.cols())
            + bytes(second.rows())
                * match self.problem.join {
                    Join::None => runs,
                    Join::Residual => runs + 1.0,
                    Join::Gate => runs * SHORT_RUNS / 2.0,
                };
        let weights = (self.numbers.packed * 2) as f64;
        // `wgmma` takes 14 clocks or more, also for few outputs.
        let [_, b2, c2, _] = second.shape();
        let products =
            (b2.div_ceil(self.tile.group_outs) * c2.div_ceil(16) * self.numbers.lanes * self.tile.row_groups) as f64;
        let tensor = products * (self.tile.group_outs as f64 / 2.0).max(14.0) / CLOCK;
        let shallow = 1.0 + 0.02 / self.tile.depth as f64 + 0.1 / self.tile.stages as f64;
        // What goes to other blocks of the cluster, of which most is sent while the next products run.
        let cluster = self.tile.cluster as f64;
        let sent = bytes(first.rows()) * (cluster - 1.0) / cluster;
        let tile = TILE + (moved / PACE + weights / WEIGHTS_PACE) * shallow + tensor + sent / CLUSTER_PACE * UNHIDDEN;
        START + rounds * tile
    }

    /// Tiles of 64 or 128 vectors.
    fn tiles(&self, n: usize) -> usize {
        n.div_ceil(self.numbers.rows).max(1)
    }
}

/// Seconds before the first tile and after the last.
const START: f64 = 4.5e-6;
/// Seconds of a tile that do not depend on its size.
const TILE: f64 = 0.3e-6;
/// Bytes of X and Y per second and block.
const PACE: f64 = 20.5e9;
/// Bytes of weights per second and block.
const WEIGHTS_PACE: f64 = 300e9;
/// Bytes per second that a block sends to others of its cluster (14.5 a clock, measured), and how much of that is not hidden.
const CLUSTER_PACE: f64 = 29e9;
const UNHIDDEN: f64 = 0.3;
/// Hertz.
const CLOCK: f64 = 1.75e9;
/// How much slower 16-byte runs of Y are than 32-byte runs.
const SHORT_RUNS: f64 = 2.25;

impl KernelPlan for PairPlan {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn dtype(&self) -> DType {
        self.problem.dtype
    }
    fn arguments(&self) -> String {
        let ChainProblem { dtype, bias, activation, join, .. } = self.problem;
        let (first, second) = (self.first(), self.second());
        let Tile { cluster, row_groups, members, item_units, group_outs, depth, stages, prefetch } = self.tile;
        let ([a1, b1, c1, _], [_, b2, c2, d2]) = (first.shape(), second.shape());
        let element = if dtype == DType::F16 { "F16" } else { "BF16" };
        format!(
            "ks::PairTile<ks::{element}, {}, {bias}, {}, {a1}, {b1}, {c1}, {b2}, {c2}, {d2}, {cluster}, {row_groups}, {members}, \
             {item_units}, {group_outs}, {depth}, {stages}, {prefetch}, {}>",
            activation_name(activation),
            join_name(join),
            self.numbers.registers
        )
    }
    fn prelude(&self) -> String {
        let kind = if self.problem.dtype == DType::F16 { Kind::F16 } else { Kind::Bf16 };
        let (second, first) = (self.tile.group_outs as u32, self.numbers.first_outs as u32);
        format!("#define KS_WGMMA 1\n{}{}", wgmma_header(kind, second), wgmma_shared_header(kind, first))
    }
    fn threads(&self) -> u32 {
        self.numbers.threads as u32
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
    fn in_clusters(&self) -> bool {
        // A block sends to itself as to the others of its cluster.
        true
    }
    fn tensor_maps(&self, n: usize) -> Vec<TensorMap> {
        let columns = self.first().cols() as u64;
        let (rows, line) = (n.max(1) as u64, columns * self.problem.dtype.size() as u64);
        vec![TensorMap {
            operand: Operand::X,
            dims: [columns, rows, 1, 1],
            strides: [line, line * rows, line * rows],
            boxed: [64, self.numbers.rows as u32, 1, 1],
            swizzle: Swizzle::Bytes128,
        }]
    }
    fn waits(&self) -> bool {
        true
    }
}

impl fmt::Display for PairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tile, x) = (&self.tile, &self.numbers);
        write!(
            f,
            "{}: {} vectors a cluster of {} blocks, {} blocks of the first factor and {} lanes of the second one each, {} lanes × \
             {} outputs a warpgroup at a time, {} stages of {} bytes, {} threads, {} bytes of shared memory; hidden vectors stay \
             on the chip",
            Self::NAME,
            x.rows,
            tile.cluster,
            x.blocks,
            x.lanes,
            tile.item_units * 8,
            tile.group_outs,
            tile.stages,
            x.stage_bytes,
            x.threads,
            x.shared
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(first: &str, second: &str, batch: usize) -> ChainProblem {
        crate::plan::gpu::chain::tests::problem(&format!("({second})({first})"), DType::F16, batch)
    }

    #[test]
    fn the_weights_fill_the_packed_array_once() {
        for (first, second) in [
            ("64,64,64,1", "1,64,64,64"),
            ("32,32,32,1", "1,48,32,32"),
            ("16,24,16,1", "1,40,24,16"),
            ("8,128,128,1", "1,16,16,64"),
            ("48,48,64,1", "1,64,36,64"),
        ] {
            let problem = problem(first, second, 1000);
            let plans = PairPlan::candidates(&problem, &GpuMachine::h100());
            assert!(!plans.is_empty(), "{first} {second}");
            for plan in plans {
                let ones = |pattern: Pattern| vec![half::f16::from_f32(1.0); pattern.nnz()];
                let packed = plan.pack(&[&ones(plan.first()), &ones(plan.second())]).unwrap();
                let count = packed.iter().filter(|w| w.to_f32() == 1.0).count();
                assert_eq!(count, problem.chain.parameters(), "{plan}");
            }
        }
    }

    #[test]
    fn a_monarch_chain_of_4096_takes_clusters_of_four_and_runs_of_32_bytes() {
        let plan = PairPlan::choose(&problem("64,64,64,1", "1,64,64,64", 25088), &GpuMachine::h100()).unwrap();
        assert_eq!((plan.tile.cluster, plan.tile.item_units), (4, 2), "{plan}");
        assert!(plan.shared_bytes() <= GpuMachine::h100().shared_per_block);
        let seconds = plan.seconds();
        assert!((200e-6..260e-6).contains(&seconds), "231 µs were measured, {seconds} estimated");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let machine = GpuMachine::h100();
        let why = |problem: ChainProblem| PairPlan::choose(&problem, &machine).unwrap_err().to_string();
        let good = problem("64,64,64,1", "1,64,64,64", 64);
        assert!(why(problem("32,64,64,2", "1,64,64,64", 64)).contains("found (32,64,64,2)"));
        assert!(why(ChainProblem { dtype: DType::F32, ..good.clone() }).contains("f32"));
        assert!(why(ChainProblem { aligned: false, ..good.clone() }).contains("multiples of 16 bytes"));
        assert!(why(ChainProblem { layout: Layout::BatchLast, ..good.clone() }).contains("batch-first"));
        assert!(why(problem("6,64,64,1", "1,768,192,2", 64)).contains("lanes"));
        let gelu = ChainProblem { activation: Activation::Gelu, ..problem("64,112,64,1", "1,64,112,64", 64) };
        assert!(why(gelu).contains("at most 96 sums"));
        assert!(why(problem("64,224,64,1", "1,64,448,32", 64)).contains("below a megabyte"));
        let old = GpuMachine { capability: (8, 0), ..machine.clone() };
        assert!(PairPlan::choose(&good, &old).unwrap_err().to_string().contains("9.0"));
    }
}
