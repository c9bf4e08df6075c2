//! The recommendation: for each number of vectors, and for all together, the best chain or "stay dense".

use super::words::{Finding, why_little};
use super::{Advice, Objective, Way};
use crate::{Error, Result};

/// A chain is recommended where the dense matrix takes at least so many times as long: less is a tie.
pub const WORTH: f64 = 1.05;

/// A recommendation.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Number of vectors; `None` for all together.
    pub batch: Option<usize>,
    /// The best chain, by its place in [`Advice::chains`]; `None` only where measured figures are wanted of chains that have none.
    pub best: Option<usize>,
    /// Cost of the dense matrix over that of the best chain; above 1 the chain gains.
    pub gain: f64,
    /// Whether the gain is below [`WORTH`].
    pub stay_dense: bool,
    /// The chain with the most parameters that still gains.
    pub richest: Option<usize>,
    /// Whether measured figures decided, rather than estimates.
    pub measured: bool,
    /// All of this in words.
    pub sentence: String,
}

impl Verdict {
    /// Before anything is decided.
    pub(super) fn pending() -> Verdict {
        let sentence = String::new();
        Verdict { batch: None, best: None, gain: 1.0, stay_dense: true, richest: None, measured: false, sentence }
    }
}

/// What chains and dense matrix cost with one number of vectors, all estimated or all measured.
struct Figures {
    dense: f64,
    /// `None` where a chain was not measured although others were.
    chains: Vec<Option<f64>>,
    measured: bool,
}

/// Decides for each number of vectors, and for all together. Errors: the objective has no figures; says what is missing.
pub(super) fn decide(advice: &Advice) -> Result<(Vec<Verdict>, Verdict)> {
    let batches = &advice.options.batches;
    let figures = (0..batches.len()).map(|at| figures(advice, at)).collect::<Result<Vec<_>>>()?;
    let verdicts = figures.iter().enumerate().map(|(at, figures)| {
        let gains: Vec<Option<f64>> = figures.chains.iter().map(|cost| cost.map(|cost| figures.dense / cost)).collect();
        verdict(advice, Some(at), &gains, Some(figures), figures.measured, &|_| Vec::new())
    });
    let verdicts: Vec<Verdict> = verdicts.collect();
    let losses = |chain: usize| {
        let loses = |figures: &Figures| figures.chains[chain].is_some_and(|cost| cost > figures.dense);
        figures.iter().zip(batches).filter(|(figures, _)| loses(figures)).map(|(_, &batch)| batch).collect()
    };
    // The geometric mean of what a chain gains, where it has figures throughout.
    let measured = figures.iter().all(|figures| figures.measured);
    let mean = |chain: usize| {
        let logs = figures.iter().map(|figures| Some((figures.dense / figures.chains[chain]?).ln()));
        let sum: Option<f64> = logs.sum();
        sum.map(|sum| (sum / figures.len() as f64).exp())
    };
    let gains: Vec<Option<f64>> = (0..advice.chains.len()).map(mean).collect();
    Ok((verdicts, verdict(advice, None, &gains, None, measured, &losses)))
}

fn figures(advice: &Advice, at: usize) -> Result<Figures> {
    let objective = advice.options.objective;
    let measured: Vec<Option<f64>> = advice.chains.iter().map(|way| way.measurement(at, objective)).collect();
    if let Some(dense) = advice.dense.measurement(at, objective)
        && measured.iter().any(Option::is_some)
    {
        return Ok(Figures { dense, chains: measured, measured: true });
    }
    let estimate = |way: &Way| {
        way.estimate(at, objective).map_err(|why| Error::Unsupported {
            what: format!("the objective {objective} for {} vectors", advice.options.batches[at]),
            why: why.to_owned(),
        })
    };
    let dense = estimate(&advice.dense)?;
    let chains = match objective {
        // A chain may be too short to have an estimate where the dense matrix has one.
        Objective::Energy => {
            let chains: Vec<Option<f64>> = advice.chains.iter().map(|way| estimate(way).ok()).collect();
            if chains.iter().all(Option::is_none) {
                estimate(&advice.chains[0])?;
            }
            chains
        }
        Objective::Time | Objective::Memory => {
            advice.chains.iter().map(|way| estimate(way).map(Some)).collect::<Result<_>>()?
        }
    };
    Ok(Figures { dense, chains, measured: false })
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
        let sentence = "No chain has figures for all numbers of vectors.".into();
        return Verdict { batch, measured, sentence, ..Verdict::pending() };
    };
    let parameters = |chain: usize| advice.chains[chain].chain.parameters();
    let stay_dense = gain < WORTH;
    let richest = known().filter(|(_, gain)| *gain >= WORTH).max_by_key(|(chain, _)| parameters(*chain));
    let way = &advice.chains[best];
    let finding = Finding {
        batch,
        best: way,
        amounts: figures.and_then(|figures| Some((figures.chains[best]?, figures.dense))),
        gain,
        stay_dense,
        measured,
        richest: richest.filter(|(chain, _)| *chain != best).map(|(chain, gain)| (&advice.chains[chain], gain)),
        losses: losses(best),
        why: at.filter(|_| stay_dense && !measured).and_then(|at| why_little(advice, way, at)),
    };
    let sentence = finding.sentence(advice.options.objective);
    let (best, richest) = (Some(best), richest.map(|(chain, _)| chain));
    Verdict { batch, best, gain, stay_dense, richest, measured, sentence }
}
