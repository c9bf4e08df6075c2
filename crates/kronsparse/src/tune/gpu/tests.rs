//! Names and plans: what the planner offers is found again by its name, and nothing else is.

use std::collections::HashMap;

use super::*;
use crate::plan::gpu::{Precision, promising};
use crate::{Activation, ChainPattern, ChainSpec, DType, Join, Layout};

const LIMIT: Option<usize> = Some(1 << 30);

fn chain(text: &str) -> ChainPattern {
    match text.parse().unwrap() {
        ChainSpec::Explicit(chain) => chain,
        other => panic!("{other} is no explicit chain"),
    }
}

/// Problems of every kind that the planner tells apart, with a random number of vectors.
fn problems() -> Vec<ChainProblem> {
    let chains = [
        "(1,64,64,64)(64,64,64,1)",
        "(1,32,32,32)(32,32,32,1)",
        "(1,48,16,32)(32,16,24,1)",
        "(1,8,8,16)(8,4,4,4)(32,4,4,1)",
        "(1,1024,1024,12)",
        "(6,64,64,1)",
        "(3,5,7,11)",
        "(1,256,512,1)",
    ];
    let dtypes = [DType::F16, DType::Bf16, DType::F32, DType::F64];
    let mut all = Vec::new();
    for (text, dtype) in chains.iter().flat_map(|text| dtypes.map(|dtype| (*text, dtype))) {
        for layout in Layout::ALL {
            let n = [1, 8, 2048, fastrand::usize(2..5000)][fastrand::usize(..4)];
            let problem = ChainProblem::new(chain(text), dtype, layout, n);
            all.push(ChainProblem { bias: true, activation: Activation::Gelu, ..problem.clone() });
            all.push(ChainProblem { aligned: false, ..problem.clone() });
            let join = [Join::Residual, Join::Gate][fastrand::usize(..2)];
            if join.outputs(problem.chain.rows()).is_ok() {
                all.push(ChainProblem { join, activation: Activation::Silu, ..problem.clone() });
            }
            if dtype == DType::F32 {
                all.push(ChainProblem { precision: Precision::Tf32, ..problem.clone() });
            }
            all.push(problem);
        }
    }
    all
}

fn planned(problem: &ChainProblem, libraries: Option<usize>) -> ChainPlan {
    ChainPlan::new(problem, &GpuMachine::h100(), libraries).unwrap_or_else(|why| panic!("{problem:?}: {why}"))
}

#[test]
fn what_the_planner_picks_is_found_by_its_name() {
    let machine = GpuMachine::h100();
    let (mut kernels, mut fused, mut libraries, mut passes) = (0, 0, 0, 0);
    for problem in problems() {
        let plan = planned(&problem, LIMIT);
        let named = steps(&plan);
        let way = find(&named, &problem, &machine, LIMIT).unwrap_or_else(|why| panic!("{problem:?}: {why}"));
        assert_eq!(way.pass, plan.pass().is_some());
        passes += usize::from(way.pass);
        for (step, (cut, found)) in plan.steps().iter().zip(&way.steps) {
            match (step.way, found) {
                (StepWay::One(Choice::Kernel(expected)), Found::Kernel(found)) => {
                    assert_eq!((expected, step.part), (found, Part::Factor(cut.at)));
                    kernels += 1;
                }
                (StepWay::Several(expected), Found::Fused(found)) => {
                    assert_eq!((expected, step.part), (found.as_ref(), Part::Together(*cut)));
                    fused += 1;
                }
                (StepWay::One(Choice::Library(expected)), Found::Library(found)) => {
                    assert_eq!(expected, found);
                    libraries += 1;
                }
                (expected, found) => panic!("{problem:?}: {expected:?} became {found:?}"),
            }
        }
    }
    assert!(kernels > 20 && fused > 0 && libraries > 20 && passes > 2, "{kernels} {fused} {libraries} {passes}");
}

