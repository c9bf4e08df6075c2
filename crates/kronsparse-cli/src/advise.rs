//! `kronsparse advise`: whether chains pay for a layer or a model, which, by how much, or why to stay dense.

mod json;
mod measure;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use kronsparse::Layout;
use kronsparse::advise::{Advice, Budget, Calibration, Objective, Options, Search, Target, advise, advise_model};
use kronsparse::convert::Selection;
use kronsparse_bench::Kind;
use regex::Regex;

use crate::device::Device;
use crate::output;
use crate::progress::Progress;

/// Say whether chains pay for a layer or a model, which, and by how much; or why to stay dense
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).args(["model", "inputs"])))]
#[command(after_help = "\
Searches the chainable chains of the shape within the budget for those with the best estimates, and recommends one for
each number of vectors and one for all of them, or says to stay dense, or that there is no basis for a verdict. On a GPU
(h100 need not be there) the estimates are those of `kronsparse plan`; on the CPU they come from the machine's measured
ceilings, which takes some seconds the first time. With --measure the best chains and the dense matrix are run on the
device at hand, verified, and the measured times decide.

A chain of fewer parameters is another matrix: see `kronsparse factorize` and `kronsparse convert` for its error.

Examples:
  kronsparse advise --in 4096 --out 4096 --batch 1,32,2048 --dtype f16
  kronsparse advise --in 4096 --out 14336 --dtype bf16 --budget 0.1..0.25 --no-low-rank --json
  kronsparse advise --in 768 --out 3072 --batch 256 --dtype f32 --device cpu --measure
  kronsparse advise model.safetensors --batch 1,2048 --exclude lm_head")]
pub(crate) struct AdviseArgs {
    /// A model: every linear weight is advised on, as `kronsparse convert` selects them
    #[arg(value_name = "MODEL.safetensors")]
    model: Option<PathBuf>,
    /// Inputs of a layer: the columns of its matrix
    #[arg(long = "in", value_name = "N", requires_all = ["outputs", "dtype"])]
    inputs: Option<usize>,
    /// Outputs of a layer: the rows of its matrix
    #[arg(long = "out", value_name = "N", requires = "inputs")]
    outputs: Option<usize>,
    /// Numbers of vectors
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 32, 2048])]
    batch: Vec<usize>,
    /// Element type: f16, bf16, f32, f64, or tf32 on a GPU [default for a model: that of each weight]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<Kind>,
    /// Parameters as a share of the dense ones: from..to, or one share, of which 90 to 100 % are used
    #[arg(short, long, value_name = "SHARE|FROM..TO", default_value_t, allow_hyphen_values = true)]
    budget: Budget,
    /// What is advised for: h100, which need not be there, a GPU of this machine as cuda:N, or cpu
    #[arg(long, default_value = "h100", value_parser = Device::any)]
    device: Device,
    /// What is to be least: time, energy or memory
    #[arg(long, default_value = "time")]
    objective: Objective,
    /// bsf (vectors are rows) or bsl (vectors are columns)
    #[arg(long, default_value_t)]
    layout: Layout,
    /// Factors of a chain at most, 1 to 4
    #[arg(long, value_name = "N", default_value_t = Search::default().max_factors)]
    factors: usize,
    /// No chains whose factors are all dense (plain low rank)
    #[arg(long)]
    no_low_rank: bool,
    /// Single sparse factors too, such as block-diagonal ones, whose outputs see only a part of the inputs
    #[arg(long)]
    partial: bool,
    /// Run the best chains and the dense matrix on the device, and decide by that
    #[arg(long, conflicts_with = "model")]
    measure: bool,
    /// With --measure, so many chains for each number of vectors
    #[arg(long, value_name = "N", default_value_t = 3, requires = "measure")]
    top: usize,
    /// With --measure, sampling time for each chain and number of vectors
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2, requires = "measure")]
    seconds: f64,
    /// File with the CPU's measured ceilings, written if it is missing [default: one in the cache folder]
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Measure the CPU's ceilings again
    #[arg(long)]
    recalibrate: bool,
    /// Model: only weights whose names match
    #[arg(long, value_name = "REGEX", conflicts_with = "inputs")]
    include: Option<Regex>,
    /// Model: no weights whose names match
    #[arg(long, value_name = "REGEX", conflicts_with = "inputs")]
    exclude: Option<Regex>,
    /// Model: weights with `embed` or `norm` in their names too
    #[arg(long, conflicts_with = "inputs")]
    embeddings: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Where the CPU's ceilings came from, for the heading.
