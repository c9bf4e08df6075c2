//! The GPU engine on GPU 0, against the oracle. Where there is no GPU this says so in one line, and runs nothing.
//!
//! `cuda [NAME…]` runs the tests whose names contain one of the words. `KRONSPARSE_CASES=chains/` restricts `testdata`, and the
//! chains of training steps, to those whose name contains that text, `KRONSPARSE_RANDOM=1000` sets the number of random problems, `KRONSPARSE_FAMILY=plain`
//! the kernel family to prefer, `KRONSPARSE_SEED=…` repeats a failed run, `KRONSPARSE_LARGE_GIB=…` allows the test of arrays beyond
//! 2^31 elements, and `KRONSPARSE_REQUIRE_GPU=1` makes a missing GPU a failure.

#[path = "../harness/mod.rs"]
mod harness;

mod auto;
mod behaviour;
mod combine;
mod engine;
mod large;
mod learner;
mod random;
mod wide;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use engine::Cuda;
use harness::{case, inputs, run};
use kronsparse::cuda::Device;

/// A test's name and what it does; an error text says why it was not run.
type Test = (&'static str, fn(&Device) -> Result<(), String>);

const TESTS: [Test; 18] = [
    ("every_case_on_the_gpu", every_case),
    ("random_patterns", random::patterns),
    ("random_pairs", random::pairs),
    ("random_chains", random::chains),
    ("every_plain_tile", random::plain_tiles),
    ("auto_and_every_library_algorithm", auto::algorithms),
    ("tuned_operators", auto::tuned),
    ("graph_capture", behaviour::graph_capture),
    ("streams_share_an_operator", behaviour::streams),
    ("launch_overhead", behaviour::launch_overhead),
    ("nonfinite_numbers_go_where_they_must", behaviour::nonfinite),
    ("f16_overflow_is_infinity", behaviour::overflow),
    ("combined_butterflies", combine::butterflies),
    ("hidden_vectors_in_f32", wide::hidden_in_f32),
    ("training_steps", learner::steps),
    ("wrong_arguments_are_named", behaviour::wrong_arguments),
    ("buffers_and_events", behaviour::buffers),
    ("more_than_2_to_the_31_elements", large::beyond_31_bits),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let tests: Vec<&Test> = TESTS.iter().filter(|(name, _)| wanted(name)).collect();
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(why) => {
            println!("NOT RUN ON A DEVICE: {} tests of the CUDA engine: {why}", tests.len());
            let required = std::env::var_os("KRONSPARSE_REQUIRE_GPU").is_some_and(|value| value == "1");
            return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    println!("running {} tests on {} ({})", tests.len(), device.name(), device.architecture());
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), 0);
    for (name, test) in tests {
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| test(&device)));
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(Ok(())) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Ok(Err(why)) => {
                left_out += 1;
                println!("test {name} ... NOT RUN: {why}");
            }
            Err(_) => {
                failed.push(*name);
                println!("test {name} ... FAILED ({seconds:.1} s)");
            }
        }
    }
    println!("result: {passed} passed, {} failed {failed:?}, {left_out} not run", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `KRONSPARSE_FAMILY`, where a run is to be restricted to one kernel family.
fn wanted_family() -> Option<String> {
    std::env::var("KRONSPARSE_FAMILY").ok()
}

fn every_case(device: &Device) -> Result<(), String> {
    let cases = case::all();
    let engines = Cuda::all(device, wanted_family());
    let report = run(&cases, &engines, &engine::refusals, inputs::seed());
    let runs: usize = cases.iter().map(|c| c.dtypes.len() * c.layouts.len() * c.batch.len()).sum();
    assert_eq!(report.records.len(), runs * engines.len(), "every combination ran once");
    report.assert();
    if let Some(family) = wanted_family() {
        println!("{} plans of the family {family}", engine::of_family());
        assert!(engine::of_family() > 0, "no case has a plan of the family {family}");
    }
    Ok(())
}
