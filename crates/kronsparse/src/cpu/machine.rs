//! What the planner is told of the CPU that this process runs on.

use std::sync::OnceLock;

use super::simd::Isa;
use crate::plan::CpuMachine;

/// The CPU as the planner sees it, for kernels of `isa` on `threads` threads.
pub fn machine(isa: Isa, threads: usize) -> CpuMachine {
    CpuMachine { vector_bytes: isa.lanes(1), core_cache: core_cache(), threads }
}

/// Bytes of the second-level cache, as Linux reports it for the first CPU; 512 KiB where nothing is known.
fn core_cache() -> usize {
    static CACHE: OnceLock<usize> = OnceLock::new();
    *CACHE.get_or_init(|| {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
        let kibibytes = text.trim().strip_suffix('K').and_then(|k| k.parse::<usize>().ok());
        kibibytes.map_or(512 << 10, |k| (k << 10).clamp(128 << 10, 4 << 20))
    })
}
