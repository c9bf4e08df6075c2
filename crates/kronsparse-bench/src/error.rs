//! What can go wrong around a measurement. A multiplication that fails is no error of the run: it is a row of the record.

use std::path::{Path, PathBuf};

/// An error of definitions, of a run as a whole, or of files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library refused something, such as a pattern in a definition.
    #[error(transparent)]
    Library(#[from] kronsparse::Error),
    /// A definition, or a list on the command line, that cannot be understood.
    #[error("{place}: {why}")]
    Definition {
        /// The file with its line, or the option.
        place: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A file or folder that cannot be read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// `read`, `write` and the like.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A record on disk that is not what this version writes.
    #[error("{}: {why}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        why: String,
    },
    /// The threads asked for cannot be started.
    #[error("cannot start {threads} threads: {why}")]
    Threads {
        /// How many.
        threads: usize,
        /// The system's reason.
        why: String,
    },
}

impl Error {
    /// Wraps a system error with its file and the action that failed.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { path, action, source }
    }
}

/// `Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;
