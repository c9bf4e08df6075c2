//! Which ways of a chain's parts follow each other: lines of parts are measured as wholes, since parts overlap at their ends, so that the
//! sum of what each takes by itself is not what all take.

use std::collections::HashSet;

use crate::Result;
use crate::plan::gpu::{Cut, cuts};

/// Chains of so many factors at most are cut in every way that there is; longer ones by the least sum.
const ALL_CUTS: usize = 4;
/// Two neighbours are exchanged together in lines that take so many seconds at most: what overlaps counts there.
const SHORT: f64 = 50e-6;
/// A line from which others are reached by exchanges takes at most so many times as long as the fastest.
const NEAR: f64 = 1.3;
/// Times that all exchanges of a line are tried.
const SWEEPS: usize = 3;
/// Exchanges go on with what is faster by so much.
const FASTER: f64 = 0.99;

/// A way of some neighbouring factors, and how long it takes by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) cut: Cut,
    pub(crate) seconds: f64,
}

/// Numbers of parts that multiply by all factors, in the order of application.
pub(crate) type Line = Vec<usize>;

/// Lines and their seconds.
pub(crate) struct Lines<'a> {
    factors: usize,
    parts: &'a [Part],
    times: Vec<(Line, f64)>,
    seen: HashSet<Line>,
}

impl<'a> Lines<'a> {
    /// Of a chain of so many factors.
    pub(crate) fn new(factors: usize, parts: &'a [Part]) -> Lines<'a> {
        Lines { factors, parts, times: Vec::new(), seen: HashSet::new() }
    }

    /// Measures lines until no exchange of parts makes the fastest ones faster; all that were measured, the fastest first. `measure` gives
    /// the seconds of a line and is told those of the fastest before.
    pub(crate) fn search(mut self, mut measure: impl FnMut(&Line, f64) -> Result<f64>) -> Result<Vec<(Line, f64)>> {
        for line in self.starts() {
            self.time(line, &mut measure)?;
        }
        let near = NEAR * self.least();
        let mut starts: Vec<(Line, f64)> = self.times.iter().filter(|(_, seconds)| *seconds <= near).cloned().collect();
        starts.sort_by(|p, q| p.1.total_cmp(&q.1));
        for (mut line, mut seconds) in starts {
            for _ in 0..SWEEPS {
                let before = seconds;
                for at in 0..line.len() {
                    for other in self.exchanges(&line, at, seconds) {
                        let found = self.time(other.clone(), &mut measure)?;
                        if found < FASTER * seconds {
                            (line, seconds) = (other, found);
                        }
                    }
                }
                if seconds == before {
                    break;
                }
            }
        }
        self.times.sort_by(|p, q| p.1.total_cmp(&q.1));
        Ok(self.times)
    }

    fn least(&self) -> f64 {
        self.times.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min)
    }

    /// The seconds of a line, measured once.
    fn time(&mut self, line: Line, measure: &mut impl FnMut(&Line, f64) -> Result<f64>) -> Result<f64> {
        if !self.seen.insert(line.clone()) {
            let known = self.times.iter().find(|(other, _)| *other == line);
            return Ok(known.expect("what was seen has a time").1);
        }
        let seconds = measure(&line, self.least())?;
        self.times.push((line, seconds));
        Ok(seconds)
    }

    /// The ways of the same factors, the fastest first.
    fn ways(&self, cut: Cut) -> Vec<usize> {
        let mut ways: Vec<usize> = (0..self.parts.len()).filter(|&part| self.parts[part].cut == cut).collect();
        ways.sort_by(|&p, &q| self.parts[p].seconds.total_cmp(&self.parts[q].seconds));
        ways
    }

    /// The fastest way of each part of the cuts that are worth a measurement.
    fn starts(&self) -> Vec<Line> {
        let line = |cuts: &[Cut]| -> Option<Line> { cuts.iter().map(|&cut| self.ways(cut).first().copied()).collect() };
        let sums =
            cuts(self.factors, |at, count| self.ways(Cut { at, count }).first().map(|&part| self.parts[part].seconds));
        let mut all = vec![sums.0];
        if self.factors <= ALL_CUTS {
            // Bit `k` says whether factors `k` and `k + 1` are apart.
            for apart in 0..1usize << (self.factors - 1) {
                let (mut cuts, mut at) = (Vec::new(), 0);
                for end in 1..=self.factors {
                    if end == self.factors || apart >> (end - 1) & 1 == 1 {
                        cuts.push(Cut { at, count: end - at });
                        at = end;
                    }
                }
                cuts.reverse();
                all.push(cuts);
            }
        } else {
            all.push((0..self.factors).rev().map(|at| Cut { at, count: 1 }).collect());
            all.push(vec![Cut { at: 0, count: self.factors }]);
        }
        all.iter().filter_map(|cuts| line(cuts)).collect()
    }

