//! Gradients of weights against the oracle, over patterns, types, tiles and parts of the batch, and the sum of the parts; and their
//! mutants.

use std::collections::BTreeSet;
use std::sync::Mutex;

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::source::source;
use kronsparse::plan::gpu::{GradientProblem, KernelPlan, Precision, WeightGradientPlan};
use kronsparse::{DType, Layout, Pattern, Scalar, reference};

use super::compile::{self, Files, Source};
use super::harness::inputs;
use super::harness::judge::compare;
use super::kernels::each;
use super::launch::{Buffer, Launch, Outcome, run};
use super::plans::machines;
use super::units::usual;

/// Small patterns, each for a reason: ones, no lanes, few and many, odd numbers, more outputs or inputs than a block has.
const PATTERNS: [[usize; 4]; 14] = [
    [1, 1, 1, 1],
    [3, 24, 40, 1],
    [1, 16, 16, 16],
    [2, 20, 36, 6],
    [1, 40, 24, 8],
    [5, 3, 7, 11],
    [1, 9, 33, 32],
    [1, 130, 12, 4],
    [2, 64, 64, 1],
    [1, 12, 130, 2],
    [1, 7, 5, 3],
    [1, 64, 32, 8],
    [2, 48, 20, 12],
    [1, 4, 4, 64],
];
const BATCHES: [usize; 7] = [1, 5, 16, 33, 100, 257, 64];
pub(super) const KINDS: [(DType, Precision); 4] = [
    (DType::F16, Precision::Full),
    (DType::Bf16, Precision::Full),
    (DType::F32, Precision::Full),
    (DType::F32, Precision::Tf32),
];
/// How many share a translation unit.
const TOGETHER: usize = 8;

/// The planner's own choice for every pattern and type, and another tile; the same in every run, so that they are compiled once.
fn plans() -> Vec<WeightGradientPlan> {
    let mut rng = Rng::with_seed(20261123);
    let (mut found, mut sources) = (Vec::new(), BTreeSet::new());
    for (at, [a, b, c, d]) in PATTERNS.into_iter().enumerate() {
        for (k, (dtype, precision)) in KINDS.into_iter().enumerate() {
            let pattern = Pattern::new(a, b, c, d).expect("a pattern");
            let (batch, aligned) = (BATCHES[(at + 3 * k) % BATCHES.len()], (at + k) % 4 != 3);
            let problem = GradientProblem { precision, aligned, ..GradientProblem::new(pattern, dtype, batch) };
            let plans = WeightGradientPlan::candidates(&problem, &machines()[(at + k) % 2]);
            let small = |plan: &&WeightGradientPlan| f64::from(plan.grid(batch)) * f64::from(plan.threads()) < 6e4;
            let mut all: Vec<_> = plans.iter().filter(small).collect();
            assert!(!all.is_empty(), "{problem:?}: no small plan");
            let other = all.swap_remove(rng.usize(..all.len()));
            for plan in [plans.first().filter(small), Some(other)].into_iter().flatten() {
                if sources.insert(source(plan)) {
                    found.push(plan.clone());
                }
            }
        }
    }
    found
}

/// Says what is wrong with the bytes of the parts.
pub(super) type Judge = Box<dyn Fn(&[u8]) -> Result<(), String> + Send>;

/// One launch with what its parts must add up to.
pub(super) struct Drawn {
    pub launch: Launch,
    pub judge: Judge,
}

fn draw(plan: &WeightGradientPlan, at: usize, rng: &mut Rng) -> Drawn {
    match plan.problem().dtype {
        DType::F16 => draw_as::<f16>(plan, at, rng),
        DType::Bf16 => draw_as::<bf16>(plan, at, rng),
        _ => draw_as::<f32>(plan, at, rng),
    }
}

