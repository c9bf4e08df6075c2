//! The page of a study: one file, no network, readable without scripts, with filters that work on all figures and the table.

use std::collections::HashMap;
use std::fmt::Write;

use kronsparse::plan::Algorithm;
use serde_json::{Value, json};

use super::analysis::{D_ORDER, DenseSpread, Group, Point, dense_spread, groups, points, rewriting};
use super::cells::Part;
use super::head::{Head, device_name};
use super::heuristic::Heuristic;
use super::models::Models;
use super::{figures, tables};
use crate::format::{percent, ratio, seconds, significant};
use crate::record::{Record, Row, Status};
use crate::report::html::{SORT, STYLE, explained, figure, machine};
use crate::report::svg::escape;
use crate::summary::warnings;

const LOOK: &str = include_str!("study.css");
const SCRIPT: &str = include_str!("study.js");

/// The whole page as HTML.
pub(super) fn page(record: &Record, head: &Head, models: Option<&Models>) -> String {
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
    tables::article(&mut body, &grid, &all, heuristic.as_ref(), models);
    drawings(&mut body, &points, heuristic.as_ref());
    tables::standing(&mut body, &all);
    tables::dense(&mut body, &grid);
    if let Some(models) = models {
        models.section(&mut body);
    }
    tables::cells(&mut body, &points);
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

/// The heuristic in words.
pub(super) fn sentence(h: &Heuristic) -> String {
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
    let explained = explained(record);
    let dense = dense_spread(record).map_or(String::new(), |spread| dense_times(&spread));
    let _ = writeln!(
        body,
        "<section id=\"method\"><h2>How it was measured</h2><div class=\"columns\"><ul>\
         <li><b>Verified before it is timed, and again afterwards</b>, against products in f64; weights and inputs are random with seed {}. A wrong \
         algorithm is marked, not timed.</li>\
         <li><b>Cold caches</b>: more than the last level cache holds is written before every sample. The median of the samples counts, \
         {} for each algorithm on a cell, {where_measured}.</li>\
         <li><b>Algorithms</b>: {}; where that differs, on the other cells {}.</li>\
         {dense}<li><b>Energy</b>: {energy}.</li><li><b>Rewriting</b>: {rewriting}.</li>\
         <li><b>Not run</b> are algorithms whose weights need too much memory, and dense products that take too long even at the machine's measured \
         peak; <code>samples.csv</code> has the reason.</li></ul><dl>{explained}</dl></div></section>",
        settings.seed,
        seconds(settings.budget_s),
        list(&head.algorithms),
        if head.algorithms == head.algorithms_elsewhere { "the same".into() } else { list(&head.algorithms_elsewhere) },
    );
}

/// What is said of cells that took the time of their dense product over.
fn dense_times(spread: &DenseSpread) -> String {
    let again = match spread.shapes {
        0 => "No shape was measured more than once".into(),
        shapes => format!(
            "{shapes} shapes were measured more than once; the longest of their medians over the shortest is {} in the median and {} at most",
            figures::times(spread.median),
            figures::times(spread.most)
        ),
    };
    format!(
        "<li><b>Dense products of one shape</b> do the same operations wherever the zeros of their matrix stand: {} cells have the time of another \
         cell of their shape, whose nonzeros are as many within a factor of two or, as theirs, fewer than one in eight. They say so, and are not \
         verified themselves. {again}.</li>",
        spread.shared
    )
}

#[cfg(test)]
mod tests {
    use super::super::analysis::tests::made_up;
    use super::super::cells::Grid;
    use super::*;

    fn head(cells: usize) -> Head {
        Head {
            grid: Grid::Quick,
            dtypes: Vec::new(),
            layouts: Vec::new(),
            batch: Vec::new(),
            cells,
            digest: String::new(),
            device: "cpu".into(),
            algorithms: vec![Algorithm::Fused, Algorithm::Dense, Algorithm::PermuteBmm],
            algorithms_elsewhere: vec![Algorithm::Fused],
            budget_s: 0.1,
            energy_s: None,
            threads: 2,
            shard: "1/1".into(),
            shard_cells: cells,
            merged: Vec::new(),
        }
    }

    /// What stands before the scripts.
    fn drawn(page: &str) -> &str {
        page.split("<script").next().unwrap_or_default()
    }

    #[test]
    fn the_page_has_every_cell_and_needs_nothing_from_outside() {
        let mut record = made_up();
        record.rows[0].plan = "tiles of 4 </script><b>".into();
        let page = page(&record, &head(5), None);
        for forbidden in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(forbidden), "the page contains `{forbidden}`");
        }
        assert!(!drawn(&page).contains("NaN"));
        assert_eq!(page.matches("<tr data-i=").count(), 4);
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(page.contains("4 of 5 cells are measured; the other 1 are not yet."));
        assert!(
            page.contains("Ours is 1.15× as fast as the best of all others in the median over the 4 measured cells")
        );
        // Beside the article: f32 in all four cells.
        for figure in ["1.15× (4 cells)", "25 % less (4 cells)", "up to 70 %, median 40 %"] {
            assert!(page.contains(figure), "`{figure}` is missing");
        }
        let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["cells"].as_array().unwrap().len(), 4);
        assert_eq!((&data["cells"][1]["speedup"], &data["cells"][1]["rewriting"]), (&json!(2.0), &json!(0.5)));
        let plan = data["cells"][0]["rows"][0][6].as_u64().unwrap() as usize;
        assert_eq!(data["plans"][plan], "tiles of 4 </script><b>");
    }

    #[test]
    fn what_is_said_of_times_that_were_taken_over_is_what_is_known() {
        let spread = DenseSpread { shared: 5, shapes: 0, median: None, most: None };
        let text = dense_times(&spread);
        assert!(
            text.contains(" 5 cells have the time") && text.contains("No shape was measured more than once."),
            "{text}"
        );
        let text = dense_times(&DenseSpread { shapes: 2, median: Some(1.01), most: Some(1.04), ..spread });
        assert!(text.contains("2 shapes were measured") && text.contains("1.04× at most."), "{text}");
    }

    #[test]
    fn an_empty_study_has_a_page_and_conclusions_too() {
        let mut record = made_up();
        record.rows.clear();
        let page = page(&record, &head(5), None);
        assert!(page.contains("There is nothing to compare") && page.contains("0 of 5 cells"));
        assert!(!drawn(&page).contains("NaN"));
        assert_eq!(conclusions(&record).len(), 1);
        let said = conclusions(&made_up());
        assert!(said[1].contains("0.750× the least of all others"), "{said:?}");
        assert!(said[2].contains("at (b + c)/(b·c) ≥ 0.250 is right in 75 % of 4 cells"), "{said:?}");
        assert!(said[2].contains("in 88 % of the pairs"), "{said:?}");
    }
}
