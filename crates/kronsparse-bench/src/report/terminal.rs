//! The table on the terminal: a block per case, ours marked, reasons beside what was skipped, the summary last.

use crate::format::{grouped, percent, ratio, seconds, significant};
use crate::record::{Record, Row, Status};
use crate::summary;

const HEADER: [&str; 9] =
    ["algorithm", "median", "± IQR", "min", "GFLOP/s", "GB/s", "roofline", "vs best other", "error"];

/// Terminal sequences, or nothing.
struct Style {
    colour: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// The whole record as text; with colours if the caller knows that they will be seen.
pub fn table(record: &Record, colour: bool) -> String {
    let style = Style { colour };
    let cells: Vec<Vec<[String; 9]>> = record.cases().iter().map(|case| case.iter().map(cells).collect()).collect();
    let mut widths = HEADER.map(|h| h.chars().count());
    for row in cells.iter().flatten() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for (case, cells) in record.cases().iter().zip(&cells) {
        out += &head(&case[0], &style);
        out += &style.paint("2", &format!("   {}\n", line(&HEADER.map(String::from), &widths)));
        let fastest = case.iter().filter_map(|r| r.median_s).min_by(f64::total_cmp);
        for (row, cells) in case.iter().zip(cells) {
            let mark = if row.is_ours() { " ▸ " } else { "   " };
            let text = match row.status {
                Status::Ok => format!("{mark}{}", line(cells, &widths)),
                _ => format!("{mark}{:<width$}  {}: {}", cells[0], shout(row), row.reason, width = widths[0]),
            };
            let is_fastest = fastest.is_some() && row.median_s == fastest;
            out += &match row.status {
                Status::Wrong | Status::Failed => style.paint("1;31", &text),
                Status::Skipped => style.paint("2", &text),
                Status::Ok if row.is_ours() && is_fastest => style.paint("1;32", &text),
                Status::Ok if row.is_ours() && row.speedup_over_best_other.is_some() => style.paint("1;33", &text),
                Status::Ok if row.is_ours() => style.paint("1", &text),
                Status::Ok => text,
            };
            out.push('\n');
        }
        out.push('\n');
    }
    out += &foot(record, &style);
    out
}

/// The lines above a case's table.
fn head(row: &Row, style: &Style) -> String {
    let chain = &row.chain;
    let title = style.paint("1", &summary::short_chain(chain));
    let mut out = format!(
        "{title}   {} × {}, {} parameters   {} {}, n = {}, {} cache, {} thread{}\n",
        chain.rows(),
        chain.cols(),
        grouped(chain.parameters()),
        row.dtype,
        row.layout,
        row.n,
        row.cache,
        row.threads,
        if row.threads == 1 { "" } else { "s" }
    );
    if !row.why.is_empty() {
        out += &style.paint("2", &format!("   {}\n", row.why));
    }
    out
}

/// One line of cells: the first to the left, the others to the right.
fn line(cells: &[String; 9], widths: &[usize; 9]) -> String {
    let mut out = format!("{:<width$}", cells[0], width = widths[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        out += &format!("  {cell:>width$}");
    }
    out
}

fn cells(row: &Row) -> [String; 9] {
    let number = |x: Option<f64>, f: fn(f64) -> String| x.map_or("–".into(), f);
    [
        row.algorithm.to_string(),
        number(row.median_s, seconds),
        number(row.iqr_s, seconds),
        number(row.min_s, seconds),
        number(row.gflops, significant),
        number(row.gbs, significant),
        number(row.roofline_share, percent),
        number(row.speedup_over_best_other, ratio),
        number(row.rel_error, |e| format!("{e:.1e}")),
    ]
}

/// A status that must not be overlooked is written in capitals.
fn shout(row: &Row) -> String {
    match row.status {
        Status::Wrong | Status::Failed => row.status.to_string().to_uppercase(),
        _ => row.status.to_string(),
    }
}

/// Ceilings, the result and the remarks.
fn foot(record: &Record, style: &Style) -> String {
    let mut out = String::new();
    for ceiling in &record.ceilings {
        out += &format!(
            "roofline of {}: {} GFLOP/s, {} GB/s\n",
            ceiling.dtype,
            significant(ceiling.flops_per_second / 1e9),
            significant(ceiling.bytes_per_second / 1e9)
        );
    }
    out += &format!("{}\n", style.paint("1", &summary::headline(record)));
    let losses = summary::losses(record);
    if !losses.is_empty() {
        out += &format!("{losses}\n");
    }
    for warning in summary::warnings(record) {
        out += &format!("{}\n", style.paint("1;31", &warning));
    }
    out
}
