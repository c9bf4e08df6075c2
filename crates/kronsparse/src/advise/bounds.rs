//! The least time that a kernel for several factors is estimated at: from the terms of `plan/gpu/*/cost.rs` that hold for any tile.
//! Planning such a kernel takes milliseconds, the bound none. A test compares both for random chains.

use super::target::Case;
use crate::plan::gpu::{ChainMmaPlan, ChainWgmmaPlan, GpuMachine, PairPlan, Precision};
use crate::{DType, Layout, Pattern};

/// Seconds of a launch with its ends.
const START: f64 = 3.5e-6;
const PAIR_START: f64 = 4.5e-6;
/// A block reads all weights, with the others of its cluster, at no more bytes per second.
const PAIR_WEIGHTS: f64 = 2.4e12;
const WGMMA_WEIGHTS: f64 = 105e9;
const MMA_WEIGHTS: f64 = 41e9;
/// Bytes per second of X and Y.
const MOVED: f64 = 2.95e12;
/// Of `chain_mma`, per multiprocessor: clocks a second, clocks per number that a factor gives out, clocks of starting and of
/// computing the product of 16 × 16 and 16 × 8 halves, in which outputs come in eights and terms in lots of 64 bytes; most vectors
/// that share weights once they are brought, and bytes of these in a clock.
const CLOCK: f64 = 1.7e9;
const PASSED: f64 = 0.22;
const STARTED: f64 = 1.0;
const HALVES: f64 = 1.6;
const SHARING: f64 = 64.0;
const BROUGHT: f64 = 24.0;
/// Clocks of the product of 16 × 8 and 8 × 8 numbers of 32 bits: in full precision, and rounded to TF32.
const FULL: f64 = 13.0;
const TF32: f64 = 3.3;

/// Seconds that the estimate of the kernel family called `family` for all factors of a part is not below, two or more, left to
/// right; `None` where it does not multiply by them.
pub(super) fn of_several(family: &str, part: &[Pattern], case: &Case, machine: &GpuMachine) -> Option<f64> {
    let (first, last) = (part[part.len() - 1], part[0]);
    let (size, n) = (case.dtype.size(), case.batch as f64);
    let weights = (part.iter().map(|pattern| pattern.nnz()).sum::<usize>() * size) as f64;
    let moved = n * (first.cols() as f64 + last.rows() as f64) * size as f64 / MOVED;
    let halves = matches!(case.dtype, DType::F16 | DType::Bf16);
    let copied = halves && case.layout == Layout::BatchFirst && machine.capability == (9, 0);
    match family {
        PairPlan::NAME => {
            let fits = copied && part.len() == 2 && first.d() == 1 && last.a() == 1;
            fits.then_some(PAIR_START + 0.9 * moved.max(weights / PAIR_WEIGHTS))
        }
        ChainWgmmaPlan::NAME => {
            let fits = copied && first.d() == 1 && first.cols().is_multiple_of(8) && last.rows().is_multiple_of(8);
            fits.then_some(START + moved.max(weights / WGMMA_WEIGHTS))
        }
        ChainMmaPlan::NAME => {
            if !(halves || case.dtype == DType::F32) || machine.capability < (8, 0) {
                return None;
            }
            // Products of 16 vectors, 8 outputs and 32 bytes of terms.
            let products = |p: &Pattern| {
                let [a, b, c, d] = p.shape();
                (a * d) as f64 * b.div_ceil(8) as f64 * (2 * c.div_ceil(64 / size)) as f64
            };
            let products = n / 16.0 * part.iter().map(products).sum::<f64>();
            let passed = n * PASSED * part.iter().map(|p| p.rows() as f64).sum::<f64>();
            let clocks = match (case.dtype, case.precision) {
                (DType::F32, Precision::Full) => FULL,
                (DType::F32, Precision::Tf32) => TF32,
                _ => HALVES,
            };
            let brought = n / SHARING * weights / BROUGHT;
            let busy = (products * clocks).max(products * STARTED + passed).max(brought);
            let all = busy / (CLOCK * f64::from(machine.multiprocessors));
            Some(START + all.max(moved).max(weights / MMA_WEIGHTS))
        }
        _ => Some(START + moved),
    }
}
