//! The figures of a study as SVG. A point carries the number of its cell (`data-i`), by which the page's script filters it and finds what it
//! says of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::analysis::Point;
use super::published;
use crate::Kind;
use crate::format::{ratio, seconds};
use crate::report::svg::{Drawing, LogAxis, escape};
use crate::summary::short_chain;

const WIDTH: f64 = 1060.0;
const HEIGHT: f64 = 430.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = HEIGHT - 48.0;

/// Bars of the histogram for each doubling.
pub(super) const BINS: f64 = 4.0;

/// An axis up the side of a scatter plot.
enum Side {
    Log(LogAxis),
    /// From 0 to 1.
    Share,
}

impl Side {
    fn at(&self, value: f64) -> f64 {
        match self {
            Side::Log(axis) => axis.at(value),
            Side::Share => BOTTOM - value * (BOTTOM - TOP),
        }
    }
    fn ticks(&self) -> Vec<f64> {
        match self {
            Side::Log(axis) => axis.ticks(),
            Side::Share => (0..=5).map(|fifth| f64::from(fifth) / 5.0).collect(),
        }
    }
    /// What the script needs to move a mark up and down.
    fn attributes(&self) -> String {
        let (scale, min, max) = match self {
            Side::Log(axis) => ("log", axis.min(), axis.max()),
            Side::Share => ("linear", 0.0, 1.0),
        };
        format!(r#"data-scale="{scale}" data-min="{min}" data-max="{max}" data-top="{TOP}" data-bottom="{BOTTOM}""#)
    }
}

/// What a scatter plot shows.
struct Scatter {
    id: &'static str,
    title: &'static str,
    side: &'static str,
    /// The value where neither is better.
    level: Option<f64>,
    /// The article's figure.
    article: Option<f64>,
}

/// Speed-up against (b + c)/(b·c).
pub(super) fn speedup(points: &[Point<'_>]) -> String {
    let what = Scatter {
        id: "speedup",
        title: "Speed-up over the best of all others against (b + c)/(b·c)",
        side: "speed-up",
        level: Some(1.0),
        article: Some(published::SPEEDUP),
    };
    scatter(points, &what, |point| point.speedup)
}

/// Energy over the least of all others against (b + c)/(b·c).
pub(super) fn energy(points: &[Point<'_>]) -> String {
    let what = Scatter {
        id: "energy",
        title: "Energy over the least energy of all others against (b + c)/(b·c)",
        side: "energy",
        level: Some(1.0),
        article: Some(published::ENERGY),
    };
    scatter(points, &what, |point| point.energy)
}

/// Share of permute-bmm's time that rewrites memory against (b + c)/(b·c).
pub(super) fn rewriting(points: &[Point<'_>]) -> String {
    let what = Scatter {
        id: "rewriting",
        title: "Share of permute-bmm's time in which it rewrites memory against (b + c)/(b·c)",
        side: "share",
        level: None,
        article: Some(published::REWRITING),
    };
    scatter(points, &what, |point| point.rewriting.filter(|share| (0.0..=1.0).contains(share)))
}

/// Points over (b + c)/(b·c), with a mark at the median of each ratio. Empty if there is no value.
fn scatter(points: &[Point<'_>], what: &Scatter, value: impl Fn(&Point<'_>) -> Option<f64>) -> String {
    let own = points.iter().enumerate().filter_map(|(at, p)| Some((at, p, p.ratio?, value(p)?)));
    let own: Vec<(usize, &Point<'_>, f64, f64)> = own.filter(|found| found.3.is_finite() && found.3 >= 0.0).collect();
    if own.is_empty() {
        return String::new();
    }
    let mut drawing = Drawing::new(WIDTH, HEIGHT, what.title);
    let x = LogAxis::holding(own.iter().map(|p| p.2), 1.25, LEFT, WIDTH - RIGHT);
    let marks = [what.level, what.article].into_iter().flatten();
    let y = match what.level {
        Some(_) => Side::Log(LogAxis::holding(own.iter().map(|p| p.3).chain(marks), 1.15, BOTTOM, TOP)),
        None => Side::Share,
    };
    for tick in x.ticks() {
        drawing.line("grid", (x.at(tick), TOP), (x.at(tick), BOTTOM));
        drawing.text("tick", "middle", (x.at(tick), BOTTOM + 18.0), &plain(tick));
    }
    for tick in y.ticks() {
        drawing.line("grid", (LEFT, y.at(tick)), (WIDTH - RIGHT, y.at(tick)));
        drawing.text("tick", "end", (LEFT - 8.0, y.at(tick) + 4.0), &plain(tick));
    }
    drawing.text("axis", "middle", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0), "(b + c)/(b·c)");
    drawing.text("axis", "start", (4.0, 12.0), what.side);
    if let Some(level) = what.level {
        drawing.line("one", (LEFT, y.at(level)), (WIDTH - RIGHT, y.at(level)));
    }
    for (at, point, ratio, value) in &own {
        // Points of one ratio would hide each other: each keeps a little to the side.
        let aside = ((*at as f64 * 0.618_034).fract() - 0.5) * 9.0;
        let class = classes(point);
        drawing.raw(&format!(
            r#"<circle class="{class}" data-i="{at}" cx="{:.1}" cy="{:.1}" r="3"/>"#,
            x.at(*ratio) + aside,
            y.at(value.max(1e-12))
        ));
    }
    let mut levels: Vec<f64> = own.iter().map(|p| p.2).collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    for level in levels {
        let values: Vec<f64> = own.iter().filter(|p| p.2 == level).map(|p| p.3).collect();
        let Some(median) = kronsparse::measure::median(&values) else { continue };
        let (x, y) = (x.at(level), y.at(median.max(1e-12)));
        drawing.raw(&format!(
            r#"<line class="mid" data-ratio="{level}" x1="{:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/>"#,
            x - 8.0,
            x + 8.0
        ));
    }
    if let Some(article) = what.article {
        drawing.line("article", (LEFT, y.at(article)), (WIDTH - RIGHT, y.at(article)));
        drawing.text(
            "articlelabel",
            "end",
            (WIDTH - RIGHT - 4.0, y.at(article) - 5.0),
            &format!("the article: {article}"),
        );
    }
    named(drawing, what.id, &y.attributes())
}

/// Colour by element type, filling by layout.
fn classes(point: &Point<'_>) -> String {
    format!("p k-{} l-{}", point.ours.dtype, point.ours.layout)
}

/// A plot that the script knows by name and that the keyboard reaches.
fn named(drawing: Drawing, id: &str, attributes: &str) -> String {
    drawing.finish().replacen("<svg ", &format!(r#"<svg tabindex="0" data-plot="{id}" {attributes} "#), 1)
}

/// How often which speed-up: bars of a quarter of a doubling.
pub(super) fn distribution(points: &[Point<'_>]) -> String {
    let mut bars = BTreeMap::<i32, usize>::new();
    for speedup in points.iter().filter_map(|p| p.speedup).filter(|s| *s > 0.0) {
        *bars.entry((speedup.log2() * BINS).floor() as i32).or_default() += 1;
    }
    let (Some((&first, _)), Some((&last, _))) = (bars.first_key_value(), bars.last_key_value()) else {
        return String::new();
    };
    // The scale is always seen around 1.
    let (first, last) = (first.min(-4), last.max(4) + 1);
    let tallest = bars.values().copied().max().unwrap_or(1) as f64;
    let height = 260.0;
    let base = height - 40.0;
    let step = (WIDTH - LEFT - RIGHT) / f64::from(last - first);
    let unit = (base - 30.0) / tallest;
    let at = |speedup: f64| LEFT + (speedup.log2() * BINS - f64::from(first)) * step;
    let mut drawing = Drawing::new(WIDTH, height, "How often ours is how many times as fast as the best of all others");
    drawing.raw(&format!(
        r#"<rect class="losing" x="{LEFT}" y="20" width="{:.1}" height="{:.1}"/>"#,
        at(1.0) - LEFT,
        base - 20.0
    ));
    for bin in first..last {
        let count = bars.get(&bin).copied().unwrap_or(0) as f64;
        let class = if bin >= 0 { "winner" } else { "loser" };
        let x = LEFT + f64::from(bin - first) * step;
        drawing.raw(&format!(
            r#"<rect class="bar {class}" data-bin="{bin}" data-count="{count}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
            x + 0.5,
            base - count * unit,
            (step - 1.0).max(0.5),
            count * unit
        ));
    }
    drawing.line("frame", (LEFT, base), (WIDTH - RIGHT, base));
    for power in first.div_euclid(4)..=last.div_euclid(4) {
        let tick = 2f64.powi(power);
        if at(tick) >= LEFT - 1.0 && at(tick) <= WIDTH - RIGHT + 1.0 {
            drawing.line("frame", (at(tick), base), (at(tick), base + 5.0));
            drawing.text("tick", "middle", (at(tick), base + 20.0), &format!("{}×", plain(tick)));
        }
    }
    drawing.text("tick", "end", (LEFT - 8.0, base - tallest * unit + 4.0), &format!("{tallest}"));
    drawing.text("axis", "start", (4.0, 12.0), "cells");
    drawing.text(
        "axis",
        "middle",
        ((LEFT + WIDTH - RIGHT) / 2.0, height - 4.0),
        "speed-up over the best of all others",
    );
    named(drawing, "distribution", &format!(r#"data-base="{base}" data-unit="{unit}""#))
}

/// Time against batch: a panel for every pattern, element type and layout with three batch sizes or more. Empty if there is none.
pub(super) fn batches(points: &[Point<'_>]) -> String {
    let mut panels = BTreeMap::<(String, Kind, &str), Vec<(usize, &Point<'_>)>>::new();
    for (at, point) in points.iter().enumerate() {
        let row = point.ours;
        panels.entry((row.chain.to_string(), row.dtype, row.layout.name())).or_default().push((at, point));
    }
    let mut out = String::new();
    for ((chain, dtype, layout), mut own) in panels {
        own.sort_by_key(|(_, point)| point.ours.n);
        own.dedup_by_key(|(_, point)| point.ours.n);
        if own.len() < 3 {
            continue;
        }
        let _ = writeln!(
            out,
            r#"<figure class="panel" data-i="{}"><figcaption><code>{}</code> {dtype} {layout}</figcaption>{}</figure>"#,
            own[0].0,
            escape(&chain),
            panel(&own)
        );
    }
    if out.is_empty() { out } else { format!(r#"<div class="panels">{out}</div>"#) }
}

/// Time of every algorithm on one pattern over the number of vectors.
fn panel(own: &[(usize, &Point<'_>)]) -> String {
    let (width, height, left, right, top) = (330.0, 230.0, 52.0, 10.0, 8.0);
    let bottom = height - 24.0;
    let times = own.iter().flat_map(|(_, p)| p.rows.iter().filter_map(|row| row.median_s));
    let y = LogAxis::holding(times, 1.3, bottom, top);
    let x = LogAxis::holding(own.iter().map(|(_, p)| p.ours.n as f64), 1.4, left, width - right);
    let title = format!("Time against batch of {}", short_chain(&own[0].1.ours.chain));
    let mut drawing = Drawing::new(width, height, &title);
    for (_, point) in own {
        let at = x.at(point.ours.n as f64);
        drawing.line("grid", (at, top), (at, bottom));
    }
    let mut free = f64::NEG_INFINITY;
    for (_, point) in own {
        let at = x.at(point.ours.n as f64);
        // Labels that would run into each other are left out.
        if at > free {
            drawing.text("tick", "middle", (at, bottom + 16.0), &point.ours.n.to_string());
            free = at + 46.0;
        }
    }
    let decades = (y.min().log10().floor() as i32..=y.max().log10().ceil() as i32).map(|p| 10f64.powi(p));
    for tick in decades.filter(|t| *t >= y.min() && *t <= y.max()) {
        drawing.line("grid", (left, y.at(tick)), (width - right, y.at(tick)));
        let text = seconds(tick);
        let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
        let number = number.parse().map_or(number.to_string(), plain);
        drawing.text("tick", "end", (left - 6.0, y.at(tick) + 4.0), &format!("{number} {unit}"));
    }
    let mut algorithms: Vec<_> = own.iter().flat_map(|(_, p)| p.rows.iter().map(|row| row.algorithm)).collect();
    algorithms.sort();
    algorithms.dedup();
    // Ours is drawn last, on top of the others.
    algorithms.reverse();
    for algorithm in algorithms {
        let of = |(at, point): &(usize, &Point<'_>)| {
            let row = point.rows.iter().find(|row| row.algorithm == algorithm)?;
            Some((*at, x.at(point.ours.n as f64), y.at(row.median_s?)))
        };
        let line: Vec<(usize, f64, f64)> = own.iter().filter_map(of).collect();
        let places: Vec<String> = line.iter().map(|(_, x, y)| format!("{x:.1},{y:.1}")).collect();
        drawing.raw(&format!(r#"<polyline class="run a-{algorithm}" points="{}"/>"#, places.join(" ")));
        for (at, x, y) in line {
            drawing.raw(&format!(r#"<circle class="a-{algorithm}" data-i="{at}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#));
        }
    }
    named(drawing, "batch", "")
}

/// The markers of element types and layouts, and the colours of the algorithms.
pub(super) fn legend(points: &[Point<'_>]) -> String {
    let mut kinds: Vec<Kind> = points.iter().map(|p| p.ours.dtype).collect();
    kinds.sort();
    kinds.dedup();
    let dot = |class: &str, name: &str| {
        format!(
            r#"<span class="key"><svg viewBox="-6 -6 12 12" width="12" height="12" aria-hidden="true"><circle class="{class}" r="4"/></svg>{name}</span>"#
        )
    };
    let kinds: String = kinds.iter().map(|kind| dot(&format!("p k-{kind} l-bsf"), &kind.to_string())).collect();
    format!(r#"<div class="legend">{kinds}{}{}</div>"#, dot("p l-bsf", "bsf, filled"), dot("p l-bsl", "bsl, hollow"))
}

/// The colours of the algorithms.
pub(super) fn algorithms(points: &[Point<'_>]) -> String {
    let mut all: Vec<_> = points.iter().flat_map(|p| p.rows.iter().map(|row| row.algorithm)).collect();
    all.sort();
    all.dedup();
    let one = |name: &kronsparse::plan::Algorithm| {
        format!(r#"<span class="key"><span class="dot a-{name}"></span>{name}</span>"#)
    };
    format!(r#"<div class="legend">{}</div>"#, all.iter().map(one).collect::<String>())
}

/// A number without trailing zeros.
fn plain(x: f64) -> String {
    let text = format!("{x:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A speed-up for a table, or a dash.
pub(super) fn times(x: Option<f64>) -> String {
    x.map_or("–".into(), ratio)
}
