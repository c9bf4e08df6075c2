//! Dense products of one shape, whose time does not depend on where the zeros of their matrices stand: measured anew for some of the
//! cases that need it, and taken over for the others, which say so.

use std::collections::HashMap;

use kronsparse::plan::Algorithm;

use super::FEWEST;
use crate::record::{Row, Status};

/// Every so many-th case of a shape that could take its time over is measured all the same, so that the record shows how far repeated
/// measurements differ.
const AGAIN: usize = 8;

/// How the reason of a row begins whose time was measured on another chain.
const SHARED: &str = "the dense product of this shape as measured for ";

/// Whether a row's time was measured on another chain.
pub(crate) fn is_shared(row: &Row) -> bool {
    row.reason.starts_with(SHARED)
}

/// What a dense product's time depends on. Matrices that are mostly zeros take less power, and so less time where power is short: up to
/// one nonzero in eight they are told apart in steps of two. A record may be of several GPUs, or of one under several drivers.
pub(crate) fn shape_of(row: &Row) -> String {
    let Row { chain, dtype, layout, n, cache, device, driver, .. } = row;
    let zeros = (1.0 / chain.density() + 1e-9).log2().floor().clamp(0.0, 3.0);
    format!("{} {} {dtype} {layout} {n} {cache} {zeros} {device} {driver}", chain.rows(), chain.cols())
}

/// The dense products that were measured.
#[derive(Debug, Default)]
pub(super) struct DenseTimes(HashMap<String, Known>);

#[derive(Debug)]
struct Known {
    /// The latest measurement; one with several samples rather than a later one that was given up.
    row: Row,
    /// Cases that took it over since.
    taken: usize,
}

impl DenseTimes {
    /// Remembers a row that was measured, and counts one of an earlier run that took a time over; others are left out.
    pub(super) fn note(&mut self, row: &Row) {
        let has_time = row.algorithm == Algorithm::Dense && row.status == Status::Ok && row.median_s.is_some();
        if !has_time {
            return;
        }
        let key = shape_of(row);
        if is_shared(row) {
            if let Some(known) = self.0.get_mut(&key) {
                known.taken += 1;
            }
            return;
        }
        let is_better = self.0.get(&key).is_some_and(|known| known.row.samples >= FEWEST);
        if row.samples >= FEWEST || !is_better {
            self.0.insert(key, Known { row: row.clone(), taken: 0 });
        }
    }

