//! Devices by name: where something is measured, or what advice is for.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A device that a call names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This machine's CPU.
    Cpu,
    /// A GPU of this machine by its number.
    Cuda(usize),
    /// The planner's description of an H100, which need not be there.
    H100,
}

impl Place {
    /// Reads `cpu`, `cuda`, `cuda:N`, and `h100` where a description will do.
    pub(crate) fn of_name(name: &str, described: bool) -> PyResult<Place> {
        let number = if name == "cuda" { Some("0") } else { name.strip_prefix("cuda:") };
        match (name, number.map(str::parse)) {
            ("cpu", _) => Ok(Place::Cpu),
            ("h100", _) if described => Ok(Place::H100),
            (_, Some(Ok(number))) => Ok(Place::Cuda(number)),
            _ => {
                let names = if described { "cpu, h100, cuda or cuda:N" } else { "cpu, cuda or cuda:N" };
                Err(PyValueError::new_err(format!("device: expected {names}, found {name}")))
            }
        }
    }
}
