//! One weight: factorize it into each candidate and keep the best.

use super::select::Weight;
use super::{Converted, Options};
use crate::factorize::{self, factorize};
use crate::io::{AnyVec, Array, Model, Visit, visit_dtype};
use crate::{Chain, ChainPattern, Error, Matrix, Result, Scalar};

/// The factors of the best candidate under their names, in the weight's own dtype, and the report of it.
///
/// `candidates` is not empty.
pub(super) fn convert_weight(
    model: &Model,
    weight: &Weight,
    candidates: &[ChainPattern],
    options: &Options,
) -> Result<(Converted, Vec<(String, Array)>)> {
    visit_dtype(weight.dtype, Best { model, weight, candidates, options }).map_err(|error| match error {
        known @ (Error::File { .. } | Error::Io { .. }) => known,
        other => Error::File { path: model.path().into(), why: format!("tensor \"{}\": {other}", weight.tensor) },
    })
}

struct Best<'a> {
    model: &'a Model,
    weight: &'a Weight,
    candidates: &'a [ChainPattern],
    options: &'a Options,
}

impl Visit for Best<'_> {
    type Output = Result<(Converted, Vec<(String, Array)>)>;

    fn visit<T: Scalar>(self) -> Self::Output {
        let Best { model, weight, candidates, options } = self;
        let dense: Matrix<T> = model.array(&weight.tensor)?.into_matrix(&weight.tensor)?;
        let settings = factorize::Options { order: options.order, orthonormal: true, threads: options.threads };
        let mut best: Option<(f64, Chain<T>)> = None;
        for pattern in candidates {
            // Its error is that of the factors as rounded to T, hence of what is stored.
            let found = factorize(&dense, pattern, &settings)?;
            if best.as_ref().is_none_or(|(error, _)| found.relative_error < *error) {
                best = Some((found.relative_error, found.chain));
            }
        }
        let (relative_error, chain) = best.ok_or(Error::EmptyChain)?;
        let converted = Converted {
            tensor: weight.tensor.clone(),
            shape: weight.shape,
            dtype: weight.dtype,
            chain: chain.pattern().clone(),
            relative_error,
            tried: candidates.len(),
        };
        let factors = chain.into_factors().into_iter().enumerate();
        let arrays = factors.map(|(at, factor)| {
            let shape = factor.pattern().shape().to_vec();
            Ok((weight.factor_name(at), Array::new(shape, AnyVec::new(factor.into_weights()))?))
        });
        Ok((converted, arrays.collect::<Result<Vec<_>>>()?))
    }
}
