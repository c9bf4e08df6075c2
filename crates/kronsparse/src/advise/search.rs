//! The search space: which chains of a shape are worth a thought under a parameter budget.
//!
//! A chainable chain whose product is dense, `(1, rows, cols, 1)`, is fixed by its splits (see [`super::ranks`]): divisors
//! `rows = d_0, d_1, …, d_L = 1`, each dividing the one before, divisors `1 = a_1, a_2, …, a_{L+1} = cols`, each dividing the one
//! behind, and ranks `r_0 = 1, r_1, …, r_L = 1`. Its factors are `b_ℓ = r_{ℓ-1} d_{ℓ-1} / d_ℓ`, `c_ℓ = r_ℓ a_{ℓ+1} / a_ℓ`, and it has
//! `Σ r_{ℓ-1} r_ℓ d_{ℓ-1} a_{ℓ+1}` parameters. Redundant chains, `r_ℓ ≥ min(b_ℓ, c_{ℓ+1})` for some pair, are left out: two of
//! their factors could be multiplied together without more parameters.

use std::fmt;
use std::str::FromStr;

use crate::pattern::divisors;
use crate::{ChainPattern, Error, Pattern, Result};

/// A chain that is said to use a budget uses at least this share of it.
const USES: f64 = 0.9;
/// Longer chains split rows, and columns, in steps of which none is so many times another.
const UNEVEN: usize = 16;
/// So many sequences of steps, the most even ones, are looked at of rows and of columns.
const SEQUENCES: usize = 64;
/// So many ranks of one pair of splits are all looked at; of more, only round ones and the ends.
const ALL_RANKS: usize = 8;
/// Sizes above are refused: no linear layer has them, and their divisors would be looked for one by one.
const LARGEST: usize = 1 << 32;

/// How many parameters a chain may have, as shares of those of the dense matrix.
///
/// As text: `0.1..0.5` (or `0.1…0.5`), or one share such as `0.25`, which means 90 to 100 % of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    least: f64,
    most: f64,
}

impl Budget {
    /// Chains with at least `least` and at most `most` times the dense parameters; `0 ≤ least ≤ most ≤ 1`, `most > 0`.
    pub fn new(least: f64, most: f64) -> Result<Budget> {
        if least >= 0.0 && least <= most && most > 0.0 && most <= 1.0 {
            return Ok(Budget { least, most });
        }
        Err(Error::Unsupported {
            what: format!("a budget of {least}..{most}"),
            why: "expected shares of the dense parameters between 0 and 1, the smaller one first, such as 0.1..0.5"
                .into(),
        })
    }

    /// Chains that use a share of the dense parameters: 90 to 100 % of it.
    pub fn of_share(share: f64) -> Result<Budget> {
        Budget::new(USES * share, share)
    }

    /// The least share.
    pub fn least(&self) -> f64 {
        self.least
    }
    /// The largest share.
    pub fn most(&self) -> f64 {
        self.most
    }

    /// Fewest and most parameters for a shape.
    fn parameters(&self, rows: usize, cols: usize) -> (u128, u128) {
        let dense = rows as f64 * cols as f64;
        ((self.least * dense).ceil() as u128, (self.most * dense).floor() as u128)
    }
}

impl Default for Budget {
    /// A tenth to a half of the dense parameters.
    fn default() -> Budget {
        Budget { least: 0.1, most: 0.5 }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.least, self.most)
    }
}

impl FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Budget> {
        let number = |part: &str| {
            part.trim().parse::<f64>().map_err(|_| Error::Parse {
                what: "a budget",
                text: text.into(),
                why: "expected a share such as 0.25 or two of them such as 0.1..0.5".into(),
            })
        };
        match text.split_once("..").or_else(|| text.split_once('…')) {
            Some((least, most)) => Budget::new(number(least)?, number(most)?),
            None => Budget::of_share(number(text)?),
        }
    }
}

/// What is searched for a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// Parameters.
    pub budget: Budget,
    /// Factors at most, 1 to 4.
    pub max_factors: usize,
    /// Whether plain low rank (two dense factors) is among the chains.
    pub low_rank: bool,
    /// Whether single factors with `a·d > 1` are, such as block-diagonal ones: each output sees only a part of the inputs.
    pub partial: bool,
}

impl Default for Search {
    fn default() -> Search {
        Search { budget: Budget::default(), max_factors: 4, low_rank: true, partial: false }
    }
}

