//! `kronsparse bench --device cuda:N`: what of the command is peculiar to GPUs. Flags, the run, and what is compiled before it.

use std::path::PathBuf;

use kronsparse_bench::gpu::{self, prepare};
use kronsparse_bench::{Definition, Earlier, Error, Observer, Record, Result};

use crate::device::Device;
use crate::shares;

/// The flags that only a GPU has.
#[derive(Debug, clap::Args)]
pub(crate) struct GpuArgs {
    /// Where to measure: cpu, or a GPU as cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = Device::at_hand)]
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
    let Some(text) = &args.prepare_share else {
        let target = prepare::Target::of(&kronsparse::cuda::Device::open(ordinal)?);
        shares::report(&shares::compile_everywhere(&target, "")?);
        return Ok(());
    };
    let (share, (target, _)) = (shares::share(text)?, shares::told()?);
    shares::answer(prepare::compile(definition, &options.algorithms, options.memory_limit, &target, share))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kronsparse::plan::Algorithm;

    use super::*;

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
