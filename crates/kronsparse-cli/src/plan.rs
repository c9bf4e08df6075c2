//! `kronsparse plan`: how a GPU would multiply by a chain, and why, without one.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use clap::Args;
use kronsparse::advise::{Gpu, Roof, check_batch, energy};
use kronsparse::plan::Hidden;
use kronsparse::plan::gpu::{CALL, ChainPlan, ChainProblem, Cut, FusedPlan, GpuMachine, Part, Rates, groups};
use kronsparse::{Activation, ChainPattern, ChainSpec, Join, Layout};
use kronsparse_bench::{Kind, format};
use serde_json::{Value, json};

use crate::device::Device;
use crate::output::{self, HEADING, grouped, json_number};
use crate::table::{Align, render};

/// How a GPU would multiply by a chain, and why: nothing is run, and no GPU is needed
#[derive(Args)]
#[command(after_help = "\
Prints for every number of vectors what auto picks by its estimates, and of every other way its estimate or the
reason why it is not considered. Steps and factors are listed in the order of application, the right-most first.

Examples:
  kronsparse plan '(1,64,64,64)(64,64,64,1)' --batch 1,256,25088 --dtype f16
  kronsparse plan monarch:32,32 --shape 1024,4096 --batch 4096 --dtype bf16 --bias --activation gelu --json")]
pub(crate) struct PlanArgs {
    /// The chain: (a,b,c,d)(a,b,c,d)…, butterfly:r1,r2,…, or with --shape monarch:p,q and square-dyadic
    #[arg(value_name = "CHAIN")]
    chain: ChainSpec,
    /// Numbers of vectors
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', required = true)]
    batch: Vec<usize>,
    /// Element type: f16, bf16, f32, f64, or tf32, which is f32 in memory
    #[arg(long, value_name = "TYPE")]
    dtype: Kind,
    /// Rows and columns of the matrix, for chains that do not say them
    #[arg(long, value_name = "ROWS,COLS", value_delimiter = ',')]
    shape: Option<Vec<usize>>,
    /// bsf (vectors are rows) or bsl (vectors are columns)
    #[arg(long, default_value_t)]
    layout: Layout,
    /// A bias is added
    #[arg(long)]
    bias: bool,
    /// none, relu, gelu, gelu-tanh or silu, applied after the bias
    #[arg(long, default_value_t)]
    activation: Activation,
    /// none, residual (an array like Y is added) or gate (outputs come in twos, the activated first times the second)
    #[arg(long, default_value_t)]
    join: Join,
    /// What the vectors between the factors of an f16 or bf16 chain are kept in: rounded (to its type) or f32, as cuda::Options::hidden says
    #[arg(long, default_value_t)]
    hidden: Hidden,
    /// Small neighbouring factors are multiplied together first, as cuda::Options::combine asks for
    #[arg(long)]
    combine: bool,
    /// The GPU to plan for: h100, which need not be there, or one of this machine as cuda:N
    #[arg(long, default_value = "h100", value_parser = Device::gpu)]
    device: Device,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The plan for one number of vectors; the seconds of the passes around a chain that is multiplied in f32.
struct Planned {
    plan: ChainPlan,
    passes: Option<f64>,
}

/// One line of the list of ways.
struct Line {
    what: String,
    way: &'static str,
    /// The estimate, or why there is none.
    seconds: std::result::Result<f64, String>,
    taken: bool,
}

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    if args.dtype.dtype.is_complex() {
        bail!("--dtype {}: a GPU multiplies f16, bf16, f32, tf32 and f64; complex chains run on the CPU", args.dtype);
    }
    let chain = resolve(&args.chain, args.shape.as_deref())?;
    for &batch in &args.batch {
        let features = chain.patterns().iter().flat_map(|p| [p.rows(), p.cols()]).max().unwrap_or(1);
        check_batch(batch, features)?;
    }
    let gpu = args.device.open()?;
    let combined = if args.combine {
        let groups = groups(&chain, args.dtype.dtype, args.dtype.precision(), &gpu.machine).into_iter();
        ChainPattern::new(groups.map(|group| chain.product(group)).collect::<kronsparse::Result<_>>()?)?
    } else {
        chain.clone()
    };
    let mut plans: Vec<Planned> = Vec::with_capacity(args.batch.len());
    for &batch in &args.batch {
        let problem = ChainProblem {
            chain: combined.clone(),
            dtype: args.dtype.dtype,
            precision: args.dtype.precision(),
            layout: args.layout,
            batch,
            aligned: true,
            bias: args.bias,
            activation: args.activation,
            join: args.join,
        };
        let widened = problem.widened(args.hidden, &gpu.machine);
        let passes = widened.as_ref().map(|(_, seconds)| *seconds);
        let problem = widened.map_or(problem, |(wide, _)| wide);
        match ChainPlan::new(&problem, &gpu.machine, gpu.libraries.as_ref().ok().copied()) {
            Ok(plan) => plans.push(Planned { plan, passes }),
            Err(rejected) => bail!("{chain} in {}: {rejected}", args.dtype),
        }
    }
    if args.json {
        return output::print_json(&document(args, &chain, &combined, &gpu, &plans));
    }
    let mut text = heading(args, &chain, &combined, &gpu);
    for Planned { plan, passes } in &plans {
        text.push('\n');
        text.push_str(&paragraph(plan, &gpu.name));
        if let Some(seconds) = passes {
            let _ = writeln!(text, "  with the passes over X and Y: {}", format::seconds(plan.seconds() + seconds));
        }
    }
    output::print(&text)
}

