//! Times `factorize` on a random square matrix: `factorize_speed N CHAIN [f32|f64] [ORDER] [THREADS]`, for example
//! `factorize_speed 4096 monarch:64,64 f32 l2r 1`. Prints seconds (best of three), relative error and bound.

use std::time::Instant;

use kronsparse::factorize::{Options, factorize};
use kronsparse::{ChainSpec, Matrix, Scalar};

fn time<T: Scalar>(n: usize, spec: &ChainSpec, options: &Options, random: impl FnMut() -> T) -> kronsparse::Result<()> {
    let pattern = spec.resolve(n, n)?;
    let mut random = random;
    let matrix = Matrix::from_fn(n, n, |_, _| random());
    let mut best = f64::INFINITY;
    let mut result = None;
    for _ in 0..3 {
        let start = Instant::now();
        result = Some(factorize(&matrix, &pattern, options)?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let result = result.expect("three runs");
    println!(
        "{n} × {n} {} into {spec}, {}, threads {} (0: all): {best:.3} s, relative error {:.9}, bound {:.3}",
        T::DTYPE,
        options.order,
        options.threads,
        result.relative_error,
        result.bound
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize, default: &str| args.get(at).cloned().unwrap_or_else(|| default.to_string());
    let n: usize = arg(0, "1024").parse()?;
    let spec: ChainSpec = arg(1, "monarch:32,32").parse()?;
    let options = Options { order: arg(3, "l2r").parse()?, threads: arg(4, "0").parse()?, ..Options::default() };
    // Uniform numbers from a linear congruential generator: the entries only need to have no structure.
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    match arg(2, "f32").as_str() {
        "f32" => time::<f32>(n, &spec, &options, || random() as f32)?,
        "f64" => time::<f64>(n, &spec, &options, random)?,
        other => return Err(format!("dtype {other}: expected f32 or f64").into()),
    }
    Ok(())
}
