//! What the GPU engine promises beside right numbers: graphs, streams, overhead, special numbers, errors.

use std::time::Instant;

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::cuda::{Buffer, Device, Event, Operator, Options, Plans, Stream};
use kronsparse::plan::Algorithm;
use kronsparse::tune::Tuning;
use kronsparse::{Activation, Chain, ChainPattern, Error, Factor, Layout, Pattern, Scalar, reference};
use num_complex::Complex32;

use crate::harness::inputs::{Draw, Weights, nan};
use crate::harness::judge::compare;

/// Random weights for a chain of three factors whose hidden vectors go through memory.
pub(crate) fn three<T: Scalar>(rng: &mut Rng) -> Weights<T> {
    let chain = ChainPattern::new(["(2,6,5,8)", "(4,5,7,4)", "(1,28,9,4)"].map(|p| p.parse().unwrap()).into()).unwrap();
    Weights::draw(&chain, true, Draw::Symmetric, rng)
}

fn options<T: Scalar>(weights: &Weights<T>, activation: Activation) -> Options<T> {
    Options { bias: weights.bias.clone(), activation, tuning: Tuning::Off, ..Options::default() }
}

/// This project's kernels, whatever else would be faster.
fn ours<T>() -> Options<T> {
    Options { algorithm: Algorithm::Fused, ..Options::default() }
}

pub(crate) fn assert_right<T: Scalar>(
    weights: &Weights<T>,
    activation: Activation,
    x: &[T],
    y: &[T],
    n: usize,
    layout: Layout,
) {
    let expected = reference::multiply(&weights.chain, weights.bias.as_deref(), activation, x, n, layout);
    let tolerance = 4.0 * T::DTYPE.tolerance_on_gpu(64, 3);
    compare(y, &expected, tolerance, n, layout).unwrap_or_else(|why| panic!("{}: {why}", T::DTYPE));
}

/// A captured multiplication follows its input: what is replayed is the work, not a result.
pub(crate) fn graph_capture(device: &Device) -> Result<(), String> {
    fn one<T: Scalar>(device: &Device, algorithm: Algorithm) {
        let mut rng = Rng::new();
        let (weights, n) = (three::<T>(&mut rng), 19);
        let options = Options { algorithm, ..options(&weights, Activation::Relu) };
        let operator = Operator::new(device, &weights.chain, options).unwrap();
        let (rows, cols) = (operator.rows(), operator.cols());
        let stream = Stream::new(device).unwrap();
        // Lanes keep strided products from batch-first arrays.
        for layout in Layout::ALL.into_iter().filter(|&l| algorithm != Algorithm::Strided || l == Layout::BatchLast) {
            let mut x = Buffer::from_slice(device, &vec![nan::<T>(); n * cols]).unwrap();
            let mut y = Buffer::<T>::alloc(device, n * rows).unwrap();
            operator.prepare(n, layout).unwrap();
            let free = device.free_memory().unwrap();
            // SAFETY: x and y outlive the graph.
            let queue = || unsafe { operator.launch(x.pointer(), y.pointer(), n, layout, &stream) };
            let graph = stream.capture(queue).unwrap();
            for _ in 0..3 {
                let input = weights.draw_input(n, layout, &mut rng);
                x.write(0, &input).unwrap();
                y.write(0, &vec![nan::<T>(); n * rows]).unwrap();
                // SAFETY: operator, x and y are alive.
                unsafe { graph.launch(&stream) }.unwrap();
                assert_right(&weights, Activation::Relu, &input, &y.to_vec().unwrap(), n, layout);
            }
            drop(graph);
            // A hot loop takes no memory that it does not give back.
            for _ in 0..100 {
                operator.apply(&x, &mut y, n, layout, &stream).unwrap();
            }
            stream.synchronize().unwrap();
            assert!(device.free_memory().unwrap() + (64 << 20) >= free, "launches took device memory");
        }
    }
    use Algorithm::{Auto, Dense, Fused, PermuteBmm, Strided};
    for algorithm in [Fused, Auto, Dense, PermuteBmm, Strided] {
        one::<f16>(device, algorithm);
        one::<bf16>(device, algorithm);
        one::<f32>(device, algorithm);
        one::<f64>(device, algorithm);
    }
    Ok(())
}

