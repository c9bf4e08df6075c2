//! The page of a study: one file, no network, readable without scripts, with filters that work on all figures and the table.

use std::collections::HashMap;
use std::fmt::Write;

use kronsparse::plan::Algorithm;
use serde_json::{Value, json};

use super::analysis::{D_ORDER, Dense, Group, Point, QUANTILES, against_dense, groups, points, rewriting};
use super::cells::Part;
use super::figures;
use super::head::{Head, device_name};
use super::heuristic::Heuristic;
use super::published::{self, CLAIMS};
use crate::format::{percent, ratio, seconds, significant};
use crate::record::{Record, Row, Status};
use crate::report::html::{SORT, STYLE, explain, figure, machine, sortable};
use crate::report::svg::escape;
use crate::summary::warnings;

const LOOK: &str = include_str!("study.css");
const SCRIPT: &str = include_str!("study.js");

/// The whole page as HTML.
pub(super) fn page(record: &Record, head: &Head) -> String {
    let points = points(record);
    let grid: Vec<Point<'_>> = points.iter().filter(|p| p.part == Part::Grid).copied().collect();
    let all = groups(&grid);
    let heuristic = Heuristic::of(&grid);
    let mut body = String::new();
    let _ = writeln!(
        body,
        "<header><p class=\"eyebrow\">kronsparse study · {} grid · {} · {}</p><h1>{}</h1>{}<p class=\"lead\">{}</p>{}</header>",
        head.grid,
        escape(&device_name(&record.machine)),
        escape(&record.settings.date),
        escape(&headline(all.first())),
        warnings(record).iter().map(|w| format!("<p class=\"alarm\">{}</p>", escape(w))).collect::<String>(),
        escape(&lead(record, head, &points)),
        tiles(all.first(), heuristic.as_ref(), &grid)
    );
    let _ = writeln!(body, "<div class=\"bar\">{}{}</div>", figures::legend(&points), filters(&points));
    article(&mut body, &grid, &all, heuristic.as_ref());
    drawings(&mut body, &points, heuristic.as_ref());
    standing(&mut body, &all);
    dense(&mut body, &grid);
    cells(&mut body, &points);
    method(&mut body, record, head);
    machine(&mut body, record);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>kronsparse study, {} grid</title>\n<style>\n{STYLE}{LOOK}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n<script type=\"application/json\" id=\"data\">{}</script>\n\
         <script>\n{SORT}{SCRIPT}</script>\n</body>\n</html>\n",
        head.grid,
        data(&points)
    )
}

/// What a study shows, in a few sentences.
pub fn conclusions(record: &Record) -> Vec<String> {
    let points = points(record);
    let grid: Vec<Point<'_>> = points.iter().filter(|p| p.part == Part::Grid).copied().collect();
    let all = groups(&grid);
    let mut found = vec![headline(all.first())];
    if let Some(energy) = all.first().and_then(|g| g.energy) {
        found.push(format!("Its energy is {} the least of all others in the median.", ratio(energy)));
    }
    found.extend(Heuristic::of(&grid).as_ref().map(sentence));
    found
}

fn headline(all: Option<&Group>) -> String {
    let Some(all) = all else {
        return "There is nothing to compare: no cell of the grid has times of ours and of another algorithm.".into();
    };
    format!(
        "Ours is {} as fast as the best of all others in the median over the {} measured cells of the grid, and the fastest in {}.",
        ratio(all.speedup.median),
        all.cells,
        percent(all.wins as f64 / all.cells as f64)
    )
}

