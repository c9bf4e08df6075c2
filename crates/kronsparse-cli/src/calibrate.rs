//! `kronsparse calibrate`: measures what this machine can do, for every later estimate on it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use kronsparse::advise::{Calibration, GpuCalibration, GpuDescription, Origin};
use kronsparse::cuda;
use kronsparse_bench::format;
use serde_json::{Value, json};

use crate::bench_gpu::Device;
use crate::output::{self, HEADING};
use crate::progress::Progress;

/// Measure what this machine can do, in some seconds: later estimates take that for what is published or was measured before
#[derive(Args)]
#[command(after_help = "\
The result is a file with a checksum in the cache folder (`kronsparse info` shows it), found by the machine that it holds for. `advise`
takes that of a CPU; whoever opens a GPU takes its rates for the published ones. To forget it, delete the file. Nothing else should run
meanwhile.

Examples:
  kronsparse calibrate                   the CPU
  kronsparse calibrate --device cuda:0   a GPU: about ten seconds
  kronsparse calibrate --show            what is kept")]
pub(crate) struct CalibrateArgs {
    /// What to measure: cpu, or a GPU as cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Show what is kept, and measure nothing
    #[arg(long)]
    show: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A calibration in words, and where it is from.
struct Shown {
    machine: String,
    origin: String,
    /// Name and figure, for people and for programs.
    figures: Vec<(&'static str, String, Value)>,
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    let shown = match args.device {
        Device::Cpu => of_cpu(args)?,
        Device::Cuda(ordinal) => of_gpu(args, ordinal)?,
    };
    if args.json {
        let figures: serde_json::Map<String, Value> =
            shown.figures.into_iter().map(|(name, _, value)| (name.replace(' ', "_"), value)).collect();
        return output::print_json(&json!({
            "machine": shown.machine,
            "origin": shown.origin,
            "figures": figures,
        }));
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{HEADING}{name:<26}{HEADING:#}{value}");
    };
    line("machine", &shown.machine);
    line("calibration", &shown.origin);
    for (name, figure, _) in &shown.figures {
        line(name, figure);
    }
    output::print(&text)
}

fn of_cpu(args: &CalibrateArgs) -> Result<Shown> {
    let (calibration, origin) = if args.show {
        let Some(path) = Calibration::path() else { bail!("{NO_FOLDER}") };
        let Some(found) = Calibration::read(&path)? else { return nothing(&path) };
        (found, Origin::Read(path))
    } else {
        let _progress = Progress::spinner("measuring what this CPU can do");
        let (calibration, origin, _) = Calibration::of_machine(true)?;
        (calibration, origin)
    };
    let machine = &calibration.machine;
    let Calibration { flops_f32, flops_f64, memory_bytes, memory_bytes_alone, cache_bytes, .. } = calibration;
    Ok(Shown {
        machine: format!("{}, {} threads, {}", machine.cpu, machine.threads, machine.isa),
        origin: origin.to_string(),
        figures: vec![
            rate("memory", memory_bytes, "B/s"),
            rate("memory by one thread", memory_bytes_alone, "B/s"),
            rate("caches of the cores", cache_bytes, "B/s"),
            rate("products in f32", flops_f32, "FLOP/s"),
            rate("products in f64", flops_f64, "FLOP/s"),
        ],
    })
}

fn of_gpu(args: &CalibrateArgs, ordinal: usize) -> Result<Shown> {
    let device = cuda::Device::open(ordinal)?;
    let machine: GpuDescription = cuda::describe(&device);
    let (calibration, origin) = if args.show {
        let Some(path) = GpuCalibration::path(&machine) else { bail!("{NO_FOLDER}") };
        let Some(found) = GpuCalibration::find(&machine)? else { return nothing(&path) };
        (found, Origin::Read(path))
    } else {
        let _progress = Progress::spinner("measuring what this GPU can do");
        let measured = cuda::calibrate(&device)?;
        let origin = match measured.keep() {
            Ok(path) => Origin::Kept(path),
            Err(error) => Origin::NotKept(error.to_string()),
        };
        (measured, origin)
    };
    let (major, minor) = machine.capability;
    let GpuCalibration { at, memory_bytes, cache_bytes, flops: [half, tf32, f32, f64], kernel_ns, milliwatts, .. } =
        calibration;
    let power = |name, at: usize| match milliwatts {
        Some(power) => (name, format!("{:.0} W", power[at] as f64 * 1e-3), json!(power[at] as f64 * 1e-3)),
        None => (name, "not told by this GPU".into(), Value::Null),
    };
    Ok(Shown {
        machine: format!("{}, compute capability {major}.{minor}, {} SMs", machine.name, machine.multiprocessors),
        origin: format!("{origin}, of {}", format::date(at)),
        figures: vec![
            rate("memory", memory_bytes, "B/s"),
            rate("second-level cache", cache_bytes, "B/s"),
            rate("products in f16", half, "FLOP/s"),
            rate("products in tf32", tf32, "FLOP/s"),
            rate("products in f32", f32, "FLOP/s"),
            rate("products in f64", f64, "FLOP/s"),
            ("kernel behind another", format::seconds(kernel_ns as f64 * 1e-9), json!(kernel_ns as f64 * 1e-9)),
            power("power with nothing to do", 0),
            power("power of a large product", 1),
        ],
    })
}

/// Why nothing can be kept.
const NO_FOLDER: &str = "there is no cache folder: KRONSPARSE_CACHE is empty, or this user has no home";

fn nothing(path: &Path) -> Result<Shown> {
    bail!("{}: there is no calibration of this machine; leave out --show to make one", path.display())
}

fn rate(name: &'static str, per_second: u64, unit: &str) -> (&'static str, String, Value) {
    let (factor, prefix) = if per_second >= 1_000_000_000_000 { (1e-12, "T") } else { (1e-9, "G") };
    (name, format!("{} {prefix}{unit}", format::significant(per_second as f64 * factor)), json!(per_second))
}
