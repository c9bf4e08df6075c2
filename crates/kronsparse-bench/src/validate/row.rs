//! A line of `validate.csv`: one way of one problem, what was predicted of it and what was measured.

use kronsparse::ChainPattern;
use kronsparse::plan::{Layout, Problem};
use serde::{Deserialize, Serialize};

use crate::definition::Case;
use crate::journal::Line;
use crate::{Cache, Kind};

/// One way of one problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The problem's number.
    pub number: usize,
    /// How many rows the problem has.
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
    /// Median of the samples.
    pub median_s: Option<f64>,
    /// How many samples.
    pub samples: usize,
    /// Why there is no time.
    pub reason: String,
    /// The steps with everything that tells them apart.
    pub steps: String,
    /// The machine.
    pub device: String,
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
            "median_s",
            "samples",
            "reason",
            "steps",
            "device",
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
            median_s: None,
            samples: 0,
            reason: String::new(),
            steps: String::new(),
            device: device.into(),
        }
    }

    /// The problem in a few words.
    pub fn problem(&self) -> String {
        let Row { chain, dtype, layout, n, .. } = self;
        format!("{chain} {dtype} {layout} n = {n}")
    }
}
