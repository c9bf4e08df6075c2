//! Which chains to try for a weight when only the share of parameters is given.

use crate::{ChainPattern, Error, Result};

/// How many chains are factorized for one weight at most.
pub const MAX_TRIED: usize = 6;

/// A candidate uses at least this share of what the best user of the budget uses.
const WORTHWHILE: f64 = 0.9;

/// Blocks whose singular value decomposition takes about `rows · cols · min(block)` multiplications beyond this are not
/// tried: a full decomposition of a matrix much larger than 4096 × 4096 takes minutes.
const MAX_WORK: f64 = 1e11;

/// At most `share · rows · cols` parameters for each weight.
///
/// A chainable chain of two factors with hidden sizes `a` and `d` cuts the weight into `a·d` interleaved blocks of
/// `rows/d × cols/a` and approximates each by rank `r`, for `r·(a·rows + d·cols)` parameters: from plain low rank
/// (`a = d = 1`, one block) to Monarch (`r = 1`, many small blocks). Which end of this ladder suits a weight depends on its
/// spectrum, so chains from all over it are factorized and the one with the least error is taken.
/// Longer chains are not tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Share of the dense weight's parameters, above 0 and at most 1.
    pub share: f64,
    /// Whether chains whose factors are all dense (`a = d = 1`, low rank) may be chosen.
    pub low_rank: bool,
}

impl Budget {
    /// Any chain, low rank included, of at most this share of the parameters.
    pub fn new(share: f64) -> Budget {
        Budget { share, low_rank: true }
    }

    /// Refuses a share that is not above 0 and at most 1.
    pub fn check(&self) -> Result<()> {
        if self.share > 0.0 && self.share <= 1.0 {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("a budget of {}", self.share),
            why: "expected a share of the parameters above 0 and at most 1, such as 0.25".into(),
        })
    }

    /// Up to [`MAX_TRIED`] chains of two factors within the budget, from the fewest, largest blocks to the smallest; empty
    /// if none fits.
    pub fn candidates(&self, rows: usize, cols: usize) -> Vec<ChainPattern> {
        let parameters = (self.share * rows as f64 * cols as f64).floor() as usize;
        // r·(a·rows + d·cols) is least for a = d = 1.
        let max_rank = (parameters / (rows + cols).max(1)).min(rows.min(cols));
        let mut shapes: Vec<Shape> = Vec::new();
        for chain in ChainPattern::enumerate(rows, cols, 2, parameters, max_rank) {
            let [left, right] = chain.patterns() else { continue };
            let (a, d) = (right.a(), left.d());
            let (rows, cols) = (rows / d, cols / a);
            let work = (a * d) as f64 * rows as f64 * cols as f64 * rows.min(cols) as f64;
            let low_rank = a * d == 1;
            if work > MAX_WORK || (low_rank && !self.low_rank) {
                continue;
            }
            let blocks = ((a * d) as f64).log2();
            let stretch = (rows as f64 / cols as f64).log2().abs();
            shapes.push(Shape { key: (a, d), blocks, stretch, parameters: chain.parameters(), chain });
        }
        // Of every block shape, the largest rank: enumeration lists fewer parameters first.
        shapes.reverse();
        shapes.sort_by_key(|s| s.key);
        shapes.dedup_by_key(|s| s.key);
        let most = shapes.iter().map(|s| s.parameters).max().unwrap_or(0);
        shapes.retain(|s| s.parameters as f64 >= WORTHWHILE * most as f64);
        ladder(shapes)
    }

    /// The reason for skipping a weight that no chain of this budget suits.
    pub(super) fn why_nothing_fits(&self, [rows, cols]: [usize; 2]) -> String {
        format!(
            "no chain within the budget of {} · {rows} · {cols} = {:.0} parameters; two factors take at least \
             rows + cols = {}",
            self.share,
            (self.share * rows as f64 * cols as f64).floor(),
            rows + cols
        )
    }
}

/// A way to cut the weight into blocks.
struct Shape {
    key: (usize, usize),
    /// log2 of the number of blocks.
    blocks: f64,
    /// |log2| of a block's rows over columns; square blocks have 0.
    stretch: f64,
    parameters: usize,
    chain: ChainPattern,
}

/// Up to [`MAX_TRIED`] shapes: one, two and four blocks, and three steps from there to the smallest blocks; at each the shape
/// that is nearest in number of blocks and most square.
fn ladder(mut shapes: Vec<Shape>) -> Vec<ChainPattern> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for shape in &shapes {
        (low, high) = (low.min(shape.blocks), high.max(shape.blocks));
    }
    let span = high - low;
    let targets = [low, low + span.min(1.0), low + span.min(2.0), low + 0.5 * span, low + 0.75 * span, high];
    let mut chosen = Vec::with_capacity(MAX_TRIED);
    for target in targets {
        let distance = |s: &Shape| (s.blocks - target).abs() + 0.5 * s.stretch;
        let nearest = shapes.iter().enumerate().min_by(|x, y| distance(x.1).total_cmp(&distance(y.1)));
        if let Some((at, _)) = nearest {
            chosen.push(shapes.swap_remove(at));
        }
    }
    chosen.sort_by(|x, y| x.blocks.total_cmp(&y.blocks));
    chosen.into_iter().map(|s| s.chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_fit_are_chainable_near_the_budget_and_span_the_ladder() {
        for (rows, cols) in [(384, 384), (1536, 384), (384, 1536), (250, 35)] {
            for share in [0.1, 0.25, 0.5] {
                let limit = share * (rows * cols) as f64;
                let candidates = Budget::new(share).candidates(rows, cols);
                assert!((2..=MAX_TRIED).contains(&candidates.len()), "{rows} × {cols} at {share}: {candidates:?}");
                for chain in &candidates {
                    assert_eq!((chain.rows(), chain.cols()), (rows, cols));
                    assert!(chain.is_chainable());
                    let used = chain.parameters() as f64;
                    assert!(used <= limit && used > 0.7 * limit, "{chain} uses {used} of {limit}");
                }
                let mut unique = candidates.clone();
                unique.sort();
                unique.dedup();
                assert_eq!(unique.len(), candidates.len());
            }
        }
        let square = Budget::new(0.25).candidates(384, 384);
        assert_eq!(square[0].to_string(), "(1,384,48,1)(1,48,384,1)");
        assert!(square.iter().any(|c| c.ranks().unwrap() == [1]), "{square:?}");
        let sparse = Budget { share: 0.25, low_rank: false }.candidates(384, 384);
        assert!(sparse.iter().all(|c| c.patterns().iter().any(|p| p.a() * p.d() > 1)), "{sparse:?}");
    }

    #[test]
    fn budgets_that_make_no_sense_or_fit_nothing() {
        for share in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(Budget::new(share).check().is_err(), "{share}");
        }
        let tight = Budget::new(0.001);
        assert!(tight.candidates(64, 64).is_empty());
        assert!(tight.why_nothing_fits([64, 64]).contains("at least rows + cols = 128"));
        // The least that two factors can have, exactly.
        assert_eq!(Budget::new(128.0 / 4096.0).candidates(64, 64).len(), 1);
    }
}
