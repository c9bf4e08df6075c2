//! `auto` and the libraries' algorithms behind the operator's face: right numbers by estimate and by measurement.

use std::sync::Arc;

use fastrand::Rng;
use half::f16;
use kronsparse::cuda::timing::Caches;
use kronsparse::cuda::{Buffer, Device, Operator, Options, Plans, Stream};
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{ChainPlan, ChainProblem, Precision};
use kronsparse::tune::{Record, Store, Tuning};
use kronsparse::{Activation, ChainPattern, DType, Error, Join, Layout, Scalar};

use crate::behaviour::{assert_right, three};
use crate::engine::{Cuda, refusals};
use crate::harness::inputs::{Draw, Weights, nan};
use crate::harness::{Case, inputs, run};

fn chain(text: &str) -> ChainPattern {
    ChainPattern::new(vec![text.parse().unwrap()]).unwrap()
}

/// Every algorithm, with bias and activation, on poisoned outputs between fences, aligned and not.
pub(crate) fn algorithms(device: &Device) -> Result<(), String> {
    let mut rng = Rng::new();
    let chains = [chain("1,64,64,64"), chain("6,64,64,1"), chain("3,5,7,11"), chain("2,1,9,4")];
    let all: Vec<ChainPattern> = chains.into_iter().chain([three::<f32>(&mut rng).chain.pattern().clone()]).collect();
    for algorithm in [Algorithm::Auto].into_iter().chain(Algorithm::on_gpu()) {
        // CSR and BSR have tests of their own, with what cuSPARSE lacks.
        if matches!(algorithm, Algorithm::Csr | Algorithm::Bsr) {
            continue;
        }
        let cases: Vec<Case> = all
            .iter()
            .map(|chain| {
                let lanes = chain.patterns().iter().any(|p| p.d() > 1);
                let last = algorithm == Algorithm::Strided && lanes;
                Case {
                    name: format!("auto/{algorithm} {chain}"),
                    chain: chain.clone(),
                    batch: vec![1, 19, 130],
                    layouts: if last { vec![Layout::BatchLast] } else { Layout::ALL.to_vec() },
                    dtypes: vec![DType::F16, DType::Bf16, DType::F32, DType::F64],
                    bias: true,
                    activation: Activation::Gelu,
                    join: Join::None,
                }
            })
            .collect();
        let engines = [0, 1].map(|offset| Cuda { device: device.clone(), algorithm, offset, plans: Plans::Best });
        run(&cases, &engines, &refusals, inputs::seed()).assert();
    }
    Ok(())
}

/// What is done by estimates is what the plan of the chain says, where no library failed.
fn agrees<T: Scalar>(text: &str, operator: &Operator<T>, bias: bool, n: usize, layout: Layout) {
    if text.contains("left out") {
        println!("NOT COMPARED with the plan of the chain, a library failed: {text}");
        return;
    }
    let problem = ChainProblem {
        chain: operator.pattern().clone(),
        dtype: T::DTYPE,
        precision: Precision::Full,
        layout,
        batch: n,
        aligned: true,
        bias,
        activation: Activation::Silu,
        join: Join::None,
    };
    let limit = Options::<T>::default().memory_limit;
    let plan = ChainPlan::new(&problem, operator.device().machine(), Some(limit)).unwrap();
    let steps = plan.steps();
    assert_eq!(text.lines().count(), 1 + steps.len(), "{text}");
    for (line, step) in text.lines().skip(1).zip(&steps) {
        let expected = format!("{} by {}: ", plan.name(step.part), step.name);
        assert!(line.starts_with(&expected), "`{expected}` is expected in: {line}");
    }
}

