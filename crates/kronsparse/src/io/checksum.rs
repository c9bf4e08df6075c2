//! The checksum of a safetensors file's content; defined in the [module](super) documentation.

use std::collections::BTreeMap;

use safetensors::Dtype;

/// Metadata key under which it is stored.
pub(super) const KEY: &str = "checksum";

/// What the checksum covers of one tensor.
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    /// CRC-32 of the tensor's bytes.
    pub(super) crc: u32,
}

/// The value of the metadata entry: `crc32:` and eight hexadecimal digits.
pub(super) fn value(metadata: &BTreeMap<String, String>, tensors: &mut [Item<'_>]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    let mut add = |item: &str| {
        hasher.update(item.as_bytes());
        hasher.update(&[0]);
    };
    for (key, value) in metadata.iter().filter(|(key, _)| *key != KEY) {
        add(key);
        add(value);
    }
    tensors.sort_by_key(|t| t.name);
    for Item { name, dtype, shape, crc } in tensors {
        let dimensions: Vec<String> = shape.iter().map(usize::to_string).collect();
        add(name);
        add(&dtype.to_string());
        add(&dimensions.join(","));
        add(&format!("{crc:08x}"));
    }
    format!("crc32:{:08x}", hasher.finalize())
}

/// Whether `value` has the form that [`value`] gives; somebody else's metadata may use the key for something else.
pub(super) fn is_ours(value: &str) -> bool {
    let digits = value.strip_prefix("crc32:");
    digits.is_some_and(|d| d.len() == 8 && d.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}
