//! How far estimated gains are off, and when a verdict is therefore too close to call.
//!
//! A gain is the time of the dense matrix over that of a chain. What is compared is the estimated gain over the measured one, in the
//! committed records; a test of the bench crate repeats it and fails where the figures here are not those.

use std::fmt;

use super::verdict::WORTH;

/// Estimated over measured gains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// One in ten is below; none of fewer than ten.
    pub least: f64,
    /// One in ten is above; none of fewer than ten.
    pub most: f64,
    /// So many gains were compared.
    pub cases: usize,
    /// On what.
    pub machine: &'static str,
}

/// Of the planner: Monarch chains and two layers of a sentence encoder, f16, bf16 and f32, by this project's kernels, against cuBLAS,
/// caches cold, in `record/2026-11-23-h100/layers` and `record/2026-11-22-h100/chains`.
///
/// Estimated over measured times of the chains there, least, median and most: 0.91, 1.03, 1.16 with 8192 and 25088 vectors, 16 of 16
/// within a quarter; 0.07, 0.76, 1.03 with 1024, 5 of 12 within a quarter (the 0.07 is 162 µs for (1,768,192,2)(6,64,64,1), where
/// 25088 vectors take 51; most of the others are now multiplied by another kernel than was measured then). Most of these records were
/// looked at when the estimates were made. Chains of three factors and more were compared with nothing.
pub const GPU: Spread = Spread { least: 0.90, most: 1.66, cases: 28, machine: "an H100, with 1024 vectors and more" };

/// Of the planner for fewer than 1024 vectors: two Monarch chains in f16 with 1, 16 and 128 vectors, caches warm, in
/// `record/2026-11-22-h100/chains_small`. The estimates are of calls with cold caches, which were measured of two chains without dense.
pub const GPU_SMALL: Spread =
    Spread { least: 0.59, most: 2.48, cases: 6, machine: "an H100, with 1 to 128 vectors and warm caches" };

/// Of the CPU's formula: the cold rows of real numbers in `record/2026-11-22-epyc-zen4/quick`, single factors among them.
pub const CPU: Spread = Spread { least: 0.96, most: 1.22, cases: 14, machine: "two cores of a Zen 4" };

impl Spread {
    /// Whether an estimated gain that is off by as much as eight of ten were can be the other side of [`WORTH`] than it seems.
    pub fn is_too_close(self, gain: f64) -> bool {
        if gain >= WORTH { gain / self.most < WORTH } else { gain / self.least >= WORTH }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { least, most, cases, machine } = self;
        let share = if *cases < 10 { "all" } else { "eight of ten" };
        write!(
            f,
            "estimated gains were {least:.2} to {most:.2} times the measured ones in {share} of {cases} cases on {machine}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_is_too_close_where_the_spread_reaches_across() {
        let spread = Spread { least: 0.8, most: 1.5, cases: 9, machine: "a machine" };
        let close = [0.8, 0.85, 1.0, 1.5, 1.6].map(|gain| spread.is_too_close(gain));
        assert_eq!(close, [false, true, true, true, false]);
        // Estimates that are always too high turn gains only.
        let high = Spread { least: 1.04, most: 1.24, ..spread };
        assert_eq!([1.0, 1.06, 1.29, 1.31].map(|gain| high.is_too_close(gain)), [false, true, true, false]);
        assert!(spread.to_string().contains("0.80 to 1.50 times the measured ones in all of 9 cases on a machine"));
    }
}
