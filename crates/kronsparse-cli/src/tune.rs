//! `kronsparse tune`: measures the ways of each problem once, and keeps the results for every later call on this machine.

mod measure;
mod problems;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use kronsparse::plan::gpu::{ChainProblem, Precision};
use kronsparse::tune::{self, Record, Store};
use kronsparse::{Activation, Join, Layout};
use kronsparse_bench::{Cache, Kind, format, summary};
use serde_json::json;

use crate::device::Device;
use crate::output;
use crate::progress::Progress;
use crate::table::{Align, render};

/// Measure which way of multiplying is the fastest, once: later calls on this machine take it
#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).args(["chain", "patterns"])))]
#[command(after_help = "\
Each result is kept as soon as it is there, with the device, driver, compiler and kernels that it holds for. The library, the
command and Python look problems up where the algorithm is auto, and never take what was not measured to be as fast as the
untuned way. What is kept already is not measured again, so an interrupted run is simply started again.

The file is tuning.txt in the cache folder (`kronsparse info` shows it). KRONSPARSE_TUNING names another one for all
commands, or is off. A file can be shipped with a model; other machines ignore what was not measured on their like.

Examples:
  kronsparse tune '(1,64,64,64)(64,64,64,1)' --batch 1,32,2048 --dtype f16 --device cuda:0
  kronsparse tune small.safetensors --batch 1,256 --device cpu
  kronsparse tune --patterns '1,64,64,64; 6,64,64,1' --batch 256 --dtype f32,bf16 --layout bsf,bsl --store tuning.txt")]
pub(crate) struct TuneArgs {
    /// A chain as for `kronsparse plan`, or a file with chains: one of them, or a converted model
    #[arg(value_name = "CHAIN|MODEL.safetensors")]
    chain: Option<String>,
    /// A .toml definition, a file with a pattern or a chain per line, or a list with `;`, as for `kronsparse bench`
    #[arg(long, value_name = "FILE|LIST")]
    patterns: Option<String>,
    /// Rows and columns of the matrix, for chains that do not say them
    #[arg(long, value_name = "ROWS,COLS", value_delimiter = ',', conflicts_with = "patterns")]
    shape: Option<Vec<usize>>,
    /// Numbers of vectors
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 32, 2048])]
    batch: Vec<usize>,
    /// Element types: f16, bf16, f32, f64, c64, c128, or tf32 on a GPU [default for a file: its own]
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    dtype: Vec<Kind>,
    /// Layouts: bsf (vectors are rows), bsl (vectors are columns)
    #[arg(long, value_name = "LAYOUT,...", value_delimiter = ',', default_values_t = [Layout::BatchFirst])]
    layout: Vec<Layout>,
    /// A bias is added; layers of a file have one or have none
    #[arg(long)]
    bias: bool,
    /// none, relu, gelu, gelu-tanh or silu, applied after the bias
    #[arg(long, default_value_t)]
    activation: Activation,
    /// none, residual (an array like Y is added) or gate (outputs come in twos, the activated first times the second)
    #[arg(long, default_value_t)]
    join: Join,
    /// Where to measure: cpu, or a GPU as cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = Device::at_hand)]
    device: Device,
    /// Threads of the CPU; 0 means all cores
    #[arg(long, value_name = "T", default_value_t = 0)]
    threads: usize,
    /// State of the caches before each sample: cold or warm
    #[arg(long, value_name = "cold|warm", default_value_t)]
    cache: Cache,
    /// Sampling time of each way on a CPU
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    seconds: f64,
    /// The file of results [default: KRONSPARSE_TUNING, or tuning.txt in the cache folder]
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Measure again what is in the file; the later result counts
    #[arg(long)]
    again: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Reasons of failures that a message has at most.
const SHOWN: usize = 3;

pub(crate) fn run(args: &TuneArgs) -> Result<()> {
    if !(args.seconds >= 0.0 && args.seconds <= 3600.0) {
        bail!("--seconds {}: expected 0 to 3600 seconds", args.seconds);
    }
    if args.threads != 0 && args.device != Device::Cpu {
        bail!("--threads {}: says something about a CPU only; leave it out, or add --device cpu", args.threads);
    }
    let problems = problems::all(args)?;
    let bench = measure::Bench::open(args)?;
    // Before minutes of measuring, not after.
    let mut store = Store::open(&place(args)?)?;
    if let Some(note) = store.note() {
        anstream::eprintln!("note: {note}");
    }
    let progress = Progress::bar(problems.len() as u64, "");
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for (at, problem) in problems.iter().enumerate() {
        progress.update(at, &title(problem));
        let known = store.find(bench.machine(), problem).filter(|_| !args.again);
        if let Some(record) = known {
            results.push((record.clone(), false));
            continue;
        }
        match bench.measure(problem) {
            Ok(record) => {
                store.append(record.clone())?;
                results.push((record, true));
            }
            Err(error) => failures.push(format!("{}: {error}", title(problem))),
        }
    }
    drop(progress);
    let records: Vec<_> = results.iter().map(|(record, new)| json!({"record": record, "measured_now": new})).collect();
    if args.json {
        output::print_json(&json!({
            "store": store.path(), "machine": bench.machine(), "results": records, "failures": failures,
        }))?;
    } else if !results.is_empty() {
        output::print(&text(&results, &bench, &store))?;
    }
    match failures.len() {
        0 => Ok(()),
        count => {
            let more = if count > SHOWN { "; …" } else { "" };
            failures.truncate(SHOWN);
            bail!("{count} of {} problems could not be measured: {}{more}", problems.len(), failures.join("; "))
        }
    }
}

/// The file of results.
fn place(args: &TuneArgs) -> Result<PathBuf> {
    match args.store.clone().or_else(tune::path) {
        Some(path) => Ok(path),
        None => bail!(
            "there is no place for results: KRONSPARSE_TUNING is off, or KRONSPARSE_CACHE is empty, or this user has no \
             home; name a file with --store"
        ),
    }
}

/// A problem in a few words.
fn title(problem: &ChainProblem) -> String {
    let ChainProblem { chain, dtype, precision, layout, batch, bias, activation, join, .. } = problem;
    let dtype = if *precision == Precision::Tf32 { "tf32" } else { dtype.name() };
    let mut text = format!("{} {dtype} {layout} n = {batch}", summary::short_chain(chain));
    if *bias {
        text.push_str(" + bias");
    }
    if *activation != Activation::None {
        text.push_str(&format!(", {activation}"));
    }
    if *join != Join::None {
        text.push_str(&format!(", {join}"));
    }
    text
}

fn text(results: &[(Record, bool)], bench: &measure::Bench, store: &Store) -> String {
    let columns = [
        ("problem", Align::Left),
        ("untuned", Align::Left),
        ("time", Align::Right),
        ("tuned", Align::Left),
        ("time", Align::Right),
        ("gain", Align::Right),
    ];
    let row = |(record, _): &(Record, bool)| {
        let Record { problem, untuned, best, .. } = record;
        let same = untuned.steps == best.steps;
        vec![
            title(problem),
            untuned.name(),
            format::seconds(untuned.seconds),
            if same { "the same".into() } else { best.name() },
            format::seconds(best.seconds),
            format!("{:.2}×", record.gain()),
        ]
    };
    let rows: Vec<Vec<String>> = results.iter().map(row).collect();
    let new = results.iter().filter(|(_, new)| *new).count();
    format!(
        "{}{new} measured now, {} known before; for {}; kept in {}\n",
        render(&columns, &rows),
        results.len() - new,
        bench.machine(),
        store.path().display()
    )
}
