//! A spread of plans of every kernel family, small enough to be emulated, and how one of them is launched and judged.

use std::collections::BTreeSet;

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::plan::gpu::{
    self, ChainMmaPlan, ChainProblem, ChainWgmmaPlan, FusedPlan, GpuMachine, GpuPlan, GpuProblem, KernelPlan, Operand,
    PairPlan, Precision, Swizzle, lanes_mma, narrow,
};
use kronsparse::{Activation, Chain, ChainPattern, DType, Join, Layout, Pattern, Scalar};

use super::chain_plans;
use super::compile::Source;
use super::harness::inputs::{Draw, Weights};
use super::harness::judge::compare;
use super::harness::{Job, Problem};
use super::launch::{Buffer, Launch, Map, Outcome};

/// Small patterns, each for a reason: ones, no power of two, d = 1, wide lanes, long sums, many blocks.
const PATTERNS: [[usize; 4]; 17] = [
    [1, 1, 1, 1],
    [2, 16, 16, 16],
    [1, 64, 64, 8],
    [3, 24, 40, 1],
    [1, 32, 16, 64],
    [2, 8, 48, 4],
    [2, 20, 36, 6],
    [1, 16, 128, 2],
    [5, 3, 7, 11],
    [1, 9, 33, 32],
    [1, 130, 24, 8],
    [1, 8, 24, 40],
    [4, 16, 32, 3],
    [1, 32, 64, 1],
    [1, 12, 20, 24],
    [1, 8, 8, 128],
    [2, 3, 1500, 2],
];
const BATCHES: [usize; 7] = [1, 3, 16, 33, 64, 100, 200];

/// What one launch multiplies: a plan, and how many vectors, which may differ from the plan's own.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) plan: Plan,
    pub(crate) n: usize,
}

/// A plan for one factor, or for several.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    One(GpuPlan),
    Several(FusedPlan),
}

/// What a plan multiplies.
#[derive(Clone, Debug)]
struct Task {
    chain: ChainPattern,
    dtype: DType,
    precision: Precision,
    layout: Layout,
    aligned: bool,
    bias: bool,
    activation: Activation,
    join: Join,
}

impl Plan {
    pub(crate) fn kernel(&self) -> &dyn KernelPlan {
        match self {
            Plan::One(plan) => plan,
            Plan::Several(plan) => plan.kernel(),
        }
    }

    fn source(&self) -> String {
        match self {
            Plan::One(plan) => plan.source(),
            Plan::Several(plan) => plan.source(),
        }
    }

    fn task(&self) -> Task {
        match self {
            Plan::One(plan) => {
                let GpuProblem { pattern, dtype, precision, layout, aligned, bias, activation, join, .. } =
                    *plan.problem();
                let chain = ChainPattern::new(vec![pattern]).expect("one factor");
                Task { chain, dtype, precision, layout, aligned, bias, activation, join }
            }
            Plan::Several(plan) => {
                let ChainProblem { chain, dtype, precision, layout, batch: _, aligned, bias, activation, join } =
                    plan.problem().clone();
                Task { chain, dtype, precision, layout, aligned, bias, activation, join }
            }
        }
    }

    fn pack<T: Scalar>(&self, chain: &Chain<T>) -> Vec<T> {
        let factors = chain.factors();
        match self {
            Plan::One(plan) => plan.pack(factors[0].weights()),
            Plan::Several(plan) => plan.pack(&factors.iter().rev().map(|factor| factor.weights()).collect::<Vec<_>>()),
        }
        .expect("as many weights as the patterns have")
    }

    /// In words, with the problem.
    pub(crate) fn describe(&self) -> String {
        format!("{} {:?}", self.kernel(), self.task())
    }
}

/// The machines that plans are made for. A small one has several tiles per block.
pub(crate) fn machines() -> [GpuMachine; 2] {
    let large = GpuMachine::h100();
    let small = GpuMachine { capability: (8, 6), multiprocessors: 2, shared_per_block: 99 << 10, ..large.clone() };
    [GpuMachine { multiprocessors: 4, ..large }, small]
}

