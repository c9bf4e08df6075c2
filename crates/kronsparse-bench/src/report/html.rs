//! The page: everything in one file, no network, readable without scripts, in light and dark, on screen and on paper.

use std::fmt::Write;

use kronsparse::plan::{Algorithm, Layout};

use crate::format::{bytes, grouped, percent, ratio, seconds, significant};
use crate::record::{Record, Row, Status};
use crate::report::plots;
use crate::report::svg::{escape, tags};
use crate::summary::{best_other, headline, losses, ours, standing, warnings};

/// The look of all pages.
pub(crate) const STYLE: &str = include_str!("page.css");
/// Tables that are sorted by a click on a heading; strict mode for what follows it.
pub(crate) const SORT: &str = include_str!("sort.js");
const SCRIPT: &str = include_str!("page.js");

/// The whole page as HTML.
pub fn page(record: &Record) -> String {
    let settings = &record.settings;
    let mut body = String::new();
    let _ = writeln!(
        body,
        "<header><p class=\"eyebrow\">kronsparse benchmark · {} · {}</p><h1>{}</h1>{}{}{}</header>",
        escape(&settings.definition),
        escape(&settings.date),
        escape(&headline(record)),
        warnings(record).iter().map(|w| format!("<p class=\"alarm\">{}</p>", escape(w))).collect::<String>(),
        format_args!("<p class=\"lead\">{}</p>", escape(&losses(record))),
        tiles(record)
    );
    let _ = writeln!(body, "<div class=\"bar\">{}{}</div>", plots::legend(record), filters(record));
    figure(
        &mut body,
        "speedup",
        "How often it wins, and by how much",
        "Every point is a case, gathered in steps of a quarter of a doubling; the further to the right, the faster ours is.",
        &plots::speedups(record),
    );
    let (times, remark) = plots::times(record);
    let remark = remark.map_or(String::new(), |r| format!(" {}", escape(&r)));
    let times_note = format!(
        "Median time of a call on a logarithmic scale; the bar through a point is as long as the interquartile range. To the right, \
         the speed of ours over the best other algorithm.{remark}"
    );
    figure(&mut body, "times", "Time, case by case", &times_note, &times);
    figure(
        &mut body,
        "roofline",
        "Against the ceilings of this machine",
        "Points of one case stand above each other: the work is that of the chain, whatever an algorithm really does. \
         The roof was measured in the same run by a large dense product and a large copy. A point can stand above it \
         where data stays in a cache, or where an instruction for narrow types does more than an f32 product.",
        &plots::roofline(record),
    );
    cases(&mut body, record);
    samples(&mut body, record);
    method(&mut body, record);
    machine(&mut body, record);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>kronsparse benchmark: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         <div id=\"tip\" role=\"tooltip\" hidden></div>\n<script>\n{SORT}{SCRIPT}</script>\n</body>\n</html>\n",
        escape(&settings.definition)
    )
}

/// The figures that one wants to see first.
fn tiles(record: &Record) -> String {
    let mut tiles: Vec<(String, &str, &str)> = Vec::new();
    if let Some(standing) = standing(record) {
        let (cases, losses) = (standing.rows.len(), standing.losses.len());
        tiles.push((ratio(standing.speedups.median), "median speed over the best other", ""));
        tiles.push((format!("{} / {cases}", cases - losses), "cases won", if losses == 0 { "good" } else { "" }));
        let worst = if standing.speedups.min < 1.0 { "bad" } else { "good" };
        tiles.push((ratio(standing.speedups.min), "at the worst", worst));
    }
    let best = record.rows.iter().filter(|r| r.is_ours()).filter_map(|r| r.roofline_share).max_by(f64::total_cmp);
    if let Some(best) = best {
        tiles.push((percent(best), "of the roofline at best", ""));
    }
    let count = |status| record.rows.iter().filter(|r| r.status == status).count();
    let wrong = count(Status::Wrong) + count(Status::Failed);
    let class = if wrong == 0 { "good" } else { "bad" };
    tiles.push((format!("{} / {}", count(Status::Ok), count(Status::Ok) + wrong), "results verified right", class));
    let one = |(value, label, class): &(String, &str, &str)| {
        format!("<div class=\"tile {class}\"><b>{}</b><span>{label}</span></div>", escape(value))
    };
    format!("<div class=\"tiles\">{}</div>", tiles.iter().map(one).collect::<String>())
}

