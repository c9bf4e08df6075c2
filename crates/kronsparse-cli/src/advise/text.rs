//! An advice as text: what was asked, a table for each number of vectors, the verdicts, the caveat.

use std::fmt::Write as _;

use kronsparse::advise::{Advice, Candidate, Cost, LayerAdvice, ModelAdvice, Objective, Options, Target};
use kronsparse_bench::{Kind, format};

use super::Source;
use crate::output::{HEADING, grouped};
use crate::plan::flops_text;
use crate::table::{Align, render};

/// So many chains are listed for each number of vectors; JSON has all.
const SHOWN: usize = 8;

/// The answer for one shape.
pub(super) fn report(advice: &Advice, kind: Kind, source: Option<&Source>, notes: &[String]) -> String {
    let [rows, cols] = advice.shape();
    let options = advice.options();
    let mut text = String::new();
    let share = |share| format::percent(share);
    let budget = options.search.budget;
    let dense = grouped(advice.dense().chain.parameters());
    line(&mut text, "layer", &format!("{cols} → {rows}, {dense} parameters, {kind}, {}", options.layout));
    heading(&mut text, options, advice.target(), source);
    let looked_at = format!(
        "{} chains with {} to {} of the parameters; the best of every size and family, by the estimates",
        grouped(advice.looked_at()),
        share(budget.least()),
        share(budget.most())
    );
    line(&mut text, "search", &looked_at);
    for note in notes {
        line(&mut text, "note", note);
    }
    text.push('\n');
    text.push_str(&chains(advice));
    for (at, &batch) in options.batches.iter().enumerate() {
        let _ = writeln!(text, "\n{HEADING}n = {}{HEADING:#}", grouped(batch));
        text.push_str(&costs(advice, at));
    }
    let _ = writeln!(text, "\n{HEADING}verdict{HEADING:#}");
    for verdict in advice.verdicts() {
        let _ = writeln!(text, "{}", verdict.sentence);
    }
    if advice.verdicts().len() > 1 {
        let _ = writeln!(text, "{}", advice.overall().sentence);
    }
    let _ = writeln!(text, "{}", advice.caveat());
    text
}

/// A line of the heading.
fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{HEADING}{name:<11}{HEADING:#}{value}");
}

/// Device and ceilings.
fn heading(text: &mut String, options: &Options, target: &Target, source: Option<&Source>) {
    let (basis, ceilings) = match target {
        Target::Gpu(gpu) => {
            let libraries = match &gpu.libraries {
                Ok(_) => "with cuBLAS".to_owned(),
                Err(why) => format!("without cuBLAS ({why})"),
            };
            (format!("the planner's estimates, {libraries}"), None)
        }
        Target::Cpu(c) => {
            let rate = |rate: u64| format::significant(rate as f64 / 1e9);
            let ceilings = format!(
                "{} GFLOP/s in f32, {} in f64; {} GB/s from memory ({} by one thread), {} within the caches",
                rate(c.flops_f32),
                rate(c.flops_f64),
                rate(c.memory_bytes),
                rate(c.memory_bytes_alone),
                rate(c.cache_bytes)
            );
            ("a roofline of measured ceilings".into(), Some(ceilings))
        }
    };
    line(text, "device", &format!("{}; {basis}", target.name()));
    if let Some(ceilings) = ceilings {
        line(text, "ceilings", &ceilings);
    }
    if let Some(Source { origin, remark }) = source {
        line(text, "", origin);
        if let Some(remark) = remark {
            line(text, "", remark);
        }
    }
    line(text, "objective", options.objective.name());
}