/// How far the study has come, and what it is.
fn lead(record: &Record, head: &Head, points: &[Point<'_>]) -> String {
    let count = record.cases().len();
    let mut text = match head.shard_cells.saturating_sub(count) {
        0 => format!("All {count} cells of the study are measured."),
        open => format!("{count} of {} cells are measured; the other {open} are not yet.", head.shard_cells),
    };
    if head.shard != "1/1" {
        let _ = write!(text, " This is shard {} of a study of {} cells.", head.shard, head.cells);
    }
    if head.merged.len() > 1 {
        let _ = write!(text, " Merged of shards of several machines: {}.", head.merged.join("; "));
    }
    let without = count - points.len();
    if without > 0 {
        let _ = write!(text, " In {without} of them ours has no time; samples.csv says why.");
    }
    text + " The numbers on top and the tables are of the grid; the figures and the list of cells have layers and other batch sizes too."
}

/// The figures that one wants to see first; the script renews those with a name for the cells that are shown.
fn tiles(all: Option<&Group>, heuristic: Option<&Heuristic>, grid: &[Point<'_>]) -> String {
    let share = rewriting(grid).first().map(|r| r.quantiles[2]);
    let dash = || "–".to_string();
    let tiles = [
        ("count", all.map_or(dash(), |g| g.cells.to_string()), "cells shown"),
        ("speedup", all.map_or(dash(), |g| ratio(g.speedup.median)), "median speed over the best of all others"),
        ("wins", all.map_or(dash(), |g| percent(g.wins as f64 / g.cells as f64)), "of the cells won"),
        ("energy", all.and_then(|g| g.energy).map_or(dash(), ratio), "median energy over the least of all others"),
        ("rewriting", share.map_or(dash(), percent), "of permute-bmm's time rewrites memory, median"),
    ];
    let one = |(name, value, label): &(&str, String, &str)| {
        format!("<div class=\"tile\"><b data-stat=\"{name}\">{}</b><span>{label}</span></div>", escape(value))
    };
    let right = heuristic.map_or(String::new(), |h| {
        format!(
            "<div class=\"tile\"><b>{}</b><span>of the grid predicted right by (b + c)/(b·c)</span></div>",
            percent(h.right)
        )
    });
    format!("<div class=\"tiles\" aria-live=\"polite\">{}{right}</div>", tiles.iter().map(one).collect::<String>())
}

/// Choices by element type, layout, d and part of the study. Hidden until the script runs.
fn filters(points: &[Point<'_>]) -> String {
    let choice = |name: &str, mut values: Vec<String>| {
        values.sort_by_key(|value| (D_ORDER.iter().position(|d| d == value), value.clone()));
        values.dedup();
        let options: String = values.iter().map(|v| format!("<option>{}</option>", escape(v))).collect();
        format!("<label>{name} <select data-by=\"{name}\"><option value=\"\">all</option>{options}</select></label>")
    };
    let of = |f: &dyn Fn(&Point<'_>) -> String| points.iter().map(f).collect();
    format!(
        "<div class=\"filters\" hidden>{}{}{}{}<button type=\"button\" id=\"reset\">all</button></div>",
        choice("dtype", of(&|p| p.ours.dtype.to_string())),
        choice("layout", of(&|p| p.ours.layout.to_string())),
        choice("d", of(&|p| p.d_class().to_string())),
        choice("part", of(&|p| p.part.name().to_string()))
    )
}

/// A table that is not sorted; cells are HTML.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: String = heads.iter().map(|h| format!("<th>{h}</th>")).collect();
    let row =
        |row: &Vec<String>| format!("<tr>{}</tr>\n", row.iter().map(|c| format!("<td>{c}</td>")).collect::<String>());
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"wide\"><table class=\"facts\"><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>"
    )
}

/// The article's figures beside those measured here.
fn article(body: &mut String, grid: &[Point<'_>], all: &[Group], heuristic: Option<&Heuristic>) {
    let f32 = |by: &str, value: &str| all.iter().find(|g| g.by == by && g.value == value);
    let energy = |group: Option<&Group>| {
        group.and_then(|g| g.energy.map(|e| (e, g.energy_cells))).map(|(energy, cells)| {
            let change = if energy <= 1.0 {
                format!("{} less", percent(1.0 - energy))
            } else {
                format!("{} more", percent(energy - 1.0))
            };
            format!("{change} ({cells} cells)")
        })
    };
    let speedup = f32("dtype", "f32").map(|g| format!("{} ({} cells)", ratio(g.speedup.median), g.cells));
    let share = rewriting(grid)
        .first()
        .map(|r| format!("up to {}, median {}", percent(r.quantiles[5]), percent(r.quantiles[2])));
    let models = "not a part of this command: <code>python/examples/end_to_end.py</code>";
    let here = [
        speedup,
        energy(f32("dtype", "f32")),
        energy(f32("dtype and layout", "f32 bsl")),
        energy(f32("dtype and layout", "f32 bsf")),
        share,
        Some(models.into()),
        Some(models.into()),
    ];
    let rows: Vec<Vec<String>> = CLAIMS
        .iter()
        .zip(here)
        .map(|(claim, here)| {
            let here = here.unwrap_or_else(|| "not measured".into());
            vec![claim.what.into(), claim.value.into(), here, format!("<small>{}</small>", claim.source)]
        })
        .collect();
    let _ = writeln!(
        body,
        "<section id=\"article\"><h2>Beside the article</h2><p class=\"note\">Other hardware, other libraries, and the best of \
         others patterns here and there: the two columns show whether the same holds, not which kernel is better.</p>{}",
        table(&["figure", "the article", "here", "source"], &rows)
    );
    if let Some(h) = heuristic {
        let _ = writeln!(body, "<p class=\"note\">{}</p>", escape(&sentence(h)));
    }
    body.push_str("</section>\n");
}

/// The heuristic in words.
fn sentence(h: &Heuristic) -> String {
    let threshold = if h.threshold.is_finite() {
        format!("at (b + c)/(b·c) ≥ {}", significant(h.threshold))
    } else {
        "at no ratio at all".into()
    };
    let mut text = format!(
        "The heuristic of the article, that ours gains more where (b + c)/(b·c) is larger: predicting that ours beats all others {threshold} is \
         right in {} of {} cells, and always predicting the more frequent outcome in {}. The threshold is the one that is right most often here. ",
        percent(h.right),
        h.cells,
        percent(h.always)
    );
    match h.concordance {
        Some(share) => {
            let _ = write!(
                text,
                "Of a won and a lost cell the won one has the larger ratio in {} of the pairs. ",
                percent(share)
            );
        }
        None => text.push_str("All cells have the same outcome: there is nothing to tell apart. "),
    }
    if let Some(correlation) = h.correlation {
        let _ = write!(text, "The rank correlation of ratio and speed-up is {correlation:.2}.");
    }
    text
}

/// The figures.
fn drawings(body: &mut String, points: &[Point<'_>], heuristic: Option<&Heuristic>) {
    let threshold = heuristic
        .filter(|h| h.threshold.is_finite())
        .map_or(String::new(), |h| format!(" Above {} a win is predicted.", significant(h.threshold)));
    let common =
        "Every point is a cell: colour by element type, filled for bsf, hollow for bsl; short lines are medians.";
    let keys = "With the keyboard: the arrows go from point to point.";
    figure(
        body,
        "speedup",
        "Speed-up against (b + c)/(b·c)",
        &format!(
            "Time of the best of all others over ours; above the grey line ours is the fastest. {common}{threshold} {keys}"
        ),
        &figures::speedup(points),
    );
    figure(
        body,
        "distribution",
        "How the speed-ups are distributed",
        "Cells in steps of a quarter of a doubling.",
        &figures::distribution(points),
    );
    figure(
        body,
        "rewriting",
        "What permute-bmm spends on rewriting memory",
        &format!("Share of its time that its two permutations take, timed within one call. {common}"),
        &figures::rewriting(points),
    );
    figure(
        body,
        "energy",
        "Energy against (b + c)/(b·c)",
        &format!(
            "Energy of ours over the least energy of all others, idle power included; below the grey line ours needs the least. {common}"
        ),
        &figures::energy(points),
    );
    let panels = figures::batches(points);
    if !panels.is_empty() {
        let panels = format!("{}{panels}", figures::algorithms(points));
        figure(body, "batches", "Time against the number of vectors", "Both axes are logarithmic.", &panels);
    }
}

/// Speed-up and energy by element type, layout and d.
fn standing(body: &mut String, all: &[Group]) {
    let row = |g: &Group| {
        let value =
            if g.by == "all" { "<b>all</b>".into() } else { format!("{} <small>{}</small>", escape(&g.value), g.by) };
        let energy = g.energy.map_or("–".into(), |e| format!("{} <small>{} cells</small>", ratio(e), g.energy_cells));
        let s = &g.speedup;
        let quartiles = format!("{} to {}", ratio(s.q1), ratio(s.q3));
        let extremes = format!("{} to {}", ratio(s.min), ratio(s.max));
        let won = percent(g.wins as f64 / g.cells as f64);
        vec![value, g.cells.to_string(), won, ratio(s.median), quartiles, extremes, energy]
    };
    let _ = writeln!(
        body,
        "<section id=\"standing\"><h2>Ours against the best of all others</h2><p class=\"note\">Cells of the grid; the median of the \
         speed-ups, the middle half of them, the worst and the best.</p>{}</section>",
        table(
            &["cells", "number", "won", "median", "middle half", "all", "energy"],
            &all.iter().map(row).collect::<Vec<_>>()
        )
    );
}

/// Rewriting memory in quantiles, and where dense is better.
fn dense(body: &mut String, grid: &[Point<'_>]) {
    let shares = rewriting(grid);
    if !shares.is_empty() {
        let heads: Vec<String> = QUANTILES.iter().map(|q| format!("{:.0} %", 100.0 * q)).collect();
        let heads: Vec<&str> = ["cells", "number"].into_iter().chain(heads.iter().map(String::as_str)).collect();
        let row = |r: &super::analysis::Rewriting| {
            let quantiles = r.quantiles.iter().map(|q| percent(*q));
            [escape(&r.value), r.cells.to_string()].into_iter().chain(quantiles).collect()
        };
        let _ = writeln!(
            body,
            "<section><h2>Share of rewriting memory</h2><p class=\"note\">Quantiles of the share of permute-bmm's time; the article says up to \
             {}.</p>{}</section>",
            percent(published::REWRITING),
            table(&heads, &shares.iter().map(row).collect::<Vec<_>>())
        );
    }
    let classes = against_dense(grid);
    if !classes.is_empty() {
        let row = |c: &super::analysis::AgainstDense| {
            vec![
                c.sparsity.clone(),
                c.cells.to_string(),
                percent(c.faster as f64 / c.cells as f64),
                figures::times(c.median),
                c.unmeasured.to_string(),
            ]
        };
        let _ = writeln!(
            body,
            "<section id=\"dense\"><h2>Where a Kronecker-sparse matrix beats the dense one</h2><p class=\"note\">By how many times fewer \
             weights it has, a·d. Dense products that take longer than ours even at the machine's measured peak are not run; they \
             count as slower.</p>{}</section>",
            table(
                &[
                    "a·d",
                    "cells",
                    "ours faster",
                    "median of dense's time over ours, where measured",
                    "not run, but slower"
                ],
                &classes.iter().map(row).collect::<Vec<_>>()
            )
        );
    }
}

/// Every cell in a line. Numbers stand without units, so that the script sorts them as they are.
fn cells(body: &mut String, points: &[Point<'_>]) {
    let micro = |row: Option<&Row>| row.and_then(|r| r.median_s).map_or("–".into(), |s| format!("{:.2}", s * 1e6));
    let number = |x: Option<f64>| x.map_or("–".into(), significant);
    let mut rows = String::new();
    for (at, point) in points.iter().enumerate() {
        let own = point.ours;
        let dense = match point.over_dense {
            Dense::Measured(times) => Some(times),
            _ => None,
        };
        let class = match point.wins() {
            Some(true) => " class=\"won\"",
            Some(false) => " class=\"lost\"",
            None => "",
        };
        let _ = writeln!(
            rows,
            "<tr data-i=\"{at}\"{class}><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(&own.chain.to_string()).replace(")(", ")<wbr>("),
            point.part.name(),
            own.dtype,
            own.layout,
            own.n,
            number(point.ratio),
            micro(Some(own)),
            micro(point.best),
            point.best.map_or("–", |row| row.algorithm.name()),
            number(point.speedup),
            number(dense),
            number(point.energy),
            number(point.rewriting),
        );
    }
    let heads = [
        "chain",
        "part",
        "dtype",
        "layout",
        ">n",
        ">(b + c)/(b·c)",
        ">ours, µs",
        ">best other, µs",
        "which",
        ">speed-up",
        ">dense ÷ ours",
        ">energy",
        ">rewriting",
    ];
    let _ = writeln!(
        body,
        "<section id=\"cells\"><h2>Every cell</h2><p class=\"note\">Click a heading to sort; rest on a line for the plans and all figures, which \
         are in <code>samples.csv</code> beside this page.</p>{}</section>",
        sortable(&heads, &rows)
    );
}

/// What the script knows of every cell, as JSON that may stand in HTML.
fn data(points: &[Point<'_>]) -> String {
    let (mut plans, mut places): (Vec<String>, HashMap<String, usize>) = (Vec::new(), HashMap::new());
    let mut plan = |text: &str| {
        *places.entry(text.to_string()).or_insert_with(|| {
            plans.push(text.to_string());
            plans.len() - 1
        })
    };
    let mut row = |row: &Row| -> Value {
        let text = if row.status == Status::Ok && row.median_s.is_some() { &row.plan } else { &row.reason };
        json!([row.algorithm.name(), row.median_s, row.iqr_s, row.energy_j, row.gflops, row.rel_error, plan(text)])
    };
    let cells: Vec<Value> = points
        .iter()
        .map(|p| {
            let rows: Vec<Value> = p.rows.iter().map(&mut row).collect();
            json!({
                "chain": p.ours.chain.to_string(), "dtype": p.ours.dtype.to_string(), "layout": p.ours.layout.name(), "n": p.ours.n,
                "d": p.d_class(), "part": p.part.name(), "ratio": p.ratio, "speedup": p.speedup, "energy": p.energy,
                "rewriting": p.rewriting, "rows": rows
            })
        })
        .collect();
    // `</script>` within a text would end the element.
    json!({ "bins": figures::BINS, "cells": cells, "plans": plans }).to_string().replace('<', "\\u003c")
}

/// How it was measured.
fn method(body: &mut String, record: &Record, head: &Head) {
    let settings = &record.settings;
    let gpu = record.machine.gpu.is_some();
    let list = |algorithms: &[Algorithm]| algorithms.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ");
    let where_measured =
        if gpu { "timed between events on the GPU, one algorithm after the other" } else { "timed in turn" };
    let energy = match (head.energy_s, gpu) {
        (Some(s), _) => {
            format!("of every algorithm over {} by the driver's energy counter, on the thorough cells", seconds(s))
        }
        (None, true) => "not measured; <code>--energy</code> does".into(),
        (None, false) => "not measured: there is no counter that this command reads on a CPU".into(),
    };
    let rewriting = if gpu { "each part of permute-bmm timed within one call" } else { "measured on GPUs only" };
    let explained: String = Algorithm::ALL
        .into_iter()
        .chain([Algorithm::Auto])
        .filter(|a| record.rows.iter().any(|r| r.algorithm == *a))
        .map(|a| format!("<dt><span class=\"dot a-{a}\"></span>{a}</dt><dd>{}</dd>", explain(a)))
        .collect();
    let _ = writeln!(
        body,
        "<section id=\"method\"><h2>How it was measured</h2><div class=\"columns\"><ul>\
         <li><b>Verified before it is timed, and again afterwards</b>, against products in f64; weights and inputs are random with seed {}. A wrong \
         algorithm is marked, not timed.</li>\
         <li><b>Cold caches</b>: more than the last level cache holds is written before every sample. The median of the samples counts, \
         {} for each algorithm on a cell, {where_measured}.</li>\
         <li><b>Algorithms</b>: {}; where that differs, on the other cells {}.</li>\
         <li><b>Energy</b>: {energy}.</li><li><b>Rewriting</b>: {rewriting}.</li>\
         <li><b>Not run</b> are algorithms whose weights need too much memory, and dense products that take too long even at the machine's measured \
         peak; <code>samples.csv</code> has the reason.</li></ul><dl>{explained}</dl></div></section>",
        settings.seed,
        seconds(settings.budget_s),
        list(&head.algorithms),
        if head.algorithms == head.algorithms_elsewhere { "the same".into() } else { list(&head.algorithms_elsewhere) },
    );
}
