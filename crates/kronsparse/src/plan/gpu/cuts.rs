//! Which consecutive factors of a chain share a kernel: the cuts with the least sum of times.

/// What one kernel multiplies by: `count` factors, of which `at` is the left-most, which is applied last. Factor 0 is the left-most one of
/// the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The left-most factor.
    pub at: usize,
    /// How many factors, 1 or more.
    pub count: usize,
}

/// The fastest cuts in the order of application, and their seconds, of a chain of `factors`. `seconds(at, count)`: of factors `at` to
/// `at + count - 1` by one kernel, where there is one; single factors have one.
pub fn cuts(factors: usize, seconds: impl Fn(usize, usize) -> Option<f64>) -> (Vec<Cut>, f64) {
    // least[at]: of everything from the right end up to and with factor `at`.
    let mut least = vec![f64::INFINITY; factors];
    least.push(0.0);
    let mut last = vec![1; factors];
    for at in (0..factors).rev() {
        for count in 1..=factors - at {
            let Some(together) = seconds(at, count) else { continue };
            let all = least[at + count] + together;
            if all < least[at] {
                (least[at], last[at]) = (all, count);
            }
        }
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < factors {
        found.push(Cut { at, count: last[at] });
        at += last[at];
    }
    found.reverse();
    (found, least[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cuts as `(at, count)`, where some groups of factors share a kernel.
    fn of(singles: &[f64], groups: &[((usize, usize), f64)]) -> (Vec<(usize, usize)>, f64) {
        let seconds = |at: usize, count: usize| match count {
            1 => Some(singles[at]),
            _ => groups.iter().find(|(group, _)| *group == (at, count)).map(|(_, seconds)| *seconds),
        };
        let (found, sum) = cuts(singles.len(), seconds);
        (found.into_iter().map(|cut| (cut.at, cut.count)).collect(), sum)
    }

    #[test]
    fn the_least_sum_is_found() {
        assert_eq!(of(&[1.0], &[]), (vec![(0, 1)], 1.0));
        assert_eq!(of(&[1.0, 1.0], &[]), (vec![(1, 1), (0, 1)], 2.0));
        assert_eq!(of(&[1.0, 1.0], &[((0, 2), 1.5)]), (vec![(0, 2)], 1.5));
        assert_eq!(of(&[1.0, 1.0], &[((0, 2), 2.5)]).1, 2.0);
        // Two pairs overlap: only one of them can be taken.
        assert_eq!(of(&[3.0, 1.0, 3.0], &[((0, 2), 2.5), ((1, 2), 2.0)]), (vec![(1, 2), (0, 1)], 5.0));
        let pairs = [((0, 2), 1.0), ((1, 2), 0.5), ((2, 2), 1.0)];
        assert_eq!(of(&[1.0; 4], &pairs).0, [(2, 2), (0, 2)]);
        // Three together, and all four.
        assert_eq!(of(&[1.0; 4], &[pairs[0], pairs[2], ((1, 3), 0.5)]), (vec![(1, 3), (0, 1)], 1.5));
        assert_eq!(of(&[1.0; 4], &[((1, 3), 0.5), ((0, 4), 0.25)]), (vec![(0, 4)], 0.25));
    }
}
