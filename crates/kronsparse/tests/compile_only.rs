//! Every kernel that the planner can choose for a spread of problems compiles for every supported architecture, spills nothing
//! (with three exceptions, see `most_spilled`), and takes the registers and the shared memory that its plan says. Needs NVRTC and no GPU.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kronsparse::cuda::compile;
use kronsparse::cuda::libraries::{self, Library};
use kronsparse::cuda::source::source;
use kronsparse::plan::gpu::{
    self, ChainProblem, ColumnSum, Flops, FusedPlan, GpuMachine, GpuPlan, GpuProblem, GradientProblem, KernelPlan,
    PairPlan, Precision, WeightGradientPlan, lanes_wgmma,
};
use kronsparse::{Activation, ChainPattern, DType, Join, Layout, Pattern};

/// Whether NVRTC is there. Where it is not, one line past the test's captured output counts this test as not run; with
/// `KRONSPARSE_REQUIRE_NVRTC` set, as CI does, that is a failure.
fn nvrtc(test: &str) -> bool {
    static NOT_RUN: AtomicUsize = AtomicUsize::new(0);
    let Err(why) = libraries::find(Library::Nvrtc) else { return true };
    assert!(std::env::var_os("KRONSPARSE_REQUIRE_NVRTC").is_none(), "KRONSPARSE_REQUIRE_NVRTC is set, but {why}");
    let count = NOT_RUN.fetch_add(1, Ordering::Relaxed) + 1;
    let line = format!(
        "NOT RUN ({count} compile-only test{}): {test}: {why}. To run it: `pip install -r .ci/nvrtc-requirements.txt` and set \
         KRONSPARSE_CUDA_PATH to the folder with libnvrtc.so\n",
        if count == 1 { "" } else { "s" }
    );
    // Not `eprintln!`, which a passing test keeps to itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

/// The architectures, with the shared memory that a block can have.
const CAPABILITIES: [((u32, u32), u32); 5] =
    [((8, 0), 163 << 10), ((8, 6), 99 << 10), ((8, 9), 99 << 10), ((9, 0), 227 << 10), ((10, 0), 227 << 10)];

fn machine(capability: (u32, u32), shared_per_block: u32) -> GpuMachine {
    let flops = Flops::of(capability, 100, 1.7e9);
    GpuMachine { capability, multiprocessors: 100, shared_per_block, flops, ..GpuMachine::h100() }
}

const PATTERNS: [[usize; 4]; 12] = [
    [1, 64, 64, 64],
    [64, 64, 64, 1],
    [1, 128, 512, 16],
    [16, 48, 192, 2],
    [4, 192, 48, 8],
    [3, 5, 7, 11],
    [1, 1024, 1024, 1],
    [1, 2, 2, 1024],
    [2, 96, 384, 32],
    [1, 12, 20, 24],
    [6, 64, 256, 4],
    [1, 768, 192, 128],
];
const BATCHES: [usize; 5] = [1, 8, 64, 1000, 25088];

/// Problems that differ in everything, half of all combinations; each architecture has others of them.
fn problems(which: usize) -> Vec<GpuProblem> {
    let mut all = Vec::new();
    for (at, [a, b, c, d]) in PATTERNS.into_iter().enumerate() {
        for (k, dtype) in [DType::F16, DType::Bf16, DType::F32, DType::F32, DType::F64].into_iter().enumerate() {
            if (at + k + which).is_multiple_of(2) {
                continue;
            }
            let mix = at * 11 + k * 7 + which * 3;
            all.push(GpuProblem {
                pattern: Pattern::new(a, b, c, d).expect("a pattern"),
                dtype,
                precision: if k == 3 { Precision::Tf32 } else { Precision::Full },
                layout: Layout::ALL[mix % 2],
                batch: BATCHES[mix / 2 % 5],
                aligned: !mix.is_multiple_of(7),
                bias: mix.is_multiple_of(3),
                activation: Activation::ALL[mix % 5],
                join: Join::None,
            });
        }
    }
    all
}

#[test]
fn every_chosen_kernel_compiles_for_every_architecture() {
    if !nvrtc("every_chosen_kernel_compiles_for_every_architecture") {
        return;
    }
    let mut work: Vec<((u32, u32), GpuPlan)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (which, (capability, shared)) in CAPABILITIES.into_iter().enumerate() {
        let machine = machine(capability, shared);
        for (at, problem) in problems(which).iter().enumerate() {
            // The planner's choice, and in turn the best of each family, which a user may ask for.
            let family = GpuPlan::FAMILIES[at % GpuPlan::FAMILIES.len()];
            let mut plans = vec![gpu::choose(problem, &machine), gpu::family(family, problem, &machine)];
            if at % 4 == 0 {
                let join = if at % 8 == 0 { Join::Residual } else { Join::Gate };
                plans.push(gpu::choose(&GpuProblem { join, ..problem.clone() }, &machine));
            }
            for plan in plans.into_iter().flatten() {
                assert!(plan.shared_bytes() <= shared, "{plan}: {} bytes of shared memory", plan.shared_bytes());
                if seen.insert((capability, plan.source())) {
                    work.push((capability, plan));
                }
            }
        }
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let summary: Mutex<BTreeMap<String, (usize, u32)>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((capability, plan)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let architecture = compile::architecture(*capability);
                    match judge(plan, &plan.source(), &architecture) {
                        Ok(registers) => {
                            let mut summary = summary.lock().expect("no panic with the lock");
                            let (count, most) = summary.entry(format!("{architecture} {}", plan.name())).or_default();
                            (*count, *most) = (*count + 1, registers.max(*most));
                        }
                        Err(why) => {
                            let line = format!("{architecture} {plan} for {:?}: {why}", plan.problem());
                            failed.lock().expect("no panic with the lock").push(line);
                        }
                    }
                }
            });
        }
    });
    for (name, (count, registers)) in summary.into_inner().expect("no panic with the lock") {
        println!("{name}: {count} kernels, at most {registers} registers");
    }
    let failed = failed.into_inner().expect("no panic with the lock");
    let few: Vec<&String> = failed.iter().take(8).collect();
    assert!(failed.is_empty(), "{} of {} kernels: {few:#?}", failed.len(), work.len());
    for family in GpuPlan::FAMILIES {
        assert!(work.iter().any(|(_, plan)| plan.name() == *family), "no kernel of the family {family} was compiled");
    }
}

