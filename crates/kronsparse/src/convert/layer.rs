//! One weight: factorize it into each candidate, keep the best, measure what is stored.

use super::select::Weight;
use super::{Converted, Options};
use crate::factorize::{self, factorize};
use crate::io::{AnyVec, Array, Model, Visit, visit_dtype};
use crate::scalar::Wide;
use crate::{Chain, ChainPattern, DType, Error, Matrix, Result, Scalar};

/// The factors of the best candidate under their names, in the weight's own dtype, and the report of it.
///
/// `candidates` is not empty. Half precision is factorized in f32 and rounded at the end.
pub(super) fn convert_weight(
    model: &Model,
    weight: &Weight,
    candidates: &[ChainPattern],
    options: &Options,
) -> Result<(Converted, Vec<(String, Array)>)> {
    let work = if weight.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    visit_dtype(work, Best { model, weight, candidates, options }).map_err(|error| match error {
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

    /// `W` is the type to compute in.
    fn visit<W: Scalar>(self) -> Self::Output {
        let Best { model, weight, candidates, options } = self;
        let dense: Matrix<W> = model.array(&weight.tensor)?.into_matrix(&weight.tensor)?;
        let settings = factorize::Options { order: options.order, orthonormal: true, threads: options.threads };
        let mut best: Option<(f64, Chain<W>)> = None;
        for pattern in candidates {
            let found = factorize(&dense, pattern, &settings)?;
            if best.as_ref().is_none_or(|(error, _)| found.relative_error < *error) {
                best = Some((found.relative_error, found.chain));
            }
        }
        let (_, chain) = best.ok_or(Error::EmptyChain)?;
        visit_dtype(weight.dtype, Store { weight, dense: &dense, chain: &chain, tried: candidates.len() })
    }
}

/// Rounds the chain to the weight's dtype, measures it, and names its factors.
struct Store<'a, W> {
    weight: &'a Weight,
    dense: &'a Matrix<W>,
    chain: &'a Chain<W>,
    tried: usize,
}

impl<W: Scalar> Visit for Store<'_, W> {
    type Output = Result<(Converted, Vec<(String, Array)>)>;

    /// `T` is the type to store.
    fn visit<T: Scalar>(self) -> Self::Output {
        let Store { weight, dense, chain, tried } = self;
        let stored: Chain<T> = chain.cast();
        let finite = |x: &T| {
            let (re, im) = x.widen().parts();
            re.is_finite() && im.is_finite()
        };
        if let Some(at) = stored.factors().iter().position(|f| !f.weights().iter().all(finite)) {
            return Err(Error::Numerical {
                what: format!("factor {at} of {} as {}", chain.pattern(), T::DTYPE),
                why: "a weight is too large for this dtype".into(),
            });
        }
        // The product is expanded in the working type, so that only what is stored is rounded to T.
        let relative_error = stored.cast::<W>().to_dense().relative_error(dense)?;
        let converted = Converted {
            tensor: weight.tensor.clone(),
            shape: weight.shape,
            dtype: weight.dtype,
            chain: stored.pattern().clone(),
            relative_error,
            tried,
        };
        let factors = stored.into_factors().into_iter().enumerate();
        let arrays = factors.map(|(at, factor)| {
            let shape = factor.pattern().shape().to_vec();
            Ok((weight.factor_name(at), Array::new(shape, AnyVec::new(factor.into_weights()))?))
        });
        Ok((converted, arrays.collect::<Result<Vec<_>>>()?))
    }
}
