//! The study: the whole grid of Gonon, Zheng, Carrivain and Le, *Fast inference with Kronecker-sparse matrices* (ICML 2025), with the
//! layers of real transformers and a sweep of batch sizes, measured on this machine; its analysis, and its page.
//!
//! [`Plan`] says what is measured, [`measure`] measures it into a folder and goes on where it was stopped, [`merge()`] puts shards
//! together, [`analysis`] draws the conclusions, and [`write_page`] writes them.

pub mod analysis;
pub mod cells;
mod estimate;
mod figures;
mod head;
mod heuristic;
mod measure;
mod merge;
mod models;
mod page;
mod plan;
mod published;
mod tables;

pub use cells::{Cell, Cells, Grid, Part, Request, Shard};
pub use head::Head;
pub use heuristic::{Heuristic, ratio};
pub use measure::{Ahead, measure, read, write_page};
pub use merge::merge;
pub use models::Models;
pub use page::conclusions;
pub use plan::{Device, Plan, Settings};
