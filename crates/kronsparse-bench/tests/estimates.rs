//! The estimates of whole calls, by this project's kernels and by libraries, against everything that the committed records of an H100
//! have of them: predicted over measured time by family, number of vectors and state of the caches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{CALL, ChainProblem, Choice, FusedPlan, GpuMachine, GpuPlan, Ranked, beside, libraries};
use kronsparse::{ChainSpec, Layout};
use kronsparse_bench::{Cache, Kind, Record, Row};

const RECORDS: [&str; 2] = ["2026-11-22-h100", "2026-11-23-h100"];

/// A call that was measured: of what, by which steps as the record has them, in how many seconds.
struct Call {
    place: String,
    problem: ChainProblem,
    cache: Cache,
    steps: Vec<String>,
    seconds: f64,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels above the crate").join("record")
}

/// The folders below `folder` that have samples.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        if next.join("samples.csv").exists() && next.join("machine.toml").exists() {
            found.push(next.clone());
        }
        let entries =
            std::fs::read_dir(&next).expect("a committed folder").map(|entry| entry.expect("readable").path());
        open.extend(entries.filter(|path| path.is_dir()));
    }
    found.sort();
    found
}

fn call(place: &str, row: &Row) -> Option<Call> {
    let (kind, problem) = (row.dtype, row.problem());
    let steps = match row.algorithm {
        Algorithm::Auto | Algorithm::Fused => {
            row.plan.split(" | ").map(|step| step.split_once(" by ").map_or(step, |(_, way)| way).to_owned()).collect()
        }
        Algorithm::Dense | Algorithm::PermuteBmm | Algorithm::Strided => vec![row.algorithm.name().to_owned()],
        _ => return None,
    };
    let problem = ChainProblem {
        precision: kind.precision(),
        ..ChainProblem::new(problem.chain, kind.dtype, problem.layout, problem.batch)
    };
    Some(Call { place: place.into(), problem, cache: row.cache, steps, seconds: row.median_s? })
}

/// What `tune` printed: problem, untuned way and its time, tuned way and its time, all with cold caches.
fn tuned(text: &str) -> Vec<Call> {
    let line = |line: &str| -> Option<Vec<Call>> {
        let columns: Vec<&str> = line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        let &[problem, untuned, first, best, second, _] = &columns[..] else { return None };
        let words: Vec<&str> = problem.split(' ').collect();
        let &[chain, dtype, layout, "n", "=", n] = &words[..] else { return None };
        let ChainSpec::Explicit(chain) = chain.parse().ok()? else { return None };
        let (kind, layout, n): (Kind, Layout, usize) = (dtype.parse().ok()?, layout.parse().ok()?, n.parse().ok()?);
        let problem = ChainProblem { precision: kind.precision(), ..ChainProblem::new(chain, kind.dtype, layout, n) };
        let of = |way: &str, time: &str| -> Option<Call> {
            let seconds = time.strip_suffix(" µs")?.parse::<f64>().ok()? * 1e-6;
            let steps = way.split(" + ").map(str::to_owned).collect();
            Some(Call { place: "tune".into(), problem: problem.clone(), cache: Cache::Cold, steps, seconds })
        };
        let mut calls = vec![of(untuned, first)?];
        if best != "the same" {
            calls.push(of(best, second)?);
        }
        Some(calls)
    };
    text.lines().filter_map(line).flatten().collect()
}

fn calls() -> Vec<Call> {
    let mut all = Vec::new();
    for record in RECORDS {
        for folder in folders(&root().join(record)) {
            let place = folder.strip_prefix(root()).expect("below the records").display().to_string();
            let rows = Record::read(&folder).expect("the committed record is readable").rows;
            all.extend(rows.iter().filter_map(|row| call(&place, row)));
        }
    }
    let tune = root().join("2026-11-23-h100/landed/tune.txt");
    all.extend(tuned(&std::fs::read_to_string(tune).expect("committed")));
    all
}

