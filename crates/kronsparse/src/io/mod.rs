//! Files: chains and whole models in safetensors, arrays in npy, npz and safetensors.
//!
//! Reading is memory-mapped and checks everything that a header says before any number is copied. Writing is atomic: the
//! content goes to a temporary sibling file, which is flushed to the disk and then renamed, so that a failed write leaves
//! what was there before and nothing else. A message names the file, the tensor, what was expected and what was found.
//!
//! # Chain files
//!
//! One `.safetensors` file: tensors `factors.0 … factors.{L-1}` of shape `(a, b, c, d)` in chain order, an optional `bias`
//! of `rows` numbers, nothing else; all of one dtype. Metadata (strings):
//!
//! | key | value | |
//! | --- | --- | --- |
//! | `format` | `kronsparse` | required |
//! | `version` | `1` | required |
//! | `layout` | `bsf` or `bsl`: the order of batches that the chain was made for | required |
//! | `dtype` | `f16`, `bf16`, `f32`, `f64`, `c64`, `c128` | optional; checked against the tensors |
//! | `checksum` | `crc32:` and eight hexadecimal digits | optional; verified where present |
//!
//! safetensors has no complex of two f64. `c128` is stored as `F64` with a trailing dimension of 2 (real, imaginary) and
//! marked: by `dtype` = `c128` in a chain file, by `dtype.NAME` = `c128` for one tensor of a model.
//!
//! # Model files
//!
//! [`Model`] maps any safetensors file. In a converted model `NAME.weight` is replaced by `NAME.factors.0 …`;
//! [`write_model`] copies every other tensor bit for bit.
//!
//! # The checksum
//!
//! The format cannot detect a flipped bit in its data; files written here can. `checksum` is the CRC-32 (of zlib) of this
//! text, every item followed by a zero byte: key and value of each metadata entry but `checksum` itself, sorted by key; then
//! for each tensor, sorted by name, its name, its safetensors dtype, its dimensions joined by commas, and the CRC-32 of
//! its bytes in eight lower-case hexadecimal digits. So it does not depend on the order of tensors in the file. Sorting
//! is by UTF-8 bytes.

mod array;
mod atomic;
mod checksum;
mod folder;
mod header;
mod layer;
mod map;
mod model;
mod npy;
mod npy_header;
mod npz;
mod source;
mod visit;
mod write;

pub use array::{AnyVec, Array};
pub(crate) use folder::make_private;
pub use layer::{AnyLayer, read_layer, read_layer_and_layout, write_layer};
pub use model::Model;
pub use npy::write_npy;
pub use source::read_array;
pub use visit::{Visit, visit_dtype};
pub use write::write_model;

use std::path::Path;

use crate::Error;

/// The error of a file that is not what it should be. Names that a file holds may be long or hold line breaks and terminal
/// codes; the message is one line of bounded length all the same.
fn wrong(path: &Path, why: impl Into<String>) -> Error {
    const LONGEST: usize = 1000;
    let mut why: String = why.into();
    if why.contains(char::is_control) {
        why = why.replace(char::is_control, "\u{fffd}");
    }
    if let Some((end, _)) = why.char_indices().nth(LONGEST) {
        why.truncate(end);
        why.push('…');
    }
    Error::File { path: path.into(), why }
}

/// The number of elements of `shape`, if the non-zero dimensions multiplied by 16 bytes fit in the address space (so that
/// every partial product does as well).
fn elements(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().filter(|&&n| n > 0).try_fold(16usize, |acc, &n| acc.checked_mul(n))?;
    let fits = product <= isize::MAX as usize;
    fits.then(|| if shape.contains(&0) { 0 } else { product / 16 })
}
