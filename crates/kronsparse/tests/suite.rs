//! Every case of `testdata/` × element type × layout × algorithm × threads, through `cpu::Operator`, against the oracle.
//!
//! `KRONSPARSE_CASES=chains/` runs the cases whose name contains that text, `KRONSPARSE_SEED=…` repeats a failed run.

mod harness;

use harness::{Case, case, engine, inputs, run};
use kronsparse::{Activation, DType, Layout};

/// What the CPU engine may refuse. Nothing else.
fn refusals(case: &Case, dtype: DType, _engine: &str) -> Option<&'static str> {
    let complex = dtype.is_complex() && case.activation != Activation::None;
    complex.then_some("activations are defined for real numbers only")
}

#[test]
fn every_case_on_the_cpu() {
    engine::two_threads_at_least();
    let cases = case::all();
    let report = run(&cases, &engine::Cpu::all(), &refusals, inputs::seed());
    let runs: usize = cases.iter().map(|c| c.dtypes.len() * c.layouts.len() * c.batch.len()).sum();
    assert_eq!(report.records.len(), runs * engine::Cpu::all().len(), "every combination ran once");
    report.assert();
}

#[test]
fn the_cases_cover_what_they_should() {
    if std::env::var_os("KRONSPARSE_CASES").is_some() {
        return; // A part of the cases covers a part.
    }
    let cases = case::all();
    let some = |what: &str, holds: &dyn Fn(&Case) -> bool| assert!(cases.iter().any(holds), "no case with {what}");
    for n in [0, 1, 3, 7, 15, 16, 17, 47, 48, 49, 100] {
        some(&format!("n = {n}"), &|c| c.batch.contains(&n));
    }
    for d in [1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 17, 24, 48, 64] {
        some(&format!("d = {d}"), &|c| c.chain.patterns().iter().any(|p| p.d() == d));
    }
    for activation in Activation::ALL {
        for bias in [false, true] {
            some(&format!("{activation}, bias {bias}"), &|c| c.activation == activation && c.bias == bias);
        }
    }
    for dtype in DType::ALL {
        some(&format!("dtype {dtype}"), &|c| c.dtypes.contains(&dtype));
    }
    for layout in Layout::ALL {
        some(&format!("layout {layout}"), &|c| c.layouts.contains(&layout));
    }
    let factors = |c: &Case| c.chain.patterns().len();
    some("one factor", &|c| factors(c) == 1);
    some("two factors", &|c| factors(c) == 2);
    some("three factors", &|c| factors(c) == 3);
    some("six factors", &|c| factors(c) == 6);
    some("a chain that multiplies but cannot be fused", &|c| !c.chain.is_chainable());
    let hidden = |c: &Case| c.chain.patterns().iter().skip(1).map(|p| p.rows()).max().unwrap_or(0);
    let ends = |c: &Case| (c.chain.rows().min(c.chain.cols()), c.chain.rows().max(c.chain.cols()));
    some("a hidden vector longer than both ends", &|c| hidden(c) > ends(c).1);
    some("a hidden vector shorter than both ends", &|c| factors(c) == 2 && hidden(c) < ends(c).0);
    some("a sum of 5000 terms", &|c| c.chain.longest_sum() >= 5000);
    some("512 super-blocks", &|c| c.chain.patterns()[0].a() >= 512);
}

#[test]
fn a_malformed_case_is_refused() {
    let good = "[[case]]\nname = \"x\"\nwhy = \"a sentence of words\"\nfactors = [[1, 2, 3, 4]]\nbatch = 5\n";
    assert_eq!(case::parse(good).unwrap().len(), 1);
    for (from, to, expected) in [
        ("batch = 5", "batch = []", "never run"),
        ("batch = 5", "batches = 5", "unknown field"),
        ("batch = 5", "batch = 5\ndtypes = [\"f8\"]", "f8"),
        ("batch = 5", "batch = 5\nlayouts = []", "never run"),
        ("batch = 5", "batch = 5\nactivation = \"tanh\"", "tanh"),
        ("[[1, 2, 3, 4]]", "[[1, 2, 3, 4], [1, 2, 3, 5]]", "12 columns"),
        ("[[1, 2, 3, 4]]", "[[1, 2, 3, 0]]", "at least 1"),
        ("[[1, 2, 3, 4]]", "[]", "at least one factor"),
        ("a sentence of words", "words", "sentence"),
    ] {
        let error = case::parse(&good.replace(from, to)).unwrap_err();
        assert!(error.contains(expected), "{to}: {error}");
    }
}
