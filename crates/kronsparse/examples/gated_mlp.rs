//! Times a transformer's gated MLP, `down(silu(gate(x)) · up(x)) + residual`, on a GPU: `gated_mlp [N,N,…] [f16|bf16] [DIM] [HIDDEN]`.
//!
//! Gate and up are one chain (`Chain::gated`), of two factors as for a Llama-shaped layer of 4096 and 14336; the residual is added by
//! the last kernel of down. Every number of vectors is checked against the oracle, then timed in a CUDA graph (warm caches), gate with
//! up, down, and both in a row. CSV on standard output, the plans in its last column.

use std::error::Error;

use half::{bf16, f16};
use kronsparse::cuda::timing::{self, Caches};
use kronsparse::cuda::{Buffer, Device, Operator, Options, Stream};
use kronsparse::{
    Activation, Chain, ChainPattern, Join, Layout, Pattern, Scalar, measure, reference, relative_error_wide,
};

/// Calls in a graph, and how often it is replayed.
const CALLS: usize = 20;
const REPLAYS: usize = 21;
/// Vectors that are compared with the oracle.
const CHECKED: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize, otherwise: &'static str| arguments.get(at).map_or(otherwise, String::as_str).to_owned();
    let batches = argument(0, "1,32,2048").split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let (dim, hidden) = (argument(2, "4096").parse()?, argument(3, "14336").parse()?);
    match argument(1, "f16").as_str() {
        "f16" => run::<f16>(&batches, dim, hidden),
        "bf16" => run::<bf16>(&batches, dim, hidden),
        other => Err(format!("expected the element type f16 or bf16, found {other}").into()),
    }
}

/// Two factors whose hidden vectors have 64 lanes, wherever 64 divides the sizes.
fn monarch(rows: usize, cols: usize) -> kronsparse::Result<ChainPattern> {
    let q = 64;
    ChainPattern::new(vec![Pattern::new(1, rows / q, q, q)?, Pattern::new(q, q, cols / q, 1)?])
}

fn random<T: Scalar<Wide = f64>>(count: usize, scale: f64, rng: &mut fastrand::Rng) -> Vec<T> {
    (0..count).map(|_| T::narrow((2.0 * rng.f64() - 1.0) * scale)).collect()
}

fn random_chain<T: Scalar<Wide = f64>>(pattern: &ChainPattern, rng: &mut fastrand::Rng) -> Chain<T> {
    let scales: Vec<f64> = pattern.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
    Chain::from_fn(pattern, |at, _, _, _, _| T::narrow((2.0 * rng.f64() - 1.0) * scales[at]))
}

fn run<T: Scalar<Wide = f64>>(batches: &[usize], dim: usize, hidden: usize) -> Result<(), Box<dyn Error>> {
    if !dim.is_multiple_of(64) || !hidden.is_multiple_of(64) {
        return Err(format!("expected sizes that are multiples of 64, found {dim} and {hidden}").into());
    }
    let device = Device::open(0)?;
    let (mut rng, stream) = (fastrand::Rng::new(), Stream::new(&device)?);
    let (wide, narrow) = (monarch(hidden, dim)?, monarch(dim, hidden)?);
    let both = Chain::gated(&random_chain::<T>(&wide, &mut rng), &random_chain(&wide, &mut rng))?;
    let down = random_chain::<T>(&narrow, &mut rng);
    let gate = Options { activation: Activation::Silu, join: Join::Gate, ..Options::default() };
    let add = Options { join: Join::Residual, ..Options::default() };
    println!("device,dtype,dim,hidden,n,part,microseconds_median,microseconds_least,relative_error,plan");
    for &n in batches {
        // Plans are made for one number of vectors.
        let first = Operator::new(&device, &both, gate.clone())?;
        let second = Operator::new(&device, &down, add.clone())?;
        let input = random::<T>(n * dim, 1.0, &mut rng);
        let x = Buffer::from_slice(&device, &input)?;
        let nan = |len: usize| Buffer::from_slice(&device, &vec![T::narrow(f64::NAN); len]);
        let (mut between, mut y) = (nan(n * hidden)?, nan(n * dim)?);
        first.tune(n, Layout::BatchFirst, Caches::Warm, &x, &mut between)?;
        second.tune(n, Layout::BatchFirst, Caches::Warm, &between, &mut y)?;
        let (between, y) = (nan(n * hidden)?, nan(n * dim)?);
        // SAFETY: all arrays are as long as the operators' sizes times `n`, and outlive every launch: `timing` waits.
        let expand = || unsafe { first.launch(x.pointer(), between.pointer(), n, Layout::BatchFirst, &stream) };
        let shrink = || {
            let (from, to) = (between.pointer(), y.pointer());
            // SAFETY: as above.
            unsafe { second.launch_residual(from, x.pointer(), to, n, Layout::BatchFirst, &stream) }
        };
        expand()?;
        shrink()?;
        stream.synchronize()?;
        let error = check(&both, &down, &input, (&between.to_vec()?, &y.to_vec()?), n)?;
        let plans = [first.explain(n, Layout::BatchFirst)?, second.explain(n, Layout::BatchFirst)?];
        let all = plans.join(" | ");
        let times = [
            ("gate_up", timing::warm(&stream, CALLS, REPLAYS, expand)?, &plans[0]),
            ("down", timing::warm(&stream, CALLS, REPLAYS, shrink)?, &plans[1]),
            ("mlp", timing::warm(&stream, CALLS, REPLAYS, || expand().and_then(|()| shrink()))?, &all),
        ];
        for (part, seconds, plan) in times {
            let least = seconds.iter().copied().fold(f64::INFINITY, f64::min) * 1e6;
            let median = measure::median(&seconds).unwrap_or(f64::NAN) * 1e6;
            let plan = plan.replace('"', "'").replace('\n', "; ");
            let name = device.name();
            println!("\"{name}\",{},{dim},{hidden},{n},{part},{median:.3},{least:.3},{error:.2e},\"{plan}\"", T::DTYPE);
        }
    }
    Ok(())
}

/// The larger relative error of both parts, over a few vectors. Down is judged on what it was given.
fn check<T: Scalar<Wide = f64>>(
    both: &Chain<T>,
    down: &Chain<T>,
    x: &[T],
    (between, y): (&[T], &[T]),
    n: usize,
) -> Result<f64, Box<dyn Error>> {
    let (hidden, dim) = (down.cols(), down.rows());
    let mut largest = 0.0f64;
    for at in (0..CHECKED.min(n)).map(|k| k * (n - 1) / CHECKED.min(n).saturating_sub(1).max(1)) {
        let (x, between) = (&x[at * dim..][..dim], &between[at * hidden..][..hidden]);
        let (silu, first) = (Activation::Silu, Layout::BatchFirst);
        let gated = reference::multiply_joined(both, None, silu, Join::Gate, (x, &[]), 1, first);
        let added = reference::multiply_joined(down, None, Activation::None, Join::Residual, (between, x), 1, first);
        largest = largest.max(relative_error_wide(between, &gated));
        largest = largest.max(relative_error_wide(&y[at * dim..][..dim], &added));
    }
    let limit = 8.0 * T::DTYPE.tolerance_on_gpu(224, 2);
    // Written so that a NaN fails.
    if largest <= limit {
        Ok(largest)
    } else {
        Err(format!("relative error {largest:.2e}, at most {limit:.2e}").into())
    }
}
