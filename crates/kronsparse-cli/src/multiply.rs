//! `kronsparse multiply`: real data times a chain.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use kronsparse::cpu::{Operator, Options};
use kronsparse::io::{self, AnyLayer, Array, Visit};
use kronsparse::plan::{Algorithm, Problem};
use kronsparse::{Activation, DType, Layout, Scalar};
use serde_json::json;

use crate::dtypes::{check_real, read_weights};
use crate::output::{self, check_extension, check_output, json_number, seconds_text, shape_text};
use crate::progress::Progress;

/// Multiply real data by a chain: Y = X Wᵀ + bias
#[derive(Args)]
#[command(after_help = "\
The input is one vector (cols) or a batch: (…, cols) batch-first, (cols, n) batch-last. The output has the
input's shape with cols replaced by rows. It is written whole or not at all; an older file is replaced.

Examples:
  kronsparse multiply --weights chain.safetensors --input x.npy --output y.npy
  kronsparse multiply --weights chain.safetensors --input x.npz::tokens --output y.npy --activation gelu
  kronsparse multiply --weights small.safetensors::encoder.layer.0.output.dense --input x.npy --output y.npy
  kronsparse multiply --weights chain.safetensors --input y.npy --output z.npy --transpose --threads 1")]
pub(crate) struct MultiplyArgs {
    /// Chain file, or one layer of a converted model: MODEL.safetensors::NAME
    #[arg(short, long, value_name = "CHAIN.safetensors[::NAME]")]
    weights: String,
    /// Array to multiply
    #[arg(short, long, value_name = "X.npy|X.npz::NAME|X.safetensors::TENSOR")]
    input: String,
    /// Where the product goes
    #[arg(short, long, value_name = "Y.npy")]
    output: PathBuf,
    /// bsf (batch first) or bsl (batch last) [default: the chain file's own]
    #[arg(long)]
    layout: Option<Layout>,
    /// Multiply by the transpose (no conjugation); the file's bias is then not added
    #[arg(long)]
    transpose: bool,
    /// auto, fused, dense, permute-bmm, einsum, csr or bsr (strided needs a GPU)
    #[arg(long, default_value_t)]
    algorithm: Algorithm,
    /// Element type to compute in and to write: f16, bf16, f32, f64, c64 or c128 [default: that of the weights]
    #[arg(long)]
    dtype: Option<DType>,
    /// none, relu, gelu, gelu-tanh or silu, applied after the bias
    #[arg(long, default_value_t)]
    activation: Activation,
    /// Threads at most; 0 takes all
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    threads: usize,
    /// Print one JSON document about what was done
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &MultiplyArgs) -> Result<()> {
    check_extension(&args.output, "npy")?;
    check_output(&args.output, &[&args.weights, &args.input])?;
    let (layer, own_layout) = read_weights(&args.weights)?;
    let input = io::read_array(&args.input)?;
    let dtype = args.dtype.unwrap_or_else(|| layer.dtype());
    check_real(&format!("the chain {}", args.weights), layer.dtype(), dtype)?;
    check_real(&format!("the input {}", args.input), input.dtype(), dtype)?;
    io::visit_dtype(dtype, Multiply { args, layer, input, layout: args.layout.unwrap_or(own_layout) })
}

struct Multiply<'a> {
    args: &'a MultiplyArgs,
    layer: AnyLayer,
    input: Array,
    layout: Layout,
}

