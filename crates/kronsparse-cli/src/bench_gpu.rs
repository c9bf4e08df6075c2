//! `kronsparse bench --device cuda:N`: what of the command is peculiar to GPUs. Flags, the run, and the workers that compile.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use kronsparse_bench::gpu::{self, prepare};
use kronsparse_bench::{Definition, Earlier, Error, Observer, Record, Result};

/// Where to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// This machine's CPU.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Device, String> {
        let number = text
            .strip_prefix("cuda")
            .map(|rest| rest.strip_prefix(':').unwrap_or(if rest.is_empty() { "0" } else { "" }));
        match (text, number.map(str::parse)) {
            ("cpu", _) => Ok(Device::Cpu),
            (_, Some(Ok(number))) => Ok(Device::Cuda(number)),
            _ => Err("expected cpu, cuda or cuda:N".into()),
        }
    }
}

/// The flags that only a GPU has.
#[derive(Debug, clap::Args)]
pub(crate) struct GpuArgs {
    /// Where to measure: cpu, or a GPU as cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// GPU: measure the energy of every algorithm, each over so many seconds (0.5 if no number is given)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "0.5")]
    pub(crate) energy: Option<f64>,
    /// GPU: time the permutations of permute-bmm by themselves
    #[arg(long)]
    pub(crate) permutation_share: bool,
    /// GPU: go on with the run in this folder; rows that are in its samples.csv are not measured again
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "from"])]
    pub(crate) resume: Option<PathBuf>,
    /// GPU: skip a dense product that would take longer even at the GPU's peak
    #[arg(long, value_name = "SECONDS", default_value_t = gpu::Options::default().longest)]
    pub(crate) longest: f64,
    /// GPU: sample an algorithm once only if it takes so many times as long as the best of its case
    #[arg(long, value_name = "FACTOR", default_value_t = gpu::Options::default().give_up)]
    pub(crate) give_up: f64,
    /// GPU: measure nothing; compile every kernel of the run into the cache, on all cores
    #[arg(long)]
    pub(crate) prepare: bool,
    /// GPU: compile one share of the kernels, K/N (what --prepare starts)
    #[arg(long, value_name = "K/N", hide = true)]
    pub(crate) prepare_share: Option<String>,
}

impl GpuArgs {
    /// The first flag that says nothing on a CPU, if there is one.
    pub(crate) fn misplaced(&self) -> Option<&'static str> {
        let flags = [
            ("--energy", self.energy.is_some()),
            ("--permutation-share", self.permutation_share),
            ("--resume", self.resume.is_some()),
            ("--prepare", self.prepare || self.prepare_share.is_some()),
        ];
        flags.into_iter().find(|flag| flag.1).map(|flag| flag.0)
    }
}

/// Measures on GPU `ordinal`.
pub(crate) fn measure(
    args: &GpuArgs,
    ordinal: usize,
    definition: &Definition,
    options: gpu::Options,
    observe: Observer<'_>,
) -> Result<Record> {
    let seconds = args.energy.unwrap_or(0.5);
    if !(seconds > 0.0 && seconds <= 3600.0) {
        let why = format!("expected more than 0 and at most 3600 seconds, found {seconds}");
        return Err(Error::Definition { place: "--energy".into(), why });
    }
    let options = gpu::Options {
        ordinal,
        energy: args.energy,
        permutation_share: args.permutation_share,
        longest: args.longest,
        give_up: args.give_up,
        ..options
    };
    gpu::run(definition, &resumed(args, options)?, observe)
}

/// With what the folder of `--resume` says of the runs before: their date, time, ceilings and, where none is given, seed.
fn resumed(args: &GpuArgs, options: gpu::Options) -> Result<gpu::Options> {
    let Some(folder) = &args.resume else { return Ok(options) };
    let earlier = Earlier::read(folder)?;
    let seed = options.seed.or(earlier.as_ref().map(|earlier| earlier.seed));
    Ok(gpu::Options { resume: true, seed, earlier, ..options })
}

/// Compiles all kernels: a share if this is a worker, otherwise by as many workers as there are cores.
pub(crate) fn prepare_all(
    args: &GpuArgs,
    ordinal: usize,
    definition: &Definition,
    options: &gpu::Options,
) -> Result<()> {
    if let Some(text) = &args.prepare_share {
        let share = share(text)?;
        answer(prepare::compile(definition, &options.algorithms, options.memory_limit, ordinal, share)?);
        return Ok(());
    }
    let shares = compile_everywhere("")?;
    // Every worker knows of all kernels.
    report(shares.first().map_or(0, |share| share.all), &shares);
    Ok(())
}

