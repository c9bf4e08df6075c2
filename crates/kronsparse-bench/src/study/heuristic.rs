//! The article's heuristic: the larger (b + c)/(b·c), the more there is to gain by not rewriting memory. How well it predicts.
//!
//! permute-bmm rewrites `n·a·d·(b + c)` numbers and multiplies `n·a·d·b·c` times, so that the ratio of the two is (b + c)/(b·c). The article
//! says that this predicts when the fused kernel outperforms the others. A prediction needs a threshold, and the one used here is the one
//! that is right most often on the record itself: *the prediction is right in a cell if the ratio is at least the threshold and ours is faster than
//! all others, or if it is below and ours is not*. Beside it stand two figures that need no threshold, and the share that somebody reaches who
//! always says the same.

use kronsparse::Pattern;

use super::analysis::Point;

/// (b + c)/(b·c).
pub fn ratio(pattern: &Pattern) -> f64 {
    (pattern.b() + pattern.c()) as f64 / (pattern.b() as f64 * pattern.c() as f64)
}

/// How well the ratio predicts.
#[derive(Clone, Debug, PartialEq)]
pub struct Heuristic {
    /// Cells of single patterns with a speed-up.
    pub cells: usize,
    /// Those in which ours is faster than all others.
    pub wins: usize,
    /// The threshold that is right most often; above all ratios if it is best to predict no win at all.
    pub threshold: f64,
    /// Share of the cells in which the prediction by the threshold is right.
    pub right: f64,
    /// Share in which always predicting the more frequent outcome is right.
    pub always: f64,
    /// How often, of a cell that ours wins and one that it does not, the first has the larger ratio; ties count as half. ½ is chance. `None` if
    /// one of the two kinds is missing.
    pub concordance: Option<f64>,
    /// Rank correlation of ratio and speed-up (Spearman), in [-1, 1]. `None` if one of the two is the same everywhere.
    pub correlation: Option<f64>,
}

impl Heuristic {
    /// Of the cells of single patterns; `None` without any.
    pub fn of(points: &[Point<'_>]) -> Option<Heuristic> {
        let mut pairs: Vec<(f64, f64)> = points.iter().filter_map(|p| Some((p.ratio?, p.speedup?))).collect();
        if pairs.is_empty() {
            return None;
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let cells = pairs.len();
        let won = |pair: &&(f64, f64)| pair.1 > 1.0;
        let wins = pairs.iter().filter(won).count();
        // From predicting a win everywhere, the threshold is raised ratio by ratio.
        let (mut right, mut best) = (wins, (wins, pairs[0].0));
        let levels: Vec<&[(f64, f64)]> = pairs.chunk_by(|a, b| a.0 == b.0).collect();
        for (at, level) in levels.iter().enumerate() {
            let lost_wins = level.iter().filter(won).count();
            right = right - lost_wins + (level.len() - lost_wins);
            let next = levels.get(at + 1).map_or(f64::INFINITY, |level| level[0].0);
            if right > best.0 {
                best = (right, next);
            }
        }
        Some(Heuristic {
            cells,
            wins,
            threshold: best.1,
            right: best.0 as f64 / cells as f64,
            always: wins.max(cells - wins) as f64 / cells as f64,
            concordance: concordance(&levels),
            correlation: correlation(&pairs),
        })
    }
}

/// Over all pairs of a won and a lost cell; `levels` are cells of one ratio each, in ascending order.
fn concordance(levels: &[&[(f64, f64)]]) -> Option<f64> {
    let (mut lost_below, mut score, mut wins) = (0.0, 0.0, 0.0);
    for level in levels {
        let won = level.iter().filter(|pair| pair.1 > 1.0).count() as f64;
        let lost = level.len() as f64 - won;
        score += won * (lost_below + lost / 2.0);
        (lost_below, wins) = (lost_below + lost, wins + won);
    }
    (wins > 0.0 && lost_below > 0.0).then(|| score / (wins * lost_below))
}

/// Spearman's: the correlation of ranks, where equal values share the mean of theirs.
fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let (x, y) = (ranks(pairs.iter().map(|p| p.0)), ranks(pairs.iter().map(|p| p.1)));
    let mean = (pairs.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| product(&x, &y) / scale)
}

fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<(usize, f64)> = values.enumerate().collect();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut ranks = vec![0.0; sorted.len()];
    let mut before = 0;
    for tied in sorted.chunk_by(|a, b| a.1 == b.1) {
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|(at, _)| ranks[*at] = rank);
        before += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::super::analysis::{points, tests::made_up};
    use super::*;

    #[test]
    fn the_ratio_of_a_pattern() {
        assert_eq!(ratio(&"3,64,32,5".parse().unwrap()), 96.0 / 2048.0);
    }

    #[test]
    fn a_record_with_a_known_answer() {
        // Ratios 0.5, 0.25, 0.25, 0.03; speed-ups 1.5, 2, 0.5, 0.8.
        let record = made_up();
        let found = Heuristic::of(&points(&record)).unwrap();
        assert_eq!((found.cells, found.wins, found.threshold), (4, 2, 0.25));
        assert_eq!((found.right, found.always), (0.75, 0.5));
        // Pairs of win and loss: three are in order, one is a tie.
        assert_eq!(found.concordance, Some(3.5 / 4.0));
        // Ranks of the ratio 4, 2.5, 2.5, 1 and of the speed-up 3, 4, 1, 2: covariance 0.75 twice, variances 4.5 and 5.
        assert!((found.correlation.unwrap() - 1.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn where_all_are_won_there_is_nothing_to_tell_apart() {
        let mut record = made_up();
        record.rows.truncate(6);
        let found = Heuristic::of(&points(&record)).unwrap();
        assert_eq!((found.right, found.always, found.concordance), (1.0, 1.0, None));
        record.rows.truncate(3);
        assert_eq!(Heuristic::of(&points(&record)).unwrap().correlation, None);
        assert_eq!(Heuristic::of(&[]), None);
    }

    #[test]
    fn no_win_is_predicted_where_none_is() {
        let mut record = made_up();
        record.rows.drain(..6);
        let found = Heuristic::of(&points(&record)).unwrap();
        assert_eq!((found.right, found.threshold, found.wins), (1.0, f64::INFINITY, 0));
    }
}
