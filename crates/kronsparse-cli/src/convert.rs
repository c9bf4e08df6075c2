//! `kronsparse convert`: the linear weights of a model to chains.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::{ArgGroup, Args};
use kronsparse::ChainSpec;
use kronsparse::convert::{Budget, Options, Report, Selection, Target, convert};
use kronsparse::factorize::Order;
use regex::Regex;
use serde_json::{Value, json};

use crate::output::{self, check_extension, check_output, grouped, json_number, seconds_text};
use crate::progress::Progress;
use crate::table::{Align, render};

/// Replace the linear weights of a model by chains
#[derive(Args)]
#[command(group(ArgGroup::new("target").required(true).args(["chain", "budget"])))]
#[command(after_help = "\
A weight is converted if it is called NAME.weight, has two dimensions of real numbers (f16, bf16, f32, f64),
matches --include, does not match --exclude, and has neither `embed` nor `norm` in its name (--embeddings lifts
the last condition). It becomes NAME.factors.0, NAME.factors.1, … in its own element type; the metadata say
which chain. All other tensors are copied bit for bit. The output is written whole or not at all.

With --budget, up to six chains of two factors per weight are factorized, from one low-rank block to many small
blocks, and the one with the least error is kept. A weight that is too small for any chain of the budget is left as
it is, and listed. Chains of pretrained weights are lossy: look at the errors.

Examples:
  kronsparse convert model.safetensors -o small.safetensors --budget 0.25
  kronsparse convert model.safetensors -o small.safetensors --budget 0.5 --include 'layer\\.[0-3]\\.' --exclude query
  kronsparse convert model.safetensors -o small.safetensors --chain monarch:16,16 --json")]
pub(crate) struct ConvertArgs {
    /// The model
    #[arg(value_name = "MODEL.safetensors")]
    model: PathBuf,
    /// Where the converted model goes
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Convert only weights whose names match
    #[arg(long, value_name = "REGEX")]
    include: Option<Regex>,
    /// Convert no weights whose names match
    #[arg(long, value_name = "REGEX")]
    exclude: Option<Regex>,
    /// Convert weights with `embed` or `norm` in their names too
    #[arg(long)]
    embeddings: bool,
    /// One chain for every weight: monarch:p,q, square-dyadic, butterfly:r1,r2,… or (a,b,c,d)(a,b,c,d)…
    #[arg(short, long, value_name = "SPEC")]
    chain: Option<ChainSpec>,
    /// Choose a chain per weight, of at most this share of its parameters
    #[arg(short, long, value_name = "SHARE", allow_negative_numbers = true)]
    budget: Option<f64>,
    /// With --budget, choose no chain whose factors are all dense (plain low rank)
    #[arg(long, requires = "budget")]
    no_low_rank: bool,
    /// Order of the steps of a factorization: l2r, r2l or balanced
    #[arg(long, default_value = "l2r")]
    order: Order,
    /// Threads at most; 0 takes all
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    threads: usize,
    /// Print one JSON document about what was done
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    check_extension(&args.output, "safetensors")?;
    check_output(&args.output, &[&args.model.to_string_lossy()])?;
    let target = match (&args.chain, args.budget) {
        (Some(spec), _) => Target::Chain(spec.clone()),
        (None, share) => {
            // The group asks for one of the two; a missing share would be refused as no number.
            Target::Budget(Budget { share: share.unwrap_or(f64::NAN), low_rank: !args.no_low_rank })
        }
    };
    let options = Options {
        selection: Selection {
            include: args.include.clone(),
            exclude: args.exclude.clone(),
            embeddings: args.embeddings,
        },
        target,
        order: args.order,
        threads: args.threads,
    };
    let progress = Progress::bar(0, "reading");
    let start = Instant::now();
    let report = convert(&args.model, &args.output, &options, |at| {
        progress.set_total(at.total);
        progress.update(at.done, at.tensor);
    })?;
    drop(progress);
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        return output::print_json(&as_json(&report, &args.output, seconds));
    }
    output::print(&as_text(&report, &args.output, seconds))
}

/// Parameters before and after, and the largest relative error.
struct Totals {
    before: usize,
    after: usize,
    largest_error: f64,
}

impl Totals {
    fn of(report: &Report) -> Totals {
        let sum = |f: fn(&kronsparse::convert::Converted) -> usize| report.converted.iter().map(f).sum();
        Totals {
            before: sum(|c| c.parameters_before()),
            after: sum(|c| c.parameters_after()),
            largest_error: report.converted.iter().map(|c| c.relative_error).fold(0.0, f64::max),
        }
    }
}

fn as_json(report: &Report, output: &Path, seconds: f64) -> Value {
    let totals = Totals::of(report);
    let layers = report.converted.iter().map(|c| {
        json!({
            "tensor": c.tensor,
            "shape": c.shape,
            "dtype": c.dtype.name(),
            "chain": c.chain.to_string(),
            "parameters_before": c.parameters_before(),
            "parameters_after": c.parameters_after(),
            "relative_error": json_number(c.relative_error),
            "chains_tried": c.tried,
        })
    });
    let skipped = report.skipped.iter().map(|s| json!({"tensor": s.tensor, "shape": s.shape, "reason": s.reason}));
    json!({
        "output": output,
        "layers": layers.collect::<Vec<_>>(),
        "skipped": skipped.collect::<Vec<_>>(),
        "tensors_copied": report.copied,
        "elements_copied": report.copied_elements,
        "parameters_before": totals.before,
        "parameters_after": totals.after,
        "largest_relative_error": json_number(totals.largest_error),
        "seconds": json_number(seconds),
    })
}

fn as_text(report: &Report, output: &Path, seconds: f64) -> String {
    let totals = Totals::of(report);
    let columns = [
        ("layer", Align::Left),
        ("shape", Align::Left),
        ("chain", Align::Left),
        ("parameters", Align::Right),
        ("after", Align::Right),
        ("share", Align::Right),
        ("relative error", Align::Right),
    ];
    let percent = |after: usize, before: usize| format!("{:.1} %", 100.0 * after as f64 / before as f64);
    let mut rows: Vec<Vec<String>> = report
        .converted
        .iter()
        .map(|c| {
            let (before, after) = (c.parameters_before(), c.parameters_after());
            vec![
                c.tensor.clone(),
                format!("{} × {}", c.shape[0], c.shape[1]),
                c.chain.to_string(),
                grouped(before),
                grouped(after),
                percent(after, before),
                format!("{:.4e}", c.relative_error),
            ]
        })
        .collect();
    rows.push(vec![
        format!("total of {}", rows.len()),
        String::new(),
        String::new(),
        grouped(totals.before),
        grouped(totals.after),
        percent(totals.after, totals.before),
        format!("at most {:.4e}", totals.largest_error),
    ]);
    let mut text = render(&columns, &rows);
    if !report.skipped.is_empty() {
        let skipped = report.skipped.iter();
        let skipped = skipped
            .map(|s| vec![s.tensor.clone(), format!("{} × {}", s.shape[0], s.shape[1]), s.reason.clone()])
            .collect::<Vec<_>>();
        text.push('\n');
        text.push_str(&render(
            &[("not converted", Align::Left), ("shape", Align::Left), ("why", Align::Left)],
            &skipped,
        ));
    }
    text.push_str(&format!(
        "\n{}: {} layers converted, {} tensors of {} elements copied bit for bit, {}\n",
        output.display(),
        report.converted.len(),
        report.copied,
        grouped(report.copied_elements),
        seconds_text(seconds),
    ));
    text
}