/// Choices by element type, layout and cache, for plots and table; only those with more than one value.
fn filters(record: &Record) -> String {
    let choice = |name: &str, mut values: Vec<String>| {
        values.sort();
        values.dedup();
        if values.len() < 2 {
            return String::new();
        }
        let options: String = values.iter().map(|v| format!("<option>{}</option>", escape(v))).collect();
        format!(
            "<label>{name} <select data-filter=\"{name}\"><option value=\"\">all</option>{options}</select></label>"
        )
    };
    let of = |f: &dyn Fn(&Row) -> String| record.rows.iter().map(f).collect();
    format!(
        "<div class=\"filters\">{}{}{}</div>",
        choice("dtype", of(&|r| r.dtype.to_string())),
        choice("layout", of(&|r| r.layout.to_string())),
        choice("cache", of(&|r| r.cache.to_string()))
    )
}

/// A section with a drawing; nothing if the drawing is empty.
pub(crate) fn figure(body: &mut String, id: &str, title: &str, note: &str, drawing: &str) {
    if !drawing.is_empty() {
        let _ = writeln!(
            body,
            "<section id=\"{id}\"><h2>{title}</h2><p class=\"note\">{note}</p><div class=\"plot\">{drawing}</div></section>"
        );
    }
}

/// A cell with the number that it is sorted by.
fn cell(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    match value {
        Some(value) => format!("<td class=\"n\" data-v=\"{value:e}\">{}</td>", escape(&text(value))),
        None => "<td class=\"n\">–</td>".into(),
    }
}

/// What was measured and why, with the result of each case.
fn cases(body: &mut String, record: &Record) {
    let mut rows = String::new();
    for case in record.cases() {
        let (first, own, other) = (&case[0], ours(case), best_other(case));
        let speedup = own.and_then(|r| r.speedup_over_best_other);
        let class = speedup.map_or("", |s| if s >= 1.0 { "win" } else { "loss" });
        let _ = writeln!(
            rows,
            "<tr {}><td><code>{}</code><small>{}</small></td><td class=\"n\" data-v=\"{}\">{}×{}</td><td class=\"n\" data-v=\"{}\">{}</td>\
             <td>{}</td><td>{}</td><td class=\"n\" data-v=\"{}\">{}</td><td>{}</td>{}{}<td class=\"nowrap\">{}</td>{}</tr>",
            tags(first),
            escape(&first.chain.to_string()).replace(")(", ")<wbr>("),
            escape(&first.why),
            first.chain.rows() * first.chain.cols(),
            first.chain.rows(),
            first.chain.cols(),
            first.chain.density(),
            percent(first.chain.density()),
            first.dtype,
            first.layout,
            first.n,
            first.n,
            first.cache,
            cell(own.and_then(|r| r.median_s), seconds),
            cell(other.and_then(|r| r.median_s), seconds),
            other.map_or("–", |r| r.algorithm.name()),
            cell(speedup, ratio).replace("class=\"n\"", &format!("class=\"n {class}\"")),
        );
    }
    let heads = [
        "chain and reason",
        ">size",
        ">density",
        "dtype",
        "layout",
        ">n",
        "cache",
        ">ours",
        ">best other",
        "which",
        ">speed-up",
    ];
    let _ = writeln!(
        body,
        "<section id=\"cases\"><h2>What was measured</h2><p class=\"note\">{} A chain is written left to right; its right-most \
         factor is applied first.</p>{}</section>",
        escape(&record.settings.description),
        sortable(&heads, &rows)
    );
}

