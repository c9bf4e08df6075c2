//! The packing of weights on the device, for the kernels of every family, against the packing on the host; and its mutants.

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::source::source;
use kronsparse::plan::gpu::{GpuPlan, GpuProblem, KernelPlan, Packing, Precision, WeightParts};
use kronsparse::{DType, Layout, Pattern, Scalar};

use super::compile::{self, Files, Source};
use super::gradients::KINDS;
use super::harness::inputs::real;
use super::launch::{Buffer, Launch, run};
use super::plans::machines;
use super::units::usual;

/// Plans of every family and element type, with every way of splitting weights.
fn packed_plans() -> Vec<GpuPlan> {
    let mut found: Vec<GpuPlan> = Vec::new();
    let sizes = [([2, 20, 36, 6], 4), ([1, 64, 64, 8], 100), ([3, 24, 40, 1], 16), ([1, 32, 16, 64], 100)];
    for ([a, b, c, d], batch) in sizes {
        for (dtype, precision) in KINDS.into_iter().chain([(DType::F64, Precision::Full)]) {
            let pattern = Pattern::new(a, b, c, d).expect("a pattern");
            let problem = GpuProblem { precision, ..GpuProblem::new(pattern, dtype, Layout::BatchFirst, batch) };
            let plans = GpuPlan::candidates(&problem, &machines()[0]);
            for name in GpuPlan::FAMILIES {
                found.extend(plans.iter().rfind(|plan| plan.name() == *name).cloned());
            }
        }
    }
    for name in GpuPlan::FAMILIES {
        assert!(found.iter().any(|plan| plan.name() == *name), "no plan of {name}");
    }
    for split in [|p: WeightParts| p == WeightParts::Tf32, |p: WeightParts| matches!(p, WeightParts::HighLow { .. })] {
        assert!(found.iter().any(|plan| split(plan.weight_parts())), "no plan splits weights so");
    }
    found
}

fn draw_packing<T: Scalar<Wide = f64>>(
    plan: &GpuPlan,
    at: usize,
    transposed: bool,
    rng: &mut Rng,
) -> (Launch, Vec<u8>) {
    let (pattern, packing) = (plan.problem().pattern, Packing::of(plan));
    let mut weights: Vec<T> = (0..pattern.nnz()).map(|_| real(2.0 * rng.f64() - 1.0)).collect();
    for special in [f64::INFINITY, f64::NEG_INFINITY, 1e-30] {
        let place = rng.usize(..weights.len());
        weights[place] = real(special);
    }
    let packed = plan.pack(&weights).expect("as many weights as the pattern has");
    // As they are learned: those of the transpose.
    let given = match transposed {
        false => weights,
        true => {
            let [a, c, b, d] = pattern.transpose().shape();
            let index = |k: usize| (k / (b * c * d), k / (b * d) % c, k / d % b, k % d);
            (0..a * b * c * d).map(index).map(|(i, l, o, j)| weights[pattern.weight_index(i, o, l, j)]).collect()
        }
    };
    let places = plan.places(transposed).expect("few packed weights");
    let mut launch = usual(u64::from(packing.grid(given.len())), u64::from(packing.threads()), 0, given.len() as u64);
    launch.kernel = format!("pack {at}");
    launch.overlaps = true;
    launch.x = Buffer::new(bytemuck::cast_slice::<T, u8>(&given).to_vec());
    launch.w = Buffer::new(bytemuck::cast_slice::<u32, u8>(&places).to_vec());
    launch.y = Buffer::new(vec![0; packed.len() * size_of::<T>()]);
    (launch, bytemuck::cast_slice::<T, u8>(&packed).to_vec())
}

#[test]
fn weights_are_packed_as_on_the_host() {
    let (plans, mut rng) = (packed_plans(), Rng::new());
    let sources: Vec<Source> = plans
        .iter()
        .enumerate()
        .map(|(at, plan)| Source { name: format!("pack {at}"), text: source(&Packing::of(plan)) })
        .collect();
    let drawn: Vec<(Launch, Vec<u8>)> = plans
        .iter()
        .enumerate()
        .flat_map(|(at, plan)| [(at, plan, false), (at, plan, true)])
        .map(|(at, plan, transposed)| match plan.problem().dtype {
            DType::F16 => draw_packing::<f16>(plan, at, transposed, &mut rng),
            DType::Bf16 => draw_packing::<bf16>(plan, at, transposed, &mut rng),
            DType::F32 => draw_packing::<f32>(plan, at, transposed, &mut rng),
            _ => draw_packing::<f64>(plan, at, transposed, &mut rng),
        })
        .collect();
    let launches: Vec<Launch> = drawn.iter().map(|(launch, _)| launch.clone()).collect();
    let wrong = |files: &Files| -> Vec<String> {
        let program = compile::program(&sources, files).unwrap_or_else(|why| panic!("{why}"));
        let all = run(&program, &launches).into_iter().zip(&drawn);
        all.flat_map(|(outcomes, (launch, expected))| outcomes.map(|outcome| (outcome, launch, expected)))
            .filter(|(outcome, _, expected)| !matches!(outcome, Ok(found) if found == *expected))
            .map(|(outcome, launch, _)| format!("{}: {:?}", launch.kernel, outcome.err()))
            .collect()
    };
    let files = compile::files();
    let failed = wrong(&files);
    assert!(failed.is_empty(), "{} of {}: {failed:#?}", failed.len(), 2 * drawn.len());
    for (from, to) in [
        ("if (k >= args.n) return;", "if (k > args.n) return;"),
        ("place + LOW_AFTER, finite", "place + LOW_AFTER + 1, finite"),
        ("E::store(args.y, place, finite ? high : 0.f);", "E::store(args.y, place, high);"),
        ("      E::store(args.y, place, high);", "      E::store(args.y, place, value);"),
        ("static_cast<const u32*>(args.w) + k", "static_cast<const u32*>(args.w) + k / 2"),
    ] {
        let text = &files["pack_weights.cuh"];
        let Some(to) = (text.matches(from).count() == 1).then(|| text.replace(from, to)) else {
            panic!("`{from}` must stand in pack_weights.cuh once")
        };
        let mut changed = files.clone();
        changed.insert("pack_weights.cuh".into(), to);
        assert!(!wrong(&changed).is_empty(), "a mutant of `{from}` survives");
    }
}