/// The chain that the flags name.
pub(crate) fn resolve(spec: &ChainSpec, shape: Option<&[usize]>) -> Result<ChainPattern> {
    Ok(match (spec, shape) {
        (spec, Some(&[rows, cols])) => spec.resolve(rows, cols)?,
        (_, Some(other)) => bail!("--shape takes two numbers ROWS,COLS, found {}", other.len()),
        (ChainSpec::Explicit(chain), None) => chain.clone(),
        (ChainSpec::Butterfly(radices), None) => ChainPattern::butterfly(radices)?,
        (spec, None) => bail!("{spec} does not say its size; add --shape ROWS,COLS"),
    })
}

/// What all paragraphs have in common.
fn heading(args: &PlanArgs, chain: &ChainPattern, combined: &ChainPattern, gpu: &Gpu) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{HEADING}{name:<11}{HEADING:#}{value}");
    };
    let (count, share) = (chain.patterns().len(), format::percent(chain.density()));
    let factors = if count == 1 { "1 factor".into() } else { format!("{count} factors") };
    let (rows, cols, parameters) = (chain.rows(), chain.cols(), grouped(chain.parameters()));
    line("chain", &format!("{chain}: {cols} → {rows}, {factors}, {parameters} parameters, {share} of dense"));
    if combined != chain {
        let (count, parameters) = (combined.patterns().len(), grouped(combined.parameters()));
        let factors = if count == 1 { "1 factor".into() } else { format!("{count} factors") };
        line(
            "combined",
            &format!("{combined}: {factors} once small neighbours are multiplied together, {parameters} parameters"),
        );
    }
    if args.hidden.widens(args.dtype.dtype, combined.patterns().len()) {
        line("hidden", "f32: what follows is the chain in f32, between a pass over X and one over Y");
    }
    let bias = if args.bias { "a bias" } else { "no bias" };
    let (kind, layout, activation, join) = (args.dtype, args.layout, args.activation, args.join);
    let joined = if join == Join::None { String::new() } else { format!(", {join}") };
    line(
        "arrays",
        &format!("{kind}, {layout}, {bias}, activation {activation}{joined}; X and Y at multiples of 16 bytes"),
    );
    let GpuMachine { capability: (major, minor), multiprocessors, bytes_per_second, flops, .. } = &gpu.machine;
    let peak = flops.peak(kind.dtype, kind.precision());
    line(
        "GPU",
        &format!(
            "{}, compute capability {major}.{minor}, {multiprocessors} SMs, {} GB/s, {} TFLOP/s in {kind}",
            gpu.name,
            format::significant(bytes_per_second / 1e9),
            format::significant(peak / 1e12),
        ),
    );
    let state = match &gpu.libraries {
        Ok(limit) => {
            let found = if gpu.at_hand { "found" } else { "assumed to be there" };
            format!("cuBLAS {found}, for up to {} of weights", format::bytes(*limit as f64))
        }
        Err(why) => format!("missing: {why}"),
    };
    line("libraries", &state);
    line("ceilings", &ceilings(&gpu.machine));
    text
}

