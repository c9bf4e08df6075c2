//! Joules of a multiplication on an H100, estimated: seconds of every step times the power that its kind of kernel drew.
//!
//! Basis: the 37 rows of `record/2026-11-22-h100` with an energy (`energy` and `chains_energy`: f16 and f32, batch-first,
//! n = 25088, calls of 40 µs to 1.7 ms, NVML's counter over 0.4 s of repeated calls, idle power of 113 to 122 W included). Their
//! joules over their seconds, in watts, least, median and most: kernels of this project 600, 713, 848; permute-bmm 552, 617,
//! 694; dense 709, 810, 910. With the medians the energy is within 0.84 and 1.19 times the measured one in all rows; a test of the
//! bench crate repeats this. Bytes and operations as further terms of a fit did not bring it closer.
//!
//! Nothing is known of other GPUs, of calls shorter than those (a GPU that waits draws less), or of f64 and TF32: for these there
//! is no estimate, and the sentence says what is missing. bf16 is taken to draw what f16 does.

use crate::DType;
use crate::plan::Algorithm;
use crate::plan::gpu::{Choice, Precision, StepWay};

/// Watts while a kernel of this project runs.
pub const KERNEL: f64 = 713.0;
/// Watts of permute-bmm.
pub const PERMUTE_BMM: f64 = 617.0;
/// Watts of a dense product, and of strided ones, which are the same library's.
pub const DENSE: f64 = 810.0;
/// The shortest call whose energy was measured, in seconds.
pub const SHORTEST: f64 = 40e-6;

/// Watts of a way of multiplying.
pub(super) fn watts(way: StepWay<'_>) -> f64 {
    match way {
        StepWay::Several(_) | StepWay::Pass(_) | StepWay::One(Choice::Kernel(_)) => KERNEL,
        StepWay::One(Choice::Library(Algorithm::PermuteBmm)) => PERMUTE_BMM,
        StepWay::One(Choice::Library(_)) => DENSE,
    }
}

/// Why there is no estimate for calls of `seconds` on the GPU called `name`, if so.
pub(super) fn missing(name: &str, dtype: DType, precision: Precision, seconds: f64) -> Option<String> {
    if !name.contains("H100") {
        return Some(format!("there are measurements of the power of an H100 only, not of {name}"));
    }
    if !matches!(dtype, DType::F16 | DType::Bf16 | DType::F32) || precision == Precision::Tf32 {
        let kind = if precision == Precision::Tf32 { "tf32" } else { dtype.name() };
        return Some(format!("power was measured of f16 and f32 only, not of {kind}"));
    }
    (seconds < SHORTEST).then(|| {
        format!(
            "power was measured of calls of {:.0} µs and more, and this one takes about {:.1} µs",
            SHORTEST * 1e6,
            seconds * 1e6
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_named() {
        let of = |name: &str, dtype, precision, seconds| missing(name, dtype, precision, seconds).unwrap_or_default();
        let full = Precision::Full;
        assert_eq!(of("NVIDIA H100 80GB HBM3", DType::F16, full, 1e-4), "");
        assert_eq!(of("H100", DType::Bf16, full, 40e-6), "");
        assert!(of("NVIDIA A100", DType::F16, full, 1e-4).contains("not of NVIDIA A100"));
        assert!(of("H100", DType::F64, full, 1e-4).contains("not of f64"));
        assert!(of("H100", DType::F32, Precision::Tf32, 1e-4).contains("not of tf32"));
        assert!(of("H100", DType::F32, full, 5e-6).contains("takes about 5.0 µs"));
    }

    #[test]
    fn steps_have_the_power_of_their_kind() {
        assert_eq!(watts(StepWay::One(&Choice::Library(Algorithm::PermuteBmm))), PERMUTE_BMM);
        assert_eq!(watts(StepWay::One(&Choice::Library(Algorithm::Dense))), DENSE);
    }
}