/// Every algorithm on every case.
fn samples(body: &mut String, record: &Record) {
    let mut rows = String::new();
    for row in &record.rows {
        let own = if row.is_ours() { " class=\"own\"" } else { "" };
        let status = match row.status {
            Status::Ok => "<td>ok</td>".to_string(),
            status => format!("<td class=\"s-{status}\">{status}<small>{}</small></td>", escape(&row.reason)),
        };
        let name = row.algorithm.name();
        let _ = writeln!(
            rows,
            "<tr{own} data-algorithm=\"{name}\" {}><td><code>{}</code></td><td>{}</td><td>{}</td><td class=\"n\" data-v=\"{}\">{}</td><td>{}</td>\
             <td class=\"nowrap\"><span class=\"dot a-{name}\"></span>{name}</td>{}{}{}<td class=\"n\">{}</td>{}{}{}{}{}{status}</tr>",
            tags(row),
            escape(&row.chain.to_string()).replace(")(", ")<wbr>("),
            row.dtype,
            row.layout,
            row.n,
            row.n,
            row.cache,
            cell(row.median_s, seconds),
            cell(row.iqr_s, seconds),
            cell(row.min_s, seconds),
            row.samples,
            cell(row.gflops, significant),
            cell(row.gbs, significant),
            cell(row.roofline_share, percent),
            cell(row.speedup_over_best_other, ratio),
            cell(row.rel_error, |e| format!("{e:.1e}")),
        );
    }
    let heads = [
        "chain",
        "dtype",
        "layout",
        ">n",
        "cache",
        "algorithm",
        ">median",
        ">IQR",
        ">min",
        ">samples",
        ">GFLOP/s",
        ">GB/s",
        ">roofline",
        ">vs best other",
        ">error",
        "status",
    ];
    let csv = percent_encode(&record.to_csv());
    let _ = writeln!(
        body,
        "<section id=\"samples\"><h2>Every measurement</h2><p class=\"note\">Click a heading to sort. \
         <a download=\"samples.csv\" href=\"data:text/csv;charset=utf-8,{csv}\">Save as CSV</a>.</p>{}</section>",
        sortable(&heads, &rows)
    );
}

/// A table that sorts by a click on a heading; headings of numbers begin with `>`.
pub(crate) fn sortable(heads: &[&str], rows: &str) -> String {
    let head = |h: &&str| match h.strip_prefix('>') {
        Some(number) => format!("<th class=\"n\"><button type=\"button\">{number}</button></th>"),
        None => format!("<th><button type=\"button\">{h}</button></th>"),
    };
    let heads: String = heads.iter().map(head).collect();
    format!(
        "<div class=\"wide\"><table class=\"sortable\"><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>"
    )
}

/// How it was measured.
fn method(body: &mut String, record: &Record) {
    let settings = &record.settings;
    let layouts: Vec<&str> = Layout::ALL
        .into_iter()
        .filter(|l| record.rows.iter().any(|r| r.layout == *l))
        .map(|l| match l {
            Layout::BatchFirst => "<b>bsf</b>: vectors are rows, Y = X Wᵀ",
            Layout::BatchLast => "<b>bsl</b>: vectors are columns, Y = W X",
        })
        .collect();
    let algorithms = explained(record);
    let _ = writeln!(
        body,
        "<section id=\"method\"><h2>How it was measured</h2><div class=\"columns\"><ul>\
         <li><b>Verified before it is timed, and again afterwards.</b> The output is filled with NaN, inputs are random with seed \
         {}. Every output must be written; the first, the last and random vectors (all of them on small problems) are compared with \
         nested loops in f64, and a random combination of all vectors with the same combination of the inputs. A wrong algorithm is \
         marked, not timed.</li>\
         <li><b>In turn.</b> The algorithms of a case are sampled in rounds, each round led by another one, so that a slow moment of \
         the machine hits all of them. Each gets {} of sampling per case, at least three samples.</li>\
         <li><b>Cold</b>: {} are read and written before every sample, more than the last level cache holds. <b>Warm</b>: an untimed \
         call on the same data comes first, and short calls are repeated within a sample.</li>\
         <li><b>Median</b> of the samples, with the interquartile range and the minimum. The clock's step is {}.</li>\
         <li><b>Work</b> is 2·n·a·b·c·d operations per factor (four times as many for complex numbers); <b>bytes</b> are input, \
         output and weights once, hidden layers not at all. An algorithm that does more gets no credit.</li>\
         <li><b>Roofline</b>: the better of two measurements before and after the cases.</li>\
         <li><b>Skipped</b> are algorithms that do not apply or whose weights need more than {}; the reason is in the table.</li>\
         <li>{}.</li></ul><dl>{algorithms}</dl></div></section>",
        settings.seed,
        seconds(settings.budget_s),
        bytes(settings.evicted_bytes as f64),
        seconds(settings.clock_resolution_s),
        bytes(settings.memory_limit as f64),
        layouts.join("; ")
    );
}

