//! The sentences of an advice, and numbers as people read them.

use super::spread::Spread;
use super::{Advice, Candidate, Family, Objective};

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
fn name(way: &Candidate) -> String {
    format!("{} ({}, {} of the parameters)", way.chain, way.family.name(), percent(way.chain.density()))
}

/// What a verdict says of one number of vectors, of all together where `batch` is `None`.
pub(super) struct Finding<'a> {
    pub(super) batch: Option<usize>,
    pub(super) best: &'a Candidate,
    /// Of the best chain and of the dense matrix, in the unit of the objective; `None` for all together.
    pub(super) amounts: Option<(f64, f64)>,
    pub(super) gain: f64,
    pub(super) stay_dense: bool,
    pub(super) measured: bool,
    /// How far estimates were off, where that could turn the verdict.
    pub(super) too_close: Option<Spread>,
    /// Of the chains that are listed, the one with the most parameters that still gains, if that is another one; its gain.
    pub(super) richest: Option<(&'a Candidate, f64)>,
    /// Of all together: the numbers of vectors with which the chain loses, although it gains on the whole.
    pub(super) losses: Vec<usize>,
    /// Why the chain gains little, where it does.
    pub(super) why: Option<String>,
}

impl Finding<'_> {
    /// The finding in one or two sentences.
    pub(super) fn sentence(&self, objective: Objective) -> String {
        let place = place(self.batch);
        let gain = self.gain;
        let (better, worse) = match objective {
            Objective::Time => (format!("{gain:.2} times as fast as the dense matrix"), "is slower"),
            Objective::Energy => (format!("the dense matrix takes {gain:.2} times the energy"), "takes more energy"),
            Objective::Memory => (format!("the dense matrix takes {gain:.2} times the memory"), "takes more memory"),
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
                format!("is only {} better", percent(self.gain - 1.0))
            } else {
                format!("{worse} by a factor of {:.2}", 1.0 / self.gain)
            };
            format!("{place} stay dense: the best chain, {chain}, {change} ({amounts})")
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
            text.push_str(&format!(
                " Of the chains listed, the one with the most parameters that still gains: {}, {gain:.2} times.",
                name(way)
            ));
        }
        if let Some(spread) = self.too_close {
            text.push_str(&format!(" Too close to call: {spread}. Measure before you decide."));
        }
        text
    }
}

/// What is said of, before the verdict.
pub(super) fn place(batch: Option<usize>) -> String {
    match batch {
        Some(batch) => format!("For {}", vectors(batch)),
        None => "For all numbers of vectors together".to_owned(),
    }
}

/// `1 vector`, `2 vectors`.
pub(super) fn vectors(batch: usize) -> String {
    if batch == 1 { "1 vector".into() } else { format!("{batch} vectors") }
}

/// Why a chain gains little against the dense matrix with the same vectors, in half a sentence; `None` where its figures do not say.
pub(super) fn why_little(advice: &Advice, way: &Candidate, at: usize) -> Option<String> {
    let (mine, dense) = (&way.costs[at], &advice.dense.costs[at]);
    let batch = advice.options.batches[at];
    let case = super::Case { dtype: advice.dtype, precision: advice.precision, layout: advice.options.layout, batch };
    let ends = (batch * case.dtype.size()) as f64 * (advice.rows as f64 + advice.cols as f64);
    if advice.options.objective == Objective::Memory {
        let mostly = |cost: &super::Cost| ends > 0.5 * cost.memory.bytes();
        let why = "the input and output vectors take most of the memory either way";
        return (mostly(mine) && mostly(dense)).then(|| why.into());
    }
    let (roof, dense_roof) = (advice.target.roofline(mine, &case), advice.target.roofline(dense, &case));
    let less = dense.flops / mine.flops;
    if dense_roof.memory && mine.bytes > 0.8 * dense.bytes && ends > 0.5 * mine.bytes {
        return Some("both must move about as many bytes, most of them input and output vectors".into());
    }
    if less < 1.25 {
        return Some(format!("it has {} of the operations of the dense matrix", percent(1.0 / less)));
    }
    let (mine_over, dense_over) = (mine.seconds / roof.seconds, dense.seconds / dense_roof.seconds);
    (mine_over > 2.0 && mine_over > 1.1 * dense_over).then(|| {
        format!(
            "it has {less:.1} times fewer operations, but takes {mine_over:.1} times as long as its bytes and operations would at the \
             machine's rates, in {}, and the dense matrix {dense_over:.1} times",
            if mine.steps == 1 { "one step".into() } else { format!("{} steps", mine.steps) }
        )
    })
}

/// What a chain gives up.
pub(super) fn caveat(best: Option<&Candidate>, [rows, cols]: [usize; 2]) -> String {
    let limits = match best {
        None => String::new(),
        Some(way) if way.family == Family::Partial => {
            let inputs = way.chain.patterns()[0].c();
            format!(" In {} every output depends on {inputs} of the {cols} inputs only.", way.chain)
        }
        Some(way) => {
            let split = |split: &super::ranks::Split| match split.blocks() {
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