fn problems() -> Vec<GpuProblem> {
    let mut all = Vec::new();
    for (at, [a, b, c, d]) in PATTERNS.into_iter().enumerate() {
        let pattern = Pattern::new(a, b, c, d).expect("a pattern");
        for (k, dtype) in [DType::F16, DType::Bf16, DType::F32, DType::F32, DType::F64].into_iter().enumerate() {
            for (m, layout) in Layout::ALL.into_iter().enumerate() {
                let mix = at * 7 + k * 3 + m * 5;
                all.push(GpuProblem {
                    pattern,
                    dtype,
                    precision: if k == 3 { Precision::Tf32 } else { Precision::Full },
                    layout,
                    batch: BATCHES[mix % BATCHES.len()],
                    aligned: mix % 5 != 0,
                    bias: mix % 2 == 0,
                    activation: Activation::ALL[mix % 5],
                    join: Join::None,
                });
            }
        }
    }
    all
}

/// Plans of `family`, at most `count`, spread over problems and tiles; the same ones in every run, so that they are
/// compiled once. One tile in three is the planner's own choice.
pub(crate) fn spread(family: &str, count: usize) -> Vec<Case> {
    match family {
        PairPlan::NAME => return pairs(count),
        ChainMmaPlan::NAME => return chain_plans::chains(count),
        ChainWgmmaPlan::NAME => return chain_plans::wgmma_chains(count),
        _ => {}
    }
    let mut rng = Rng::with_seed(20261122);
    let mut found = picked(family);
    let (mut sources, mut problems) = (BTreeSet::new(), problems());
    rng.shuffle(&mut problems);
    let joins: &[Join] = if family == "plain" { &[Join::None, Join::Residual] } else { &Join::ALL };
    for round in 0..3 {
        for (at, problem) in problems.iter().enumerate() {
            let problem = &GpuProblem { join: joins[(at + round) % joins.len()], ..problem.clone() };
            let machine = &machines()[(at + round) % 2];
            let mut plans = GpuPlan::candidates(problem, machine);
            plans.retain(|plan| plan.name() == family && work(plan, problem.batch) < 4e7);
            if plans.is_empty() || found.len() == count {
                continue;
            }
            plans.sort_by(|p, q| p.seconds(machine).total_cmp(&q.seconds(machine)));
            let plan = plans.swap_remove(if (at + round) % 3 == 0 { 0 } else { rng.usize(..plans.len()) });
            if sources.insert(plan.source()) {
                found.push(Case { plan: Plan::One(plan), n: problem.batch });
            }
        }
    }
    found
}

/// Tiles that the estimate seldom puts forward, for masks and barriers that no other tile needs.
fn picked(family: &str) -> Vec<Case> {
    let problem =
        |c, d, layout, batch| GpuProblem::new(Pattern::new(1, 16, c, d).expect("a pattern"), DType::F16, layout, batch);
    let machine = &machines()[0];
    let plan = match family {
        // Two lanes of three: the last tile's second lane lies beyond the end of X.
        "lanes_mma" => {
            let (rows, lanes, outputs, depth, stages) = (64, 2, 16, 16, 2);
            let (row_warps, lane_warps, output_warps, resident, regroup) = (1, 2, 1, true, false);
            #[rustfmt::skip]
            let tile = lanes_mma::Tile {
                rows, lanes, outputs, depth, stages, row_warps, lane_warps, output_warps, resident, regroup,
            };
            let problem = problem(16, 3, Layout::BatchLast, 64);
            GpuPlan::LanesMma(lanes_mma::Plan::new(&problem, tile, machine).expect("a legal tile"))
        }
        // Four stages in two buffers.
        "narrow" => {
            let (vectors, lanes, outputs, depth) = (4, 8, 8, 16);
            let tile = narrow::Tile { vectors, lanes, outputs, depth, thread_lanes: 1, thread_outputs: 1, split: 2 };
            let problem = problem(64, 8, Layout::BatchFirst, 4);
            GpuPlan::Narrow(narrow::Plan::new(&problem, tile, machine).expect("a legal tile"))
        }

        _ => return Vec::new(),
    };
    let mut all = vec![plan];
    if family == "narrow" {
        // A gate of neighbouring outputs, each with its bias: few patterns have no lanes.
        let pattern = Pattern::new(3, 24, 40, 1).expect("a pattern");
        let gated = GpuProblem { pattern, bias: true, join: Join::Gate, ..problem(64, 8, Layout::BatchFirst, 3) };
        all.push(gpu::family(family, &gated, machine).expect("a legal tile"));
    }
    if family == "lanes_mma" {
        // A gate of outputs that go through shared memory.
        let pattern = Pattern::new(1, 16, 16, 32).expect("a pattern");
        let gated = GpuProblem { pattern, join: Join::Gate, ..problem(16, 3, Layout::BatchFirst, 64) };
        let regroups = |plan: &GpuPlan| matches!(plan, GpuPlan::LanesMma(plan) if plan.tile().regroup);
        all.extend(GpuPlan::candidates(&gated, machine).into_iter().find(regroups));
    }
    all.into_iter().map(|plan| Case { n: plan.problem().batch, plan: Plan::One(plan) }).collect()
}

