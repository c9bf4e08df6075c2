//! In how many problems the planner was right: a function of the rows alone.

use std::collections::BTreeMap;
use std::fmt;

use super::Row;
use crate::format;

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
    /// Problems without a verdict, since dense has no time or no prediction there.
    pub without_dense: usize,
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

impl Evaluation {
    /// Counts, of every problem whose rows are complete: whether the untuned way takes at most 1.1 times the fastest one's time, and
    /// at most 1.5 times; the tuned way at most 1.03 times; whether the untuned way's prediction is within a quarter of its time; and
    /// whether the lesser of the predictions of dense and of the best other way belongs to the faster of the two, or both are equally
    /// fast. A way that was picked and has no time is wrong.
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
        let mut without_dense = 0;
        for rows in problems.values() {
            let time = |row: &&&Row| row.median_s;
            let Some(best) = rows.iter().filter(|row| row.median_s.is_some()).min_by(by(time)) else {
                for share in &mut shares[..4] {
                    share.count(false, f64::INFINITY, format!("{}: {}", rows[0].problem(), rows[0].reason));
                }
                continue;
            };
            let least = best.median_s.unwrap_or(f64::INFINITY);
            for (at, tuned, within) in [(0, false, 1.1), (1, false, 1.5), (2, true, 1.03)] {
                let picked = rows.iter().find(|row| if tuned { row.tuned } else { row.untuned });
                let ratio = picked.and_then(|row| row.median_s).map_or(f64::INFINITY, |seconds| seconds / least);
                shares[at].count(ratio <= within, ratio, compared(&rows[0].problem(), picked.copied(), best));
            }
            let untuned = rows.iter().find(|row| row.untuned);
            let predicted = untuned.and_then(|row| Some(row.predicted_s? / row.median_s?)).unwrap_or(f64::INFINITY);
            let text = untuned.map_or_else(|| "nothing".into(), |row| described(row));
            let right = (0.75..=1.25).contains(&predicted);
            shares[3].count(right, predicted.max(1.0 / predicted), format!("{}: {text}", rows[0].problem()));
            match verdict(rows) {
                Some((right, ratio, text)) => shares[4].count(right, ratio, format!("{}: {text}", rows[0].problem())),
                None => without_dense += 1,
            }
        }
        for share in &mut shares {
            share.cases.sort_by(|p, q| q.ratio.total_cmp(&p.ratio));
        }
        Evaluation { problems: problems.len(), shares: shares.into(), without_dense }
    }

    /// Whether every share reaches its bar.
    pub fn is_met(&self) -> bool {
        self.shares.iter().all(Share::is_met)
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
        (figures(|row| row.median_s)?, figures(|row| row.predicted_s)?);
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
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "no time".into(), format::seconds);
    let mut text = format!("{} {}, predicted {}", row.way, time(row.median_s), time(row.predicted_s));
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

    /// The share; 1 where nothing was counted.
    pub fn share(&self) -> f64 {
        if self.of == 0 { 1.0 } else { self.right as f64 / self.of as f64 }
    }

    /// Whether it reaches the bar.
    pub fn is_met(&self) -> bool {
        self.share() >= self.bar
    }
}

impl fmt::Display for Evaluation {
    /// The shares against the bars, with the worst cases of each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} problems", self.problems)?;
        for share in &self.shares {
            let (Share { what, bar, right, of, cases }, met) = (share, if share.is_met() { "met" } else { "missed" });
            let percent = [share.share(), *bar].map(|share| 100.0 * share);
            writeln!(f, "{what:<32} {right:>4} of {of:<4} {:>5.1} %, bar {:.0} %: {met}", percent[0], percent[1])?;
            for Case { ratio, text } in cases.iter().filter(|case| case.ratio > 1.0).take(NAMED) {
                writeln!(f, "    {ratio:>6.2}  {text}")?;
            }
        }
        if self.without_dense > 0 {
            writeln!(f, "no verdict on {} problems: dense has no time or no prediction", self.without_dense)?;
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
            median_s: (measured > 0.0).then_some(measured * 1e-6),
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
        assert_eq!(Evaluation::of(&problem(0, &[("a", 10.0, 10.0)], 0, 0)).without_dense, 1);
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
