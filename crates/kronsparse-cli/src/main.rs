//! The `kronsparse` command: flags, then one library call, then its output.
//!
//! Results go to stdout, progress and the one sentence of an error to stderr. Exit codes: 0 done, 2 bad input or a file
//! that cannot be read or written, 101 a bug of ours; `bench` and `study` return 1 when an
//! algorithm gave a wrong result, `validate` when a problem could not be measured to its end.

mod advise;
mod ahead;
mod bench;
mod bench_gpu;
mod calibrate;
mod convert;
mod device;
mod dtypes;
mod expand;
mod factorize;
mod info;
mod multiply;
mod output;
mod plan;
mod progress;
mod shares;
mod study;
mod table;
mod tune;
mod validate;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// Fast multiplication by Kronecker-sparse matrices and their products (butterfly, Monarch).
#[derive(Parser)]
#[command(name = "kronsparse", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
A chain is W = K_1 K_2 … K_L, written left to right. SPEC names one:
  monarch:p,q               two factors, p divides the rows and q the columns
  square-dyadic             log2 N factors of 2 × 2 blocks, N a power of two
  butterfly:4,4,2           mixed radices, left to right
  (1,64,64,64)(64,64,64,1)  any patterns (a,b,c,d), left to right

Exit code 0 on success, 2 on bad input, with one sentence on stderr.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Info(info::InfoArgs),
    Multiply(multiply::MultiplyArgs),
    Factorize(factorize::FactorizeArgs),
    Expand(expand::ExpandArgs),
    Convert(convert::ConvertArgs),
    Bench(bench::Args),
    Study(study::Args),
    Plan(plan::PlanArgs),
    Advise(advise::AdviseArgs),
    Tune(tune::TuneArgs),
    Calibrate(calibrate::CalibrateArgs),
    Validate(validate::Args),
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("unknown");
        output::error_line(&format!("this is a bug in kronsparse{at}: {what}"));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let done = match cli.command {
        Command::Info(args) => info::run(&args),
        Command::Multiply(args) => multiply::run(&args),
        Command::Factorize(args) => factorize::run(&args),
        Command::Expand(args) => expand::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Advise(args) => advise::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Bench(args) => return bench::run(args).unwrap_or_else(|error| refuse(&error)),
        Command::Validate(args) => return validate::run(&args).unwrap_or_else(|error| refuse(&error)),
        Command::Study(args) => return study::run(args).unwrap_or_else(|error| refuse(&error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Bad input: one sentence.
fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    output::error_line(&error.to_string());
    ExitCode::from(2)
}

/// Help and version as clap prints them; anything else as one sentence.
fn usage(error: &clap::Error) -> ExitCode {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        // A reader that went away (`kronsparse --help | head -1`) is no error.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let text = error.to_string();
    let sentence = text.split("\n\nUsage:").next().unwrap_or(&text).split("\n\nFor more").next().unwrap_or(&text);
    let sentence = sentence.strip_prefix("error: ").unwrap_or(sentence);
    output::error_line(&format!("{sentence} (see --help)"));
    ExitCode::from(2)
}