/// One operator with hidden vectors in memory, used on two streams in turn without waiting: the work is put in order.
pub(crate) fn streams(device: &Device) -> Result<(), String> {
    let mut rng = Rng::new();
    let (weights, n) = (three::<f32>(&mut rng), 3000);
    let operator = Operator::new(device, &weights.chain, options(&weights, Activation::None)).unwrap();
    let streams = [Stream::new(device).unwrap(), Stream::new(device).unwrap()];
    let inputs: Vec<Vec<f32>> = (0..12).map(|_| weights.draw_input(n, Layout::BatchFirst, &mut rng)).collect();
    let x: Vec<Buffer<f32>> = inputs.iter().map(|x| Buffer::from_slice(device, x).unwrap()).collect();
    let mut y: Vec<Buffer<f32>> =
        inputs.iter().map(|_| Buffer::from_slice(device, &vec![f32::NAN; n * operator.rows()]).unwrap()).collect();
    operator.prepare(n, Layout::BatchFirst).unwrap();
    for (at, y) in y.iter_mut().enumerate() {
        operator.apply(&x[at], y, n, Layout::BatchFirst, &streams[at % 2]).unwrap();
    }
    for (x, y) in inputs.iter().zip(&y) {
        let head = 40;
        let (x, y) = (&x[..head * operator.cols()], &y.to_vec().unwrap());
        assert_right(&weights, Activation::None, x, &y[..head * operator.rows()], head, Layout::BatchFirst);
        assert!(y.iter().all(|v| v.is_finite()));
    }
    Ok(())
}

