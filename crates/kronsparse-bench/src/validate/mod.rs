//! How right the planner is: random problems, each measured by every way that could be the fastest, beside what is picked and what was
//! predicted; and the shares of them in which it was right.
//!
//! [`Settings::problem`] draws, [`run()`] measures into `validate.csv`, and [`Evaluation::of`] counts. A problem has as many rows as it
//! has ways. The ways are sampled in turn, so that a machine that slows down does so for all of them, and two names for the same
//! steps are one way with one time: that what was picked is the best is never a matter of luck.

mod compile;
mod cpu;
mod cuda;
mod problems;
mod row;
mod run;
mod shares;
mod thrown_away;
mod turns;
mod ways;

pub use compile::compile;
pub use problems::{Device, Settings};
pub use row::Row;
pub use run::{Prepare, Progress, run};
pub use shares::{Case, Evaluation, Share};
