//! A model's linear weights turned into chains: safetensors in, safetensors out.
//!
//! Every weight that the rule of [`Selection`] takes is factorized into the chain that [`Target`] names, and
//! `NAME.weight` is replaced by `NAME.factors.0 …` in the tensor's own dtype. Every other tensor is copied bit for bit.
//! The metadata of the model are kept; `kronsparse.version` = `1` and, for each converted layer,
//! `kronsparse.chain.NAME` = `(a,b,c,d)(a,b,c,d)…` are added. [`Model::layer`](crate::io::Model::layer) reads a converted
//! layer with its bias.
//!
//! The pretrained weights of ordinary models are not chains: a conversion without training is lossy, and
//! [`Converted::relative_error`] says by how much.

mod budget;
mod layer;
mod select;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

pub use budget::{Budget, MAX_TRIED};
pub use select::Selection;

use crate::factorize::Order;
use crate::io::{Model, write_model};
use crate::{ChainPattern, ChainSpec, DType, Error, Result};

/// Which chain a weight becomes.
#[derive(Clone, Debug)]
pub enum Target {
    /// This chain, for every selected weight; one that it does not fit is an error.
    Chain(ChainSpec),
    /// For each weight, a chain of at most a share of the weight's parameters, chosen by the error that it gives.
    Budget(Budget),
}

/// What to convert, into what, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which weights.
    pub selection: Selection,
    /// Into which chains.
    pub target: Target,
    /// Order of the factorization's steps.
    pub order: Order,
    /// Threads at most; 0 means all.
    pub threads: usize,
}

/// A weight that became a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The tensor, `NAME.weight`.
    pub tensor: String,
    /// Rows (outputs) and columns (inputs).
    pub shape: [usize; 2],
    /// Its element type, and that of the chain.
    pub dtype: DType,
    /// The chain's patterns.
    pub chain: ChainPattern,
    /// `‖chain − weight‖_F / ‖weight‖_F`, of the chain as stored, after rounding to `dtype`.
    pub relative_error: f64,
    /// How many chains were factorized to choose this one.
    pub tried: usize,
}

impl Converted {
    /// Parameters of the dense weight.
    pub fn parameters_before(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
    /// Parameters of the chain.
    pub fn parameters_after(&self) -> usize {
        self.chain.parameters()
    }
}

/// A 2-D weight of real numbers that was left as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Skipped {
    /// The tensor, `NAME.weight`.
    pub tensor: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Why, in words.
    pub reason: String,
}

/// What a conversion did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The weights that became chains, sorted by name.
    pub converted: Vec<Converted>,
    /// The 2-D weights that did not, sorted by name.
    pub skipped: Vec<Skipped>,
    /// How many tensors were copied bit for bit, those of `skipped` included.
    pub copied: usize,
    /// Elements of the copied tensors.
    pub copied_elements: usize,
}

/// How far a conversion is, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Layers done.
    pub done: usize,
    /// Layers in all.
    pub total: usize,
    /// The tensor that is next.
    pub tensor: &'a str,
}

/// Converts the model `input` and writes `output`, atomically: on an error there is no file, or the older one.
///
/// `progress` is called before each layer. Errors: `output` is `input`; nothing is selected (the message lists names that
/// exist); a [`Target::Chain`] that does not fit a selected weight; no selected weight that the budget suits; weights with NaN
/// or infinity; and whatever reading, factorizing and writing can meet.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &Options,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Report> {
    if let (Ok(from), Ok(to)) = (input.canonicalize(), output.canonicalize())
        && from == to
    {
        let why = "the output is the input file; a conversion never replaces its input".into();
        return Err(Error::File { path: output.into(), why });
    }
    if let Target::Budget(budget) = &options.target {
        budget.check()?;
    }
    let model = Model::open(input)?;
    let (selected, mut skipped) = options.selection.split(&model)?;
    check_names(&model, &selected)?;
    // A chain that does not fit is found before the first factorization.
    let mut plans = Vec::with_capacity(selected.len());
    for weight in &selected {
        let [rows, cols] = weight.shape;
        match &options.target {
            Target::Chain(spec) => {
                let chain = spec.resolve(rows, cols).and_then(|chain| chain.ranks().map(|_| chain));
                plans.push(vec![chain.map_err(|e| Error::File {
                    path: input.into(),
                    why: format!("tensor \"{}\" of shape [{rows}, {cols}]: {e}", weight.tensor),
                })?]);
            }
            Target::Budget(budget) => plans.push(budget.candidates(rows, cols)),
        }
    }
    let mut report = Report::default();
    let mut replaced = BTreeMap::new();
    let mut metadata = BTreeMap::from([("kronsparse.version".to_owned(), "1".to_owned())]);
    let total = selected.len();
    for (done, (weight, candidates)) in selected.into_iter().zip(plans).enumerate() {
        progress(Progress { done, total, tensor: &weight.tensor });
        if candidates.is_empty() {
            let Target::Budget(budget) = &options.target else { unreachable!("a chain target has one candidate") };
            let reason = budget.why_nothing_fits(weight.shape);
            skipped.push(Skipped { tensor: weight.tensor, shape: weight.shape, reason });
            continue;
        }
        let (converted, arrays) = layer::convert_weight(&model, &weight, &candidates, options)?;
        metadata.insert(weight.chain_key(), converted.chain.to_string());
        replaced.insert(weight.tensor, arrays);
        report.converted.push(converted);
    }
    if report.converted.is_empty() {
        let first = &skipped.iter().find(|s| s.reason.contains("budget")).expect("something was selected");
        let why = format!("no weight can be converted: tensor \"{}\": {}", first.tensor, first.reason);
        return Err(Error::File { path: input.into(), why });
    }
    skipped.sort_by(|x, y| x.tensor.cmp(&y.tensor));
    report.skipped = skipped;
    for name in model.names().filter(|name| !replaced.contains_key(*name)) {
        report.copied += 1;
        report.copied_elements += model.shape(name)?.iter().product::<usize>();
    }
    write_model(output, &model, &replaced, &metadata)?;
    Ok(report)
}

/// Refuses a model that already has a tensor under a name that a factor would take.
fn check_names(model: &Model, selected: &[select::Weight]) -> Result<()> {
    let stems: HashSet<String> = selected.iter().map(|w| w.factor_name("")).collect();
    let taken =
        |name: &&str| name.rsplit_once("factors.").is_some_and(|(stem, _)| stems.contains(&format!("{stem}factors.")));
    match model.names().find(taken) {
        None => Ok(()),
        Some(name) => Err(Error::File {
            path: model.path().into(),
            why: format!("tensor \"{name}\": a weight beside it would be converted to this name; exclude that weight"),
        }),
    }
}
