//! Chains that have a name, and the enumeration of all chainable chains of a shape.

use crate::{ChainPattern, Error, Pattern, Result};

impl ChainPattern {
    /// The Monarch chain `(1, p, q, rows/p)(q, rows/p, cols/q, 1)`: two factors, rank 1. `p` must divide `rows` and `q`
    /// must divide `cols` (Dao et al., *Monarch: expressive structured matrices*, 2022).
    pub fn monarch(rows: usize, cols: usize, p: usize, q: usize) -> Result<ChainPattern> {
        for (size, part, names) in [(rows, p, ("rows", "p")), (cols, q, ("cols", "q"))] {
            if part == 0 || size == 0 || size % part != 0 {
                return Err(Error::Unsupported {
                    what: format!("monarch:{p},{q} for a {rows} × {cols} matrix"),
                    why: format!("{} = {part} does not divide {} = {size}", names.1, names.0),
                });
            }
        }
        ChainPattern::new(vec![Pattern::new(1, p, q, rows / p)?, Pattern::new(q, rows / p, cols / q, 1)?])
    }

    /// The square dyadic (butterfly) chain of a power of two: `log2 N` factors `(2^{ℓ-1}, 2, 2, N/2^ℓ)`.
    pub fn square_dyadic(n: usize) -> Result<ChainPattern> {
        if n < 2 || !n.is_power_of_two() {
            return Err(Error::Unsupported {
                what: format!("square-dyadic for size {n}"),
                why: "the size must be a power of two, at least 2".into(),
            });
        }
        ChainPattern::butterfly(&vec![2; n.trailing_zeros() as usize])
    }

    /// The butterfly of mixed radices: `factors[ℓ] = (r_0⋯r_{ℓ-1}, r_ℓ, r_ℓ, r_{ℓ+1}⋯)`, a square chain of size
    /// `r_0⋯r_{L-1}`. `[2; k]` is the square dyadic chain; grouping its stages, `[4, 4]` or `[8, 2]`, multiplies radices.
    pub fn butterfly(radices: &[usize]) -> Result<ChainPattern> {
        let mut patterns = Vec::with_capacity(radices.len());
        for (at, &radix) in radices.iter().enumerate() {
            let product = |part: &[usize]| part.iter().try_fold(1usize, |acc, &r| acc.checked_mul(r));
            let (Some(before), Some(after)) = (product(&radices[..at]), product(&radices[at + 1..])) else {
                return Err(Error::Unsupported {
                    what: format!("butterfly:{radices:?}"),
                    why: "the size does not fit in 64 bits".into(),
                });
            };
            patterns.push(Pattern::new(before, radix, radix, after)?);
        }
        ChainPattern::new(patterns)
    }

    /// All chainable chains of a `rows × cols` matrix with 1 to `max_factors` factors, at most `max_parameters`
    /// parameters and neighbouring ranks of at most `max_rank`, fewest parameters first.
    ///
    /// Non-redundant chains only: no factor may be wider than it is useful, that is every pair has
    /// `r ≤ min(b_1, c_2)`, since beyond that the pair can be fused without loss and with fewer parameters.
    pub fn enumerate(
        rows: usize,
        cols: usize,
        max_factors: usize,
        max_parameters: usize,
        max_rank: usize,
    ) -> Vec<ChainPattern> {
        // A chainable chain of product pattern (1, rows, cols, 1) is fixed by two divisor sequences and the ranks:
        // a_1 = 1 | a_2 | … | a_L | cols and rows = d_0 ⊇ d_1 ⊇ … ⊇ d_L = 1, with
        // b_ℓ = r_{ℓ-1} d_{ℓ-1} / d_ℓ and c_ℓ = r_ℓ a_{ℓ+1} / a_ℓ, where d_0 = rows, a_{L+1} = cols, r_0 = r_L = 1.
        let mut found = Vec::new();
        let mut stack = Vec::new();
        if rows > 0 && cols > 0 {
            let start = Partial { a: 1, d_before: rows, rank_before: 1, cols, max_rank };
            start.extend(&mut stack, max_factors, max_parameters, &mut found);
        }
        found.sort_by_key(|chain: &ChainPattern| (chain.parameters(), chain.clone()));
        found
    }
}

/// The state of the enumeration after some factors: what the next one must connect to.
struct Partial {
    a: usize,
    d_before: usize,
    rank_before: usize,
    cols: usize,
    max_rank: usize,
}

