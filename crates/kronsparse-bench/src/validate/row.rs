//! A line of `validate.csv`: one way of one problem, what was predicted of it and what was measured.

use kronsparse::plan::{Layout, Problem};
use kronsparse::tune::{Measured, Record, Step};
use kronsparse::{ChainPattern, Error};
use serde::{Deserialize, Serialize};

use super::turns::Samples;
use super::ways::Way;
use crate::definition::Case;
use crate::journal::Line;
use crate::{Cache, Kind};

/// One way of one problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The problem's number.
    pub number: usize,
    /// How many rows the problem has; 0 in a row that only says why it was not measured to its end.
    pub rows: usize,
    /// The seed of the run, which the problem was drawn with.
    pub seed: u64,
    /// The chain, left to right.
    #[serde(with = "crate::text::chain")]
    pub chain: ChainPattern,
    /// Element type.
    #[serde(with = "crate::text")]
    pub dtype: Kind,
    /// Order of input and output.
    #[serde(with = "crate::text")]
    pub layout: Layout,
    /// Number of vectors.
    pub n: usize,
    /// State of the caches.
    #[serde(with = "crate::text")]
    pub cache: Cache,
    /// The steps by name.
    pub way: String,
    /// Whether this is what is done without tuning.
    pub untuned: bool,
    /// Whether this is what is done with what `tune` remembers.
    pub tuned: bool,
    /// Whether this multiplies by the whole matrix, zeros and all.
    pub dense: bool,
    /// Estimated seconds, where there is an estimate.
    pub predicted_s: Option<f64>,
    /// Interquartile mean of the samples; the median in files of before, which name it so.
    #[serde(alias = "median_s")]
    pub time_s: Option<f64>,
    /// How many samples.
    pub samples: usize,
    /// Why there is no time.
    pub reason: String,
    /// The steps with everything that tells them apart.
    pub steps: String,
    /// The machine.
    pub device: String,
    /// GPU: kernels of a factor that were measured at most; files of before do not say it.
    #[serde(default)]
    pub kernels: Option<usize>,
    /// Seconds of these steps as `tune` measured them; none of what it did not try, and in files of before.
    #[serde(default)]
    pub tune_s: Option<f64>,
    /// How many samples those are of.
    #[serde(default)]
    pub tune_samples: Option<usize>,
}

impl Line for Row {
    const FILE: &'static str = "validate.csv";

    fn columns() -> Vec<String> {
        [
            "number",
            "rows",
            "seed",
            "chain",
            "dtype",
            "layout",
            "n",
            "cache",
            "way",
            "untuned",
            "tuned",
            "dense",
            "predicted_s",
            "time_s",
            "samples",
            "reason",
            "steps",
            "device",
            "kernels",
            "tune_s",
            "tune_samples",
        ]
        .map(String::from)
        .to_vec()
    }
}

impl Row {
    /// A row of a way without results.
    pub(super) fn blank(case: &Case, number: usize, seed: u64, device: &str) -> Row {
        let Case { problem, kind, cache, .. } = case;
        let Problem { chain, batch, layout, .. } = problem;
        Row {
            number,
            rows: 1,
            seed,
            chain: chain.clone(),
            dtype: *kind,
            layout: *layout,
            n: *batch,
            cache: *cache,
            way: String::new(),
            untuned: false,
            tuned: false,
            dense: false,
            predicted_s: None,
            time_s: None,
            samples: 0,
            reason: String::new(),
            steps: String::new(),
            device: device.into(),
            kernels: None,
            tune_s: None,
            tune_samples: None,
        }
    }

    /// What stands for a problem that was not measured to its end: it does not count, and is measured again.
    pub(super) fn unfinished(case: &Case, number: usize, seed: u64, device: &str, why: &str) -> Row {
        Row { rows: 0, reason: why.replace('\n', " "), ..Row::blank(case, number, seed, device) }
    }

    /// Notes what `tune` measured of these steps, where it did.
    pub(super) fn set_tuned(&mut self, record: &Record, steps: &[Step]) {
        let way = record.measured(steps);
        (self.tune_s, self.tune_samples) = (way.map(|way| way.seconds), way.map(|way| way.samples));
    }

    /// The problem in a few words.
    pub fn problem(&self) -> String {
        let Row { chain, dtype, layout, n, .. } = self;
        format!("{chain} {dtype} {layout} n = {n}")
    }
}

/// The row of a problem with which nothing could be begun.
pub(super) fn failed(blank: Row, error: &Error) -> Row {
    Row { untuned: true, tuned: true, reason: error.to_string().replace('\n', " "), ..blank }
}

/// The results of a way in a row.
pub(super) fn filled(blank: &Row, way: &Way, samples: Samples) -> Row {
    let mut row = Row { way: name(&way.steps), steps: text(&way.steps), ..blank.clone() };
    (row.dense, row.predicted_s) = (way.dense, way.predicted);
    match samples {
        Ok(samples) => {
            row.samples = samples.len();
            row.time_s = kronsparse::measure::interquartile_mean(&samples).filter(|&seconds| seconds > 0.0);
            if row.time_s.is_none() {
                row.reason = "the clock did not move while it ran".into();
            }
        }
        Err(reason) => row.reason = reason,
    }
    row
}

/// Errors: what runs is not this way, whose time it would be taken for.
pub(super) fn same(run: &[Step], way: &Way) -> kronsparse::Result<()> {
    if run == way.steps {
        return Ok(());
    }
    Err(Error::Unsupported { what: name(&way.steps), why: format!("what runs in its place is {}", text(run)) })
}

/// Steps in short.
fn name(steps: &[Step]) -> String {
    Measured { steps: steps.to_vec(), seconds: 0.0, samples: 0 }.name()
}

/// Steps with everything that tells them apart.
fn text(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use kronsparse::plan::Algorithm;
    use kronsparse::plan::gpu::Cut;

    use super::*;
    use crate::validate::{Device, Settings};

    #[test]
    fn a_time_belongs_to_the_steps_that_ran() {
        let step = |algorithm| vec![Step::algorithm(Cut { at: 0, count: 1 }, algorithm)];
        let way = Way::named(step(Algorithm::Csr), Some(1e-3), 1);
        assert!(same(&step(Algorithm::Csr), &way).is_ok());
        let fewer = Step { arguments: "threads=2".into(), ..step(Algorithm::Csr)[0].clone() };
        for other in [step(Algorithm::Dense), vec![fewer], Vec::new()] {
            let why = same(&other, &way).unwrap_err().to_string();
            assert!(why.contains("csr") && why.contains(&text(&other)), "{why}");
        }
        let blank = Row::blank(&Settings::new(Device::Cpu, 7).problem(0), 0, 7, "a machine");
        let row = filled(&blank, &way, Ok(vec![2e-3, 1e-3, 3e-3]));
        assert_eq!((row.time_s, row.samples, row.dense, row.way.as_str()), (Some(2e-3), 3, false, "csr"));
        let row = filled(&blank, &way, Ok(vec![0.0]));
        assert!(row.time_s.is_none() && row.reason.contains("clock"), "{row:?}");
        let row = filled(&blank, &way, Err("it fails".into()));
        assert_eq!((row.time_s, row.reason.as_str()), (None, "it fails"));
    }
}
