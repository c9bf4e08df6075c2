//! The recommendation: for each number of vectors, and for all together, the best chain or "stay dense".

use super::words::{self, Finding, why_little};
use super::{Advice, Candidate, Objective};
use crate::{Error, Result};

/// A chain is recommended where the dense matrix takes at least so many times as long: less is a tie.
pub const WORTH: f64 = 1.05;

/// A recommendation.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Number of vectors; `None` for all together.
    pub batch: Option<usize>,
    /// The best chain, by its place in [`Advice::chains`]; `None` where there are no figures to decide by, see
    /// [`Verdict::unknown`].
    pub best: Option<usize>,
    /// Cost of the dense matrix over that of the best chain; above 1 the chain gains. Without a best chain it means nothing.
    pub gain: f64,
    /// Whether no chain is recommended: the gain is below [`WORTH`], or not known.
    pub stay_dense: bool,
    /// Of the chains of the advice, the one with the most parameters that still gains.
    pub richest: Option<usize>,
    /// Whether measured figures decided, rather than estimates.
    pub measured: bool,
    /// Why there is nothing to decide by, where that is so.
    pub unknown: Option<String>,
    /// Whether estimates of time are so far off, where they were compared, that the verdict may be the other way round.
    pub too_close: bool,
    /// All of this in words.
    pub sentence: String,
}

impl Verdict {
    /// Before anything is decided.
    pub(super) fn pending() -> Verdict {
        Verdict {
            batch: None,
            best: None,
            gain: 1.0,
            stay_dense: true,
            richest: None,
            measured: false,
            unknown: None,
            too_close: false,
            sentence: String::new(),
        }
    }
}

/// What chains and dense matrix cost with one number of vectors, in one unit, all estimated or all measured.
struct Figures {
    dense: f64,
    /// `None` where a chain was not measured although others were, or has no estimate although others have.
    chains: Vec<Option<f64>>,
}

/// Decides for each number of vectors, and for all together. Errors: there is nothing to decide by for any number of vectors; says
/// what is missing.
pub(super) fn decide(advice: &Advice) -> Result<(Vec<Verdict>, Verdict)> {
    let batches = &advice.options.batches;
    let measured: Vec<Option<Figures>> = (0..batches.len()).map(|at| measurements(advice, at)).collect();
    let estimated: Vec<std::result::Result<Figures, String>> =
        (0..batches.len()).map(|at| estimates(advice, at)).collect();
    let figures = |at: usize| match (&measured[at], &estimated[at]) {
        (Some(figures), _) => Ok((figures, true)),
        (None, Ok(figures)) => Ok((figures, false)),
        (None, Err(why)) => Err(why),
    };
    if let Some(why) = figures(0).err().filter(|_| (0..batches.len()).all(|at| figures(at).is_err())) {
        let what = format!("the objective {} for {}", advice.options.objective, words::vectors(batches[0]));
        return Err(Error::Unsupported { what, why: why.clone() });
    }
    let verdicts = (0..batches.len()).map(|at| match figures(at) {
        Ok((figures, measured)) => {
            let gain = |cost: &Option<f64>| cost.map(|cost| figures.dense / cost);
            let gains: Vec<Option<f64>> = figures.chains.iter().map(gain).collect();
            verdict(advice, Some(at), &gains, Some(figures), measured, &|_| Vec::new())
        }
        Err(why) => unknown(Some(batches[at]), why.clone()),
    });
    let verdicts = verdicts.collect();
    // Estimates and measurements are not averaged: measurements where every number of vectors was measured, otherwise estimates.
    let all_measured: Option<Vec<&Figures>> = measured.iter().map(Option::as_ref).collect();
    let all: Vec<&Figures> = match &all_measured {
        Some(figures) => figures.clone(),
        None => {
            let without: Vec<&usize> =
                estimated.iter().zip(batches).filter(|(figures, _)| figures.is_err()).map(|(_, batch)| batch).collect();
            if !without.is_empty() {
                let list: Vec<String> = without.into_iter().map(usize::to_string).collect();
                let why = format!("there is no basis for batches of {}", list.join(", "));
                return Ok((verdicts, unknown(None, why)));
            }
            estimated.iter().flatten().collect()
        }
    };
    let losses = |chain: usize| {
        let loses = |figures: &Figures| figures.chains[chain].is_some_and(|cost| cost > figures.dense);
        all.iter().zip(batches).filter(|(figures, _)| loses(figures)).map(|(_, &batch)| batch).collect()
    };
    // The geometric mean of what a chain gains, where it has figures throughout.
    let mean = |chain: usize| {
        let logs = all.iter().map(|figures| Some((figures.dense / figures.chains[chain]?).ln()));
        let sum: Option<f64> = logs.sum();
        sum.map(|sum| (sum / all.len() as f64).exp())
    };
    let gains: Vec<Option<f64>> = (0..advice.chains.len()).map(mean).collect();
    let mut overall = verdict(advice, None, &gains, None, all_measured.is_some(), &losses);
    if all_measured.is_none() && measured.iter().any(Option::is_some) {
        overall.sentence.push_str(" That is by estimates alone: not every number of vectors was measured.");
    }
    Ok((verdicts, overall))
}

