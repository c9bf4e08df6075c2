//! Butterflies whose small neighbouring factors are multiplied together beforehand (`Options::combine`), on a GPU.

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::{Device, Operator, Options};
use kronsparse::tune::Tuning;
use kronsparse::{Activation, ChainPattern, DType, Layout, Scalar, reference};

use crate::harness::inputs::{Draw, Weights};
use crate::harness::judge::compare;

fn one<T: Scalar>(device: &Device, pattern: &ChainPattern, rng: &mut Rng) {
    let weights = Weights::<T>::draw(pattern, true, Draw::of(pattern, 1), rng);
    let options = Options {
        bias: weights.bias.clone(),
        activation: Activation::Relu,
        combine: true,
        tuning: Tuning::Off,
        ..Options::default()
    };
    let operator = Operator::new(device, &weights.chain, options).unwrap();
    for (n, layout) in [(1, Layout::BatchFirst), (300, Layout::BatchFirst), (77, Layout::BatchLast)] {
        let x = weights.draw_input(n, layout, rng);
        let y = operator.multiply(&x, n, layout).unwrap();
        let expected = reference::multiply(&weights.chain, weights.bias.as_deref(), Activation::Relu, &x, n, layout);
        let tolerance = T::DTYPE.tolerance_on_gpu(pattern.longest_sum(), pattern.patterns().len());
        compare(&y, &expected, tolerance, n, layout).unwrap_or_else(|why| panic!("{} n={n} {layout}: {why}", T::DTYPE));
        let said = operator.explain(n, layout).unwrap();
        assert!(T::DTYPE != DType::F32 || said.contains("combined to"), "{said}");
    }
}

pub(crate) fn butterflies(device: &Device) -> Result<(), String> {
    let mut rng = Rng::new();
    for pattern in
        [ChainPattern::square_dyadic(256), ChainPattern::square_dyadic(1024), ChainPattern::butterfly(&[2, 3, 4, 2])]
    {
        let pattern = pattern.unwrap();
        one::<f16>(device, &pattern, &mut rng);
        one::<bf16>(device, &pattern, &mut rng);
        one::<f32>(device, &pattern, &mut rng);
    }
    Ok(())
}