/// What the chains are, whatever the number of vectors.
fn chains(advice: &Advice) -> String {
    let rows: Vec<Vec<String>> = advice
        .chains()
        .iter()
        .map(|way| {
            let splits: Vec<String> = way
                .splits
                .iter()
                .map(|split| {
                    format!("{} in {} × ({} × {})", split.rank, grouped(split.blocks()), split.rows, split.cols)
                })
                .collect();
            vec![
                way.chain.to_string(),
                way.family.name().into(),
                grouped(way.chain.parameters()),
                format::percent(way.chain.density()),
                splits.join(", "),
                grouped(way.rank),
            ]
        })
        .collect();
    let columns = [
        ("chain", Align::Left),
        ("family", Align::Left),
        ("parameters", Align::Right),
        ("share", Align::Right),
        ("largest rank in blocks", Align::Left),
        ("of the whole", Align::Right),
    ];
    render(&columns, &rows)
}

/// What they cost for one number of vectors, the best first, the dense matrix among them.
fn costs(advice: &Advice, at: usize) -> String {
    let objective = advice.options().objective;
    let ways = || std::iter::once(advice.dense()).chain(advice.chains());
    let measured = ways().any(|way| way.measured[at].is_some());
    let joules_measured = ways().any(|way| way.measured[at].is_some_and(|figures| figures.joules.is_some()));
    let joules_estimated = objective == Objective::Energy;
    let score = |way: &Candidate| match (objective, way.measured[at]) {
        (Objective::Memory, _) => way.costs[at].memory.bytes(),
        (Objective::Energy, Some(figures)) => figures.joules.unwrap_or(f64::INFINITY),
        (Objective::Energy, None) => way.costs[at].joules.as_ref().copied().unwrap_or(f64::INFINITY),
        (Objective::Time, Some(figures)) => figures.seconds,
        (Objective::Time, None) => way.costs[at].seconds,
    };
    let mut order: Vec<&Candidate> = ways().collect();
    // What was measured comes first: an estimate and a measurement do not compare.
    let unmeasured = |way: &Candidate| measured && objective != Objective::Memory && way.measured[at].is_none();
    order.sort_by(|x, y| unmeasured(x).cmp(&unmeasured(y)).then(score(x).total_cmp(&score(y))));
    let mut chains = 0;
    order.retain(|way| {
        chains += usize::from(way.chain != advice.dense().chain);
        chains <= SHOWN || way.chain == advice.dense().chain || way.measured[at].is_some()
    });
    let none = || "–".to_owned();
    let energy = |joules: f64| format!("{} mJ", format::significant(1e3 * joules));
    let rows: Vec<Vec<String>> = order
        .into_iter()
        .map(|way| {
            let Cost { seconds, joules: estimate, memory, flops, bytes, how, steps: _ } = &way.costs[at];
            let dense = &advice.dense().costs[at];
            let is_dense = way.splits.is_empty() && way.chain == advice.dense().chain;
            let gain = |dense: f64, mine: f64| if is_dense { none() } else { format::ratio(dense / mine) };
            let name = if is_dense { "dense".into() } else { way.chain.to_string() };
            let mut row = vec![name, format::seconds(*seconds), gain(dense.seconds, *seconds)];
            if measured {
                let figures = way.measured[at];
                row.push(figures.map_or_else(none, |figures| format::seconds(figures.seconds)));
                let both = figures.zip(advice.dense().measured[at]);
                row.push(both.map_or_else(none, |(mine, dense)| gain(dense.seconds, mine.seconds)));
            }
            if joules_estimated {
                row.push(estimate.as_ref().ok().copied().map_or_else(none, energy));
            }
            if joules_measured {
                row.push(way.measured[at].and_then(|figures| figures.joules).map_or_else(none, energy));
            }
            row.extend([flops_text(*flops), format::bytes(*bytes), format::bytes(memory.bytes()), how.clone()]);
            row
        })
        .collect();
    let mut columns = vec![("", Align::Left), ("predicted", Align::Right), ("gain", Align::Right)];
    if measured {
        columns.extend([("measured", Align::Right), ("gain", Align::Right)]);
    }
    if joules_estimated {
        columns.push(("energy, predicted", Align::Right));
    }
    if joules_measured {
        columns.push(("energy, measured", Align::Right));
    }
    let rest = [("work", Align::Right), ("to move", Align::Right), ("held", Align::Right), ("how", Align::Left)];
    columns.extend(rest);
    render(&columns, &rows)
}

