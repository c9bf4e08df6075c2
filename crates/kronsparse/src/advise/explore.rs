//! The best of many chains: a search by bounds, in which a chain is planned only where it could be the best one.
//!
//! Every chain has a cost that it cannot, or hardly, fall below ([`Estimator::least`]). The chain with the least such bound is planned,
//! by which its bound rises to its estimate and those of other chains with the same parts rise too, until no bound is below the
//! best estimate. Its tests compare it with planning whole spaces.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::estimator::Estimator;
use crate::{ChainPattern, Result};

/// Bounds that are no further below the best estimate are let be.
const CLOSE: f64 = 0.97;
/// So many parts are planned in one search at most, for each case: some seconds, where all bounds are close to each other.
const PARTS: usize = 48;

/// A chain by its place, with what it costs at least: the logarithm, summed over the cases.
#[derive(PartialEq)]
struct Bound {
    least: f64,
    /// Of equal ones the shorter chain first.
    factors: usize,
    place: usize,
}

impl Eq for Bound {}

impl Ord for Bound {
    /// The greatest is the one to look at next: the least bound.
    fn cmp(&self, other: &Bound) -> Ordering {
        let by_bound = other.least.total_cmp(&self.least);
        by_bound.then(other.factors.cmp(&self.factors)).then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Bound) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The places of up to `count` of the best among the chains with `places`, the best first: the least geometric mean of the costs
/// over the cases with these numbers.
pub(super) fn best(
    estimator: &mut Estimator<'_>,
    chains: &[ChainPattern],
    places: &[usize],
    cases: &[usize],
    count: usize,
) -> Result<Vec<usize>> {
    let bound = |estimator: &Estimator<'_>, place: usize| -> Result<(Bound, bool)> {
        let (mut least, mut planned) = (0.0, true);
        for &case in cases {
            let (cost, is_planned) = estimator.least(case, &chains[place])?;
            least += cost.ln();
            planned &= is_planned;
        }
        Ok((Bound { least, factors: chains[place].patterns().len(), place }, planned))
    };
    let bounds = places.par_iter().map(|&place| Ok(bound(estimator, place)?.0));
    let mut open: BinaryHeap<Bound> = bounds.collect::<Result<Vec<_>>>()?.into();
    let slack = cases.len() as f64 * CLOSE.ln();
    let mut found: Vec<Bound> = Vec::new();
    let mut left = PARTS * cases.len();
    while let Some(before) = open.pop() {
        let least = found.iter().map(|bound| bound.least).fold(f64::INFINITY, f64::min);
        if found.len() >= count && before.least >= least + slack {
            break;
        }
        let (now, is_planned) = bound(estimator, before.place)?;
        if is_planned {
            found.push(now);
        } else if now.least > before.least {
            open.push(now);
        } else if left > 0 || found.is_empty() {
            let parts = estimator.open(cases, &chains[now.place]);
            left = left.saturating_sub(parts.len());
            estimator.plan(parts)?;
            open.push(bound(estimator, now.place)?.0);
        }
    }
    // `Bound` calls the best the greatest.
    found.sort_by(|x, y| y.cmp(x));
    found.truncate(count);
    Ok(found.into_iter().map(|bound| bound.place).collect())
}

#[cfg(test)]
mod tests;
