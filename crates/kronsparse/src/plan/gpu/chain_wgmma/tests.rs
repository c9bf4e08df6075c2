//! Plans of `chain_wgmma`: weights, choices, refusals.

use super::*;

fn problem(chain: &str, batch: usize) -> ChainProblem {
    crate::plan::gpu::chain::tests::problem(chain, DType::F16, batch)
}

#[test]
fn the_weights_fill_the_packed_array_once() {
    let chains = [
        "(1,768,192,2)(6,64,64,1)",
        "(1,192,48,2)(2,48,192,1)",
        "(1,24,4,8)(4,8,16,1)",
        "(1,16,130,1)(1,130,192,1)(8,24,16,1)",
    ];
    for chain in chains {
        let problem = problem(chain, 1000);
        let plans = ChainWgmmaPlan::candidates(&problem, &GpuMachine::h100());
        assert!(!plans.is_empty(), "{chain}: {:?}", ChainWgmmaPlan::choose(&problem, &GpuMachine::h100()));
        for plan in plans {
            let ones: Vec<Vec<half::f16>> = problem.applied().iter().map(|p| vec![half::f16::ONE; p.nnz()]).collect();
            let packed = plan.pack(&ones.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
            assert_eq!(packed.iter().filter(|w| w.to_f32() == 1.0).count(), problem.chain.parameters(), "{plan}");
            assert!(plan.pack(&ones[1..].iter().map(Vec::as_slice).collect::<Vec<_>>()).is_err());
        }
    }
}

#[test]
fn the_estimate_knows_the_layers_that_were_measured() {
    for (chain, batch, microseconds) in [
        ("(1,768,192,2)(6,64,64,1)", 25088, 51.1),
        ("(1,768,192,2)(6,64,64,1)", 8192, 19.8),
        ("(1,192,48,2)(2,48,192,1)", 25088, 19.3),
    ] {
        let plan = ChainWgmmaPlan::choose(&problem(chain, batch), &GpuMachine::h100()).unwrap();
        let ratio = plan.seconds() * 1e6 / microseconds;
        assert!((0.7..1.3).contains(&ratio), "{plan}: {microseconds} µs were measured, estimated {ratio} times that");
        assert!(plan.shared_bytes() <= GpuMachine::h100().shared_per_block);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let machine = GpuMachine::h100();
    let why = |problem: &ChainProblem| ChainWgmmaPlan::choose(problem, &machine).unwrap_err().to_string();
    let good = problem("(1,768,192,2)(6,64,64,1)", 64);
    assert!(ChainWgmmaPlan::choose(&good, &machine).is_ok());
    assert!(why(&ChainProblem { dtype: DType::F32, ..good.clone() }).contains("f32"));
    assert!(why(&ChainProblem { aligned: false, ..good.clone() }).contains("16 bytes"));
    assert!(why(&ChainProblem { layout: Layout::BatchLast, ..good.clone() }).contains("batch-first"));
    assert!(why(&problem("(1,64,64,64)(64,64,64,1)", 64)).contains("1, 2, 4 or 8"));
    assert!(why(&problem("(1,8,8,8)(8,8,8,1)", 64)).contains("16, 32 or a multiple of 64"));
    assert!(why(&problem("(1,16,16,2)(1,16,16,2)", 64)).contains("d of the first factor"));
    assert!(why(&problem("(1,512,4096,1)(64,64,64,1)", 64)).contains("shared memory"));
    for huge in [
        "(1,8,2147483648,1)(2147483648,1,64,1)",
        "(1,2147483647,64,1)(1,64,64,1)",
        "(1,1048576,1048576,1)(1,1048576,1048576,1)",
    ] {
        assert!(ChainWgmmaPlan::choose(&problem(huge, 64), &machine).is_err(), "{huge}");
    }
    let old = GpuMachine { capability: (8, 0), ..machine.clone() };
    assert!(ChainWgmmaPlan::choose(&good, &old).unwrap_err().to_string().contains("9.0"));
    let tile = Tile { groups: 4, ..ChainWgmmaPlan::choose(&good, &machine).unwrap().tile().clone() };
    assert!(ChainWgmmaPlan::new(&good, tile, &machine).unwrap_err().to_string().contains("found 4"));
}