/// Where the rates of a GPU are from.
fn ceilings(machine: &GpuMachine) -> String {
    let GpuMachine { capability: (major, minor), cached, kernel_seconds, .. } = machine;
    let published = format!("published for compute capability {major}.{minor}");
    let from = match &machine.rates {
        Rates::Published => format!("{published}; `kronsparse calibrate` measures them"),
        Rates::Assumed => {
            format!("{published} and usual clocks, since the driver tells none; `kronsparse calibrate` measures them")
        }
        Rates::Measured { at } => format!("measured on this GPU on {}", format::date(*at)),
        Rates::Refused(why) => format!("{published}, since what was measured is not used: {why}"),
    };
    let (cached, kernel) = (format::ratio(*cached), format::seconds(*kernel_seconds));
    format!("{from}; second-level cache {cached} as fast as memory, {kernel} from one small kernel to the next")
}

/// The plan for one number of vectors on the GPU called `name`.
fn paragraph(plan: &ChainPlan, name: &str) -> String {
    let problem = plan.problem();
    let roof = roof(plan);
    let mut text = format!(
        "{HEADING}n = {}: {}, {}{HEADING:#}, {} of the roofline\n",
        grouped(problem.batch),
        decision(plan),
        format::seconds(plan.seconds()),
        format::percent(roof.seconds / plan.seconds()),
    );
    let (flops, bytes) = work(plan);
    let _ = writeln!(
        text,
        "  to do: {} to move and {}, {} at the roofline, bound by {}",
        format::bytes(bytes),
        flops_text(flops),
        format::seconds(roof.seconds),
        bound(roof),
    );
    let energy = energy::joules(name, plan);
    let energy =
        energy.map_or_else(|why| format!("no estimate: {why}"), |joules| format!("{} a call", joules_text(joules)));
    let _ = writeln!(text, "  energy: {energy}");
    let _ = writeln!(text, "  times: of a call with cold caches, {} of it beside the steps", format::seconds(CALL));
    for (at, step) in plan.steps().iter().enumerate() {
        let (name, seconds) = (plan.name(step.part), format::seconds(step.seconds));
        let _ = writeln!(text, "  step {}: {name} by {step}; {seconds}", at + 1);
    }
    if problem.chain.patterns().len() > 1 {
        let dense = match plan.dense() {
            Ok(dense) => format::seconds(dense.seconds),
            Err(why) => format!("not considered: {why}"),
        };
        let apart = plan.seconds_apart().map_or_else(|| "no kernel".into(), format::seconds);
        let _ = writeln!(text, "  factor by factor: {apart}; dense of the whole chain: {dense}");
    }
    let rows: Vec<Vec<String>> = lines(plan)
        .into_iter()
        .map(|Line { what, way, seconds, taken }| {
            let (estimate, remark) = match seconds {
                Ok(seconds) => (format::seconds(seconds), if taken { "taken".into() } else { String::new() }),
                Err(why) => ("no".into(), why),
            };
            vec![what, way.into(), estimate, remark]
        })
        .collect();
    let columns = [("multiplies by", Align::Left), ("way", Align::Left), ("estimate", Align::Right), ("", Align::Left)];
    for line in render(&columns, &rows).lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// The decision in a few words.
fn decision(plan: &ChainPlan) -> String {
    let counts: Vec<usize> = plan.cuts().iter().map(|cut| cut.count).collect();
    match (plan.is_dense(), counts.as_slice()) {
        (true, _) => "the whole chain as one dense product".into(),
        (_, [1]) => "one step".into(),
        (_, [2]) => "both factors in one kernel".into(),
        (_, [count]) => format!("all {count} factors in one kernel"),
        (_, counts) if counts.iter().all(|&count| count == 1) => "factor by factor".into(),
        (_, counts) => {
            let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
            format!("{} kernels for {} factors", counts.len(), counts.join(" + "))
        }
    }
}

/// Every way of every part: of the factors in the order of application, of several together, of all.
fn lines(plan: &ChainPlan) -> Vec<Line> {
    let count = plan.problem().chain.patterns().len();
    let steps = plan.steps();
    let taken = |part: Part, way: &str| steps.iter().any(|step| step.part == part && step.name == way);
    let mut lines = Vec::new();
    for at in (0..count).rev() {
        let (part, what) = (Part::Factor(at), plan.name(Part::Factor(at)));
        for way in plan.ways(at) {
            let (way, seconds) = (way.name(), Ok(way.seconds));
            lines.push(Line { what: what.clone(), way, seconds, taken: taken(part, way) });
        }
        for refusal in plan.refused(at) {
            lines.push(Line { what: what.clone(), way: refusal.name, seconds: Err(refusal.why), taken: false });
        }
    }
    // Of several together, those of two neighbours and of all factors with the reasons against them, others where they are taken.
    for at in (0..count).rev() {
        for several in 2..=count - at {
            let cut = Cut { at, count: several };
            let (part, problem) = (Part::Together(cut), plan.problem().part(at, several));
            for &way in
                FusedPlan::FAMILIES.iter().filter(|_| several == 2 || several == count || plan.cuts().contains(&cut))
            {
                let found = FusedPlan::family(way, &problem, plan.machine());
                let seconds = found.map(|plan| plan.seconds()).map_err(|why| why.to_string());
                lines.push(Line { what: plan.name(part), way, seconds, taken: taken(part, way) });
            }
        }
    }
    if count > 1 {
        let seconds = plan.dense().map(|dense| dense.seconds).map_err(ToString::to_string);
        lines.push(Line { what: "the whole chain".into(), way: "dense", seconds, taken: plan.is_dense() });
    }
    lines
}

/// Floating-point operations and bytes that must move.
fn work(plan: &ChainPlan) -> (f64, f64) {
    let problem = plan.problem();
    (problem.chain.flops(problem.batch), problem.chain.bytes(problem.batch, problem.dtype.size()))
}

/// Operations with a unit that suits their number.
pub(crate) fn flops_text(flops: f64) -> String {
    let (factor, unit) = match flops {
        x if x >= 1e12 => (1e-12, "TFLOP"),
        x if x >= 1e9 => (1e-9, "GFLOP"),
        x if x >= 1e6 => (1e-6, "MFLOP"),
        _ => (1.0, "FLOP"),
    };
    format!("{} {unit}", format::significant(flops * factor))
}

/// Joules with a unit that suits them.
fn joules_text(joules: f64) -> String {
    let (factor, unit) = if joules >= 1.0 { (1.0, "J") } else { (1e3, "mJ") };
    format!("{} {unit}", format::significant(joules * factor))
}

/// The least time at the machine's rates.
fn roof(plan: &ChainPlan) -> Roof {
    let ((flops, bytes), problem, machine) = (work(plan), plan.problem(), plan.machine());
    Roof::new(flops, bytes, machine.flops.peak(problem.dtype, problem.precision), machine.bytes_per_second)
}

fn bound(roof: Roof) -> &'static str {
    if roof.memory { "memory" } else { "arithmetic" }
}

