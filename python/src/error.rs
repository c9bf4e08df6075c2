//! Every error of the library as a Python exception; its message is the library's own.

use kronsparse::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyFileNotFoundError, PyOSError, PyRuntimeError, PyValueError};

/// ValueError for arguments that do not fit, OSError for files that the system refuses, RuntimeError for the GPU.
pub(crate) fn to_python(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => PyFileNotFoundError::new_err(text),
        Error::Io { .. } => PyOSError::new_err(text),
        Error::Cuda { .. } | Error::Compile { .. } => PyRuntimeError::new_err(text),
        _ => PyValueError::new_err(text),
    }
}

/// Maps the error of a `Result`.
pub(crate) trait IntoPython<T> {
    /// The same value, or the exception.
    fn python(self) -> pyo3::PyResult<T>;
}

impl<T> IntoPython<T> for kronsparse::Result<T> {
    fn python(self) -> pyo3::PyResult<T> {
        self.map_err(to_python)
    }
}