/// Pairs of factors, each for a reason: round and odd numbers of hidden lanes, blocks and outputs, one to eight blocks a cluster.
const PAIRS: [[[usize; 4]; 2]; 8] = [
    [[4, 32, 64, 1], [1, 16, 8, 16]],
    [[40, 16, 64, 1], [1, 40, 40, 16]],
    [[8, 16, 16, 1], [1, 24, 4, 32]],
    [[2, 40, 64, 1], [1, 10, 5, 16]],
    [[8, 64, 32, 1], [1, 32, 16, 32]],
    [[16, 16, 64, 1], [1, 9, 4, 64]],
    [[4, 24, 128, 1], [1, 33, 3, 32]],
    [[16, 8, 16, 1], [1, 16, 8, 16]],
];

/// Plans for two factors, as [`spread`].
fn pairs(count: usize) -> Vec<Case> {
    let mut rng = Rng::with_seed(20261122);
    let (mut found, mut sources) = (Vec::new(), BTreeSet::new());
    // Few multiprocessors: a cluster has several tiles, so that everything is used a second time.
    let machine = GpuMachine { multiprocessors: 8, ..GpuMachine::h100() };
    for round in 0..8 {
        for (at, [first, second]) in PAIRS.into_iter().enumerate() {
            let mix = at * 3 + round * 5;
            let pattern = |[a, b, c, d]: [usize; 4]| Pattern::new(a, b, c, d).expect("a pattern");
            let mut problem = ChainProblem {
                chain: ChainPattern::new(vec![pattern(second), pattern(first)]).expect("factors that fit"),
                precision: Precision::Full,
                dtype: if mix % 2 == 0 { DType::F16 } else { DType::Bf16 },
                layout: Layout::BatchFirst,
                batch: [1, 64, 100, 200, 500][mix % 5],
                aligned: true,
                bias: mix % 3 == 0,
                activation: Activation::ALL[mix % 5],
                join: Join::ALL[(at + round) % 3],
            };
            let mut plans = PairPlan::candidates(&problem, &machine);
            if plans.is_empty() {
                // Large blocks leave no registers to the other activations.
                problem.activation = Activation::Relu;
                plans = PairPlan::candidates(&problem, &machine);
            }
            assert!(!plans.is_empty(), "{problem:?} has no plan");
            if at == 1 {
                // Three items for two warpgroups, several chunks each.
                plans.retain(|plan| plan.tile().members == 2 && plan.tile().group_outs == 16);
            }
            let plan = plans.swap_remove(rng.usize(..plans.len()));
            if found.len() < count && sources.insert(plan.arguments()) {
                found.push(Case { plan: Plan::Several(FusedPlan::Pair(plan)), n: problem.batch });
            }
        }
    }
    found
}

/// How much there is to emulate, roughly in instructions of a thread: every tile costs all of its products.
fn work(plan: &GpuPlan, n: usize) -> f64 {
    let threads = f64::from(plan.threads()) * f64::from(plan.grid(n));
    threads * 200.0 + plan.problem().pattern.flops(n)
}

impl Case {
    /// The plan's source under a name of its own.
    pub(crate) fn source(&self, at: usize) -> Source {
        Source { name: format!("case {at}"), text: self.plan.source() }
    }