fn draw_as<T: Scalar<Wide = f64>>(plan: &WeightGradientPlan, at: usize, rng: &mut Rng) -> Drawn {
    let GradientProblem { pattern, precision, batch: n, aligned, .. } = *plan.problem();
    let (v, x) = inputs::learned::<T>(pattern, n, rng);
    let expected = reference::weight_gradient(pattern, &v, &x, n);
    let offset = if aligned { 16 } else { size_of::<T>() as u64 };
    let buffer = |numbers: &[T]| Some(Buffer { bytes: bytemuck::cast_slice(numbers).to_vec(), offset });
    let launch = Launch {
        kernel: format!("gradient {at}"),
        overlaps: true,
        x: buffer(&x),
        residual: buffer(&v),
        y: Buffer::poisoned(plan.parts_len() * 4),
        ..usual(u64::from(plan.grid(n)), u64::from(plan.threads()), u64::from(plan.shared_bytes()), n as u64)
    };
    // The numbers are what they are; only products and sums round.
    let tolerance = match (T::DTYPE, precision) {
        (DType::F32, Precision::Tf32) => DType::tolerance_tf32(1),
        _ => DType::F32.tolerance_on_gpu(n, 1),
    };
    let judge = move |parts: &[u8]| {
        let mut sums = vec![0.0f64; expected.len()];
        for (k, part) in parts.chunks_exact(4).enumerate() {
            sums[k % expected.len()] += f64::from(bytemuck::pod_read_unaligned::<f32>(part));
        }
        compare::<f64>(&sums, &expected, tolerance, 1, Layout::BatchFirst)
    };
    Drawn { launch, judge: Box::new(judge) }
}

/// What went wrong with these plans.
fn failures(plans: &[WeightGradientPlan], files: &Files, rng: &mut Rng) -> Result<Vec<String>, String> {
    let source =
        |(at, plan): (usize, &WeightGradientPlan)| Source { name: format!("gradient {at}"), text: source(plan) };
    let program = compile::program(&plans.iter().enumerate().map(source).collect::<Vec<_>>(), files)?;
    let drawn: Vec<Drawn> = plans.iter().enumerate().map(|(at, plan)| draw(plan, at, rng)).collect();
    let launches: Vec<Launch> = drawn.iter().map(|drawn| drawn.launch.clone()).collect();
    let mut failed = Vec::new();
    for ((plan, drawn), outcomes) in plans.iter().zip(&drawn).zip(run(&program, &launches)) {
        for (mode, outcome) in ["early", "late"].into_iter().zip(outcomes) {
            if let Err(why) = outcome.and_then(|parts| (drawn.judge)(&parts)) {
                failed.push(format!("{plan} for {:?}, {mode}: {why}", plan.problem()));
            }
        }
    }
    Ok(failed)
}

#[test]
fn gradients_of_weights_are_what_the_oracle_gives() {
    let (plans, seed) = (plans(), inputs::seed());
    assert!(plans.len() >= 80, "only {} plans", plans.len());
    let failed = Mutex::new(Vec::new());
    let groups: Vec<_> = plans.chunks(TOGETHER).collect();
    each(groups.len(), |at| {
        let mut rng = Rng::with_seed(seed ^ at as u64);
        let result = failures(groups[at], &compile::files(), &mut rng).unwrap_or_else(|why| vec![why]);
        failed.lock().expect("no panic with the lock").extend(result);
    });
    let failed = failed.into_inner().expect("no panic with the lock");
    let few: Vec<&String> = failed.iter().take(12).collect();
    assert!(failed.is_empty(), "{} of {} runs, KRONSPARSE_SEED={seed}: {few:#?}", failed.len(), 2 * plans.len());
}

