//! NumPy's npz archives: a zip file of npy members, stored or deflated.

use std::io::Cursor;
use std::path::Path;

use zip::ZipArchive;

use super::{Array, map, npy, wrong};
use crate::Result;

/// Reads the array `name` of the archive, or its only one. Members that are no `.npy` do not count.
pub(super) fn read(path: &Path, name: Option<&str>) -> Result<Array> {
    let map = map::map(path)?;
    let zip = |e: zip::result::ZipError| wrong(path, format!("no npz archive, or a damaged one: {e}"));
    let mut archive = ZipArchive::new(Cursor::new(&map[..])).map_err(zip)?;
    let mut names = Vec::new();
    for at in 0..archive.len() {
        let member = archive.name_for_index(at).transpose().map_err(zip)?.unwrap_or_default();
        names.extend(member.strip_suffix(".npy").map(str::to_string));
    }
    let name = super::source::choose(path, "array", name, names.iter().map(String::as_str))?;
    let fail = |why: String| wrong(path, format!("array \"{name}\": {why}"));
    let member = archive.by_name(&format!("{name}.npy")).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let size = member.size();
    npy::read(member, size, true).map_err(fail)
}
