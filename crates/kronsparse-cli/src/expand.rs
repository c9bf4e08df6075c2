//! `kronsparse expand`: a chain as one dense matrix.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use kronsparse::Scalar;
use kronsparse::io::{self, AnyLayer, Visit};

use crate::dtypes::read_weights;
use crate::output::{self, check_extension, check_output, grouped};
use crate::progress::Progress;

/// Write a chain as one dense matrix
#[derive(Args)]
#[command(after_help = "\
The matrix has shape (rows, cols) and the chain's element type. A bias is not part of it.

Examples:
  kronsparse expand chain.safetensors -o w.npy
  kronsparse expand small.safetensors::encoder.layer.0.output.dense -o w.npy")]
pub(crate) struct ExpandArgs {
    /// Chain file, or one layer of a converted model: MODEL.safetensors::NAME
    #[arg(value_name = "CHAIN.safetensors[::NAME]")]
    chain: String,
    /// Where the matrix goes
    #[arg(short, long, value_name = "W.npy")]
    output: PathBuf,
}

pub(crate) fn run(args: &ExpandArgs) -> Result<()> {
    check_extension(&args.output, "npy")?;
    check_output(&args.output, &[&args.chain])?;
    let (layer, _) = read_weights(&args.chain)?;
    let progress = Progress::spinner(&format!("expanding {}", args.chain));
    let (pattern, dtype) = (layer.pattern().clone(), layer.dtype());
    io::visit_dtype(dtype, Expand { layer, output: &args.output })?;
    drop(progress);
    output::print(&format!(
        "{}: {} × {}, {dtype}, from chain {pattern} of {} parameters\n",
        args.output.display(),
        pattern.rows(),
        pattern.cols(),
        grouped(pattern.parameters()),
    ))
}

struct Expand<'a> {
    layer: AnyLayer,
    output: &'a Path,
}

impl Visit for Expand<'_> {
    type Output = kronsparse::Result<()>;

    fn visit<T: Scalar>(self) -> kronsparse::Result<()> {
        let dense = self.layer.into_layer::<T>().chain().to_dense();
        io::write_npy(self.output, &[dense.rows(), dense.cols()], dense.as_slice())
    }
}
