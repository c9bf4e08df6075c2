//! A plain text table: columns as wide as their widest cell, numbers to the right.

use crate::output::HEADING;

/// Which side a column's cells keep to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Lays out rows under headings. Every row must have as many cells as there are columns.
pub(crate) fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([columns[at].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            let gap = " ".repeat(widths[at] - cell.chars().count());
            match columns[at].1 {
                Align::Left => line.extend([cell, gap.as_str()]),
                Align::Right => line.extend([gap.as_str(), cell]),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    let mut out = format!("{HEADING}{}{HEADING:#}\n", line(columns.iter().map(|c| c.0).collect()));
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_not_bytes() {
        let rows = [vec!["a × b".to_owned(), "7".to_owned()], vec!["c".to_owned(), "1,234".to_owned()]];
        let text = render(&[("name", Align::Left), ("size", Align::Right)], &rows);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "name    size\na × b      7\nc      1,234\n");
    }
}
