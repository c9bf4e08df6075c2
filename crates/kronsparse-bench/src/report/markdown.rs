//! Markdown tables of a record, and the place in a README where they go: no number there is typed by hand.

use kronsparse::measure::median;
use kronsparse::plan::Algorithm;

use crate::format::{bytes, percent, ratio, seconds, significant};
use crate::record::{Record, Row, Status};
use crate::summary::{best_other, conditions, headline, ours, short_chain};

/// The tables that [`table`] knows.
pub const TABLES: [&str; 4] = ["cases", "algorithms", "machine", "headline"];

/// One table by its name, ending in a line break; `None` for a name that is not in [`TABLES`].
///
/// * `cases`: a line per case: our time, the best other's, the speed-up.
/// * `algorithms`: a line per algorithm: how often it was right, skipped or wrong, and its time relative to ours.
/// * `machine`: a sentence that says where and when.
/// * `headline`: the result in a sentence.
pub fn table(record: &Record, name: &str) -> Option<String> {
    match name {
        "cases" => Some(cases(record)),
        "algorithms" => Some(algorithms(record)),
        "machine" => Some(machine(record)),
        "headline" => Some(format!("{}\n", headline(record))),
        _ => None,
    }
}

/// Replaces what stands between `<!-- report:NAME -->` and `<!-- /report:NAME -->` by `table`, markers kept.
///
/// `None` if the two markers are not there in this order.
pub fn splice(text: &str, name: &str, table: &str) -> Option<String> {
    let (open, close) = (format!("<!-- report:{name} -->"), format!("<!-- /report:{name} -->"));
    let start = text.find(&open)? + open.len();
    let end = start + text[start..].find(&close)?;
    let body = table.trim_end();
    Some(format!("{}\n{body}\n{}", &text[..start], &text[end..]))
}

/// A Markdown table; the columns named in `left` are aligned to the left, all others to the right.
pub(super) fn lay_out(header: &[&str], left: &[&str], rows: &[Vec<String>]) -> String {
    let escape = |cell: &str| cell.replace('|', "\\|").replace('\n', " ");
    let mut out = format!("| {} |\n|", header.join(" | "));
    for name in header {
        out += if left.contains(name) { " --- |" } else { " ---: |" };
    }
    out.push('\n');
    for row in rows {
        let cells: Vec<String> = row.iter().map(|c| escape(c)).collect();
        out += &format!("| {} |\n", cells.join(" | "));
    }
    out
}

fn time(row: &Row) -> String {
    match row.status {
        Status::Ok => row.median_s.map_or("–".into(), seconds),
        Status::Wrong | Status::Failed => row.status.to_string().to_uppercase(),
        Status::Skipped => row.status.to_string(),
    }
}

fn cases(record: &Record) -> String {
    let header = ["chain", "measured on", "ours", "best other", "speed-up", "GFLOP/s", "roofline"];
    let mut rows = Vec::new();
    for case in record.cases() {
        let own = ours(case);
        let other = best_other(case);
        let number = |x: Option<f64>, f: fn(f64) -> String| x.map_or("–".into(), f);
        let speedup = own.and_then(|r| r.speedup_over_best_other);
        // A loss is as visible as a win.
        let emphasis = |text: String| if speedup.is_some_and(|s| s < 1.0) { format!("*{text}*") } else { text };
        rows.push(vec![
            format!("`{}`", short_chain(&case[0].chain)),
            conditions(&case[0]),
            own.map_or("–".into(), time),
            other.map_or("–".into(), |r| format!("{} ({})", time(r), r.algorithm)),
            emphasis(number(speedup, ratio)),
            number(own.and_then(|r| r.gflops), significant),
            number(own.and_then(|r| r.roofline_share), percent),
        ]);
    }
    lay_out(&header, &["chain", "measured on"], &rows)
}

fn algorithms(record: &Record) -> String {
    let mut names: Vec<Algorithm> = Vec::new();
    for row in &record.rows {
        if !names.contains(&row.algorithm) {
            names.push(row.algorithm);
        }
    }
    let header = ["algorithm", "right", "skipped", "wrong", "time relative to ours, median", "best", "worst"];
    let mut rows = Vec::new();
    for name in names {
        let of = |wanted: &[Status]| {
            record.rows.iter().filter(|r| r.algorithm == name && wanted.contains(&r.status)).count().to_string()
        };
        let relative = |case: &[Row]| {
            let own = ours(case)?.median_s?;
            Some(case.iter().find(|r| r.algorithm == name)?.median_s? / own)
        };
        let relative: Vec<f64> = record.cases().into_iter().filter_map(relative).collect();
        let number = |x: Option<f64>| x.map_or("–".into(), ratio);
        rows.push(vec![
            name.to_string(),
            of(&[Status::Ok]),
            of(&[Status::Skipped]),
            of(&[Status::Wrong, Status::Failed]),
            number(median(&relative)),
            number(relative.iter().copied().min_by(f64::total_cmp)),
            number(relative.iter().copied().max_by(f64::total_cmp)),
        ]);
    }
    lay_out(&header, &["algorithm"], &rows)
}

fn machine(record: &Record) -> String {
    let (machine, settings) = (&record.machine, &record.settings);
    let caches = machine.caches.iter().filter(|c| c.kind != "Instruction");
    let caches: Vec<String> = caches.map(|c| format!("L{} {}", c.level, bytes(c.bytes as f64))).collect();
    let caches = if caches.is_empty() { String::new() } else { format!(", {}", caches.join(", ")) };
    let commit = if machine.commit.is_empty() { String::new() } else { format!(" (commit {})", machine.commit) };
    let place = match &machine.gpu {
        None => format!(
            "{} with {} of {} cores{caches}, {} of memory",
            machine.cpu,
            settings.threads,
            machine.cores,
            bytes(machine.memory_bytes as f64)
        ),
        Some(gpu) => format!(
            "{} with {} of memory, driver {}, {}",
            gpu.name,
            bytes(gpu.memory_bytes as f64),
            gpu.driver,
            gpu.libraries.join(", ")
        ),
    };
    format!(
        "Measured on {place}, {}; kronsparse {}{commit}, {}; {}; `{}`.\n",
        machine.os, machine.version, machine.rustc, settings.date, settings.command
    )
}
