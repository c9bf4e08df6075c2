//! What a record says in a few numbers and sentences, losses included.

use kronsparse::plan::Algorithm;
use kronsparse::{ChainPattern, measure::Summary};

use crate::format::{ratio, seconds};
use crate::record::{Record, Row, Status};

/// How our algorithm stands against the best other one, over all cases in which both have a time.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// Our rows that have somebody to compare with, in the order of the record.
    pub rows: Vec<&'a Row>,
    /// Those in which another algorithm is faster, the worst first.
    pub losses: Vec<&'a Row>,
    /// Statistics of the speed-ups over the best other algorithm.
    pub speedups: Summary,
}

/// Our row of a case: the fused algorithm's, or the planner's choice where only that was measured.
pub fn ours(case: &[Row]) -> Option<&Row> {
    let of = |algorithm| case.iter().find(|r| r.algorithm == algorithm);
    of(Algorithm::Fused).or_else(|| of(Algorithm::Auto))
}

/// The fastest right algorithm of a case that is not ours.
pub fn best_other(case: &[Row]) -> Option<&Row> {
    let timed = case.iter().filter(|r| !r.is_ours() && r.median_s.is_some());
    timed.min_by(|a, b| f64::total_cmp(&a.median_s.unwrap_or(f64::INFINITY), &b.median_s.unwrap_or(f64::INFINITY)))
}

/// The standing, if there is anything to compare.
pub fn standing(record: &Record) -> Option<Standing<'_>> {
    let rows: Vec<&Row> = record.cases().into_iter().filter_map(ours).collect();
    let compared: Vec<(&Row, f64)> =
        rows.into_iter().filter_map(|r| r.speedup_over_best_other.map(|s| (r, s))).collect();
    let speedups = Summary::of(&compared.iter().map(|c| c.1).collect::<Vec<_>>())?;
    let mut losses: Vec<(&Row, f64)> = compared.iter().copied().filter(|c| c.1 < 1.0).collect();
    losses.sort_by(|a, b| a.1.total_cmp(&b.1));
    Some(Standing {
        rows: compared.iter().map(|c| c.0).collect(),
        losses: losses.iter().map(|c| c.0).collect(),
        speedups,
    })
}

/// The result in one sentence.
pub fn headline(record: &Record) -> String {
    let Some(standing) = standing(record) else {
        return "There is nothing to compare: no case has times of our algorithm and of another one.".into();
    };
    let (cases, wins) = (standing.rows.len(), standing.rows.len() - standing.losses.len());
    let name = standing.rows[0].algorithm;
    let Summary { median, min, max, .. } = standing.speedups;
    if cases == 1 {
        let rank = if wins == 1 { "is the fastest" } else { "is not the fastest" };
        return format!("{name} {rank} on the one case, at {} the speed of the best other algorithm.", ratio(median));
    }
    format!(
        "{name} is the fastest in {wins} of {cases} cases; its speed is {} that of the best other algorithm in the median, \
         {} at the worst and {} at the best.",
        ratio(median),
        ratio(min),
        ratio(max)
    )
}

/// Two times that differ by less than this share are called level: repeated runs on a quiet machine differ as much.
const LEVEL: f64 = 0.03;

/// Where ours loses, by how much and to whom; an honest statement also if there is no loss.
pub fn losses(record: &Record) -> String {
    let Some(standing) = standing(record) else { return String::new() };
    let name = standing.rows[0].algorithm;
    if standing.losses.is_empty() {
        return format!("{name} loses in none of the {} cases of this run.", standing.rows.len());
    }
    const SHOWN: usize = 5;
    let cases = record.cases();
    let one = |row: &&Row| {
        let winner = cases.iter().find(|c| c[0].same_case(row)).and_then(|c| best_other(c));
        let winner = winner.map_or(String::new(), |w| format!(" against {}", w.algorithm));
        format!("{} ({}{winner})", case_label(row), ratio(row.speedup_over_best_other.unwrap_or(f64::NAN)))
    };
    let listed: Vec<String> = standing.losses.iter().take(SHOWN).map(one).collect();
    let more = standing.losses.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more, all in the table") } else { String::new() };
    let level = standing.losses.iter().filter(|r| r.speedup_over_best_other.is_some_and(|s| s > 1.0 - LEVEL)).count();
    let level = if level > 0 { format!(", {level} of them by less than {} %", 100.0 * LEVEL) } else { String::new() };
    format!(
        "{name} is slower than another algorithm in {} of {} cases{level}: {}{more}.",
        standing.losses.len(),
        standing.rows.len(),
        listed.join("; ")
    )
}

/// Remarks that a reader of the figures needs: wrong results, debug builds, points above the ceiling.
pub fn warnings(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    const SHOWN: usize = 8;
    let bad: Vec<&Row> = record.rows.iter().filter(|r| matches!(r.status, Status::Wrong | Status::Failed)).collect();
    for row in bad.iter().take(SHOWN) {
        let word = if row.status == Status::Wrong { "WRONG" } else { "FAILED" };
        found.push(format!("{word}: {} on {}: {}", row.algorithm, case_label(row), row.reason));
    }
    if bad.len() > SHOWN {
        found.push(format!("{} more results are wrong or failed; the table names them.", bad.len() - SHOWN));
    }
    if record.machine.profile == "debug" {
        found.push("This is a debug build: its times say nothing about a release build.".into());
    }
    let noisy = |r: &&Row| r.iqr_s.zip(r.median_s).is_some_and(|(iqr, median)| iqr > 0.25 * median);
    let (noisy, timed) =
        (record.rows.iter().filter(noisy).count(), record.rows.iter().filter(|r| r.median_s.is_some()).count());
    if 4 * noisy > timed {
        found.push(format!(
            "The machine was not quiet: in {noisy} of {timed} measurements the middle half of the samples spreads over \
             more than a quarter of the median."
        ));
    }
    found
}