impl Visit for Multiply<'_> {
    type Output = Result<()>;

    fn visit<T: Scalar>(self) -> Result<()> {
        let Multiply { args, layer, input, layout } = self;
        let progress = Progress::spinner(&format!("multiplying {}", args.input));
        let (mut chain, mut bias) = layer.into_layer::<T>().into_parts();
        let bias_dropped = args.transpose && bias.is_some();
        if args.transpose {
            chain = chain.transpose();
            bias = None;
        }
        let bias_added = bias.is_some();
        let (n, shape) = output_shape(&input.shape, layout, chain.rows(), chain.cols(), &args.input)?;
        let x = input.data.into_vec::<T>();
        let options = Options {
            bias,
            activation: args.activation,
            algorithm: args.algorithm,
            threads: args.threads,
            ..Options::default()
        };
        let operator = Operator::new(&chain, options)?;
        let used = operator.algorithm(n, layout);
        let start = Instant::now();
        let y = operator.multiply(&x, n, layout)?;
        let seconds = start.elapsed().as_secs_f64();
        io::write_npy(&args.output, &shape, &y)?;
        drop(progress);

        let problem = Problem { chain: chain.pattern().clone(), dtype: T::DTYPE, batch: n, layout };
        let rate = problem.flops() / seconds;
        if args.json {
            return output::print_json(&json!({
                "output": args.output,
                "shape": shape,
                "dtype": T::DTYPE.name(),
                "layout": layout.name(),
                "batch": n,
                "chain": chain.pattern().to_string(),
                "transposed": args.transpose,
                "bias_added": bias_added,
                "activation": args.activation.name(),
                "algorithm": args.algorithm.name(),
                "algorithm_used": used.name(),
                "seconds": json_number(seconds),
                "flops_per_second": json_number(rate),
            }));
        }
        let bias = match (bias_added, bias_dropped) {
            (true, _) => "bias added",
            (_, true) => "bias not added (--transpose)",
            _ => "no bias",
        };
        output::print(&format!(
            "{}: shape {}, {}, {layout}; chain {}{}, {bias}, activation {}; {} with algorithm {}, first call, {:.1} GFLOP/s\n",
            args.output.display(),
            shape_text(&shape),
            T::DTYPE,
            chain.pattern(),
            if args.transpose { " (transposed)" } else { "" },
            args.activation,
            seconds_text(seconds),
            used,
            rate / 1e9,
        ))
    }
}

/// The batch size and the output's shape, or a sentence with both shapes.
fn output_shape(input: &[usize], layout: Layout, rows: usize, cols: usize, name: &str) -> Result<(usize, Vec<usize>)> {
    let (expected, found) = match (layout, input) {
        (Layout::BatchFirst, [before @ .., last]) if *last == cols => {
            let shape = before.iter().copied().chain([rows]).collect();
            return Ok((before.iter().product(), shape));
        }
        (Layout::BatchLast, [first]) if *first == cols => return Ok((1, vec![rows])),
        (Layout::BatchLast, [first, n]) if *first == cols => return Ok((*n, vec![rows, *n])),
        (Layout::BatchFirst, found) => (format!("({cols}) or (…, {cols})"), found),
        (Layout::BatchLast, found) => (format!("({cols}) or ({cols}, n)"), found),
    };
    bail!(
        "{name}: its shape ({}) does not fit the {rows} × {cols} chain, which takes {expected} in layout {layout}",
        found.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_layout() {
        let shape = |input: &[usize], layout| output_shape(input, layout, 6, 4, "x").map_err(|e| e.to_string());
        assert_eq!(shape(&[4], Layout::BatchFirst), Ok((1, vec![6])));
        assert_eq!(shape(&[2, 3, 4], Layout::BatchFirst), Ok((6, vec![2, 3, 6])));
        assert_eq!(shape(&[0, 4], Layout::BatchFirst), Ok((0, vec![0, 6])));
        assert_eq!(shape(&[4], Layout::BatchLast), Ok((1, vec![6])));
        assert_eq!(shape(&[4, 5], Layout::BatchLast), Ok((5, vec![6, 5])));
        let wrong = shape(&[4, 5], Layout::BatchFirst).unwrap_err();
        assert!(wrong.contains("(4, 5)") && wrong.contains("6 × 4"), "{wrong}");
        assert!(shape(&[5, 4], Layout::BatchLast).is_err());
        assert!(shape(&[], Layout::BatchFirst).is_err());
        assert!(shape(&[4, 1, 1], Layout::BatchLast).is_err());
    }
}
