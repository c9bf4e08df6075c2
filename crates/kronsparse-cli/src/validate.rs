//! `kronsparse validate`: how often the planner is right, on random problems of this machine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use kronsparse_bench::gpu::prepare::Target;
use kronsparse_bench::validate::{self, Evaluation, Progress, Settings};
use kronsparse_bench::{Cache, Error, Result, format};

use crate::bench::{print, progress};
use crate::device::Device;
use crate::shares;

/// Draw random problems, measure every way that could be the fastest, and count how often the planner was right
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each problem is measured by what is done without tuning, by what is done with it, by every other way that could be the fastest, and by \
the dense matrix, all in turn. Printed are the shares of problems in which the untuned way was within 10 % and 50 % of the fastest, the \
tuned one within 3 %, the predicted time within a quarter, and the verdict between chain and dense right (closer than 5 % is a tie), \
each with its worst cases. A run that was interrupted goes on when the same command is typed again; a problem that lost the GPU then comes \
last.

Examples:
  kronsparse validate --device cuda:0 --out h100        300 problems
  kronsparse validate --device cuda:0 --seconds 300     as many of them as five minutes allow
  kronsparse validate --problems 20                     on the CPU

Exit code: 0 whatever the shares are, 1 if a problem could not be measured to its end, 2 on bad input or a lost GPU.")]
pub(crate) struct Args {
    /// Where to measure: cpu, or a GPU as cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = Device::at_hand)]
    device: Device,
    /// Number of problems
    #[arg(long, value_name = "N", default_value_t = 300)]
    problems: usize,
    /// Seed of the problems; the first of them are the same for any number
    #[arg(long, value_name = "SEED", default_value_t = 2026)]
    seed: u64,
    /// State of the caches before a sample: cold or warm; predictions are of cold ones, and count with these alone
    #[arg(long, value_name = "cold|warm", default_value_t)]
    cache: Cache,
    /// GPU: kernels of a factor that are measured at most
    #[arg(long, value_name = "K")]
    kernels: Option<usize>,
    /// Most rows and columns of a matrix
    #[arg(long, value_name = "N")]
    largest: Option<usize>,
    /// Begin no problem after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = f64::INFINITY)]
    seconds: f64,
    /// Folder for validate.csv, for one process at a time; a run in it is gone on with
    #[arg(long, value_name = "DIR", default_value = "validate-out")]
    out: PathBuf,
    /// GPU: compile one share of the kernels of the problems on standard input, K/N
    #[arg(long, value_name = "K/N", hide = true)]
    prepare_share: Option<String>,
}

/// Runs the command. Exit code 1 if a problem could not be measured to its end; an error is bad input, a folder that cannot be written or holds another run, or a lost GPU.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let settings = settings(args)?;
    if let Some(text) = &args.prepare_share {
        let (share, (target, lines)) = (shares::share(text)?, shares::told()?);
        shares::answer(validate::compile(&settings, &numbers(&lines)?, share, &target))?;
        return Ok(ExitCode::SUCCESS);
    }
    let bar = progress(settings.problems);
    let mut prepare = |numbers: &[usize], target: &Target| {
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        bar.set_message("compiling kernels");
        let shares = shares::compile_everywhere(target, &numbers.join("\n"))?;
        shares::report(&shares);
        Ok(())
    };
    let mut observe = |progress: Progress<'_>| {
        bar.set_position(progress.done as u64);
        let fastest = progress.rows.iter().filter_map(|row| row.time_s).reduce(f64::min);
        let time = fastest.map_or_else(|| "no time".into(), format::seconds);
        bar.set_message(progress.rows.first().map_or_else(String::new, |row| format!("{} {time}", row.problem())));
    };
    let rows = validate::run(&settings, &args.out, &mut prepare, &mut observe);
    bar.finish_and_clear();
    let rows = rows?;
    let evaluation = Evaluation::of(&rows);
    let machines: BTreeSet<&str> = rows.iter().map(|row| row.device.as_str()).collect();
    let machines = machines.into_iter().collect::<Vec<_>>().join(", ");
    let machines = if machines.is_empty() { "nothing measured".into() } else { machines };
    print(format!("{machines}, caches {}, seed {}: {}", args.cache, args.seed, evaluation).trim_end())?;
    eprintln!("rows: {}", args.out.join("validate.csv").display());
    Ok(if evaluation.unmeasured.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What the flags ask for.
fn settings(args: &Args) -> Result<Settings> {
    let refuse = |place: &str, why: String| Err(Error::Definition { place: place.into(), why });
    let device = args.device.ordinal().map_or(validate::Device::Cpu, validate::Device::Cuda);
    if args.kernels.is_some() && device == validate::Device::Cpu {
        return refuse("--kernels", "says something about a GPU only; add --device cuda:0".into());
    }
    if args.problems == 0 || args.kernels == Some(0) {
        return refuse("--problems and --kernels", "expected 1 and more, found 0".into());
    }
    if args.seconds.is_nan() || args.seconds <= 0.0 {
        return refuse("--seconds", format!("expected more than 0, found {}", args.seconds));
    }
    if let Some(found) = args.largest.filter(|largest| *largest < SMALLEST) {
        return refuse("--largest", format!("expected {SMALLEST} and more, found {found}"));
    }
    let usual = Settings::new(device, args.seed);
    Ok(Settings {
        problems: args.problems,
        cache: args.cache,
        kernels: args.kernels.unwrap_or(usual.kernels),
        seconds: args.seconds,
        largest: args.largest.unwrap_or(usual.largest),
        ..usual
    })
}

/// Smaller matrices than this leave hardly a problem to be drawn.
const SMALLEST: usize = 64;

/// The problems whose kernels a worker shares in: one number in each line.
fn numbers(lines: &[String]) -> Result<Vec<usize>> {
    let number = |line: &String| {
        let why = || format!("expected the number of a problem, found {line}");
        line.parse().map_err(|_| Error::Definition { place: "standard input".into(), why: why() })
    };
    lines.iter().map(number).collect()
}
