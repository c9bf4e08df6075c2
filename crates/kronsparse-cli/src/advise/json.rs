//! An advice as one JSON document.

use kronsparse::advise::{Advice, Candidate, Cost, ModelAdvice, Objective, Options, Target, Verdict};
use kronsparse_bench::Kind;
use serde_json::{Value, json};

use super::Source;
use crate::output::json_number;

/// The answer for one shape.
pub(super) fn document(advice: &Advice, kind: Kind, source: Option<&Source>, notes: &[String]) -> Value {
    let [rows, cols] = advice.shape();
    let mut all = question(advice.options(), advice.target(), source);
    let own = json!({
        "rows": rows,
        "cols": cols,
        "dtype": kind.to_string(),
        "chains_looked_at": advice.looked_at(),
        "dense": way(advice.dense(), advice),
        "chains": advice.chains().iter().map(|chain| way(chain, advice)).collect::<Vec<_>>(),
        "verdicts": advice.verdicts().iter().map(|v| verdict(v, advice)).collect::<Vec<_>>(),
        "overall": verdict(advice.overall(), advice),
        "caveat": advice.caveat(),
        "notes": notes,
    });
    extend(&mut all, own);
    all
}

/// What was asked, and of which device.
fn question(options: &Options, target: &Target, source: Option<&Source>) -> Value {
    let device = match target {
        Target::Gpu(gpu) => json!({
            "name": gpu.name,
            "compute_capability": format!("{}.{}", gpu.machine.capability.0, gpu.machine.capability.1),
            "libraries_absent_because": gpu.libraries.as_ref().err(),
        }),
        Target::Cpu(c) => json!({
            "name": c.machine.cpu,
            "threads": c.machine.threads,
            "flops_per_second_f32": c.flops_f32,
            "flops_per_second_f64": c.flops_f64,
            "bytes_per_second": c.memory_bytes,
            "bytes_per_second_of_one_thread": c.memory_bytes_alone,
            "cache_bytes_per_second": c.cache_bytes,
            "calibration": source.map(|source| &source.origin),
            "calibration_remark": source.and_then(|source| source.remark.as_ref()),
        }),
    };
    json!({
        "batches": options.batches,
        "layout": options.layout.name(),
        "objective": options.objective.name(),
        "budget": [options.search.budget.least(), options.search.budget.most()],
        "max_factors": options.search.max_factors,
        "low_rank": options.search.low_rank,
        "partial": options.search.partial,
        "device": device,
    })
}

fn way(way: &Candidate, advice: &Advice) -> Value {
    let splits = way.splits.iter().map(|split| {
        json!({
            "blocks": split.blocks(), "a": split.a, "d": split.d,
            "block_rows": split.rows, "block_cols": split.cols, "rank": split.rank,
        })
    });
    let costs = way.costs.iter().zip(&way.measured).zip(&advice.options().batches).map(|((cost, measured), batch)| {
        let Cost { seconds, joules, memory, flops, bytes, how, steps } = cost;
        json!({
            "batch": batch,
            "predicted_seconds": json_number(*seconds),
            "measured_seconds": measured.map(|measured| json_number(measured.seconds)),
            "predicted_joules": joules.as_ref().ok().map(|joules| json_number(*joules)),
            "joules_missing_because": joules.as_ref().err(),
            "measured_joules": measured.and_then(|measured| measured.joules).map(json_number),
            "weight_bytes": json_number(memory.weights),
            "activation_bytes": json_number(memory.activations),
            "flops": json_number(*flops),
            "bytes_to_move": json_number(*bytes),
            "how": how,
            "steps": steps,
        })
    });
    json!({
        "chain": way.chain.to_string(),
        "family": way.family.name(),
        "parameters": way.chain.parameters(),
        "share": json_number(way.chain.density()),
        "rank": way.rank,
        "splits": splits.collect::<Vec<_>>(),
        "costs": costs.collect::<Vec<_>>(),
    })
}

fn verdict(verdict: &Verdict, advice: &Advice) -> Value {
    let name = |chain: Option<usize>| chain.map(|chain| advice.chains()[chain].chain.to_string());
    json!({
        "batch": verdict.batch,
        "chain": name(verdict.best),
        "gain": verdict.best.map(|_| json_number(verdict.gain)),
        "stay_dense": verdict.stay_dense,
        "too_close_to_call": verdict.too_close,
        "no_verdict_because": verdict.unknown,
        "listed_chain_with_most_parameters_that_gains": name(verdict.richest),
        "decided_by": if verdict.measured { "measurement" } else { "estimate" },
        "sentence": verdict.sentence,
    })
}

/// The answer for a model.
pub(super) fn model(advice: &ModelAdvice, options: &Options, target: &Target, source: Option<&Source>) -> Value {
    let layers = advice.layers.iter().map(|layer| {
        let found = layer.advice.as_ref().ok();
        let gains = layer.chain().map(|(advice, best)| {
            let seconds = |way: &Candidate| way.costs.iter().map(|cost| cost.seconds).collect::<Vec<_>>();
            let (dense, chain) = (seconds(advice.dense()), seconds(&advice.chains()[best]));
            json!({
                "dense_seconds": dense.into_iter().map(json_number).collect::<Vec<_>>(),
                "chain_seconds": chain.into_iter().map(json_number).collect::<Vec<_>>(),
            })
        });
        json!({
            "tensor": layer.tensor,
            "shape": layer.shape,
            "dtype": layer.dtype.name(),
            "chain": layer.chain().map(|(advice, best)| advice.chains()[best].chain.to_string()),
            "parameters": layer.chain().map(|(advice, best)| advice.chains()[best].chain.parameters()),
            "predicted": gains,
            "overall": found.map(|advice| verdict(advice.overall(), advice)),
            "verdicts": found.map(|advice| advice.verdicts().iter().map(|v| verdict(v, advice)).collect::<Vec<_>>()),
            "no_chain_because": layer.advice.as_ref().err(),
        })
    });
    let totals = advice.totals.iter().map(|total| {
        json!({
            "batch": total.batch,
            "dense": total.dense.as_ref().ok().map(|amount| json_number(*amount)),
            "advised": total.advised.as_ref().ok().map(|amount| json_number(*amount)),
            "missing_because": total.dense.as_ref().err().or(total.advised.as_ref().err()),
        })
    });
    let skipped = advice.skipped.iter().map(|s| json!({"tensor": s.tensor, "shape": s.shape, "reason": s.reason}));
    let unit = match options.objective {
        Objective::Time => "seconds",
        Objective::Energy => "joules",
        Objective::Memory => "bytes",
    };
    let mut all = question(options, target, source);
    let own = json!({
        "layers": layers.collect::<Vec<_>>(),
        "skipped": skipped.collect::<Vec<_>>(),
        "parameters": advice.parameters,
        "parameters_advised": advice.parameters_advised,
        "totals_unit": unit,
        "totals": totals.collect::<Vec<_>>(),
    });
    extend(&mut all, own);
    all
}

fn extend(all: &mut Value, more: Value) {
    if let (Value::Object(all), Value::Object(more)) = (all, more) {
        all.extend(more);
    }
}
