//! Whole advices: problems whose answer is obvious, what is measured, what is refused.

use super::calibration::tests::made_up;
use super::*;

fn h100() -> Target {
    Target::Gpu(Box::new(Gpu::h100()))
}

/// 200 GFLOP/s and 30 GB/s, whatever the machine has.
fn cpu() -> Target {
    Target::Cpu(Box::new(made_up()))
}

fn options(batches: &[usize], budget: &str) -> Options {
    let search = Search { budget: budget.parse().unwrap(), ..Search::default() };
    Options { batches: batches.to_vec(), search, ..Options::default() }
}

#[test]
fn large_layers_and_batches_take_a_chain_and_small_ones_stay_dense() {
    let full = Precision::Full;
    // Memory- and compute-bound throughout: a tenth of the work is worth it on either machine.
    for target in [h100(), cpu()] {
        let dtype = if matches!(target, Target::Cpu(_)) { DType::F32 } else { DType::F16 };
        let advice = advise(4096, 14336, dtype, full, &options(&[2048], "0.05..0.1"), &target).unwrap();
        let verdict = &advice.verdicts()[0];
        assert!(!verdict.stay_dense && verdict.gain > 3.0, "{}", verdict.sentence);
        assert!(verdict.sentence.starts_with("For 2048 vectors take ("), "{}", verdict.sentence);
        assert!(verdict.sentence.contains("times as fast as the dense matrix (predicted "), "{}", verdict.sentence);
        assert!(!verdict.too_close, "{}", verdict.sentence);
        let richest = "Of the chains listed, the one with the most parameters that still gains: ";
        assert_eq!(verdict.richest != verdict.best, verdict.sentence.contains(richest), "{}", verdict.sentence);
        let best = &advice.chains()[verdict.best.unwrap()];
        let dense = advice.dense().costs[0].seconds;
        assert!((dense / best.costs[0].seconds / verdict.gain - 1.0).abs() < 1e-12);
        assert!(advice.chains().iter().all(|way| way.costs[0].seconds >= best.costs[0].seconds));
    }
    // A tiny layer on a GPU: launches are all that it takes, and a chain has one more.
    let tiny = advise(64, 64, DType::F16, full, &options(&[1, 256], "0.5..0.9"), &h100()).unwrap();
    for verdict in tiny.verdicts().iter().chain([tiny.overall()]) {
        assert!(verdict.stay_dense && verdict.gain < 1.0, "{}", verdict.sentence);
        assert!(verdict.sentence.contains("stay dense: the best chain, ("), "{}", verdict.sentence);
        assert!(verdict.sentence.contains("slower by a factor of "), "{}", verdict.sentence);
        let said = verdict.sentence.contains("Too close to call: estimated gains were ");
        assert_eq!(verdict.too_close, spread::GPU_SMALL.is_too_close(verdict.gain));
        assert_eq!(verdict.too_close, said, "{}", verdict.sentence);
    }
    assert!(tiny.verdicts()[0].too_close, "{}", tiny.verdicts()[0].sentence);
    let said = &tiny.verdicts()[0].sentence;
    assert!(said.contains("times fewer operations, but takes ") && said.contains("in 2 steps"), "{said}");
    // Nothing but input and output to move: the cheapest chain cannot be faster than that.
    let thin = advise(1 << 16, 4, DType::F32, full, &options(&[4096], "0.5..0.9"), &cpu()).unwrap();
    assert!(thin.overall().stay_dense, "{}", thin.overall().sentence);
}

#[test]
fn chains_come_with_ranks_work_and_bytes() {
    let advice = advise(1024, 768, DType::F16, Precision::Full, &options(&[1, 100], "0.1..0.4"), &h100()).unwrap();
    assert!(advice.looked_at() > advice.chains().len() && advice.chains().len() > 3);
    for way in advice.chains() {
        let share = way.chain.density();
        assert!((0.1..=0.4).contains(&share), "{}", way.chain);
        assert_eq!(way.splits.len() + 1, way.chain.patterns().len());
        assert!(way.splits.iter().zip(way.chain.ranks().unwrap()).all(|(split, rank)| split.rank == rank));
        assert!(way.rank <= 768 && (way.family != Family::LowRank || way.rank == way.splits[0].rank));
        for (cost, batch) in way.costs.iter().zip([1.0, 100.0]) {
            assert_eq!(cost.flops, 2.0 * batch * way.chain.parameters() as f64);
            assert_eq!(cost.memory.weights, 2.0 * way.chain.parameters() as f64);
            assert!(cost.memory.activations >= 2.0 * batch * 1792.0 && cost.seconds > 0.0);
        }
    }
    let names: Vec<String> = advice.chains().iter().map(|way| way.chain.to_string()).collect();
    let unique: std::collections::HashSet<&String> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    assert!(advice.caveat().contains("healing") && advice.caveat().contains("kronsparse factorize"));
    assert!(advice.promising(2).len() <= 4 && !advice.promising(2).is_empty());
}

