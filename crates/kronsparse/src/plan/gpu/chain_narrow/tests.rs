//! Plans of `chain_narrow`: weights, blocks, scratch memory, refusals.

use super::*;
use crate::plan::gpu::chain::tests::problem;
use crate::{Join, Layout};

#[test]
fn the_weights_fill_the_packed_array_once() {
    for chain in ["(1,24,20,2)(5,8,7,1)", "(3,5,9,2)(1,9,7,6)", "(1,4,4,16)(4,4,4,4)(16,4,4,1)", "(1,1,1,1)(1,1,1,1)"] {
        for (dtype, n) in [(DType::F16, 1), (DType::F32, 40)] {
            let problem = problem(chain, dtype, n);
            let plans = ChainNarrowPlan::candidates(&problem, &GpuMachine::h100());
            assert!(!plans.is_empty(), "{chain}");
            for plan in plans {
                let ones: Vec<Vec<f32>> = problem.applied().iter().map(|p| vec![1.0; p.nnz()]).collect();
                let packed = plan.pack(&ones.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
                assert_eq!(packed.iter().filter(|w| **w == 1.0).count(), problem.chain.parameters(), "{plan}");
                assert!(plan.pack(&ones[1..].iter().map(Vec::as_slice).collect::<Vec<_>>()).is_err());
            }
        }
    }
}

#[test]
fn blocks_and_memory_are_those_of_the_factors() {
    let problem =
        ChainProblem { join: Join::Residual, bias: true, ..problem("(1,4,4,16)(4,4,4,4)(16,4,4,1)", DType::F16, 40) };
    let plan = ChainNarrowPlan::choose(&problem, &GpuMachine::h100()).unwrap();
    assert_eq!(plan.grid(40), plan.factors.iter().map(|factor| factor.grid(40)).sum::<u32>());
    // Two counters, and twice 64 numbers of each vector.
    assert_eq!(plan.scratch(40), Scratch { counters: 256, bytes: 256 + 2 * 40 * 64 * 2 });
    assert_eq!(plan.scratch(1), Scratch { counters: 256, bytes: 256 + 2 * 128 });
    let again = ChainNarrowPlan::new(&problem, &plan.tiles(), &GpuMachine::h100()).unwrap();
    assert_eq!(again, plan);
    // More vectors than a counter could count blocks for share them.
    assert_eq!(plan.grid(1 << 40), 3 << 24);
}

#[test]
fn one_launch_is_estimated_below_one_for_each_factor() {
    let machine = GpuMachine::h100();
    for layout in Layout::ALL {
        let problem = ChainProblem { layout, ..problem("(1,64,64,64)(64,64,64,1)", DType::F16, 1) };
        let plan = ChainNarrowPlan::choose(&problem, &machine).unwrap();
        let apart: f64 =
            (0..2).map(|at| narrow::Plan::candidates(&problem.factor(at), &machine)[0].seconds(&machine)).sum();
        assert!(plan.seconds() < apart && plan.seconds() > 0.5 * apart, "{plan}: {apart}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let machine = GpuMachine::h100();
    let why = |problem: &ChainProblem| ChainNarrowPlan::choose(problem, &machine).unwrap_err().to_string();
    assert!(why(&problem("(1,8,8,8)(8,8,8,1)", DType::F64, 64)).contains("f64"));
    assert!(why(&problem("(1,8,8,8)(8,8,8,1)", DType::F16, 65)).contains("up to 64 vectors, found 65"));
    assert!(why(&problem("(1,8,8,8)", DType::F16, 64)).contains("two to 4 factors, found 1"));
    let five = "(1,2,2,16)(2,2,2,8)(4,2,2,4)(8,2,2,2)(16,2,2,1)";
    assert!(why(&problem(five, DType::F16, 64)).contains("found 5"));
    let old = GpuMachine { capability: (7, 5), ..machine.clone() };
    let good = problem("(1,8,8,8)(8,8,8,1)", DType::F16, 64);
    assert!(ChainNarrowPlan::choose(&good, &old).unwrap_err().to_string().contains("8.0"));
    let tiles = ChainNarrowPlan::choose(&good, &machine).unwrap().tiles();
    let refused = |tiles: &[Tile]| ChainNarrowPlan::new(&good, tiles, &machine).unwrap_err().to_string();
    assert!(refused(&tiles[..1]).contains("each of 2 factors, found 1"));
    let (vectors, lanes, outputs, depth) = (8, 1, 16, 8);
    let small = Tile { vectors, lanes, outputs, depth, thread_lanes: 1, thread_outputs: 1, split: 1 };
    assert!(refused(&[Tile { outputs: 32, ..small }, Tile { outputs: 64, ..small }]).contains("[32, 64]"));
}
