//! Tells the crate which compiler and which commit it is built from, for the description of the machine in a record.

use std::path::Path;
use std::process::Command;

/// First line of what a command prints, or nothing if it cannot run.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").trim().to_string())
}

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = first_line(Command::new(rustc).arg("--version")).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=KRONSPARSE_RUSTC={version}");

    let git = |args: &[&str]| first_line(Command::new("git").args(args));
    let mut commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    if !commit.is_empty() && git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty()) {
        commit.push_str(" with local changes");
    }
    println!("cargo:rustc-env=KRONSPARSE_COMMIT={commit}");

    println!("cargo:rerun-if-changed=build.rs");
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    // A path that does not exist would make cargo run this script every time.
    for path in log.iter().map(String::as_str).chain(["src", "../kronsparse/src", "../kronsparse-cli/src"]) {
        if Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}
