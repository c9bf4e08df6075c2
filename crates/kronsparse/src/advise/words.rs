//! The sentences of an advice, and numbers as people read them.

use super::{Advice, Kind, Objective, Way};

/// Three significant digits and a unit for seconds, joules or bytes.
pub(super) fn amount(value: f64, objective: Objective) -> String {
    let scaled = |units: &[(f64, &str)]| {
        let &(size, unit) = units.iter().find(|(size, _)| value >= 0.9995 * size).unwrap_or(&units[units.len() - 1]);
        let shown = value / size;
        let decimals = if shown < 9.995 { 2 } else { usize::from(shown < 99.95) };
        format!("{shown:.decimals$} {unit}")
    };
    match objective {
        Objective::Time => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]),
        Objective::Energy => scaled(&[(1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")]),
        Objective::Memory => scaled(&[(1073741824.0, "GiB"), (1048576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")]),
    }
}

/// A share in percent.
fn percent(share: f64) -> String {
    if share < 0.0995 { format!("{:.1} %", 100.0 * share) } else { format!("{:.0} %", 100.0 * share) }
}

/// The chain and how large it is.
fn name(way: &Way) -> String {
    format!("{} ({}, {} of the parameters)", way.chain, way.kind.name(), percent(way.chain.density()))
}

/// What a verdict says of one number of vectors, of all together where `batch` is `None`.
pub(super) struct Finding<'a> {
    pub(super) batch: Option<usize>,
    pub(super) best: &'a Way,
    /// Of the best chain and of the dense matrix, in the unit of the objective; `None` for all together.
    pub(super) amounts: Option<(f64, f64)>,
    pub(super) gain: f64,
    pub(super) stay_dense: bool,
    pub(super) measured: bool,
    /// The chain with the most parameters that still gains, if that is another one, and its gain.
    pub(super) richest: Option<(&'a Way, f64)>,
    /// Of all together: the numbers of vectors with which the chain loses, although it gains on the whole.
    pub(super) losses: Vec<usize>,
    /// Why the chain gains little, where it does.
    pub(super) why: Option<String>,
}

impl Finding<'_> {
    /// The finding in one or two sentences.
    pub(super) fn sentence(&self, objective: Objective) -> String {
        let place = match self.batch {
            Some(1) => "For 1 vector".into(),
            Some(batch) => format!("For {batch} vectors"),
            None => "For all numbers of vectors together".to_owned(),
        };
        let gain = self.gain;
        let (better, worse) = match objective {
            Objective::Time => (format!("{gain:.2} times as fast as the dense matrix"), "slower"),
            Objective::Energy => (format!("the dense matrix takes {gain:.2} times the energy"), "more energy"),
            Objective::Memory => (format!("the dense matrix takes {gain:.2} times the memory"), "more memory"),
        };
        let how = match (objective, self.measured) {
            (Objective::Memory, _) => "counted",
            (_, true) => "measured",
            (_, false) => "predicted",
        };
        let chain = name(self.best);
        let amounts = match self.amounts {
            Some((mine, dense)) => {
                format!("{how} {} against {} dense", amount(mine, objective), amount(dense, objective))
            }
            None => format!("{how}, in the geometric mean"),
        };
        let mut text = if self.stay_dense {
            let change = if self.gain >= 1.0 {
                format!("only {} better", percent(self.gain - 1.0))
            } else {
                format!("{worse} by a factor of {:.2}", 1.0 / self.gain)
            };
            format!("{place} stay dense: the best chain, {chain}, is {change} ({amounts})")
        } else {
            format!("{place} take {chain}: {better} ({amounts})")
        };
        if let Some(why) = &self.why {
            text.push_str("; ");
            text.push_str(why);
        }
        text.push('.');
        if !self.stay_dense && !self.losses.is_empty() {
            let list: Vec<String> = self.losses.iter().map(usize::to_string).collect();
            text.push_str(&format!(" It loses with batches of {}.", list.join(", ")));
        }
        if let Some((way, gain)) = self.richest.filter(|_| !self.stay_dense) {
            text.push_str(&format!(" With the most parameters that still gain: {}, {gain:.2} times.", name(way)));
        }
        if !self.measured && objective != Objective::Memory && (0.75..1.35).contains(&self.gain) {
            text.push_str(" Estimates can be off by so much: measure before you decide.");
        }
        text
    }
}

/// Why a chain gains little against the dense matrix with the same vectors, in half a sentence.
pub(super) fn why_little(advice: &Advice, way: &Way, at: usize) -> Option<String> {
    let (mine, dense) = (&way.costs[at], &advice.dense.costs[at]);
    let batch = advice.options.batches[at];
    let case = super::Case { dtype: advice.dtype, precision: advice.precision, layout: advice.options.layout, batch };
    let (floor, dense_floor) = (advice.target.roofline(mine, &case), advice.target.roofline(dense, &case));
    if advice.options.objective == Objective::Memory {
        return Some("the input and output vectors take most of the memory either way".into());
    }
    if floor > 0.8 * dense_floor {
        return Some("both must move about as many bytes, most of them input and output vectors".into());
    }
    if floor < 0.4 * mine.seconds {
        return Some(format!(
            "it has {:.1} times fewer operations, but at this size launches and small blocks cost more than that saves",
            dense.flops / mine.flops
        ));
    }
    None
}

/// What a chain gives up.
pub(super) fn caveat(best: Option<&Way>, [rows, cols]: [usize; 2]) -> String {
    let limits = match best {
        None => String::new(),
        Some(way) if way.kind == Kind::Partial => {
            let inputs = way.chain.patterns()[0].c();
            format!(" In {} every output depends on {inputs} of the {cols} inputs only.", way.chain)
        }
        Some(way) => {
            let split = |split: &super::Split| match split.blocks() {
                1 => format!("rank {} of the whole matrix", split.rank),
                blocks => format!("rank {} in each of {blocks} blocks of {} × {}", split.rank, split.rows, split.cols),
            };
            let limits: Vec<String> = way.splits.iter().map(split).collect();
            let least = rows.min(cols);
            let whole = if way.rank < least {
                format!("; the whole has rank {} of {least} at most", way.rank)
            } else {
                String::new()
            };
            format!(" {} allows {} at most{whole}.", way.chain, limits.join(", "))
        }
    };
    format!(
        "A chain is another matrix than the dense one: only weights of its structure become such a chain without loss.{limits} \
         `kronsparse factorize` and `kronsparse convert` say how far given weights are from a chain; a pretrained model loses \
         accuracy until it is trained further (healing), and nothing here says how much of it comes back."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits_and_a_unit() {
        let time = [1.5, 0.012_34, 9.999e-6, 123.4e-6, 5e-10].map(|x| amount(x, Objective::Time));
        assert_eq!(time, ["1.50 s", "12.3 ms", "10.0 µs", "123 µs", "0.50 ns"]);
        assert_eq!(amount(0.151, Objective::Energy), "151 mJ");
        assert_eq!(amount(3.0 * 1048576.0, Objective::Memory), "3.00 MiB");
        assert_eq!([0.0312, 0.125].map(percent), ["3.1 %", "12 %"]);
    }
}
