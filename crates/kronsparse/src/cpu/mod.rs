//! Stage 3, the CPU engine: any chain, any batch, both layouts, every element type; bias and activation in the last store.
//!
//! [`Operator::new`] packs the weights once; [`Operator::apply`] then multiplies into memory that the caller owns. [`tune()`] measures
//! the algorithms, so that [`Algorithm::Auto`](crate::plan::Algorithm::Auto) takes the fastest.

mod classic;
mod dispatch;
mod element;
mod fused;
mod join;
mod machine;
mod narrow;
mod operator;
mod panel;
mod prefetch;
mod real;
mod scratch;
mod simd;
mod tile;
mod tune;
mod tuned;
mod weights;

pub(crate) use classic::square_product;
pub(crate) use element::Compute;
pub use element::Element;
pub use machine::machine;
pub use operator::{Operator, Options};
pub use scratch::Scratch;
pub use simd::Isa;
pub use tune::tune;
