//! Advice for every linear weight of a model, and their sum.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Advice, Objective, Options, Target, advise};
use crate::convert::{Progress, Selection, Skipped};
use crate::io::Model;
use crate::plan::gpu::Precision;
use crate::{DType, Error, Result};

/// One weight of a model.
#[derive(Clone, Debug)]
pub struct LayerAdvice {
    /// The tensor, `NAME.weight`.
    pub tensor: String,
    /// Outputs and inputs.
    pub shape: [usize; 2],
    /// Element type that was advised for: that of the tensor, unless another one was asked for.
    pub dtype: DType,
    /// The advice, shared by weights of one shape and type; or why no chain suits the weight, which then stays dense.
    pub advice: std::result::Result<Arc<Advice>, String>,
}

impl LayerAdvice {
    /// The recommended chain, by its place in the advice; `None` is "stay dense". One set of weights serves all numbers of
    /// vectors, so this is the verdict for all of them together.
    pub fn chain(&self) -> Option<(&Advice, usize)> {
        let advice = self.advice.as_ref().ok()?;
        let overall = advice.overall();
        overall.best.filter(|_| !overall.stay_dense).map(|best| (advice.as_ref(), best))
    }
}

/// The sum over a model for one number of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// Number of vectors.
    pub batch: usize,
    /// Seconds, joules or bytes (weights and activations of all layers) with dense matrices; why not, where layers have no figure.
    pub dense: std::result::Result<f64, String>,
    /// The same with the recommended chains.
    pub advised: std::result::Result<f64, String>,
}

/// Advice for a model.
#[derive(Clone, Debug)]
pub struct ModelAdvice {
    /// The weights, sorted by name.
    pub layers: Vec<LayerAdvice>,
    /// Two-dimensional weights that are not advised on, and why.
    pub skipped: Vec<Skipped>,
    /// Parameters of the weights as they are.
    pub parameters: usize,
    /// Parameters with the recommended chains.
    pub parameters_advised: usize,
    /// One for each number of vectors: the linear layers alone, one after the other.
    pub totals: Vec<Total>,
}

/// Advises on every weight that `selection` takes, as [`crate::convert::convert`] would. `kind` is an element type other than that
/// of the tensors. `progress` is called before each layer.
///
/// Errors: what [`Options::check`] refuses; a file that is no model or has no such weight; what [`advise`] refuses, but for shapes
/// that no chain suits ([`Error::NoChain`]), which are layers that stay dense.
pub fn advise_model(
    path: &Path,
    selection: &Selection,
    kind: Option<(DType, Precision)>,
    options: &Options,
    target: &Target,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<ModelAdvice> {
    options.check()?;
    let model = Model::open(path)?;
    let (selected, skipped) = selection.split(&model)?;
    let mut known: HashMap<([usize; 2], DType), std::result::Result<Arc<Advice>, String>> = HashMap::new();
    let (mut layers, total) = (Vec::with_capacity(selected.len()), selected.len());
    for (done, weight) in selected.into_iter().enumerate() {
        progress(Progress { done, total, tensor: &weight.tensor });
        let (dtype, precision) = kind.unwrap_or((weight.dtype, Precision::Full));
        let [rows, cols] = weight.shape;
        let key = (weight.shape, dtype);
        let advice = match known.get(&key) {
            Some(advice) => advice.clone(),
            None => {
                let advice = match advise(rows, cols, dtype, precision, options, target) {
                    Ok(advice) => Ok(Arc::new(advice)),
                    Err(Error::NoChain { why, .. }) => Err(why),
                    Err(error) => {
                        let why = format!("tensor \"{}\": {error}", weight.tensor);
                        return Err(Error::File { path: path.into(), why });
                    }
                };
                known.insert(key, advice.clone());
                advice
            }
        };
        layers.push(LayerAdvice { tensor: weight.tensor, shape: weight.shape, dtype, advice });
    }
    let mut advice = ModelAdvice { layers, skipped, parameters: 0, parameters_advised: 0, totals: Vec::new() };
    advice.sum(options, target, kind)?;
    Ok(advice)
}

impl ModelAdvice {
    fn sum(&mut self, options: &Options, target: &Target, kind: Option<(DType, Precision)>) -> Result<()> {
        let dense = |layer: &LayerAdvice| layer.shape[0] * layer.shape[1];
        let advised = |layer: &LayerAdvice| match layer.chain() {
            Some((advice, best)) => advice.chains()[best].chain.parameters(),
            None => dense(layer),
        };
        (self.parameters, self.parameters_advised) =
            (self.layers.iter().map(dense).sum(), self.layers.iter().map(advised).sum());
        for (at, &batch) in options.batches.iter().enumerate() {
            let (mut dense, mut advised) = (Ok(0.0), Ok(0.0));
            for layer in &self.layers {
                let whole = match &layer.advice {
                    Ok(advice) => pick(&advice.dense.costs[at], options.objective),
                    // No chain suits it; it takes its time all the same.
                    Err(_) => {
                        let precision = kind.map_or(Precision::Full, |kind| kind.1);
                        let case = super::Case { dtype: layer.dtype, precision, layout: options.layout, batch };
                        pick(&target.dense(layer.shape[0], layer.shape[1], &case)?, options.objective)
                    }
                };
                let best = match layer.chain() {
                    Some((advice, best)) => pick(&advice.chains[best].costs[at], options.objective),
                    None => whole.clone(),
                };
                add(&mut dense, whole, &layer.tensor);
                add(&mut advised, best, &layer.tensor);
            }
            self.totals.push(Total { batch, dense, advised });
        }
        Ok(())
    }
}

fn pick(cost: &super::Cost, objective: Objective) -> std::result::Result<f64, String> {
    match objective {
        Objective::Time => Ok(cost.seconds),
        Objective::Energy => cost.joules.clone(),
        Objective::Memory => Ok(cost.memory.bytes()),
    }
}

/// Adds a figure; the first layer without one is named.
fn add(sum: &mut std::result::Result<f64, String>, figure: std::result::Result<f64, String>, tensor: &str) {
    match (&mut *sum, figure) {
        (Ok(sum), Ok(figure)) => *sum += figure,
        (Ok(_), Err(why)) => *sum = Err(format!("{tensor}: {why}")),
        (Err(_), _) => {}
    }
}
