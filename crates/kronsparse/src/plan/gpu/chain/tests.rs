//! What `auto` decides for whole chains, without a GPU.

use super::*;

/// Batch-first, aligned, without bias: what the tests of plans for chains begin with.
pub(in crate::plan::gpu) fn problem(chain: &str, dtype: DType, batch: usize) -> ChainProblem {
    let chain = ChainPattern::new(chain.split_inclusive(')').map(|p| p.parse().unwrap()).collect()).unwrap();
    ChainProblem::new(chain, dtype, Layout::BatchFirst, batch)
}

fn plan_of(problem: &ChainProblem, libraries: Option<usize>) -> ChainPlan {
    ChainPlan::new(problem, &GpuMachine::h100(), libraries).unwrap()
}

fn plan(chain: &str, dtype: DType, batch: usize) -> ChainPlan {
    plan_of(&problem(chain, dtype, batch), Some(4 << 30))
}

fn parts(plan: &ChainPlan) -> Vec<Part> {
    plan.steps().iter().map(|step| step.part).collect()
}

const MONARCH: &str = "(1,64,64,64)(64,64,64,1)";

#[test]
fn a_large_batch_of_a_16_bit_monarch_chain_is_one_kernel() {
    let plan = plan(MONARCH, DType::F16, 25088);
    let steps = plan.steps();
    assert_eq!(parts(&plan), [Part::Together(Cut { at: 0, count: 2 })]);
    assert_eq!((steps[0].name, plan.name(steps[0].part).as_str()), ("pair_wgmma", "(1,64,64,64) after (64,64,64,1)"));
    assert!(steps[0].to_string().starts_with("pair_wgmma: "), "{}", steps[0]);
    assert!((200e-6..260e-6).contains(&plan.seconds()), "{}", plan.seconds());
    assert!(plan.seconds_apart().unwrap() > 1.2 * plan.seconds());
    assert!(plan.dense().unwrap().seconds > 3.0 * plan.seconds());
}

#[test]
fn one_vector_goes_factor_by_factor_the_lanes_by_the_narrow_kernel() {
    let plan = plan(MONARCH, DType::F16, 1);
    assert_eq!(parts(&plan), [Part::Factor(1), Part::Factor(0)]);
    // Without lanes a strided product of cuBLAS is as quick.
    assert_eq!(plan.steps()[1].name, "narrow");
    let narrow = plan.ways(1).iter().find(|way| way.name() == "narrow").unwrap();
    assert!(narrow.seconds < 1.5 * plan.steps()[0].seconds, "{narrow}");
    assert!(plan.together(Cut { at: 0, count: 2 }).unwrap().seconds() > plan.seconds());
}

#[test]
fn large_f32_chains_go_factor_by_factor_and_every_family_says_why() {
    let plan = plan(MONARCH, DType::F32, 25088);
    assert_eq!(parts(&plan), [Part::Factor(1), Part::Factor(0)]);
    let why = plan.together(Cut { at: 0, count: 2 }).unwrap_err().to_string();
    assert!(
        why.contains("pair_wgmma: the kernel does not multiply f32") && why.contains("chain_mma: the tile needs"),
        "{why}"
    );
    assert_eq!(Some(plan.seconds()), plan.seconds_apart().map(|apart| CALL + apart));
}

#[test]
fn many_small_factors_of_a_small_matrix_are_one_dense_product() {
    let chain = "(1,4,4,256)(4,4,4,64)(16,4,4,16)(64,4,4,4)(256,4,4,1)";
    let dense = plan(chain, DType::F16, 64);
    assert_eq!(parts(&dense), [Part::Whole]);
    assert_eq!((dense.steps()[0].name, dense.name(Part::Whole).as_str()), ("dense", chain));
    assert!(dense.seconds() < CALL + dense.seconds_of_cuts());
    // Without libraries, or without memory for the matrix, the same chain takes its factors.
    for (libraries, why) in [(None, "no cuBLAS"), (Some(1 << 20), "the limit is 1048576")] {
        let other = plan_of(dense.problem(), libraries);
        assert_eq!(other.steps().len(), other.cuts().len());
        assert!(!other.is_dense() && other.seconds() >= dense.seconds());
        assert!(other.dense().unwrap_err().to_string().contains(why), "{:?}", other.dense());
    }
}

#[test]
fn an_odd_number_of_factors_pairs_what_it_can() {
    // Only (…,1) and then (1,…) go together, so the factor on the left is alone.
    let three = plan("(2,64,64,32)(1,64,64,64)(64,64,64,1)", DType::F16, 25088);
    assert_eq!(parts(&three), [Part::Together(Cut { at: 1, count: 2 }), Part::Factor(0)]);
    let why = three.together(Cut { at: 0, count: 2 }).unwrap_err().to_string();
    assert!(why.contains("(a, b, c, 1) and then (1, b, c, d)"), "{why}");
    let one = plan("(1,64,64,64)", DType::F16, 25088);
    assert_eq!(parts(&one), [Part::Factor(0)]);
    assert!(one.dense().unwrap_err().to_string().contains("one factor"));
}

