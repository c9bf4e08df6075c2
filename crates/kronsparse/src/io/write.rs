//! Writing safetensors files: one tensor after the other, from memory or straight from the map of another file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;

use super::header::MAX_HEADER;
use super::{Array, Model, atomic, checksum, wrong};
use crate::{DType, Result};

/// A tensor to be written.
pub(super) struct Out<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Little-endian, C order.
    pub(super) bytes: Cow<'a, [u8]>,
}

/// The safetensors dtype that stores `dtype`; `C128` takes a trailing dimension of 2.
pub(super) fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 | DType::C128 => Dtype::F64,
        DType::C64 => Dtype::C64,
    }
}

/// `shape` as stored.
pub(super) fn stored_shape(shape: &[usize], dtype: DType) -> Vec<usize> {
    let pair = (dtype == DType::C128).then_some(2);
    shape.iter().copied().chain(pair).collect()
}

/// Writes a model with some of its tensors replaced, atomically, at `path` (which may be the model's own file).
///
/// Every tensor that `replaced` does not name is copied bit for bit from the map, whatever its dtype. A tensor that it
/// names is left out, and the listed arrays stand in its place under their own names; an empty list just removes it.
/// The metadata are the model's own, with those of `metadata` added or put over them, and a fresh checksum. `C128` arrays
/// are stored as `F64` pairs and marked by `dtype.NAME`.
///
/// Refuses a name in `replaced` that the model lacks, two tensors of one name, and an array whose length does not fit its
/// shape, before anything is written.
pub fn write_model(
    path: &Path,
    model: &Model,
    replaced: &BTreeMap<String, Vec<(String, Array)>>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    if let Some(name) = replaced.keys().find(|name| !model.contains(name)) {
        return Err(model.wrong(name, format!("cannot be replaced, it is not in the file; {}", model.some_names())));
    }
    let mut all = model.metadata().clone();
    // What marks pairs is written again below, for the tensors that are there.
    for name in model.tensors().iter().filter(|t| model.is_pairs(t)).map(|t| &t.name) {
        all.remove(&mark(name));
        all.retain(|key, value| key != "dtype" || value != DType::C128.name());
    }
    let mut pairs = BTreeMap::new();
    let mut out = Vec::new();
    for tensor in model.tensors() {
        if let Some(arrays) = replaced.get(&tensor.name) {
            for (name, array) in arrays {
                array.check().map_err(|e| wrong(path, format!("tensor \"{name}\": {e}")))?;
                let (dtype, shape) = (stored(array.dtype()), stored_shape(&array.shape, array.dtype()));
                if array.dtype() == DType::C128 {
                    pairs.insert(mark(name), DType::C128.name().into());
                }
                out.push(Out { name: name.clone(), dtype, shape, bytes: array.data.to_bytes() });
            }
        } else {
            if model.is_pairs(tensor) {
                pairs.insert(mark(&tensor.name), DType::C128.name().into());
            }
            let (name, dtype, shape) = (tensor.name.clone(), tensor.dtype, tensor.shape.clone());
            out.push(Out { name, dtype, shape, bytes: Cow::Borrowed(model.content(tensor)) });
        }
    }
    all.extend(metadata.clone());
    all.extend(pairs);
    write_tensors(path, out, all)
}

fn mark(name: &str) -> String {
    format!("dtype.{name}")
}

/// Writes a safetensors file atomically, with a checksum in its metadata. The same content gives the same bytes.
pub(super) fn write_tensors(path: &Path, mut out: Vec<Out<'_>>, mut metadata: BTreeMap<String, String>) -> Result<()> {
    let mut names = HashSet::new();
    for Out { name, .. } in &out {
        if name == "__metadata__" || !names.insert(name) {
            return Err(wrong(path, format!("tensor \"{name}\": the name is taken, expected different names")));
        }
    }
    // Widest numbers first, as the format's own library does it: every tensor is then aligned.
    out.sort_by(|x, y| y.dtype.cmp(&x.dtype).then_with(|| x.name.cmp(&y.name)));
    metadata.insert(checksum::KEY.into(), "crc32:00000000".into());
    let draft = header(path, &out, &metadata)?;

    // The header stands before the data but holds their checksum: a draft of the same length is written over at the end.
    let mut failure = None;
    let result = atomic::write(path, |file| {
        file.write_all(&draft)?;
        let mut items = Vec::with_capacity(out.len());
        for Out { name, dtype, shape, bytes } in &out {
            file.write_all(bytes)?;
            items.push(checksum::Item { name, dtype: *dtype, shape, crc: crc32fast::hash(bytes) });
        }
        metadata.insert(checksum::KEY.into(), checksum::value(&metadata, &mut items));
        match header(path, &out, &metadata) {
            Ok(header) if header.len() == draft.len() => {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&header)
            }
            Ok(_) => Err(std::io::Error::other("the header changed its length")),
            Err(e) => {
                let source = std::io::Error::other(e.to_string());
                failure = Some(e);
                Err(source)
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => result,
    }
}

/// The header with its length in front, padded by spaces to whole eight bytes.
fn header(path: &Path, out: &[Out<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| wrong(path, format!("cannot describe its tensors: {e}"));
    let mut offset = 0;
    let mut infos = Vec::with_capacity(out.len());
    for Out { name, dtype, shape, bytes } in out {
        let data_offsets = (offset, offset + bytes.len());
        offset = data_offsets.1;
        infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets }));
    }
    let mut entries: BTreeMap<&str, Value> = BTreeMap::new();
    entries.insert("__metadata__", serde_json::to_value(metadata).map_err(|e| fail(&e))?);
    for (name, info) in &infos {
        entries.insert(name, serde_json::to_value(info).map_err(|e| fail(&e))?);
    }
    let mut text = serde_json::to_vec(&entries).map_err(|e| fail(&e))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() > MAX_HEADER {
        return Err(fail(&format_args!(
            "the header would take {} bytes, at most {MAX_HEADER} are allowed",
            text.len()
        )));
    }
    // The format's own library checks offsets and sizes.
    Metadata::new(None, infos).map_err(|e| fail(&e))?;
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok(bytes)
}