impl Partial {
    fn extend(&self, stack: &mut Vec<Pattern>, factors_left: usize, budget: usize, found: &mut Vec<ChainPattern>) {
        if factors_left == 0 {
            return;
        }
        // Close the chain: d_L = 1, a_{L+1} = cols.
        if self.cols.is_multiple_of(self.a) {
            let (b, c) = (self.rank_before * self.d_before, self.cols / self.a);
            self.try_push(stack, [self.a, b, c, 1], budget, |stack, _| {
                found.extend(ChainPattern::new(stack.clone()));
            });
        }
        if factors_left == 1 {
            return;
        }
        for d in divisors(self.d_before) {
            for a_next in divisors(self.cols).into_iter().filter(|a| a % self.a == 0) {
                // A step that splits neither rows nor columns is a square block that fuses away.
                if d == self.d_before && a_next == self.a {
                    continue;
                }
                for rank in 1..=self.max_rank {
                    let b = self.rank_before * (self.d_before / d);
                    let c = rank * (a_next / self.a);
                    self.try_push(stack, [self.a, b, c, d], budget, |stack, budget| {
                        let next = Partial { a: a_next, d_before: d, rank_before: rank, ..*self };
                        next.extend(stack, factors_left - 1, budget, found);
                    });
                }
            }
        }
    }

    fn try_push(
        &self,
        stack: &mut Vec<Pattern>,
        [a, b, c, d]: [usize; 4],
        budget: usize,
        then: impl FnOnce(&mut Vec<Pattern>, usize),
    ) {
        let Ok(pattern) = Pattern::new(a, b, c, d) else { return };
        if pattern.nnz() > budget {
            return;
        }
        if let Some(left) = stack.last() {
            let rank = self.rank_before;
            if rank > left.b() || rank > c || (left.b() == rank && left.c() == rank) || (b == rank && c == rank) {
                return;
            }
        }
        stack.push(pattern);
        then(stack, budget - pattern.nnz());
        stack.pop();
    }
}

/// All divisors of `n`, ascending.
pub(crate) fn divisors(n: usize) -> Vec<usize> {
    let low: Vec<usize> = (1..).take_while(|d| d * d <= n).filter(|d| n.is_multiple_of(*d)).collect();
    let high = low.iter().rev().map(|d| n / d).filter(|d| d * d > n);
    low.iter().copied().chain(high).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_chains_are_chainable_and_have_the_right_size() {
        let monarch = ChainPattern::monarch(1536, 384, 24, 16).unwrap();
        assert_eq!(monarch.to_string(), "(1,24,16,64)(16,64,24,1)");
        assert_eq!(monarch.ranks().unwrap(), [1]);
        let dyadic = ChainPattern::square_dyadic(16).unwrap();
        assert_eq!(dyadic.to_string(), "(1,2,2,8)(2,2,2,4)(4,2,2,2)(8,2,2,1)");
        assert_eq!(dyadic.ranks().unwrap(), [1, 1, 1]);
        assert_eq!(ChainPattern::butterfly(&[8, 2]).unwrap().to_string(), "(1,8,8,2)(8,2,2,1)");
        assert!(
            ChainPattern::monarch(10, 10, 3, 5).unwrap_err().to_string().contains("p = 3 does not divide rows = 10")
        );
        assert!(ChainPattern::square_dyadic(12).is_err());
        assert!(ChainPattern::butterfly(&[]).is_err());
    }

    #[test]
    fn enumeration_finds_exactly_the_chainable_chains_of_the_shape() {
        let chains = ChainPattern::enumerate(12, 8, 3, 90, 2);
        for chain in &chains {
            assert!(chain.is_chainable(), "{chain}");
            assert_eq!((chain.rows(), chain.cols()), (12, 8), "{chain}");
            assert!(chain.parameters() <= 90);
            assert_eq!(chain.product(0..chain.patterns().len()).unwrap().shape(), [1, 12, 8, 1]);
        }
        let mut unique = chains.clone();
        unique.dedup();
        assert_eq!(unique.len(), chains.len());
        // Every Monarch chain within the budget is among them, but for those where a factor is a mere diagonal.
        for p in [2, 3, 4, 6] {
            for q in [2, 4] {
                let monarch = ChainPattern::monarch(12, 8, p, q).unwrap();
                assert_eq!(chains.contains(&monarch), monarch.parameters() <= 90, "{monarch}");
            }
        }
    }
}