struct Source {
    /// In words: read from or kept in which file, or why not kept.
    origin: String,
    /// What was wrong with an older one.
    remark: Option<String>,
}

pub(crate) fn run(args: &AdviseArgs) -> Result<()> {
    if args.device != Device::Cpu && (args.calibration.is_some() || args.recalibrate) {
        bail!("--calibration and --recalibrate are about the CPU; add --device cpu");
    }
    if args.measure && args.device == Device::H100 {
        bail!(
            "--measure needs the device at hand, and h100 is a description of one; add --device cuda:0 or --device cpu"
        );
    }
    if args.top == 0 || !(args.seconds >= 0.0 && args.seconds <= 3600.0) {
        bail!("--top {} --seconds {}: expected at least one chain and 0 to 3600 seconds", args.top, args.seconds);
    }
    // The energy of a GPU that is at hand is measured, whether there is an estimate or not.
    let later = args.objective == Objective::Energy && args.measure && args.device != Device::Cpu;
    let options = Options {
        batches: args.batch.clone(),
        layout: args.layout,
        search: Search {
            budget: args.budget,
            max_factors: args.factors,
            low_rank: !args.no_low_rank,
            partial: args.partial,
        },
        objective: if later { Objective::Time } else { args.objective },
    };
    // Before the CPU's ceilings are measured.
    options.check()?;
    let (target, source) = target(args)?;
    match (&args.model, args.inputs, args.outputs, args.dtype) {
        (Some(model), ..) => of_model(args, model, &options, &target, source.as_ref()),
        (None, Some(inputs), Some(outputs), Some(kind)) => {
            let progress = Progress::spinner("searching chains");
            let mut advice = advise(outputs, inputs, kind.dtype, kind.precision(), &options, &target)?;
            drop(progress);
            let notes = if args.measure { of_device(args, &mut advice, kind)? } else { Vec::new() };
            advice.set_objective(args.objective)?;
            if args.json {
                return output::print_json(&json::document(&advice, kind, source.as_ref(), &notes));
            }
            output::print(&text::report(&advice, kind, source.as_ref(), &notes))
        }
        _ => bail!("expected a model, or --in, --out and --dtype"),
    }
}

/// Measures on the device; what could not be measured, in words.
fn of_device(args: &AdviseArgs, advice: &mut Advice, kind: Kind) -> Result<Vec<String>> {
    let gpu = args.device.ordinal();
    let energy = args.objective == Objective::Energy;
    measure::measure(advice, kind, measure::How { gpu, top: args.top, seconds: args.seconds, energy })
}

fn of_model(
    args: &AdviseArgs,
    model: &Path,
    options: &Options,
    target: &Target,
    source: Option<&Source>,
) -> Result<()> {
    let selection =
        Selection { include: args.include.clone(), exclude: args.exclude.clone(), embeddings: args.embeddings };
    let progress = Progress::bar(0, "reading");
    let kind = args.dtype.map(|kind| (kind.dtype, kind.precision()));
    let advice = advise_model(model, &selection, kind, options, target, |at| {
        progress.set_total(at.total);
        progress.update(at.done, at.tensor);
    })?;
    drop(progress);
    if args.json {
        return output::print_json(&json::model(&advice, options, target, source));
    }
    output::print(&text::model(&advice, options, target, source))
}

/// The device, and for the CPU where its ceilings came from.
fn target(args: &AdviseArgs) -> Result<(Target, Option<Source>)> {
    match args.device {
        gpu @ (Device::Cuda(_) | Device::H100) => Ok((Target::Gpu(Box::new(gpu.open()?)), None)),
        Device::Cpu => {
            let progress = Progress::spinner("measuring what this CPU can do");
            let (calibration, origin, remark) = match &args.calibration {
                None => Calibration::of_machine(args.recalibrate)?,
                Some(path) => {
                    let (found, origin) = Calibration::of_file(path, args.recalibrate)?;
                    (found, origin, None)
                }
            };
            drop(progress);
            Ok((Target::Cpu(Box::new(calibration)), Some(Source { origin: origin.to_string(), remark })))
        }
    }
}
