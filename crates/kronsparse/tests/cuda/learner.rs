//! A step of a training on a GPU: outputs, and gradients of inputs and of weights that the GPU packs itself, against the oracle.

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::{Backward, Buffer, Device, Learner, Stream};
use kronsparse::scalar::Wide;
use kronsparse::{Activation, Chain, ChainPattern, Factor, Layout, Scalar, reference};

use crate::harness::inputs::{Draw, Weights};
use crate::harness::judge::compare;

/// Each for a reason: Monarch, rectangular, one factor, lanes of every kind, odd numbers, three factors.
const CHAINS: [&str; 8] = [
    "(1,32,32,32)(32,32,32,1)",
    "(1,96,24,2)(6,8,16,1)",
    "(2,64,48,8)",
    "(40,24,16,1)",
    "(5,3,7,11)",
    "(1,4,4,64)(4,4,4,16)(16,4,4,4)",
    "(1,130,33,4)",
    "(3,7,5,4)(2,30,9,1)",
];

/// `[n][features]` numbers as they are stored, of wide ones.
fn stored<T: Scalar>(wide: &[T::Wide]) -> Vec<T> {
    wide.iter().map(|&x| T::narrow(x)).collect()
}

fn one<T: Scalar>(device: &Device, pattern: &ChainPattern, n: usize, rng: &mut Rng) {
    let weights = Weights::<T>::draw(pattern, true, Draw::Symmetric, rng);
    let (factors, patterns) = (weights.chain.factors(), pattern.patterns());
    let x = weights.draw_input(n, Layout::BatchFirst, rng);
    let v: Vec<T> =
        (0..n * pattern.rows()).map(|_| T::narrow(T::Wide::from_parts(2.0 * rng.f64() - 1.0, 0.0))).collect();
    let learner = Learner::<T>::new(device, pattern, true).unwrap();
    let given: Vec<&[T]> = factors.iter().map(Factor::weights).collect();
    let found = learner.step(&given, weights.bias.as_deref(), &x, &v, n).unwrap();
    let what = format!("{pattern} {} n={n}", T::DTYPE);
    let (bias, none) = (weights.bias.as_deref(), Activation::None);
    let tolerance = |terms: usize| T::DTYPE.tolerance_on_gpu(terms, factors.len() + 1);
    let expected = reference::multiply(&weights.chain, bias, none, &x, n, Layout::BatchFirst);
    compare(&found.y, &expected, tolerance(pattern.longest_sum()), n, Layout::BatchFirst)
        .unwrap_or_else(|why| panic!("{what}: outputs: {why}"));
    // Factor by factor, what passes between them rounded as the GPU rounds it.
    let alone = |factor: &Factor<T>| Chain::from(factor.clone());
    let mut inputs = vec![x];
    for factor in factors.iter().skip(1).rev() {
        let y = reference::multiply(&alone(factor), None, none, &inputs[inputs.len() - 1], n, Layout::BatchFirst);
        inputs.push(stored(&y));
    }
    let wide: Vec<T::Wide> = (0..pattern.rows())
        .map(|row| (0..n).fold(T::Wide::ZERO, |sum, vector| sum + v[vector * pattern.rows() + row].widen()))
        .collect();
    compare(&found.bias, &wide, tolerance(n), 1, Layout::BatchFirst)
        .unwrap_or_else(|why| panic!("{what}: bias: {why}"));
    let mut v = v;
    for (at, factor) in factors.iter().enumerate() {
        let x = inputs.pop().expect("as many inputs as factors");
        let expected = reference::weight_gradient(patterns[at], &v, &x, n);
        compare(&found.weights[at], &expected, tolerance(n), 1, Layout::BatchFirst)
            .unwrap_or_else(|why| panic!("{what}: weights of factor {at}: {why}"));
        let back = reference::multiply(&alone(factor).adjoint(), None, none, &v, n, Layout::BatchFirst);
        if at + 1 == factors.len() {
            compare(&found.x, &back, tolerance(pattern.longest_sum()), n, Layout::BatchFirst)
                .unwrap_or_else(|why| panic!("{what}: gradient of X: {why}"));
        }
        v = stored(&back);
    }
}

