//! Which neighbouring factors are multiplied together once, before anything else is multiplied: a butterfly of ten factors of
//! 2 × 2 blocks is two of 32 × 32, which read and write the hidden vectors once instead of nine times.

use std::ops::Range;

use super::{ChainProblem, FusedPlan, GpuMachine, Precision};
use crate::{ChainPattern, DType, Layout, Pattern};

/// A product may have so many times the weights of its factors: more would be another matrix in memory, not the same one.
const MOST_WEIGHTS: usize = 8;
/// Vectors for which the groups are chosen: as many as hide the launches, whatever comes later.
const VECTORS: usize = 8192;
/// Seconds of a launch with its first and last tile, and how far kernels stay behind memory and arithmetic at their best;
/// round numbers, from `record/2026-11-22-h100`.
const LAUNCH: f64 = 3e-6;
const BEHIND_MEMORY: f64 = 1.4;
const BEHIND_FLOPS: f64 = 2.0;

/// The groups in chain order; every factor is in one of them. Groups of one factor stay as they are.
pub fn groups(chain: &ChainPattern, dtype: DType, precision: Precision, machine: &GpuMachine) -> Vec<Range<usize>> {
    let patterns = chain.patterns();
    let count = patterns.len();
    // products[from][to - from - 1]: the product of factors from..to, where it may be formed.
    let products: Vec<Vec<Option<Pattern>>> =
        (0..count).map(|from| (from + 1..=count).map(|to| allowed(chain, from..to)).collect()).collect();
    let product = |range: &Range<usize>| products[range.start][range.len() - 1];
    // least[at]: the last group of the best way to multiply by factors at.., which are applied before all others, and its time.
    let mut least: Vec<(f64, Vec<Range<usize>>)> = vec![(f64::INFINITY, Vec::new()); count];
    least.push((0.0, Vec::new()));
    for at in (0..count).rev() {
        let mut best = (f64::INFINITY, Vec::new());
        let mut offer = |seconds: f64, first: &[Range<usize>], rest: &[Range<usize>]| {
            if seconds < best.0 {
                best = (seconds, [first, rest].concat());
            }
        };
        for end in at + 1..=count {
            let left = at..end;
            let Some(second) = product(&left) else { continue };
            let (rest, groups) = &least[end];
            offer(rest + single(second, dtype, precision, machine), std::slice::from_ref(&left), groups);
            // The next group may share a kernel with this one.
            for (further, (rest, groups)) in least.iter().enumerate().skip(end + 1) {
                let right = end..further;
                let together = product(&right).and_then(|first| pair(first, second, dtype, precision, machine));
                if let Some(together) = together {
                    offer(rest + together, &[left.clone(), right], groups);
                }
            }
        }
        least[at] = best;
    }
    least.swap_remove(0).1
}

/// The product of factors `range`, where they are chainable and it does not have too many weights.
fn allowed(chain: &ChainPattern, range: Range<usize>) -> Option<Pattern> {
    let product = chain.product(range.clone()).ok()?;
    let weights: usize = chain.patterns()[range.clone()].iter().map(|pattern| pattern.nnz()).sum();
    (range.len() == 1 || product.nnz() <= MOST_WEIGHTS * weights).then_some(product)
}

/// Estimated seconds of one kernel for one factor.
fn single(pattern: Pattern, dtype: DType, precision: Precision, machine: &GpuMachine) -> f64 {
    let peak = match (dtype, precision) {
        (DType::F16 | DType::Bf16, _) => machine.flops.half,
        (DType::F32, Precision::Tf32) => machine.flops.tf32,
        (DType::F32, Precision::Full) => machine.flops.tf32 / 3.0,
        _ => machine.flops.f64,
    };
    let memory = pattern.bytes(VECTORS, dtype.size()) / machine.bytes_per_second * BEHIND_MEMORY;
    LAUNCH + memory.max(pattern.flops(VECTORS) / peak * BEHIND_FLOPS)
}

/// Estimated seconds of one kernel for two factors, where there is one.
fn pair(first: Pattern, second: Pattern, dtype: DType, precision: Precision, machine: &GpuMachine) -> Option<f64> {
    let chain = ChainPattern::new(vec![second, first]).ok()?;
    let problem = ChainProblem { precision, ..ChainProblem::new(chain, dtype, Layout::BatchFirst, VECTORS) };
    FusedPlan::choose(&problem, machine).ok().map(|plan| plan.seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(chain: &ChainPattern, dtype: DType) -> Vec<String> {
        let groups = groups(chain, dtype, Precision::Full, &GpuMachine::h100());
        assert_eq!(groups.first().map(|group| group.start), Some(0));
        assert_eq!(groups.last().map(|group| group.end), Some(chain.patterns().len()));
        assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start), "{groups:?}");
        groups.into_iter().map(|group| chain.product(group).unwrap().to_string()).collect()
    }

    #[test]
    fn a_butterfly_of_ten_factors_becomes_two() {
        let butterfly = ChainPattern::square_dyadic(1024).unwrap();
        assert_eq!(found(&butterfly, DType::F32), ["(1,32,32,32)", "(32,32,32,1)"]);
        // In 16 bits both go through one kernel, which has its own taste.
        assert_eq!(found(&butterfly, DType::F16).len(), 2);
        // The product of all would be dense: half a million weights become 64 million.
        let large = found(&ChainPattern::square_dyadic(8192).unwrap(), DType::F16);
        assert!((2..=4).contains(&large.len()), "{large:?}");
    }

    #[test]
    fn large_factors_stay_apart() {
        let monarch: ChainPattern = ChainPattern::monarch(4096, 4096, 64, 64).unwrap();
        assert_eq!(found(&monarch, DType::F16).len(), 2);
        let one = ChainPattern::new(vec!["3,5,7,11".parse().unwrap()]).unwrap();
        assert_eq!(found(&one, DType::F64), ["(3,5,7,11)"]);
        // Not chainable: nothing may be multiplied together.
        let odd = ChainPattern::new(vec!["2,3,2,1".parse().unwrap(), "1,2,5,2".parse().unwrap()]).unwrap();
        assert!(!odd.is_chainable());
        assert_eq!(found(&odd, DType::F32), ["(2,3,2,1)", "(1,2,5,2)"]);
    }
}
