//! A calibration as a file: one JSON document with a checksum over everything else in it. Reading checks size, form, checksum, machine
//! and plausibility; what does not pass is an error with a sentence.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::in_one_line;
use crate::io::make_private;
use crate::{Error, Result};

/// Larger files are no calibrations.
const LARGEST: u64 = 64 << 10;
/// Rates that some machine might have, per second.
const PLAUSIBLE: std::ops::RangeInclusive<u64> = 1_000_000..=10_u64.pow(18);

/// What can be kept in such a file.
pub(super) trait Kept: Serialize + DeserializeOwned + Clone {
    /// What it holds for.
    type Machine: Serialize + PartialEq;
    /// The format's name, and its version.
    const FORMAT: (&'static str, u32);

    /// The format and version that it has.
    fn format(&self) -> (&str, u32);
    /// What it holds for.
    fn machine(&self) -> &Self::Machine;
    /// That in a few words.
    fn name(machine: &Self::Machine) -> String;
    /// What is wrong with the numbers, if something is.
    fn implausible(&self) -> Option<String>;
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<C> {
    calibration: C,
    checksum: String,
}

/// Reads a calibration of the machine `here`; `None` where there is no file. Errors: what is no regular file, too large, no
/// calibration, damaged, of another version or machine, or holds numbers that no machine has.
pub(super) fn read<C: Kept>(path: &Path, here: &C::Machine) -> Result<Option<C>> {
    let fail = |source| Error::Io { path: path.into(), action: "read", source };
    // Asked before it is opened: opening a pipe would wait for a writer.
    let kind = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fail)?,
    };
    let wrong = |why: String| Err(Error::File { path: path.into(), why });
    if !kind.is_file() || kind.len() > LARGEST {
        return wrong(format!("no calibration: expected a regular file of at most {LARGEST} bytes"));
    }
    let mut text = Vec::new();
    fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text)).map_err(fail)?;
    let Sealed::<C> { calibration, checksum: found } = match serde_json::from_slice(&text) {
        Ok(sealed) => sealed,
        Err(error) => {
            return wrong(format!("no calibration, or a damaged one: {}", in_one_line(&error.to_string())));
        }
    };
    let (format, version) = C::FORMAT;
    if calibration.format() != C::FORMAT {
        return wrong(format!("expected a {format} of version {version}, found another format or version"));
    }
    if digest(&calibration) != found {
        return wrong("a damaged calibration: the checksum does not fit the content".into());
    }
    if calibration.machine() != here {
        let [found, expected] = [calibration.machine(), here].map(|machine| in_one_line(&C::name(machine)));
        return wrong(format!("a calibration of another machine or number of threads: {found}; this is {expected}"));
    }
    calibration.implausible().map_or(Ok(Some(calibration)), wrong)
}

/// Writes it, whole or not at all; the folder is made where it is missing, for this user alone.
pub(super) fn write<C: Kept>(calibration: &C, path: &Path) -> Result<()> {
    let fail = |source| Error::Io { path: path.into(), action: "write", source };
    let mut file = place(path)?;
    let sealed = Sealed { calibration: calibration.clone(), checksum: digest(calibration) };
    let text = serde_json::to_string_pretty(&sealed).map_err(|error| fail(error.into()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// An empty file beside `path` that can take its place, in a folder that is made where it is missing.
pub(super) fn place(path: &Path) -> Result<tempfile::NamedTempFile> {
    let fail = |source| Error::Io { path: path.into(), action: "write", source };
    if path.is_dir() {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_private(folder).map_err(fail)?;
    tempfile::Builder::new().prefix(".calibration").tempfile_in(folder).map_err(fail)
}

/// Name of the file of a calibration of a machine.
pub(super) fn file_name<M: Serialize>(machine: &M) -> String {
    format!("calibration-{}.json", &digest(machine)[..16])
}

/// The first of the named rates that no machine has, in a sentence.
pub(super) fn implausible_rate(rates: &[(&str, u64)]) -> Option<String> {
    let (name, rate) = rates.iter().find(|(_, rate)| !PLAUSIBLE.contains(rate))?;
    Some(format!("expected {} to {} {name} per second, found {rate}", PLAUSIBLE.start(), PLAUSIBLE.end()))
}

fn digest<V: Serialize>(value: &V) -> String {
    let digest = Sha256::digest(serde_json::to_vec(value).unwrap_or_default());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