/// Numbers that are not finite go where the sums have them, and nowhere else: every output of an infinite input, and every input of an
/// output's gradient that is NaN.
#[test]
fn numbers_that_are_not_finite_stay_where_they_belong() {
    let mut rng = Rng::new();
    let few: Vec<WeightGradientPlan> =
        plans().into_iter().filter(|plan| plan.problem().batch >= 16).step_by(4).collect();
    assert!(few.len() >= 12, "only {} plans", few.len());
    let named =
        |(at, plan): (usize, &WeightGradientPlan)| Source { name: format!("gradient {at}"), text: source(plan) };
    let sources: Vec<Source> = few.iter().enumerate().map(named).collect();
    let program = compile::program(&sources, &compile::files()).unwrap_or_else(|why| panic!("{why}"));
    let mut launches = Vec::new();
    let mut marked = Vec::new();
    for (at, plan) in few.iter().enumerate() {
        let GradientProblem { pattern, dtype, batch: n, .. } = *plan.problem();
        let [a, b, c, d] = pattern.shape();
        let mut launch = draw(plan, at, &mut rng).launch;
        let put = |buffer: &mut Option<Buffer>, place: usize, value: f32| {
            let bytes = summed(dtype, &[value]);
            buffer.as_mut().expect("drawn").bytes[place * bytes.len()..][..bytes.len()].copy_from_slice(&bytes);
        };
        let (i, o, l, j) = (rng.usize(..a), rng.usize(..b), rng.usize(..c), rng.usize(..d));
        put(&mut launch.x, rng.usize(..n) * pattern.cols() + pattern.col(i, l, j), f32::INFINITY);
        put(&mut launch.residual, rng.usize(..n) * pattern.rows() + pattern.row(i, o, j), f32::NAN);
        launches.push(launch);
        marked.push((i, o, l, j));
    }
    for ((plan, (i, o, l, j)), outcomes) in few.iter().zip(marked).zip(run(&program, &launches)) {
        let pattern = plan.problem().pattern;
        let [_, b, c, d] = pattern.shape();
        for outcome in outcomes {
            let parts = outcome.unwrap_or_else(|why| panic!("{plan}: {why}"));
            let mut sums = vec![0.0f64; pattern.nnz()];
            for (k, part) in parts.chunks_exact(4).enumerate() {
                sums[k % pattern.nnz()] += f64::from(bytemuck::pod_read_unaligned::<f32>(part));
            }
            for (place, sum) in sums.iter().enumerate() {
                let found = (place / (b * c * d), place / (c * d) % b, place / d % c, place % d);
                let what = format!("{plan} for {pattern}: {found:?} is {sum}, marked {:?}", (i, o, l, j));
                match found {
                    (x, y, _, z) if (x, y, z) == (i, o, j) => assert!(sum.is_nan(), "{what}"),
                    (x, _, y, z) if (x, y, z) == (i, l, j) => assert!(sum.is_infinite(), "{what}"),
                    _ => assert!(sum.is_finite(), "{what}"),
                }
            }
        }
    }
}

const MUTANTS: &[(&str, &str)] = &[
    ("      copy_wait<STAGES - 2>();\n", ""),
    ("      sync_block();\n      load(tile", "      load(tile"),
    ("row < n && start + at < SIZE", "start + at < SIZE"),
    ("row < n && start + at < SIZE", "row < n"),
    ("row < n && start + at < SIZE", "row <= n && start + at < SIZE"),
    ("if (o >= B) continue;", "if (o > B) continue;"),
    ("if (l >= C) continue;", "if (l > C) continue;"),
    ("words[2 * p + 1][e / 2], e % 2 ? 0x7632 : 0x5410", "words[2 * p + 1][e / 2], 0x5410"),
    ("quad + 4 * k) * PITCH", "quad + k) * PITCH"),
    ("unit_of(group) + 8, step", "unit_of(group), step"),
    ("unit_of(group) + 8 * half) * OUTER_SUB + t", "unit_of(group) + 8 * half) * OUTER_SUB"),
    ("unit_of(2 * quad + x)) * INNER_SUB + e / J", "unit_of(2 * quad + x)) * INNER_SUB"),
    ("Inner::unit_of(2 * quad + x)", "(2 * quad + x)"),
    ("Outer::unit_of(group) + 8 * half", "group + 8 * half"),
    ("lanes * J + e % J;", "lanes * J;"),
    ("[2 * half + x]", "[2 * x + half]"),
    ("begin = chunk * share, end", "begin = chunk * share + (chunk > 0), end"),
    ("(chunk * A + i)", "(chunk * A)"),
    ("lanes * J) * E);", "0) * E);"),
    ("ceil_div(LINE, 128) * 128 + (LANES == J ? 32 : 16)", "LINE - 16"),
];

