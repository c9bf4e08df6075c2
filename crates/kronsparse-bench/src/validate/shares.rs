//! In how many problems the planner was right: a function of the rows alone.

use std::collections::BTreeMap;
use std::fmt;

use super::Row;
use crate::{Cache, format};

/// Cases that are named of each share.
const NAMED: usize = 4;
/// Dense and chain that differ by less are equally fast.
const TIE: f64 = 1.05;

/// A problem in which something was not right, or just so.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// How far off: a ratio, 1 where nothing is; infinite where there is no time.
    pub ratio: f64,
    /// The problem, and what was picked.
    pub text: String,
}

/// How often something was right.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// What.
    pub what: &'static str,
    /// The share that is asked for.
    pub bar: f64,
    /// Problems in which it was right.
    pub right: usize,
    /// Problems that were counted.
    pub of: usize,
    /// The worst first, all that were counted.
    pub cases: Vec<Case>,
}

/// The five shares of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Problems whose rows are all there.
    pub problems: usize,
    /// See [`Evaluation::of`].
    pub shares: Vec<Share>,
    /// Problems measured with cold caches without a verdict, since dense, or everything else, has no time or no prediction there.
    pub without_verdict: usize,
    /// Problems measured with warm caches: predictions are of cold ones, and say nothing of them.
    pub warm: usize,
    /// Problems that were not measured to their ends, and why.
    pub unmeasured: Vec<String>,
}

/// The rows of each problem that has all of them: the last ones, since a run that was cut off may have left some before.
pub(super) fn whole(rows: &[Row]) -> BTreeMap<usize, Vec<&Row>> {
    let mut problems: BTreeMap<usize, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        problems.entry(row.number).or_default().push(row);
    }
    problems.retain(|_, rows| {
        let wanted = rows.last().map_or(0, |row| row.rows);
        let enough = wanted > 0 && rows.len() >= wanted;
        if enough {
            rows.drain(..rows.len() - wanted);
        }
        enough
    });
    problems
}

/// The problems without a complete set of rows that say why, each once.
fn unmeasured(rows: &[Row]) -> Vec<String> {
    let complete = whole(rows);
    let failed = rows.iter().filter(|row| row.rows == 0 && !complete.contains_key(&row.number));
    let texts: BTreeMap<usize, String> =
        failed.map(|row| (row.number, format!("{}: {}", row.problem(), row.reason))).collect();
    texts.into_values().collect()
}

impl Evaluation {
    /// Counts, of every problem whose rows are complete: whether the untuned way takes at most 1.1 times the time of the fastest of all
    /// ways that were measured, dense and tuned ones among them, and at most 1.5 times; the tuned way at most 1.03 times; whether the
    /// untuned way's prediction is within a quarter of its time; and whether the lesser of the predictions of dense and of the best other
    /// way belongs to the faster of the two, or both are equally fast. The last two of cold caches alone, which predictions are of. A
    /// way that was picked and has no time is wrong.
    pub fn of(rows: &[Row]) -> Evaluation {
        let problems = whole(rows);
        let mut shares = [
            ("untuned within 10 % of the best", 0.90),
            ("untuned within 50 % of the best", 1.00),
            ("tuned within 3 % of the best", 0.98),
            ("predicted within ±25 %", 0.80),
            ("chain or dense right", 0.95),
        ]
        .map(|(what, bar)| Share { what, bar, right: 0, of: 0, cases: Vec::new() });
        let (mut without_verdict, mut warm) = (0, 0);
        for rows in problems.values() {
            let time = |row: &&&Row| row.time_s;
            let is_warm = rows[0].cache == Cache::Warm;
            warm += usize::from(is_warm);
            let Some(best) = rows.iter().filter(|row| row.time_s.is_some()).min_by(by(time)) else {
                for share in &mut shares[..if is_warm { 3 } else { 4 }] {
                    share.count(false, f64::INFINITY, format!("{}: {}", rows[0].problem(), rows[0].reason));
                }
                without_verdict += usize::from(!is_warm);
                continue;
            };
            let least = best.time_s.unwrap_or(f64::INFINITY);
            for (at, tuned, within) in [(0, false, 1.1), (1, false, 1.5), (2, true, 1.03)] {
                let picked = rows.iter().find(|row| if tuned { row.tuned } else { row.untuned });
                let ratio = picked.and_then(|row| row.time_s).map_or(f64::INFINITY, |seconds| seconds / least);
                shares[at].count(ratio <= within, ratio, compared(&rows[0].problem(), picked.copied(), best));
            }
            if is_warm {
                continue;
            }
            let untuned = rows.iter().find(|row| row.untuned);
            let predicted = untuned.and_then(|row| Some(row.predicted_s? / row.time_s?)).unwrap_or(f64::INFINITY);
            let text = untuned.map_or_else(|| "nothing".into(), |row| described(row));
            let right = (0.75..=1.25).contains(&predicted);
            shares[3].count(right, predicted.max(1.0 / predicted), format!("{}: {text}", rows[0].problem()));
            match verdict(rows) {
                Some((right, ratio, text)) => shares[4].count(right, ratio, format!("{}: {text}", rows[0].problem())),
                None => without_verdict += 1,
            }
        }
        for share in &mut shares {
            share.cases.sort_by(|p, q| q.ratio.total_cmp(&p.ratio));
        }
        Evaluation {
            problems: problems.len(),
            shares: shares.into(),
            without_verdict,
            warm,
            unmeasured: unmeasured(rows),
        }
    }

