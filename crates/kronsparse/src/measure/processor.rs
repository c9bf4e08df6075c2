//! The CPU's name, by which measurements of two machines are told apart.

use std::sync::OnceLock;

/// The CPU's name as Linux tells it; `unknown` elsewhere.
pub fn cpu_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        name.map_or("unknown", |(_, name)| name.trim()).to_owned()
    })
}
