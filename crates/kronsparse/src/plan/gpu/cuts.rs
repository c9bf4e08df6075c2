//! Which consecutive factors of a chain share a kernel: the cuts with the least sum of times.

/// What one kernel multiplies by. Numbers are places in the chain, 0 being the left-most factor, which is applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One factor.
    Factor(usize),
    /// Factor `at + 1`, then factor `at`.
    Pair(usize),
}

/// The fastest cuts in the order of application, and their seconds. `factors[at]`: of factor `at` by itself; `pairs[at]`: of
/// factors `at + 1` and `at` together, where there is a way.
pub fn cuts(factors: &[f64], pairs: &[Option<f64>]) -> (Vec<Cut>, f64) {
    let count = factors.len();
    // least[at]: of everything from the right end up to and with factor `at`.
    let mut least = vec![0.0; count + 1];
    let mut last = vec![Cut::Factor(0); count];
    for at in (0..count).rev() {
        (least[at], last[at]) = (least[at + 1] + factors[at], Cut::Factor(at));
        if let Some(pair) = pairs.get(at).copied().flatten().filter(|_| at + 2 <= count) {
            let together = least[at + 2] + pair;
            if together < least[at] {
                (least[at], last[at]) = (together, Cut::Pair(at));
            }
        }
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while at < count {
        found.push(last[at]);
        at += if matches!(last[at], Cut::Pair(_)) { 2 } else { 1 };
    }
    found.reverse();
    (found, least[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_sum_is_found() {
        assert_eq!(cuts(&[1.0], &[]), (vec![Cut::Factor(0)], 1.0));
        assert_eq!(cuts(&[1.0, 1.0], &[None]), (vec![Cut::Factor(1), Cut::Factor(0)], 2.0));
        assert_eq!(cuts(&[1.0, 1.0], &[Some(1.5)]), (vec![Cut::Pair(0)], 1.5));
        assert_eq!(cuts(&[1.0, 1.0], &[Some(2.5)]).1, 2.0);
        // Two pairs overlap: only one of them can be taken.
        let (found, seconds) = cuts(&[3.0, 1.0, 3.0], &[Some(2.5), Some(2.0)]);
        assert_eq!((found, seconds), (vec![Cut::Pair(1), Cut::Factor(0)], 5.0));
        let (found, _) = cuts(&[1.0; 4], &[Some(1.0), Some(0.5), Some(1.0)]);
        assert_eq!(found, [Cut::Pair(2), Cut::Pair(0)]);
    }
}
