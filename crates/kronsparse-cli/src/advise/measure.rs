//! `--measure`: the dense matrix and the best chains on the device at hand, by the benchmark's machinery: verified, caches cold.

use anyhow::{Result, bail};
use kronsparse::ChainPattern;
use kronsparse::advise::{Advice, Measured};
use kronsparse::plan::{Algorithm, Problem};
use kronsparse_bench::{Cache, Case, Definition, Event, Kind, Options, Row, Status, gpu, run};

use crate::progress::Progress;

/// Bytes of weights or working arrays above which an algorithm is skipped.
const MEMORY: usize = 8 << 30;

/// How to measure.
pub(super) struct How {
    /// A GPU by its number, or the CPU.
    pub(super) gpu: Option<usize>,
    /// Chains for each number of vectors.
    pub(super) top: usize,
    /// Sampling time of each.
    pub(super) seconds: f64,
    /// Whether to measure energy too, on a GPU.
    pub(super) energy: bool,
}

/// Measures with every number of vectors the dense matrix and the chains that are the best [`How::top`] for one of them, and lets
/// the figures decide. Returns what was not measured, and why. Errors: a wrong result.
pub(super) fn measure(advice: &mut Advice, kind: Kind, how: How) -> Result<Vec<String>> {
    let batches = advice.options().batches.clone();
    let picked = advice.promising(how.top);
    let dense = advice.dense().chain.clone();
    let chains: Vec<ChainPattern> = picked.iter().map(|&at| advice.chains()[at].chain.clone()).collect();
    let total = batches.len() * (chains.len() + 1);
    // On a GPU `auto` may multiply by a chain as one dense matrix, which is no time of the chain: then `fused` has one.
    let ours = if how.gpu.is_some() { &[Algorithm::Auto, Algorithm::Fused][..] } else { &[Algorithm::Fused] };
    let bench = Bench { advice, kind, how, progress: Progress::bar(total as u64, "measuring") };
    // The dense matrix by whatever is fastest; what chains are multiplied by stays the engine's choice.
    let of_dense = bench.rows(&[dense], &[ours[0], Algorithm::Dense], 0)?;
    let of_chains = bench.rows(&chains, ours, batches.len())?;
    drop(bench);

    let mut notes = Vec::new();
    for (at, &batch) in batches.iter().enumerate() {
        let rows: Vec<&Row> = of_dense.iter().filter(|row| row.n == batch).collect();
        let (best, said) = of_matrix(&rows);
        notes.extend(said);
        if let Some(best) = best {
            advice.set_measured(None, at, best)?;
        }
        for (&place, chain) in picked.iter().zip(&chains) {
            let rows: Vec<&Row> = of_chains.iter().filter(|row| row.n == batch && row.chain == *chain).collect();
            let (found, said) = of_chain(&rows);
            notes.extend(said);
            if let Some(found) = found {
                advice.set_measured(Some(place), at, found)?;
            }
        }
    }
    Ok(notes)
}

/// The fastest row of the dense matrix, and what is to be said of the others.
fn of_matrix(rows: &[&Row]) -> (Option<Measured>, Vec<String>) {
    let timed = rows.iter().filter_map(|row| figures(row));
    let best = timed.min_by(|x, y| x.seconds.total_cmp(&y.seconds));
    (best, rows.iter().filter(|row| figures(row).is_none()).map(|row| reason(row)).collect())
}

/// The first row of a chain that is a time of the chain, and what is to be said of those before it.
fn of_chain(rows: &[&Row]) -> (Option<Measured>, Vec<String>) {
    let mut said = Vec::new();
    for row in rows {
        match figures(row) {
            Some(found) if !row.is_one_dense_product() => return (Some(found), said),
            Some(_) => said.push(format!(
                "{} by {} for {} vectors is one dense product on this GPU; measured is what this project's kernels take for its factors",
                row.chain, row.algorithm, row.n
            )),
            None => said.push(reason(row)),
        }
    }
    (None, said)
}

/// How to measure on a GPU: as long as was asked for.
fn on_gpu(how: &How, ordinal: usize, algorithms: Vec<Algorithm>) -> gpu::Options {
    let energy = how.energy.then_some(0.5);
    gpu::Options { ordinal, algorithms, budget: how.seconds, memory_limit: MEMORY, energy, ..gpu::Options::default() }
}

/// Seconds and joules of a row whose result was right.
fn figures(row: &Row) -> Option<Measured> {
    let seconds = row.median_s.filter(|_| row.status == Status::Ok)?;
    Some(Measured { seconds, joules: row.energy_j })
}

fn reason(row: &Row) -> String {
    format!("not measured: {} by {} for {} vectors: {} {}", row.chain, row.algorithm, row.n, row.status, row.reason)
}

