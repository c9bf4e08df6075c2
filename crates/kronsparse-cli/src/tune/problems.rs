//! What is to be tuned: the problems that the flags of `kronsparse tune` name.

use std::path::Path;

use anyhow::{Result, bail};
use kronsparse::advise::check_batch;
use kronsparse::io::Model;
use kronsparse::plan::gpu::{ChainProblem, Precision};
use kronsparse::{ChainPattern, ChainSpec};
use kronsparse_bench::{Definition, Kind, Sweep};

use super::TuneArgs;
use crate::device::Device;
use crate::dtypes::read_weights;
use crate::output::split_source;
use crate::plan::resolve;

/// All problems, each once.
pub(super) fn all(args: &TuneArgs) -> Result<Vec<ChainProblem>> {
    let mut problems: Vec<ChainProblem> = Vec::new();
    for Layer { chain, kinds, bias } in layers(args)? {
        args.join.outputs(chain.rows())?;
        let features = chain.patterns().iter().flat_map(|p| [p.rows(), p.cols()]).max().unwrap_or(1);
        for &kind in &kinds {
            check_kind(args.device, kind)?;
            for (&layout, &batch) in args.layout.iter().flat_map(|l| args.batch.iter().map(move |n| (l, n))) {
                check_batch(batch, features)?;
                let problem = ChainProblem {
                    precision: kind.precision(),
                    bias,
                    activation: args.activation,
                    join: args.join,
                    ..ChainProblem::new(chain.clone(), kind.dtype, layout, batch)
                };
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    Ok(problems)
}

/// A chain with the element types to tune it for.
struct Layer {
    chain: ChainPattern,
    kinds: Vec<Kind>,
    bias: bool,
}

fn layers(args: &TuneArgs) -> Result<Vec<Layer>> {
    let file = args.chain.as_deref().filter(|text| split_source(text).0.ends_with(".safetensors"));
    if let Some(source) = file {
        if args.bias || args.shape.is_some() {
            bail!("--bias and --shape say something about a chain; the layers of {source} say it themselves");
        }
        return of_file(source, &args.dtype);
    }
    if args.dtype.is_empty() {
        bail!("a chain does not say its element type; add --dtype, such as --dtype f16");
    }
    let chains: Vec<ChainPattern> = match (&args.chain, &args.patterns) {
        (Some(text), _) => vec![resolve(&text.parse::<ChainSpec>()?, args.shape.as_deref())?],
        (None, Some(list)) => {
            // One case of each chain: what it is multiplied with is said by the other flags.
            let sweep = Sweep { batch: vec![1], dtype: args.dtype[..1].to_vec(), ..Sweep::default() };
            let cases = Definition::from_argument(list, &sweep)?.cases;
            cases.into_iter().map(|case| case.problem.chain).collect()
        }
        (None, None) => bail!("expected a chain, a file or --patterns"),
    };
    Ok(chains.into_iter().map(|chain| Layer { chain, kinds: args.dtype.clone(), bias: args.bias }).collect())
}

/// The layers of a chain file or a converted model, or one of them.
fn of_file(source: &str, kinds: &[Kind]) -> Result<Vec<Layer>> {
    let (file, name) = split_source(source);
    let sources: Vec<String> = match name {
        Some(_) => vec![source.into()],
        None => {
            let model = Model::open(Path::new(file))?;
            let layers = model.names().filter_map(|name| match name.strip_suffix("factors.0")? {
                "" => Some(file.to_owned()),
                prefix => Some(format!("{file}::{}", prefix.strip_suffix('.')?)),
            });
            layers.collect()
        }
    };
    if sources.is_empty() {
        bail!("{file}: it has no layer with factors; `kronsparse convert` makes some of a model's linear weights");
    }
    let layer = |source: &String| {
        let (layer, _) = read_weights(source)?;
        let kinds = if kinds.is_empty() { vec![layer.dtype().into()] } else { kinds.to_vec() };
        Ok(Layer { chain: layer.pattern().clone(), kinds, bias: layer.has_bias() })
    };
    sources.iter().map(layer).collect()
}

fn check_kind(device: Device, kind: Kind) -> Result<()> {
    match device {
        Device::Cpu if kind.precision() == Precision::Tf32 => {
            bail!("--dtype tf32: only GPUs multiply so; add --device cuda:0")
        }
        Device::Cuda(_) if kind.dtype.is_complex() => {
            bail!("--dtype {kind}: a GPU multiplies f16, bf16, f32, tf32 and f64; complex chains run on the CPU")
        }
        _ => Ok(()),
    }
}
