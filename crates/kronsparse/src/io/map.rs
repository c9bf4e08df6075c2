//! Read-only memory maps of regular files.

use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;

use super::wrong;
use crate::{Error, Result};

/// Maps the file at `path`. Refuses what is no regular file (a folder, a pipe, a device) before it opens it.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let fail = |action, source| Error::Io { path: path.into(), action, source };
    let kind = fs::metadata(path).map_err(|e| fail("open", e))?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a folder" } else { "a device, a pipe or the like" };
        return Err(wrong(path, format!("expected a regular file, found {what}")));
    }
    let file = File::open(path).map_err(|e| fail("open", e))?;
    // SAFETY: the map is private to this process and read-only. Its bytes change only if somebody writes into the file in
    // place meanwhile; every number read here is plain data that is valid for any bits, lengths and names are copied out
    // of the header before they are used, and what this module writes is renamed into place, never written in place.
    // Truncation by somebody else ends the process by a signal, as with every program that maps files.
    unsafe { Mmap::map(&file) }.map_err(|e| fail("map", e))
}
