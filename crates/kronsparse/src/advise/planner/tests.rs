//! The planner's memory against the planner itself, and the bounds against its estimates, on random chains.

use super::*;
use crate::plan::gpu::{CALL, ChainPlan, Precision};
use crate::{DType, Layout};

fn case(dtype: DType, layout: Layout, batch: usize) -> Case {
    Case { dtype, precision: Precision::Full, layout, batch }
}

/// Chains of two to four factors with sizes of all kinds.
fn random_chain() -> ChainPattern {
    let count = fastrand::usize(2..=4);
    let size = |most: usize| match fastrand::u8(0..3) {
        0 => fastrand::usize(1..=most),
        _ => 1 << fastrand::usize(0..=most.ilog2() as usize),
    };
    if fastrand::bool() {
        // What kernels with tensor maps multiply by.
        let of = |sizes: std::ops::RangeInclusive<u32>| 1usize << fastrand::u32(sizes);
        return ChainPattern::monarch(of(9..=12), of(9..=12), of(4..=7), of(4..=7)).unwrap();
    }
    loop {
        // Right to left, each taking what the one before gives.
        let first = Pattern::new(size(64), size(256), size(256), if fastrand::bool() { 1 } else { size(16) }).unwrap();
        let mut patterns = vec![first];
        while patterns.len() < count {
            let width = patterns[0].rows();
            let a = fastrand::choice(crate::pattern::divisors(width)).unwrap();
            let d = if fastrand::bool() { 1 } else { fastrand::choice(crate::pattern::divisors(width / a)).unwrap() };
            patterns.insert(0, Pattern::new(a, size(128), width / a / d, d).unwrap());
        }
        if patterns.iter().all(|p| p.rows() < 20_000 && p.nnz() < 4 << 20) {
            return ChainPattern::new(patterns).unwrap();
        }
    }
}

#[test]
fn estimates_are_those_of_whole_plans() {
    let gpu = Gpu::h100();
    for dtype in [DType::F16, DType::F32] {
        for (layout, batch) in [(Layout::BatchFirst, 1), (Layout::BatchFirst, 25088), (Layout::BatchLast, 300)] {
            let case = case(dtype, layout, batch);
            let chains: Vec<ChainPattern> = (0..4).map(|_| random_chain()).collect();
            let costs = costs(&mut [Planner::new(&gpu, case)], &chains).unwrap();
            for (chain, costs) in chains.iter().zip(costs) {
                let plan = ChainPlan::new(&gpu.problem(chain, &case), &gpu.machine, gpu.library_bytes()).unwrap();
                let (seconds, steps) = (plan.seconds_of_cuts() + CALL, plan.steps_of_cuts());
                assert!((costs[0].seconds / seconds - 1.0).abs() < 1e-12, "{chain} {case:?}: {costs:?}, {seconds}");
                let names: Vec<&str> = costs[0].how.split(", then ").map(|n| n.split(' ').next().unwrap()).collect();
                assert_eq!(names, steps.iter().map(|step| step.name).collect::<Vec<_>>(), "{chain} {case:?}");
            }
        }
    }
}

#[test]
fn no_kernel_for_several_factors_is_estimated_below_its_bound() {
    let gpu = Gpu::h100();
    let mut plans = [0; FusedPlan::FAMILIES.len()];
    for _ in 0..150 {
        let dtype = [DType::F16, DType::F16, DType::F32][fastrand::usize(0..3)];
        let layout = if fastrand::u8(0..4) == 0 { Layout::BatchLast } else { Layout::BatchFirst };
        let case = case(dtype, layout, [1, 32, 1000, 2048, 25088][fastrand::usize(0..5)]);
        let (chain, planner) = (random_chain(), Planner::new(&gpu, case));
        for (family, name) in FusedPlan::FAMILIES.iter().enumerate() {
            let (bound, step) = (planner.least(By::Several(family), chain.patterns()), By::Several(family));
            if let Some(step) = planner.step(step, chain.patterns()).unwrap() {
                let bound = bound.unwrap_or(f64::INFINITY);
                assert!(
                    step.seconds >= bound,
                    "{chain} {case:?} by {name}: {} s, the bound is {bound} s",
                    step.seconds
                );
                plans[family] += 1;
            }
        }
    }
    assert!(plans.iter().all(|&count| count > 0), "{plans:?}: a family was never asked");
}

#[test]
fn kernels_for_one_factor_are_hardly_below_their_bound() {
    let gpu = Gpu::h100();
    let mut ratios = Vec::new();
    for batch in [1, 32, 2048, 25088] {
        let planner = Planner::new(&gpu, case(DType::F16, Layout::BatchFirst, batch));
        for pattern in (0..3).flat_map(|_| random_chain().patterns().to_vec()) {
            let step = planner.step(By::One, &[pattern]).unwrap().unwrap();
            let ratio = step.seconds / planner.least(By::One, &[pattern]).unwrap();
            assert!(ratio > 0.85, "{pattern} n={batch}: {ratio:.2} of the bound");
            ratios.push(ratio);
        }
    }
    let below = ratios.iter().filter(|&&ratio| ratio < 1.0).count();
    assert!(below * 4 < ratios.len(), "{below} of {} are below", ratios.len());
}
