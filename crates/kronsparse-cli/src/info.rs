//! `kronsparse info`: what this build is and what this machine offers it.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use clap::Args;
use kronsparse::cuda::{self, libraries};
use serde_json::{Value, json};

use crate::output::{self, HEADING};

/// Version, CPU and SIMD features, threads, caches, GPUs, CUDA libraries, cache folder
#[derive(Args)]
#[command(after_help = "Examples:\n  kronsparse info\n  kronsparse info --json | jq .cpu.simd")]
pub(crate) struct InfoArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A data or unified cache of one core: level and bytes.
struct Cache {
    level: u32,
    bytes: u64,
}

pub(crate) fn run(args: &InfoArgs) -> Result<()> {
    let cpu = cpu_model();
    let simd = simd_features();
    let threads = rayon::current_num_threads();
    let caches = caches();
    let gpus = cuda::find();
    let folder = cache_folder();
    if args.json {
        let gpu_list: Vec<Value> = gpus.iter().flat_map(|g| &g.devices).map(gpu_json).collect();
        return output::print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            "cpu": {
                "model": cpu,
                "simd": simd,
                "threads": threads,
                "caches": caches.iter().map(|c| json!({"level": c.level, "bytes": c.bytes})).collect::<Vec<_>>(),
            },
            "gpus": gpu_list,
            "gpu_cuda_version": gpus.as_ref().ok().map(|g| format!("{}.{}", g.cuda.0, g.cuda.1)),
            "gpu_absent_because": gpus.as_ref().err(),
            "cuda_libraries": libraries::Library::ALL.map(library_json),
            "cache_folder": folder,
        }));
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{HEADING}{name:<14}{HEADING:#}{value}");
    };
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    line("version", &format!("kronsparse {} ({arch}, {os})", env!("CARGO_PKG_VERSION")));
    line("CPU", cpu.as_deref().unwrap_or("unknown model"));
    line("SIMD", &if simd.is_empty() { "none that is used".into() } else { simd.join(", ") });
    line("threads", &threads.to_string());
    let shown: Vec<String> = caches.iter().map(|c| format!("L{} {}", c.level, bytes_text(c.bytes))).collect();
    line("caches", &if shown.is_empty() { "unknown".into() } else { shown.join(", ") });
    match &gpus {
        Err(reason) => line("GPU", &format!("none: {reason}")),
        Ok(gpus) => {
            for (at, gpu) in gpus.devices.iter().enumerate() {
                let (major, minor) = gpu.capability;
                let memory = bytes_text(gpu.memory_bytes);
                let units = gpu.multiprocessors;
                line(
                    &format!("GPU {at}"),
                    &format!("{}, {units} SMs, compute capability {major}.{minor}, {memory}", gpu.name),
                );
            }
            line("CUDA driver", &format!("up to CUDA {}.{}", gpus.cuda.0, gpus.cuda.1));
        }
    }
    for library in libraries::Library::ALL {
        let state = match libraries::find(library) {
            Ok(libraries::Found::System) => "found on the library path".into(),
            Ok(libraries::Found::File(path)) => path.display().to_string(),
            Err(why) => format!("missing: {why}"),
        };
        line(&format!("lib{}", library.name()), &state);
    }
    line(
        "cache folder",
        folder.as_deref().unwrap_or("none: this user has no home folder, or KRONSPARSE_CACHE is empty"),
    );
    output::print(&text)
}

fn gpu_json(gpu: &cuda::Gpu) -> Value {
    let (major, minor) = gpu.capability;
    json!({
        "name": gpu.name,
        "compute_capability": format!("{major}.{minor}"),
        "memory_bytes": gpu.memory_bytes,
        "multiprocessors": gpu.multiprocessors,
    })
}

/// Where a library is, or why it is not.
fn library_json(library: libraries::Library) -> Value {
    let found = libraries::find(library);
    let file = match found {
        Ok(libraries::Found::File(path)) => Some(path.display().to_string()),
        _ => None,
    };
    json!({"name": library.name(), "found": found.is_ok(), "file": file, "absent_because": found.err()})
}

fn cpu_model() -> Option<String> {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    let brand = system.ok()?.cpus().first()?.brand().trim().to_owned();
    (!brand.is_empty()).then_some(brand)
}

/// The features of this CPU that matter to the engine, as detected at run time.
fn simd_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })* };
        }
        detect!("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512bf16", "avx512fp16");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })* };
        }
        detect!("neon", "fp16", "bf16", "sve", "sve2");
    }
    // Other architectures use the portable code.
    found.sort_unstable();
    found
}

/// The data caches that the first core sees, as Linux describes them; empty elsewhere.
fn caches() -> Vec<Cache> {
    let mut caches = Vec::new();
    for index in 0..8 {
        let read = |name: &str| {
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).unwrap_or_default()
        };
        if read("type").trim() == "Instruction" {
            continue;
        }
        if let (Ok(level), Some(bytes)) = (read("level").trim().parse(), parse_size(read("size").trim())) {
            caches.push(Cache { level, bytes });
        }
    }
    caches
}

/// `48K`, `2M` or plain bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1 << 10),
        'M' => (&text[..text.len() - 1], 1 << 20),
        'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{:.1} GiB", b as f64 / f64::from(1u32 << 30)),
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / f64::from(1u32 << 20)).replace(".0 ", " "),
        b => format!("{} KiB", b >> 10),
    }
}

/// Where compiled kernels are kept; made on first use, not here.
fn cache_folder() -> Option<String> {
    cuda::cache::folder().map(|folder| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_linux_writes_them() {
        assert_eq!(
            ["48K", "2M", "512", "x", "", "99999999999999999G"].map(parse_size),
            [Some(49152), Some(2 << 20), Some(512), None, None, None]
        );
        assert_eq!([49152, 2 << 20, 3 << 30].map(bytes_text), ["48 KiB", "2 MiB", "3.0 GiB"]);
    }
}
