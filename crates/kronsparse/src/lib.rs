// The library: everything but the command line and the reports.
#![doc = include_str!("../../../README.md")]
//!
//! # The code
//!
//! The stages, in order; each is one module whose output is the next one's input:
//!
//! 1. [`pattern`]: what is multiplied. [`Pattern`], [`Factor`], [`Chain`].
//! 2. [`plan`]: how. [`plan::Problem`] and a machine give candidates, and one [`plan::Algorithm`] is chosen.
//! 3. [`cpu`]: the engine that always works. [`cpu::Operator`] packs the weights once and multiplies many times.
//!    [`cuda`]: the engine on NVIDIA GPUs, whose driver and libraries are looked for at run time.
//! 4. [`measure`]: how long it takes. Clock, statistics, the machine's ceilings, cold caches.
//!    [`tune`]: which way was the fastest, kept in a file for later calls on the same machine.
//!
//! Beside them: [`factorize`] (dense matrix → chain), [`transform`] (Hadamard, DFT, DCT as chains), [`io`] (safetensors,
//! npy, npz), [`convert`] (a model's linear weights → chains), [`advise`] (whether chains pay for a shape or a model, and which)
//! and [`reference`](mod@reference) (the oracle).

pub mod advise;
pub mod convert;
pub mod cpu;
pub mod cuda;
mod error;
pub mod factorize;
pub mod io;
pub mod measure;
pub mod pattern;
pub mod plan;
pub mod reference;
pub mod scalar;
pub mod transform;
pub mod tune;

pub use error::{Error, Result};
pub use pattern::{Chain, ChainPattern, ChainSpec, Factor, Layer, Matrix, Pattern};
pub use plan::{Activation, Join, Layout};
pub use scalar::{DType, Scalar};

/// `‖out − expected‖_F / ‖expected‖_F` in f64; `‖out‖_F` where `expected` is zero. The error measure of the project.
///
/// Both slices must have the same length.
pub fn relative_error<T: Scalar>(out: &[T], expected: &[T]) -> f64 {
    let wide: Vec<T::Wide> = expected.iter().map(|v| v.widen()).collect();
    relative_error_wide(out, &wide)
}

/// [`relative_error`] against unrounded numbers, such as those of the [`reference`](mod@reference).
pub fn relative_error_wide<T: Scalar>(out: &[T], expected: &[T::Wide]) -> f64 {
    use scalar::Wide;
    assert_eq!(out.len(), expected.len(), "both sides need the same length");
    let (mut difference, mut norm) = (0.0, 0.0);
    for (x, &y) in out.iter().zip(expected) {
        difference += (x.widen() - y).abs2();
        norm += y.abs2();
    }
    if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() }
}