/// Runs this command again in as many processes as there are cores, each with a share of the kernels (`--prepare-share`) and with `told` on
/// its standard input; what each of them did.
pub(crate) fn compile_everywhere(told: &str) -> Result<Vec<prepare::Compiled>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let program =
        std::env::current_exe().map_err(|source| Error::Io { path: "this program".into(), action: "find", source })?;
    let fail = |action: &'static str| {
        let path = program.clone();
        move |source| Error::Io { path, action, source }
    };
    let start = |share: usize| {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).arg("--prepare-share").arg(format!("{share}/{cores}"));
        let mut worker = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(fail("start"))?;
        let written = worker.stdin.take().map_or(Ok(()), |mut input| input.write_all(told.as_bytes()));
        match written {
            // One that has ended before says why itself.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(fail("write to")(error)),
            _ => Ok(worker),
        }
    };
    let workers = (0..cores).map(start).collect::<Result<Vec<_>>>()?;
    let mut shares = Vec::new();
    for (share, worker) in workers.into_iter().enumerate() {
        let output = worker.wait_with_output().map_err(fail("wait for"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<usize> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match (output.status.success(), numbers.as_slice()) {
            (true, &[all, fresh, failed]) => shares.push(prepare::Compiled { all, fresh, failed }),
            _ => {
                let why = format!("worker {share} of {cores} ended with {}", output.status);
                return Err(Error::Definition { place: "--prepare".into(), why });
            }
        }
    }
    Ok(shares)
}

/// Says what the workers did about `all` kernels.
pub(crate) fn report(all: usize, shares: &[prepare::Compiled]) {
    let (fresh, failed): (usize, usize) = shares.iter().fold((0, 0), |sum, s| (sum.0 + s.fresh, sum.1 + s.failed));
    eprintln!("{all} kernels: {fresh} compiled now by {} processes, {failed} do not compile", shares.len());
}

/// The share of the kernels that a worker compiles, from `K/N`.
pub(crate) fn share(text: &str) -> Result<(usize, usize)> {
    let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(k, n)| k < n).ok_or_else(|| Error::Definition {
        place: "--prepare-share".into(),
        why: format!("expected K/N with K < N, found {text}"),
    })
}

/// Tells the process that started this one what was compiled.
pub(crate) fn answer(compiled: prepare::Compiled) {
    let prepare::Compiled { all, fresh, failed } = compiled;
    println!("{all} {fresh} {failed}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kronsparse::plan::Algorithm;

    use super::*;

    #[test]
    fn devices_by_name() {
        let read = |text: &str| text.parse::<Device>();
        assert_eq!(read("cpu"), Ok(Device::Cpu));
        assert_eq!([read("cuda"), read("cuda:0"), read("cuda:3")], [0, 0, 3].map(|n| Ok(Device::Cuda(n))));
        for wrong in ["gpu", "cuda3", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        bench: crate::bench::Args,
    }

    #[test]
    fn a_run_that_goes_on_keeps_what_was_recorded_before() {
        let folder = tempfile::tempdir().unwrap();
        let flags = |more: &[&str]| Flags::parse_from([&["bench"], more].concat()).bench.gpu;
        let resume = flags(&["--resume", folder.path().to_str().unwrap()]);
        let options = || gpu::Options { seed: None, ..gpu::Options::default() };
        // Nothing there yet: it begins.
        let begun = resumed(&resume, options()).unwrap();
        assert!(begun.resume && begun.earlier.is_none() && begun.seed.is_none());
        assert!(!resumed(&flags(&[]), options()).unwrap().resume);
        // A record of a short run on this machine's CPU has all that is kept.
        let definition = Definition::from_argument("1,2,2,1", &kronsparse_bench::Sweep::default()).unwrap();
        let short =
            kronsparse_bench::Options { algorithms: Vec::from([Algorithm::Fused]), budget: 0.0, ..Default::default() };
        let record = kronsparse_bench::run(&definition, &short, &mut |_| {}).unwrap();
        record.write(folder.path()).unwrap();
        let went_on = resumed(&resume, options()).unwrap();
        assert_eq!((went_on.resume, went_on.seed), (true, Some(record.settings.seed)));
        assert_eq!(went_on.earlier, Some(Earlier::of(&record)));
        assert!(went_on.earlier.is_some_and(|earlier| !earlier.ceilings.is_empty() && earlier.duration_s > 0.0));
        assert_eq!(resumed(&resume, gpu::Options { seed: Some(5), ..options() }).unwrap().seed, Some(5));
        std::fs::write(folder.path().join("machine.toml"), "seed = \"x").unwrap();
        assert!(resumed(&resume, options()).unwrap_err().to_string().contains("machine.toml: "));
    }
}
