//! The header of a safetensors file: parsed once, every tensor's place checked, with a sentence for what is wrong.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::{elements, wrong};
use crate::Result;

/// The longest header that the format allows, in bytes.
pub(super) const MAX_HEADER: usize = 100_000_000;
const LENGTH_BYTES: usize = 8;

/// One tensor: where its bytes stand in the file, and what they are.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// A header that has passed every check: tensors in the order of their bytes, which fill the file without a gap.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: Vec<Tensor>,
}

/// Reads the header of the file whose whole content is `file`; `path` is for messages.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Header> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        let found = file.len();
        return Err(wrong(path, format!("no safetensors file: expected at least {LENGTH_BYTES} bytes, found {found}")));
    };
    let length = u64::from_le_bytes(*length);
    let text = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).and_then(|n| rest.get(..n)).ok_or_else(|| {
        let kind = match file {
            [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => " (this looks like an npy file)",
            [b'P', b'K', 3 | 5, 4 | 6, ..] => " (this looks like an npz or a PyTorch file)",
            _ => "",
        };
        let found = rest.len();
        wrong(
            path,
            format!(
                "no safetensors file, or a truncated one{kind}: the first eight bytes announce a header of {length} bytes, \
                 found {found} bytes after them (at most {MAX_HEADER} are allowed)"
            ),
        )
    })?;
    let text =
        std::str::from_utf8(text).map_err(|e| wrong(path, format!("the header is not UTF-8: {e} of the header")))?;
    let Raw { metadata, mut tensors } =
        serde_json::from_str(text).map_err(|e| wrong(path, format!("the header is not valid: {e}")))?;

    tensors.sort_by(|x, y| x.1.data_offsets.cmp(&y.1.data_offsets).then_with(|| x.0.cmp(&y.0)));
    check(path, &tensors, rest.len() - text.len())?;
    // The format's own library has the last word.
    let checked = Metadata::new(None, tensors).map_err(|e| wrong(path, format!("the header is not valid: {e}")))?;
    let start = LENGTH_BYTES + text.len();
    let tensor = |name: String| {
        let TensorInfo { dtype, ref shape, data_offsets: (from, to) } = *checked.info(&name).expect("its own key");
        Tensor { name, dtype, shape: shape.clone(), bytes: start + from..start + to }
    };
    let tensors = checked.offset_keys().into_iter().map(tensor).collect();
    Ok(Header { metadata, tensors })
}

/// That each of the sorted tensors is as long as its shape and dtype say, starts where the one before it ends, and that
/// together they fill the `available` bytes.
fn check(path: &Path, tensors: &[(String, TensorInfo)], available: usize) -> Result<()> {
    let mut end = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (from, to) }) in tensors {
        let fail = |why: String| wrong(path, format!("tensor \"{name}\": {why}"));
        let bits = elements(shape).and_then(|n| n.checked_mul(dtype.bitsize()));
        let Some(bits) = bits else {
            return Err(fail(format!("a size of {shape:?} elements of {dtype} does not fit in the address space")));
        };
        if bits % 8 != 0 {
            return Err(fail(format!("shape {shape:?} of {dtype} is {bits} bits, expected whole bytes")));
        }
        if *from != end {
            return Err(fail(format!("expected its bytes to start at {end}, found {from}")));
        }
        match to.checked_sub(*from) {
            Some(found) if found == bits / 8 => end = *to,
            _ => {
                let expected = bits / 8;
                return Err(fail(format!(
                    "shape {shape:?} of {dtype} needs {expected} bytes, found the bytes from {from} to {to}"
                )));
            }
        }
    }
    if end != available {
        let damage = if end > available { "truncated" } else { "with something after the last tensor" };
        return Err(wrong(path, format!("{damage}: expected {end} bytes of tensors, found {available}")));
    }
    Ok(())
}

/// The header as written, with repeated names refused: JSON leaves open which one would count.
struct Raw {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Raw, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
                let mut seen = HashSet::new();
                let mut raw = Raw { metadata: BTreeMap::new(), tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("\"{name}\" is there twice")));
                    }
                    let within = |e: A::Error| A::Error::custom(format_args!("\"{name}\": {e}"));
                    if name == "__metadata__" {
                        raw.metadata = map.next_value::<Strings>().map_err(within)?.0;
                    } else {
                        let info = map.next_value().map_err(within)?;
                        raw.tensors.push((name, info));
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The metadata object, with repeated keys refused.
struct Strings(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Strings, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Strings, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("\"{key}\" is there twice")));
                    }
                    strings.insert(key, value);
                }
                Ok(Strings(strings))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
