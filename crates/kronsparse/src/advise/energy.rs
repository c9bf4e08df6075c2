//! Joules of a multiplication on an H100, estimated: seconds of every step times the power that its kind of kernel drew.
//!
//! Basis: the 37 rows of `record/2026-11-22-h100` with an energy (`energy` and `chains_energy`: f16 and f32, batch-first,
//! n = 25088, calls of 40 µs to 1.7 ms, NVML's counter over 0.4 s of repeated calls, idle power of 113 to 122 W included). Their
//! joules over their seconds, in watts, least, median and most: kernels of this project 600, 713, 848; permute-bmm 552, 617,
//! 694; dense 709, 810, 910. With the medians the energy is within 0.84 and 1.19 times the measured one in all rows; a test of the
//! bench crate repeats this. Bytes and operations as further terms of a fit did not bring it closer.
//!
//! Of other GPUs nothing is known but what a calibration measures: idle power, and that of a large product. Nothing is known of calls shorter than those (a GPU that waits draws less), or of f64 and TF32: for these there
//! is no estimate, and the sentence says what is missing. bf16 is taken to draw what f16 does.

use crate::DType;
use crate::plan::Algorithm;
use crate::plan::gpu::{ChainPlan, Choice, GpuMachine, Precision, StepWay};

/// Watts while a kernel of this project runs.
pub const KERNEL: f64 = 713.0;
/// Watts of permute-bmm.
pub const PERMUTE_BMM: f64 = 617.0;
/// Watts of a dense product, and of strided ones, which are the same library's.
pub const DENSE: f64 = 810.0;
/// The shortest call whose energy was measured, in seconds.
pub const SHORTEST: f64 = 40e-6;

/// Watts of that H100 with nothing to do, and of the large product of `calibrate` on one (`record/2026-11-23-h100-training/calibrate.txt`):
/// what it draws while the product runs, where the others are joules over seconds, with what comes before and after.
const IDLE: f64 = 117.0;
const BUSY: f64 = 665.0;

/// Watts of a way of multiplying: of the H100, or of another GPU in proportion to what it draws above its idle power in a large product.
pub(super) fn watts(way: StepWay<'_>, machine: &GpuMachine) -> f64 {
    let of_h100 = match way {
        StepWay::Several(_) | StepWay::Pass(_) | StepWay::One(Choice::Kernel(_)) => KERNEL,
        StepWay::One(Choice::Library(Algorithm::PermuteBmm)) => PERMUTE_BMM,
        StepWay::One(Choice::Library(_)) => DENSE,
    };
    match machine.watts {
        Some([idle, busy]) => idle + (of_h100 - IDLE) / (BUSY - IDLE) * (busy - idle),
        None => of_h100,
    }
}

/// Joules of a call by a plan, or why there is no estimate: the seconds of every step times its watts.
pub fn joules(name: &str, plan: &ChainPlan) -> std::result::Result<f64, String> {
    let (problem, machine) = (plan.problem(), plan.machine());
    match missing(name, machine, problem.dtype, problem.precision, plan.seconds()) {
        Some(why) => Err(why),
        None => Ok(plan.steps().iter().map(|step| step.seconds * watts(step.way, machine)).sum()),
    }
}

/// Why there is no estimate for calls of `seconds` on the GPU called `name`, if so.
pub(super) fn missing(
    name: &str,
    machine: &GpuMachine,
    dtype: DType,
    precision: Precision,
    seconds: f64,
) -> Option<String> {
    if !name.contains("H100") && machine.watts.is_none() {
        return Some(format!(
            "there are measurements of the power of an H100 only, not of {name}; `kronsparse calibrate` on it makes them"
        ));
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
        let h100 = GpuMachine::h100();
        let of =
            |name: &str, dtype, precision, seconds| missing(name, &h100, dtype, precision, seconds).unwrap_or_default();
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
        let h100 = GpuMachine::h100();
        let is = |way: StepWay<'_>, machine: &GpuMachine, expected: f64| {
            let found = watts(way, machine);
            assert!((found - expected).abs() < 1e-9, "{found} W, expected {expected} W");
        };
        is(StepWay::One(&Choice::Library(Algorithm::PermuteBmm)), &h100, PERMUTE_BMM);
        is(StepWay::One(&Choice::Library(Algorithm::Dense)), &h100, DENSE);
        // Half of the power above idle, and another idle power.
        let other = GpuMachine { watts: Some([50.0, 50.0 + (BUSY - IDLE) / 2.0]), ..h100.clone() };
        is(StepWay::One(&Choice::Library(Algorithm::Dense)), &other, 50.0 + (DENSE - IDLE) / 2.0);
        is(StepWay::Pass(crate::Join::Residual), &other, 50.0 + (KERNEL - IDLE) / 2.0);
        // The H100 of the record, calibrated, draws what it drew.
        let same = GpuMachine { watts: Some([IDLE, BUSY]), ..h100 };
        is(StepWay::One(&Choice::Library(Algorithm::Dense)), &same, DENSE);
        assert_eq!(missing("another", &other, DType::F16, Precision::Full, 1e-4), None);
    }
}
