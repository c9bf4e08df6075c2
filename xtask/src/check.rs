//! Everything that CI asks of the repository, in order; stops at the first phase that fails.

use std::process::Command;
use std::time::Instant;

use crate::{licences, python, repository, tidy};

/// What a phase does.
enum Work {
    /// `cargo` with these arguments and an environment variable.
    Cargo(&'static [&'static str], Option<(&'static str, &'static str)>),
    /// A function of this program.
    Call(fn() -> Result<String, String>),
}

// Only libraries are documented: the command and the library share a name, and their pages would overwrite each other.
const PHASES: [(&str, Work); 7] = [
    ("format", Work::Cargo(&["fmt", "--all", "--check"], None)),
    ("clippy", Work::Cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], None)),
    (
        "docs",
        Work::Cargo(&["doc", "--workspace", "--lib", "--no-deps", "--locked"], Some(("RUSTDOCFLAGS", "-D warnings"))),
    ),
    ("tests", Work::Cargo(&["test", "--workspace", "--locked"], None)),
    ("tidy", Work::Call(tidy::run)),
    ("licences", Work::Call(licences::run)),
    ("python", Work::Call(python::run)),
];

/// Runs all phases and prints the time of each.
pub(crate) fn run() -> Result<(), String> {
    let mut times = Vec::new();
    for (name, work) in &PHASES {
        println!("== {name}");
        let start = Instant::now();
        let result = match work {
            Work::Cargo(arguments, variable) => cargo(arguments, *variable),
            Work::Call(f) => f().map(|summary| println!("{summary}")),
        };
        let seconds = start.elapsed().as_secs_f64();
        times.push(format!("{name} {seconds:.0} s"));
        if let Err(why) = result {
            return Err(format!("{why}\ncheck: FAILED in phase `{name}` ({})", times.join(", ")));
        }
        println!("== {name}: {seconds:.0} s");
    }
    println!("check: passed ({})", times.join(", "));
    Ok(())
}

fn cargo(arguments: &[&str], variable: Option<(&str, &str)>) -> Result<(), String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(repository::root()).envs(variable);
    let status = command.status().map_err(|e| format!("cannot run cargo {}: {e}", arguments.join(" ")))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed: {status}", arguments.join(" "))) }
}
