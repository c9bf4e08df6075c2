//! Random problems, and every tile of the plain family on a few, against the oracle.

use std::sync::Arc;

use fastrand::Rng;
use kronsparse::cuda::{Device, Plans};
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{ChainProblem, FusedPlan, GpuPlan, PairPlan, Precision, plain};
use kronsparse::{Activation, ChainPattern, DType, Join, Layout, Pattern};

use crate::engine::{Cuda, refusals};
use crate::harness::{Case, inputs, run};
use crate::wanted_family;

const REAL: [DType; 4] = [DType::F16, DType::Bf16, DType::F32, DType::F64];

/// A size whose logarithm is evenly spread, so that 1 and 2 are as frequent as 100 to 200.
fn size(rng: &mut Rng, most: usize) -> usize {
    ((most as f64 + 1.0).powf(rng.f64()) as usize).clamp(1, most)
}

/// Half of the outputs are joined with something, by a gate where they come in twos.
fn join(rng: &mut Rng, chain: &ChainPattern) -> Join {
    let join = if rng.bool() { Join::None } else { Join::ALL[rng.usize(..3)] };
    if join.outputs(chain.rows()).is_ok() { join } else { Join::Residual }
}

/// One factor, or two that multiply, small enough for the oracle.
fn chain(rng: &mut Rng, n: usize) -> ChainPattern {
    loop {
        let p = [size(rng, 32), size(rng, 256), size(rng, 256), size(rng, 128)];
        let mut patterns = vec![Pattern::new(p[0], p[1], p[2], p[3]).unwrap()];
        if rng.u8(..4) == 0 {
            // Another grouping of the same columns.
            let cols = patterns[0].cols();
            let divisors: Vec<usize> = (1..=cols).filter(|x| cols.is_multiple_of(*x)).collect();
            let a = divisors[rng.usize(..divisors.len())];
            let rest: Vec<usize> = divisors.into_iter().filter(|x| (cols / a).is_multiple_of(*x)).collect();
            let d = rest[rng.usize(..rest.len())];
            patterns.push(Pattern::new(a, cols / a / d, size(rng, 64), d).unwrap());
        }
        let work: usize = patterns.iter().map(|p| p.nnz()).sum();
        let widest = patterns.iter().map(|p| p.rows().max(p.cols())).max().unwrap_or(0);
        if work.saturating_mul(n) < 2_000_000 && work < 1_000_000 && widest.saturating_mul(n) < 1_000_000 {
            return ChainPattern::new(patterns).unwrap();
        }
    }
}

pub(crate) fn patterns(device: &Device) -> Result<(), String> {
    let count: usize = match std::env::var("KRONSPARSE_RANDOM") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("KRONSPARSE_RANDOM={text} is no whole number")),
        Err(_) => 1000,
    };
    let seed = inputs::seed();
    let mut rng = Rng::with_seed(seed);
    let cases: Vec<Case> = (0..count)
        .map(|at| {
            let n = size(&mut rng, 400);
            let chain = chain(&mut rng, n);
            let (dtype, layout) = (REAL[rng.usize(..4)], Layout::ALL[rng.usize(..2)]);
            let activation = if rng.bool() { Activation::None } else { Activation::ALL[rng.usize(..5)] };
            let name = format!("random/{at} {:?}", chain.patterns());
            Case {
                name,
                join: join(&mut rng, &chain),
                chain,
                batch: vec![n],
                layouts: vec![layout],
                dtypes: vec![dtype],
                bias: rng.bool(),
                activation,
            }
        })
        .collect();
    let engines = Cuda::all(device, wanted_family());
    run(&cases, &engines[..2], &refusals, seed).assert();
    Ok(())
}