/// The answer for a model.
pub(super) fn model(advice: &ModelAdvice, options: &Options, target: &Target, source: Option<&Source>) -> String {
    let mut text = String::new();
    heading(&mut text, options, target, source);
    text.push('\n');
    let gains = |layer: &LayerAdvice| -> Vec<String> {
        match layer.chain() {
            Some((advice, best)) => (0..options.batches.len())
                .map(|at| {
                    let of = |way: &Candidate| figure(&way.costs[at], options.objective);
                    let both = of(advice.dense()).zip(of(&advice.chains()[best]));
                    both.map_or("–".into(), |(dense, chain)| format::ratio(dense / chain))
                })
                .collect(),
            None => vec![String::new(); options.batches.len()],
        }
    };
    let rows: Vec<Vec<String>> = advice
        .layers
        .iter()
        .map(|layer| {
            let [rows, cols] = layer.shape;
            let (chain, share) = match (layer.chain(), &layer.advice) {
                (Some((advice, best)), _) => {
                    let chain = &advice.chains()[best].chain;
                    (chain.to_string(), format::percent(chain.density()))
                }
                (None, Ok(advice)) if advice.overall().unknown.is_some() => ("no verdict".into(), String::new()),
                (None, Ok(_)) => ("stay dense".into(), String::new()),
                (None, Err(_)) => ("stay dense: no chain fits".into(), String::new()),
            };
            let head = vec![layer.tensor.clone(), format!("{rows} × {cols}"), layer.dtype.to_string(), chain, share];
            [head, gains(layer)].concat()
        })
        .collect();
    let names: Vec<String> = options.batches.iter().map(|batch| format!("n = {batch}")).collect();
    let mut columns = vec![
        ("layer", Align::Left),
        ("shape", Align::Left),
        ("dtype", Align::Left),
        ("chain", Align::Left),
        ("share", Align::Right),
    ];
    columns.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
    text.push_str(&render(&columns, &rows));
    for layer in advice.layers.iter().filter(|layer| layer.advice.is_err()) {
        let why = layer.advice.as_ref().err().map_or("", String::as_str);
        let _ = writeln!(text, "{}: {why}", layer.tensor);
    }
    let replaced = advice.layers.iter().filter(|layer| layer.chain().is_some()).count();
    let _ = writeln!(
        text,
        "\n{HEADING}all {} layers{HEADING:#}: {replaced} become chains; {} parameters become {}, {} of them",
        advice.layers.len(),
        grouped(advice.parameters),
        grouped(advice.parameters_advised),
        format::percent(advice.parameters_advised as f64 / advice.parameters.max(1) as f64),
    );
    let amount = |amount: f64| match options.objective {
        Objective::Time => format::seconds(amount),
        Objective::Energy => format!("{} mJ", format::significant(1e3 * amount)),
        Objective::Memory => format::bytes(amount),
    };
    for total in &advice.totals {
        let batch = grouped(total.batch);
        let _ = match (&total.dense, &total.advised) {
            (Ok(dense), Ok(advised)) => writeln!(
                text,
                "n = {batch}: predicted {} dense, {} as advised, {}",
                amount(*dense),
                amount(*advised),
                format::ratio(dense / advised)
            ),
            (Err(why), _) | (_, Err(why)) => writeln!(text, "n = {batch}: no sum: {why}"),
        };
    }
    if !advice.skipped.is_empty() {
        let _ = writeln!(text, "not advised on: {} two-dimensional weights (see --json)", advice.skipped.len());
    }
    if let Some((advice, _)) = advice.layers.iter().find_map(LayerAdvice::chain) {
        let _ = writeln!(text, "{}", advice.caveat());
    }
    text
}

/// A cost in the unit of the objective.
fn figure(cost: &Cost, objective: Objective) -> Option<f64> {
    match objective {
        Objective::Time => Some(cost.seconds),
        Objective::Energy => cost.joules.as_ref().ok().copied(),
        Objective::Memory => Some(cost.memory.bytes()),
    }
}