/// The estimate of a step that multiplies by these factors, by its family or algorithm, with the tile of the record where it is
/// offered now; and its family.
fn step(problem: &ChainProblem, at: usize, count: usize, way: &str) -> Option<(f64, String)> {
    let machine = GpuMachine::h100();
    let name = way.split([':', ' ']).next()?;
    if count == 1 {
        let one = problem.factor(at);
        let others = problem.chain.patterns().len() > 1;
        let choice = match name.parse::<Algorithm>() {
            Ok(algorithm) => {
                let seconds = libraries::seconds(algorithm, &one, &machine, usize::MAX)?;
                Ranked { choice: Choice::Library(algorithm), seconds }
            }
            Err(_) => {
                let plans: Vec<GpuPlan> =
                    GpuPlan::candidates(&one, &machine).into_iter().filter(|plan| plan.name() == name).collect();
                let same = plans.iter().find(|plan| way.starts_with(&plan.to_string()));
                let best = || plans.iter().min_by(|p, q| p.seconds(&machine).total_cmp(&q.seconds(&machine)));
                let plan = same.or_else(best)?.clone();
                Ranked { seconds: plan.seconds(&machine), choice: Choice::Kernel(Box::new(plan)) }
            }
        };
        let way = if others { beside(choice) } else { choice };
        return Some((way.seconds, name.to_owned()));
    }
    let part = problem.part(at, count);
    let plans = FusedPlan::candidates(name, &part, &machine);
    let plan = plans.iter().find(|plan| way.starts_with(&plan.to_string())).or(plans.first())?;
    Some((plan.seconds(), name.to_owned()))
}

/// Predicted seconds of a call, and the families of its steps.
fn predicted(call: &Call) -> Option<(f64, String)> {
    let Call { problem, steps, .. } = call;
    let (machine, count) = (GpuMachine::h100(), problem.chain.patterns().len());
    // In a graph calls follow each other.
    let of_call = |seconds: f64| Some(seconds + if call.cache == Cache::Cold { CALL } else { 0.0 });
    if let [way] = &steps[..]
        && let Ok(algorithm) = way.split([':', ' ']).next()?.parse::<Algorithm>()
    {
        if algorithm == Algorithm::Dense && count > 1 {
            let seconds = problem.dense(&machine, Some(usize::MAX)).ok()?.seconds;
            return Some((of_call(seconds)?, algorithm.to_string()));
        }
        let all: Option<Vec<f64>> = (0..count).map(|at| Some(step(problem, at, 1, way)?.0)).collect();
        return Some((of_call(all?.iter().sum())?, algorithm.to_string()));
    }
    let mut names = Vec::new();
    let mut seconds = 0.0;
    if steps.len() == 1 {
        let (all, name) = step(problem, 0, count, &steps[0])?;
        return Some((of_call(all)?, name));
    }
    if steps.len() != count {
        return None;
    }
    for (turn, way) in steps.iter().enumerate() {
        let (one, name) = step(problem, count - 1 - turn, 1, way)?;
        seconds += one;
        names.push(name);
    }
    names.sort();
    names.dedup();
    Some((of_call(seconds)?, if names.len() == 1 { format!("{} each", names[0]) } else { "several kinds".into() }))
}

/// The least, the tenth in ten, the median, the ninth, the largest.
fn quantiles(values: &mut [f64]) -> [f64; 5] {
    values.sort_by(f64::total_cmp);
    let last = (values.len() - 1) as f64;
    [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| values[(share * last).round() as usize])
}

/// Prints the quantiles by family, and holds the shares within a quarter to what they are.
#[test]
fn estimates_of_calls_are_as_good_as_stated() {
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut within: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut unknown = 0;
    for call in calls() {
        let Some((estimate, family)) = predicted(&call) else {
            unknown += 1;
            continue;
        };
        let ChainProblem { chain, dtype, layout, batch, .. } = &call.problem;
        let ratio = estimate / call.seconds;
        println!(
            "{},{},\"{chain}\",{dtype},{:?},{layout},{batch},{family},{:.3},{:.3},{ratio:.3}",
            call.place,
            call.cache,
            call.problem.precision,
            estimate * 1e6,
            call.seconds * 1e6
        );
        let vectors = match batch {
            0..=64 => "n ≤ 64",
            65..=2048 => "n ≤ 2048",
            _ => "more",
        };
        ratios.entry(format!("{family}, {}, {vectors}", call.cache)).or_default().push(ratio);
        let count = within.entry(format!("{}, {vectors}", call.cache)).or_default();
        count.0 += usize::from((0.75..=1.25).contains(&ratio));
        count.1 += 1;
    }
    for (family, values) in &mut ratios {
        println!("{family}: {} calls, {:.2?}", values.len(), quantiles(values));
    }
    println!("{unknown} calls have steps that no longer exist");
    println!("{within:#?}");
    // Estimates are of cold calls: in a graph with warm caches they are too high.
    let cold = [("cold, n ≤ 64", (9, 9)), ("cold, n ≤ 2048", (94, 96)), ("cold, more", (684, 729))];
    for (what, stated) in cold {
        assert_eq!(within[what], stated, "{what}");
    }
    assert_eq!(unknown, 0);
}
