//! The GPU pipeline as far as it goes without a GPU: plans are legal and cover their problems, packing loses nothing, sources
//! name every number, and NVRTC, where this machine has it, compiles them without spilling.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use kronsparse::cuda::{cache, compile, libraries};
use kronsparse::plan::gpu::{self, GpuMachine, GpuPlan, GpuProblem, Rejected, plain};
use kronsparse::{Activation, DType, Error, Layout, Pattern};

const REAL: [DType; 4] = [DType::F16, DType::Bf16, DType::F32, DType::F64];
const PATTERNS: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [1, 64, 64, 64],
    [64, 64, 64, 1],
    [3, 5, 7, 11],
    [1024, 2, 2, 1],
    [1, 2, 2, 1024],
    [4, 48, 192, 3],
    [1, 100, 3000, 1],
    [2, 1, 300, 33],
];

fn problem(pattern: [usize; 4], dtype: DType, layout: Layout, batch: usize) -> GpuProblem {
    let [a, b, c, d] = pattern;
    GpuProblem::new(Pattern::new(a, b, c, d).unwrap(), dtype, layout, batch)
}

fn problems() -> Vec<GpuProblem> {
    let mut all = Vec::new();
    for pattern in PATTERNS {
        for dtype in REAL {
            for layout in Layout::ALL {
                all.extend([1, 7, 64, 25088].map(|batch| problem(pattern, dtype, layout, batch)));
            }
        }
    }
    all
}

#[test]
fn every_real_problem_has_a_plan_and_complex_ones_have_none() {
    let machine = GpuMachine::h100();
    for problem in problems() {
        let plan = gpu::choose(&problem, &machine).unwrap();
        assert_eq!(plan.problem(), &problem);
        let GpuProblem { pattern, dtype, layout, batch, .. } = &problem;
        println!("{pattern} {dtype} {layout} n={batch}: {plan}, {:.1} µs", plan.seconds(&machine) * 1e6);
        assert!(plan.shared_bytes() <= machine.shared_per_block && plan.threads() <= 1024, "{plan}");
        let seconds = plan.seconds(&machine);
        assert!(seconds.is_finite() && seconds > 0.0, "{plan}: {seconds}");
        assert!(GpuPlan::candidates(&problem, &machine).len() < 2000, "planning must stay quick");
    }
    let complex = problem([2, 3, 4, 5], DType::C64, Layout::BatchFirst, 3);
    assert_eq!(gpu::choose(&complex, &machine), Err(Rejected::Element(DType::C64)));
    assert!(gpu::family("none", &problem([2, 3, 4, 5], DType::F32, Layout::BatchFirst, 3), &machine).is_err());
}

#[test]
fn tiles_that_are_not_legal_are_refused_with_a_reason() {
    let machine = GpuMachine::h100();
    let p = problem([2, 64, 64, 64], DType::F32, Layout::BatchFirst, 64);
    let good = plain::Tile { lanes: 32, outputs: 8, vectors: 8, depth: 8, thread_outputs: 4, thread_vectors: 4 };
    let why = |tile| plain::Plan::new(&p, tile, &machine).unwrap_err().to_string();
    assert!(plain::Plan::new(&p, good, &machine).is_ok());
    assert!(why(plain::Tile { lanes: 3, ..good }).contains("powers of two"));
    assert!(why(plain::Tile { thread_outputs: 16, ..good }).contains("exceed"));
    assert!(why(plain::Tile { lanes: 1, ..good }).contains("32 to 1024 threads"));
    assert!(why(plain::Tile { outputs: 512, ..good }).contains("threads"));
    assert!(why(plain::Tile { depth: 1024, ..good }).contains("bytes of shared memory"));
}

