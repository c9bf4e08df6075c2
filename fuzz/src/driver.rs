//! The loop: mutate, run, count; a failure names the seed and keeps the input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::mutate::Mutator;
use crate::{Target, memory};

/// More bytes than any reader may take for the small inputs here. Deflate unpacks at most a thousandfold.
const MOST_MEMORY: usize = 64 << 20;

/// What happened in a run without a failure.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Where the random numbers began.
    pub seed: u64,
    /// Inputs that were read without an error.
    pub accepted: u64,
    /// Inputs that were refused.
    pub rejected: u64,
    /// The most bytes that one input took.
    pub peak: usize,
}

/// Seconds for each target: `KRONSPARSE_FUZZ_SECONDS`, or 2.
pub fn budget() -> Duration {
    let seconds = variable("KRONSPARSE_FUZZ_SECONDS").unwrap_or(2.0);
    Duration::try_from_secs_f64(seconds).expect("KRONSPARSE_FUZZ_SECONDS is a number of seconds")
}

/// The seed: `KRONSPARSE_FUZZ_SEED`, or a fresh one.
pub fn seed() -> u64 {
    variable("KRONSPARSE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..))
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found `{text}`")))
}

/// Runs `target` on mutated inputs for `budget`. Iteration `k` depends on `seed` and `k` alone.
///
/// The error is a sentence that names seed, iteration and the file that keeps the input: a panic, too much memory, or a
/// target that accepted or rejected nothing (such a target tests nothing).
pub fn run(target: &Target, seed: u64, budget: Duration) -> Result<Report, String> {
    let mutator = Mutator::new(target);
    let mut report = Report { seed, accepted: 0, rejected: 0, peak: 0 };
    let start = Instant::now();
    for iteration in 0.. {
        // A slow machine still tries a few inputs.
        if start.elapsed() >= budget && iteration >= 64 {
            break;
        }
        memory::note(seed, iteration);
        let input = mutator.input(seed, iteration);
        let (outcome, peak) = memory::peak(|| catch_unwind(AssertUnwindSafe(|| (target.run)(&input))));
        report.peak = report.peak.max(peak);
        let failure = match outcome {
            Ok(_) if peak > MOST_MEMORY => format!("took {peak} bytes, more than {MOST_MEMORY}"),
            Ok(accepted) => {
                *(if accepted { &mut report.accepted } else { &mut report.rejected }) += 1;
                continue;
            }
            Err(panic) => format!("panicked: {}", message(&*panic)),
        };
        let kept = match keep(target, seed, iteration, &input) {
            Ok(path) => format!("the input is kept in {}", path.display()),
            Err(e) => format!("the input could not be kept ({e})"),
        };
        return Err(format!("{}: seed {seed}, iteration {iteration}: {failure}; {kept}", target.name));
    }
    if report.accepted == 0 || report.rejected == 0 {
        return Err(format!("{}: tests nothing, as one of the counts is zero: {report:?}", target.name));
    }
    Ok(report)
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text.to_string(),
        (_, Some(text)) => text.clone(),
        _ => "without a message".into(),
    }
}

fn keep(target: &Target, seed: u64, iteration: u64, input: &[u8]) -> std::io::Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("artifacts");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{seed}-{iteration}", target.name));
    std::fs::write(&path, input)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::{Format, TARGETS};

    fn target(run: fn(&[u8]) -> bool) -> Target {
        Target { name: "self-test", format: Format::Text(&["1,2,3,4"]), run }
    }

    #[test]
    fn failures_are_found_and_can_be_repeated() {
        let planted = target(|input| {
            assert!(input.len() != 9, "nine bytes");
            input.len() % 2 == 0
        });
        let failure = run(&planted, 7, Duration::from_secs(20)).unwrap_err();
        assert!(failure.contains("seed 7") && failure.contains("nine bytes"), "{failure}");
        let (_, kept) = failure.split_once("kept in ").unwrap();
        assert_eq!(std::fs::read(kept).unwrap().len(), 9);
        assert_eq!(run(&planted, 7, Duration::from_secs(20)).unwrap_err(), failure);
        std::fs::remove_file(kept).unwrap();
    }

    #[test]
    fn waste_and_idleness_are_failures() {
        let greedy = target(|input| !std::hint::black_box(vec![1u8; 65 << 20]).is_empty() && input.len() > 3);
        let failure = run(&greedy, fastrand::u64(..), Duration::ZERO).unwrap_err();
        assert!(failure.contains("more than"), "{failure}");
        std::fs::remove_file(failure.split_once("kept in ").unwrap().1).unwrap();
        for idle in [target(|_| true), target(|_| false)] {
            assert!(run(&idle, fastrand::u64(..), Duration::ZERO).unwrap_err().contains("tests nothing"));
        }
    }

    #[test]
    fn inputs_depend_on_seed_and_iteration_alone() {
        for target in TARGETS {
            let (x, y) = (Mutator::new(target), Mutator::new(target));
            let differing = (0..50).filter(|&k| x.input(3, k) != x.input(4, k)).count();
            assert!(differing > 10, "{}", target.name);
            for iteration in (0..50).rev() {
                assert_eq!(x.input(3, iteration), y.input(3, iteration), "{}", target.name);
            }
        }
    }
}
