//! The pass that joins outputs by itself, or turns numbers into those of another type (kernels/join.cuh): every type, layout and width, with
//! ends that fill no unit, on numbers whose sums and products are exact; and mistakes in it that must be noticed.

use fastrand::Rng;
use half::{bf16, f16};

use super::compile::{self, Source};
use super::launch::{Buffer, Launch, run};
use super::units::{exact, usual};

/// Numbers as an array of `element` has them.
fn stored(element: &str, numbers: &[f32]) -> Vec<u8> {
    let each = |x: &f32| match element {
        "F16" => f16::from_f32(*x).to_le_bytes().to_vec(),
        "Bf16" => bf16::from_f32(*x).to_le_bytes().to_vec(),
        "F32" => x.to_le_bytes().to_vec(),
        _ => f64::from(*x).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(each).collect()
}

/// One instantiation on one input.
struct Case {
    from: &'static str,
    element: &'static str,
    layout: &'static str,
    join: &'static str,
    wide: bool,
    outputs: usize,
    n: usize,
}

impl Case {
    fn source(&self, at: usize) -> Source {
        let Case { from, element, layout, join, wide, outputs, .. } = self;
        let text = format!(
            "#include \"join.cuh\"\nKS_KERNEL(32) kronsparse(KS_PARAMETER ks::Args args) {{ ks::Joined<ks::{from}, ks::{element}, \
             ks::Layout::{layout}, {outputs}, ks::Activation::Relu, ks::Join::{join}, {wide}, 2, 32>::run(args); }}\n"
        );
        Source { name: format!("join {at}"), text }
    }

    /// The launch, and what `y` must hold.
    fn draw(&self, at: usize, rng: &mut Rng) -> (Launch, Vec<u8>) {
        let (count, n) = (self.n * self.outputs, self.n);
        let y: Vec<f32>;
        let mut launch = usual((count as u64).div_ceil(64), 32, 0, n as u64);
        if self.join == "Gate" {
            let x = exact(2 * count, rng);
            let place = |k: usize| match self.layout {
                "BatchFirst" => [2 * k, 2 * k + 1],
                _ => [(2 * (k / n)) * n + k % n, (2 * (k / n) + 1) * n + k % n],
            };
            y = (0..count).map(|k| place(k).map(|at| x[at])).map(|[gate, up]| gate.max(0.0) * up).collect();
            launch.x = Buffer::new(stored(self.from, &x));
        } else {
            let (x, residual) = (exact(count, rng), exact(count, rng));
            launch.x = Buffer::new(stored(self.from, &x));
            if self.join == "Residual" {
                y = x.iter().zip(&residual).map(|(x, r)| x + r).collect();
                launch.residual = Buffer::new(stored(self.element, &residual));
            } else {
                y = x;
            }
        }
        let expected = stored(self.element, &y);
        launch.y = Buffer::poisoned(expected.len());
        (Launch { kernel: format!("join {at}"), overlaps: true, ..launch }, expected)
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (element, unit) in [("F16", 8), ("Bf16", 8), ("F32", 4), ("F64", 0)] {
        for layout in ["BatchFirst", "BatchLast"] {
            for join in ["Residual", "Gate"] {
                for (wide, outputs, n) in [(true, 5, 24), (true, 7, 9), (false, 6, 11), (true, 1, 8)] {
                    // Batch-last, a gate's rows are whole units of vectors, or not wide.
                    let whole = join == "Residual" || layout == "BatchFirst" || (unit > 0 && n % unit == 0);
                    all.push(Case {
                        from: element,
                        element,
                        layout,
                        join,
                        wide: wide && unit > 0 && whole,
                        outputs,
                        n,
                    });
                }
            }
        }
    }
    // Between 16-bit types and f32.
    for (from, element) in [("F16", "F32"), ("Bf16", "F32"), ("F32", "F16"), ("F32", "Bf16")] {
        for join in ["None", "Residual"] {
            for (wide, outputs, n) in [(true, 5, 24), (true, 7, 9), (false, 6, 11)] {
                all.push(Case { from, element, layout: "BatchFirst", join, wide, outputs, n });
            }
        }
    }
    all
}

/// How many cases give something else than they must.
fn wrong(cases: &[Case], files: &compile::Files, rng: &mut Rng) -> Vec<String> {
    let sources: Vec<Source> = cases.iter().enumerate().map(|(at, case)| case.source(at)).collect();
    let program = compile::program(&sources, files).unwrap_or_else(|why| panic!("{why}"));
    let drawn: Vec<(Launch, Vec<u8>)> = cases.iter().enumerate().map(|(at, case)| case.draw(at, rng)).collect();
    let launches: Vec<Launch> = drawn.iter().map(|(launch, _)| launch.clone()).collect();
    let mut wrong = Vec::new();
    for ((at, outcomes), (_, expected)) in run(&program, &launches).into_iter().enumerate().zip(&drawn) {
        for outcome in outcomes {
            let what = &sources[at].text;
            match outcome {
                Ok(y) if y == *expected => {}
                Ok(_) => wrong.push(format!("{what}: other numbers")),
                Err(why) => wrong.push(format!("{what}: {why}")),
            }
        }
    }
    wrong
}

#[test]
fn the_pass_joins_what_it_must() {
    let mut rng = Rng::new();
    let cases = cases();
    let failed = wrong(&cases, &compile::files(), &mut rng);
    assert!(failed.is_empty(), "{} runs of {} cases: {failed:#?}", failed.len(), cases.len());
    for (from, to) in [
        ("if (k + COUNT <= total) unit", "if (k < total) unit"),
        ("    wait_for_previous();\n", ""),
        ("rest < total; ++rest", "rest + 1 < total; ++rest"),
        ("? 2 * k : k + k / n * n", "? 2 * k : k"),
        ("? 1 : n; }", "? 1 : n - 1; }"),
        ("FIRST && 2 * e >= COUNT ? high : low", "FIRST && 2 * e > COUNT ? high : low"),
        ("result += E::load(args.residual, k)", "result += E::load(args.residual, 0)"),
        ("v[e] += Pack<E>::at(residual, e)", "v[e] += v[e]"),
        ("load_global16(from + first * SIZE)", "load_global16(from)"),
        ("unit.v[1] = half.v[1]", "unit.v[1] = half.v[0]"),
        ("From::load(args.x, k)", "E::load(args.x, k)"),
    ] {
        let mut files = compile::files();
        let text = files["join.cuh"].clone();
        assert_eq!(text.matches(from).count(), 1, "`{from}` must stand in join.cuh once");
        files.insert("join.cuh".into(), text.replace(from, to));
        assert!(!wrong(&cases, &files, &mut rng).is_empty(), "`{from}` → `{to}` survives");
    }
}
