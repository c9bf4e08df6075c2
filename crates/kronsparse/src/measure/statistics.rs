//! Statistics of samples: median, quartiles and extremes, in the unit of the samples.

/// What is said about a set of samples. All values are in the unit of the samples (seconds, as a rule).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of samples.
    pub count: usize,
    /// Smallest sample.
    pub min: f64,
    /// First quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub q3: f64,
    /// Largest sample.
    pub max: f64,
}

impl Summary {
    /// Of at least one sample; `None` for no sample, or if one is NaN or infinite.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        if samples.is_empty() || samples.iter().any(|s| !s.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            count: sorted.len(),
            min: sorted[0],
            q1: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            q3: quantile(&sorted, 0.75),
            max: sorted[sorted.len() - 1],
        })
    }

    /// The interquartile range, `q3 − q1`: the spread of the middle half of the samples.
    pub fn iqr(&self) -> f64 {
        self.q3 - self.q1
    }
}

/// The `p`-quantile (`0 ≤ p ≤ 1`) of samples in ascending order, linear between neighbours: type 7 of Hyndman and Fan,
/// *Sample quantiles in statistical packages* (1996), which NumPy and R take by default. Panics without samples.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    assert!(!sorted.is_empty(), "a quantile needs at least one sample");
    assert!((0.0..=1.0).contains(&p), "a quantile lies between 0 and 1, found {p}");
    let position = p * (sorted.len() - 1) as f64;
    let (below, weight) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + weight * (sorted[above] - sorted[below])
}

/// The median of samples in any order; `None` for no sample, or if one is NaN or infinite.
pub fn median(samples: &[f64]) -> Option<f64> {
    Summary::of(samples).map(|s| s.median)
}

/// The interquartile mean of samples in any order: of those that are left without the least and the largest quarter. Where samples are of two
/// kinds, as of a clock that counts in steps, it changes with their shares, while the median is one or the other. `None` as for [`median`].
pub fn interquartile_mean(samples: &[f64]) -> Option<f64> {
    if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = &sorted[sorted.len() / 4..sorted.len() - sorted.len() / 4];
    Some(middle.iter().sum::<f64>() / middle.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_mean_of_the_middle_half_leaves_out_both_ends_and_follows_shares() {
        assert_eq!(interquartile_mean(&[1.0, 9.0, 2.0, 4.0, 3.0, 100.0, 0.0, 5.0]), Some(3.5));
        assert_eq!(interquartile_mean(&[2.0, 4.0, 9.0]), Some(5.0));
        assert_eq!(interquartile_mean(&[7.0]), Some(7.0));
        // One sample more of the larger kind moves it by a little, and the median by all.
        let of = |large: usize| [vec![4.0; 20 - large], vec![4.2; large]].concat();
        let [below, above] = [9, 11].map(|large| interquartile_mean(&of(large)).unwrap());
        assert!(below < above && above - below < 0.05, "{below} {above}");
        assert_eq!([median(&of(9)), median(&of(11))], [Some(4.0), Some(4.2)]);
        for bad in [&[][..], &[1.0, f64::NAN], &[f64::INFINITY]] {
            assert_eq!(interquartile_mean(bad), None);
        }
    }

    #[test]
    fn microseconds_survive() {
        // 30, 40, 50, 60, 70 µs in any order: a spread of 20 µs, not zero.
        let s = Summary::of(&[5e-5, 3e-5, 7e-5, 4e-5, 6e-5]).unwrap();
        assert_eq!((s.count, s.min, s.max), (5, 3e-5, 7e-5));
        assert!((s.median - 5e-5).abs() < 1e-18 && (s.q1 - 4e-5).abs() < 1e-18 && (s.q3 - 6e-5).abs() < 1e-18);
        assert!((s.iqr() - 2e-5).abs() < 1e-18, "{}", s.iqr());
    }

    #[test]
    fn quantiles_of_an_even_number_of_samples_lie_between_neighbours() {
        // numpy.percentile([1, 2, 4, 8], [25, 50, 75]) = [1.75, 3, 5]
        let s = Summary::of(&[8e-6, 1e-6, 4e-6, 2e-6]).unwrap();
        assert!((s.q1 - 1.75e-6).abs() < 1e-20 && (s.median - 3e-6).abs() < 1e-20 && (s.q3 - 5e-6).abs() < 1e-20);
        assert_eq!(median(&[2.5e-7]), Some(2.5e-7));
    }

    #[test]
    fn what_is_no_sample_gives_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1e-6, f64::NAN]), None);
        assert_eq!(Summary::of(&[1e-6, f64::INFINITY]), None);
    }

    proptest! {
        #[test]
        fn ordered_and_equivariant(samples in prop::collection::vec(1e-7f64..1e-3, 1..40), shift in 0.0f64..1e-3) {
            let s = Summary::of(&samples).unwrap();
            prop_assert!(s.min <= s.q1 && s.q1 <= s.median && s.median <= s.q3 && s.q3 <= s.max);
            let below = samples.iter().filter(|&&x| x <= s.median * (1.0 + 1e-12)).count();
            prop_assert!(2 * below >= samples.len());
            let moved: Vec<f64> = samples.iter().rev().map(|x| 2.0 * x + shift).collect();
            let m = Summary::of(&moved).unwrap();
            prop_assert!((m.median - (2.0 * s.median + shift)).abs() < 1e-15);
            prop_assert!((m.iqr() - 2.0 * s.iqr()).abs() < 1e-15);
        }
    }
}
