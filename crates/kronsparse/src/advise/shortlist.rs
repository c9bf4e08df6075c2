//! From thousands of chains to the few that are shown: the best for each number of vectors, for all together and of every
//! family, for small and for larger shares of the parameters; and none that another one beats in parameters, ranks and time at
//! once. All of this by the estimates that are shown.

use rayon::prelude::*;

use super::estimator::Estimator;
use super::explore;
use super::ranks::{Split, rank_bound, splits};
use super::target::Case;
use super::{Candidate, Family, Objective, Options, Target};
use crate::{ChainPattern, Result};

/// So many of every size are kept for each number of vectors, and for all together, beside one of every family.
const BEST: usize = 2;
/// A budget wider than this is cut into sizes, so that small chains do not hide larger ones, which can do more.
const WIDE: f64 = 1.5;
const SIZES: usize = 3;

/// The chains to show, with what they cost.
pub(super) fn pick(
    space: &[ChainPattern],
    cases: &[Case],
    options: &Options,
    target: &Target,
) -> Result<Vec<Candidate>> {
    let mut estimator = Estimator::new(target, cases, options.objective);
    let groups = by_size(space);
    let mut picked = vec![false; space.len()];
    let all: Vec<usize> = (0..cases.len()).collect();
    for group in &groups {
        // Where there is one case only, the best for all of them is the best for it.
        let alone = all.iter().map(std::slice::from_ref).filter(|_| all.len() > 1);
        for wanted in alone.chain([&all[..]]) {
            for place in explore::best(&mut estimator, space, group, wanted, BEST)? {
                picked[place] = true;
            }
        }
    }
    let families = space.par_iter().map(|chain| Ok(Family::of(chain, &splits(chain)?))).collect::<Result<Vec<_>>>()?;
    for case in &all {
        let least = space.par_iter().map(|chain| Ok(estimator.least(*case, chain)?.0));
        let least = least.collect::<Result<Vec<f64>>>()?;
        for group in &groups {
            for family in Family::CHAINS {
                let of_family = group.iter().filter(|&&place| families[place] == family);
                let best = of_family.min_by(|&&x, &&y| least[x].total_cmp(&least[y]));
                best.into_iter().for_each(|&place| picked[place] = true);
            }
        }
    }
    let chains: Vec<ChainPattern> =
        space.iter().zip(picked).filter(|(_, picked)| *picked).map(|(chain, _)| chain.clone()).collect();
    let costs = estimator.costs(&chains)?;
    chains.into_iter().zip(costs).map(|(chain, costs)| Candidate::new(chain, costs)).collect()
}

/// The places of the chains, which stand in the order of their parameters, by the part of the budget that they are in.
fn by_size(space: &[ChainPattern]) -> Vec<Vec<usize>> {
    let fewest = space.first().map_or(1, ChainPattern::parameters) as f64;
    let most = space.last().map_or(1, ChainPattern::parameters) as f64;
    let mut groups = vec![Vec::new(); if most / fewest > WIDE { SIZES } else { 1 }];
    for (place, chain) in space.iter().enumerate() {
        let share = (chain.parameters() as f64 / fewest).ln() / (most / fewest).ln();
        let size = (share * SIZES as f64) as usize;
        let last = groups.len() - 1;
        groups[size.min(last)].push(place);
    }
    groups
}

/// Drops the ways that another one beats in parameters, ranks and estimated time at once, and puts the rest in order: the least
/// geometric mean of the estimates first, of equal ones the one with fewer factors.
pub(super) fn undominated(ways: Vec<Candidate>, objective: Objective) -> Vec<Candidate> {
    let kept = keep(&ways.iter().map(Compared::of_way).collect::<Vec<_>>());
    let mut ways: Vec<Candidate> = ways.into_iter().zip(kept).filter_map(|(way, kept)| kept.then_some(way)).collect();
    // Where a figure is missing, such as energy of short calls, time puts all of them in order: units are not mixed.
    let figures = |way: &Candidate| (0..way.costs.len()).all(|at| way.estimate(at, objective).is_ok());
    let objective = if ways.iter().all(figures) { objective } else { Objective::Time };
    let cost = |way: &Candidate, at: usize| way.estimate(at, objective).unwrap_or(f64::INFINITY);
    let mean = |way: &Candidate| (0..way.costs.len()).map(|at| cost(way, at).ln()).sum::<f64>();
    ways.sort_by(|x, y| mean(x).total_cmp(&mean(y)).then(x.splits.len().cmp(&y.splits.len())));
    ways
}

/// What decides which of two chains of one shape is dropped.
struct Compared<'a> {
    chain: &'a ChainPattern,
    family: Family,
    splits: &'a [Split],
    times: Vec<f64>,
}

