//! Which store an operator looks in: the user's own, one that it was given, or none.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::Store;
use crate::{Error, Result};

/// Where an operator with [`Algorithm::Auto`](crate::plan::Algorithm::Auto) looks for what was measured.
#[derive(Clone, Debug, Default)]
pub enum Tuning {
    /// In the file that `KRONSPARSE_TUNING` names, or else in `tuning.txt` in the cache folder, if it is there. It is read once per
    /// process. What is wrong with the former is an error; with the latter, it is not used, and operators say so when they explain.
    #[default]
    OfUser,
    /// Nowhere: everything goes by estimate.
    Off,
    /// In this store.
    Store(Arc<Store>),
}

/// What [`Tuning`] comes to.
#[derive(Clone, Default)]
pub(crate) struct Found {
    pub(crate) store: Option<Arc<Store>>,
    /// Why there is none, where there should be one.
    pub(crate) note: Option<String>,
}

/// The name in the environment.
const VARIABLE: &str = "KRONSPARSE_TUNING";

/// The user's store: the file that `KRONSPARSE_TUNING` names, or else `tuning.txt` in the cache folder. `None` where the variable is
/// `off` or empty, or where there is no cache folder.
pub fn path() -> Option<PathBuf> {
    named().unwrap_or_else(|| crate::cuda::cache::folder().map(|folder| folder.join("tuning.txt")))
}

/// What the environment says, if it says something.
fn named() -> Option<Option<PathBuf>> {
    let value = std::env::var_os(VARIABLE)?;
    Some((!value.is_empty() && value != "off").then(|| value.into()))
}

impl Tuning {
    /// The store, if there is one. Errors: the user named one, and it cannot be read.
    pub(crate) fn find(&self) -> Result<Found> {
        match self {
            Tuning::Off => Ok(Found::default()),
            Tuning::Store(store) => Ok(Found { store: Some(store.clone()), note: None }),
            Tuning::OfUser => of_user(),
        }
    }
}

fn of_user() -> Result<Found> {
    static FOUND: OnceLock<std::result::Result<Found, (PathBuf, String)>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match path() {
        None => Ok(Found::default()),
        Some(path) => read(&path, named().is_some()),
    });
    found.clone().map_err(|(path, why)| Error::File { path, why })
}

/// The user's store at `path`; the error is a file's name and what is wrong with it.
fn read(path: &Path, named: bool) -> std::result::Result<Found, (PathBuf, String)> {
    let missing =
        |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
    match Store::read(path) {
        Ok(store) => Ok(Found { store: Some(Arc::new(store)), note: None }),
        Err(error) if !named && missing(&error) => Ok(Found::default()),
        Err(error) if !named => Ok(Found { store: None, note: Some(format!("not tuned: {error}")) }),
        Err(error) => {
            let hint = format!("{VARIABLE} names it: `kronsparse tune` makes one, {VARIABLE}=off does without");
            let why = match error {
                Error::File { why, .. } => why,
                Error::Io { action, source, .. } => format!("cannot {action}: {source}"),
                other => other.to_string(),
            };
            Err((path.into(), format!("{why} ({hint})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_named_must_be_there_and_the_usual_place_need_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.txt");
        let found = read(&path, false).unwrap_or_else(|(_, why)| panic!("{why}"));
        assert!(found.store.is_none() && found.note.is_none());
        let (_, why) = read(&path, true).err().unwrap();
        assert!(why.contains("cannot open") && why.contains("KRONSPARSE_TUNING=off"), "{why}");

        std::fs::write(&path, "something else\n").unwrap();
        let found = read(&path, false).unwrap_or_else(|(_, why)| panic!("{why}"));
        let note = found.note.unwrap();
        assert!(found.store.is_none() && note.starts_with("not tuned: ") && note.contains("something else"), "{note}");
        assert!(read(&path, true).err().unwrap().1.contains("something else"));

        std::fs::remove_file(&path).unwrap();
        Store::open(&path).unwrap();
        for named in [true, false] {
            let found = read(&path, named).unwrap_or_else(|(_, why)| panic!("{why}"));
            assert!(found.store.is_some_and(|store| store.records().is_empty()) && found.note.is_none());
        }
    }
}