#[test]
fn without_libraries_kernels_are_left_and_every_other_way_has_a_reason() {
    let p = problem("(1,1024,1024,12)(12,1024,1024,1)", DType::F16, 25088);
    let (with, without) = (plan_of(&p, Some(4 << 30)), plan_of(&p, None));
    assert!(with.steps().iter().any(|step| ["permute-bmm", "strided"].contains(&step.name)));
    assert!(without.steps().iter().all(|step| !["permute-bmm", "strided", "dense"].contains(&step.name)));
    assert!(with.seconds() < without.seconds());
    for plan in [&with, &without] {
        for at in 0..2 {
            let refused = plan.refused(at);
            assert_eq!(plan.ways(at).len() + refused.len(), GpuPlan::FAMILIES.len() + ALGORITHMS.len(), "{refused:?}");
            let why = |name: &str| refused.iter().find(|refusal| refusal.name == name).map(|r| r.why.as_str());
            assert!(why("narrow").unwrap().contains("64 vectors, found 25088"), "{refused:?}");
        }
    }
    let why = |plan: &ChainPlan, at: usize, name: &str| {
        plan.refused(at).into_iter().find(|refusal| refusal.name == name).unwrap().why
    };
    assert!(why(&with, 0, "strided").contains("d is 12"));
    assert!(why(&with, 1, "permute-bmm").contains("the same calls as strided"));
    assert!(why(&without, 0, "dense").contains("no cuBLAS"));
}

#[test]
fn seconds_add_up_and_nothing_that_is_listed_is_faster() {
    let chains = [
        MONARCH,
        "(1,16,48,64)(48,64,24,1)",
        "(1,4,4,16)(4,4,4,4)(16,4,4,1)",
        "(3,5,7,11)",
        "(1,64,64,64)(64,64,64,1)(1,64,64,64)(64,64,64,1)",
    ];
    for chain in chains {
        for dtype in [DType::F16, DType::Bf16, DType::F32, DType::F64] {
            for (layout, batch) in [(Layout::BatchFirst, 7), (Layout::BatchLast, 300), (Layout::BatchFirst, 25088)] {
                for (aligned, bias) in [(true, false), (false, true)] {
                    let p = ChainProblem { layout, aligned, bias, ..problem(chain, dtype, batch) };
                    let plan = plan_of(&p, Some(4 << 30));
                    let sum = |steps: Vec<ChainStep<'_>>| steps.iter().map(|step| step.seconds).sum::<f64>();
                    let close = |x: f64, y: f64| (x - y).abs() <= 1e-12 * y;
                    assert!(close(CALL + sum(plan.steps()), plan.seconds()), "{p:?}");
                    assert!(close(sum(plan.steps_of_cuts()), plan.seconds_of_cuts()), "{p:?}");
                    let others = [plan.seconds_of_cuts(), plan.seconds_apart().unwrap()];
                    let others = others.into_iter().chain(plan.dense().ok().map(|dense| dense.seconds));
                    assert!(others.into_iter().all(|other| plan.seconds() <= (CALL + other) * (1.0 + 1e-12)), "{p:?}");
                    // Every factor once, the right-most first.
                    let mut places: Vec<usize> = Vec::new();
                    for cut in plan.cuts() {
                        places.extend((cut.at..cut.at + cut.count).rev());
                    }
                    assert_eq!(places, (0..p.chain.patterns().len()).rev().collect::<Vec<_>>(), "{p:?}");
                }
            }
        }
    }
}

#[test]
fn bias_and_alignment_belong_to_the_ends() {
    let p = ChainProblem {
        aligned: false,
        bias: true,
        activation: Activation::Gelu,
        join: Join::Residual,
        ..problem("(1,4,4,16)(4,4,4,4)(16,4,4,1)", DType::F16, 9)
    };
    let ends = [0, 1, 2].map(|at| p.factor(at)).map(|factor| (factor.aligned, factor.bias, factor.activation));
    let (gelu, none) = (Activation::Gelu, Activation::None);
    assert_eq!(ends, [(false, true, gelu), (true, false, none), (false, false, none)]);
    let pairs = [0, 1].map(|at| p.part(at, 2)).map(|pair| (pair.aligned, pair.bias, pair.activation));
    assert_eq!(pairs, [(false, true, gelu), (false, false, none)]);
    let whole = p.whole().unwrap();
    assert_eq!(
        (whole.pattern.shape(), whole.aligned, whole.bias, whole.activation),
        ([1, 64, 64, 1], false, true, gelu)
    );
}

#[test]
fn complex_chains_and_matrices_without_end_are_refused_not_planned() {
    let complex = ChainPlan::new(&problem(MONARCH, DType::C64, 9), &GpuMachine::h100(), Some(1 << 30));
    assert_eq!(complex.unwrap_err(), Rejected::Element(DType::C64));
    // 2^32 × 2^32 entries as a dense matrix are more than can be counted.
    let huge = plan("(1073741824,4,4,1)(1,4,4,1073741824)", DType::F16, 1);
    assert!(huge.dense().unwrap_err().to_string().contains("do not fit"), "{:?}", huge.dense());
    assert!(!huge.is_dense());
}
