//! The three plots of the page: times per case, the roofline, and the distribution of the speed-up.

use crate::format::{ratio, seconds, significant};
use crate::record::{Record, Row};
use crate::report::svg::{Drawing, LogAxis, escape, marker, shape, tags};
use crate::summary::{conditions, details, ours, short_chain, standing};

const WIDTH: f64 = 1060.0;

/// Most cases that the plot of times shows one by one.
const MOST_CASES: usize = 60;

/// Time of every algorithm, a line per case, on a logarithmic axis; and a remark if not all cases are shown.
pub(crate) fn times(record: &Record) -> (String, Option<String>) {
    let all: Vec<&[Row]> =
        record.cases().into_iter().filter(|case| case.iter().any(|r| r.median_s.is_some())).collect();
    let (cases, remark) = thin_out(all);
    let (left, right, top, step) = (292.0, 84.0, 50.0, 42.0);
    let height = top + step * cases.len() as f64 + 34.0;
    let mut drawing = Drawing::new(WIDTH, height, "Median time of every algorithm on every case");
    let medians = cases.iter().flat_map(|case| case.iter().filter_map(|r| r.median_s));
    let axis = LogAxis::holding(medians, 1.25, left, WIDTH - right);
    let bottom = top + step * cases.len() as f64;
    for tick in axis.ticks() {
        let x = axis.at(tick);
        drawing.line("grid", (x, top - 4.0), (x, bottom));
        drawing.text("tick", "middle", (x, top - 12.0), &seconds_tick(tick));
        drawing.text("tick", "middle", (x, bottom + 18.0), &seconds_tick(tick));
    }
    drawing.text("axis", "end", (WIDTH - 10.0, 14.0), "ours vs best other");
    drawing.text("axis", "middle", ((left + WIDTH - right) / 2.0, 14.0), "time of a call");
    for (index, case) in cases.iter().enumerate() {
        let y = top + step * (index as f64 + 0.5);
        drawing.raw(&format!("<g class=\"case\" {}>", tags(&case[0])));
        if index % 2 == 0 {
            let (y, h) = (y - step / 2.0, step);
            drawing.raw(&format!(r#"<rect class="stripe" x="0" y="{y:.1}" width="{WIDTH}" height="{h}"/>"#));
        }
        drawing.raw(&format!(
            r#"<g><title>{}</title><text class="label" x="8" y="{:.1}">{}</text><text class="sub" x="8" y="{:.1}">{}</text></g>"#,
            escape(&case[0].why),
            y - 2.0,
            escape(&short_chain(&case[0].chain)),
            y + 13.0,
            escape(&format!("{}×{} · {}", case[0].chain.rows(), case[0].chain.cols(), conditions(&case[0])))
        ));
        let shown: Vec<&Row> = case.iter().filter(|r| r.median_s.is_some()).collect();
        let xs = shown.iter().filter_map(|r| r.median_s).map(|m| axis.at(m));
        let (first, last) = xs.fold((f64::INFINITY, 0.0f64), |(lo, hi), x| (lo.min(x), hi.max(x)));
        drawing.line("span", (first, y), (last, y));
        // Ours is drawn last, on top of the others.
        let mut shown = shown;
        shown.sort_by_key(|r| r.is_ours());
        for row in shown {
            let (Some(median), Some(iqr)) = (row.median_s, row.iqr_s) else { continue };
            let name = row.algorithm.name();
            let (lo, hi) = ((median - iqr / 2.0).max(axis.min()), (median + iqr / 2.0).min(axis.max()));
            drawing.raw(&format!(
                r#"<line class="whisker a-{name}" data-algorithm="{name}" x1="{:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/>"#,
                axis.at(lo),
                axis.at(hi)
            ));
            drawing.raw(&marker(row, (axis.at(median), y)));
        }
        if let Some(speedup) = ours(case).and_then(|r| r.speedup_over_best_other) {
            let class = if speedup >= 1.0 { "win" } else { "loss" };
            drawing.text(class, "end", (WIDTH - 10.0, y + 4.5), &ratio(speedup));
        }
        drawing.raw("</g>");
    }
    (drawing.finish(), remark)
}

/// At most [`MOST_CASES`] cases, evenly spread over the order of their speed-up, and a remark if some are left out.
fn thin_out(all: Vec<&[Row]>) -> (Vec<&[Row]>, Option<String>) {
    if all.len() <= MOST_CASES {
        return (all, None);
    }
    let total = all.len();
    let speedup = |case: &[Row]| ours(case).and_then(|r| r.speedup_over_best_other).unwrap_or(0.0);
    let mut sorted = all;
    sorted.sort_by(|a, b| speedup(a).total_cmp(&speedup(b)));
    let shown = (0..MOST_CASES).map(|i| sorted[i * (total - 1) / (MOST_CASES - 1)]).collect();
    let remark = format!(
        "{MOST_CASES} of {total} cases are shown, in the order of the speed-up and evenly spread over it from the worst \
         to the best. The table has all of them."
    );
    (shown, Some(remark))
}

/// Arithmetic intensity against speed, below the ceilings measured in the same run.
pub(crate) fn roofline(record: &Record) -> String {
    let (left, right, top, height) = (66.0, 24.0, 24.0, 470.0);
    let bottom = height - 52.0;
    let mut drawing = Drawing::new(WIDTH, height, "Roofline: operations per byte against operations per second");
    let rows: Vec<&Row> = record.rows.iter().filter(|r| r.gflops.is_some()).collect();
    // The ridges belong into the picture, so that both ceilings are seen.
    let ridges = record.ceilings.iter().map(|c| c.flops_per_second / c.bytes_per_second);
    let x = LogAxis::holding(rows.iter().map(|r| r.intensity()).chain(ridges), 1.6, left, WIDTH - right);
    let peaks = record.ceilings.iter().map(|c| c.flops_per_second / 1e9);
    let speeds = rows.iter().filter_map(|r| r.gflops).chain(peaks);
    let y = LogAxis::holding(speeds, 1.5, bottom, top);
    for tick in x.ticks() {
        drawing.line("grid", (x.at(tick), top), (x.at(tick), bottom));
        drawing.text("tick", "middle", (x.at(tick), bottom + 18.0), &plain(tick));
    }
    for tick in y.ticks() {
        drawing.line("grid", (left, y.at(tick)), (WIDTH - right, y.at(tick)));
        drawing.text("tick", "end", (left - 8.0, y.at(tick) + 4.0), &plain(tick));
    }
    drawing.text("axis", "middle", ((left + WIDTH - right) / 2.0, height - 10.0), "operations per byte that must move");
    drawing.text("axis", "start", (4.0, 14.0), "GFLOP/s");
    roofs(&mut drawing, record, x, y);
    let mut rows = rows;
    rows.sort_by_key(|r| r.is_ours());
    for row in rows {
        let Some(gflops) = row.gflops else { continue };
        drawing.raw(&marker(row, (x.at(row.intensity()), y.at(gflops))));
    }
    drawing.finish()
}

/// The rooflines: every peak with the types it holds for, and the slope of the memory once.
fn roofs(drawing: &mut Drawing, record: &Record, x: LogAxis, y: LogAxis) {
    let mut peaks: Vec<(f64, String)> = Vec::new();
    for ceiling in &record.ceilings {
        let (peak, bandwidth) = (ceiling.flops_per_second / 1e9, ceiling.bytes_per_second / 1e9);
        match peaks.iter_mut().find(|p| p.0 == peak) {
            Some((_, names)) => *names += &format!(", {}", ceiling.dtype),
            None => {
                peaks.push((peak, ceiling.dtype.to_string()));
                // Where the slope enters the picture: at the left edge, or at the bottom.
                let enters = x.min().max(y.min() / bandwidth);
                let corners = [(enters, enters * bandwidth), (peak / bandwidth, peak), (x.max(), peak)];
                let corners = corners.map(|(i, p)| format!("{:.1},{:.1}", x.at(i), y.at(p)));
                drawing.raw(&format!(r#"<polyline class="roof" points="{}"/>"#, corners.join(" ")));
            }
        }
    }
    // Labels of peaks that are too close for two lines of text share one.
    peaks.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut labels: Vec<(f64, String)> = Vec::new();
    for (peak, names) in peaks {
        let text = format!("{names}: {} GFLOP/s", significant(peak));
        match labels.last_mut() {
            Some((at, above)) if y.at(peak) - *at < 18.0 => *above += &format!("; {text}"),
            _ => labels.push((y.at(peak), text)),
        }
    }
    for (at, text) in labels {
        drawing.text("rooflabel", "end", (x.at(x.max()) - 4.0, at - 6.0), &text);
    }
    let Some(lowest) = record.ceilings.iter().min_by(|a, b| a.flops_per_second.total_cmp(&b.flops_per_second)) else {
        return;
    };
    let bandwidth = lowest.bytes_per_second / 1e9;
    let (from, to) = (x.min().max(y.min() / bandwidth), lowest.flops_per_second / lowest.bytes_per_second);
    let ((x0, y0), (x1, y1)) = ((x.at(from), y.at(from * bandwidth)), (x.at(to), y.at(to * bandwidth)));
    if x1 - x0 > 120.0 {
        let angle = (y1 - y0).atan2(x1 - x0).to_degrees();
        let (cx, cy) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
        drawing.raw(&format!(
            r#"<text class="rooflabel" text-anchor="middle" transform="translate({cx:.1} {cy:.1}) rotate({angle:.1}) translate(0 -7)">{} GB/s copied</text>"#,
            significant(bandwidth)
        ));
    }
}

/// How often ours is how much faster than the best other algorithm: a point per case, stacked in bins of a quarter octave.
pub(crate) fn speedups(record: &Record) -> String {
    let Some(standing) = standing(record) else { return String::new() };
    let bin = |row: &Row| (row.speedup_over_best_other.unwrap_or(1.0).log2() * 4.0).floor() as i32;
    // The scale is always seen around 1, where winning turns into losing.
    let first = standing.rows.iter().map(|r| bin(r)).min().unwrap_or(0).min(-3) - 1;
    let last = standing.rows.iter().map(|r| bin(r)).max().unwrap_or(0).max(3) + 2;
    let mut stacks = std::collections::BTreeMap::<i32, Vec<&Row>>::new();
    for row in &standing.rows {
        stacks.entry(bin(row)).or_default().push(row);
    }
    let tallest = stacks.values().map(Vec::len).max().unwrap_or(1);
    let step = (150.0 / tallest as f64).min(17.0);
    let (left, right, top) = (24.0, 24.0, 34.0);
    let base = top + step * tallest as f64 + 6.0;
    let height = base + 52.0;
    let at = |speedup: f64| {
        left + (speedup.log2() * 4.0 - f64::from(first)) / f64::from(last - first) * (WIDTH - left - right)
    };
    let mut drawing = Drawing::new(WIDTH, height, "Speed-up over the best other algorithm");
    let half = at(1.0);
    drawing.raw(&format!(
        r#"<rect class="losing" x="{left}" y="{top}" width="{:.1}" height="{:.1}"/>"#,
        half - left,
        base - top
    ));
    // Powers of two, and one and a half of them where there is room.
    let steps: &[f64] = if last - first > 24 { &[1.0] } else { &[1.0, 1.5] };
    let powers = first.div_euclid(4)..=last.div_euclid(4);
    let ticks: Vec<f64> = powers.flat_map(|p| steps.iter().map(move |s| s * 2f64.powi(p))).collect();
    for tick in ticks.into_iter().filter(|t| at(*t) >= left && at(*t) <= WIDTH - right) {
        drawing.line("grid", (at(tick), base), (at(tick), base + 5.0));
        let text = format!("{}×", plain(tick));
        drawing.text("tick", "middle", (at(tick), base + 20.0), &text);
    }
    drawing.line("frame", (left, base), (WIDTH - right, base));
    drawing.line("one", (half, top - 6.0), (half, base));
    drawing.text("loss", "end", (half - 8.0, top - 10.0), "another is faster");
    drawing.text("win", "start", (half + 8.0, top - 10.0), "ours is faster");
    let median = standing.speedups.median;
    let caption = format!("speed of ours over the best other algorithm; median {}", ratio(median));
    drawing.text("axis", "middle", (WIDTH / 2.0, height - 8.0), &caption);
    drawing.raw(&format!(r#"<path class="median" transform="translate({:.1} {base:.1})" d="M0 1L6 11H-6z"><title>median {}</title></path>"#, at(median), ratio(median)));
    for (bin, rows) in &mut stacks {
        rows.sort_by(|a, b| {
            f64::total_cmp(&a.speedup_over_best_other.unwrap_or(0.0), &b.speedup_over_best_other.unwrap_or(0.0))
        });
        let x = at(2f64.powf((f64::from(*bin) + 0.5) / 4.0));
        for (level, row) in rows.iter().enumerate() {
            let class = if row.speedup_over_best_other.unwrap_or(0.0) >= 1.0 { "winner" } else { "loser" };
            let y = base - step * (level as f64 + 0.5) - 2.0;
            drawing.raw(&format!(
                r#"<circle class="{class}" {} cx="{x:.1}" cy="{y:.1}" r="{:.1}"><title>{}</title></circle>"#,
                tags(row),
                (0.42 * step).max(0.8),
                escape(&format!("{}\n{}", ratio(row.speedup_over_best_other.unwrap_or(f64::NAN)), details(row)))
            ));
        }
    }
    drawing.finish()
}

/// The markers and names of the algorithms of a record: buttons that dim an algorithm in every plot.
pub(crate) fn legend(record: &Record) -> String {
    let mut seen = Vec::new();
    for row in &record.rows {
        if !seen.contains(&row.algorithm) {
            seen.push(row.algorithm);
        }
    }
    let one = |algorithm: &kronsparse::plan::Algorithm| {
        let name = algorithm.name();
        let own = record.rows.iter().any(|r| r.algorithm == *algorithm && r.is_ours());
        format!(
            r#"<button type="button" class="key" aria-pressed="true" data-toggle="{name}"><svg viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true"><path class="a-{name}" d="{}"/></svg>{name}{}</button>"#,
            shape(*algorithm),
            if own { " <small>(ours)</small>" } else { "" }
        )
    };
    let keys: String = seen.iter().map(one).collect();
    format!(r#"<div class="legend">{keys}</div>"#)
}

/// A tick of the time axis: `10 µs`.
fn seconds_tick(tick: f64) -> String {
    let text = seconds(tick);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let number: f64 = number.parse().unwrap_or(tick);
    format!("{} {unit}", plain(number))
}

/// A round number without trailing zeros.
fn plain(x: f64) -> String {
    let text = format!("{x:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use crate::summary::case_label;

    #[test]
    fn every_time_is_a_point_in_both_plots() {
        let record = sample();
        let timed = record.rows.iter().filter(|r| r.median_s.is_some()).count();
        let (drawing, remark) = times(&record);
        assert_eq!(drawing.matches("class=\"mark").count(), timed);
        assert_eq!(remark, None);
        assert_eq!(roofline(&record).matches("class=\"mark").count(), timed);
        assert_eq!(speedups(&record).matches("<circle").count(), standing(&record).unwrap().rows.len());
        assert!(!drawing.contains("NaN") && !roofline(&record).contains("NaN") && !speedups(&record).contains("NaN"));
        assert!(drawing.contains(&escape(&case_label(&record.rows[0]))));
    }

    #[test]
    fn many_cases_are_thinned_out_and_both_ends_stay() {
        let mut record = sample();
        let one = record.rows[..2].to_vec();
        record.rows = (1..=200)
            .flat_map(|n| {
                one.iter().cloned().map(move |mut row| {
                    row.n = n;
                    row.speedup_over_best_other = Some(n as f64 / 100.0);
                    row
                })
            })
            .collect();
        let (drawing, remark) = times(&record);
        assert_eq!(drawing.matches("class=\"case\"").count(), 60);
        assert!(remark.unwrap().contains("60 of 200"));
        assert!(drawing.contains("n = 1 ·") && drawing.contains("n = 200 ·"));
    }

    #[test]
    fn ticks_are_plain() {
        assert_eq!(seconds_tick(2e-5), "20 µs");
        assert_eq!(plain(0.05), "0.05");
        assert_eq!(plain(100.0), "100");
    }
}
