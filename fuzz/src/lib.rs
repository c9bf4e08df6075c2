//! Fuzzing of every file reader and every text parser: whatever the bytes, a reader answers with a value or an error, never
//! with a panic, and never takes more memory than the input is worth. What parses prints, and parses again to the same.
//!
//! It runs on stable Rust without instrumentation: valid inputs are mutated in ways that know a little of each format.
//! Every target is a plain function of bytes, so that an instrumenting fuzzer can call it as well.
//!
//! * `cargo test -p kronsparse-fuzz` runs every target for `KRONSPARSE_FUZZ_SECONDS` (default 2) from the seed
//!   `KRONSPARSE_FUZZ_SEED` (default: a fresh one, printed with a failure).
//! * `cargo run --release -p kronsparse-fuzz [TARGET…]` does the same with a line of counts for each target.
//! * `cargo run -p kronsparse-fuzz -- TARGET FILE` runs a target once on a file, such as those that a failure leaves in
//!   `fuzz/artifacts`.

pub mod driver;
pub mod memory;
mod mutate;
mod seeds;
pub mod targets;

pub use driver::{Report, run};
pub use targets::{TARGETS, Target};

/// Counts what each thread allocates and refuses what no input here is worth.
#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;