/// Time of the host for one launch; far below that of anything that allocates or waits.
pub(crate) fn launch_overhead(device: &Device) -> Result<(), String> {
    let pattern = ChainPattern::new(vec![Pattern::new(4, 8, 8, 4).unwrap()]).unwrap();
    let weights = Weights::<f16>::draw(&pattern, false, Draw::Symmetric, &mut Rng::new());
    let operator = Operator::new(device, &weights.chain, ours()).unwrap();
    let (stream, n) = (Stream::new(device).unwrap(), 4);
    let x = Buffer::from_slice(device, &vec![f16::ONE; n * operator.cols()]).unwrap();
    let y = Buffer::<f16>::alloc(device, n * operator.rows()).unwrap();
    operator.prepare(n, Layout::BatchFirst).unwrap();
    let queue = |count: usize| {
        let start = Instant::now();
        for _ in 0..count {
            // SAFETY: x and y outlive the synchronisation below.
            unsafe { operator.launch(x.pointer(), y.pointer(), n, Layout::BatchFirst, &stream) }.unwrap();
        }
        start.elapsed().as_secs_f64() / count as f64
    };
    queue(10);
    stream.synchronize().unwrap();
    // Few enough that the queue does not fill up, which would make the host wait for the GPU.
    let mut rounds: Vec<f64> = (0..20)
        .map(|_| {
            let seconds = queue(200);
            stream.synchronize().unwrap();
            seconds
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("launch: {:.2} µs of host time (median of {} rounds)", rounds[10] * 1e6, rounds.len());
    assert!(rounds[10] < 50e-6, "a launch takes {:.1} µs", rounds[10] * 1e6);
    Ok(())
}

/// One NaN or infinity in X or in the weights reaches the outputs that its feature and vector say, and no others, with this
/// project's kernels. (A dense product multiplies them by zeros.)
pub(crate) fn nonfinite(device: &Device) -> Result<(), String> {
    fn one<T: Scalar>(device: &Device, rng: &mut Rng) {
        let size = |rng: &mut Rng, most| rng.usize(1..=most);
        let p = Pattern::new(size(rng, 5), size(rng, 40), size(rng, 40), size(rng, 40)).unwrap();
        let (n, layout) = (size(rng, 40), Layout::ALL[rng.usize(..2)]);
        let one = T::narrow(<T::Wide as kronsparse::scalar::Wide>::ONE);
        let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][rng.usize(..3)];
        let bad = T::narrow(<T::Wide as kronsparse::scalar::Wide>::from_parts(bad, 0.0));
        let (i, l, j, o, vector) =
            (rng.usize(..p.a()), rng.usize(..p.c()), rng.usize(..p.d()), rng.usize(..p.b()), rng.usize(..n));
        let in_x = rng.bool();
        let chain = Chain::from(Factor::from_fn(
            p,
            |wi, wo, wl, wj| {
                if !in_x && (wi, wo, wl, wj) == (i, o, l, j) { bad } else { one }
            },
        ));
        let mut x = vec![one; n * p.cols()];
        if in_x {
            x[layout.index(vector, p.col(i, l, j), n, p.cols())] = bad;
        }
        let y = Operator::new(device, &chain, ours()).unwrap().multiply(&x, n, layout).unwrap();
        for at in 0..n {
            for row in 0..p.rows() {
                let hit = if in_x {
                    at == vector && (0..p.b()).any(|o| row == p.row(i, o, j))
                } else {
                    row == p.row(i, o, j)
                };
                let (value, _) = kronsparse::scalar::Wide::parts(y[layout.index(at, row, n, p.rows())].widen());
                assert_eq!(
                    !value.is_finite(),
                    hit,
                    "{} {p} {layout} n={n}: vector {at}, row {row} is {value}",
                    T::DTYPE
                );
            }
        }
    }
    let mut rng = Rng::new();
    for _ in 0..12 {
        one::<f16>(device, &mut rng);
        one::<bf16>(device, &mut rng);
        one::<f32>(device, &mut rng);
        one::<f64>(device, &mut rng);
    }
    Ok(())
}

/// Sums beyond the range of f16 become infinity on store, not the largest number; just below it they do not.
pub(crate) fn overflow(device: &Device) -> Result<(), String> {
    let chain = Chain::from(Factor::from_fn(Pattern::new(2, 3, 4, 5).unwrap(), |_, o, _, _| {
        f16::from_f32([16376.0, -20000.0, 16384.0][o])
    }));
    for layout in Layout::ALL {
        let y = Operator::new(device, &chain, ours()).unwrap();
        let y = y.multiply(&vec![f16::ONE; 40 * 3], 3, layout).unwrap();
        for at in 0..3 {
            for row in 0..30 {
                // 4 · 16376 = 65504 is the largest f16; 4 · 16384 = 65536 is beyond.
                let expected = [f16::MAX, f16::NEG_INFINITY, f16::INFINITY][row / 5 % 3];
                assert_eq!(y[layout.index(at, row, 3, 30)], expected, "{layout} vector {at} row {row}");
            }
        }
    }
    Ok(())
}

pub(crate) fn wrong_arguments(device: &Device) -> Result<(), String> {
    let error = Device::open(1000).unwrap_err().to_string();
    assert!(error.contains("GPU 1000") && error.contains("this machine has"), "{error}");

    let chain = Chain::from(Factor::from_fn(Pattern::new(2, 3, 4, 5).unwrap(), |_, _, _, _| 1f32));
    let complex = chain.factors()[0].cast::<Complex32>();
    let refused = Operator::new(device, &Chain::from(complex), Options::default());
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    let loops = Operator::new(device, &chain, Options { algorithm: Algorithm::Einsum, ..Options::default() });
    let error = loops.unwrap_err().to_string();
    assert!(error.contains("einsum") && error.contains("permute-bmm"), "{error}");
    let strided = Operator::new(device, &chain, Options { algorithm: Algorithm::Strided, ..Options::default() });
    let error = strided.unwrap().prepare(3, Layout::BatchFirst).unwrap_err().to_string();
    assert!(error.contains("d is 5"), "{error}");
    let dense = Options { algorithm: Algorithm::Dense, memory_limit: 100, ..Options::default() };
    let error = Operator::new(device, &chain, dense).unwrap().prepare(3, Layout::BatchFirst).unwrap_err().to_string();
    assert!(error.contains("the limit is 100"), "{error}");
    let bias = Operator::new(device, &chain, Options { bias: Some(vec![0.0; 29]), ..Options::default() });
    let error = bias.unwrap_err().to_string();
    assert!(error.contains("expected 30") && error.contains("found 29"), "{error}");

    let family = Options { plans: Plans::Family("none".into()), ..Options::default() };
    let error = Operator::new(device, &chain, family).unwrap().prepare(3, Layout::BatchFirst).unwrap_err().to_string();
    assert!(error.contains("no kernel family none") && error.contains("plain"), "{error}");

    let operator = Operator::new(device, &chain, ours()).unwrap();
    let stream = Stream::default(device);
    let (short, mut y) =
        (Buffer::from_slice(device, &[0f32; 119]).unwrap(), Buffer::from_slice(device, &[7f32; 90]).unwrap());
    let error = operator.apply(&short, &mut y, 3, Layout::BatchFirst, &stream).unwrap_err().to_string();
    assert!(error.contains("expected 120 elements, found 119"), "{error}");
    assert_eq!(y.to_vec().unwrap(), [7.0; 90], "a refused product wrote into its output");
    assert_eq!(operator.multiply(&[], 0, Layout::BatchLast).unwrap(), [0f32; 0]);
    let text = operator.explain(3, Layout::BatchFirst).unwrap();
    for part in ["(2,3,4,5)", "f32 bsf, n = 3", "registers", "threads", device.name()] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    println!("{text}");
    Ok(())
}

pub(crate) fn buffers(device: &Device) -> Result<(), String> {
    let values: Vec<f64> = (0..1000).map(|_| fastrand::f64()).collect();
    let mut buffer = Buffer::from_slice(device, &values).unwrap();
    assert_eq!(buffer.to_vec().unwrap(), values);
    assert_eq!((buffer.pointer() % 256, buffer.pointer_at(3) - buffer.pointer()), (0, 24));
    buffer.write(10, &[1.0, 2.0]).unwrap();
    let mut part = [0.0; 4];
    buffer.read(9, &mut part).unwrap();
    assert_eq!(part, [values[9], 1.0, 2.0, values[12]]);
    assert!(buffer.write(999, &[1.0, 2.0]).is_err() && buffer.read(1001, &mut []).is_err());
    let empty = Buffer::<f32>::alloc(device, 0).unwrap();
    assert!(empty.is_empty() && empty.to_vec().unwrap().is_empty());
    assert!(Buffer::<f64>::alloc(device, usize::MAX / 8).is_err());

    let stream = Stream::new(device).unwrap();
    let [first, last] = [(); 2].map(|()| Event::new(device).unwrap());
    first.record(&stream).unwrap();
    last.record(&stream).unwrap();
    let seconds = last.seconds_since(&first).unwrap();
    assert!((0.0..1.0).contains(&seconds), "{seconds}");
    Ok(())
}
