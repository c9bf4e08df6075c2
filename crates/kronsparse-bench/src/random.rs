//! Random numbers for inputs: small, fast, the same everywhere for one seed.

use kronsparse::Scalar;
use kronsparse::scalar::Wide;

/// SplitMix64 (Steele, Lea, Flood, *Fast splittable pseudorandom number generators*, 2014).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts the sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// A seed from the system: another one at every call.
    pub fn fresh_seed() -> u64 {
        use std::hash::{BuildHasher, Hasher};
        let keyed = std::collections::hash_map::RandomState::new().build_hasher().finish();
        // 48 bits are enough to never repeat, and survive every tool that reads numbers as doubles.
        keyed >> 16
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`, with 53 random bits.
    pub fn symmetric(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * 2f64.powi(-52) - 1.0
    }

    /// Uniform in `0..n`; `n` must be positive. (The bias of the multiplication is below `n / 2⁶⁴`.)
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// A number of type `T` whose parts are uniform in `[-scale, scale)`, rounded once.
    pub fn scalar<T: Scalar>(&mut self, scale: f64) -> T {
        let (re, im) = (self.symmetric(), if T::DTYPE.is_complex() { self.symmetric() } else { 0.0 });
        T::narrow(T::Wide::from_parts(scale * re, scale * im))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        // First outputs of the reference implementation for seed 1234567.
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn uniform_and_within_bounds() {
        let mut random = Random::new(7);
        let samples: Vec<f64> = (0..20_000).map(|_| random.symmetric()).collect();
        assert!(samples.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = samples.iter().sum::<f64>() / 2e4;
        let variance = samples.iter().map(|x| x * x).sum::<f64>() / 2e4;
        // Standard errors are 0.004 and 0.002.
        assert!(mean.abs() < 0.02 && (variance - 1.0 / 3.0).abs() < 0.01, "{mean} {variance}");
        let mut seen = [0; 5];
        (0..5_000).for_each(|_| seen[random.below(5)] += 1);
        assert!(seen.iter().all(|&n| n > 800), "{seen:?}");
        assert_ne!(Random::fresh_seed(), Random::fresh_seed());
    }
}
