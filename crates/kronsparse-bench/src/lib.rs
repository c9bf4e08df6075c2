//! Stage 7, REPORT: definitions → samples → record → tables, plots, the HTML page.
//!
//! [`Definition`] says what is measured, [`run()`] measures it into a [`Record`], and [`report`] makes of a record a table
//! for the terminal, Markdown tables for a README, and one self-contained HTML page. A record is written as `samples.csv`
//! and `machine.toml` and can be read back, so that every published figure can be rebuilt from committed evidence.
//!
//! # How it is measured
//!
//! * Every algorithm's output is [verified](verify) against an f64 oracle before it is timed, and again afterwards.
//! * The algorithms of a case are sampled in turn, in rounds, so that drift of the machine hits all of them.
//! * A cold sample follows a sweep over a buffer larger than the last level cache; a warm one follows an untimed call.
//! * Times are medians; the interquartile range and the minimum stand beside them.
//! * Work is counted once per problem, by [`kronsparse::plan::Problem`]: an algorithm that computes more than it has to
//!   gets no credit for it.
//! * The roofline is that of a large dense product and a large copy, measured before and after the cases of the same run.

mod case;
pub mod definition;
mod error;
pub mod format;
pub mod gpu;
pub mod journal;
mod kind;
pub mod machine;
pub mod random;
pub mod record;
pub mod report;
mod run;
pub mod study;
pub mod summary;
mod text;
pub mod validate;
pub mod verify;

pub use definition::{Cache, Case, Definition, Sweep};
pub use error::{Error, Result};
pub use kind::Kind;
pub use machine::Machine;
pub use record::{Ceiling, Record, Row, Settings, Status};
pub use run::{Earlier, Event, Observer, Options, run};