    /// The row of a case whose dense product has been measured, made of its `blank`. `None` where it has not; and where it would not be
    /// given up beside `best`, the shortest time of the case, but there is one sample only, or it is time to measure again.
    pub(super) fn take(&mut self, blank: &Row, best: f64, give_up: f64) -> Option<Row> {
        let known = self.0.get_mut(&shape_of(blank))?;
        let (row, seconds) = (&known.row, known.row.median_s?);
        if seconds <= give_up * best && (row.samples < FEWEST || known.taken + 1 >= AGAIN) {
            return None;
        }
        known.taken += 1;
        let problem = blank.problem();
        let more = if row.reason.is_empty() { String::new() } else { "; one sample".into() };
        Some(Row {
            status: Status::Ok,
            median_s: row.median_s,
            iqr_s: row.iqr_s,
            min_s: row.min_s,
            samples: row.samples,
            gflops: Some(problem.flops() / seconds / 1e9),
            gbs: Some(problem.bytes() / seconds / 1e9),
            plan: format!("{}; as measured for {}", row.plan, row.chain),
            sm_mhz: row.sm_mhz,
            memory_bytes: row.memory_bytes,
            reason: format!("{SHARED}{}{more}", row.chain),
            ..blank.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;

    fn dense(chain: &str, seconds: Option<f64>, samples: usize) -> Row {
        Row { samples, ..row(chain, 64, Algorithm::Dense, seconds) }
    }

    #[test]
    fn a_time_is_taken_over_by_the_same_shape_only_and_says_so() {
        let mut times = DenseTimes::default();
        // 64 × 64 with a·d = 8, and the same product with other places of its zeros.
        let (first, same) = (dense("(1,8,8,8)", Some(2e-3), 9), dense("(8,8,8,1)", None, 0));
        assert!(times.take(&same, 1e-3, 3.0).is_none());
        times.note(&dense("(1,8,8,8)", None, 0));
        times.note(&Row { algorithm: Algorithm::Fused, ..first.clone() });
        assert!(times.take(&same, 1e-3, 3.0).is_none());
        times.note(&first);
        let found = times.take(&same, 1e-3, 3.0).unwrap();
        assert!(is_shared(&found) && found.reason.ends_with("(1,8,8,8)") && !is_shared(&first), "{}", found.reason);
        assert_eq!((found.median_s, found.samples, found.chain.clone()), (Some(2e-3), 9, same.chain.clone()));
        assert_eq!((found.rel_error, found.checksum, found.status), (None, None, Status::Ok));
        // A row that took a time over is no measurement.
        times.note(&Row { median_s: Some(7.0), ..found });
        assert_eq!(times.take(&same, 1e-3, 3.0).unwrap().median_s, Some(2e-3));
        // Other sizes, and half of the weights zero rather than seven eighths.
        for other in ["(1,8,8,4)", "(2,32,32,1)", "(1,64,64,1)"] {
            assert!(times.take(&dense(other, None, 0), 1e-3, 3.0).is_none(), "{other}");
        }
        // Fewer than one in eight are alike.
        times.note(&dense("(1,4,4,16)", Some(1e-3), 9));
        assert!(times.take(&dense("(32,2,2,1)", None, 0), 1e-3, 3.0).is_some());
    }

    #[test]
    fn some_are_measured_again_and_one_sample_is_taken_over_where_one_is_enough() {
        let mut times = DenseTimes::default();
        let (first, same) = (dense("(1,8,8,8)", Some(2e-3), 9), dense("(8,8,8,1)", None, 0));
        times.note(&first);
        let mut measured = 0;
        for at in 0..4 * AGAIN {
            if times.take(&same, 1.0, 3.0).is_none() {
                assert_eq!((at + 1) % AGAIN, 0, "{at}");
                times.note(&Row { median_s: Some(2.1e-3), ..first.clone() });
                measured += 1;
            }
        }
        assert_eq!(measured, 4);
        // Where one sample would be all, it is put off until a case for which there would be more; another shape has a turn of its own.
        times.note(&dense("(1,8,8,4)", Some(2e-3), 9));
        (0..2 * AGAIN).for_each(|_| assert!(times.take(&same, 1e-4, 3.0).is_some()));
        assert!(times.take(&dense("(4,8,8,1)", None, 0), 1.0, 3.0).is_some());
        assert!(times.take(&same, 1.0, 3.0).is_none());
        // Given up all the same: the better measurement stays, and the next case measures.
        times.note(&dense("(1,8,8,8)", Some(5e-3), 1));
        assert!(times.take(&same, 1.0, 3.0).is_none());
        assert_eq!(times.take(&same, 1e-4, 3.0).unwrap().median_s, Some(2.1e-3));
        // What an earlier run took over counts.
        let mut resumed = DenseTimes::default();
        let mut rows = vec![first.clone()];
        while let Some(row) = times.take(&same, 1e-4, 3.0).filter(|_| rows.len() < AGAIN) {
            rows.push(row);
        }
        rows.iter().for_each(|row| resumed.note(row));
        assert!(resumed.take(&same, 1.0, 3.0).is_none() && resumed.take(&same, 1e-4, 3.0).is_some());
        // Another GPU, and another driver.
        for other in [Row { device: "another".into(), ..same.clone() }, Row { driver: "1".into(), ..same.clone() }] {
            assert!(times.take(&other, 1e-4, 3.0).is_none());
        }
        let given_up = Row { reason: "given up after one sample".into(), ..dense("(1,8,8,8)", Some(2e-3), 1) };
        let mut times = DenseTimes::default();
        times.note(&given_up);
        assert!(times.take(&dense("(8,8,8,1)", None, 0), 1e-3, 3.0).is_none());
        let taken = times.take(&dense("(8,8,8,1)", None, 0), 1e-4, 3.0).unwrap();
        assert!(taken.reason.ends_with("(1,8,8,8); one sample") && taken.samples == 1, "{}", taken.reason);
    }
}
