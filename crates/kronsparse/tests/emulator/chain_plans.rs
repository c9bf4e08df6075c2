//! A spread of plans for whole chains, small enough to be emulated.

use std::collections::BTreeSet;

use fastrand::Rng;
use kronsparse::plan::gpu::{ChainMmaPlan, ChainProblem, ChainWgmmaPlan, FusedPlan, GpuMachine, KernelPlan, Precision};
use kronsparse::{Activation, ChainPattern, DType, Join, Layout, Pattern};

use super::plans::{Case, Plan, machines};

/// Chains in the order of application, each for a reason: lanes before and after, odd sizes, one of everything, three and four
/// factors, more rows than columns and fewer, long sums, wide outputs in several chunks.
const CHAINS: [&[[usize; 4]]; 13] = [
    &[[6, 16, 64, 1], [1, 96, 48, 2]],
    &[[2, 48, 96, 1], [1, 40, 48, 2]],
    &[[8, 8, 8, 1], [1, 8, 8, 8]],
    &[[3, 5, 7, 2], [2, 9, 5, 3]],
    &[[1, 8, 16, 8], [8, 8, 8, 1]],
    &[[4, 4, 4, 1], [2, 4, 4, 2], [1, 4, 4, 4]],
    &[[1, 4, 4, 8], [2, 4, 4, 4], [4, 4, 4, 2], [8, 6, 4, 1]],
    &[[1, 1, 1, 1], [1, 1, 1, 1]],
    &[[1, 24, 200, 1], [1, 70, 24, 1]],
    &[[16, 2, 12, 1], [1, 130, 32, 1]],
    &[[5, 3, 4, 6], [1, 7, 45, 2]],
    &[[1, 2, 3, 40], [4, 20, 20, 1]],
    &[[2, 16, 24, 1], [1, 300, 16, 2]],
];

/// Plans for whole chains, as `plans::spread`.
pub(crate) fn chains(count: usize) -> Vec<Case> {
    let mut rng = Rng::with_seed(20261123);
    let (mut found, mut sources) = (Vec::new(), BTreeSet::new());
    let kinds = [DType::F16, DType::Bf16, DType::F32, DType::F32];
    for round in 0..12 {
        for (at, patterns) in CHAINS.into_iter().enumerate() {
            let mix = at * 5 + round * 7;
            let last = patterns[patterns.len() - 1];
            let pattern = |&[a, b, c, d]: &[usize; 4]| Pattern::new(a, b, c, d).expect("a pattern");
            let problem = ChainProblem {
                chain: ChainPattern::new(patterns.iter().rev().map(pattern).collect()).expect("factors that fit"),
                dtype: kinds[mix % 4],
                precision: if mix % 4 == 3 { Precision::Tf32 } else { Precision::Full },
                layout: Layout::ALL[mix / 4 % 2],
                batch: [1, 16, 40, 100][mix / 3 % 4],
                aligned: mix % 5 != 0,
                bias: mix % 3 == 0,
                activation: Activation::ALL[mix % 5],
                join: match Join::ALL[(at + round) % 3] {
                    // Outputs that do not come in twos.
                    Join::Gate if last[1] * last[3] % 2 == 1 => Join::Residual,
                    join => join,
                },
            };
            let mut plans = ChainMmaPlan::candidates(&problem, &machines()[round % 2]);
            if at + 1 == CHAINS.len() {
                // Several chunks of Y, the last one shorter.
                plans.retain(|plan| {
                    plan.tile().cuts.last().is_some_and(|cut| {
                        let outs = cut.chunk_tiles * cut.columns * 8;
                        outs < 300 && !300usize.is_multiple_of(outs)
                    })
                });
            }
            assert!(!plans.is_empty(), "{problem:?} has no plan");
            let plan = plans.swap_remove(if round % 3 == 0 { 0 } else { rng.usize(..plans.len()) });
            if found.len() < count && sources.insert(plan.arguments()) {
                found.push(Case { plan: Plan::Several(FusedPlan::ChainMma(plan)), n: problem.batch });
            }
        }
    }
    found
}

/// Chains for the tensor cores of Hopper, in the order of application: units and single numbers passed on, lanes one to eight, several
/// lines and blocks of X, padded terms and outputs, three and four factors.
const WGMMA_CHAINS: [&[[usize; 4]]; 9] = [
    &[[6, 32, 64, 1], [1, 96, 96, 2]],
    &[[2, 48, 192, 1], [1, 72, 48, 2]],
    &[[4, 32, 32, 1], [1, 40, 64, 2]],
    &[[8, 24, 16, 1], [1, 130, 192, 1], [1, 16, 130, 1]],
    &[[4, 16, 16, 1], [2, 8, 8, 4], [1, 16, 16, 4]],
    &[[4, 8, 16, 1], [1, 24, 4, 8]],
    &[[1, 40, 128, 1], [5, 64, 8, 1]],
    &[[8, 8, 16, 1], [4, 4, 16, 1], [2, 4, 4, 2], [1, 16, 4, 4]],
    &[[3, 64, 64, 1], [2, 32, 96, 1], [1, 200, 64, 1]],
];

/// Plans for whole chains by `wgmma`, as `plans::spread`.
pub(crate) fn wgmma_chains(count: usize) -> Vec<Case> {
    let mut rng = Rng::with_seed(20261123);
    let (mut found, mut sources) = (Vec::new(), BTreeSet::new());
    // Few multiprocessors: a block has several tiles, so that everything is used a second time.
    let machine = GpuMachine { multiprocessors: 8, ..GpuMachine::h100() };
    for round in 0..8 {
        for (at, patterns) in WGMMA_CHAINS.into_iter().enumerate() {
            let mix = at * 5 + round * 7;
            let pattern = |&[a, b, c, d]: &[usize; 4]| Pattern::new(a, b, c, d).expect("a pattern");
            let problem = ChainProblem {
                chain: ChainPattern::new(patterns.iter().rev().map(pattern).collect()).expect("factors that fit"),
                dtype: if mix % 2 == 0 { DType::F16 } else { DType::Bf16 },
                precision: Precision::Full,
                layout: Layout::BatchFirst,
                batch: [1, 64, 200, 1500][mix / 3 % 4],
                aligned: true,
                bias: mix % 3 == 0,
                activation: Activation::ALL[mix % 5],
                join: [Join::None, Join::Residual][(at + round) % 2],
            };
            let mut plans = ChainWgmmaPlan::candidates(&problem, &machine);
            assert!(!plans.is_empty(), "{problem:?}: {:?}", ChainWgmmaPlan::choose(&problem, &machine));
            let plan = plans.swap_remove(if round % 3 == 0 { 0 } else { rng.usize(..plans.len()) });
            if found.len() < count && sources.insert(plan.arguments()) {
                found.push(Case { plan: Plan::Several(FusedPlan::ChainWgmma(plan)), n: problem.batch });
            }
        }
    }
    found
}
