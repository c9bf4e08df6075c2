//! Times the fused engine: `speed CHAIN[;CHAIN…] [batch] [threads]`, both layouts, f32, warm.
use std::time::Instant;

use kronsparse::{Chain, ChainSpec, Layout, cpu};

fn main() -> kronsparse::Result<()> {
    let mut args = std::env::args().skip(1);
    let specs = args.next().unwrap_or_else(|| "(1,64,64,64)".into());
    let n: usize = args.next().map_or(2048, |n| n.parse().expect("batch"));
    let threads: usize = args.next().map_or(1, |n| n.parse().expect("threads"));
    let algorithm = args.next().unwrap_or_else(|| "auto".into()).parse()?;
    for spec in specs.split(';') {
        let ChainSpec::Explicit(pattern) = spec.parse()? else { panic!("explicit chains only") };
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let chain = Chain::from_fn(&pattern, |_, _, _, _, _| random());
        let operator = cpu::Operator::new(&chain, cpu::Options { threads, algorithm, ..Default::default() })?;
        let x: Vec<f32> = (0..n * chain.cols()).map(|_| random()).collect();
        let mut y = vec![f32::NAN; n * chain.rows()];
        print!("{pattern} n={n}");
        for layout in Layout::ALL {
            let mut scratch = cpu::Scratch::new(operator.apply_scratch(n, layout));
            let mut times = Vec::new();
            let begin = Instant::now();
            while times.len() < 5 || begin.elapsed().as_secs_f64() < 0.5 {
                let t = Instant::now();
                operator.apply_with(&x, &mut y, n, layout, &mut scratch)?;
                times.push(t.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            let median = times[times.len() / 2];
            print!(
                "  {layout} {:8.3} ms (min {:8.3}) {:6.1} GF/s",
                median * 1e3,
                times[0] * 1e3,
                pattern.flops(n) / times[0] / 1e9
            );
        }
        println!();
    }
    Ok(())
}