impl<'a> Compared<'a> {
    fn of_way(way: &'a Candidate) -> Compared<'a> {
        let times = way.costs.iter().map(|cost| cost.seconds).collect();
        Compared { chain: &way.chain, family: way.family, splits: &way.splits, times }
    }

    /// Whether this chain makes `other` superfluous: no more parameters, no more time for any number of vectors, and in all blocks
    /// that this one cuts, `other` cannot have a higher rank than this one allows (so that every matrix that `other` can be
    /// this one can be, too). Factors that see a part of the inputs are not comparable with anything.
    fn beats(&self, other: &Compared<'_>) -> bool {
        let (rows, cols) = (other.chain.rows(), other.chain.cols());
        let covers = |split: &Split| rank_bound(other.splits, rows, cols, split.a, split.d) <= split.rank;
        self.family != Family::Partial
            && other.family != Family::Partial
            && self.chain.parameters() <= other.chain.parameters()
            && self.times.iter().zip(&other.times).all(|(mine, theirs)| mine <= theirs)
            && self.splits.iter().all(covers)
    }
}

/// Which are kept. Of two that make each other superfluous, the first.
fn keep(all: &[Compared<'_>]) -> Vec<bool> {
    let superfluous = |at: usize| {
        let beaten = |by: usize| by != at && all[by].beats(&all[at]) && (by < at || !all[at].beats(&all[by]));
        (0..all.len()).any(beaten)
    };
    (0..all.len()).into_par_iter().map(|at| !superfluous(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChainSpec;

    fn chain(text: &str) -> ChainPattern {
        match text.parse::<ChainSpec>().unwrap() {
            ChainSpec::Explicit(chain) => chain,
            other => panic!("{other} is no explicit chain"),
        }
    }

    /// Of chains with their times, those that are kept.
    fn kept(all: &[(&str, &[f64])]) -> Vec<String> {
        let chains: Vec<(ChainPattern, Vec<Split>)> = all
            .iter()
            .map(|(text, _)| {
                let chain = chain(text);
                let splits = splits(&chain).unwrap();
                (chain, splits)
            })
            .collect();
        let compared: Vec<Compared<'_>> = chains
            .iter()
            .zip(all)
            .map(|((chain, splits), (_, times))| Compared {
                chain,
                splits,
                family: Family::of(chain, splits),
                times: times.to_vec(),
            })
            .collect();
        let flags = keep(&compared);
        chains.iter().zip(flags).filter(|(_, kept)| *kept).map(|((chain, _), _)| chain.to_string()).collect()
    }

    #[test]
    fn a_special_case_with_as_many_parameters_and_no_less_time_is_dropped() {
        // Radix 4 and radix 2: as many parameters, and what radix 2 can be, radix 4 can be too.
        let (four, two) =
            ("(1,4,4,16)(4,4,4,4)(16,4,4,1)", "(1,2,2,32)(2,2,2,16)(4,2,2,8)(8,2,2,4)(16,2,2,2)(32,2,2,1)");
        assert_eq!(chain(four).parameters(), chain(two).parameters());
        assert_eq!(kept(&[(four, &[1.0]), (two, &[1.0])]), [four]);
        assert_eq!(kept(&[(two, &[1.0]), (four, &[1.0])]), [four]);
        assert_eq!(kept(&[(two, &[1.0, 2.0]), (four, &[1.0, 2.1])]).len(), 2, "faster somewhere");
        assert_eq!(kept(&[(four, &[1.0, 2.0]), (four, &[1.0, 2.0])]), [four], "the same twice");
    }

    #[test]
    fn fewer_parameters_or_more_rank_somewhere_stay() {
        let (monarch, low) = ("(1,8,8,8)(8,8,8,1)", "(1,64,1,1)(1,1,64,1)");
        assert_eq!(kept(&[(monarch, &[1.0]), (low, &[2.0])]).len(), 2, "fewer parameters");
        // Rank 8 of the whole against rank 1 of blocks of 8 × 8, as many parameters: neither holds the other.
        assert_eq!(kept(&[(monarch, &[1.0]), ("(1,64,8,1)(1,8,64,1)", &[2.0])]).len(), 2);
        assert_eq!(kept(&[("(1,64,4,1)(1,4,64,1)", &[1.0]), ("(1,64,3,1)(1,3,64,1)", &[1.0])]).len(), 2);
        // A cut the other way is another set of matrices.
        assert_eq!(kept(&[("(1,4,16,16)(16,16,4,1)", &[1.0]), ("(1,16,4,4)(4,4,16,1)", &[2.0])]).len(), 2);
    }

    #[test]
    fn partial_factors_are_compared_with_nothing() {
        let (blocks, monarch) = ("(4,16,16,1)", "(1,8,8,8)(8,8,8,1)");
        assert_eq!(kept(&[(blocks, &[1.0]), (monarch, &[9.0])]).len(), 2);
    }
}