/// The same as one JSON document.
fn document(args: &PlanArgs, chain: &ChainPattern, combined: &ChainPattern, gpu: &Gpu, plans: &[Planned]) -> Value {
    let (machine, (major, minor)) = (&gpu.machine, gpu.machine.capability);
    json!({
        "chain": chain.to_string(),
        "combined": combined.to_string(),
        "rows": chain.rows(),
        "cols": chain.cols(),
        "parameters": chain.parameters(),
        "dtype": args.dtype.to_string(),
        "layout": args.layout.name(),
        "bias": args.bias,
        "activation": args.activation.name(),
        "join": args.join.name(),
        "hidden": args.hidden.name(),
        "gpu": {
            "name": gpu.name,
            "compute_capability": format!("{major}.{minor}"),
            "multiprocessors": machine.multiprocessors,
            "bytes_per_second": json_number(machine.bytes_per_second),
            "flops_per_second": json_number(machine.flops.peak(args.dtype.dtype, args.dtype.precision())),
            "ceilings": ceilings(machine),
        },
        "library_weight_bytes": gpu.libraries.as_ref().ok(),
        "libraries_absent_because": gpu.libraries.as_ref().err(),
        "plans": plans.iter().map(|planned| plan_json(planned, &gpu.name)).collect::<Vec<_>>(),
    })
}