/// What was measured holds for this GPU, and an operator that is given it does just that, and right.
fn remembered<T: Scalar>(operator: &Operator<T>, weights: &Weights<T>, options: Options<T>, record: &Record) {
    let device = operator.device();
    assert_eq!(record.machine, device.tuning_machine().unwrap());
    let ChainProblem { layout, batch: n, .. } = record.problem;
    assert!(record.gain() >= 1.0 && record.measured.contains(&record.best), "{record:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.txt");
    Store::open(&path).unwrap().append(record.clone()).unwrap();
    let tuning = Tuning::Store(Arc::new(Store::read(&path).unwrap()));
    let later = Operator::new(device, &weights.chain, Options { tuning, ..options }).unwrap();
    let text = later.explain(n, layout).unwrap();
    println!("{text}");
    for step in record.best.steps.iter().filter(|step| step.count > 0) {
        assert!(text.contains(&format!(" by {}: ", step.name)), "{step} is not in {text}");
    }
    assert_eq!(
        text.matches("; from ").count(),
        record.best.steps.iter().filter(|step| step.count > 0).count(),
        "{text}"
    );
    let input = weights.draw_input(n, layout, &mut Rng::new());
    let output = later.multiply(&input, n, layout).unwrap();
    assert_right(weights, Activation::Silu, &input, &output, n, layout);
}

/// What a measurement picks gives right numbers, a graph from before the measurement goes on doing so, and `explain` has the times.
pub(crate) fn tuned(device: &Device) -> Result<(), String> {
    fn one<T: Scalar>(device: &Device, weights: &Weights<T>, caches: Caches, rng: &mut Rng) {
        let n = 300;
        let options = Options {
            bias: weights.bias.clone(),
            activation: Activation::Silu,
            tuning: Tuning::Off,
            ..Options::<T>::default()
        };
        let operator = Operator::new(device, &weights.chain, options.clone()).unwrap();
        let stream = Stream::new(device).unwrap();
        for layout in Layout::ALL {
            let input = weights.draw_input(n, layout, rng);
            let x = Buffer::from_slice(device, &input).unwrap();
            let poison = vec![nan::<T>(); n * operator.rows()];
            let mut y = Buffer::from_slice(device, &poison).unwrap();
            operator.prepare(n, layout).unwrap();
            let text = operator.explain(n, layout).unwrap();
            println!("{text}");
            agrees(&text, &operator, weights.bias.is_some(), n, layout);
            // SAFETY: x and y outlive the graph.
            let queue = || unsafe { operator.launch(x.pointer(), y.pointer(), n, layout, &stream) };
            let graph = stream.capture(queue).unwrap();
            let record = operator.tune(n, layout, caches, &x, &mut y).unwrap().expect("auto picks");
            remembered(&operator, weights, options.clone(), &record);
            let text = operator.explain(n, layout).unwrap();
            println!("{text}");
            assert!(text.contains("; measured ") && text.contains(" µs"), "{text}");
            y.write(0, &poison).unwrap();
            operator.apply(&x, &mut y, n, layout, &stream).unwrap();
            assert_right(weights, Activation::Silu, &input, &y.to_vec().unwrap(), n, layout);
            y.write(0, &poison).unwrap();
            // SAFETY: operator, x and y are alive.
            unsafe { graph.launch(&stream) }.unwrap();
            assert_right(weights, Activation::Silu, &input, &y.to_vec().unwrap(), n, layout);
            // SAFETY: as above.
            let queue = || unsafe { operator.launch(x.pointer(), y.pointer(), n, layout, &stream) };
            let graph = stream.capture(queue).unwrap();
            y.write(0, &poison).unwrap();
            // SAFETY: as above.
            unsafe { graph.launch(&stream) }.unwrap();
            assert_right(weights, Activation::Silu, &input, &y.to_vec().unwrap(), n, layout);
            let mut short = Buffer::<T>::alloc(device, n * operator.rows() - 1).unwrap();
            let refused = operator.tune(n, layout, caches, &x, &mut short);
            assert!(matches!(refused, Err(Error::Length { .. })), "{refused:?}");
        }
    }
    let mut rng = Rng::new();
    for (text, caches) in [("1,256,256,12", Caches::Cold), ("1,64,64,64", Caches::Warm), ("6,64,64,1", Caches::Warm)] {
        one(device, &Weights::<f16>::draw(&chain(text), true, Draw::Symmetric, &mut rng), caches, &mut rng);
        one(device, &Weights::<f32>::draw(&chain(text), true, Draw::Symmetric, &mut rng), caches, &mut rng);
    }
    let (chain16, chain64) = (three::<f16>(&mut rng), three::<f64>(&mut rng));
    one(device, &chain16, Caches::Warm, &mut rng);
    one(device, &chain64, Caches::Cold, &mut rng);
    Ok(())
}
