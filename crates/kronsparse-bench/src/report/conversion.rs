//! A table of what budgets cost a model: from the JSON that `kronsparse convert --json` prints.

use serde::Deserialize;

use super::markdown::lay_out;
use crate::format::percent;
use kronsparse::measure::median;

/// One conversion, as `kronsparse convert --json` prints it, with the budget that was asked for.
#[derive(Clone, Debug, Deserialize)]
pub struct Conversion {
    /// Share of the parameters that each layer could keep.
    pub budget: f64,
    /// Parameters of the converted layers before.
    pub parameters_before: u64,
    /// And after.
    pub parameters_after: u64,
    /// Seconds that the conversion took.
    pub seconds: f64,
    /// The converted layers.
    pub layers: Vec<ConvertedLayer>,
}

/// One layer of a [`Conversion`].
#[derive(Clone, Debug, Deserialize)]
pub struct ConvertedLayer {
    /// The chain, left to right.
    pub chain: String,
    /// `‖A − W‖_F / ‖A‖_F`.
    pub relative_error: f64,
}

/// A Markdown table, a line per conversion, ending in a line break.
pub fn conversions(conversions: &[Conversion]) -> String {
    let header = ["budget", "parameters kept", "relative error of a layer: least", "median", "largest", "time"];
    let row = |c: &Conversion| {
        let errors: Vec<f64> = c.layers.iter().map(|layer| layer.relative_error).collect();
        let error = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.3}"));
        vec![
            c.budget.to_string(),
            percent(c.parameters_after as f64 / c.parameters_before as f64),
            error(errors.iter().copied().min_by(f64::total_cmp)),
            error(median(&errors)),
            error(errors.iter().copied().max_by(f64::total_cmp)),
            format!("{:.0} s", c.seconds),
        ]
    };
    lay_out(&header, &["budget"], &conversions.iter().map(row).collect::<Vec<_>>())
}