/// The plans that chains of two factors get, over sizes, element types and numbers of vectors.
#[test]
fn kernels_for_two_factors_compile() {
    if !nvrtc("kernels_for_two_factors_compile") {
        return;
    }
    let (machine, mut failed, mut compiled, mut refused) = (GpuMachine::h100(), Vec::new(), BTreeSet::new(), 0);
    let pairs = [
        ("64,64,64,1", "1,64,64,64"),
        ("32,32,32,1", "1,32,32,32"),
        ("16,16,16,1", "1,16,16,16"),
        ("64,32,64,1", "1,64,64,32"),
        ("16,128,128,1", "1,64,32,64"),
        ("32,96,32,1", "1,40,96,32"),
        ("8,24,16,1", "1,100,12,16"),
        ("64,112,64,1", "1,64,112,64"),
        ("64,128,64,1", "1,224,64,128"),
    ];
    for (at, (first, second)) in pairs.into_iter().enumerate() {
        for (k, batch) in [1, 1024, 25088].into_iter().enumerate() {
            let (first, second) = (first.parse().expect("a pattern"), second.parse().expect("a pattern"));
            let problem = ChainProblem {
                chain: ChainPattern::new(vec![second, first]).expect("factors that fit"),
                dtype: if (at + k) % 2 == 0 { DType::F16 } else { DType::Bf16 },
                precision: Precision::Full,
                layout: Layout::BatchFirst,
                batch,
                aligned: true,
                bias: at % 2 == 0,
                activation: Activation::ALL[(at + k) % 5],
                join: Join::ALL[(at + 2 * k) % 3],
            };
            let plan = match PairPlan::choose(&problem, &machine) {
                Ok(plan) => FusedPlan::Pair(plan),
                Err(why) => {
                    // Named, and counted below.
                    println!("no kernel: {} {}: {why}", problem.chain, problem.activation);
                    refused += 1;
                    continue;
                }
            };
            if !compiled.insert(plan.source()) {
                continue;
            }
            if let Err(why) = judge(plan.kernel(), &plan.source(), &compile::architecture(machine.capability)) {
                failed.push(format!("{plan} for {problem:?}: {why}"));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), compiled.len());
    // Four of the pairs have more than 96 sums; of their problems without a gate, two have the exact GELU.
    assert_eq!((compiled.len(), refused), (25, 2), "other kernels than were expected");
}

/// The plans that whole chains get from each family, over lengths, patterns, element types and architectures.
#[test]
fn kernels_for_whole_chains_compile() {
    if !nvrtc("kernels_for_whole_chains_compile") {
        return;
    }
    let chains = [
        "(1,768,192,2)(6,64,64,1)",
        "(1,192,48,2)(2,48,192,1)",
        "(1,32,32,32)(32,32,32,1)",
        "(1,8,8,64)(8,8,8,8)(64,8,8,1)",
        "(1,4,4,64)(4,4,4,16)(16,4,4,4)(64,4,4,1)",
        "(3,7,5,4)(2,30,9,1)",
        "(1,512,64,1)(1,64,1024,1)",
        "(1,96,48,8)(3,128,64,1)",
    ];
    let kinds = [
        (DType::F16, Precision::Full),
        (DType::Bf16, Precision::Full),
        (DType::F32, Precision::Full),
        (DType::F32, Precision::Tf32),
    ];
    let (mut compiled, mut failed) = (BTreeMap::<String, usize>::new(), Vec::new());
    for (at, chain) in chains.into_iter().enumerate() {
        let patterns = chain.split_inclusive(')').map(|pattern| pattern.parse().expect("a pattern")).collect();
        let chain = ChainPattern::new(patterns).expect("factors that fit");
        for (k, (dtype, precision)) in kinds.into_iter().enumerate() {
            let mix = at * 3 + k * 5;
            let (capability, shared) = CAPABILITIES[if mix % 3 == 0 { mix % 5 } else { 3 }];
            let machine = machine(capability, shared);
            let problem = ChainProblem {
                chain: chain.clone(),
                dtype,
                precision,
                layout: if mix % 4 == 1 { Layout::BatchLast } else { Layout::BatchFirst },
                batch: [64, 25088][mix % 2],
                aligned: mix % 7 != 0,
                bias: mix % 2 == 0,
                activation: Activation::ALL[mix % 5],
                join: Join::ALL[mix / 2 % 3],
            };
            for &family in FusedPlan::FAMILIES {
                let Ok(plan) = FusedPlan::family(family, &problem, &machine) else { continue };
                let architecture = compile::architecture(capability);
                *compiled.entry(format!("{architecture} {family}")).or_default() += 1;
                if let Err(why) = judge(plan.kernel(), &plan.source(), &architecture) {
                    failed.push(format!("{architecture} {plan} for {problem:?}: {why}"));
                }
            }
        }
    }
    println!("{compiled:?}");
    assert!(failed.is_empty(), "{} of {compiled:?}: {failed:#?}", failed.len());
    let of = |family: &str| {
        compiled.iter().filter(|(name, _)| name.ends_with(family)).map(|(_, count)| count).sum::<usize>()
    };
    assert!(of("chain_mma") >= 24 && of("chain_wgmma") >= 4, "fewer kernels than expected: {compiled:?}");
}

/// The plans that gradients of weights get, over patterns, element types, numbers of vectors and architectures, with the kernels that add
/// up their parts, and those for a bias.
#[test]
fn kernels_for_gradients_compile() {
    if !nvrtc("kernels_for_gradients_compile") {
        return;
    }
    let kinds = [
        (DType::F16, Precision::Full),
        (DType::Bf16, Precision::Full),
        (DType::F32, Precision::Full),
        (DType::F32, Precision::Tf32),
    ];
    let (mut seen, mut failed, mut most) = (BTreeSet::new(), Vec::new(), 0);
    for (at, [a, b, c, d]) in PATTERNS.into_iter().enumerate() {
        for (k, (dtype, precision)) in kinds.into_iter().enumerate() {
            let mix = at * 5 + k * 3;
            let (capability, shared) = CAPABILITIES[if mix % 3 == 0 { mix % 5 } else { 3 }];
            let (machine, architecture) = (machine(capability, shared), compile::architecture(capability));
            let batch = [64, 1000, 8192, 25088][mix % 4];
            let pattern = Pattern::new(a, b, c, d).expect("a pattern");
            let aligned = mix % 7 != 0;
            let problem = GradientProblem { precision, aligned, ..GradientProblem::new(pattern, dtype, batch) };
            let plans = WeightGradientPlan::candidates(&problem, &machine);
            // The planner's choice, and one of those that have the most sums.
            let sums =
                |plan: &&WeightGradientPlan| plan.tile().fragments.iter().chain(&plan.tile().sub).product::<usize>();
            for plan in [plans.first(), plans.iter().max_by_key(sums)].into_iter().flatten() {
                let (sum, bias) = (
                    plan.sum(),
                    ColumnSum::new(pattern.rows(), dtype, batch, aligned, &machine).expect("a type that it sums"),
                );
                let all: [(&dyn KernelPlan, String); 3] =
                    [(plan, source(plan)), (&sum, source(&sum)), (&bias, source(&bias))];
                for (plan, source) in all {
                    if !seen.insert((capability, source.clone())) {
                        continue;
                    }
                    match judge(plan, &source, &architecture) {
                        Ok(registers) => most = most.max(registers),
                        Err(why) => failed.push(format!("{architecture} {plan} for {problem:?}: {why}")),
                    }
                }
            }
        }
    }
    println!("{} kernels, at most {most} registers", seen.len());
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), seen.len());
    assert!(seen.len() > 100, "only {} kernels", seen.len());
}