impl Search {
    /// All chains that are looked at for a `rows × cols` matrix, fewest parameters first: chainable, not redundant, within the
    /// budget, and
    ///
    /// * with one factor, where [`Search::partial`] asks for it: every pattern of this size with `a·d > 1`;
    /// * with more factors: none that only copies (`c = 1`) or only adds up (`b = 1`), but for low rank of rank 1;
    /// * with two factors: every cut into blocks; of the ranks that fit the budget all, if there are at most eight, otherwise the
    ///   smallest, the largest, those of the form `2^k` and `3·2^k`, and the largest multiples of 8, 16 and 64;
    /// * with three and four factors: one rank for all pairs, chosen in the same way, and steps `d_{ℓ-1}/d_ℓ` of which none is
    ///   more than sixteen times another, likewise `a_{ℓ+1}/a_ℓ`; the 64 most even sequences of each.
    ///
    /// Errors: a size of 0 or above 2³²; more factors than four; [`Error::NoChain`] where nothing fits, with a sentence that says why.
    pub fn chains(&self, rows: usize, cols: usize) -> Result<Vec<ChainPattern>> {
        for (what, size) in [("outputs", rows), ("inputs", cols)] {
            if size == 0 || size > LARGEST {
                let (what, why) =
                    (format!("a chain of {rows} × {cols}"), format!("expected 1 to {LARGEST} {what}, found {size}"));
                return Err(Error::Unsupported { what, why });
            }
        }
        Pattern::new(1, rows, cols, 1)?;
        self.check()?;
        let (least, most) = self.budget.parameters(rows, cols);
        let mut space = Space { rows, cols, least, most, low_rank: self.low_rank, found: Vec::new() };
        if self.partial {
            space.single()?;
        }
        let (by_rows, by_cols) = (divisors(rows), divisors(cols));
        if self.max_factors > 1 {
            space.pairs(&by_rows, &by_cols)?;
        }
        for factors in 3..=self.max_factors {
            space.longer(&by_rows, &by_cols, factors)?;
        }
        let mut found = space.found;
        found.sort_by_cached_key(|chain| (chain.parameters(), chain.clone()));
        found.dedup();
        if found.is_empty() {
            let why = self.why_nothing(rows, cols, by_rows.len(), by_cols.len());
            return Err(Error::NoChain { rows, cols, budget: self.budget.to_string(), why });
        }
        Ok(found)
    }

    /// What is wrong with it for any shape. Errors: no factors, more than four, or one where single factors are not wanted.
    pub fn check(&self) -> Result<()> {
        let why = match self.max_factors {
            2..=4 => return Ok(()),
            1 if self.partial => return Ok(()),
            1 => {
                "one factor that connects every output with every input is the dense matrix itself; allow more factors"
                    .into()
            }
            other => format!("expected 1 to 4 factors at most, found {other}"),
        };
        Err(Error::Unsupported { what: "a search for chains".into(), why })
    }

    fn why_nothing(&self, rows: usize, cols: usize, by_rows: usize, by_cols: usize) -> String {
        let (least, most) = self.budget.parameters(rows, cols);
        let fewest = rows as u128 + cols as u128;
        if most < fewest {
            return format!(
                "that is {most} parameters, and two factors that connect every output with every input take at least \
                 rows + cols = {fewest}; stay dense or raise the budget"
            );
        }
        let few = |size: usize, divisors: usize| {
            if divisors <= 2 { format!(" ({size} has no divisors)") } else { String::new() }
        };
        let (of_rows, of_cols) = (few(rows, by_rows), few(cols, by_cols));
        let low = if self.low_rank { "" } else { ", plain low rank being excluded," };
        format!(
            "no chain of up to {} factors{low} has {least} to {most} parameters; blocks must divide the outputs{of_rows} and \
             the inputs{of_cols}; widen the budget",
            self.max_factors
        )
    }
}

/// The search under way.
struct Space {
    rows: usize,
    cols: usize,
    least: u128,
    most: u128,
    low_rank: bool,
    found: Vec<ChainPattern>,
}

impl Space {
    /// Single factors `(a, rows/(a·d), cols/(a·d), d)`.
    fn single(&mut self) -> Result<()> {
        let dense = self.rows as u128 * self.cols as u128;
        for a in divisors(self.rows).into_iter().filter(|a| self.cols.is_multiple_of(*a)) {
            let (rows, cols) = (self.rows / a, self.cols / a);
            for d in divisors(rows).into_iter().filter(|d| cols.is_multiple_of(*d) && a * d > 1) {
                if (self.least..=self.most).contains(&(dense / (a as u128 * d as u128))) {
                    self.found.push(ChainPattern::new(vec![Pattern::new(a, rows / d, cols / d, d)?])?);
                }
            }
        }
        Ok(())
    }

    /// Two factors.
    fn pairs(&mut self, by_rows: &[usize], by_cols: &[usize]) -> Result<()> {
        for (&d, &a) in by_rows.iter().flat_map(|d| by_cols.iter().map(move |a| (d, a))) {
            if a * d == 1 && !self.low_rank {
                continue;
            }
            self.ranks_of(&[self.rows, d, 1], &[1, a, self.cols])?;
        }
        Ok(())
    }