/// Distinct weights come back from their packed places, and whatever else is there is zero.
#[test]
fn packing_is_a_permutation_with_zeros_between() {
    let machine = GpuMachine::h100();
    for problem in problems().into_iter().filter(|p| p.dtype == DType::F64 && p.batch != 7) {
        let [a, b, c, d] = problem.pattern.shape();
        let weights: Vec<f64> = (1..=problem.pattern.nnz()).map(|k| k as f64).collect();
        let plan = gpu::choose(&problem, &machine).unwrap();
        let packed = plan.pack(&weights).unwrap();
        assert_eq!(packed.len(), plan.packed_len());
        let mut places = BTreeSet::new();
        for i in 0..a {
            for o in 0..b {
                for l in 0..c {
                    for j in 0..d {
                        let at = plan.packed_index(i, o, l, j);
                        assert!(places.insert(at), "{plan}: two weights at {at}");
                        assert_eq!(packed[at], weights[problem.pattern.weight_index(i, o, l, j)]);
                    }
                }
            }
        }
        let rest = packed.iter().filter(|&&w| w != 0.0).count();
        assert_eq!(rest, weights.len(), "{plan}");
        assert!(matches!(plan.pack(&weights[1..]), Err(Error::Length { .. })));
    }
}

/// What `pack` relies on, for every family and tile: lanes, output and input each add a term of their own.
#[test]
fn the_place_of_a_weight_is_a_sum_of_three() {
    let (machine, mut seen) = (GpuMachine::h100(), BTreeSet::new());
    for problem in problems().into_iter().filter(|p| p.batch != 7) {
        let [a, b, c, d] = problem.pattern.shape();
        for plan in GpuPlan::candidates(&problem, &machine).into_iter().step_by(7) {
            seen.insert(plan.name());
            for _ in 0..50 {
                let [i, o, l, j] = [a, b, c, d].map(|size| fastrand::usize(0..size));
                let parts =
                    [plan.packed_index(i, 0, 0, j), plan.packed_index(0, o, 0, 0), plan.packed_index(0, 0, l, 0)];
                assert_eq!(plan.packed_index(i, o, l, j), parts.iter().sum::<usize>(), "{plan}: {i} {o} {l} {j}");
            }
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// Two problems that differ in anything that the kernel must know have different sources; those that differ only in the
/// number of vectors may share one.
#[test]
fn sources_name_all_that_a_kernel_depends_on() {
    let machine = GpuMachine::h100();
    let tile = plain::Tile { lanes: 4, outputs: 8, vectors: 8, depth: 2, thread_outputs: 1, thread_vectors: 2 };
    let source = |p: &GpuProblem, tile| GpuPlan::Plain(plain::Plan::new(p, tile, &machine).unwrap()).source();
    let base = problem([2, 3, 4, 5], DType::F32, Layout::BatchFirst, 6);
    let mut sources = BTreeSet::from([source(&base, tile)]);
    let mut others = vec![
        GpuProblem { layout: Layout::BatchLast, ..base.clone() },
        GpuProblem { bias: true, ..base.clone() },
        problem([3, 3, 4, 5], DType::F32, Layout::BatchFirst, 6),
        problem([2, 4, 4, 5], DType::F32, Layout::BatchFirst, 6),
        problem([2, 3, 5, 5], DType::F32, Layout::BatchFirst, 6),
        problem([2, 3, 4, 6], DType::F32, Layout::BatchFirst, 6),
    ];
    others.extend(Activation::ALL.into_iter().skip(1).map(|activation| GpuProblem { activation, ..base.clone() }));
    others.extend([DType::F16, DType::Bf16, DType::F64].map(|dtype| GpuProblem { dtype, ..base.clone() }));
    others.iter().for_each(|p| assert!(sources.insert(source(p, tile)), "{p:?} has the source of another problem"));
    for tile in [
        plain::Tile { lanes: 8, ..tile },
        plain::Tile { outputs: 16, ..tile },
        plain::Tile { vectors: 16, ..tile },
        plain::Tile { depth: 4, ..tile },
        plain::Tile { outputs: 16, thread_outputs: 2, ..tile },
        plain::Tile { vectors: 16, thread_vectors: 4, ..tile },
    ] {
        assert!(sources.insert(source(&base, tile)), "{tile:?} has the source of another tile");
    }
    assert_eq!(source(&base, tile), source(&GpuProblem { batch: 7, ..base.clone() }, tile));
    let text = source(&base, tile);
    assert!(text.contains("#include \"plain.cuh\"") && text.contains("KS_KERNEL(128) kronsparse("), "{text}");
}

/// NVRTC of this machine, or one line that says that this part was not run.
fn compiler_or_say_so(test: &str) -> bool {
    match libraries::find(libraries::Library::Nvrtc) {
        Ok(_) => true,
        Err(why) => {
            println!("NOT RUN: {test}: {why}");
            false
        }
    }
}

#[test]
fn nvrtc_compiles_the_plain_kernel_without_spills() {
    if !compiler_or_say_so("nvrtc_compiles_the_plain_kernel_without_spills") {
        return;
    }
    let machine = GpuMachine::h100();
    let mut sources = BTreeSet::new();
    for (at, mut problem) in problems().into_iter().filter(|p| [1, 25088].contains(&p.batch)).enumerate() {
        // One third of them is enough here; every element type, layout and activation is among them.
        if at % 3 == 0 {
            problem.activation = Activation::ALL[at / 3 % 5];
            problem.bias = at % 2 == 0;
            sources.insert(gpu::family("plain", &problem, &machine).unwrap().source());
        }
    }
    let (sources, next) = (Vec::from_iter(sources), AtomicUsize::new(0));
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let cubin = compile::compile(source, "sm_90a").unwrap_or_else(|e| panic!("{e}\n{source}"));
                    assert!(cubin.bytes.starts_with(b"\x7fELF"));
                    let resources = cubin.resources();
                    assert_eq!(resources.spill_store_bytes + resources.spill_load_bytes, 0, "{resources}\n{source}");
                    assert!(resources.registers > 0, "{}", cubin.log);
                    assert_eq!(resources.stack_bytes, 0, "{resources}\n{source}");
                    most.fetch_max(resources.registers as usize, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} sources, at most {} registers", sources.len(), most.into_inner());
    let plan = gpu::choose(&problem([2, 3, 4, 5], DType::F32, Layout::BatchLast, 9), &machine).unwrap();
    assert!(compile::compile(&plan.source(), "sm_80").is_ok());
}

#[test]
fn what_does_not_compile_is_an_error_with_options_and_log() {
    if !compiler_or_say_so("what_does_not_compile_is_an_error_with_options_and_log") {
        return;
    }
    match compile::compile("#include \"plain.cuh\"\nint f() { return missing; }\n", "sm_90a") {
        Err(Error::Compile { options, log, code }) => {
            assert!(options.contains(&"--gpu-architecture=sm_90a".to_owned()), "{options:?}");
            assert!(log.contains("missing") && log.contains("kronsparse.cu(2)"), "{log}");
            assert!(code.contains("return missing"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(compile::compile("", "sm_1"), Err(Error::Compile { .. })));
}

/// Processes that compile the same kernels into one folder at once all get them, and the next one compiles nothing.
#[test]
fn processes_share_the_cache() {
    const CHILD: &str = "KRONSPARSE_TEST_CACHE_CHILD";
    if !compiler_or_say_so("processes_share_the_cache") {
        return;
    }
    let machine = GpuMachine::h100();
    let sources = [1, 2, 3].map(|b| {
        let p = problem([2, b, 4, 5], DType::F32, Layout::BatchFirst, 6);
        gpu::choose(&p, &machine).unwrap().source()
    });
    if let Some(folder) = std::env::var_os(CHILD) {
        let cache = cache::Cache::at(folder);
        sources.iter().for_each(|source| assert!(!cache.compile(source, "sm_80").unwrap().0.bytes.is_empty()));
        return;
    }
    let folder = std::env::temp_dir().join(format!("kronsparse-cache-{}-{}", std::process::id(), fastrand::u64(..)));
    let child = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes_share_the_cache"]).env(CHILD, &folder).spawn().unwrap()
    };
    let mut children = [child(), child(), child()];
    children.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    let cache = cache::Cache::at(&folder);
    for source in &sources {
        let (cubin, compiled) = cache.compile(source, "sm_80").unwrap();
        assert!(!compiled && cubin.bytes.starts_with(b"\x7fELF"));
        assert!(cache.compile(&format!("{source}\n// another"), "sm_80").unwrap().1);
    }
    std::fs::remove_dir_all(folder).unwrap();
}
