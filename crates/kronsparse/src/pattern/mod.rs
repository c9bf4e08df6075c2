//! Stage 1, WHAT: the algebra of Kronecker-sparse matrices. Nothing here knows of a device or an engine.
//!
//! [`Pattern`] is the support of one factor and [`ChainPattern`] a product of supports; [`Factor`] and [`Chain`] carry
//! weights. Their definitions follow Gonon, Zheng, Carrivain and Le, *Fast inference with Kronecker-sparse matrices*
//! (2025), and Le, Zheng, Riccietti and Gribonval, *Butterfly factorization with error guarantees* (2024).

mod chain;
mod chain_pattern;
mod factor;
mod matrix;
mod named;
mod single;
mod spec;

pub use chain::{Chain, Layer};
pub use chain_pattern::ChainPattern;
pub use factor::Factor;
pub use matrix::Matrix;
pub(crate) use named::divisors;
pub use single::Pattern;
pub use spec::ChainSpec;
