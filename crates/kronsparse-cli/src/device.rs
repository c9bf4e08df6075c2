//! `--device` of the commands that plan: a GPU of this machine, the description of one, or the CPU.

use std::str::FromStr;

use kronsparse::advise::Gpu;

/// A GPU by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GpuName {
    /// The planner's description.
    H100,
    /// A GPU of this machine by its number.
    Cuda(usize),
}

impl GpuName {
    /// What is known of it. Errors: there is no such GPU here.
    pub(crate) fn open(self) -> kronsparse::Result<Gpu> {
        match self {
            GpuName::H100 => Ok(Gpu::h100()),
            GpuName::Cuda(ordinal) => Gpu::open(ordinal),
        }
    }
}

impl FromStr for GpuName {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuName, String> {
        let number = if text == "cuda" { Some("0") } else { text.strip_prefix("cuda:") };
        match (text, number.map(str::parse)) {
            ("h100", _) => Ok(GpuName::H100),
            (_, Some(Ok(number))) => Ok(GpuName::Cuda(number)),
            _ => Err("expected h100, cuda or cuda:N".into()),
        }
    }
}

/// A GPU, or this machine's CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// A GPU.
    Gpu(GpuName),
    /// The CPU.
    Cpu,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        if text == "cpu" {
            return Ok(Device::Cpu);
        }
        text.parse().map(Device::Gpu).map_err(|_| "expected h100, cuda, cuda:N or cpu".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        let cuda = |number| Some(GpuName::Cuda(number));
        let names = ["h100", "cuda", "cuda:0", "cuda:3", "cuda:", "cuda3", "gpu"];
        let all = names.map(|text| text.parse::<GpuName>().ok());
        assert_eq!(all, [Some(GpuName::H100), cuda(0), cuda(0), cuda(3), None, None, None]);
        assert_eq!(names.map(|text| text.parse::<Device>().ok()), all.map(|name| name.map(Device::Gpu)));
        assert_eq!("cpu".parse(), Ok(Device::Cpu));
        assert!("cpu".parse::<GpuName>().is_err());
    }
}
