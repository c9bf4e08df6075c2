//! The `kronsparse` command.

mod bench;

use std::process::ExitCode;

use clap::Parser;

/// Fast multiplication by Kronecker-sparse matrices.
#[derive(clap::Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let Command::Bench(args) = Cli::parse().command;
    bench::run(args).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}
