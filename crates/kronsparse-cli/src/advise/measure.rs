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
    let ours = if how.gpu.is_some() { Algorithm::Auto } else { Algorithm::Fused };
    let bench = Bench { advice, kind, how, progress: Progress::bar(total as u64, "measuring") };
    // The dense matrix by whatever is fastest; what chains are multiplied by stays the engine's choice.
    let of_dense = bench.rows(&[dense], &[ours, Algorithm::Dense], 0)?;
    let of_chains = bench.rows(&chains, &[ours], batches.len())?;
    drop(bench);

    let mut notes = Vec::new();
    let chain_of = |row: &Row| chains.iter().position(|chain| *chain == row.chain).map(|place| picked[place]);
    for (at, &batch) in batches.iter().enumerate() {
        let timed = of_dense.iter().filter(|row| row.n == batch && row.status == Status::Ok);
        let best = timed.filter_map(figures).min_by(|x, y| x.seconds.total_cmp(&y.seconds));
        match best {
            Some(best) => advice.set_measured(None, at, best)?,
            None => notes.extend(of_dense.iter().filter(|row| row.n == batch).map(reason)),
        }
        for row in of_chains.iter().filter(|row| row.n == batch) {
            match (figures(row), chain_of(row)) {
                (Some(figures), Some(chain)) => advice.set_measured(Some(chain), at, figures)?,
                _ => notes.push(reason(row)),
            }
        }
    }
    Ok(notes)
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
            Some(ordinal) => {
                let energy = self.how.energy.then_some(0.5);
                let usual = gpu::Options::default();
                let options = gpu::Options {
                    ordinal,
                    algorithms,
                    budget: self.how.seconds.min(usual.budget),
                    memory_limit: MEMORY,
                    energy,
                    ..usual
                };
                gpu::run(&definition, &options, &mut observe)?
            }
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
