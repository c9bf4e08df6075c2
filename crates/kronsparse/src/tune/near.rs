//! The rule for numbers of vectors that were not measured; [`tune`](super) argues for it.

use crate::Layout;

/// Numbers of vectors that differ by this factor or more say nothing about each other.
const APART: f64 = 1.25;

/// Which of the measured numbers of vectors says what is fast for `n`; each comes with its gain, how many times as fast the stored way
/// was as what would be done without it.
pub(crate) fn nearest(measured: impl Iterator<Item = (usize, f64)>, n: usize, layout: Layout) -> Option<usize> {
    let usable = measured.filter_map(|(m, gain)| ratio(m, n, layout).map(|ratio| (m, gain, ratio)));
    let nearest = usable.min_by(|x, y| x.2.total_cmp(&y.2))?;
    let (m, gain, ratio) = nearest;
    (gain >= ratio).then_some(m)
}

/// The larger number over the smaller one, where the two can be compared.
fn ratio(m: usize, n: usize, layout: Layout) -> Option<f64> {
    let power = |n: usize| n.trailing_zeros().min(4);
    if layout == Layout::BatchLast && power(m) != power(n) {
        return None;
    }
    let ratio = m.max(n) as f64 / m.min(n).max(1) as f64;
    (ratio < APART).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(measured: &[(usize, f64)], n: usize, layout: Layout) -> Option<usize> {
        nearest(measured.iter().copied(), n, layout)
    }

    #[test]
    fn what_was_measured_counts_for_itself_and_for_near_numbers_as_far_as_it_gained() {
        let first = |measured: &[(usize, f64)], n| of(measured, n, Layout::BatchFirst);
        // Exactly what was measured: any gain, but no loss.
        assert_eq!(first(&[(100, 1.0)], 100), Some(100));
        assert_eq!(first(&[(100, 0.99)], 100), None);
        // 110 / 100 = 1.1, either way.
        assert_eq!([110, 91].map(|n| first(&[(100, 1.11)], n)), [Some(100); 2]);
        assert_eq!([110, 90].map(|n| first(&[(100, 1.09)], n)), [None; 2]);
        // However large the gain, a quarter more is another problem.
        assert_eq!([124, 125, 80, 81].map(|n| first(&[(100, 9.0)], n)), [Some(100), None, None, Some(100)]);
        // The nearest decides, also where it says to leave things as they are.
        assert_eq!(first(&[(100, 9.0), (110, 1.0)], 109), None);
        assert_eq!(first(&[(100, 9.0), (110, 1.5), (118, 9.0)], 109), Some(110));
        assert_eq!(first(&[], 5), None);
    }

    #[test]
    fn batch_last_alignment_must_be_the_same() {
        let last = |m, n| of(&[(m, 9.0)], n, Layout::BatchLast);
        assert_eq!([(2048, 2000), (2000, 2048), (33, 31)].map(|(m, n)| last(m, n)), [Some(2048), Some(2000), Some(33)]);
        assert_eq!([(2048, 2047), (2048, 2040), (33, 32)].map(|(m, n)| last(m, n)), [None; 3]);
    }
}
