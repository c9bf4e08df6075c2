//! Stage 3, the CPU engine: any chain, any batch, both layouts, every element type; bias and activation in the last store.
//!
//! [`Operator::new`] packs the weights once; [`Operator::apply`] then multiplies into memory that the caller owns.

mod operator;

pub use operator::{Operator, Options, Scratch};

/// What the engine needs to know of an element type. Sealed through [`Scalar`](crate::Scalar).
pub trait Element {}
impl Element for half::f16 {}
impl Element for half::bf16 {}
impl Element for f32 {}
impl Element for f64 {}
impl Element for num_complex::Complex32 {}
impl Element for num_complex::Complex64 {}