/// `Operator::tune` runs more than what the planner chooses.
#[test]
fn what_auto_would_measure_compiles() {
    if !nvrtc("what_auto_would_measure_compiles") {
        return;
    }
    let (machine, mut failed, mut compiled) = (GpuMachine::h100(), Vec::new(), 0);
    let cells = [
        ([1, 64, 64, 64], DType::F16, Layout::BatchFirst, 25088),
        ([1, 64, 64, 64], DType::F16, Layout::BatchFirst, 64),
        ([4, 256, 256, 4], DType::F32, Layout::BatchFirst, 25088),
        ([6, 64, 64, 1], DType::Bf16, Layout::BatchLast, 25088),
        ([3, 5, 7, 11], DType::F64, Layout::BatchFirst, 100),
    ];
    for ([a, b, c, d], dtype, layout, batch) in cells {
        let pattern = Pattern::new(a, b, c, d).expect("a pattern");
        let problem = GpuProblem::new(pattern, dtype, layout, batch);
        for way in gpu::promising(&problem, &machine, Some(1 << 30)) {
            let gpu::Choice::Kernel(plan) = way.choice else { continue };
            compiled += 1;
            if let Err(why) = judge(&*plan, &plan.source(), &compile::architecture(machine.capability)) {
                failed.push(format!("{plan} for {problem:?}: {why}"));
            }
        }
    }
    assert!(failed.is_empty() && compiled > cells.len(), "{} of {compiled} kernels: {failed:#?}", failed.len());
}

