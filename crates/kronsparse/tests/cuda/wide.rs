//! 16-bit chains whose hidden vectors stay in f32: outputs are rounded once, and nothing between factors overflows.

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::timing::Caches;
use kronsparse::cuda::{Buffer, Device, Operator, Options, Stream};
use kronsparse::plan::{Algorithm, Hidden};
use kronsparse::tune::Tuning;
use kronsparse::{Activation, Chain, ChainPattern, Join, Layout, Scalar, reference};

use super::behaviour::three;
use crate::harness::inputs::nan;

/// Of the root mean square of the outputs: what a chain in f32 by three TF32 products may be off, where sums cancel.
const CANCELLED: f64 = 2e-6;

/// Whether every output is within half a unit in the last place of `expected`, and that.
fn is_rounded_once<T: Scalar<Wide = f64>>(y: &[T], expected: &[f64], unit: f64) -> bool {
    let scale = (expected.iter().map(|e| e * e).sum::<f64>() / expected.len() as f64).sqrt();
    // Below the least normal number of f16, half a unit is 2^-25.
    y.iter().zip(expected).all(|(y, e)| (y.widen() - e).abs() <= unit * e.abs() + CANCELLED * scale + 3e-8)
}

fn one<T: Scalar<Wide = f64>>(device: &Device, unit: f64, rng: &mut Rng) {
    let weights = three::<T>(rng);
    for (join, activation) in
        [(Join::None, Activation::Relu), (Join::Residual, Activation::None), (Join::Gate, Activation::Silu)]
    {
        for (n, layout) in [(1, Layout::BatchFirst), (19, Layout::BatchFirst), (300, Layout::BatchLast)] {
            let make = |hidden: Hidden, algorithm: Algorithm| {
                let options = Options {
                    bias: weights.bias.clone(),
                    activation,
                    join,
                    hidden,
                    algorithm,
                    tuning: Tuning::Off,
                    ..Options::default()
                };
                Operator::new(device, &weights.chain, options).unwrap()
            };
            let wide = make(Hidden::Wide, Algorithm::Auto);
            let (rows, cols) = (wide.rows(), wide.cols());
            let mut draw = |count: usize| (0..count).map(|_| T::narrow(2.0 * rng.f64() - 1.0)).collect::<Vec<T>>();
            let (x, residual) = (draw(n * cols), draw(n * rows));
            let (adds, bias) = (join == Join::Residual, weights.bias.as_deref());
            let arrays = (&x[..], if adds { &residual[..] } else { &[] });
            let expected = reference::multiply_joined(&weights.chain, bias, activation, join, arrays, n, layout);
            let run = |operator: &Operator<T>| {
                let y = if adds {
                    operator.multiply_residual(&x, &residual, n, layout)
                } else {
                    operator.multiply(&x, n, layout)
                };
                y.unwrap()
            };
            let what = format!("{} {join} n={n} {layout}", T::DTYPE);
            assert!(is_rounded_once(&run(&wide), &expected, unit), "{what}: more than one rounding");
            assert!(is_rounded_once(&run(&make(Hidden::Wide, Algorithm::Fused)), &expected, unit), "{what}: ours");
            if n > 1 {
                let rounded = run(&make(Hidden::Rounded, Algorithm::Fused));
                assert!(
                    !is_rounded_once(&rounded, &expected, unit),
                    "{what}: rounded hidden vectors cannot be so close"
                );
            }
            assert!(wide.explain(n, layout).unwrap().contains("the chain in f32"), "{what}");
            if !adds {
                // Tuned, at addresses of any alignment, into poisoned memory.
                let buffer = Buffer::from_slice(device, &x).unwrap();
                let mut y = Buffer::from_slice(device, &vec![nan::<T>(); n * rows + 3]).unwrap();
                wide.tune(n, layout, Caches::Warm, &buffer, &mut y).unwrap();
                y.write(0, &vec![nan::<T>(); n * rows + 3]).unwrap();
                let stream = Stream::default(device);
                // SAFETY: the arrays are long enough and alive until the copy below, which waits.
                unsafe { wide.launch(buffer.pointer(), y.pointer_at(3), n, layout, &stream) }.unwrap();
                let all = y.to_vec().unwrap();
                assert!(is_rounded_once(&all[3..], &expected, unit), "{what}: tuned");
                assert!(all[..3].iter().all(|y| y.widen().is_nan()), "{what}: wrote before Y");
            }
        }
    }
}

pub(crate) fn hidden_in_f32(device: &Device) -> Result<(), String> {
    let mut rng = Rng::new();
    one::<f16>(device, 2f64.powi(-11), &mut rng);
    one::<bf16>(device, 2f64.powi(-8), &mut rng);

    // 32 · 60² = 115200 is beyond f16 between the factors, and a tenth of a thousandth of it is not.
    let pattern = ChainPattern::new(vec!["(1,32,32,32)".parse().unwrap(), "(32,32,32,1)".parse().unwrap()]).unwrap();
    let chain = Chain::from_fn(&pattern, |at, _, _, _, _| f16::from_f32(if at == 0 { 1e-4 } else { 60.0 }));
    let x = vec![f16::from_f32(60.0); 5 * 1024];
    let multiply = |hidden: Hidden| {
        let options = Options { hidden, algorithm: Algorithm::Fused, tuning: Tuning::Off, ..Options::default() };
        Operator::new(device, &chain, options).unwrap().multiply(&x, 5, Layout::BatchFirst).unwrap()
    };
    let expected = reference::multiply(&chain, None, Activation::None, &x, 5, Layout::BatchFirst);
    assert!(is_rounded_once(&multiply(Hidden::Wide), &expected, 2f64.powi(-11)));
    assert!(multiply(Hidden::Rounded).iter().all(|y| y.is_infinite()));
    Ok(())
}