/// The algorithms of a record, each in a sentence, as terms of a list.
pub(crate) fn explained(record: &Record) -> String {
    let all = Algorithm::ALL.into_iter().chain([Algorithm::Auto]);
    let there = all.filter(|a| record.rows.iter().any(|r| r.algorithm == *a));
    there.map(|a| format!("<dt><span class=\"dot a-{a}\"></span>{a}</dt><dd>{}</dd>", explain(a))).collect()
}

/// An algorithm in a sentence.
fn explain(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Auto => {
            "the planner's choice: on a CPU ours; on a GPU ours or a library's, whichever was faster when it was prepared"
        }
        Algorithm::Fused => {
            "ours: tile by tile of the batch, no permutation through memory; on a CPU the whole chain at once"
        }
        Algorithm::Dense => "the product of the chain, multiplied out beforehand, as one dense matrix",
        Algorithm::PermuteBmm => "permute the input, one batched dense product, permute back; factor by factor",
        Algorithm::Strided => "batched dense products whose leading dimensions do the permutation; factor by factor",
        Algorithm::Einsum => "loops in the order of the index expression; factor by factor",
        Algorithm::Csr => "compressed sparse rows; factor by factor",
        Algorithm::Bsr => {
            "block-sparse rows (on a CPU diagonal blocks stored densely, on a GPU after a permutation); factor by factor"
        }
    }
}

/// Where it was measured.
pub(crate) fn machine(body: &mut String, record: &Record) {
    let (machine, settings) = (&record.machine, &record.settings);
    let caches: Vec<String> = machine
        .caches
        .iter()
        .map(|c| format!("L{} {} {}", c.level, c.kind.to_lowercase(), bytes(c.bytes as f64)))
        .collect();
    let unknown = |text: String| if text.is_empty() { "unknown".to_string() } else { text };
    let ceilings: Vec<String> = record
        .ceilings
        .iter()
        .map(|c| {
            format!(
                "{}: {} GFLOP/s, {} GB/s",
                c.dtype,
                significant(c.flops_per_second / 1e9),
                significant(c.bytes_per_second / 1e9)
            )
        })
        .collect();
    let lines = [
        ("CPU", format!("{} ({})", machine.cpu, machine.architecture)),
        ("threads used", format!("{} of {} cores", settings.threads, machine.cores)),
        ("instructions", unknown(machine.features.join(", "))),
        ("caches of a core", unknown(caches.join(", "))),
        ("memory", bytes(machine.memory_bytes as f64)),
        ("system", format!("{}, kernel {}", machine.os, unknown(machine.kernel.clone()))),
        ("measured ceilings", ceilings.join("; ")),
        ("kronsparse", format!("{}, {} build, {}", machine.version, machine.profile, machine.rustc)),
        ("commit", unknown(machine.commit.clone())),
        ("command", settings.command.clone()),
        ("started", settings.date.clone()),
        ("took", seconds(settings.duration_s)),
        ("cases", grouped(record.cases().len())),
    ];
    let rows: String = lines.iter().map(|(k, v)| format!("<tr><th>{k}</th><td>{}</td></tr>", escape(v))).collect();
    let _ = writeln!(body, "<section id=\"machine\"><h2>Where</h2><table class=\"plain\">{rows}</table></section>");
}

/// Text as it may stand in a `data:` address.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(2 * text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b',' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_page_is_whole_and_needs_nothing_from_outside() {
        let record = sample();
        let page = page(&record);
        for forbidden in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(forbidden), "the page contains `{forbidden}`");
        }
        for tag in ["section", "table", "tr", "td", "div", "svg", "g", "main", "body", "html"] {
            let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
        }
        assert!(page.matches("data-algorithm").count() > record.rows.len());
        assert!(page.contains(&escape(&losses(&record))));
        assert!(page.contains("s-skipped") && page.contains("over the limit &lt;1&gt;"));
    }

    #[test]
    fn a_wrong_result_is_loud() {
        let mut record = sample();
        assert!(!page(&record).contains("class=\"alarm\""));
        record.rows[0].status = Status::Wrong;
        record.rows[0].reason = "relative error 1".into();
        let page = page(&record);
        assert!(page.contains("class=\"alarm\"") && page.contains("WRONG: fused"));
    }

    #[test]
    fn csv_survives_the_data_address() {
        assert_eq!(percent_encode("a,b\n1 2é"), "a,b%0A1%202%C3%A9");
    }
}