/// Bytes outside of registers, in both directions and on the stack, that a kernel may have. None, but for `lanes_wgmma`: its one
/// copying thread, which has 40 registers, keeps some there where the compiler unrolls its loops over boxes;
/// the threads that multiply keep none (read from the disassembly). `pair_wgmma` has 128 sums a thread beside two lots of fragments, and
/// activations want more on top. `weight_gradient` has up to 128 sums a thread: of its largest tiles, those that store 28 to 52 bytes there were as
/// fast as those that store none (`record/2026-11-23-h100-training/gradient_tiles.csv`). Such kernels are printed.
fn most_spilled(plan: &dyn KernelPlan) -> u32 {
    match plan.name() {
        "lanes_wgmma" => 160,
        "pair_wgmma" => 360,
        "weight_gradient" => 160,
        _ => 0,
    }
}

/// The registers of a kernel, or what is wrong with it.
fn judge(plan: &dyn KernelPlan, source: &str, architecture: &str) -> Result<u32, String> {
    let cubin = compile::compile(source, architecture).map_err(|e| e.to_string())?;
    let found = cubin.resources();
    // A block must be able to start: 65,536 registers, handed out in eights.
    let most = (65536 / plan.threads() / 8 * 8).min(255);
    let spilled = found.spill_store_bytes + found.spill_load_bytes + found.stack_bytes;
    if spilled > 0 {
        println!("spills: {architecture} {plan}: {found}");
    }
    if spilled > most_spilled(plan) {
        Err(format!("spills: {found}"))
    } else if found.registers == 0 {
        Err(format!("the log reports no registers: {}", cubin.log))
    } else if found.registers > most {
        Err(format!("{} threads can have {most} registers each: {found}", plan.threads()))
    } else if found.static_shared_bytes > 0 {
        Err(format!("shared memory beside the plan's {} bytes: {found}", plan.shared_bytes()))
    } else if cubin.log.contains("serialized") {
        Err(format!("the tensor cores wait for each other: {}", cubin.log))
    } else {
        if cubin.log.contains("warpgroup.wait is injected") {
            println!("the compiler adds a wait for wgmma: {architecture} {plan}");
        }
        Ok(found.registers)
    }
}