#[test]
fn no_two_plans_that_are_offered_have_one_name() {
    let machine = GpuMachine::h100();
    let mut problems = problems();
    fastrand::shuffle(&mut problems);
    for problem in problems.into_iter().take(40) {
        let count = problem.chain.patterns().len();
        for at in 0..count {
            let plans = GpuPlan::candidates(&problem.factor(at), &machine);
            distinct(&plans, |plan| Step::kernel(Cut { at, count: 1 }, plan), &problem);
            for way in promising(&problem.factor(at), &machine, LIMIT) {
                let step = match &way.choice {
                    Choice::Kernel(plan) => Step::kernel(Cut { at: 0, count: 1 }, plan.as_ref()),
                    Choice::Library(algorithm) => Step::algorithm(Cut { at: 0, count: 1 }, *algorithm),
                };
                let found = of_one(&step, &problem.factor(at), &machine, LIMIT);
                let expected = match way.choice {
                    Choice::Kernel(plan) => Found::Kernel(plan),
                    Choice::Library(algorithm) => Found::Library(algorithm),
                };
                assert_eq!(found, Ok(expected), "{problem:?}");
            }
        }
        for (at, several) in (0..count).flat_map(|at| (2..=count - at).map(move |several| (at, several))) {
            for name in FusedPlan::FAMILIES {
                let plans = FusedPlan::candidates(name, &problem.part(at, several), &machine);
                distinct(&plans, |plan| Step::kernel(Cut { at, count: several }, plan.kernel()), &problem);
            }
            // Whatever tuning measures must be found among the candidates of its family.
            for plan in FusedPlan::promising(&problem.part(at, several), &machine) {
                let all = FusedPlan::candidates(plan.name(), &problem.part(at, several), &machine);
                assert!(all.contains(&plan), "{problem:?}: {plan}");
            }
        }
    }
}

fn distinct<P: PartialEq>(plans: &[P], name: impl Fn(&P) -> Step, problem: &ChainProblem) {
    let mut named: HashMap<Step, &P> = HashMap::new();
    for plan in plans {
        let before = named.insert(name(plan), plan);
        assert!(before.is_none_or(|before| before == plan), "two plans of {problem:?} are called {}", name(plan));
    }
}

#[test]
fn what_is_not_offered_is_refused_with_a_sentence() {
    let machine = GpuMachine::h100();
    let problem = ChainProblem::new(chain("(1,64,64,64)(64,64,64,1)"), DType::F16, Layout::BatchFirst, 25088);
    let usual = steps(&planned(&problem, LIMIT));
    let refused = |steps: &[Step], problem: &ChainProblem, libraries| {
        find(steps, problem, &machine, libraries).expect_err("nothing to be found")
    };
    // Other template arguments, another family, factors missing or twice.
    let mut other = usual.clone();
    other[0].arguments.push('1');
    assert!(refused(&other, &problem, LIMIT).ends_with("the planner does not offer it here"));
    other[0] = Step { name: "lanes_magic".into(), ..usual[0].clone() };
    assert!(refused(&other, &problem, LIMIT).starts_with("lanes_magic"));
    assert!(refused(&[usual.clone(), usual.clone()].concat(), &problem, LIMIT).contains("once"));
    assert!(refused(&[], &problem, LIMIT).contains("once"));
    // A library that is not there, or whose weights are too large now.
    let dense = [Step::algorithm(Cut { at: 0, count: 2 }, Algorithm::Dense)];
    assert!(find(&dense, &problem, &machine, LIMIT).is_ok());
    assert!(refused(&dense, &problem, None).contains("cuBLAS"));
    assert!(refused(&dense, &problem, Some(1000)).contains("limit is 1000"));
    let csr = [1, 0].map(|at| Step::algorithm(Cut { at, count: 1 }, Algorithm::Csr));
    assert!(refused(&csr, &problem, LIMIT).contains("csr"));
    // A kernel that needs aligned arrays, where they are not.
    let aligned = GpuPlan::candidates(&problem.factor(1), &machine);
    let wgmma = aligned.iter().find(|plan| plan.name() == "lanes_wgmma").expect("a family for aligned arrays");
    let ways =
        [Step::kernel(Cut { at: 1, count: 1 }, wgmma), Step::algorithm(Cut { at: 0, count: 1 }, Algorithm::PermuteBmm)];
    assert!(find(&ways, &problem, &machine, LIMIT).is_ok());
    let unaligned = ChainProblem { aligned: false, ..problem };
    assert!(refused(&ways, &unaligned, LIMIT).starts_with("lanes_wgmma<"));
}