/// Chains of two factors that one kernel multiplies by.
pub(crate) fn pairs(device: &Device) -> Result<(), String> {
    let machine = device.machine();
    if machine.capability != (9, 0) {
        return Err(format!("kernels for two factors need compute capability 9.0, found {:?}", machine.capability));
    }
    let count = match std::env::var("KRONSPARSE_RANDOM") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("KRONSPARSE_RANDOM={text} is no whole number")),
        Err(_) => 500,
    };
    let seed = inputs::seed();
    let mut rng = Rng::with_seed(seed);
    let mut cases: Vec<Case> = Vec::new();
    while cases.len() < count {
        let mut one_of = |all: &[usize]| all[rng.usize(..all.len())];
        let a = one_of(&[1, 2, 4, 6, 8, 12, 16, 32, 64]);
        let b = one_of(&[8, 16, 24, 32, 40, 48, 64, 96, 128]);
        let c = one_of(&[16, 32, 64, 128]);
        let d = one_of(&[8, 16, 24, 32, 48, 64, 96, 128]);
        if !(a * b).is_multiple_of(d) {
            continue;
        }
        let (first, second) =
            (Pattern::new(a, b, c, 1).unwrap(), Pattern::new(1, size(&mut rng, 100), a * b / d, d).unwrap());
        // As many vectors as there is patience for: several tiles for every cluster where the patterns are small.
        let n = size(&mut rng, 20_000).min(8_000_000 / (first.nnz() + second.nnz())).max(1);
        let dtype = if rng.bool() { DType::F16 } else { DType::Bf16 };
        let chain = ChainPattern::new(vec![second, first]).unwrap();
        let problem = ChainProblem {
            join: join(&mut rng, &chain),
            chain,
            dtype,
            precision: Precision::Full,
            layout: Layout::BatchFirst,
            batch: n,
            aligned: true,
            bias: rng.bool(),
            activation: Activation::ALL[rng.usize(..5)],
        };
        if PairPlan::choose(&problem, machine).is_err() {
            continue;
        }
        cases.push(case(format!("pairs/{} {second} after {first}", cases.len()), problem));
    }
    let plans = Plans::Family(PairPlan::NAME.into());
    let engine = Cuda { device: device.clone(), algorithm: Algorithm::Fused, offset: 0, plans };
    run(&cases, &[engine], &refusals, seed).assert();
    Ok(())
}

fn case(name: String, problem: ChainProblem) -> Case {
    let ChainProblem { chain, dtype, precision: _, layout, batch, aligned: _, bias, activation, join } = problem;
    Case { name, chain, batch: vec![batch], layouts: vec![layout], dtypes: vec![dtype], bias, activation, join }
}

/// Random chains of two to four factors, any patterns, through one kernel, by a plan of each family that has one: the best by
/// estimate, or any of those that are tried.
pub(crate) fn chains(device: &Device) -> Result<(), String> {
    let machine = device.machine();
    let count = match std::env::var("KRONSPARSE_RANDOM") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("KRONSPARSE_RANDOM={text} is no whole number")),
        Err(_) => 500,
    };
    let seed = inputs::seed();
    let mut rng = Rng::with_seed(seed);
    let mut ran = std::collections::BTreeMap::<&str, usize>::new();
    let mut made = 0;
    while made < count {
        // From the right: sizes that matrix instructions like in half of the chains, any sizes in the others.
        let round = rng.bool();
        let factors = 2 + rng.usize(..3) * rng.usize(..2);
        let (mut patterns, mut rows) = (Vec::new(), 0);
        for k in 0..factors {
            let mut one_of = |all: &[usize]| all[rng.usize(..all.len())];
            let [a, c, d] = match (k, round) {
                (0, true) => [one_of(&[1, 2, 4, 6, 8]), one_of(&[16, 32, 64, 128]), 1],
                (0, false) => [size(&mut rng, 8), size(&mut rng, 60), size(&mut rng, 6)],
                _ => {
                    // Another grouping of what the factor before gave.
                    let divisors: Vec<usize> = (1..=rows).filter(|x| rows % x == 0).collect();
                    let d = divisors[rng.usize(..divisors.len())].min(if round { 8 } else { 64 });
                    let d = if rows % d == 0 { d } else { 1 };
                    let of: Vec<usize> = (1..=rows / d).filter(|x| (rows / d) % x == 0).collect();
                    let a = if round && rng.bool() { 1 } else { of[rng.usize(..of.len())] };
                    [a, rows / d / a, d]
                }
            };
            let b = if round { 8 * (1 + size(&mut rng, 12)) } else { size(&mut rng, 70) };
            patterns.insert(0, Pattern::new(a, b, c, d).unwrap());
            rows = a * b * d;
        }
        let weights: usize = patterns.iter().map(|p| p.nnz()).sum();
        if rows > 4000 || weights > 400_000 {
            continue;
        }
        let kinds = [DType::F16, DType::Bf16, DType::F32];
        let chain = ChainPattern::new(patterns).unwrap();
        let problem = ChainProblem {
            join: join(&mut rng, &chain),
            chain,
            dtype: kinds[rng.usize(..3)],
            precision: Precision::Full,
            layout: if round { Layout::BatchFirst } else { Layout::ALL[rng.usize(..2)] },
            batch: size(&mut rng, 20_000).min(8_000_000 / weights.max(rows)).max(1),
            aligned: true,
            bias: rng.bool(),
            activation: Activation::ALL[rng.usize(..5)],
        };
        let mut any = false;
        for &family in FusedPlan::FAMILIES {
            let plans = FusedPlan::candidates(family, &problem, machine);
            if plans.is_empty() {
                continue;
            }
            any = true;
            *ran.entry(family).or_default() += 1;
            let plan = plans[if rng.bool() { 0 } else { rng.usize(..plans.len()) }].clone();
            let name = format!("chains/{made} {plan} for {}", problem.chain);
            let whole = problem.chain.patterns().len();
            let plans = Plans::Fused(Arc::new(move |asked, machine| {
                if asked.chain.patterns().len() != whole || !asked.aligned {
                    return FusedPlan::family(family, asked, machine);
                }
                Ok(plan.clone())
            }));
            let engine = Cuda { device: device.clone(), algorithm: Algorithm::Fused, offset: 0, plans };
            run(&[case(name, problem.clone())], &[engine], &refusals, seed).assert();
        }
        made += usize::from(any);
    }
    println!("{made} chains: {ran:?}");
    assert!(ran.len() >= 2 || count < 20, "only {ran:?} of {:?} had plans", FusedPlan::FAMILIES);
    Ok(())
}