#[test]
fn mistakes_in_gradients_are_noticed() {
    let (plans, files) = (plans(), compile::files());
    let survivors = Mutex::new(Vec::new());
    each(MUTANTS.len(), |at| {
        let (from, to) = MUTANTS[at];
        let text = &files["weight_gradient.cuh"];
        assert_eq!(text.matches(from).count(), 1, "`{from}` must stand in weight_gradient.cuh once");
        let mut changed = files.clone();
        changed.insert("weight_gradient.cuh".into(), text.replace(from, to));
        let why = plans.chunks(4).find_map(|few| match failures(few, &changed, &mut Rng::new()) {
            Ok(failed) if failed.is_empty() => None,
            Ok(_) => Some(None),
            // It must be the emulator that notices it, not the compiler.
            Err(why) => Some(Some(why)),
        });
        if why != Some(None) {
            let why = why.flatten().unwrap_or_else(|| "survives".into());
            survivors.lock().expect("no panic with the lock").push(format!("`{from}` → `{to}`: {why}"));
        }
    });
    let survivors = survivors.into_inner().expect("no panic with the lock");
    assert!(survivors.is_empty(), "{survivors:#?}");
}

/// As the kernel adds: one after the other, in f32.
fn sums(parts: &[f32], len: usize) -> Vec<f32> {
    (0..len).map(|k| parts.iter().skip(k).step_by(len).fold(0.0, |sum, part| sum + part)).collect()
}

fn summed(dtype: DType, sums: &[f32]) -> Vec<u8> {
    let one = |x: &f32| match dtype {
        DType::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    sums.iter().flat_map(one).collect()
}

#[test]
fn parts_are_added_up_in_order() {
    let mut rng = Rng::new();
    let (mut sources, mut launches, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for shape in [[1, 40, 24, 8], [5, 3, 7, 11], [1, 1, 1, 1], [2, 64, 64, 1]] {
        for dtype in [DType::F16, DType::Bf16, DType::F32] {
            for batch in [16, 3000] {
                let [a, b, c, d] = shape;
                let problem = GradientProblem::new(Pattern::new(a, b, c, d).expect("a pattern"), dtype, batch);
                let plan = WeightGradientPlan::choose(&problem, &machines()[0]).expect("a plan");
                let (sum, name) = (plan.sum(), format!("sum {}", sources.len()));
                let parts: Vec<f32> = (0..plan.parts_len()).map(|_| rng.f32() - 0.5).collect();
                expected.push(summed(dtype, &sums(&parts, sum.numbers())));
                sources.push(Source { name: name.clone(), text: source(&sum) });
                let grid = u64::from(sum.grid(sum.numbers()));
                launches.push(Launch {
                    kernel: name,
                    overlaps: true,
                    x: Buffer::new(bytemuck::cast_slice::<f32, u8>(&parts).to_vec()),
                    y: Buffer::poisoned(sum.numbers() * dtype.size()),
                    ..usual(grid, u64::from(sum.threads()), 0, sum.numbers() as u64)
                });
            }
        }
    }
    let wrong = |files: &Files| -> Vec<String> {
        let program = compile::program(&sources, files).unwrap_or_else(|why| panic!("{why}"));
        let outcomes: Vec<[Outcome; 2]> = run(&program, &launches);
        let all = outcomes.into_iter().zip(&expected).zip(&sources);
        all.flat_map(|((outcomes, y), source)| outcomes.map(|outcome| (outcome, y, source)))
            .filter(|(outcome, y, _)| !matches!(outcome, Ok(found) if found == *y))
            .map(|(outcome, _, source)| format!("{}: {:?}", source.text, outcome.err()))
            .collect()
    };
    let files = compile::files();
    let failed = wrong(&files);
    assert!(failed.is_empty(), "{failed:#?}");
    for (from, to) in [
        ("if (k >= args.n) return;", "if (k > args.n) return;"),
        ("part < PARTS; ++part", "part + 1 < PARTS; ++part"),
        ("from += args.n", "from += 4"),
        ("Pair<E>::pack(sum[2], sum[3])", "Pair<E>::pack(sum[3], sum[2])"),
    ] {
        let text = &files["gradient_sum.cuh"];
        assert_eq!(text.matches(from).count(), 1, "`{from}` must stand in gradient_sum.cuh once");
        let mut changed = files.clone();
        changed.insert("gradient_sum.cuh".into(), text.replace(from, to));
        assert!(!wrong(&changed).is_empty(), "`{from}` → `{to}` survives");
    }
}
