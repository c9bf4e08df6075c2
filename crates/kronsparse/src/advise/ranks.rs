//! What a chain can express: the blocks whose rank its patterns bound, and how large that rank can be.
//!
//! # Definition
//!
//! Let `(K_ℓ, K_{ℓ+1})` be a neighbouring pair of a chainable chain whose product pattern is dense, `(1, rows, cols, 1)`; let `d`
//! be the lanes of `K_ℓ` and `a` the super-blocks of `K_{ℓ+1}`. The pair cuts every matrix that the chain can be into `a·d`
//! blocks of `rows/d × cols/a` numbers: block `(i, j)` has the rows `≡ j (mod d)` and the columns `i·cols/a …
//! (i+1)·cols/a − 1`. Each of these blocks has at most the rank `r = a_ℓ c_ℓ / a_{ℓ+1} = b_{ℓ+1} d_{ℓ+1} / d_ℓ` of the pair,
//! since it is a `rows/d × r` matrix (out of `K_1 ⋯ K_ℓ`) times an `r × cols/a` one (out of `K_{ℓ+1} ⋯ K_L`). Where the chain
//! is not redundant, `r < min(b_ℓ, c_{ℓ+1})`, almost all weights attain it.
//!
//! Source: Le, Zheng, Riccietti and Gribonval, *Butterfly factorization with error guarantees* (2024): chainable patterns, their
//! rank, redundancy, and the generalised complementary low-rank property, which says that these bounds are all that the chain
//! demands of a matrix.

use crate::{ChainPattern, Error, Pattern, Result};

/// The blocks that one pair of neighbouring factors cuts the matrix into, and the rank that it allows each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    /// Runs of neighbouring columns: the super-blocks `a` of the pair's right factor.
    pub a: usize,
    /// Interleaved classes of rows: the lanes `d` of the pair's left factor.
    pub d: usize,
    /// Rows of a block, `rows / d`.
    pub rows: usize,
    /// Columns of a block, `cols / a`.
    pub cols: usize,
    /// The most rank that a block can have.
    pub rank: usize,
}

impl Split {
    /// Number of blocks, `a · d`.
    pub fn blocks(&self) -> usize {
        self.a * self.d
    }
}

/// The splits of a chain, one per neighbouring pair, left to right; none for one factor.
///
/// Errors: a pair that is not chainable; a chain whose product pattern is not dense, whose outputs see only a part of the
/// inputs.
pub fn splits(chain: &ChainPattern) -> Result<Vec<Split>> {
    let (patterns, ranks) = (chain.patterns(), chain.ranks()?);
    let (rows, cols) = (chain.rows(), chain.cols());
    if patterns.len() > 1 && !is_dense(chain.product(0..patterns.len())?) {
        return Err(Error::Unsupported {
            what: format!("ranks of the blocks of {chain}"),
            why: "the pattern of its product is not dense: some outputs do not depend on some inputs".into(),
        });
    }
    let split = |(pair, rank): (&[Pattern], usize)| {
        let (a, d) = (pair[1].a(), pair[0].d());
        Split { a, d, rows: rows / d, cols: cols / a, rank }
    };
    Ok(patterns.windows(2).zip(ranks).map(split).collect())
}

/// The most rank that the blocks of an `a × d` cut can have (see the [module](self)): `rows/d × cols/a` numbers each, with `d`
/// dividing `rows` and `a` dividing `cols`. `a = d = 1` asks for the whole matrix.
///
/// A block of the cut is put together of blocks of every split of the chain, or lies within one: its rank is at most their number
/// times the split's rank, and at most its own sizes. `splits` are those of a chain for a `rows × cols` matrix.
pub fn rank_bound(splits: &[Split], rows: usize, cols: usize, a: usize, d: usize) -> usize {
    let (tall, wide) = (rows / d, cols / a);
    let of = |split: &Split| {
        let classes = split.d / gcd(d, split.d);
        // Runs of `split.cols` columns that a run of `wide` columns meets at most; both start at multiples of their length.
        let step = gcd(wide, split.cols);
        let runs = (split.cols - step + wide).div_ceil(split.cols);
        classes.saturating_mul(runs).saturating_mul(split.rank)
    };
    splits.iter().map(of).fold(tall.min(wide), usize::min)
}

/// Whether a pattern is that of a dense matrix.
pub(super) fn is_dense(pattern: Pattern) -> bool {
    pattern.a() * pattern.d() == 1
}

