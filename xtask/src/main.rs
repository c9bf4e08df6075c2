//! Chores of the repository: `cargo xtask check`, `tidy`, `licences`, `bundle`, `python`.

mod bundle;
mod check;
mod licences;
mod python;
mod repository;
mod rust;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  check      everything that CI asks: format, clippy, docs, tests, tidy, licences, the Python package; prints the
             time of each
  tidy       rules about the repository's own files: purpose, length, boundaries, unsafe, leftovers
  licences   licence and source of every dependency, against deny.toml
  bundle     what a GPU machine without Rust needs, in bundle/: tests, command, cases, and a script that runs them
  python     builds the wheel and runs its tests, with the interpreter that KRONSPARSE_PYTHON names";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check::run(),
        ["tidy"] => tidy::run().map(|summary| println!("{summary}")),
        ["licences"] => licences::run().map(|summary| println!("{summary}")),
        ["bundle"] => bundle::run().map(|summary| println!("{summary}")),
        ["python"] => python::run().map(|summary| println!("{summary}")),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
