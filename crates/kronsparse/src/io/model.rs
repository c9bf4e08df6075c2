//! A memory-mapped safetensors file of any tensors.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;

use super::array::ByteOrder;
use super::header::{self, Tensor};
use super::{AnyVec, Array, checksum, wrong};
use crate::{DType, Error, Result};

/// A safetensors file, mapped into memory: a header that has passed every check, and bytes that are read when asked for.
///
/// Do not let another program shorten the file in place while a `Model` of it lives (replacing it by a rename is fine).
pub struct Model {
    path: PathBuf,
    map: Mmap,
    metadata: BTreeMap<String, String>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl Model {
    /// Maps the file and checks its header: names, dtypes, shapes, and that the tensors fill the file exactly. Where the
    /// metadata hold a checksum of ours, all of the data is read once to verify it.
    pub fn open(path: &Path) -> Result<Model> {
        let map = super::map::map(path)?;
        let header::Header { metadata, tensors } = header::parse(path, &map)?;
        let index = tensors.iter().enumerate().map(|(at, t)| (t.name.clone(), at)).collect();
        let model = Model { path: path.into(), map, metadata, tensors, index };
        model.verify()?;
        Ok(model)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The names of all tensors, in the order of their bytes in the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|t| t.name.as_str())
    }
    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }
    /// The metadata, empty where the file has none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
    /// The dimensions of a tensor. The trailing dimension of 2 that stores `c128` does not count.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        let tensor = self.tensor(name)?;
        let pairs = usize::from(self.is_pairs(tensor));
        Ok(&tensor.shape[..tensor.shape.len() - pairs])
    }
    /// The element type of a tensor, or an error if it is none that this library computes with (`I64`, `BOOL`, …).
    pub fn dtype(&self, name: &str) -> Result<DType> {
        let tensor = self.tensor(name)?;
        match tensor.dtype {
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::Bf16),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F64 if self.is_pairs(tensor) => Ok(DType::C128),
            Dtype::F64 => Ok(DType::F64),
            Dtype::C64 => Ok(DType::C64),
            other => Err(self.wrong(name, format!("expected dtype F16, BF16, F32, F64 or C64, found {other}"))),
        }
    }
    /// The element type of a tensor by its name in the file: `F32`, `I64`, `BOOL` and the like.
    pub fn stored_dtype(&self, name: &str) -> Result<String> {
        Ok(self.tensor(name)?.dtype.to_string())
    }
    /// The bytes of a tensor, little-endian, in C order. They need not be aligned.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(self.content(self.tensor(name)?))
    }
    /// A copy of a tensor as numbers.
    pub fn array(&self, name: &str) -> Result<Array> {
        let (dtype, shape) = (self.dtype(name)?, self.shape(name)?.to_vec());
        Ok(Array { shape, data: AnyVec::from_bytes(dtype, self.bytes(name)?, ByteOrder::Little) })
    }

    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }
    pub(super) fn content(&self, tensor: &Tensor) -> &[u8] {
        &self.map[tensor.bytes.clone()]
    }
    /// Whether an `F64` tensor with a trailing dimension of 2 is marked as `c128`.
    pub(super) fn is_pairs(&self, tensor: &Tensor) -> bool {
        let marked = |key: &str| self.metadata.get(key).is_some_and(|v| v == DType::C128.name());
        let whole_file = || self.metadata.get("format").is_some_and(|v| v == super::layer::FORMAT) && marked("dtype");
        tensor.dtype == Dtype::F64
            && tensor.shape.last() == Some(&2)
            && (marked(&format!("dtype.{}", tensor.name)) || whole_file())
    }
    /// The error of a tensor that is not what it should be.
    pub(super) fn wrong(&self, name: &str, why: impl fmt::Display) -> Error {
        wrong(&self.path, format!("tensor \"{name}\": {why}"))
    }
    /// Up to eight names, for messages.
    pub(super) fn some_names(&self) -> String {
        let names: Vec<String> = self.names().take(8).map(|n| format!("\"{n}\"")).collect();
        let more = if self.tensors.len() > 8 { ", …" } else { "" };
        match self.tensors.len() {
            0 => "it has no tensors".into(),
            1 => format!("it has one tensor, {}", names[0]),
            n => format!("it has {n} tensors: {}{more}", names.join(", ")),
        }
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        match self.index.get(name) {
            Some(&at) => Ok(&self.tensors[at]),
            None => Err(self.wrong(name, format!("not in the file; {}", self.some_names()))),
        }
    }

    fn verify(&self) -> Result<()> {
        let Some(expected) = self.metadata.get(checksum::KEY) else { return Ok(()) };
        if !checksum::is_ours(expected) {
            let by_us = self.metadata.get("format").is_some_and(|v| v == super::layer::FORMAT);
            let why =
                format!("metadata \"checksum\": expected crc32: and eight hexadecimal digits, found \"{expected}\"");
            return if by_us { Err(wrong(&self.path, why)) } else { Ok(()) };
        }
        let items = self.tensors.iter().map(|tensor| {
            let Tensor { name, dtype, shape, .. } = tensor;
            checksum::Item { name, dtype: *dtype, shape, crc: crc32fast::hash(self.content(tensor)) }
        });
        let found = checksum::value(&self.metadata, &mut items.collect::<Vec<_>>());
        if found == *expected {
            return Ok(());
        }
        let why = "the file is damaged, or was changed by a program that did not update the checksum";
        Err(wrong(&self.path, format!("checksum: expected {expected}, found {found}: {why}")))
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}