    /// Three or four factors.
    fn longer(&mut self, by_rows: &[usize], by_cols: &[usize], factors: usize) -> Result<()> {
        let by_rows = even_steps(self.rows, by_rows, factors);
        let by_cols = even_steps(self.cols, by_cols, factors);
        for rows in &by_rows {
            // Divisors that fall, d_0 = rows … d_L = 1.
            let d: Vec<usize> = rows.iter().rev().copied().collect();
            for a in &by_cols {
                self.ranks_of(&d, a)?;
            }
        }
        Ok(())
    }

    /// The chains of one sequence of splits, with one rank for all pairs: `d = [rows, …, 1]`, `a = [1, …, cols]`.
    fn ranks_of(&mut self, d: &[usize], a: &[usize]) -> Result<()> {
        let count = d.len() - 1;
        let parameters = |rank: usize| -> u128 {
            let of = |at: usize| {
                let ranks = if at == 0 || at + 1 == count { 1 } else { 2 };
                (rank as u128).saturating_pow(ranks).saturating_mul(d[at] as u128 * a[at + 1] as u128)
            };
            (0..count).map(of).fold(0, u128::saturating_add)
        };
        if parameters(1) > self.most {
            return Ok(());
        }
        // Not redundant: rank < b_1 = d_0 / d_1 and rank < c_L = cols / a_L; between these, wherever rows and columns are split.
        let inner = (1..count).all(|at| (at == 1 || d[at - 1] > d[at]) && (at + 1 == count || a[at + 1] > a[at]));
        let largest = (d[0] / d[1]).min(a[count] / a[count - 1]) - 1;
        if !inner || largest == 0 {
            return Ok(());
        }
        // The number of ranks up to `largest` that keep a monotonic condition.
        let up_to = |keeps: &dyn Fn(usize) -> bool| {
            let (mut low, mut high) = (0, largest);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if keeps(middle) { low = middle } else { high = middle - 1 }
            }
            low
        };
        let most = up_to(&|rank| parameters(rank) <= self.most);
        let mut least = up_to(&|rank| parameters(rank) < self.least) + 1;
        // With rank 1 the outer factors would only copy (c_1 = 1) or only add up (b_L = 1).
        if (a[1] == 1 || d[count - 1] == 1) && !(count == 2 && a[1] * d[1] == 1) {
            least = least.max(2);
        }
        for rank in round_ranks(least, most) {
            let patterns = (0..count).map(|at| {
                let (before, behind) = (if at == 0 { 1 } else { rank }, if at + 1 == count { 1 } else { rank });
                Pattern::new(a[at], before * (d[at] / d[at + 1]), behind * (a[at + 1] / a[at]), d[at + 1])
            });
            self.found.push(ChainPattern::new(patterns.collect::<Result<_>>()?)?);
        }
        Ok(())
    }
}

/// Sequences `1 = s_0 | s_1 | … | s_factors = size` whose steps are even, see [`UNEVEN`], the most even ones first.
fn even_steps(size: usize, divisors: &[usize], factors: usize) -> Vec<Vec<usize>> {
    fn extend(divisors: &[usize], size: usize, left: usize, path: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        let last = path[path.len() - 1];
        if left == 1 {
            path.push(size);
            let steps = || path.windows(2).map(|pair| pair[1] / pair[0]);
            let (least, most) = (steps().min().unwrap_or(1), steps().max().unwrap_or(1));
            if most <= UNEVEN * least {
                found.push(path.clone());
            }
            path.pop();
            return;
        }
        // Even steps are near the left-th root of what is left: what is further away than UNEVEN cannot be evened out again.
        let root = ((size / last) as f64).powf(1.0 / left as f64);
        let limits = root / UNEVEN as f64 - 0.5..=root * UNEVEN as f64 + 0.5;
        for &next in divisors.iter().filter(|&&next| next.is_multiple_of(last)) {
            if limits.contains(&((next / last) as f64)) {
                path.push(next);
                extend(divisors, size, left - 1, path, found);
                path.pop();
            }
        }
    }
    let mut found = Vec::new();
    extend(divisors, size, factors, &mut vec![1], &mut found);
    let unevenness = |path: &Vec<usize>| {
        let steps = || path.windows(2).map(|pair| pair[1] / pair[0]);
        // A whole number, which sorts.
        let (most, least) = (steps().max().unwrap_or(1), steps().min().unwrap_or(1));
        ((most as f64 / least as f64 * 1e6) as u64, path.clone())
    };
    found.sort_by_cached_key(unevenness);
    found.truncate(SEQUENCES);
    found
}

/// The ranks of `least..=most` that are looked at.
fn round_ranks(least: usize, most: usize) -> Vec<usize> {
    if least > most {
        return Vec::new();
    }
    if most - least < ALL_RANKS {
        return (least..=most).collect();
    }
    let powers = (0..usize::BITS - 2).flat_map(|k| [1usize << k, 3 << k]);
    let multiples = [8, 16, 64].map(|m| most / m * m);
    let mut ranks: Vec<usize> = powers.chain(multiples).filter(|rank| (least..=most).contains(rank)).collect();
    ranks.extend([least, most]);
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

#[cfg(test)]
mod tests;
