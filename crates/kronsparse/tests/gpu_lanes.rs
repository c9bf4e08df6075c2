//! The families `lanes_mma` and `narrow` as far as they go without a GPU: for patterns of every kind, NVRTC, where this machine
//! has it, compiles the tiles that the estimate puts first, and no thread's registers spill.

use std::sync::atomic::{AtomicUsize, Ordering};

use kronsparse::cuda::{compile, libraries};
use kronsparse::plan::gpu::{GpuMachine, GpuPlan, GpuProblem, Precision};
use kronsparse::{Activation, DType, Join, Layout, Pattern};

/// Lanes of every kind: whole rows, units of 16 and 8 bytes, odd numbers.
const PATTERNS: [&str; 11] = [
    "(1,64,64,64)",
    "(16,64,64,16)",
    "(4,256,256,4)",
    "(1,768,192,2)",
    "(6,64,64,1)",
    "(2,48,100,3)",
    "(1,33,65,6)",
    "(3,20,40,12)",
    "(1,48,48,28)",
    "(2,5,300,17)",
    "(512,2,2,1)",
];

fn problems() -> Vec<GpuProblem> {
    let mut all = Vec::new();
    for (at, pattern) in PATTERNS.iter().enumerate() {
        let pattern: Pattern = pattern.parse().unwrap();
        for (dtype, precision) in [
            (DType::F16, Precision::Full),
            (DType::Bf16, Precision::Full),
            (DType::F32, Precision::Full),
            (DType::F32, Precision::Tf32),
        ] {
            for layout in Layout::ALL {
                for batch in [1, 16, 1024, 25088] {
                    let (activation, bias) = (Activation::ALL[(at + batch) % 5], at % 2 == 0);
                    let aligned = (at + batch) % 7 != 0;
                    all.push(GpuProblem {
                        pattern,
                        dtype,
                        precision,
                        layout,
                        batch,
                        aligned,
                        bias,
                        activation,
                        join: Join::None,
                    });
                }
            }
        }
    }
    all
}

#[test]
fn nvrtc_compiles_the_first_tiles_without_spills() {
    if let Err(why) = libraries::find(libraries::Library::Nvrtc) {
        println!("NOT RUN: nvrtc_compiles_the_first_tiles_without_spills: {why}");
        return;
    }
    let machine = GpuMachine::h100();
    let mut plans = Vec::new();
    for (at, problem) in problems().iter().enumerate() {
        for family in ["lanes_mma", "narrow"] {
            let mut of_family = GpuPlan::candidates(problem, &machine);
            of_family.retain(|plan| plan.name() == family);
            // Those that the estimate puts first, and one from further down, for a tenth of all problems each.
            if problem.batch <= 64 || family == "lanes_mma" {
                assert!(!of_family.is_empty(), "{family}: {problem:?}");
                if at % 9 == 0 || at % 11 == 0 {
                    plans.push(of_family.swap_remove(at % of_family.len().min(4)));
                }
            }
        }
    }
    let (next, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let compiled = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let source = plan.source();
                    let architecture = if plan.problem().batch == 1024 { "sm_80" } else { "sm_90a" };
                    let cubin = compile::compile(&source, architecture).unwrap_or_else(|e| panic!("{e}\n{source}"));
                    let resources = cubin.resources();
                    most.fetch_max(resources.registers as usize, Ordering::Relaxed);
                    let spilled = resources.spill_store_bytes + resources.spill_load_bytes;
                    compiled.lock().unwrap().push((
                        spilled,
                        resources.registers,
                        format!("{} {:?} {plan}", plan.problem().pattern, plan.problem()),
                    ));
                }
            });
        }
    });
    let compiled = compiled.into_inner().unwrap();
    let spilled: Vec<_> = compiled.iter().filter(|entry| entry.0 > 0).collect();
    println!("{} kernels, at most {} registers", compiled.len(), most.into_inner());
    assert!(spilled.is_empty(), "{spilled:#?}");
}