/// A captured step reads the weights anew in every replay, and gives to the last bit what a step of its own gives.
fn replayed(device: &Device, rng: &mut Rng) {
    let pattern: ChainPattern =
        ChainPattern::new(vec!["(1,32,32,32)".parse().unwrap(), "(32,32,32,1)".parse().unwrap()]).unwrap();
    let n = 500;
    let mut weights = || Weights::<bf16>::draw(&pattern, false, Draw::Symmetric, rng);
    let (first, second) = (weights(), weights());
    let x = first.draw_input(n, Layout::BatchFirst, rng);
    let v = second.draw_input(n, Layout::BatchFirst, rng);
    let learner = Learner::<bf16>::new(device, &pattern, false).unwrap();
    learner.prepare(n).unwrap();
    let upload = |values: &[bf16]| Buffer::from_slice(device, values).unwrap();
    let mut w: Vec<Buffer<bf16>> = first.chain.factors().iter().map(|f| upload(f.weights())).collect();
    let (x_there, v_there) = (upload(&x), upload(&v));
    let array = |len: usize| upload(&vec![bf16::NAN; len]);
    let outputs = [array(n * 1024), array(n * 1024)];
    let found = [array(32 * 32 * 32), array(32 * 32 * 32)];
    let (x_found, hidden) = (array(n * 1024), array(n * 1024));
    let parts = Buffer::<f32>::alloc(device, learner.parts_len(n, true).unwrap()).unwrap();
    let addresses = w.iter().map(Buffer::pointer).collect::<Vec<_>>();
    let stream = Stream::new(device).unwrap();
    let graph = stream
        .capture(|| {
            // SAFETY: the arrays above have the lengths that the patterns and n ask for, and outlive the graph.
            unsafe {
                let outputs = [outputs[0].pointer(), outputs[1].pointer()];
                learner.forward(&addresses, 0, x_there.pointer(), &outputs, n, &stream)?;
                let what = Backward {
                    weights: &addresses,
                    inputs: &[outputs[1], x_there.pointer()],
                    gradient: v_there.pointer(),
                    weight_gradients: &[found[0].pointer(), found[1].pointer()],
                    bias_gradient: 0,
                    x_gradient: x_found.pointer(),
                    hidden: [hidden.pointer(), 0],
                    parts: parts.pointer(),
                };
                learner.backward(&what, n, &stream)
            }
        })
        .unwrap();
    for chain in [&first.chain, &second.chain] {
        for (buffer, factor) in w.iter_mut().zip(chain.factors()) {
            buffer.write(0, factor.weights()).unwrap();
        }
        // SAFETY: all that the graph names is alive.
        unsafe { graph.launch(&stream) }.unwrap();
        stream.synchronize().unwrap();
        let given: Vec<&[bf16]> = chain.factors().iter().map(Factor::weights).collect();
        let alone = learner.step(&given, None, &x, &v, n).unwrap();
        assert_eq!(outputs[0].to_vec().unwrap(), alone.y);
        assert_eq!(x_found.to_vec().unwrap(), alone.x);
        for (found, alone) in found.iter().zip(&alone.weights) {
            assert_eq!(&found.to_vec().unwrap(), alone);
        }
    }
}

fn refusals(device: &Device) {
    let pattern = ChainPattern::new(vec!["(2,8,8,4)".parse().unwrap()]).unwrap();
    let error = Learner::<f64>::new(device, &pattern, false).err().unwrap().to_string();
    assert!(error.contains("gradients of weights of (2,8,8,4) in f64"), "{error}");
    let learner = Learner::<f32>::new(device, &pattern, false).unwrap();
    let (w, x) = (vec![1.0f32; 512], vec![1.0f32; 3 * 64]);
    let error = learner.step(&[&w], None, &x[1..], &x, 3).unwrap_err().to_string();
    assert!(error.contains("192") && error.contains("191"), "{error}");
    let error = learner.step(&[&w], Some(&x[..64]), &x, &x, 3).unwrap_err().to_string();
    assert!(error.contains("expected no bias"), "{error}");
    // No vectors: no gradient.
    let none = learner.step(&[&w], None, &[], &[], 0).unwrap();
    assert!(none.y.is_empty() && none.x.is_empty() && none.weights[0].iter().all(|&g| g == 0.0));
}

pub(crate) fn steps(device: &Device) -> Result<(), String> {
    let mut rng = Rng::new();
    let only = std::env::var("KRONSPARSE_CASES").unwrap_or_default();
    for (at, chain) in CHAINS.into_iter().enumerate().filter(|(_, chain)| chain.contains(&only)) {
        let patterns = chain.split_inclusive(')').map(|pattern| pattern.parse().unwrap()).collect();
        let pattern = ChainPattern::new(patterns).unwrap();
        let n = [300, 1777, 16][at % 3];
        one::<f16>(device, &pattern, n, &mut rng);
        one::<bf16>(device, &pattern, n, &mut rng);
        one::<f32>(device, &pattern, n, &mut rng);
    }
    replayed(device, &mut rng);
    refusals(device);
    Ok(())
}
