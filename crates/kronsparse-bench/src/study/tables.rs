//! The tables of a study's page: beside the article, by element type, layout and d, against dense, and every cell.

use std::fmt::Write;

use super::analysis::{AgainstDense, Group, Point, QUANTILES, Rewriting, against_dense, rewriting};
use super::figures;
use super::heuristic::Heuristic;
use super::models::Models;
use super::page::sentence;
use super::published::{self, CLAIMS, MODELS};
use crate::format::{percent, ratio, significant};
use crate::record::Row;
use crate::report::html::sortable;
use crate::report::svg::escape;

/// A table that is not sorted; cells are HTML.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: String = heads.iter().map(|h| format!("<th>{h}</th>")).collect();
    let row =
        |row: &Vec<String>| format!("<tr>{}</tr>\n", row.iter().map(|c| format!("<td>{c}</td>")).collect::<String>());
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"wide\"><table class=\"facts\"><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>"
    )
}

/// The article's figures beside those measured here.
pub(super) fn article(
    body: &mut String,
    grid: &[Point<'_>],
    all: &[Group],
    heuristic: Option<&Heuristic>,
    models: Option<&Models>,
) {
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
    let [vit, gpt] = MODELS.map(|model| models.and_then(|models| models.beside(model.name)));
    let how =
        || Some("not given: <code>--models</code> with a file of <code>python/examples/end_to_end.py</code>".into());
    let whole =
        |found: Option<String>| found.map(|text| escape(&text)).or_else(|| models.is_none().then(how).flatten());
    let here = [speedup, energy(f32("dtype", "f32")), share, whole(vit), whole(gpt)];
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

/// Speed-up and energy by element type, layout and d.
pub(super) fn standing(body: &mut String, all: &[Group]) {
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
pub(super) fn dense(body: &mut String, grid: &[Point<'_>]) {
    let shares = rewriting(grid);
    if !shares.is_empty() {
        let heads: Vec<String> = QUANTILES.iter().map(|q| format!("{:.0} %", 100.0 * q)).collect();
        let heads: Vec<&str> = ["cells", "number"].into_iter().chain(heads.iter().map(String::as_str)).collect();
        let row = |r: &Rewriting| {
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
        let row = |c: &AgainstDense| {
            vec![
                c.sparsity.clone(),
                c.cells.to_string(),
                percent(c.faster as f64 / c.cells as f64),
                figures::times(c.median),
                c.taken_over.to_string(),
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
                    "median of dense's time over ours, where it has one",
                    "its time is that of another cell of its shape",
                    "not run, but slower"
                ],
                &classes.iter().map(row).collect::<Vec<_>>()
            )
        );
    }
}

/// Every cell in a line. Numbers stand without units, so that the script sorts them as they are.
pub(super) fn cells(body: &mut String, points: &[Point<'_>]) {
    let micro = |row: Option<&Row>| row.and_then(|r| r.median_s).map_or("–".into(), |s| format!("{:.2}", s * 1e6));
    let number = |x: Option<f64>| x.map_or("–".into(), significant);
    let mut rows = String::new();
    for (at, point) in points.iter().enumerate() {
        let own = point.ours;
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
            number(point.over_dense.times()),
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