struct Bench<'a> {
    advice: &'a Advice,
    kind: Kind,
    how: How,
    progress: Progress,
}

impl Bench<'_> {
    /// All chains with all numbers of vectors; `done` cases of the bar came before.
    fn rows(&self, chains: &[ChainPattern], algorithms: &[Algorithm], done: usize) -> Result<Vec<Row>> {
        let options = self.advice.options();
        let case = |chain: &ChainPattern, batch: usize| Case {
            problem: Problem { chain: chain.clone(), dtype: self.kind.dtype, batch, layout: options.layout },
            kind: self.kind,
            cache: Cache::Cold,
            why: String::new(),
        };
        let cases = options.batches.iter().flat_map(|&batch| chains.iter().map(move |chain| case(chain, batch)));
        let definition = Definition { name: "advise".into(), description: String::new(), cases: cases.collect() };
        let mut observe = |event: Event<'_>| {
            if let Event::Case { index, case, .. } = event {
                self.progress.update(done + index, &format!("{} n = {}", case.problem.chain, case.problem.batch));
            }
        };
        let algorithms = algorithms.to_vec();
        let record = match self.how.gpu {
            None => {
                let options =
                    Options { algorithms, budget: self.how.seconds, memory_limit: MEMORY, ..Options::default() };
                run(&definition, &options, &mut observe)?
            }
            Some(ordinal) => gpu::run(&definition, &on_gpu(&self.how, ordinal, algorithms), &mut observe)?,
        };
        if let Some(wrong) = record.rows.iter().find(|row| row.status == Status::Wrong) {
            bail!(
                "{} gave a wrong result on {} with {} vectors: {}",
                wrong.algorithm,
                wrong.chain,
                wrong.n,
                wrong.reason
            );
        }
        Ok(record.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of a chain with 64 vectors that took so many seconds, or failed.
    fn row(algorithm: Algorithm, plan: &str, seconds: Option<f64>) -> Row {
        let chain = ChainPattern::monarch(64, 64, 8, 8).unwrap();
        let kind: Kind = "f16".parse().unwrap();
        let problem = Problem { chain, dtype: kind.dtype, batch: 64, layout: kronsparse::Layout::BatchFirst };
        let case = Case { problem, kind, cache: Cache::Cold, why: String::new() };
        let status = if seconds.is_some() { Status::Ok } else { Status::Failed };
        let reason = if seconds.is_some() { String::new() } else { "out of memory".into() };
        Row { median_s: seconds, status, reason, plan: plan.into(), ..Row::blank(&case, algorithm, 1, 1) }
    }

    const DENSE: &str = "(1,8,8,8)(8,8,8,1) by dense: cublaslt #1 64x64x64 batch 1x1";
    const OURS: &str = "(1,8,8,8) after (8,8,8,1) by pair_wgmma: 64 vectors a block";

    #[test]
    fn one_dense_product_is_no_time_of_a_chain() {
        let (auto, fused) = (row(Algorithm::Auto, DENSE, Some(1e-6)), row(Algorithm::Fused, OURS, Some(3e-6)));
        let (found, said) = of_chain(&[&auto, &fused]);
        assert_eq!(found.unwrap().seconds, 3e-6);
        assert!(said.len() == 1 && said[0].contains("one dense product"), "{said:?}");
        let auto = row(Algorithm::Auto, OURS, Some(2e-6));
        assert_eq!(of_chain(&[&auto, &fused]), (figures(&auto), Vec::new()));
        let failed = row(Algorithm::Fused, "", None);
        let (found, said) = of_chain(&[&row(Algorithm::Auto, DENSE, Some(1e-6)), &failed]);
        assert!(found.is_none() && said.len() == 2 && said[1].contains("out of memory"), "{said:?}");
    }

    #[test]
    fn sampling_takes_as_long_as_was_asked_for() {
        let how = How { gpu: Some(1), top: 1, seconds: 2.5, energy: true };
        let options = on_gpu(&how, 1, vec![Algorithm::Auto]);
        assert_eq!((options.budget, options.ordinal, options.energy), (2.5, 1, Some(0.5)));
    }

    #[test]
    fn what_failed_of_the_dense_matrix_is_said_even_where_another_way_has_a_time() {
        let rows = [row(Algorithm::Auto, "", Some(2e-6)), row(Algorithm::Dense, "", None)];
        let (best, said) = of_matrix(&rows.iter().collect::<Vec<_>>());
        assert_eq!(best.unwrap().seconds, 2e-6);
        assert!(said.len() == 1 && said[0].contains("by dense for 64 vectors") && said[0].contains("out of memory"));
    }
}
