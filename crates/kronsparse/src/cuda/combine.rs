//! A chain whose small neighbouring factors are multiplied together, once, before it is packed.

use crate::plan::gpu::{GpuMachine, Precision, groups};
use crate::scalar::Wide;
use crate::{Chain, Factor, Result, Scalar};

/// The same product with the groups of [`groups`] formed in f64 and rounded to `T` once. The chain itself where there is
/// nothing to combine, or where a weight of a product would not be finite.
pub(super) fn combined<T: Scalar>(chain: &Chain<T>, precision: Precision, machine: &GpuMachine) -> Result<Chain<T>> {
    let groups = groups(chain.pattern(), T::DTYPE, precision, machine);
    if groups.iter().all(|group| group.len() == 1) {
        return Ok(chain.clone());
    }
    let wide: Chain<f64> = chain.cast();
    let mut factors = Vec::with_capacity(groups.len());
    for group in groups {
        if group.len() == 1 {
            factors.push(chain.factors()[group.start].clone());
            continue;
        }
        let at = group.start;
        let product: Factor<T> = wide.fuse(group)?.factors()[at].cast();
        if product.weights().iter().any(|weight| !finite(*weight)) {
            return Ok(chain.clone());
        }
        factors.push(product);
    }
    Chain::new(factors)
}

fn finite<T: Scalar>(weight: T) -> bool {
    let (re, im) = weight.widen().parts();
    re.is_finite() && im.is_finite()
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::{ChainPattern, Layout, cpu, relative_error};

    fn random<T: Scalar<Wide = f64>>(pattern: &ChainPattern) -> Chain<T> {
        let mut rng = fastrand::Rng::new();
        let scales: Vec<f64> = pattern.patterns().iter().map(|p| (3.0 / p.c() as f64).sqrt()).collect();
        Chain::from_fn(pattern, |at, _, _, _, _| T::narrow((2.0 * rng.f64() - 1.0) * scales[at]))
    }

    fn compare<T: Scalar<Wide = f64>>(pattern: &ChainPattern, fewer: bool) {
        let chain = random::<T>(pattern);
        let short = combined(&chain, Precision::Full, &GpuMachine::h100()).unwrap();
        assert_eq!(short.factors().len() < chain.factors().len(), fewer, "{:?}", short.pattern().patterns());
        let mut rng = fastrand::Rng::new();
        let x: Vec<T> = (0..9 * chain.cols()).map(|_| T::narrow(2.0 * rng.f64() - 1.0)).collect();
        let multiply = |chain: &Chain<T>| {
            cpu::Operator::new(chain, cpu::Options::default()).unwrap().multiply(&x, 9, Layout::BatchFirst).unwrap()
        };
        let tolerance = T::DTYPE.tolerance_on_gpu(pattern.longest_sum(), pattern.patterns().len());
        let error = relative_error(&multiply(&short), &multiply(&chain));
        assert!(error <= tolerance, "{:?}: {error} > {tolerance}", pattern.patterns());
    }

    #[test]
    fn the_product_stays_the_same() {
        for size in [16, 64, 256, 1024] {
            let butterfly = ChainPattern::square_dyadic(size).unwrap();
            compare::<f16>(&butterfly, true);
            compare::<f32>(&butterfly, true);
            compare::<f64>(&butterfly, true);
        }
        compare::<f32>(&ChainPattern::butterfly(&[2, 3, 4, 2]).unwrap(), true);
        compare::<f32>(&ChainPattern::monarch(4096, 4096, 64, 64).unwrap(), false);
    }

    #[test]
    fn weights_that_overflow_or_are_no_numbers_stay_where_they_are() {
        let pattern = ChainPattern::square_dyadic(64).unwrap();
        let large = Chain::from_fn(&pattern, |_, _, _, _, _| f16::from_f32(2000.0));
        assert_eq!(combined(&large, Precision::Full, &GpuMachine::h100()).unwrap(), large);
        let nan = Chain::from_fn(&pattern, |at, i, _, _, _| f16::from_f32(if at + i == 0 { f32::NAN } else { 1.0 }));
        assert_eq!(combined(&nan, Precision::Full, &GpuMachine::h100()).unwrap().factors().len(), 6);
    }
}