fn gcd(x: usize, y: usize) -> usize {
    if y == 0 { x } else { gcd(y, x % y) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::divisors;
    use crate::{Chain, ChainSpec, Matrix};

    fn pattern(text: &str) -> ChainPattern {
        match text.parse::<ChainSpec>().unwrap() {
            ChainSpec::Explicit(chain) => chain,
            other => panic!("{other} is no explicit chain"),
        }
    }

    fn random(pattern: &ChainPattern) -> Matrix<f64> {
        Chain::from_fn(pattern, |_, _, _, _, _| fastrand::f64() - 0.5).to_dense()
    }

    /// Rank by elimination with full pivoting: entries below `1e-9` of the largest one count as zero.
    fn rank(mut m: Vec<Vec<f64>>) -> usize {
        let largest = m.iter().flatten().fold(0.0f64, |max, x| max.max(x.abs()));
        let mut rank = 0;
        loop {
            let entries = (rank..m.len()).flat_map(|row| (rank..m[0].len()).map(move |col| (row, col)));
            let pivot = entries.max_by(|&(r, c), &(s, e)| m[r][c].abs().total_cmp(&m[s][e].abs()));
            let Some((row, col)) = pivot.filter(|&(row, col)| m[row][col].abs() > 1e-9 * largest) else { return rank };
            m.swap(rank, row);
            m.iter_mut().for_each(|line| line.swap(rank, col));
            let (done, rest) = m.split_at_mut(rank + 1);
            let pivot = &done[rank];
            for line in rest {
                let factor = line[rank] / pivot[rank];
                line.iter_mut().zip(pivot).skip(rank).for_each(|(x, p)| *x -= factor * p);
            }
            rank += 1;
        }
    }

    fn block(m: &Matrix<f64>, a: usize, d: usize, i: usize, j: usize) -> Vec<Vec<f64>> {
        let wide = m.cols() / a;
        let rows = (0..m.rows()).filter(|row| row % d == j);
        rows.map(|row| (i * wide..(i + 1) * wide).map(|col| m.get(row, col)).collect()).collect()
    }

    #[test]
    fn random_weights_attain_the_rank_of_every_split() {
        for text in [
            "(1,24,3,1)(1,3,20,1)",
            "(1,6,4,4)(4,4,5,1)",
            "(1,6,8,4)(4,8,5,1)",
            "(1,8,6,4)(2,12,10,1)",
            "(1,4,2,6)(2,3,3,2)(6,2,4,1)",
            "(1,4,4,8)(2,4,4,4)(4,8,4,1)",
            "(1,2,2,8)(2,2,2,4)(4,2,2,2)(8,2,2,1)",
        ] {
            let chain = pattern(text);
            let dense = random(&chain);
            let splits = splits(&chain).unwrap();
            assert_eq!(splits.len() + 1, chain.patterns().len());
            for split in splits {
                for (i, j) in (0..split.a).flat_map(|i| (0..split.d).map(move |j| (i, j))) {
                    let block = block(&dense, split.a, split.d, i, j);
                    assert_eq!((block.len(), block[0].len()), (split.rows, split.cols), "{text}");
                    assert_eq!(rank(block), split.rank, "{text}: block ({i}, {j}) of {split:?}");
                }
            }
        }
    }

    #[test]
    fn no_block_of_any_cut_exceeds_its_bound() {
        let mut attained = 0;
        for text in
            ["(1,6,4,4)(4,4,5,1)", "(1,8,6,4)(2,12,10,1)", "(1,24,3,1)(1,3,20,1)", "(1,4,2,6)(2,3,3,2)(6,2,4,1)"]
        {
            let chain = pattern(text);
            let (rows, cols) = (chain.rows(), chain.cols());
            let (dense, splits) = (random(&chain), splits(&chain).unwrap());
            for (a, d) in divisors(cols).into_iter().flat_map(|a| divisors(rows).into_iter().map(move |d| (a, d))) {
                let bound = rank_bound(&splits, rows, cols, a, d);
                let of = |(i, j)| rank(block(&dense, a, d, i, j));
                let most = (0..a).flat_map(|i| (0..d).map(move |j| (i, j))).map(of).max().unwrap();
                assert!(most <= bound, "{text}: rank {most} of a block of the cut {a} × {d}, bound {bound}");
                attained += usize::from(most == bound);
            }
        }
        assert!(attained > 60, "only {attained} bounds are attained: they say little");
    }

    #[test]
    fn low_rank_is_low_everywhere_and_monarch_can_be_regular() {
        let low = splits(&pattern("(1,64,5,1)(1,5,64,1)")).unwrap();
        assert_eq!(rank_bound(&low, 64, 64, 1, 1), 5);
        assert_eq!(rank_bound(&low, 64, 64, 16, 4), 4);
        let monarch = splits(&pattern("(1,8,8,8)(8,8,8,1)")).unwrap();
        assert_eq!((monarch[0].blocks(), monarch[0].rank), (64, 1));
        assert_eq!(rank_bound(&monarch, 64, 64, 1, 1), 64);
        assert_eq!(rank_bound(&monarch, 64, 64, 8, 8), 1);
        assert_eq!(rank_bound(&monarch, 64, 64, 4, 8), 2);
        // One factor is one dense matrix.
        assert_eq!(rank_bound(&splits(&pattern("(1,30,20,1)")).unwrap(), 30, 20, 1, 1), 20);
    }

    #[test]
    fn chains_without_such_ranks_are_refused() {
        let message = |text: &str| splits(&pattern(text)).unwrap_err().to_string();
        assert!(message("(2,3,2,1)(1,2,5,2)").contains("not chainable"));
        assert!(message("(2,4,2,2)(4,2,2,1)").contains("is not dense"), "{}", message("(2,4,2,2)(4,2,2,1)"));
    }
}