    /// Lines with another way of the part at `at`; with another one of the next part too, where the line is short.
    fn exchanges(&self, line: &Line, at: usize, seconds: f64) -> Vec<Line> {
        let ways = |at: usize| line.get(at).map(|&part| self.ways(self.parts[part].cut)).unwrap_or_default();
        let mut others = Vec::new();
        for part in ways(at) {
            let one: Line = line.iter().enumerate().map(|(k, &old)| if k == at { part } else { old }).collect();
            if seconds <= SHORT {
                others.extend(ways(at + 1).into_iter().map(|next| {
                    let mut two = one.clone();
                    two[at + 1] = next;
                    two
                }));
            }
            others.push(one);
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(all: &[(usize, usize, f64)]) -> Vec<Part> {
        all.iter().map(|&(at, count, micros)| Part { cut: Cut { at, count }, seconds: micros * 1e-6 }).collect()
    }

    /// What each takes by itself, less what two of a kind overlap by: even numbers are a kind, and odd ones.
    fn overlapped(parts: &[Part], line: &Line, overlap: f64) -> f64 {
        let kinds = line.windows(2).filter(|pair| pair[0] % 2 == pair[1] % 2).count();
        line.iter().map(|&part| parts[part].seconds).sum::<f64>() - overlap * kinds as f64
    }

    #[test]
    fn a_pair_that_is_faster_together_is_found_where_neither_exchange_alone_is() {
        // 0 and 1 multiply by the first factor applied, 2 and 3 by the other: 0 then 3 by themselves, 1 then 3 together.
        let parts = parts(&[(1, 1, 4.0), (1, 1, 4.1), (0, 1, 4.3), (0, 1, 4.0), (0, 2, 9.0)]);
        let mut measured = Vec::new();
        let found = Lines::new(2, &parts)
            .search(|line, _| {
                measured.push(line.clone());
                Ok(overlapped(&parts, line, 1e-6))
            })
            .unwrap();
        assert_eq!(found[0].0, [1, 3]);
        assert!((found[0].1 - 7.1e-6).abs() < 1e-12);
        assert_eq!(found.len(), 5, "{found:?}");
        measured.sort();
        measured.dedup();
        assert_eq!(measured.len(), found.len(), "a line was measured twice");
        assert!(found.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{found:?}");
        assert!(found.iter().any(|(line, _)| *line == [4]), "the kernel for both was left out: {found:?}");
    }

    #[test]
    fn every_line_multiplies_by_every_factor_once() {
        let mut all = Vec::new();
        for count in 1..=3 {
            for at in 0..=6 - count {
                all.extend([(at, count, 3.0 + at as f64 + count as f64), (at, count, 4.0 + count as f64)]);
            }
        }
        let parts = parts(&all);
        for factors in 1..=6 {
            let within: Vec<Part> =
                parts.iter().copied().filter(|part| part.cut.at + part.cut.count <= factors).collect();
            let found = Lines::new(factors, &within).search(|line, _| Ok(overlapped(&within, line, 0.0))).unwrap();
            for (line, _) in &found {
                let mut next = factors;
                for &part in line {
                    let Cut { at, count } = within[part].cut;
                    assert_eq!(at + count, next, "{line:?}");
                    next = at;
                }
                assert_eq!(next, 0, "{line:?}");
            }
            // Without overlap the least sum is the fastest, and is measured first.
            let (best, seconds) = cuts(factors, |at, count| {
                let of = within.iter().filter(|part| part.cut == Cut { at, count });
                of.map(|part| part.seconds).min_by(f64::total_cmp)
            });
            assert!((found[0].1 / seconds - 1.0).abs() < 1e-9, "{best:?}: {seconds} {found:?}");
        }
    }

    #[test]
    fn long_lines_are_exchanged_one_by_one_and_an_error_ends_the_search() {
        let slow = parts(&[(1, 1, 400.0), (1, 1, 410.0), (0, 1, 430.0), (0, 1, 400.0)]);
        let found = Lines::new(2, &slow).search(|line, _| Ok(overlapped(&slow, line, 0.0))).unwrap();
        // The start, and one exchange of either: not both.
        assert_eq!(found.len(), 3, "{found:?}");
        let mut calls = 0;
        let failed = Lines::new(2, &slow).search(|_, _| {
            calls += 1;
            Err(crate::Error::Unsupported { what: "this".into(), why: "it fails".into() })
        });
        assert!(failed.is_err() && calls == 1);
    }

    #[test]
    fn a_part_that_nothing_multiplies_by_alone_is_left_to_kernels_for_several() {
        let parts = parts(&[(1, 1, 4.0), (0, 2, 9.0)]);
        let found = Lines::new(2, &parts).search(|line, _| Ok(overlapped(&parts, line, 0.0))).unwrap();
        assert_eq!(found, [(vec![1], 9e-6)]);
        assert!(Lines::new(2, &parts[..1]).search(|_, _| unreachable!()).unwrap().is_empty());
    }
}