#[test]
fn budgets_and_kinds_that_are_not_wanted_do_not_come() {
    let low_rank = |way: &Candidate| way.family == Family::LowRank;
    let mut options = options(&[256], "0.2..0.3");
    let with = advise(512, 512, DType::F32, Precision::Full, &options, &cpu()).unwrap();
    assert!(with.chains().iter().any(low_rank), "{:?}", with.chains());
    options.search = Search { low_rank: false, partial: true, ..options.search };
    let without = advise(512, 512, DType::F32, Precision::Full, &options, &cpu()).unwrap();
    assert!(!without.chains().iter().any(low_rank));
    let partial = without.chains().iter().find(|way| way.family == Family::Partial).expect("a factor of density 1/4");
    assert_eq!(partial.chain.density(), 0.25);
    let best = without.overall().best.unwrap();
    if without.chains()[best].family == Family::Partial {
        assert!(without.caveat().contains("of the 512 inputs only"), "{}", without.caveat());
    }
}

#[test]
fn what_is_measured_decides() {
    let mut advice = advise(1024, 1024, DType::F32, Precision::Full, &options(&[8, 512], "0.1..0.3"), &cpu()).unwrap();
    let (predicted, before) = (advice.verdicts().to_vec(), advice.overall().clone());
    let measured = |seconds| Measured { seconds, joules: None };
    // The dense matrix alone decides nothing.
    advice.set_measured(None, 1, measured(1e-3)).unwrap();
    assert_eq!(advice.verdicts(), predicted);
    let last = advice.chains().len() - 1;
    advice.set_measured(Some(last), 1, measured(2e-3)).unwrap();
    let verdict = &advice.verdicts()[1];
    assert!(verdict.measured && verdict.stay_dense && verdict.best == Some(last) && verdict.gain == 0.5);
    assert!(verdict.sentence.contains("slower by a factor of 2.00 (measured 2.00 ms against 1.00 ms dense)"));
    assert_eq!(advice.verdicts()[0], predicted[0], "the other number of vectors was not measured");
    // Estimates and measurements are not averaged.
    assert!(!advice.overall().measured && advice.overall().gain == before.gain, "{}", advice.overall().sentence);
    assert!(advice.overall().sentence.contains("by estimates alone: not every number of vectors was measured"));
    advice.set_measured(Some(0), 1, measured(1e-4)).unwrap();
    assert_eq!((advice.verdicts()[1].best, advice.verdicts()[1].stay_dense), (Some(0), false));
    assert!((advice.verdicts()[1].gain - 10.0).abs() < 1e-12);
    // 4 % are a tie.
    advice.set_measured(Some(0), 1, measured(0.961e-3)).unwrap();
    assert!(advice.verdicts()[1].stay_dense && advice.verdicts()[1].sentence.contains("only 4.1 % better"));
    for (chain, at, seconds) in [(Some(0), 2, 1.0), (Some(last + 1), 0, 1.0), (None, 0, 0.0), (None, 0, f64::NAN)] {
        assert!(advice.set_measured(chain, at, measured(seconds)).is_err());
    }
    // All of both measured: the mean of a gain of 4 and a loss of 2.
    for (chain, at, seconds) in [(None, 0, 4e-5), (Some(0), 0, 1e-5), (Some(0), 1, 2e-3)] {
        advice.set_measured(chain, at, measured(seconds)).unwrap();
    }
    assert!(advice.overall().measured);
    let mean = (4.0f64 * 0.5).sqrt();
    assert!((advice.overall().gain - mean).abs() < 1e-12, "{}", advice.overall().sentence);
    assert!(advice.overall().sentence.contains("It loses with batches of 512."), "{}", advice.overall().sentence);
}

#[test]
fn energy_is_estimated_where_there_is_a_basis_and_refused_elsewhere() {
    let energy = Options { objective: Objective::Energy, ..options(&[25088], "0.03..0.3") };
    let advice = advise(4096, 4096, DType::F16, Precision::Full, &energy, &h100()).unwrap();
    let dense = advice.dense().costs[0].joules.clone().unwrap();
    assert!((dense / (advice.dense().costs[0].seconds - crate::plan::gpu::CALL) - energy::DENSE).abs() < 1e-6);
    assert!(!advice.verdicts()[0].stay_dense && advice.verdicts()[0].sentence.contains("times the energy"));
    let refused = |batch: usize, dtype: DType, target: &Target| {
        let options = Options { batches: vec![batch], ..energy.clone() };
        advise(4096, 4096, dtype, Precision::Full, &options, target).unwrap_err().to_string()
    };
    let short = refused(1, DType::F16, &h100());
    assert!(short.contains("objective energy for 1 vector ") && short.contains("40 µs and more"), "{short}");
    assert!(refused(25088, DType::F64, &h100()).contains("not of f64"));
    assert!(refused(25088, DType::F32, &cpu()).contains("no power of a CPU"));
}

