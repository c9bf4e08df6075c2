//! Runs fuzz targets from the command line: all, some, or one on a given file.

use std::process::ExitCode;

use kronsparse_fuzz::{TARGETS, Target, driver, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &String| TARGETS.iter().find(|t| t.name == name);
    if let [name, file] = &arguments[..]
        && let (Some(target), None) = (named(name), named(file))
    {
        return match std::fs::read(file) {
            Ok(input) => {
                let accepted = (target.run)(&input);
                println!("{name}: {}", if accepted { "accepted" } else { "rejected" });
                ExitCode::SUCCESS
            }
            Err(e) => fail(&format!("{file}: cannot read: {e}")),
        };
    }
    let chosen: Option<Vec<&Target>> = arguments.iter().map(named).collect();
    let Some(mut chosen) = chosen else {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        return fail(&format!(
            "expected targets, or one target and a file, found {arguments:?}; targets: {}",
            names.join(", ")
        ));
    };
    if chosen.is_empty() {
        chosen = TARGETS.iter().collect();
    }
    let (seed, budget) = (driver::seed(), driver::budget());
    for target in chosen {
        match run(target, seed, budget) {
            Ok(report) => println!(
                "{:12} seed {seed}: {} accepted, {} rejected, at most {} KiB",
                target.name,
                report.accepted,
                report.rejected,
                report.peak >> 10
            ),
            Err(why) => return fail(&why),
        }
    }
    ExitCode::SUCCESS
}

fn fail(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