    /// Whether every share reaches its bar; one of nothing does not.
    pub fn is_met(&self) -> bool {
        self.shares.iter().all(|share| share.is_met() == Some(true))
    }
}

/// Orders rows by a figure that they all have.
fn by<'a>(figure: impl Fn(&&&'a Row) -> Option<f64>) -> impl FnMut(&&&'a Row, &&&'a Row) -> std::cmp::Ordering {
    move |p, q| figure(p).unwrap_or(f64::INFINITY).total_cmp(&figure(q).unwrap_or(f64::INFINITY))
}

/// Whether what is predicted to be faster, dense or something else, is; how much time the wrong one costs; both in words.
fn verdict(rows: &[&Row]) -> Option<(bool, f64, String)> {
    let least = |dense: bool, figure: fn(&Row) -> Option<f64>| {
        let all = rows.iter().filter(|row| row.dense == dense).filter_map(|row| figure(row));
        all.reduce(f64::min)
    };
    let figures = |figure| Some([least(true, figure)?, least(false, figure)?]);
    let ([dense, chain], [expected_dense, expected_chain]) =
        (figures(|row| row.time_s)?, figures(|row| row.predicted_s)?);
    let picked_dense = expected_dense < expected_chain;
    let ratio = if picked_dense { dense / chain } else { chain / dense };
    let text = format!(
        "dense {}, predicted {}; otherwise {}, predicted {}",
        format::seconds(dense),
        format::seconds(expected_dense),
        format::seconds(chain),
        format::seconds(expected_chain)
    );
    Some((ratio <= TIE, ratio.max(1.0), text))
}

fn described(row: &Row) -> String {
    let time = row.time_s.map_or_else(|| "no time".into(), format::seconds);
    let predicted =
        row.predicted_s.map_or_else(|| "not predicted".into(), |time| format!("predicted {}", format::seconds(time)));
    let mut text = format!("{} {time}, {predicted}", row.way);
    if !row.reason.is_empty() {
        text += &format!(" ({})", row.reason);
    }
    text
}

fn compared(problem: &str, picked: Option<&Row>, best: &Row) -> String {
    let picked = picked.map_or_else(|| "nothing".into(), described);
    format!("{problem}: {picked}; the best is {}", described(best))
}

impl Share {
    fn count(&mut self, right: bool, ratio: f64, text: String) {
        self.of += 1;
        self.right += usize::from(right);
        self.cases.push(Case { ratio, text });
    }

    /// The share, where something was counted.
    pub fn share(&self) -> Option<f64> {
        (self.of > 0).then(|| self.right as f64 / self.of as f64)
    }

    /// Whether it reaches the bar; not known where nothing was counted.
    pub fn is_met(&self) -> Option<bool> {
        self.share().map(|share| share >= self.bar)
    }
}

