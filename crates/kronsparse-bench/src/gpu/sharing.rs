//! Dense products of one shape, whose time does not depend on where the zeros of their matrices stand: measured anew for some of the
//! cases that need it, and taken over for the others, which say so.

use std::collections::HashMap;

use kronsparse::plan::Algorithm;

use super::FEWEST;
use crate::record::{Row, Status};

/// Every so many-th case that could take a time over is measured all the same, so that the record shows how far repeated measurements
/// differ.
const AGAIN: usize = 8;

/// How the reason of a row begins whose time was measured on another chain.
const SHARED: &str = "the dense product of this shape as measured for ";

/// Whether a row's time was measured on another chain.
pub(crate) fn is_shared(row: &Row) -> bool {
    row.reason.starts_with(SHARED)
}

/// What a dense product's time depends on. Matrices that are mostly zeros take less power, and so less time where power is short: up to
/// one nonzero in eight they are told apart in steps of two.
pub(crate) fn shape_of(row: &Row) -> String {
    let Row { chain, dtype, layout, n, cache, .. } = row;
    let zeros = (1.0 / chain.density() + 1e-9).log2().floor().clamp(0.0, 3.0);
    format!("{} {} {dtype} {layout} {n} {cache} {zeros}", chain.rows(), chain.cols())
}

/// The dense products that were measured.
#[derive(Debug, Default)]
pub(super) struct DenseTimes(HashMap<String, Known>);

#[derive(Debug)]
struct Known {
    /// The latest measurement.
    row: Row,
    /// Cases that asked for it.
    asked: usize,
}

impl DenseTimes {
    /// Remembers a row that was measured; others are left out.
    pub(super) fn note(&mut self, row: &Row) {
        let measured = row.algorithm == Algorithm::Dense && row.status == Status::Ok && row.median_s.is_some();
        if measured && !is_shared(row) {
            let asked = self.0.get(&shape_of(row)).map_or(0, |known| known.asked);
            self.0.insert(shape_of(row), Known { row: row.clone(), asked });
        }
    }

    /// The row of a case whose dense product has been measured, made of its `blank`. `None` where it has not, where it is time to
    /// measure again, and where there is one sample only but `best`, the shortest time of the case, deserves more.
    pub(super) fn take(&mut self, blank: &Row, best: f64, give_up: f64) -> Option<Row> {
        let known = self.0.get_mut(&shape_of(blank))?;
        let (row, seconds) = (&known.row, known.row.median_s?);
        if row.samples < FEWEST && seconds <= give_up * best {
            return None;
        }
        known.asked += 1;
        if known.asked.is_multiple_of(AGAIN) {
            return None;
        }
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
        times.note(&dense("(1,8,8,8)", Some(2e-3), 9));
        let asked: Vec<bool> = (0..32).map(|_| times.take(&dense("(8,8,8,1)", None, 0), 1.0, 3.0).is_some()).collect();
        assert_eq!(asked.iter().filter(|taken| !**taken).count(), 32 / AGAIN);
        assert!(asked[0]);
        let given_up = Row { reason: "given up after one sample".into(), ..dense("(1,8,8,8)", Some(2e-3), 1) };
        let mut times = DenseTimes::default();
        times.note(&given_up);
        assert!(times.take(&dense("(8,8,8,1)", None, 0), 1e-3, 3.0).is_none());
        let taken = times.take(&dense("(8,8,8,1)", None, 0), 1e-4, 3.0).unwrap();
        assert!(taken.reason.ends_with("(1,8,8,8); one sample") && taken.samples == 1, "{}", taken.reason);
    }
}
