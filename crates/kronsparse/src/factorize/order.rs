//! The sequence of splits of each order, and the constant of the guarantee that follows from it.

use std::ops::Range;

use super::Order;

/// The product of factors `range` is split between factors `at - 1` and `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) range: Range<usize>,
    pub(super) at: usize,
}

/// The cuts that take a chain of `len` factors apart, first cut first.
pub(super) fn cuts(order: Order, len: usize) -> Vec<Cut> {
    let cut = |range, at| Cut { range, at };
    match order {
        Order::LeftToRight => (1..len).map(|at| cut(at - 1..len, at)).collect(),
        Order::RightToLeft => (1..len).rev().map(|at| cut(0..at + 1, at)).collect(),
        Order::Balanced => {
            let mut list = Vec::with_capacity(len.saturating_sub(1));
            let whole = 0..len;
            let mut waiting = vec![whole];
            while let Some(range) = waiting.pop() {
                if range.len() > 1 {
                    let at = range.start + range.len() / 2;
                    waiting.extend([at..range.end, range.start..at]);
                    list.push(cut(range, at));
                }
            }
            list
        }
    }
}

/// `sqrt(L − 1 + 2p)`, where `p` counts the pairs of cuts whose errors need not be orthogonal; 1 for a single factor. The
/// proof is on the page of the module above.
pub(super) fn bound(cuts: &[Cut]) -> f64 {
    let mut squares = cuts.len();
    for (k, earlier) in cuts.iter().enumerate() {
        let later = &cuts[k + 1..];
        let one_side =
            |first: &Cut| later.iter().take_while(|c| (c.at < earlier.at) == (first.at < earlier.at)).count();
        squares += 2 * (later.len() - later.first().map_or(0, one_side));
    }
    (squares.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_cuts_every_position_once_and_inside_its_range() {
        for order in Order::ALL {
            for len in 1..20 {
                let list = cuts(order, len);
                let mut positions: Vec<usize> = list.iter().map(|c| c.at).collect();
                positions.sort_unstable();
                assert_eq!(positions, (1..len).collect::<Vec<_>>(), "{order} {len}");
                // Replay: each range must be one of the pieces left by the cuts before it.
                let whole = 0..len;
                let mut pieces = vec![whole];
                for cut in &list {
                    let at = pieces.iter().position(|p| *p == cut.range).expect("a piece that exists");
                    pieces.splice(at..at + 1, [cut.range.start..cut.at, cut.at..cut.range.end]);
                }
                assert!(pieces.iter().all(|p| p.len() == 1));
            }
        }
    }

    #[test]
    fn the_constant_lies_between_the_root_and_the_number_of_splits() {
        for len in 2..20 {
            let splits = (len - 1) as f64;
            assert_eq!(bound(&cuts(Order::LeftToRight, len)), splits.sqrt());
            assert_eq!(bound(&cuts(Order::RightToLeft, len)), splits.sqrt());
            let balanced = bound(&cuts(Order::Balanced, len));
            assert!(balanced >= splits.sqrt() && balanced <= splits, "{len}: {balanced}");
        }
        assert_eq!(bound(&[]), 1.0);
        // Four factors: middle, left, right. The right cut's error need not be orthogonal to the first one's.
        assert_eq!(bound(&cuts(Order::Balanced, 4)), 5f64.sqrt());
    }
}
