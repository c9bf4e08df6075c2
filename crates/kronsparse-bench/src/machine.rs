//! Where a record was taken: the CPU, its caches, memory, system, compiler and commit.

use kronsparse::measure::{CacheLevel, caches};
use serde::{Deserialize, Serialize};

/// A machine as `machine.toml` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the CPU.
    pub cpu: String,
    /// Architecture, as Rust names it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Instruction set extensions that matter here and that were found at run time.
    pub features: Vec<String>,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Physical cores of the machine; 0 if the system does not tell.
    pub physical_cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Operating system and its version.
    pub os: String,
    /// Kernel version.
    pub kernel: String,
    /// The compiler that built the program.
    pub rustc: String,
    /// `release` or `debug`: figures of a debug build say nothing.
    pub profile: String,
    /// Version of kronsparse.
    pub version: String,
    /// Commit it was built from, with a remark if files had been changed; empty outside a repository.
    pub commit: String,
    /// Caches seen from the first core; empty if the system does not tell.
    pub caches: Vec<CacheLevel>,
    /// The GPU that was measured, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// A GPU as `machine.toml` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Marketing name.
    pub name: String,
    /// Version of the driver; empty if it does not tell.
    pub driver: String,
    /// Compute capability, major and minor.
    pub capability: [u32; 2],
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
    /// The compiler of the kernels and the libraries, with what is known of where they come from.
    pub libraries: Vec<String>,
}

impl Machine {
    /// Describes the machine that runs this program.
    pub fn detect() -> Machine {
        let system = sysinfo::System::new().map(|mut system| {
            system.refresh_memory();
            system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
            let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_string());
            (brand.filter(|b| !b.is_empty()), system.total_memory())
        });
        let (brand, memory_bytes) = system.unwrap_or_default();
        Machine {
            cpu: brand.unwrap_or_else(|| "unknown".into()),
            architecture: std::env::consts::ARCH.into(),
            features: features(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            physical_cores: sysinfo::System::physical_core_count().unwrap_or(0),
            memory_bytes,
            os: sysinfo::System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.into()).trim().to_string(),
            kernel: sysinfo::System::kernel_version().unwrap_or_default(),
            rustc: env!("KRONSPARSE_RUSTC").into(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("KRONSPARSE_COMMIT").into(),
            caches: caches(),
            gpu: None,
        }
    }
}

/// Extensions found at run time, widest last.
fn features() -> Vec<String> {
    let mut found = Vec::new();
    macro_rules! note {
        ($test:ident: $($name:tt)*) => { $(if std::arch::$test!($name) { found.push($name.to_string()); })* };
    }
    #[cfg(target_arch = "x86_64")]
    note!(is_x86_feature_detected: "sse4.2" "avx" "f16c" "fma" "avx2" "avx512f" "avx512bw" "avx512vl" "avx512bf16" "avx512fp16");
    #[cfg(target_arch = "aarch64")]
    note!(is_aarch64_feature_detected: "neon" "fp16" "bf16" "sve" "sve2");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described_and_survives_toml() {
        let machine = Machine::detect();
        assert!(machine.cores >= 1 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.rustc.starts_with("rustc "), "{}", machine.rustc);
        let text = toml::to_string(&machine).unwrap();
        assert_eq!(toml::from_str::<Machine>(&text).unwrap(), machine);
    }
}
