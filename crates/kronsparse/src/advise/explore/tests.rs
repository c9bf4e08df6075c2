//! Chains that are found against the best of all: every chain of a space is planned.

use super::super::{Advice, Gpu, Objective, Options, Search, Target, advise, target::Case};
use super::*;
use crate::plan::gpu::Precision;
use crate::{DType, Layout};

/// The advice for a shape, and the cost of every chain of its space in every case, dense last.
fn all(rows: usize, cols: usize, dtype: DType, batches: &[usize], search: Search) -> (Advice, Vec<Vec<f64>>) {
    let target = Target::Gpu(Box::new(Gpu::h100()));
    let options = Options { batches: batches.to_vec(), search, ..Options::default() };
    let advice = advise(rows, cols, dtype, Precision::Full, &options, &target).unwrap();
    let case = |&batch| Case { dtype, precision: Precision::Full, layout: Layout::BatchFirst, batch };
    let cases: Vec<Case> = batches.iter().map(case).collect();
    let space = search.chains(rows, cols).unwrap();
    let costs = Estimator::new(&target, &cases, Objective::Time).costs(&space).unwrap();
    let seconds = costs.into_iter().map(|costs| costs.into_iter().map(|cost| cost.seconds).collect());
    (advice, seconds.collect())
}

#[test]
fn the_best_of_whole_spaces_is_found() {
    let search =
        |budget: &str, max_factors| Search { budget: budget.parse().unwrap(), max_factors, ..Search::default() };
    for (rows, cols, dtype, batches, search) in [
        (4096, 4096, DType::F16, &[1, 32, 2048][..], search("0.1..0.108", 2)),
        (14336, 4096, DType::F16, &[2048], search("0.1..0.105", 2)),
        (1024, 1024, DType::F16, &[25088], search("0.1..0.106", 4)),
        (256, 384, DType::F32, &[64, 4096], search("0.1..0.13", 3)),
    ] {
        let (advice, all) = all(rows, cols, dtype, batches, search);
        for (at, verdict) in advice.verdicts().iter().enumerate() {
            let found = advice.chains()[verdict.best.unwrap()].costs[at].seconds;
            let best = all.iter().map(|costs| costs[at]).fold(f64::INFINITY, f64::min);
            println!("{rows} × {cols} n={}: {found:.3e} s, best of {}: {best:.3e} s", batches[at], all.len());
            assert!(found <= 1.05 * best, "{rows} × {cols} {dtype} n={}: {found} s, possible {best} s", batches[at]);
        }
        let mean = |costs: &[f64]| (costs.iter().map(|x| x.ln()).sum::<f64>() / costs.len() as f64).exp();
        let chosen: Vec<f64> =
            advice.chains()[advice.overall().best.unwrap()].costs.iter().map(|cost| cost.seconds).collect();
        let best = all.iter().map(|costs| mean(costs)).fold(f64::INFINITY, f64::min);
        assert!(mean(&chosen) <= 1.05 * best, "{rows} × {cols} {dtype}: {chosen:?}, possible {best} s in the mean");
    }
}
