//! `kronsparse bench`: measures every algorithm, prints a table, and leaves figures and a report in a folder.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kronsparse::plan::{Algorithm, Layout};
use kronsparse_bench::{
    Cache, Definition, Error, Event, Kind, Options, Record, Result, Sweep, format, gpu, record, report, summary,
};

use crate::bench_gpu::{self, GpuArgs};

/// Measure every algorithm on this machine: verified, in turn, against the roofline of the same run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kronsparse bench --quick                                    a tour of about two minutes
  kronsparse bench --patterns '1,64,64,64; 6,64,64,1'         two patterns
  kronsparse bench --patterns '(1,64,64,64)(64,64,64,1)' --batch 1,256 --dtype f32,bf16
  kronsparse bench --patterns benchmarks/layers.toml --threads 1 --cache cold,warm --out layers
  kronsparse bench --device cuda:0 --patterns benchmarks/paper_grid.txt --batch 25088 --dtype f16,bf16,f32,tf32 \
    --layout bsf,bsl --out grid        on a GPU; again with --resume grid if it was interrupted
  kronsparse bench --device cuda:0 --patterns '1,64,64,64; 1,1024,1024,12' --batch 25088 --dtype f16 \
    --algorithms auto,fused,permute-bmm,dense        what auto picked is in samples.csv, column plan

Exit code: 0 if all results are right, 1 if an algorithm gave a wrong one or failed, 2 on bad input.")]
pub(crate) struct Args {
    /// The built-in selection of cases (what is measured if there is no --patterns)
    #[arg(long, conflicts_with = "patterns")]
    pub(crate) quick: bool,
    /// A .toml definition, a file with a pattern a,b,c,d or a chain (a,b,c,d)(a,b,c,d) per line, or a list with `;`
    #[arg(long, value_name = "FILE|LIST")]
    pub(crate) patterns: Option<String>,
    /// Numbers of vectors
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) batch: Vec<usize>,
    /// Element types: f16, bf16, f32, f64, c64, c128, or tf32 on a GPU
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    pub(crate) dtype: Vec<Kind>,
    /// Layouts: bsf (vectors are rows), bsl (vectors are columns)
    #[arg(long, value_name = "LAYOUT,...", value_delimiter = ',')]
    pub(crate) layout: Vec<Layout>,
    /// Algorithms; all of the device but auto by default. On a GPU auto measures kernels and libraries and keeps the fastest
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) algorithms: Vec<Algorithm>,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "T", default_value_t = 0)]
    pub(crate) threads: usize,
    /// State of the caches before a sample: cold, warm or both
    #[arg(long, value_name = "cold|warm", value_delimiter = ',')]
    pub(crate) cache: Vec<Cache>,
    /// Sampling time for each algorithm on each case; 0.3 on a CPU, 0.02 on a GPU by default
    #[arg(long, value_name = "SECONDS")]
    pub(crate) budget: Option<f64>,
    /// MiB of weights, or on a CPU of working arrays, above which an algorithm is skipped
    #[arg(long, value_name = "MIB", default_value_t = Options::default().memory_limit >> 20)]
    pub(crate) memory_limit: usize,
    /// Seed of weights and inputs, to repeat a run; a fresh one by default
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Folder for samples.csv, machine.toml and report.html
    #[arg(long, value_name = "DIR", default_value = "bench-out")]
    pub(crate) out: PathBuf,
    /// Measure nothing: make table and report again from the samples.csv and machine.toml in this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "patterns", "batch", "dtype", "layout", "algorithms", "cache", "seed"])]
    pub(crate) from: Option<PathBuf>,
    /// Print the whole record as JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) gpu: GpuArgs,
}

