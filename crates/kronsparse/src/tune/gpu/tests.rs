//! Names and plans: what the planner offers is found again by its name, and nothing else is.

use std::collections::HashMap;

use super::*;
use crate::plan::gpu::{Precision, promising};
use crate::tune::Measured;
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
    // One that goes by a kernel for both factors.
    let mut all = vec![ChainProblem::new(chain(chains[0]), DType::F16, Layout::BatchFirst, 25088)];
    for (text, dtype, layout) in chains
        .iter()
        .flat_map(|text| dtypes.map(|dtype| (*text, dtype)))
        .flat_map(|(t, d)| Layout::ALL.map(|l| (t, d, l)))
    {
        let n = [1, 8, 2048, fastrand::usize(2..5000)][fastrand::usize(..4)];
        let problem = ChainProblem::new(chain(text), dtype, layout, n);
        let join = [Join::Residual, Join::Gate][fastrand::usize(..2)];
        all.push(match fastrand::u8(..5) {
            0 => ChainProblem { bias: true, activation: Activation::Gelu, ..problem },
            1 => ChainProblem { aligned: false, ..problem },
            2 if join.outputs(problem.chain.rows()).is_ok() => {
                ChainProblem { join, activation: Activation::Silu, ..problem }
            }
            3 => ChainProblem { precision: Precision::Tf32, ..problem },
            _ => problem,
        });
    }
    all
}

fn planned(problem: &ChainProblem, libraries: Option<usize>) -> ChainPlan {
    ChainPlan::new(problem, &GpuMachine::h100(), libraries).unwrap_or_else(|why| panic!("{problem:?}: {why}"))
}

#[test]
fn what_the_planner_picks_is_found_by_its_name() {
    let machine = GpuMachine::h100();
    let (mut kernels, mut fused, mut libraries) = (0, 0, 0);
    for problem in problems() {
        let plan = planned(&problem, LIMIT);
        let named = steps(&plan);
        let way = find(&named, &problem, &machine, LIMIT).unwrap_or_else(|why| panic!("{problem:?}: {why}"));
        assert_eq!(way.pass, plan.pass().is_some());
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
    assert!(kernels > 5 && fused > 0 && libraries > 5, "{kernels} {fused} {libraries}");
}

#[test]
fn no_two_plans_that_are_offered_have_one_name() {
    let machine = GpuMachine::h100();
    let mut problems = problems();
    fastrand::shuffle(&mut problems);
    for problem in problems.into_iter().take(20) {
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
    assert!(refused(&ways, &unaligned, LIMIT).starts_with("lanes_wgmma ks::"));
}

fn timed(steps: &[Step], seconds: f64) -> Measured {
    Measured { steps: steps.to_vec(), seconds, samples: 7 }
}

#[test]
fn a_stored_way_is_made_again_from_its_name_where_it_is_known_to_be_no_slower() {
    let gpu = GpuMachine::h100();
    let here = Machine {
        device: "NVIDIA H100".into(),
        instructions: "sm_90a".into(),
        driver: "580".into(),
        compiler: "NVRTC 13.0".into(),
        kernels: "1234".into(),
        threads: 0,
    };
    let problem = |n| ChainProblem::new(chain("(1,64,64,64)(64,64,64,1)"), DType::F16, Layout::BatchFirst, n);
    let usual = steps(&planned(&problem(2048), LIMIT));
    // By one family per factor, the slowest plans that are offered: nothing that the planner would pick.
    let other: Vec<Step> = [1, 0]
        .map(|at| {
            let plans = GpuPlan::candidates(&problem(2048).factor(at), &gpu);
            let slowest = plans.into_iter().max_by(|x, y| x.seconds(&gpu).total_cmp(&y.seconds(&gpu))).unwrap();
            Step::kernel(Cut { at, count: 1 }, &slowest)
        })
        .to_vec();
    assert_ne!(usual, other);
    let record = |untuned: &[Step], gain: f64| {
        let (untuned, best) = (timed(untuned, 1e-4), timed(&other, 1e-4 / gain));
        Record::new(here.clone(), problem(2048), "cold", untuned.clone(), best.clone(), vec![untuned, best])
    };
    let folder = tempfile::tempdir().unwrap();
    let store = |records: &[Record]| {
        let mut store = Store::open(&folder.path().join(fastrand::u64(..).to_string())).unwrap();
        records.iter().for_each(|record| store.append(record.clone()).unwrap());
        store
    };
    let kept = |n: usize| Some(Arc::new(planned(&problem(n), LIMIT)));
    let taken = |store: &Store, here: &Machine, n: usize| -> Option<Vec<Step>> {
        let found = remembered(store, here, &problem(n), || kept(n)).unwrap();
        found.map(|(record, way)| {
            assert_eq!(Ok(way), find(&record.best.steps, &problem(n), &gpu, LIMIT));
            record.best.steps.clone()
        })
    };
    let good = store(&[record(&usual, 1.2)]);
    assert_eq!(taken(&good, &here, 2048), Some(other.clone()));
    let there = Machine { driver: "581".into(), ..here.clone() };
    assert_eq!(taken(&good, &there, 2048), None);
    assert_eq!(taken(&store(&[]), &here, 2048), None);
    // For 1984 vectors the planner picks the same, and 2048 / 1984 is 1.032: less than a gain of 1.2, more than one of 1.025.
    assert_eq!(steps(&planned(&problem(1984), LIMIT)), usual);
    assert_eq!(taken(&good, &here, 1984), Some(other.clone()));
    assert_eq!(taken(&store(&[record(&usual, 1.025)]), &here, 1984), None);
    // For 2400 it picks something that was not measured.
    assert_ne!(steps(&planned(&problem(2400), LIMIT)), usual);
    assert_eq!(taken(&good, &here, 2400), None);
    // The planner has changed its mind since, and nobody has measured what it picks now.
    let changed = [1, 0].map(|at| Step::algorithm(Cut { at, count: 1 }, Algorithm::PermuteBmm));
    assert_eq!(taken(&store(&[record(&changed, 1.2)]), &here, 2048), None);
    // The latest counts: a tie, so that things stay as they are.
    let tie = store(&[record(&usual, 1.2), record(&usual, 1.01)]);
    assert_eq!(taken(&tie, &here, 2048), Some(usual.clone()));
    // What is gone is said.
    let mut gone = record(&usual, 1.2);
    gone.best.steps[0].arguments.push_str(", 7");
    let why = remembered(&store(&[gone]), &here, &problem(2048), || kept(2048)).unwrap_err();
    assert!(why.ends_with("the planner does not offer it here"), "{why}");
}