/// Measured figures, where the dense matrix and a chain were measured.
fn measurements(advice: &Advice, at: usize) -> Option<Figures> {
    let objective = advice.options.objective;
    let dense = advice.dense.measurement(at, objective)?;
    let chains: Vec<Option<f64>> = advice.chains.iter().map(|way| way.measurement(at, objective)).collect();
    chains.iter().any(Option::is_some).then_some(Figures { dense, chains })
}

/// Estimates, or why they decide nothing. Energy is known of some calls only: where a chain without a figure is faster than the
/// best one with a figure, that one cannot be called the best.
fn estimates(advice: &Advice, at: usize) -> std::result::Result<Figures, String> {
    let objective = advice.options.objective;
    let estimate = |way: &Candidate| way.estimate(at, objective).map_err(str::to_owned);
    let dense = estimate(&advice.dense).map_err(|why| format!("the dense matrix: {why}"))?;
    let estimates: Vec<std::result::Result<f64, String>> = advice.chains.iter().map(estimate).collect();
    let seconds = |place: usize| advice.chains[place].costs[at].seconds;
    let known = estimates.iter().enumerate().filter_map(|(place, cost)| Some((place, cost.as_ref().ok()?)));
    let best = known.min_by(|x, y| x.1.total_cmp(y.1)).map(|(place, _)| seconds(place));
    let missing = estimates.iter().enumerate().filter_map(|(place, cost)| Some((place, cost.as_ref().err()?)));
    if let Some((fastest, why)) = missing.min_by(|x, y| seconds(x.0).total_cmp(&seconds(y.0)))
        && best.is_none_or(|best| seconds(fastest) < best)
    {
        let (count, all) = (estimates.iter().filter(|cost| cost.is_err()).count(), estimates.len());
        let name = &advice.chains[fastest].chain;
        return Err(format!("{count} of the {all} chains listed have no figure, {name} the fastest of them: {why}"));
    }
    Ok(Figures { dense, chains: estimates.into_iter().map(std::result::Result::ok).collect() })
}

/// Nothing to decide by.
fn unknown(batch: Option<usize>, why: String) -> Verdict {
    let sentence = format!("{} there is no verdict: {why}.", words::place(batch));
    Verdict { batch, unknown: Some(why), sentence, ..Verdict::pending() }
}

fn verdict(
    advice: &Advice,
    at: Option<usize>,
    gains: &[Option<f64>],
    figures: Option<&Figures>,
    measured: bool,
    losses: &dyn Fn(usize) -> Vec<usize>,
) -> Verdict {
    let known = || gains.iter().enumerate().filter_map(|(chain, gain)| Some((chain, (*gain)?)));
    let batch = at.map(|at| advice.options.batches[at]);
    // Of equal ones the first, which is the better one on the whole.
    let Some((best, gain)) = known().reduce(|best, other| if other.1 > best.1 { other } else { best }) else {
        return Verdict { measured, ..unknown(batch, "no chain has figures for all numbers of vectors".into()) };
    };
    let parameters = |chain: usize| advice.chains[chain].chain.parameters();
    let stay_dense = gain < WORTH;
    let richest = known().filter(|(_, gain)| *gain >= WORTH).max_by_key(|(chain, _)| parameters(*chain));
    let way = &advice.chains[best];
    let estimated_time = !measured && advice.options.objective == Objective::Time;
    // For all together, what is known of the fewest vectors, whose estimates are the worst.
    let fewest = advice.options.batches.iter().copied().min().unwrap_or(1);
    let spread = advice.target.spread(batch.unwrap_or(fewest));
    let too_close = estimated_time && spread.is_too_close(gain);
    let finding = Finding {
        batch,
        best: way,
        amounts: figures.and_then(|figures| Some((figures.chains[best]?, figures.dense))),
        gain,
        stay_dense,
        measured,
        too_close: too_close.then_some(spread),
        richest: richest.filter(|(chain, _)| *chain != best).map(|(chain, gain)| (&advice.chains[chain], gain)),
        losses: losses(best),
        why: at.filter(|_| stay_dense && !measured).and_then(|at| why_little(advice, way, at)),
    };
    let sentence = finding.sentence(advice.options.objective);
    let (best, richest) = (Some(best), richest.map(|(chain, _)| chain));
    Verdict { batch, best, gain, stay_dense, richest, measured, unknown: None, too_close, sentence }
}