/// Runs the command. Exit code 1 if an algorithm was wrong or failed; an error is bad input or an unwritable folder.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    // Before minutes of measuring, not after.
    let out = args.gpu.resume.as_ref().unwrap_or(&args.out);
    let record = match &args.from {
        Some(folder) => {
            record::prepare_folder(out)?;
            Record::read(folder)?
        }
        None => match measure(&args, out)? {
            Some(record) => record,
            None => return Ok(ExitCode::SUCCESS),
        },
    };
    if args.json {
        print(&record.to_json())?;
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        print(&report::table(&record, colour))?;
    }
    report::write_all(&record, out)?;
    eprintln!("report: {}", out.join("report.html").display());
    Ok(if record.is_right() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Measures what the flags say, with a progress bar; no record if kernels were only compiled.
fn measure(args: &Args, out: &Path) -> Result<Option<Record>> {
    let sweep = Sweep {
        batch: args.batch.clone(),
        dtype: args.dtype.clone(),
        layout: args.layout.clone(),
        cache: args.cache.clone(),
    };
    let definition = match &args.patterns {
        Some(patterns) => Definition::from_argument(patterns, &sweep)?,
        None => Definition::quick(&sweep)?,
    };
    let command = typed();
    let (seed, memory_limit) = (args.seed, args.memory_limit.saturating_mul(1 << 20));
    let algorithms = |usual: &[Algorithm]| -> Vec<Algorithm> {
        let mut wanted: Vec<Algorithm> = Vec::new();
        for algorithm in if args.algorithms.is_empty() { usual } else { &args.algorithms } {
            if !wanted.contains(algorithm) {
                wanted.push(*algorithm);
            }
        }
        wanted
    };
    let bar = || progress(definition.cases.len());
    let record = match args.gpu.device.ordinal() {
        None => {
            if let Some(flag) = args.gpu.misplaced() {
                let why = "says something about a GPU only; add --device cuda:0".into();
                return Err(Error::Definition { place: flag.into(), why });
            }
            record::prepare_folder(out)?;
            let usual = Options::default();
            let options = Options {
                algorithms: algorithms(&usual.algorithms),
                threads: args.threads,
                budget: args.budget.unwrap_or(usual.budget),
                memory_limit,
                seed,
                command,
                ..usual
            };
            let bar = bar();
            let record = kronsparse_bench::run(&definition, &options, &mut |event| show(&bar, &event));
            bar.finish_and_clear();
            record?
        }
        Some(ordinal) => {
            let usual = gpu::Options::default();
            let options = gpu::Options {
                algorithms: algorithms(&usual.algorithms),
                budget: args.budget.unwrap_or(usual.budget),
                memory_limit,
                seed,
                command,
                folder: Some(out.to_path_buf()),
                ..usual
            };
            if args.gpu.prepare || args.gpu.prepare_share.is_some() {
                bench_gpu::prepare_all(&args.gpu, ordinal, &definition, &options)?;
                return Ok(None);
            }
            let bar = bar();
            let record = bench_gpu::measure(&args.gpu, ordinal, &definition, options, &mut |event| show(&bar, &event));
            bar.finish_and_clear();
            record?
        }
    };
    Ok(Some(record))
}

/// Prints to standard output. A reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: "standard output".into(), action: "write", source: e })
        }
        _ => Ok(()),
    }
}

/// A bar on standard error; hidden unless that is a terminal.
pub(crate) fn progress(cases: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(cases as u64), ProgressDrawTarget::stderr());
    let template = "{bar:28} {pos}/{len} {elapsed} · {prefix}{msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What the bar says about an event.
pub(crate) fn show(bar: &ProgressBar, event: &Event<'_>) {
    match event {
        Event::Ceiling(dtype) => {
            bar.set_prefix("");
            bar.set_message(format!("measuring the roofline of {dtype}"));
        }
        Event::Case { case, .. } => {
            let problem = &case.problem;
            let chain = summary::short_chain(&problem.chain);
            bar.set_prefix(format!("{chain} {} {} n = {}: ", problem.dtype, problem.layout, problem.batch));
            bar.set_message("the oracle");
        }
        Event::Verify(algorithm) => bar.set_message(format!("verifying {algorithm}")),
        Event::Sample => bar.set_message("sampling in turn"),
        Event::Done { rows } => {
            bar.inc(1);
            let result = summary::ours(rows).and_then(|r| r.median_s);
            bar.set_message(result.map_or("no time of ours".into(), |s| format!("ours takes {}", format::seconds(s))));
        }
    }
}

/// The command as it was typed.
pub(crate) fn typed() -> String {
    std::env::args().map(quoted).collect::<Vec<_>>().join(" ")
}

/// An argument as one would type it in a shell.
fn quoted(argument: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}
