//! Tests of the test harness: a wrong engine must be reported, run by run, and a right one must not.

mod harness;

use std::panic;

use harness::inputs::{self, Fenced};
use harness::mutant::{Must, Mutant};
use harness::{Case, Outcome, Report, case, run};
use kronsparse::{Activation, DType};

fn refusals(case: &Case, dtype: DType, _engine: &str) -> Option<&'static str> {
    (dtype.is_complex() && case.activation != Activation::None).then_some("real numbers only")
}

/// Small cases of every kind: the mistakes need no size to show.
fn cases() -> Vec<Case> {
    let wanted = [
        "batch/general",
        "batch/chain",
        "shapes/square",
        "shapes/long-sum",
        "lanes/2",
        "lanes/16",
        "chains/",
        "epilogue/",
    ];
    let unwanted = ["chains/monarch-1024", "chains/long-hidden-sum"];
    let mut cases = case::all();
    cases.retain(|c| wanted.iter().any(|w| c.name.starts_with(w)) && !unwanted.contains(&c.name.as_str()));
    cases.iter_mut().for_each(|c| c.batch.retain(|&n| n < 32));
    cases.retain(|c| !c.batch.is_empty());
    cases
}

#[test]
fn an_honest_engine_passes_every_case() {
    // Sums in the plainest order, rounded at every step: the tolerances leave room for it, in any run.
    run(&case::all(), &[Mutant::Honest], &refusals, inputs::seed()).assert();
}

#[test]
fn every_mistake_is_reported_wherever_it_matters() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        // The panicking mutant would print thousands of lines.
        if !info.to_string().contains("on purpose") {
            eprintln!("{info}");
        }
    }));
    let cases = cases();
    let report = run(&cases, &Mutant::WRONG, &refusals, inputs::seed());
    panic::set_hook(hook);
    let mut reported = vec![0; Mutant::WRONG.len()];
    let mut missed = Vec::new();
    for record in &report.records {
        let case = cases.iter().find(|c| c.name == record.case).expect("the case it came from");
        let at = Mutant::WRONG.iter().position(|m| format!("{m:?}") == record.engine).expect("a mutant");
        let failed = matches!(record.outcome, Outcome::Fail(_));
        reported[at] += usize::from(failed);
        let excused = refusals(case, record.dtype, &record.engine).is_some();
        let right = match Mutant::WRONG[at].must(case, record) {
            _ if excused => record.outcome == Outcome::Unsupported("real numbers only".into()),
            Must::Pass => record.outcome == Outcome::Pass,
            Must::Fail => failed,
            Must::Either => true,
        };
        if !right {
            missed.push(record);
        }
    }
    let seed = report.seed;
    assert!(missed.is_empty(), "{} runs judged wrongly, KRONSPARSE_SEED={seed}, first: {:#?}", missed.len(), missed[0]);
    for (mutant, count) in Mutant::WRONG.iter().zip(reported) {
        assert!(count >= 20, "{mutant:?} was reported only {count} times");
    }
    assert!(report.verdict().unwrap_err().contains("runs failed"));
}

#[test]
fn an_unlisted_refusal_fails_and_a_stale_list_fails() {
    let cases: Vec<Case> = cases().into_iter().filter(|c| c.name == "shapes/square").collect();
    let nothing_allowed = |_: &Case, _: DType, _: &str| None;
    let report = run(&cases, &[Mutant::Refuses], &nothing_allowed, 1);
    assert!(!report.records.is_empty() && report.failed().len() == report.records.len());
    assert!(report.to_string().contains("required, but"));
    let all_allowed = |_: &Case, _: DType, _: &str| Some("everything");
    let stale = run(&cases, &[Mutant::Honest], &all_allowed, 1);
    assert!(stale.failed().len() == stale.records.len() && stale.to_string().contains("is listed as unsupported"));
    // Refusing everything is allowed here, but then nothing ran.
    let idle = run(&cases, &[Mutant::Refuses], &all_allowed, 1);
    assert_eq!(idle.verdict(), Err("nothing ran".into()));
    assert_eq!(idle.unsupported()["everything"], idle.records.len());
    assert_eq!(Report { seed: 1, records: Vec::new() }.verdict(), Err("nothing ran".into()));
}

#[test]
fn a_seed_repeats_a_run_and_another_does_not() {
    let cases: Vec<Case> = cases().into_iter().filter(|c| c.name == "shapes/square").collect();
    let messages = |seed| {
        let report = run(&cases, &[Mutant::TransposedWeights], &refusals, seed);
        let mut lines: Vec<String> = report.records.iter().map(|r| format!("{r:?}")).collect();
        lines.sort();
        lines
    };
    assert_eq!(messages(7), messages(7));
    assert_ne!(messages(7), messages(8));
}

#[test]
fn a_write_beside_the_output_is_found() {
    for at in [0, 66, 67 + 5, 67 + 5 + 66] {
        let mut y = Fenced::<f32>::poisoned(5);
        y.get_mut().fill(1.0);
        assert_eq!(y.broken(), None);
        y.memory_mut()[at] = 0.0;
        assert_eq!(y.broken(), Some(at as isize - 67));
    }
}
