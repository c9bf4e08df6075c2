//! Stores of one record each, which are thrown away.

use std::sync::Arc;

use kronsparse::tune::{Record, Store, Tuning};
use kronsparse::{Error, Result};

/// A folder for them, which is gone with this.
pub(super) struct Stores(tempfile::TempDir);

impl Stores {
    pub(super) fn new() -> crate::Result<Stores> {
        tempfile::tempdir().map(Stores).map_err(crate::Error::io(&std::env::temp_dir(), "write"))
    }

    /// A store that has this record.
    pub(super) fn with(&self, record: Record) -> Result<Tuning> {
        let path = self.0.path().join("tuning.txt");
        // A store is read when it is opened: the file of the last one is done with.
        if path.exists() {
            std::fs::remove_file(&path).map_err(|source| Error::Io { path: path.clone(), action: "remove", source })?;
        }
        let mut store = Store::open(&path)?;
        store.append(record)?;
        Ok(Tuning::Store(Arc::new(store)))
    }
}
