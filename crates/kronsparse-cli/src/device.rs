//! `--device` of all commands: this machine's CPU, a GPU of it, or the description of one. Each command reads what it can use.

use kronsparse::advise::Gpu;
use kronsparse::{Error, Result};

/// What is measured or planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// This machine's CPU.
    Cpu,
    /// A GPU of this machine by its number.
    Cuda(usize),
    /// The planner's description of a GPU, which nothing can be measured on.
    H100,
}

impl Device {
    /// What can be measured on: `cpu`, `cuda` or `cuda:N`.
    pub(crate) fn at_hand(text: &str) -> std::result::Result<Device, String> {
        let found = Device::any(text).ok().filter(|device| *device != Device::H100);
        found.ok_or_else(|| "expected cpu, cuda or cuda:N".into())
    }

    /// A GPU that can be planned for: `h100`, `cuda` or `cuda:N`.
    pub(crate) fn gpu(text: &str) -> std::result::Result<Device, String> {
        let found = Device::any(text).ok().filter(|device| *device != Device::Cpu);
        found.ok_or_else(|| "expected h100, cuda or cuda:N".into())
    }

    /// Any of them.
    pub(crate) fn any(text: &str) -> std::result::Result<Device, String> {
        let number = if text == "cuda" { Some("0") } else { text.strip_prefix("cuda:") };
        match (text, number.map(str::parse)) {
            ("cpu", _) => Ok(Device::Cpu),
            ("h100", _) => Ok(Device::H100),
            (_, Some(Ok(number))) => Ok(Device::Cuda(number)),
            _ => Err("expected h100, cuda, cuda:N or cpu".into()),
        }
    }

    /// The number of a GPU of this machine.
    pub(crate) fn ordinal(self) -> Option<usize> {
        match self {
            Device::Cuda(ordinal) => Some(ordinal),
            Device::Cpu | Device::H100 => None,
        }
    }

    /// What is known of the GPU. Errors: there is no such GPU here, or this is none.
    pub(crate) fn open(self) -> Result<Gpu> {
        match self {
            Device::H100 => Ok(Gpu::h100()),
            Device::Cuda(ordinal) => Gpu::open(ordinal),
            Device::Cpu => {
                Err(Error::Unsupported { what: "planning kernels for the CPU".into(), why: "they are a GPU's".into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        let (cpu, h100, cuda) = (Some(Device::Cpu), Some(Device::H100), |number| Some(Device::Cuda(number)));
        let names = ["cpu", "h100", "cuda", "cuda:0", "cuda:3", "cuda:", "cuda:x", "cuda:-1", "cuda3", "gpu", ""];
        let read = |parse: fn(&str) -> std::result::Result<Device, String>| names.map(|text| parse(text).ok());
        assert_eq!(read(Device::any)[..5], [cpu, h100, cuda(0), cuda(0), cuda(3)]);
        assert_eq!(read(Device::at_hand)[..5], [cpu, None, cuda(0), cuda(0), cuda(3)]);
        assert_eq!(read(Device::gpu)[..5], [None, h100, cuda(0), cuda(0), cuda(3)]);
        for parse in [Device::any, Device::at_hand, Device::gpu] {
            assert_eq!(read(parse)[5..], [None; 6]);
        }
        assert_eq!([cpu, h100, cuda(2)].map(|device| device.and_then(Device::ordinal)), [None, None, Some(2)]);
        assert!(Device::H100.open().is_ok() && Device::Cpu.open().is_err());
    }
}
