//! Which tensors of a model are linear weights to convert.

use std::path::Path;

use regex::Regex;

use super::Skipped;
use crate::io::Model;
use crate::{DType, Error, Result};

/// The rule. A tensor is a candidate if it is named `NAME.weight` (or just `weight`), has two dimensions, neither of them
/// zero, and holds real numbers (`F16`, `BF16`, `F32`, `F64`). Of the candidates these are taken:
///
/// 1. those whose name matches `include`, or all without it;
/// 2. but none whose name matches `exclude`;
/// 3. and none whose name contains `embed` or `norm` in any case, unless `embeddings` is set: a look-up table is no
///    linear layer, and a norm has no matrix to approximate.
///
/// Expressions are searched for anywhere in the full name of the tensor.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only names that match.
    pub include: Option<Regex>,
    /// No names that match.
    pub exclude: Option<Regex>,
    /// Take weights whose names contain `embed` or `norm` too.
    pub embeddings: bool,
}

/// A weight that is to be converted.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub(crate) tensor: String,
    pub(crate) shape: [usize; 2],
    pub(crate) dtype: DType,
}

impl Weight {
    /// `NAME.factors.K` for `NAME.weight`.
    pub(super) fn factor_name(&self, k: impl std::fmt::Display) -> String {
        format!("{}factors.{k}", self.stem())
    }

    /// The metadata key of the chain, `kronsparse.chain.NAME`.
    pub(super) fn chain_key(&self) -> String {
        format!("kronsparse.chain.{}", self.stem().trim_end_matches('.'))
    }

    fn stem(&self) -> &str {
        self.tensor.strip_suffix("weight").expect("a candidate's name ends so")
    }
}

impl Selection {
    /// The weights to convert and the candidates that are not, both sorted by name.
    pub(crate) fn split(&self, model: &Model) -> Result<(Vec<Weight>, Vec<Skipped>)> {
        let (mut selected, mut skipped) = (Vec::new(), Vec::new());
        let mut names: Vec<&str> = model.names().collect();
        names.sort_unstable();
        for &name in &names {
            let Some((shape, dtype)) = linear(model, name)? else { continue };
            let tensor = name.to_owned();
            match self.refusal(name) {
                None => selected.push(Weight { tensor, shape, dtype }),
                Some(reason) => skipped.push(Skipped { tensor, shape, reason }),
            }
        }
        if selected.is_empty() {
            return Err(self.nothing(model.path(), &names, &skipped));
        }
        Ok((selected, skipped))
    }

    /// Why a candidate is not taken.
    fn refusal(&self, name: &str) -> Option<String> {
        if self.include.as_ref().is_some_and(|include| !include.is_match(name)) {
            return Some("does not match the included names".into());
        }
        if self.exclude.as_ref().is_some_and(|exclude| exclude.is_match(name)) {
            return Some("excluded".into());
        }
        let lower = name.to_lowercase();
        let word = ["embed", "norm"].into_iter().find(|word| !self.embeddings && lower.contains(word))?;
        Some(format!("its name contains `{word}`: no linear layer"))
    }

    fn nothing(&self, path: &Path, names: &[&str], skipped: &[Skipped]) -> Error {
        let list = |names: Vec<&str>| {
            let some: Vec<String> = names.iter().take(6).map(|n| format!("\"{n}\"")).collect();
            format!("{}{}", some.join(", "), if names.len() > 6 { ", …" } else { "" })
        };
        let why = if !skipped.is_empty() {
            let candidates: Vec<&str> = skipped.iter().map(|s| s.tensor.as_str()).collect();
            format!("no weight is selected; {} two-dimensional weights exist: {}", candidates.len(), list(candidates))
        } else if names.is_empty() {
            "no weight is selected: the file has no tensors".into()
        } else {
            format!(
                "no tensor NAME.weight has two dimensions and real numbers; {} tensors exist: {}",
                names.len(),
                list(names.to_vec())
            )
        };
        Error::File { path: path.into(), why }
    }
}

/// Shape and dtype of a candidate.
fn linear(model: &Model, name: &str) -> Result<Option<([usize; 2], DType)>> {
    if !(name == "weight" || name.ends_with(".weight")) {
        return Ok(None);
    }
    let &[rows, cols] = model.shape(name)? else { return Ok(None) };
    // A dtype that the library does not compute with, such as I8, is no candidate.
    let Ok(dtype) = model.dtype(name) else { return Ok(None) };
    Ok((rows > 0 && cols > 0 && !dtype.is_complex()).then_some(([rows, cols], dtype)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_by_name() {
        let regex = |text: &str| Some(Regex::new(text).unwrap());
        let plain = Selection::default();
        assert_eq!(plain.refusal("encoder.layer.0.output.dense.weight"), None);
        assert!(plain.refusal("Word_Embeddings.weight").unwrap().contains("`embed`"));
        assert!(plain.refusal("h.0.LayerNorm.weight").unwrap().contains("`norm`"));
        let some = Selection { include: regex("layer\\.[01]\\."), exclude: regex("query"), embeddings: true };
        assert_eq!(some.refusal("layer.0.embed.weight"), None);
        assert_eq!(some.refusal("layer.1.query.weight").as_deref(), Some("excluded"));
        assert!(some.refusal("layer.2.key.weight").unwrap().contains("included"));
    }

    #[test]
    fn names_of_factors_and_keys() {
        let weight = |tensor: &str| Weight { tensor: tensor.into(), shape: [1, 1], dtype: DType::F32 };
        assert_eq!(weight("a.b.weight").factor_name(2), "a.b.factors.2");
        assert_eq!(weight("a.b.weight").chain_key(), "kronsparse.chain.a.b");
        assert_eq!(weight("weight").factor_name(0), "factors.0");
    }
}
