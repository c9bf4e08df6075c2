//! `kronsparse study`: the whole grid of the article that introduced Kronecker-sparse kernels, measured, analysed, and shown on one page.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kronsparse::plan::{Algorithm, Layout};
use kronsparse_bench::gpu::phases;
use kronsparse_bench::study::{self, Cell, Grid, Head, Models, Plan, Request, Settings, Shard};
use kronsparse_bench::{Error, Event, Kind, Options, Record, Result};

use crate::ahead::{self, Workers};
use crate::bench::{print, progress, show, typed};
use crate::device::Device;

/// Redo the article's study on this machine: its grid of patterns, layers of transformers, many batch sizes; and one page of it
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
A study that was interrupted goes on when the same command is typed again; nothing is measured twice. Cells are measured in an order \
in which every beginning is spread over the grid, so that a study that is cut off is of use.

Examples:
  kronsparse study --grid quick                               a few minutes, then study-out/study.html
  kronsparse study --device cuda:0 --out h100                 the article's grid on a GPU
  kronsparse study --device cuda:0 --minutes 8 --energy       as much of it as eight minutes allow
  kronsparse study --device cuda:0 --shard 2/4 --out part2    one of four shards, on any machine
  kronsparse study merge whole part1 part2 part3 part4        the four together

Exit code: 0 if all results are right, 1 if an algorithm gave a wrong one or failed, 2 on bad input.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    measure: MeasureArgs,
}

/// What else can be done with studies.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Put the shards of one study together
    Merge {
        /// Folder of the merged study
        out: PathBuf,
        /// Folders of the shards
        #[arg(required = true)]
        shards: Vec<PathBuf>,
        /// Merge shards that were measured on different machines
        #[arg(long)]
        mixed: bool,
        /// A CSV file of whole models, for the page
        #[arg(long, value_name = "FILE")]
        models: Option<PathBuf>,
    },
    /// Write the page of a study again, without measuring anything
    Page {
        /// Folder of the study
        folder: PathBuf,
        /// A CSV file of whole models, for the page
        #[arg(long, value_name = "FILE")]
        models: Option<PathBuf>,
    },
}

/// The flags of a measurement.
#[derive(Debug, clap::Args)]
struct MeasureArgs {
    /// Where to measure: cpu, or a GPU as cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = Device::at_hand)]
    device: Device,
    /// Which patterns: paper (728) or quick (12); paper on a GPU and quick on a CPU by default
    #[arg(long, value_name = "paper|quick")]
    grid: Option<Grid>,
    /// Element types: f32, tf32, f16, bf16 on a GPU and f32, bf16 on a CPU by default
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    dtype: Vec<Kind>,
    /// Layouts: bsf (vectors are rows), bsl (vectors are columns); both by default
    #[arg(long, value_name = "LAYOUT,...", value_delimiter = ',')]
    layout: Vec<Layout>,
    /// Numbers of vectors in the grid; 25088 on a GPU and 1024 on a CPU by default
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Algorithms of every cell; by default all of the device on some cells, and on the others those that can win
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    algorithms: Vec<Algorithm>,
    /// Sampling time for each algorithm on each cell; 0.03 on a CPU, 0.003 on a GPU by default
    #[arg(long, value_name = "SECONDS")]
    budget: Option<f64>,
    /// GPU: measure energy on the thorough cells, each algorithm over so many seconds (0.3 if no number is given)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "0.3")]
    energy: Option<f64>,
    /// CPU: threads; 0 means all cores
    #[arg(long, value_name = "T", default_value_t = 0)]
    threads: usize,
    /// Measure one of N shards that take equally long
    #[arg(long, value_name = "K/N", default_value_t = Shard::default())]
    shard: Shard,
    /// Begin no cell after so many minutes, and write the page of what is there
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Say how long it will take, and measure nothing
    #[arg(long)]
    estimate: bool,
    /// Folder for samples.csv, machine.toml, study.toml and study.html, on a GPU phases.csv (where the time went); a study in it is gone on
    /// with
    #[arg(long, value_name = "DIR", default_value = "study-out")]
    out: PathBuf,
    /// A CSV file of whole models by python/examples/end_to_end.py; it is copied into the folder, and its table is on the page
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// GPU: compile kernels of the cells on standard input (what a measurement starts)
    #[arg(long, hide = true)]
    prepare_worker: bool,
}

/// Runs the command. Exit code 1 if an algorithm was wrong or failed; an error is bad input or a folder that cannot be written.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Some(Task::Merge { out, shards, mixed, models }) => {
            let models = models.as_deref().map(Models::read).transpose()?;
            let (record, head) = study::merge(&out, &shards, mixed)?;
            finish(&record, &head, &out, models.as_ref())
        }
        Some(Task::Page { folder, models }) => {
            let head = Head::read(&folder)?.ok_or_else(|| Error::Record {
                path: folder.clone(),
                why: "holds no study: there is no study.toml in it".into(),
            })?;
            let models = models.as_deref().map(Models::read).transpose()?;
            let record = study::read(&folder)?;
            finish(&record, &head, &folder, models.as_ref())
        }
        None => measure(&args.measure),
    }
}

