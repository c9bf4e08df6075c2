//! The three outcomes, and what a test makes of many of them.

use std::collections::BTreeMap;
use std::fmt;

use kronsparse::{DType, Layout};

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Right within the tolerance.
    Pass,
    /// Wrong, with the reason.
    Fail(String),
    /// The engine said that it cannot do this, and the test allows it; with the test's reason once [judged](Outcome::against).
    Unsupported(String),
}

impl Outcome {
    /// Holds the outcome against the test's list: only what stands there may be unsupported, and it must be.
    pub(crate) fn against(self, refusal: Option<&'static str>) -> Outcome {
        match (self, refusal) {
            (Outcome::Unsupported(_), Some(reason)) => Outcome::Unsupported(reason.into()),
            (Outcome::Unsupported(why), None) => Outcome::Fail(format!("required, but {why}")),
            (Outcome::Pass, Some(reason)) => Outcome::Fail(format!("runs, but is listed as unsupported: {reason}")),
            (outcome, _) => outcome,
        }
    }
}

/// One run of one case.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) case: String,
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) batch: usize,
    pub(crate) engine: String,
    pub(crate) outcome: Outcome,
}

/// All runs of a test.
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) records: Vec<Record>,
}

impl Report {
    /// The runs that failed.
    pub(crate) fn failed(&self) -> Vec<&Record> {
        self.records.iter().filter(|r| matches!(r.outcome, Outcome::Fail(_))).collect()
    }
    /// How many runs passed.
    pub(crate) fn passed(&self) -> usize {
        self.records.iter().filter(|r| r.outcome == Outcome::Pass).count()
    }
    /// How many runs were unsupported, by reason.
    pub(crate) fn unsupported(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for record in &self.records {
            if let Outcome::Unsupported(why) = &record.outcome {
                *reasons.entry(why.as_str()).or_default() += 1;
            }
        }
        reasons
    }
    /// What makes the test fail, if anything does: a failed run, or that nothing ran.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let failed = self.failed();
        if !failed.is_empty() {
            return Err(format!("{} runs failed", failed.len()));
        }
        if self.passed() == 0 {
            return Err("nothing ran".into());
        }
        Ok(())
    }
    /// Prints the report and passes or panics.
    pub(crate) fn assert(&self) {
        println!("{self}");
        if let Err(why) = self.verdict() {
            panic!("{why}\n{self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        let failed = self.failed();
        for record in failed.iter().take(SHOWN) {
            let Record { case, dtype, layout, batch, engine, outcome } = record;
            let Outcome::Fail(why) = outcome else { continue };
            writeln!(f, "FAIL {case} {dtype} {layout} n={batch} {engine}: {why}")?;
        }
        if failed.len() > SHOWN {
            writeln!(f, "… and {} more", failed.len() - SHOWN)?;
        }
        for (reason, count) in self.unsupported() {
            writeln!(f, "unsupported: {count} runs: {reason}")?;
        }
        write!(
            f,
            "{} runs: {} passed, {} failed, {} unsupported. Again with KRONSPARSE_SEED={}",
            self.records.len(),
            self.passed(),
            failed.len(),
            self.unsupported().values().sum::<usize>(),
            self.seed
        )
    }
}
