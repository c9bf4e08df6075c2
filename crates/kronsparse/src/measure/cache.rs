//! The caches of the CPU: how large they are, and how to empty them of a benchmark's data.

use rayon::prelude::*;

/// One cache as the operating system describes it for the first core.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CacheLevel {
    /// 1, 2, 3, …
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// Size in bytes.
    pub bytes: usize,
}

/// The caches of the first core, smallest level first; empty where the system does not tell (only Linux does, through
/// `/sys/devices/system/cpu/cpu0/cache`).
pub fn caches() -> Vec<CacheLevel> {
    let mut found = Vec::new();
    for index in 0..16 {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).ok()
        };
        let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) else { break };
        if let (Ok(level), Some(bytes)) = (level.trim().parse(), parse_size(&size)) {
            found.push(CacheLevel { level, kind: kind.trim().to_string(), bytes });
        }
    }
    found.sort_by_key(|c| c.level);
    found
}

/// Bytes of the last level cache, if the system tells.
pub fn last_level_cache() -> Option<usize> {
    caches().iter().map(|c| c.bytes).max()
}

/// Reads `32K`, `1024K` or `32M` as the kernel writes them.
fn parse_size(text: &str) -> Option<usize> {
    let text = text.trim();
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// A buffer larger than the last level cache. Streaming over it leaves nothing else in the caches.
#[derive(Debug)]
pub struct Evictor {
    lines: Vec<[u64; 8]>,
}

impl Evictor {
    /// Twice the last level cache, at least 64 MiB and at most 1 GiB; 256 MiB where the cache's size is not known.
    pub fn new() -> Evictor {
        let bytes = last_level_cache().map_or(256 << 20, |llc| (2 * llc).clamp(64 << 20, 1 << 30));
        Evictor::of_size(bytes)
    }

    /// With a buffer of about `bytes` bytes.
    pub fn of_size(bytes: usize) -> Evictor {
        Evictor { lines: vec![[1; 8]; (bytes / 64).max(1)] }
    }

    /// Size of the buffer in bytes.
    pub fn bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// Reads and writes every cache line of the buffer once, shared among the threads of rayon's current pool, so that
    /// the private caches of all of them are swept too. Returns the sum of what it read.
    pub fn evict(&mut self) -> u64 {
        let share = self.lines.len().div_ceil(rayon::current_num_threads());
        let sweep = |lines: &mut [[u64; 8]]| {
            lines.iter_mut().fold(0u64, |sum, line| {
                line[0] = line[0].wrapping_add(1);
                sum.wrapping_add(line[0])
            })
        };
        self.lines.par_chunks_mut(share).map(sweep).reduce(|| 0, u64::wrapping_add)
    }
}

impl Default for Evictor {
    fn default() -> Evictor {
        Evictor::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_the_kernel_writes_them() {
        assert_eq!(parse_size("32K\n"), Some(32 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("K"), None);
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("99999999999999999999K"), None);
    }

    #[test]
    fn every_line_is_touched_once_per_sweep() {
        let mut evictor = Evictor::of_size(1000 * 64);
        assert_eq!(evictor.bytes(), 64_000);
        assert_eq!(evictor.evict(), 2 * 1000);
        assert_eq!(evictor.evict(), 3 * 1000);
    }

    #[test]
    fn the_buffer_exceeds_the_last_level_cache() {
        let evictor = Evictor::new();
        if let Some(llc) = last_level_cache() {
            assert!(evictor.bytes() > llc || evictor.bytes() == 1 << 30, "{} bytes against {llc}", evictor.bytes());
        }
    }
}
