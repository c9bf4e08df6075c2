//! The estimates that `auto` picks by on GPUs, against the committed record of an H100: how far they are off, and what picking
//! by them alone, without the measurement that `prepare` of a benchmark makes, would cost.

use std::path::Path;

use kronsparse::Pattern;
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{CALL, Choice, GpuMachine, GpuProblem, Ranked, libraries, promising, ranked};
use kronsparse_bench::{Cache, Record, Row};

const RECORD: &str = "record/2026-11-22-h100";
const FOLDERS: [&str; 4] = ["grid", "small", "energy", "first"];
const LIMIT: usize = 1 << 30;

/// Measured rows of single factors.
fn rows(folder: &str) -> Vec<Row> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels above the crate");
    let record = Record::read(&root.join(RECORD).join(folder)).expect("the committed record is readable");
    let single = |row: &Row| row.median_s.is_some() && row.problem().chain.patterns().len() == 1;
    record.rows.into_iter().filter(single).collect()
}

fn problem(row: &Row) -> GpuProblem {
    let (kind, problem) = (row.dtype, row.problem());
    let pattern: Pattern = problem.chain.patterns()[0];
    GpuProblem { precision: kind.precision(), ..GpuProblem::new(pattern, kind.dtype, problem.layout, problem.batch) }
}

/// The algorithm whose row has the time of a way.
fn by(way: &Ranked) -> Algorithm {
    match &way.choice {
        Choice::Kernel(_) => Algorithm::Fused,
        Choice::Library(algorithm) => *algorithm,
    }
}

/// The least, the median, the largest.
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// The figures in the comment of `plan/gpu/libraries.rs`.
#[test]
fn estimates_of_the_libraries_are_as_good_as_stated() {
    let (machine, mut wrong) = (GpuMachine::h100(), Vec::new());
    let expected = [
        (Algorithm::PermuteBmm, [0.67, 1.02, 1.49], [1.53, 1.94, 2.22]),
        (Algorithm::Dense, [0.78, 1.02, 1.19], [0.86, 1.71, 2.45]),
        (Algorithm::Strided, [0.75, 0.99, 1.10], [1.79, 1.89, 1.90]),
    ];
    for (algorithm, large, small) in expected {
        for (folders, expected) in [(&["grid", "energy", "first"][..], large), (&["small"][..], small)] {
            let all = folders.iter().flat_map(|folder| rows(folder)).filter(|row| row.algorithm == algorithm);
            let ratio = |row: Row| {
                let estimate = libraries::seconds(algorithm, &problem(&row), &machine, usize::MAX);
                // In a graph calls follow each other.
                let call = if row.cache == Cache::Cold { CALL } else { 0.0 };
                (call + estimate.expect("what was measured exists")) / row.median_s.expect("only measured rows")
            };
            let found = quantiles(all.map(ratio).collect());
            let is = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.02);
            if !is {
                wrong.push(format!("{algorithm} {folders:?}: {found:.3?}, stated {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Picking by estimates, with the times that were recorded: of the kernel that was planned then, and of the libraries. And what
/// was fastest is always among the few that `Operator::tune` measures.
#[test]
fn the_fastest_is_measured_and_estimates_mostly_pick_it() {
    let machine = GpuMachine::h100();
    let mut losses = Vec::new();
    // `first` has kernels that other estimates chose.
    for folder in &FOLDERS[..3] {
        for cell in rows(folder).chunk_by(|p, q| p.same_case(q)) {
            let p = problem(&cell[0]);
            let ways = ranked(&p, &machine, Some(LIMIT));
            let algorithm = by(&ways[0]);
            let best = cell.iter().filter_map(|row| row.median_s).fold(f64::INFINITY, f64::min);
            let of = |wanted: Algorithm| cell.iter().find(|row| row.algorithm == wanted).and_then(|row| row.median_s);
            let list: Vec<String> = ways.iter().map(|way| way.to_string()).collect();
            let measured: Vec<String> =
                cell.iter().map(|row| format!("{} {:.1}", row.algorithm, row.median_s.unwrap_or(0.0) * 1e6)).collect();
            assert!(
                promising(&p, &machine, Some(LIMIT)).iter().any(|way| of(by(way)) == Some(best)),
                "{folder} {p:?}: what was fastest is not worth a measurement; measured {measured:?}"
            );
            let Some(picked) = of(algorithm) else { continue };
            losses.push(picked / best);
            println!(
                "{folder} {} {} n={}: {algorithm} {:.2}; estimated {}; measured {}",
                p.pattern,
                p.dtype,
                p.batch,
                picked / best,
                list.join(", "),
                measured.join(", ")
            );
        }
    }
    let cells = losses.len();
    let over = losses.iter().filter(|&&loss| loss > 1.05).count();
    let [_, median, worst] = quantiles(losses);
    println!("{cells} cells: median {median:.3}, worst {worst:.2}, {over} above 1.05");
    assert!(cells > 70, "only {cells} cells");
    assert!(median < 1.01 && worst < 2.0, "{cells} cells: median {median:.3}, worst {worst:.2}, {over} above 1.05");
}