#[test]
fn a_chain_whose_energy_is_not_known_is_not_left_out_in_silence() {
    // The dense matrix takes 100 µs, the best chains less than the 40 µs of which power is known.
    let energy = Options { objective: Objective::Energy, ..options(&[2048, 25088], "0.1..0.5") };
    let advice = advise(4096, 4096, DType::F16, Precision::Full, &energy, &h100()).unwrap();
    let [short, long] = advice.verdicts() else { panic!("two verdicts") };
    let fastest = advice.chains().iter().min_by(|x, y| x.costs[0].seconds.total_cmp(&y.costs[0].seconds)).unwrap();
    assert!(fastest.costs[0].joules.is_err() && advice.dense().costs[0].joules.is_ok());
    assert!(advice.chains().iter().any(|way| way.costs[0].joules.is_ok()), "a slower one could have been recommended");
    let why = short.unknown.as_deref().expect("no verdict");
    assert!(why.contains(&fastest.chain.to_string()) && why.contains("40 µs and more"), "{why}");
    assert!(short.best.is_none() && short.sentence.starts_with("For 2048 vectors there is no verdict: "));
    assert!(long.unknown.is_none() && long.best.is_some(), "{}", long.sentence);
    let overall = advice.overall();
    assert!(
        overall.best.is_none() && overall.sentence.contains("no basis for batches of 2048"),
        "{}",
        overall.sentence
    );
    // Joules and seconds do not compare: the chains stand in the order of time.
    let mean = |way: &Candidate| way.costs.iter().map(|cost| cost.seconds.ln()).sum::<f64>();
    assert!(advice.chains().is_sorted_by(|x, y| mean(x) <= mean(y) + 1e-12));
    // Where nothing has a figure, that is the answer.
    let alone = Options { batches: vec![2048], ..energy };
    let refused = advise(4096, 4096, DType::F16, Precision::Full, &alone, &h100()).unwrap_err().to_string();
    assert!(
        refused.contains("the objective energy for 2048 vectors") && refused.contains("chains listed"),
        "{refused}"
    );
}

#[test]
fn reasons_are_those_of_the_figures() {
    let reason = |rows, cols, dtype, batch: usize, budget: &str, target: &Target| {
        let options = options(&[batch], budget);
        let advice = advise(rows, cols, dtype, Precision::Full, &options, target).unwrap();
        let way = &advice.chains()[advice.overall().best.unwrap()];
        (words::why_little(&advice, way, 0).unwrap_or_default(), way.costs[0].clone(), advice.dense().costs[0].clone())
    };
    // Bound by arithmetic throughout: nine tenths of the operations, and no word of bytes.
    let (why, mine, dense) = reason(4096, 4096, DType::F32, 4096, "0.85..0.95", &cpu());
    assert!(mine.flops / dense.flops > 0.84 && why.contains("% of the operations of the dense matrix"), "{why}");
    // A vector: the weights are what moves, and a tenth of them is fewer bytes.
    let (why, mine, dense) = reason(4096, 4096, DType::F32, 1, "0.1..0.2", &cpu());
    assert!(mine.bytes < 0.3 * dense.bytes && !why.contains("as many bytes"), "{why}");
    // Input and output are nearly all there is to move.
    let (why, mine, dense) = reason(1 << 16, 4, DType::F32, 4096, "0.5..0.9", &cpu());
    assert!(mine.bytes > 0.8 * dense.bytes && why.contains("most of them input and output vectors"), "{why}");
    // Far from its roofline: the sentence has the figures.
    let (why, mine, dense) = reason(64, 64, DType::F16, 1, "0.5..0.9", &h100());
    let over = mine.seconds / (mine.bytes / 3.35e12).max(mine.flops / 1e15);
    assert!(why.contains(&format!("takes {over:.1} times as long")), "{why}, expected {over}");
    assert!(why.contains(&format!("{:.1} times fewer operations", dense.flops / mine.flops)), "{why}");
}

#[test]
fn the_engines_limit_holds_for_a_chain_and_not_for_the_dense_matrix() {
    let gpu = Gpu::h100();
    assert_eq!(gpu.libraries, Ok(crate::cuda::Options::<f32>::default().memory_limit));
    // 8 GiB of weights: the engine asks no library for them, a framework does.
    let case = Case { dtype: DType::F16, precision: Precision::Full, layout: Layout::BatchFirst, batch: 1024 };
    let large = ChainPattern::new(vec![Pattern::new(1, 1 << 16, 1 << 16, 1).unwrap()]).unwrap();
    assert!(!h100().chain(&large, &case).unwrap().how.contains("cuBLAS"));
    assert!(h100().dense(1 << 16, 1 << 16, &case).unwrap().how.contains("cuBLAS"));
}