    /// Random numbers, and what they must give.
    pub(crate) fn draw(&self, at: usize, rng: &mut Rng) -> Drawn {
        match self.plan.task().dtype {
            DType::F16 => self.draw_as::<f16>(at, rng),
            DType::Bf16 => self.draw_as::<bf16>(at, rng),
            DType::F32 => self.draw_as::<f32>(at, rng),
            DType::F64 => self.draw_as::<f64>(at, rng),
            DType::C64 | DType::C128 => panic!("no plan multiplies complex numbers"),
        }
    }

    fn draw_as<T: Scalar<Wide = f64>>(&self, at: usize, rng: &mut Rng) -> Drawn {
        let (plan, n) = (&self.plan, self.n);
        let (kernel, task) = (plan.kernel(), plan.task());
        let Task { chain, dtype: _, precision, layout, aligned, bias, activation, join } = task;
        let factors = chain.patterns().len();
        let weights = Weights::<T>::draw(&chain, bias, Draw::of(&chain, n), rng);
        let packed = plan.pack(&weights.chain);
        let job = Job { chain: &weights.chain, bias: weights.bias.as_deref(), activation, join };
        let problem = Problem::drawn(job, weights.draw_input(n, layout, rng), n, layout, rng);
        let bytes = |numbers: &[T]| bytemuck::cast_slice::<T, u8>(numbers).to_vec();
        // Aligned for the copy engine and not better, or for one element and not better.
        let offset = if aligned { 16 } else { size_of::<T>() as u64 };
        let buffer = |bytes, offset| Some(Buffer { bytes, offset });
        let count = problem.expected.len();
        let launch = Launch {
            kernel: format!("case {at}"),
            grid: u64::from(kernel.grid(n)),
            threads: u64::from(kernel.threads()),
            cluster: u64::from(kernel.cluster()),
            shared_bytes: u64::from(kernel.shared_bytes()),
            n: n as u64,
            overlaps: true,
            seconds: 60,
            x: buffer(bytes(&problem.x), offset),
            w: buffer(bytes(&packed), 0),
            bias: weights.bias.as_ref().and_then(|bias| buffer(bytes(bias), size_of::<T>() as u64)),
            y: buffer(vec![0xFF; count * size_of::<T>()], offset),
            residual: if problem.residual.is_empty() { None } else { buffer(bytes(&problem.residual), offset) },
            maps: kernel.tensor_maps(n).into_iter().map(|map| self.map(&map)).collect(),
        };
        // TF32 has 10 bits after the point, and both factors of a product are rounded to it; three such products are short of a
        // product in f32 by 2^-22 of it.
        let tolerance = match (T::DTYPE, precision) {
            (DType::F32, Precision::Tf32) => problem.tolerance.max(2f64.powi(-10)),
            (DType::F32, Precision::Full) => problem.tolerance + factors as f64 * 2f64.powi(-22),
            _ => problem.tolerance,
        };
        let judge = move |y: &[u8]| {
            let y: Vec<T> = y.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
            compare(&y, &problem.expected, tolerance, n, layout)
        };
        Drawn { launch, judge: Box::new(judge) }
    }

    fn map(&self, map: &kronsparse::plan::gpu::TensorMap) -> Map {
        Map {
            buffer: if map.operand == Operand::X { 0 } else { 3 },
            element: self.plan.kernel().dtype().size() as u64,
            swizzle: match map.swizzle {
                Swizzle::None => 0,
                Swizzle::Bytes32 => 32,
                Swizzle::Bytes64 => 64,
                Swizzle::Bytes128 => 128,
            },
            dims: map.dims,
            strides: map.strides,
            boxed: map.boxed.map(u64::from),
        }
    }
}

/// Says what is wrong with the bytes of `y`.
type Judge = Box<dyn Fn(&[u8]) -> Result<(), String> + Send>;

/// A launch with its numbers.
pub(crate) struct Drawn {
    pub(crate) launch: Launch,
    judge: Judge,
}

impl Drawn {
    /// What is wrong with an outcome.
    pub(crate) fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        (self.judge)(outcome.as_ref().map_err(Clone::clone)?)
    }
}