#[test]
fn every_wgmma_compiles() {
    if !nvrtc("every_wgmma_compiles") {
        return;
    }
    for kind in lanes_wgmma::Kind::ALL {
        let mut source = String::from("#define KS_WGMMA 1\n#include \"args.cuh\"\n");
        for n in (8..=256).step_by(8) {
            let (tag, sums) = (kind.tag(), n / 2);
            source += &lanes_wgmma::wgmma_header(kind, n);
            source += &format!(
                "extern \"C\" __global__ void __launch_bounds__(128, 1) wgmma_{n}(const __grid_constant__ ks::Args args) {{\n  \
                 float d[{sums}];\n  for (int k = 0; k < {sums}; ++k) d[k] = 0.f;\n  \
                 const u32 a[4] = {{1, 2, 3, 4}};\n  ks::wgmma_fence();\n  \
                 ks::Wgmma<ks::{tag}, {n}>::run(d, a, ks::wgmma_descriptor(ks::shared_memory(), 128, 256));\n  \
                 ks::wgmma_commit();\n  ks::wgmma_wait<0>();\n  \
                 for (int k = 0; k < {sums}; ++k) static_cast<float*>(args.y)[ks::thread_index() * {sums} + k] = d[k];\n}}\n"
            );
        }
        let cubin = compile::compile(&source, "sm_90a").unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        assert!(!cubin.log.contains("serialized"), "{kind:?}: {}", cubin.log);
        assert_eq!(cubin.log.matches("Compiling entry function").count(), 32, "{}", cubin.log);
    }
}