/// The planner picks few of the tiles that are legal; here each one multiplies.
pub(crate) fn plain_tiles(device: &Device) -> Result<(), String> {
    let seed = inputs::seed();
    let mut rng = Rng::with_seed(seed);
    let wanted: Vec<plain::Tile> = (0..120)
        .map(|_| {
            let mut power = |most: u32| 1 << rng.u32(..=most);
            let (thread_outputs, thread_vectors) = (power(3), power(3));
            plain::Tile {
                lanes: power(5),
                outputs: thread_outputs * power(4),
                vectors: thread_vectors * power(5),
                depth: power(4),
                thread_outputs,
                thread_vectors,
            }
        })
        .collect();
    let mut ran = 0;
    for (at, &tile) in wanted.iter().enumerate() {
        let pattern =
            Pattern::new(size(&mut rng, 9), size(&mut rng, 70), size(&mut rng, 70), size(&mut rng, 40)).unwrap();
        let (dtype, layout) = (REAL[rng.usize(..4)], Layout::ALL[rng.usize(..2)]);
        let chain = ChainPattern::new(vec![pattern]).unwrap();
        let case = Case {
            name: format!("tile/{at} {pattern} {tile:?}"),
            batch: vec![size(&mut rng, 90)],
            layouts: vec![layout],
            dtypes: vec![dtype],
            bias: rng.bool(),
            activation: Activation::None,
            join: if rng.bool() { Join::None } else { Join::Residual },
            chain,
        };
        let legal = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let seen = legal.clone();
        let plans = Plans::Custom(Arc::new(move |problem, machine| {
            let plan = plain::Plan::new(problem, tile, machine);
            seen.store(plan.is_ok(), std::sync::atomic::Ordering::Relaxed);
            plan.map(GpuPlan::Plain)
        }));
        let engine = Cuda { device: device.clone(), algorithm: Algorithm::Fused, offset: at % 2, plans };
        let report = run(&[case], &[engine], &refusals, seed);
        if legal.load(std::sync::atomic::Ordering::Relaxed) {
            ran += 1;
            report.assert();
        }
    }
    assert!(ran >= 20, "only {ran} of 120 random tiles are legal");
    println!("{ran} tiles");
    Ok(())
}
