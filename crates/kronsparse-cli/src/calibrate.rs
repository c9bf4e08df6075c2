//! `kronsparse calibrate`: measures what this machine can do, for every later estimate on it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use kronsparse::advise::{Calibration, GpuCalibration, GpuDescription, Origin};
use kronsparse::cuda;
use kronsparse_bench::format;
use serde_json::{Value, json};

use crate::device::Device;
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
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = Device::at_hand)]
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
    /// Why it could not be kept.
    lost: Option<String>,
    figures: Vec<Figure>,
}

/// One of its figures.
struct Figure {
    /// For people.
    name: &'static str,
    /// With its unit, for people.
    text: String,
    /// What programs find behind the name.
    unit: &'static str,
    /// In that unit.
    value: Value,
}

impl Figure {
    /// The key in JSON: the name and the unit.
    fn key(&self) -> String {
        format!("{}_{}", self.name.replace(' ', "_"), self.unit)
    }
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    let shown = match args.device.ordinal() {
        None => of_cpu(args)?,
        Some(ordinal) => of_gpu(args, ordinal)?,
    };
    print(args, &shown)?;
    match shown.lost {
        Some(why) => bail!("what was measured is not kept, and later estimates do not know it: {why}"),
        None => Ok(()),
    }
}

fn print(args: &CalibrateArgs, shown: &Shown) -> Result<()> {
    if args.json {
        let figures: serde_json::Map<String, Value> =
            shown.figures.iter().map(|figure| (figure.key(), figure.value.clone())).collect();
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
    for figure in &shown.figures {
        line(figure.name, &figure.text);
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
        lost: lost(&origin),
        origin: origin.to_string(),
        figures: vec![
            rate("memory", memory_bytes, BYTES),
            rate("memory by one thread", memory_bytes_alone, BYTES),
            rate("caches of the cores", cache_bytes, BYTES),
            rate("products in f32", flops_f32, FLOPS),
            rate("products in f64", flops_f64, FLOPS),
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
    let power = |name, at: usize| {
        let watts = milliwatts.map(|power| power[at] as f64 * 1e-3);
        let text = watts.map_or_else(|| "not told by this GPU".into(), |watts| format!("{watts:.0} W"));
        Figure { name, text, unit: "watts", value: json!(watts) }
    };
    let kernel = kernel_ns as f64 * 1e-9;
    Ok(Shown {
        machine: format!("{}, compute capability {major}.{minor}, {} SMs", machine.name, machine.multiprocessors),
        lost: lost(&origin),
        origin: format!("{origin}, of {}", format::date(at)),
        figures: vec![
            rate("memory", memory_bytes, BYTES),
            rate("second-level cache", cache_bytes, BYTES),
            rate("products in f16", half, FLOPS),
            rate("products in tf32", tf32, FLOPS),
            rate("products in f32", f32, FLOPS),
            rate("products in f64", f64, FLOPS),
            Figure {
                name: "kernel behind another",
                text: format::seconds(kernel),
                unit: "seconds",
                value: json!(kernel),
            },
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

/// Why it is not in a file, if so.
fn lost(origin: &Origin) -> Option<String> {
    match origin {
        Origin::NotKept(why) => Some(why.clone()),
        Origin::Read(_) | Origin::Kept(_) => None,
    }
}

/// Bytes or operations in a second.
fn rate(name: &'static str, per_second: u64, (unit, key): (&str, &'static str)) -> Figure {
    let (factor, prefix) = if per_second >= 1_000_000_000_000 { (1e-12, "T") } else { (1e-9, "G") };
    let text = format!("{} {prefix}{unit}/s", format::significant(per_second as f64 * factor));
    Figure { name, text, unit: key, value: json!(per_second) }
}

/// Units of rates, for people and for programs.
const BYTES: (&str, &str) = ("B", "bytes_per_second");
const FLOPS: (&str, &str) = ("FLOP", "flops_per_second");