/// Writes the page, with `models` or those that are in the folder, and says what the study shows.
fn finish(record: &Record, head: &Head, folder: &Path, models: Option<&Models>) -> Result<ExitCode> {
    if let Some(models) = models {
        models.keep(folder)?;
    }
    study::write_page(record, head, folder)?;
    let lines = phases::read(folder)?;
    if !lines.is_empty() {
        eprintln!("{}", phases::table(&lines));
    }
    print(&study::conclusions(record).join("\n"))?;
    eprintln!("page: {}", folder.join("study.html").display());
    Ok(if record.is_right() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn measure(args: &MeasureArgs) -> Result<ExitCode> {
    let plan = plan(args)?;
    if args.prepare_worker {
        ahead::work(&plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before minutes of measuring, not after.
    let models = args.models.as_deref().map(Models::read).transpose()?;
    let open = plan.missing(&args.out)?;
    announce(&plan, &open, args);
    if args.estimate {
        return Ok(ExitCode::SUCCESS);
    }
    let mut pace = Pace::new(&plan, &open);
    let bar = progress(open.len());
    let mut workers = Workers::default();
    let record = study::measure(&plan, &args.out, &mut workers, &mut |event| {
        show(&bar, &event);
        pace.note(&event);
    });
    bar.finish_and_clear();
    let record = record?;
    if let Some(report) = workers.report() {
        eprintln!("{report}");
    }
    drop(workers);
    if !open.is_empty() {
        eprintln!(
            "measured in {} (estimated: {})",
            minutes(pace.begin.elapsed().as_secs_f64()),
            minutes(pace.expected)
        );
    }
    finish(&record, &plan.head, &args.out, models.as_ref())
}

/// The plan that the flags ask for.
fn plan(args: &MeasureArgs) -> Result<Plan> {
    let refuse = |place: &str, why: String| Err(Error::Definition { place: place.into(), why });
    let gpu = args.device != Device::Cpu;
    if args.energy.is_some() && !gpu {
        return refuse("--energy", "says something about a GPU only; add --device cuda:0".into());
    }
    if args.threads != 0 && gpu {
        return refuse("--threads", "says something about a CPU only".into());
    }
    if let Some(wrong) = args.minutes.filter(|m| !(*m > 0.0 && *m <= 1e6)) {
        return refuse("--minutes", format!("expected more than 0 and at most 1000000, found {wrong}"));
    }
    let (device, usual_budget) = match args.device.ordinal() {
        None => (study::Device::Cpu, 0.03),
        Some(ordinal) => (study::Device::Cuda(ordinal), 0.003),
    };
    let request = Request {
        grid: args.grid.unwrap_or(if gpu { Grid::Paper } else { Grid::Quick }),
        gpu,
        kinds: args.dtype.clone(),
        layouts: args.layout.clone(),
        batch: args.batch.clone(),
    };
    let threads = match (gpu, args.threads) {
        (true, _) => 1,
        (false, 0) => std::thread::available_parallelism().map_or(1, usize::from),
        (false, given) => given,
    };
    let settings = Settings {
        device,
        algorithms: args.algorithms.clone(),
        budget: args.budget.unwrap_or(usual_budget),
        energy: args.energy,
        threads,
        memory_limit: if gpu { 1 << 28 } else { Options::default().memory_limit },
        longest: 0.004,
        give_up: 3.0,
        limit: args.minutes.map(|m| Duration::from_secs_f64(60.0 * m)),
        command: typed(),
    };
    Plan::new(&request, args.shard, settings)
}

/// Says what will be measured and how long it will take.
fn announce(plan: &Plan, open: &[Cell], args: &MeasureArgs) {
    let Head { grid, shard_cells, .. } = &plan.head;
    let rows: usize = open.iter().map(|cell| plan.algorithms(cell.thorough).len()).sum();
    let there = shard_cells - open.len();
    let resumed = if there > 0 { format!("{there} of {shard_cells} cells are there; ") } else { String::new() };
    let shard = if args.shard.of > 1 { format!(", shard {}", args.shard) } else { String::new() };
    let compiling = match args.device.ordinal() {
        None => 0.0,
        Some(_) => plan.compilation(open.len(), ahead::processes()),
    };
    let time = minutes(plan.estimate(open).max(compiling));
    let mut text =
        format!("study, {grid} grid{shard}: {resumed}{} cells, {rows} measurements, about {time}", open.len());
    if let Some(limit) = args.minutes {
        text += &format!("; at most {}", minutes(60.0 * limit));
    }
    eprintln!("{text}");
}

/// A time as people say it.
fn minutes(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

/// How far the measurement has come: a line now and then where there is no terminal for a bar.
struct Pace {
    begin: Instant,
    told: Instant,
    /// Estimated seconds of the open cells, in the order in which they are measured.
    costs: Vec<f64>,
    expected: f64,
    done: usize,
}

impl Pace {
    fn new(plan: &Plan, open: &[Cell]) -> Pace {
        let costs: Vec<f64> = open.iter().map(|cell| plan.estimate([cell])).collect();
        let now = Instant::now();
        Pace { begin: now, told: now, expected: costs.iter().sum(), costs, done: 0 }
    }

    fn note(&mut self, event: &Event<'_>) {
        if !matches!(event, Event::Done { .. }) {
            return;
        }
        self.done += 1;
        if self.told.elapsed() < Duration::from_secs(30) || std::io::stderr().is_terminal() {
            return;
        }
        self.told = Instant::now();
        let spent = self.begin.elapsed().as_secs_f64();
        // Cells of a round are reordered a little; for the time that is left that does not matter.
        let passed: f64 = self.costs.iter().take(self.done).sum();
        let left = spent / passed.max(1e-9) * (self.expected - passed).max(0.0);
        eprintln!("{} of {} cells in {}, about {} left", self.done, self.costs.len(), minutes(spent), minutes(left));
    }
}
