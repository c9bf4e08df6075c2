//! Reading weights of an element type known at run time, and checking it against the one that a command computes in.

use std::path::Path;

use anyhow::{Result, bail};
use kronsparse::io::{AnyLayer, Model, read_layer_and_layout};
use kronsparse::{DType, Layout};

use crate::output::split_source;

/// Reads `CHAIN.safetensors`, or one layer of a converted model, `MODEL.safetensors::NAME`.
pub(crate) fn read_weights(source: &str) -> Result<(AnyLayer, Layout)> {
    match split_source(source) {
        (file, None) => Ok(read_layer_and_layout(Path::new(file))?),
        (file, Some(name)) => Ok((Model::open(Path::new(file))?.layer(name)?, Layout::BatchFirst)),
    }
}

/// Refuses to compute complex numbers in a real type, which would drop their imaginary parts.
pub(crate) fn check_real(what: &str, found: DType, wanted: DType) -> Result<()> {
    if found.is_complex() && !wanted.is_complex() {
        bail!("{what} is {found}, and {wanted} would drop its imaginary part; use --dtype c64 or c128");
    }
    Ok(())
}