impl fmt::Display for Evaluation {
    /// The shares against the bars, with the worst cases of each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} problems", self.problems)?;
        for share in &self.shares {
            let Share { what, bar, right, of, cases } = share;
            let bar = 100.0 * bar;
            match (share.share(), share.is_met()) {
                (Some(share), Some(met)) => {
                    let (percent, met) = (100.0 * share, if met { "met" } else { "missed" });
                    writeln!(f, "{what:<32} {right:>4} of {of:<4} {percent:>5.1} %, bar {bar:.0} %: {met}")?;
                }
                _ => writeln!(f, "{what:<32} nothing was counted, bar {bar:.0} %")?,
            }
            for Case { ratio, text } in cases.iter().filter(|case| case.ratio > 1.0).take(NAMED) {
                writeln!(f, "    {ratio:>6.2}  {text}")?;
            }
        }
        if self.without_verdict > 0 {
            let count = self.without_verdict;
            writeln!(f, "no verdict on {count} problems: dense, or everything else, has no time or no prediction")?;
        }
        if self.warm > 0 {
            writeln!(f, "predictions are of cold caches: those of {} problems with warm ones do not count", self.warm)?;
        }
        if !self.unmeasured.is_empty() {
            writeln!(f, "{} problems were not measured to their ends, and do not count", self.unmeasured.len())?;
            self.unmeasured.iter().take(NAMED).try_for_each(|text| writeln!(f, "    {text}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::{Device, Settings};

    /// A problem with ways: name, predicted and measured microseconds.
    fn problem(number: usize, ways: &[(&str, f64, f64)], untuned: usize, tuned: usize) -> Vec<Row> {
        let case = Settings::new(Device::Cpu, 7).problem(number);
        let row = |(at, &(name, predicted, measured)): (usize, &(&str, f64, f64))| Row {
            rows: ways.len(),
            way: name.into(),
            untuned: at == untuned,
            tuned: at == tuned,
            dense: name == "dense",
            predicted_s: (predicted > 0.0).then_some(predicted * 1e-6),
            time_s: (measured > 0.0).then_some(measured * 1e-6),
            ..Row::blank(&case, number, 7, "a machine")
        };
        ways.iter().enumerate().map(row).collect()
    }

    fn rights(rows: &[Row]) -> Vec<(usize, usize)> {
        Evaluation::of(rows).shares.iter().map(|share| (share.right, share.of)).collect()
    }

    #[test]
    fn what_is_right_counts_and_what_is_wrong_does_not() {
        let good = problem(0, &[("a", 10.0, 10.0), ("b", 12.0, 11.0), ("dense", 30.0, 29.0)], 0, 0);
        assert_eq!(rights(&good), [(1, 1); 5]);
        assert!(Evaluation::of(&good).is_met());
        // The second way is 9 % slower: near enough untuned, too far tuned.
        let close = problem(0, &[("a", 11.0, 11.0), ("b", 12.0, 10.1), ("dense", 30.0, 29.0)], 0, 0);
        assert_eq!(rights(&close), [(1, 1), (1, 1), (0, 1), (1, 1), (1, 1)]);
        // A fifth slower, and more than half.
        let slow = problem(0, &[("a", 12.0, 12.0), ("b", 13.0, 10.0)], 0, 1);
        assert_eq!(rights(&slow)[..3], [(0, 1), (1, 1), (1, 1)]);
        let slower = problem(0, &[("a", 16.0, 16.0), ("b", 17.0, 10.0)], 0, 1);
        assert_eq!(rights(&slower)[..3], [(0, 1), (0, 1), (1, 1)]);
        let all: Vec<Row> =
            [problem(0, &[("a", 10.0, 10.0)], 0, 0), problem(1, &[("a", 12.0, 12.0), ("b", 9.0, 10.0)], 0, 0)].concat();
        assert_eq!(rights(&all)[..3], [(1, 2), (2, 2), (1, 2)]);
        assert!(!Evaluation::of(&all).is_met());
    }

    #[test]
    fn predictions_may_be_off_by_a_quarter() {
        for (predicted, right) in [(7.4, 0), (7.6, 1), (12.4, 1), (12.6, 0), (0.0, 0)] {
            assert_eq!(rights(&problem(0, &[("a", predicted, 10.0)], 0, 0))[3], (right, 1), "{predicted}");
        }
        // The other ways' predictions do not matter.
        assert_eq!(rights(&problem(0, &[("a", 10.0, 10.0), ("b", 99.0, 11.0)], 0, 0))[3], (1, 1));
    }

    #[test]
    fn the_verdict_is_about_the_best_of_both_sides_and_ties_are_right() {
        let of = |ways: &[(&str, f64, f64)]| rights(&problem(0, ways, 0, 0))[4];
        assert_eq!(of(&[("a", 10.0, 10.0), ("dense", 12.0, 8.0)]), (0, 1));
        assert_eq!(of(&[("a", 10.0, 10.0), ("dense", 12.0, 9.6)]), (1, 1), "a tie");
        assert_eq!(of(&[("a", 10.0, 10.0), ("dense", 9.0, 12.0)]), (0, 1));
        assert_eq!(of(&[("a", 10.0, 13.0), ("b", 11.0, 8.0), ("dense", 12.0, 9.0)]), (1, 1), "another way is faster");
        // Without a time of dense there is no verdict.
        assert_eq!(of(&[("a", 10.0, 10.0), ("dense", 12.0, 0.0)]), (0, 0));
        assert_eq!(Evaluation::of(&problem(0, &[("a", 10.0, 10.0)], 0, 0)).without_verdict, 1);
        assert_eq!(Evaluation::of(&problem(0, &[("a", 10.0, 0.0)], 0, 0)).without_verdict, 1);
    }

    #[test]
    fn a_share_of_nothing_is_neither_met_nor_missed() {
        let none = Evaluation::of(&[]);
        assert!(!none.is_met() && none.shares.iter().all(|share| share.is_met().is_none() && share.share().is_none()));
        assert_eq!(none.to_string().matches("nothing was counted, bar ").count(), 5, "{none}");
        // Without dense there is no verdict, and so no word that it is good.
        let without = Evaluation::of(&problem(0, &[("a", 10.0, 10.0)], 0, 0));
        assert!(!without.is_met() && without.shares[4].is_met().is_none());
        let text = without.to_string();
        assert!(text.contains("chain or dense right             nothing was counted, bar 95 %\n"), "{text}");
        assert!(text.contains("no verdict on 1 problems") && text.matches(": met").count() == 4, "{text}");
    }

    #[test]
    fn predictions_are_not_held_against_warm_caches() {
        let mut rows = problem(0, &[("a", 90.0, 10.0), ("dense", 5.0, 29.0)], 0, 0);
        assert_eq!(rights(&rows)[3..], [(0, 1), (0, 1)]);
        rows.iter_mut().for_each(|row| row.cache = Cache::Warm);
        assert_eq!(rights(&rows), [(1, 1), (1, 1), (1, 1), (0, 0), (0, 0)]);
        let text = Evaluation::of(&rows).to_string();
        assert!(text.contains("those of 1 problems with warm ones do not count"), "{text}");
        let failed = problem(0, &[("a", 90.0, 0.0)], 0, 0);
        let failed: Vec<Row> = failed.into_iter().map(|row| Row { cache: Cache::Warm, ..row }).collect();
        assert_eq!(rights(&failed), [(0, 1), (0, 1), (0, 1), (0, 0), (0, 0)]);
    }

    #[test]
    fn the_best_is_that_of_all_ways_tuned_and_dense_among_them() {
        // Untuned 10, the tuned way 9.5, dense 8: 25 % and 19 % slower than the best.
        let rows = problem(0, &[("a", 10.0, 10.0), ("b", 11.0, 9.5), ("dense", 12.0, 8.0)], 0, 1);
        let shares = Evaluation::of(&rows).shares;
        assert_eq!([0, 1, 2].map(|at| shares[at].cases[0].ratio), [1.25, 1.25, 9.5 / 8.0]);
        assert_eq!([0, 1, 2].map(|at| shares[at].right), [0, 1, 0]);
    }

    #[test]
    fn what_was_picked_and_failed_is_wrong() {
        assert_eq!(
            rights(&problem(0, &[("a", 5.0, 0.0), ("b", 9.0, 10.0)], 0, 1))[..4],
            [(0, 1), (0, 1), (1, 1), (0, 1)]
        );
        assert_eq!(rights(&problem(0, &[("a", 5.0, 0.0)], 0, 0))[..4], [(0, 1); 4]);
        let text = Evaluation::of(&problem(0, &[("a", 5.0, 0.0), ("b", 9.0, 10.0)], 0, 1)).to_string();
        assert!(text.contains("a no time, predicted 5.00 µs; the best is b 10.0 µs"), "{text}");
    }

    #[test]
    fn a_problem_that_was_cut_off_does_not_count_and_its_repetition_does() {
        let rows = problem(3, &[("a", 20.0, 10.0), ("b", 9.0, 10.0)], 0, 1);
        assert_eq!(Evaluation::of(&rows[..1]).problems, 0);
        let again = [&rows[..1], &problem(4, &[("a", 10.0, 10.0)], 0, 0)[..], &rows[..]].concat();
        let found = Evaluation::of(&again);
        assert_eq!((found.problems, found.shares[3].right, found.shares[3].of), (2, 1, 2));
        assert_eq!(whole(&again)[&3].len(), 2);
    }
}
