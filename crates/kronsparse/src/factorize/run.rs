//! The hierarchy itself: split after split in the working type, then rounding, then the true error.

use std::ops::Range;

use rayon::prelude::*;

use super::low_rank::{Field, Weight};
use super::order::{bound, cuts};
use super::split::Split;
use super::{Factorization, Options, Step};
use crate::scalar::Wide;
use crate::{Chain, ChainPattern, Error, Factor, Matrix, Pattern, Result, Scalar};

/// A product of consecutive factors of the chain, as one Kronecker-sparse matrix in the working type.
struct Part<W> {
    range: Range<usize>,
    pattern: Pattern,
    weights: Vec<W>,
}

fn to_work<T: Scalar, W: Wide>(x: T, scale: f64) -> W {
    let (re, im) = x.widen().parts();
    W::from_parts(re * scale, im * scale)
}

/// Factorizes with working type `W`: `f64`, or `Complex64` where `T` is complex.
pub(super) fn run<T: Scalar, W: Field>(
    matrix: &Matrix<T>,
    pattern: &ChainPattern,
    options: &Options,
) -> Result<Factorization<T>> {
    let len = pattern.patterns().len();
    let product = pattern.product(0..len)?;
    // The largest entry becomes one, by a power of two, so that no square overflows or vanishes.
    let exponent = magnitude(matrix)?;
    let scale = 2f64.powi(-exponent);
    let source = Source::new(matrix, product, scale);
    let list = cuts(options.order, len);

    let mut parts: Vec<Part<W>> = Vec::with_capacity(len);
    let mut steps = Vec::with_capacity(list.len());
    let mut weight_at = 0; // the part that carries the magnitude; all others are orthonormal
    for (number, cut) in list.iter().enumerate() {
        let patterns = [pattern.product(cut.range.start..cut.at)?, pattern.product(cut.at..cut.range.end)?];
        let split = Split::new(patterns[0], patterns[1], cut.at - 1)?;
        // The next cut is in one of the two halves or elsewhere; leave the weight on its side.
        let side = match list.get(number + 1) {
            _ if !options.orthonormal => Weight::Both,
            Some(next) if next.at < cut.at => Weight::Left,
            _ => Weight::Right,
        };
        let unit = T::DTYPE.unit_roundoff();
        let (left, right, energy) = if number == 0 {
            split.decompose(&source.weights[..], |x: T| to_work::<T, W>(x, scale), side, unit)?
        } else {
            let at = parts.iter().position(|p| p.range == cut.range).expect("a cut takes an existing part");
            if options.orthonormal {
                move_weight(&mut parts, weight_at, at)?;
            }
            weight_at = at;
            let part = parts.remove(at);
            split.decompose(&part.weights, |x| x, side, unit)?
        };
        let ranges = [cut.range.start..cut.at, cut.at..cut.range.end];
        let halves = ranges.into_iter().zip(patterns).zip([left, right]);
        let halves = halves.map(|((range, pattern), weights)| Part { range, pattern, weights });
        parts.splice(weight_at..weight_at, halves);
        weight_at += usize::from(side == Weight::Right);
        steps.push(Step {
            factors: cut.range.clone(),
            split: cut.at,
            rank: split.rank(),
            relative_error: if energy.total > 0.0 { (energy.lost / energy.total).sqrt() } else { 0.0 },
        });
    }

    let factors =
        if list.is_empty() { vec![Factor::new(product, source.weights.to_vec())?] } else { round(parts, exponent)? };
    let relative_error = error::<T, W>(&factors, &source, &list)?;
    if !relative_error.is_finite() {
        return Err(Error::Numerical {
            what: format!("rounding the factors of {pattern} to {}", T::DTYPE),
            why: format!("they do not fit in its range; the largest entry of the matrix is about 2^{exponent}"),
        });
    }
    let bound = if options.orthonormal || len <= 2 { bound(&list) } else { f64::INFINITY };
    Ok(Factorization { chain: Chain::new(factors)?, relative_error, steps, bound })
}

/// The exponent of the largest entry, or the first entry that is not finite.
fn magnitude<T: Scalar>(matrix: &Matrix<T>) -> Result<i32> {
    let size = |x: T| {
        let (re, im) = x.widen().parts();
        if re.is_finite() && im.is_finite() { re.abs().max(im.abs()) } else { f64::INFINITY }
    };
    let cols = matrix.cols();
    let rows = matrix.as_slice().par_chunks(cols).map(|row| row.iter().fold(0.0, |max: f64, &x| max.max(size(x))));
    let rows: Vec<f64> = rows.collect();
    if let Some(row) = rows.iter().position(|max| max.is_infinite()) {
        let col = matrix.row(row).iter().position(|&x| size(x).is_infinite()).expect("the row has one");
        return Err(Error::Numerical {
            what: "factorizing a matrix".into(),
            why: format!("entry ({row}, {col}) is {:?}; every entry must be finite", matrix.get(row, col)),
        });
    }
    let largest = rows.iter().fold(0.0, |max: f64, &x| max.max(x));
    Ok(if largest > 0.0 { libm::ilogb(largest).clamp(-1000, 1000) } else { 0 })
}

/// The matrix as the weights of the chain's product, and what lies outside of its support.
struct Source<'m, T: Scalar> {
    weights: std::borrow::Cow<'m, [T]>,
    scale: f64,
    /// `‖A‖²` outside of the support, scaled.
    outside: f64,
}

