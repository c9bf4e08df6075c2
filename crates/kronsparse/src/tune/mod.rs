//! What was measured, remembered: the fastest way of a problem on a machine, for every later call there.
//!
//! `kronsparse tune`, [`cuda::Operator::tune`] and [`cpu::tune`] measure the ways of multiplying by a chain and give a [`Record`]; a
//! [`Store`] is a file of records. An operator with [`Algorithm::Auto`] looks its problem up when it is made or prepared, and takes
//! the way that was the fastest; without a record it goes on by estimate, as it does without a store.
//!
//! # The file
//!
//! Text, only ever appended to. The first line is `kronsparse tuning 1`; every other line is the CRC-32 of a record in eight
//! hexadecimal digits, a space, and the record as JSON. Later records replace earlier ones of the same problem. Processes that append
//! at the same time take turns by a lock on the file. A process that is killed while it writes leaves a line without its end: that is
//! left out when the file is read, and cut off when the next record is appended. Anything else that is not as it should be is refused
//! with a sentence.
//!
//! It is `tuning.txt` in the folder of compiled kernels ([`cuda::cache::folder`]); `KRONSPARSE_TUNING` names another file, or is `off`.
//! [`Tuning::Store`] is for a file that comes with a model. To forget everything, delete the file; to forget one problem, delete its
//! lines.
//!
//! # What a record is valid for
//!
//! Its [`Machine`] must be the one at hand in every respect (device, driver, compiler, kernels, threads): others are ignored, so one
//! file can serve several machines. What it names must still exist: kernels are found again by family and template arguments among
//! those that the planner offers, never by a number in a list. And what would be done without it must be among the ways that were
//! measured, so that the stored one is known to be no slower.
//!
//! # Other numbers of vectors
//!
//! A problem is looked up with its number of vectors `n` first. Otherwise the nearest measured `m` counts if the two differ by less than
//! a quarter (the larger one over the smaller one is `r < 1.25`) and the stored way was at least `r` times as fast there as what would be
//! done now. The reason: one way does not get slower with fewer vectors, and its time grows no faster than in proportion to them. So from
//! `m` to `n` the stored way loses `r` at most against another, and the condition says that it has as much to lose. Steps at the sizes of
//! tiles break the second half by less than a tile's share of `n`. Batch-last, `n` is a stride and decides how arrays are aligned: there
//! `m` and `n` must be divisible by the same power of two, up to 16.
//!
//! [`cuda::Operator::tune`]: crate::cuda::Operator::tune
//! [`cuda::cache::folder`]: crate::cuda::cache::folder
//! [`cpu::tune`]: crate::cpu::tune()
//! [`Algorithm::Auto`]: crate::plan::Algorithm::Auto

pub mod gpu;
pub(crate) mod lines;
mod near;
mod record;
mod store;
pub(crate) mod user;

pub(crate) use near::nearest;
pub use record::{Machine, Measured, Record, Step, TIE};
pub use store::Store;
pub use user::{Tuning, path};
