//! The little SVG that the plots need: logarithmic axes, markers, text. Colours are left to the page's style sheet.

use std::fmt::Write;

use kronsparse::plan::Algorithm;

use crate::record::Row;
use crate::summary::details;

/// A drawing under construction, in units of CSS pixels at full width.
pub(crate) struct Drawing {
    body: String,
    width: f64,
    height: f64,
    title: String,
}

impl Drawing {
    /// An empty drawing; `title` describes it to those who cannot see it.
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Drawing {
        Drawing { body: String::new(), width, height, title: escape(title) }
    }

    /// Appends an element written by the caller.
    pub(crate) fn raw(&mut self, element: &str) {
        self.body += element;
        self.body.push('\n');
    }

    /// A straight line of a class.
    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.raw(&format!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// Text of a class; `anchor` is `start`, `middle` or `end`.
    pub(crate) fn text(&mut self, class: &str, anchor: &str, at: (f64, f64), text: &str) {
        let (x, y) = at;
        let text = escape(text);
        self.raw(&format!(r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#));
    }

    /// The finished element.
    pub(crate) fn finish(self) -> String {
        let Drawing { body, width, height, title } = self;
        format!(r#"<svg viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{title}">{}{body}</svg>"#, "\n")
    }
}

/// A logarithmic axis from `min` to `max` (both positive) onto the pixels `from` to `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogAxis {
    min: f64,
    max: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    /// An axis that holds all positive values with a margin of `margin` (a factor above 1) on both sides.
    ///
    /// Without any value it spans one decade around 1.
    pub(crate) fn holding(values: impl IntoIterator<Item = f64>, margin: f64, from: f64, to: f64) -> LogAxis {
        let (mut min, mut max) = (f64::INFINITY, 0.0f64);
        for value in values.into_iter().filter(|v| v.is_finite() && *v > 0.0) {
            (min, max) = (min.min(value), max.max(value));
        }
        if max == 0.0 {
            (min, max) = (0.5, 2.0);
        }
        LogAxis { min: min / margin, max: max * margin, from, to }
    }

    /// The pixel of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        self.from + (value / self.min).ln() / (self.max / self.min).ln() * (self.to - self.from)
    }
    /// Smallest value.
    pub(crate) fn min(&self) -> f64 {
        self.min
    }
    /// Largest value.
    pub(crate) fn max(&self) -> f64 {
        self.max
    }

    /// Values worth a line: 1, 2 and 5 of every decade, or only the ones where that is too many to label.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let decades = (self.max / self.min).log10();
        let steps: &[f64] = match decades {
            d if d > 9.0 => &[1.0],
            d if d > 3.2 => &[1.0, 3.0],
            _ => &[1.0, 2.0, 5.0],
        };
        let first = self.min.log10().floor() as i32;
        let last = self.max.log10().ceil() as i32;
        let all = (first..=last).flat_map(|power| steps.iter().map(move |s| s * 10f64.powi(power)));
        all.filter(|v| *v >= self.min && *v <= self.max).collect()
    }
}

/// Text made safe for XML and HTML, in elements and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// The outline of an algorithm's marker around the origin, with a radius of about 5: shapes differ, not only colours.
pub(crate) fn shape(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Fused => "M-6.2 0a6.2 6.2 0 1 0 12.4 0a6.2 6.2 0 1 0 -12.4 0z",
        Algorithm::Auto => "M-6.2 0a6.2 6.2 0 1 0 12.4 0a6.2 6.2 0 1 0 -12.4 0zM-3 0a3 3 0 1 1 6 0a3 3 0 1 1 -6 0z",
        Algorithm::Dense => "M-4.3 -4.3h8.6v8.6h-8.6z",
        Algorithm::PermuteBmm => "M0 -6L6 0L0 6L-6 0z",
        Algorithm::Strided => "M-6 -2.2h12v4.4h-12z",
        Algorithm::Einsum => "M0 -5.6L5.4 4.2H-5.4z",
        Algorithm::Csr => "M0 5.6L5.4 -4.2H-5.4z",
        Algorithm::Bsr => "M-5 -2H-2V-5H2V-2H5V2H2V5H-2V2H-5z",
    }
}

/// Attributes by which the page's filters find an element that belongs to a row.
pub(crate) fn tags(row: &Row) -> String {
    format!(r#"data-dtype="{}" data-layout="{}" data-cache="{}""#, row.dtype, row.layout, row.cache)
}

/// A row's marker at a place, with all its figures on hover.
pub(crate) fn marker(row: &Row, at: (f64, f64)) -> String {
    let (x, y) = at;
    let mut out = String::new();
    let name = row.algorithm.name();
    let _ = write!(
        out,
        r#"<path class="mark a-{name}" data-algorithm="{name}" {} transform="translate({x:.1} {y:.1})" d="{}"><title>{}</title></path>"#,
        tags(row),
        shape(row.algorithm),
        escape(&details(row))
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_is_linear_in_the_exponent() {
        let axis = LogAxis::holding([1e-6, f64::NAN, 1e-2, 0.0], 1.0, 100.0, 500.0);
        assert!((axis.at(1e-6) - 100.0).abs() < 1e-9 && (axis.at(1e-2) - 500.0).abs() < 1e-9);
        assert!((axis.at(1e-4) - 300.0).abs() < 1e-9);
        let ticks = LogAxis::holding([1.5, 60.0], 1.0, 0.0, 1.0).ticks();
        assert_eq!(ticks, [2.0, 5.0, 10.0, 20.0, 50.0]);
        let empty = LogAxis::holding([], 1.0, 0.0, 1.0);
        assert!(empty.at(1.0).is_finite() && !empty.ticks().is_empty());
    }

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escape(r#"<a b="c">&'"#), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
    }

    #[test]
    fn every_algorithm_has_its_own_shape() {
        let all: std::collections::BTreeSet<&str> =
            Algorithm::ALL.into_iter().chain([Algorithm::Auto]).map(shape).collect();
        assert_eq!(all.len(), 8);
    }
}
