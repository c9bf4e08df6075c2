//! The sums of columns, a bias' gradient, against the oracle; and their mutants.

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::source::source;
use kronsparse::plan::gpu::{ColumnSum, KernelPlan};
use kronsparse::{DType, Layout, Scalar};

use super::compile::{self, Files, Source};
use super::gradients::Drawn;
use super::harness::inputs::real;
use super::harness::judge::compare;
use super::launch::{Buffer, Launch, run};
use super::plans::machines;
use super::units::usual;

fn draw_columns<T: Scalar<Wide = f64>>(
    columns: usize,
    plan: &ColumnSum,
    n: usize,
    offset: u64,
    rng: &mut Rng,
) -> Drawn {
    // Away from zero and of one sign, so that no column cancels out.
    let x: Vec<T> = (0..n * columns).map(|_| real(0.25 + rng.f64())).collect();
    let expected: Vec<f64> =
        (0..columns).map(|column| (0..n).map(|row| x[row * columns + column].widen()).sum()).collect();
    let launch = Launch {
        overlaps: true,
        x: Some(Buffer { bytes: bytemuck::cast_slice(&x).to_vec(), offset }),
        y: Buffer::poisoned(plan.parts_len() * 4),
        ..usual(u64::from(plan.grid(n)), u64::from(plan.threads()), 0, n as u64)
    };
    let judge = move |parts: &[u8]| {
        let mut sums = vec![0.0f64; columns];
        for (k, part) in parts.chunks_exact(4).enumerate() {
            sums[k % columns] += f64::from(bytemuck::pod_read_unaligned::<f32>(part));
        }
        compare::<f64>(&sums, &expected, DType::F32.tolerance_on_gpu(n, 1), 1, Layout::BatchFirst)
    };
    Drawn { launch, judge: Box::new(judge) }
}

#[test]
fn columns_are_summed() {
    let mut rng = Rng::new();
    let (mut sources, mut drawn) = (Vec::new(), Vec::new());
    for (columns, n) in [(1, 1), (24, 70), (1111, 33), (2048, 100), (40, 1000), (8, 31)] {
        for dtype in [DType::F16, DType::Bf16, DType::F32] {
            for aligned in [true, false] {
                let plan = ColumnSum::new(columns, dtype, n, aligned, &machines()[0]).expect("a type that it sums");
                let offset = if aligned { 16 } else { dtype.size() as u64 };
                let mut one = match dtype {
                    DType::F16 => draw_columns::<f16>(columns, &plan, n, offset, &mut rng),
                    DType::Bf16 => draw_columns::<bf16>(columns, &plan, n, offset, &mut rng),
                    _ => draw_columns::<f32>(columns, &plan, n, offset, &mut rng),
                };
                one.launch.kernel = format!("columns {}", sources.len());
                sources.push(Source { name: one.launch.kernel.clone(), text: source(&plan) });
                drawn.push(one);
            }
        }
    }
    let launches: Vec<Launch> = drawn.iter().map(|drawn| drawn.launch.clone()).collect();
    let wrong = |files: &Files| -> Vec<String> {
        let program = compile::program(&sources, files).unwrap_or_else(|why| panic!("{why}"));
        let all = run(&program, &launches).into_iter().zip(&drawn);
        all.flat_map(|(outcomes, drawn)| outcomes.map(|outcome| (outcome, drawn)))
            .filter_map(|(outcome, drawn)| outcome.and_then(|parts| (drawn.judge)(&parts)).err())
            .collect()
    };
    let files = compile::files();
    let failed = wrong(&files);
    assert!(failed.is_empty(), "{failed:#?}");
    for (from, to) in [
        ("if (column >= COLUMNS) return;", ""),
        ("begin + share < args.n ? begin + share : args.n", "begin + share"),
        ("row < end; ++row", "row + 1 < end; ++row"),
        ("part * COLUMNS + column", "part * COLUMNS"),
        ("(row * COLUMNS + column) * Bytes", "(row * COLUMNS) * Bytes"),
    ] {
        let text = &files["column_sum.cuh"];
        assert_eq!(text.matches(from).count(), 1, "`{from}` must stand in column_sum.cuh once");
        let mut changed = files.clone();
        changed.insert("column_sum.cuh".into(), text.replace(from, to));
        assert!(!wrong(&changed).is_empty(), "`{from}` → `{to}` survives");
    }
}
