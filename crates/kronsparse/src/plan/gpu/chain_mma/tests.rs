//! Plans of `chain_mma`: weights, choices, refusals.

use super::*;
use crate::Layout;
use crate::plan::gpu::chain::tests::problem;

#[test]
fn the_weights_fill_the_packed_array_once() {
    for chain in ["(1,24,20,2)(5,8,7,1)", "(3,5,9,2)(1,9,7,6)", "(1,4,4,16)(4,4,4,4)(16,4,4,1)", "(1,1,1,1)(1,1,1,1)"] {
        for dtype in [DType::F16, DType::F32] {
            let problem = problem(chain, dtype, 1000);
            let plans = ChainMmaPlan::candidates(&problem, &GpuMachine::h100());
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
fn the_estimate_is_of_the_size_of_what_was_measured() {
    for (chain, dtype, layout, microseconds) in [
        ("(1,768,192,2)(6,64,64,1)", DType::F16, Layout::BatchFirst, 90.8),
        ("(1,768,192,2)(6,64,64,1)", DType::F32, Layout::BatchFirst, 555.8),
        ("(1,32,32,32)(32,32,32,1)", DType::F16, Layout::BatchFirst, 99.5),
        ("(1,32,32,32)(32,32,32,1)", DType::F32, Layout::BatchFirst, 255.3),
        ("(1,32,32,32)(32,32,32,1)", DType::F16, Layout::BatchLast, 128.7),
        ("(1,8,8,64)(8,8,8,8)(64,8,8,1)", DType::F16, Layout::BatchFirst, 168.8),
    ] {
        let plan = ChainMmaPlan::choose(&ChainProblem { layout, ..problem(chain, dtype, 25088) }, &GpuMachine::h100())
            .unwrap();
        let ratio = plan.seconds() * 1e6 / microseconds;
        assert!((0.5..2.0).contains(&ratio), "{plan}: {microseconds} µs were measured, estimated {ratio} times that");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let machine = GpuMachine::h100();
    let why = |problem: &ChainProblem| ChainMmaPlan::choose(problem, &machine).unwrap_err().to_string();
    assert!(why(&problem("(1,8,8,8)(8,8,8,1)", DType::F64, 64)).contains("f64"));
    assert!(why(&problem("(1,8,8,8)", DType::F16, 64)).contains("two factors or more, found 1"));
    assert!(why(&problem("(1,64,64,64)(64,64,64,1)", DType::F32, 64)).contains("bytes of shared memory"));
    let old = GpuMachine { capability: (7, 5), ..machine.clone() };
    let good = problem("(1,8,8,8)(8,8,8,1)", DType::F16, 64);
    assert!(ChainMmaPlan::choose(&good, &old).unwrap_err().to_string().contains("8.0"));
    // More than can be counted: refused, neither overflowing nor taking for ever (the numbers are primes).
    for huge in [
        "(1,8,2147483647,1)(2147483647,1,1,1)",
        "(1,2147483647,16,1)(1,16,8,1)",
        "(1,1048576,1048576,1)(1,1048576,1048576,1)",
    ] {
        assert!(ChainMmaPlan::choose(&problem(huge, DType::F32, 64), &machine).is_err(), "{huge}");
    }
    let tile = Tile { rows: 24, ..ChainMmaPlan::choose(&good, &machine).unwrap().tile().clone() };
    assert!(ChainMmaPlan::new(&good, tile, &machine).unwrap_err().to_string().contains("found 24 vectors"));
}
