//! Every kernel family against the oracle, and its mutants: one-line mistakes that the emulator must notice.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use fastrand::Rng;
use kronsparse::plan::gpu::{FusedPlan, GpuPlan};

use super::compile::{self, Files, Source};
use super::harness::inputs;
use super::launch::run;
use super::mutants::MUTANTS;
use super::plans::{Case, spread};

/// Kernels of a family that are run, and how many share a translation unit.
const PLANS: usize = 48;
const TOGETHER: usize = 8;
/// Of these, how many a mutant may take to be noticed, a few at a time.
const FOR_MUTANTS: usize = 32;
const FEW: usize = 4;

/// Does `work` for `0..count` on all cores.
pub(crate) fn each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    work(at);
                }
            });
        }
    });
}

/// All kernels: those for one factor, and those for several.
fn families() -> impl Iterator<Item = &'static str> {
    // For who works on one of them.
    let only = std::env::var("KRONSPARSE_FAMILY").ok();
    if let Some(only) = &only {
        println!("KRONSPARSE_FAMILY: no kernels but those of {only}");
    }
    let all = GpuPlan::FAMILIES.iter().chain(FusedPlan::FAMILIES).copied();
    all.filter(move |name| only.as_deref().is_none_or(|only| only == *name))
}

/// Compiles and runs the cases; what failed, with the plan's words.
fn failures(cases: &[Case], files: &Files, rng: &mut Rng) -> Result<Vec<String>, String> {
    let sources: Vec<_> = cases.iter().enumerate().map(|(at, case)| case.source(at)).collect();
    let program = compile::program(&sources, files)?;
    let drawn: Vec<_> = cases.iter().enumerate().map(|(at, case)| case.draw(at, rng)).collect();
    let launches: Vec<_> = drawn.iter().map(|drawn| drawn.launch.clone()).collect();
    let mut failed = Vec::new();
    for ((case, drawn), outcomes) in cases.iter().zip(&drawn).zip(run(&program, &launches)) {
        for (mode, outcome) in ["early", "late"].into_iter().zip(&outcomes) {
            if let Err(why) = drawn.judge(outcome) {
                failed.push(format!("{} n={} {mode}: {why}", case.plan.describe(), case.n));
            }
        }
    }
    Ok(failed)
}

#[test]
fn every_family_gives_what_the_oracle_gives() {
    let (seed, start) = (inputs::seed(), Instant::now());
    let mut groups = Vec::new();
    for family in families() {
        let cases = spread(family, PLANS);
        assert!(cases.len() >= 8, "{family}: only {} small plans", cases.len());
        println!("{family}: {} plans", cases.len());
        groups.extend(cases.chunks(TOGETHER).map(<[Case]>::to_vec).collect::<Vec<_>>());
    }
    let failed = Mutex::new(Vec::new());
    each(groups.len(), |at| {
        let mut rng = Rng::with_seed(seed ^ at as u64);
        let result = failures(&groups[at], &compile::files(), &mut rng).unwrap_or_else(|why| vec![why]);
        failed.lock().expect("no panic with the lock").extend(result);
    });
    let failed = failed.into_inner().expect("no panic with the lock");
    println!("{:.0} s, again with KRONSPARSE_SEED={seed}", start.elapsed().as_secs_f64());
    let few: Vec<&String> = failed.iter().take(20).collect();
    assert!(failed.is_empty(), "{} runs failed, KRONSPARSE_SEED={seed}: {few:#?}", failed.len());
}

#[test]
fn every_mutant_is_noticed() {
    let files = compile::files();
    let mut by_family: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    for family in families() {
        assert!(MUTANTS.iter().any(|mutant| mutant.family == family), "{family} has no mutants");
        by_family.insert(family, spread(family, FOR_MUTANTS));
    }
    let mutants: Vec<_> = MUTANTS.iter().filter(|mutant| by_family.contains_key(mutant.family)).collect();
    let problems = Mutex::new(Vec::new());
    each(mutants.len(), |at| {
        let mutant = mutants[at];
        let text = &files[mutant.file];
        let report = |why: String| {
            let line = format!("{}: `{}` → `{}`: {why}", mutant.file, mutant.from, mutant.to);
            problems.lock().expect("no panic with the lock").push(line);
        };
        let found = text.matches(mutant.from).count();
        if found != 1 {
            return report(format!("no longer applies: the text stands there {found} times, expected once"));
        }
        let mut changed = files.clone();
        changed.insert(mutant.file.into(), text.replace(mutant.from, mutant.to));
        for cases in by_family[mutant.family].chunks(FEW) {
            match failures(cases, &changed, &mut Rng::new()) {
                Err(why) => return report(why),
                Ok(failed) if failed.is_empty() => {}
                Ok(failed) => {
                    return println!(
                        "{} `{}`: {}",
                        mutant.file,
                        mutant.to,
                        failed[0].rsplit(": ").next().unwrap_or_default()
                    );
                }
            }
        }
        report("survives".into());
    });
    let problems = problems.into_inner().expect("no panic with the lock");
    assert!(problems.is_empty(), "{} of {} mutants: {problems:#?}", problems.len(), mutants.len());
}

/// The wait that generated sources begin with, but for kernels that wait by themselves, which have mutants for theirs.
#[test]
fn a_kernel_that_does_not_wait_for_those_before_it_is_noticed() {
    const WAIT: &str = "ks::wait_for_previous();";
    let mut seen = Vec::new();
    for family in families() {
        let case = spread(family, 1).swap_remove(0);
        let source = case.source(0);
        if case.plan.kernel().waits() {
            assert!(!source.text.contains(WAIT), "{family}: {}", source.text);
            let own = MUTANTS.iter().any(|m| m.family == family && m.from.contains("wait_for_previous"));
            assert!(own, "{family} waits by itself and has no mutant that does not");
            continue;
        }
        seen.push(family);
        assert_eq!(source.text.matches(WAIT).count(), 1, "{family}: {}", source.text);
        let source = Source { text: source.text.replace(WAIT, ""), ..source };
        let program = compile::program(&[source], &compile::files()).unwrap_or_else(|why| panic!("{family}: {why}"));
        for outcome in run(&program, &[case.draw(0, &mut Rng::new()).launch]).remove(0) {
            let why = outcome.err().unwrap_or_default();
            assert!(why.contains("before wait_for_previous"), "{family}: {why}");
        }
    }
    assert!(!seen.is_empty() || families().count() == 1, "some families leave the wait to the source");
}