fn plan_json(Planned { plan, passes }: &Planned, name: &str) -> Value {
    let joules = energy::joules(name, plan);
    let ((flops, bytes), roof) = (work(plan), roof(plan));
    let steps: Vec<Value> = plan
        .steps()
        .iter()
        .map(|step| {
            json!({
                "multiplies_by": plan.name(step.part),
                "way": step.name,
                "plan": step.to_string(),
                "seconds": json_number(step.seconds),
            })
        })
        .collect();
    let ways: Vec<Value> = lines(plan)
        .into_iter()
        .map(|Line { what, way, seconds, taken }| {
            json!({
                "multiplies_by": what,
                "way": way,
                "taken": taken,
                "seconds": seconds.as_ref().ok().map(|seconds| json_number(*seconds)),
                "refused_because": seconds.as_ref().err(),
            })
        })
        .collect();
    json!({
        "batch": plan.problem().batch,
        "flops": json_number(flops),
        "bytes": json_number(bytes),
        "roofline_seconds": json_number(roof.seconds),
        "bound_by": bound(roof),
        "decision": decision(plan),
        "seconds": json_number(plan.seconds()),
        "seconds_beside_steps": json_number(CALL),
        "joules": joules.as_ref().ok().map(|joules| json_number(*joules)),
        "joules_absent_because": joules.as_ref().err(),
        "seconds_of_passes": passes.map(json_number),
        "seconds_factor_by_factor": plan.seconds_apart().map(json_number),
        "seconds_dense": plan.dense().ok().map(|dense| json_number(dense.seconds)),
        "steps": steps,
        "ways": ways,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_units() {
        assert_eq!(
            [770.0, 1.05e6, 2.63e10, 3e12].map(flops_text),
            ["770 FLOP", "1.05 MFLOP", "26.3 GFLOP", "3.00 TFLOP"]
        );
    }

    #[test]
    fn chains_need_a_size_where_they_have_none() {
        let chain = |text: &str, shape| {
            resolve(&text.parse().unwrap(), shape).map(|c| (c.rows(), c.cols())).map_err(|e| e.to_string())
        };
        assert_eq!(chain("butterfly:4,2", None), Ok((8, 8)));
        assert_eq!(chain("monarch:2,3", Some(&[4, 6])), Ok((4, 6)));
        assert!(chain("monarch:2,3", None).unwrap_err().contains("--shape"));
        assert!(chain("monarch:2,3", Some(&[4])).unwrap_err().contains("two numbers"));
        assert!(chain("(1,2,2,2)", Some(&[8, 8])).unwrap_err().contains("[4, 4]"));
    }
}