impl<'m, T: Scalar> Source<'m, T> {
    fn new(matrix: &'m Matrix<T>, product: Pattern, scale: f64) -> Source<'m, T> {
        let dense = product.a() == 1 && product.d() == 1;
        if dense {
            return Source { weights: matrix.as_slice().into(), scale, outside: 0.0 };
        }
        let inside = Factor::from_fn(product, |i, o, l, j| matrix.get(product.row(i, o, j), product.col(i, l, j)));
        let energy = |row: usize| -> f64 {
            let entries = matrix.row(row).iter().enumerate().filter(|&(col, _)| !product.contains(row, col));
            entries.map(|(_, &x)| to_work::<T, T::Wide>(x, scale).abs2()).sum()
        };
        let outside = (0..matrix.rows()).map(energy).sum();
        Source { weights: inside.into_weights().into(), scale, outside }
    }
}

/// Moves the magnitude from part `from` to part `to` through all parts between, by pairwise QR.
fn move_weight<W: Field>(parts: &mut [Part<W>], from: usize, to: usize) -> Result<()> {
    let pairs: Vec<usize> = if from < to { (from..to).collect() } else { (to..from).rev().collect() };
    let side = if from < to { Weight::Right } else { Weight::Left };
    for at in pairs {
        let split = Split::new(parts[at].pattern, parts[at + 1].pattern, at)?;
        let (left, right) = split.shift(&parts[at].weights, &parts[at + 1].weights, side)?;
        (parts[at].weights, parts[at + 1].weights) = (left, right);
    }
    Ok(())
}

/// The factors in the element type, times `2^exponent` in all. Powers of two level their root mean squares, so that none
/// leaves the range of a narrow type where another has room.
fn round<T: Scalar, W: Field>(parts: Vec<Part<W>>, exponent: i32) -> Result<Vec<Factor<T>>> {
    let rms = |part: &Part<W>| {
        let energies = part.weights.par_chunks(1 << 16).map(|run| run.iter().map(|x| x.abs2()).sum::<f64>());
        (energies.collect::<Vec<f64>>().iter().sum::<f64>() / part.weights.len() as f64).sqrt()
    };
    let logs: Vec<f64> = parts.iter().map(|part| rms(part).log2()).collect();
    let mean = (logs.iter().sum::<f64>() + f64::from(exponent)) / logs.len() as f64;
    let mut left = exponent;
    let last = parts.len() - 1;
    let factors = parts.into_iter().enumerate().map(|(at, part)| {
        // A zero matrix has no finite mean: its factors stay as they are.
        let wanted = (mean - logs[at]).round();
        let shift = if at == last || !wanted.is_finite() { left } else { wanted as i32 };
        left -= shift;
        let narrow = |x: &W| {
            let (re, im) = x.parts();
            T::narrow(T::Wide::from_parts(libm::ldexp(re, shift), libm::ldexp(im, shift)))
        };
        Factor::new(part.pattern, part.weights.par_iter().map(narrow).collect())
    });
    factors.collect()
}

/// `‖A − W‖_F / ‖A‖_F`: the rounded factors are multiplied back in the working type along the tree of cuts, and the last
/// product is compared with the matrix line by line, without being stored.
fn error<T: Scalar, W: Field>(
    factors: &[Factor<T>],
    source: &Source<'_, T>,
    cuts: &[super::order::Cut],
) -> Result<f64> {
    let norm: f64 = source
        .weights
        .par_chunks(1 << 12)
        .map(|run| energy::<T, W>(run, source.scale))
        .collect::<Vec<_>>()
        .iter()
        .sum();
    let Some((root, rest)) = cuts.split_first() else {
        return Ok(relative(source.outside, norm + source.outside));
    };
    let widen = |(at, factor): (usize, &Factor<T>)| Part {
        range: at..at + 1,
        pattern: factor.pattern(),
        weights: factor.weights().iter().map(|&x| to_work::<T, W>(x, 1.0)).collect(),
    };
    let mut parts: Vec<Part<W>> = factors.iter().enumerate().map(widen).collect();
    for cut in rest.iter().rev() {
        let at = parts.iter().position(|p| p.range.end == cut.at).expect("the left half exists");
        let right = parts.remove(at + 1);
        let left = &mut parts[at];
        let split = Split::new(left.pattern, right.pattern, cut.at - 1)?;
        left.weights = split.product(&left.weights, &right.weights);
        left.pattern = left.pattern.product(right.pattern).expect("a chainable pair");
        left.range = cut.range.clone();
    }
    let split = Split::new(parts[0].pattern, parts[1].pattern, root.at - 1)?;
    let scale = source.scale;
    let inside = split.sum_lines(&parts[0].weights, &parts[1].weights, |first, values| {
        let pairs = values.iter().zip(&source.weights[first..]);
        pairs
            .map(|(&w, &a)| {
                let (re, im) = w.parts();
                (W::from_parts(re * scale, im * scale) - to_work::<T, W>(a, scale)).abs2()
            })
            .sum()
    });
    Ok(relative(inside + source.outside, norm + source.outside))
}

fn energy<T: Scalar, W: Field>(run: &[T], scale: f64) -> f64 {
    run.iter().map(|&x| to_work::<T, W>(x, scale).abs2()).sum()
}

fn relative(error: f64, norm: f64) -> f64 {
    if norm > 0.0 { (error / norm).sqrt() } else { error.sqrt() }
}