/// A chain in little space: all factors up to three, otherwise the first, the last and their number.
pub fn short_chain(chain: &ChainPattern) -> String {
    match chain.patterns() {
        [first, .., last] if chain.patterns().len() > 3 => {
            format!("{first} … {last}, {} factors", chain.patterns().len())
        }
        _ => chain.to_string(),
    }
}

/// Element type, layout, batch and cache in a few words.
pub fn conditions(row: &Row) -> String {
    format!("{} · {} · n = {} · {}", row.dtype, row.layout, row.n, row.cache)
}

/// A case in one line.
pub fn case_label(row: &Row) -> String {
    format!("{} {}", short_chain(&row.chain), conditions(row))
}

/// Everything that was measured about a row, line by line: what a plot shows when the mouse rests on a point.
pub fn details(row: &Row) -> String {
    let number = |x: Option<f64>, f: &dyn Fn(f64) -> String| x.map_or("–".into(), f);
    let significant = |x| crate::format::significant(x);
    format!(
        "{} on {}\n{} ± {} (min {}, {} samples)\n{} GFLOP/s, {} GB/s, {} of the roofline\n{} the best other's speed, \
         relative error {}",
        row.algorithm,
        case_label(row),
        number(row.median_s, &seconds),
        number(row.iqr_s, &seconds),
        number(row.min_s, &seconds),
        row.samples,
        number(row.gflops, &significant),
        number(row.gbs, &significant),
        number(row.roofline_share, &crate::format::percent),
        number(row.speedup_over_best_other, &ratio),
        number(row.rel_error, &|e| format!("{e:.1e}")),
    )
}

#[cfg(test)]
mod tests {
    use kronsparse::plan::Algorithm;

    use super::*;
    use crate::report::tests::{row, sample};

    #[test]
    fn wins_and_losses_are_counted() {
        let record = sample();
        let standing = standing(&record).unwrap();
        assert_eq!((standing.rows.len(), standing.losses.len()), (2, 1));
        assert_eq!((standing.speedups.min, standing.speedups.median, standing.speedups.max), (0.5, 1.25, 2.0));
        assert!(headline(&record).contains("fastest in 1 of 2 cases"), "{}", headline(&record));
        let text = losses(&record);
        assert!(text.contains("in 1 of 2 cases: (2,8,8,4)") && text.contains("0.500× against csr"), "{text}");
        assert!(warnings(&record).is_empty(), "{:?}", warnings(&record));
    }

    #[test]
    fn a_level_race_is_called_level_and_a_wrong_algorithm_is_no_opponent() {
        let mut record = sample();
        record.rows[5].median_s = Some(3.95e-6);
        crate::case::compare(&mut record.rows[4..]);
        assert!(losses(&record).contains("1 of them by less than 3 %"), "{}", losses(&record));
        (record.rows[5].status, record.rows[5].median_s) = (Status::Wrong, None);
        crate::case::compare(&mut record.rows[4..]);
        assert_eq!(standing(&record).unwrap().rows.len(), 1);
        assert!(headline(&record).contains("the one case"), "{}", headline(&record));
        assert!(losses(&record).contains("loses in none"), "{}", losses(&record));
        assert!(warnings(&record)[0].starts_with("WRONG: csr on (2,8,8,4)"));
    }

    #[test]
    fn the_planner_does_not_compete_with_what_it_chooses() {
        let mut record = sample();
        record.rows = vec![
            row("(1,4,4,4)", 1, Algorithm::Fused, Some(2e-6)),
            row("(1,4,4,4)", 1, Algorithm::Auto, Some(1e-6)),
            row("(1,4,4,4)", 1, Algorithm::Bsr, Some(3e-6)),
        ];
        crate::case::compare(&mut record.rows);
        let speedups: Vec<f64> = record.rows.iter().map(|r| r.speedup_over_best_other.unwrap()).collect();
        assert!((speedups[0] - 1.5).abs() < 1e-12 && (speedups[1] - 3.0).abs() < 1e-12, "{speedups:?}");
        assert!((speedups[2] - 1.0 / 3.0).abs() < 1e-12, "{speedups:?}");
        assert_eq!(ours(&record.rows).unwrap().algorithm, Algorithm::Fused);
    }

    #[test]
    fn a_flood_of_wrong_results_is_counted() {
        let mut record = sample();
        record.rows = vec![record.rows[0].clone(); 11];
        record.rows.iter_mut().for_each(|r| r.status = Status::Failed);
        let all = warnings(&record);
        assert_eq!(all.len(), 9);
        assert!(all[0].starts_with("FAILED: fused") && all[8].starts_with("3 more results"), "{all:?}");
    }

    #[test]
    fn a_noisy_machine_is_mentioned() {
        let mut record = sample();
        record.rows.iter_mut().for_each(|r| r.iqr_s = r.median_s);
        assert!(warnings(&record)[0].contains("in 5 of 5 measurements"), "{:?}", warnings(&record));
    }

    #[test]
    fn long_chains_are_shortened() {
        let chain = ChainPattern::square_dyadic(16).unwrap();
        assert_eq!(short_chain(&chain), "(1,2,2,8) … (8,2,2,1), 4 factors");
        assert_eq!(short_chain(&ChainPattern::monarch(4, 4, 2, 2).unwrap()), "(1,2,2,2)(2,2,2,1)");
    }
}