#[test]
fn what_is_wrong_for_any_shape_is_not_a_shape_without_a_chain() {
    let wrong = |change: &dyn Fn(&mut Options)| {
        let mut options = options(&[4], "0.1..0.5");
        change(&mut options);
        let refused = options.check().unwrap_err();
        let of_shape = advise(64, 64, DType::F16, Precision::Full, &options, &h100()).unwrap_err();
        assert_eq!(refused.to_string(), of_shape.to_string());
        assert!(matches!(of_shape, Error::Unsupported { .. }), "{of_shape:?}");
        refused.to_string()
    };
    assert!(wrong(&|o| o.search.max_factors = 9).contains("1 to 4 factors at most, found 9"));
    assert!(wrong(&|o| o.search.max_factors = 0).contains("found 0"));
    assert!(wrong(&|o| o.search.max_factors = 1).contains("dense matrix itself"));
    assert!(wrong(&|o| o.batches = vec![0]).contains("at least one vector"));
    assert!(wrong(&|o| o.batches = vec![usize::MAX / 4]).contains("address space"));
    let none = advise(3, 2, DType::F16, Precision::Full, &options(&[4], "0.1..0.5"), &h100()).unwrap_err();
    assert!(matches!(none, Error::NoChain { rows: 3, cols: 2, .. }), "{none:?}");
}

#[test]
fn energy_without_an_estimate_can_be_measured() {
    let mut advice = advise(1024, 1024, DType::F16, Precision::Full, &options(&[1], "0.1..0.3"), &h100()).unwrap();
    assert!(advice.set_objective(Objective::Energy).unwrap_err().to_string().contains("40 µs and more"));
    assert_eq!(advice.options().objective, Objective::Time);
    for (chain, joules) in [(None, 4e-4), (Some(1), 1e-4)] {
        advice.set_measured(chain, 0, Measured { seconds: 5e-6, joules: Some(joules) }).unwrap();
    }
    assert!(advice.overall().stay_dense, "the same time");
    advice.set_objective(Objective::Energy).unwrap();
    assert!((advice.overall().gain - 4.0).abs() < 1e-12 && advice.overall().best == Some(1));
    assert!(
        advice.verdicts()[0].sentence.contains("(measured 100 µJ against 400 µJ dense)"),
        "{:?}",
        advice.verdicts()
    );
}

#[test]
fn memory_counts_weights_and_vectors() {
    let memory = Options { objective: Objective::Memory, ..options(&[1, 100_000], "0.1..0.2") };
    let advice = advise(2048, 2048, DType::F32, Precision::Full, &memory, &cpu()).unwrap();
    let [one, many] = advice.verdicts() else { panic!("two verdicts") };
    assert!(!one.stay_dense && one.gain > 4.0, "{}", one.sentence);
    assert!(many.stay_dense && many.gain > 1.0, "{}", many.sentence);
    assert!(many.sentence.contains("take most of the memory either way"), "{}", many.sentence);
    let best = &advice.chains()[one.best.unwrap()];
    let fewest = advice.chains().iter().map(|way| way.chain.parameters()).min().unwrap();
    assert_eq!(best.chain.parameters(), fewest);
    assert_eq!(best.costs[0].memory.bytes(), 4.0 * (fewest as f64 + 4096.0));
}

#[test]
fn nonsense_is_refused_in_a_sentence() {
    let refused = |rows, cols, dtype, precision, batches: &[usize], target: &Target| {
        advise(rows, cols, dtype, precision, &options(batches, "0.1..0.5"), target).unwrap_err().to_string()
    };
    let full = Precision::Full;
    assert!(refused(64, 64, DType::F32, full, &[], &cpu()).contains("found none"));
    assert!(refused(64, 64, DType::F32, full, &[4, 0], &cpu()).contains("at least one vector"));
    assert!(refused(64, 64, DType::F32, full, &[usize::MAX], &h100()).contains("address space"));
    assert!(refused(64, 64, DType::C64, full, &[4], &h100()).contains("advice for c64"));
    assert!(refused(64, 64, DType::F32, Precision::Tf32, &[4], &cpu()).contains("only GPUs"));
    assert!(refused(0, 64, DType::F32, full, &[4], &cpu()).contains("at least 1"));
    assert!(refused(3, 2, DType::F32, full, &[4], &cpu()).contains("stay dense or raise the budget"));
    assert!("speed".parse::<Objective>().unwrap_err().to_string().contains("expected time, energy or memory"));
}
