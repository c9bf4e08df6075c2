//! `kronsparse factorize`: a dense matrix to a chain, with the error and its bound.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use kronsparse::factorize::{Factorization, Options, Order, factorize};
use kronsparse::io::{self, Array, Visit};
use kronsparse::{ChainSpec, DType, Layer, Layout, Scalar};
use serde_json::json;

use crate::dtypes::check_real;
use crate::output::{self, check_extension, check_output, grouped, json_number, seconds_text};
use crate::progress::Progress;
use crate::table::{Align, render};

/// Approximate a dense matrix by a chain
#[derive(Args)]
#[command(after_help = "\
SPEC is monarch:p,q, square-dyadic, butterfly:r1,r2,… or patterns left to right, as (1,64,64,64)(64,64,64,1).
Neighbouring factors must be chainable. The error is relative, in the Frobenius norm; the bound says how many
times the error of the best chain with these patterns it can be at most.

Examples:
  kronsparse factorize w.npy --chain monarch:32,32 -o chain.safetensors
  kronsparse factorize model.safetensors::pooler.dense.weight --chain '(1,24,16,16)(16,16,24,1)' -o pooler.safetensors
  kronsparse factorize hadamard.npz::h1024 --chain square-dyadic --order balanced -o h.safetensors --json")]
pub(crate) struct FactorizeArgs {
    /// The dense matrix
    #[arg(value_name = "IN.npy|IN.npz::NAME|IN.safetensors::TENSOR")]
    input: String,
    /// The chain to factorize into
    #[arg(short, long, value_name = "SPEC")]
    chain: ChainSpec,
    /// Where the chain goes
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Order of the steps: l2r, r2l or balanced
    #[arg(long, default_value = "l2r")]
    order: Order,
    /// Leave out the orthonormalisation between steps: faster, but without the bound
    #[arg(long)]
    no_orthonormal: bool,
    /// Element type of the chain: f16, bf16, f32, f64, c64 or c128 [default: that of the matrix]
    #[arg(long)]
    dtype: Option<DType>,
    /// Threads at most; 0 takes all
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    threads: usize,
    /// Print one JSON document about what was done
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &FactorizeArgs) -> Result<()> {
    check_extension(&args.output, "safetensors")?;
    check_output(&args.output, &[&args.input])?;
    let matrix = io::read_array(&args.input)?;
    let dtype = args.dtype.unwrap_or_else(|| matrix.dtype());
    check_real(&format!("the matrix {}", args.input), matrix.dtype(), dtype)?;
    io::visit_dtype(dtype, Factorize { args, matrix })
}

struct Factorize<'a> {
    args: &'a FactorizeArgs,
    matrix: Array,
}

impl Visit for Factorize<'_> {
    type Output = Result<()>;

    fn visit<T: Scalar>(self) -> Result<()> {
        let args = self.args;
        let matrix = self.matrix.into_matrix::<T>(&args.input)?;
        let pattern = args.chain.resolve(matrix.rows(), matrix.cols())?;
        let options = Options { order: args.order, orthonormal: !args.no_orthonormal, threads: args.threads };
        let progress = Progress::spinner(&format!("factorizing {}", args.input));
        let start = Instant::now();
        let Factorization { chain, relative_error, steps, bound } = factorize(&matrix, &pattern, &options)?;
        let seconds = start.elapsed().as_secs_f64();
        io::write_layer(&args.output, &Layer::new(chain, None)?, Layout::BatchFirst)?;
        drop(progress);

        let dense = matrix.rows() * matrix.cols();
        if args.json {
            let steps = steps.iter().map(|step| {
                json!({
                    "factors": [step.factors.start, step.factors.end],
                    "split": step.split,
                    "rank": step.rank,
                    "relative_error": json_number(step.relative_error),
                })
            });
            return output::print_json(&json!({
                "output": args.output,
                "rows": matrix.rows(),
                "cols": matrix.cols(),
                "dtype": T::DTYPE.name(),
                "chain": pattern.to_string(),
                "order": args.order.to_string(),
                "orthonormal": !args.no_orthonormal,
                "relative_error": json_number(relative_error),
                "bound": json_number(bound),
                "parameters": pattern.parameters(),
                "parameters_dense": dense,
                "steps": steps.collect::<Vec<_>>(),
                "seconds": json_number(seconds),
            }));
        }
        let rows: Vec<Vec<String>> = steps
            .iter()
            .map(|step| {
                let (first, last) = (step.factors.start, step.factors.end);
                let split = format!("{first}..{last} at {}", step.split);
                vec![split, step.rank.to_string(), format!("{:.3e}", step.relative_error)]
            })
            .collect();
        let bound = if bound.is_finite() { format!("at most {bound:.3} × the best error") } else { "no bound".into() };
        let mut text = format!(
            "{}: {} × {}, {}, chain {pattern}\n\
             relative error {relative_error:.6e} ({bound}), {} of {} parameters ({:.2} %), {}\n",
            args.output.display(),
            matrix.rows(),
            matrix.cols(),
            T::DTYPE,
            grouped(pattern.parameters()),
            grouped(dense),
            100.0 * pattern.density(),
            seconds_text(seconds),
        );
        if !rows.is_empty() {
            let columns = [("step: factors", Align::Left), ("rank", Align::Right), ("relative error", Align::Right)];
            text.push_str(&render(&columns, &rows));
        }
        output::print(&text)
    }
}
