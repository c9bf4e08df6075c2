//! How long NVIDIA's libraries take for a problem, estimated: dense, permute-bmm and strided, as `cuda/vendor` runs them.
//!
//! Estimates are those of a step of a call whose arrays are not in any cache, but for what the step before left there. The constants
//! were fitted to the cold calls of one factor by libraries in the records up to `record/2026-11-23-h100-training` by a random search for
//! the least mean |log(estimate / measured)|, half of the weight on the 179 calls with random numbers (`validate` there), then rounded
//! (`fit` there). Fitted to three quarters of the problems, they brought 73 % of the dense calls, 78 % of the strided and 88 % of those
//! by permute-bmm of the other random problems within a quarter; 50, 67 and 42 % were before. All fitted, 85, 84 and 96 % are, and 97 %
//! of the 2953 calls of well-known shapes. In a graph with warm caches libraries take less. Tests of the bench crate repeat this on the
//! records.

use super::lanes_mma::vector_of;
use super::plain::can_join;
use super::{GpuMachine, GpuProblem, Precision, Rejected};
use crate::plan::Algorithm;
use crate::{Activation, DType, Layout, Pattern};

/// Share of the machine's bandwidth that a permutation reaches with accesses of 8 or 16 bytes.
const PERMUTED: f64 = 0.895;
/// What accesses of 4, 2 or fewer bytes leave of that.
const NARROW: [f64; 2] = [0.65, 0.37];
/// Seconds of a permutation of little.
const PERMUTATION: f64 = 3.15e-6;
/// Share of the machine's bandwidth that a product reaches.
const STREAMED: f64 = 0.82;
/// Share of the peak of 16-bit types: of random numbers, and of matrices that are mostly zeros, which take less power.
const HALF: [f64; 2] = [0.85, 0.965];
/// Share of the peak of f32 and f64.
const WIDE: f64 = 0.87;
/// How much longer arithmetic and memory take where columns begin at multiples of 2, 4 or 8 bytes: of 16-bit types, of TF32, of f32 and
/// f64, whose products do not need more.
const UNALIGNED_HALF: [[f64; 2]; 3] = [[9.0, 2.2], [4.0, 2.2], [3.7, 1.8]];
const UNALIGNED_TF32: [[f64; 2]; 3] = [[4.5, 1.9], [4.5, 1.9], [1.6, 1.4]];
const UNALIGNED_WIDE: [f64; 2] = [1.26, 1.36];
/// Outputs are computed in tiles of so many.
const OUTPUTS: usize = 64;
/// Vectors and inputs likewise.
const STEP: usize = 16;
/// Tiles of f32 and f64, `vectors × outputs`, whose products take whole rounds of tiles on all multiprocessors.
const LARGE: [usize; 2] = [128, 64];
/// Tiles where there are few, which share the sums too, and what they reach of the others.
const SMALL: [usize; 2] = [32, 32];
const SHARED_SUM: usize = 256;
const SMALL_REACH: f64 = 0.6;
/// The same of 16-bit types and TF32, and how much less than that they take.
const FEW: [usize; 2] = [64, 64];
const FEW_SUM: usize = 512;
const FEW_SHARE: f64 = 0.63;
/// Seconds of launching a product, and of each term of its sums up to so many, which nothing hides where there is little else to do.
const PRODUCT: f64 = 3.8e-6;
const TERM: f64 = 3.0e-9;
const TERMS: usize = 1200;
/// Seconds that a dense product takes longer where columns do not begin at multiples of 16 bytes.
const UNALIGNED_DENSE: f64 = 1.1e-6;
/// Seconds of a table of pointers.
const TABLE: f64 = 2.6e-6;

/// The libraries' algorithms that can be the fastest: CSR and BSR never were.
pub const ALGORITHMS: [Algorithm; 3] = [Algorithm::Dense, Algorithm::PermuteBmm, Algorithm::Strided];

/// Bytes of an algorithm's weights. The error says why it does not exist: complex numbers; strided where `d > 1` batch-first;
/// not one of [`ALGORITHMS`]; more than `memory_limit` bytes of weights.
pub fn fits(algorithm: Algorithm, problem: &GpuProblem, memory_limit: usize) -> Result<f64, Rejected> {
    let GpuProblem { pattern, dtype, layout, .. } = *problem;
    let rule = |why: String| Err(Rejected::Rule(why));
    if !ALGORITHMS.contains(&algorithm) {
        return rule(format!("auto does not consider {algorithm}"));
    }
    if dtype.is_complex() {
        return rule(format!("the libraries are not asked to multiply {dtype}"));
    }
    if algorithm == Algorithm::Strided && layout == Layout::BatchFirst && pattern.d() > 1 {
        return rule(format!("batch-first, strided products need d = 1, and d is {}", pattern.d()));
    }
    can_join(problem.join, &[])?;
    let [a, b, c, d] = pattern.shape().map(|x| x as f64);
    let blocks = if algorithm == Algorithm::Dense { a * d * a * d } else { a * d };
    let weights = blocks * b * c * dtype.size() as f64;
    if weights > memory_limit as f64 {
        return rule(format!("its weights take {weights:.0} bytes, the limit is {memory_limit}"));
    }
    Ok(weights)
}

/// The algorithm that makes the same calls, where nothing is permuted or the factor is one dense matrix.
pub fn same_as(algorithm: Algorithm, problem: &GpuProblem) -> Option<Algorithm> {
    let pattern = problem.pattern;
    let strided = problem.layout == Layout::BatchLast || pattern.d() == 1;
    let same = match algorithm {
        Algorithm::PermuteBmm => strided && !moves(pattern),
        Algorithm::Dense => strided && pattern.a() * pattern.d() == 1,
        _ => false,
    };
    same.then_some(Algorithm::Strided)
}

/// Estimated seconds of multiplying by one factor with a library; `None` where [`fits`] says why not.
pub fn seconds(algorithm: Algorithm, problem: &GpuProblem, machine: &GpuMachine, memory_limit: usize) -> Option<f64> {
    let weights = fits(algorithm, problem, memory_limit).ok()?;
    let pattern = problem.pattern;
    let [a, b, c, d] = pattern.shape();
    let lanes = a as f64 * d as f64;
    let sides = Sides::of(problem, machine);
    let seconds = match algorithm {
        Algorithm::Dense => {
            let zeros = usize::from(a * d > 1);
            let sizes = [pattern.rows(), pattern.cols()];
            let slower = if sides.begins(sizes, 1.0) < 16 { UNALIGNED_DENSE } else { 0.0 };
            slower + sides.product(1.0, sizes, sides.x + sides.y + weights, zeros)
        }
        Algorithm::Strided => {
            // A batch in two directions is a table of pointers, or several calls.
            let table = if a.min(d) > 1 { TABLE } else { 0.0 };
            table + sides.product(lanes, [b, c], sides.x + sides.y + weights, 0)
        }
        Algorithm::PermuteBmm => {
            // What one step writes, the next one finds in the cache, where it has room.
            let cached = if moves(pattern) { machine.cached_while(sides.x + sides.y + weights) } else { 1.0 };
            sides.permutation(c, d, sides.x, 1.0)
                + sides.product(lanes, [b, c], sides.x / cached + sides.y + weights, 0)
                + sides.permutation(d, b, sides.y, cached)
        }
        _ => return None,
    };
    let finish = if problem.bias || problem.activation != Activation::None {
        machine.kernel_seconds
            + sides.y * (1.0 + 1.0 / machine.cached_while(sides.y)) / (machine.bytes_per_second * PERMUTED)
    } else {
        0.0
    };
    Some(seconds + finish)
}

/// Whether permute-bmm permutes anything.
fn moves(pattern: Pattern) -> bool {
    pattern.d() > 1 && (pattern.b() > 1 || pattern.c() > 1)
}

/// What the parts of an algorithm have in common.
struct Sides<'a> {
    problem: &'a GpuProblem,
    machine: &'a GpuMachine,
    /// Bytes of `X` and of `Y`.
    x: f64,
    y: f64,
}

impl<'a> Sides<'a> {
    fn of(problem: &'a GpuProblem, machine: &'a GpuMachine) -> Sides<'a> {
        let bytes = |features: usize| problem.batch as f64 * features as f64 * problem.dtype.size() as f64;
        Sides { problem, machine, x: bytes(problem.pattern.cols()), y: bytes(problem.pattern.rows()) }
    }

    /// Products of all vectors with `[b, c]` matrices, `batch` of them, that take so many bytes from memory.
    fn product(&self, batch: f64, [b, c]: [usize; 2], bytes: f64, zeros: usize) -> f64 {
        let GpuProblem { dtype, precision, layout, batch: n, .. } = *self.problem;
        let flops = &self.machine.flops;
        let (peak, wide) = match (dtype, precision) {
            (DType::F64, _) => (WIDE * flops.f64_products, true),
            (DType::F32, Precision::Full) => (WIDE * flops.f32, true),
            (DType::F32, Precision::Tf32) => (HALF[zeros] * flops.tf32, false),
            _ => (HALF[zeros] * flops.half, false),
        };
        let up = |size: usize, tile: usize| (size.div_ceil(tile) * tile) as f64;
        // One multiprocessor's share of the peak, of rounds of tiles.
        let all = f64::from(self.machine.multiprocessors);
        let rounds = |[vectors, outputs]: [usize; 2], terms: usize| {
            let depth = up(c, STEP).min(terms as f64);
            let tiles = batch * (n.div_ceil(vectors) * b.div_ceil(outputs) * c.div_ceil(terms)) as f64;
            (tiles / all).ceil() * 2.0 * (vectors * outputs) as f64 * depth / (peak / all)
        };
        let arithmetic = match wide {
            // One vector is read and written: there is no tile of it.
            _ if n <= 1 => 0.0,
            true => rounds(LARGE, usize::MAX).min(rounds(SMALL, SHARED_SUM) / SMALL_REACH),
            false => {
                let whole = 2.0 * batch * up(n, STEP) * up(b, OUTPUTS) * up(c, STEP) / peak;
                whole.max(FEW_SHARE * rounds(FEW, FEW_SUM))
            }
        };
        let begins = self.begins([b, c], batch);
        // Batch-last the weights are the other matrix that is read by columns.
        let both = if layout == Layout::BatchLast { begins.min(vector_of(c * dtype.size())) } else { begins };
        let slower = |begins: usize| match (begins, wide, dtype.size()) {
            (16.., ..) => [1.0; 2],
            (_, true, _) => UNALIGNED_WIDE,
            (_, false, 4) => UNALIGNED_TF32[begins.trailing_zeros() as usize - 1],
            _ => UNALIGNED_HALF[begins.trailing_zeros() as usize - 1],
        };
        let ([of_arithmetic, _], [_, of_memory]) = (slower(if wide { begins } else { both }), slower(begins));
        let memory = bytes / (self.machine.bytes_per_second * STREAMED);
        PRODUCT + TERM * c.min(TERMS) as f64 + (of_arithmetic * arithmetic).hypot(of_memory * memory)
    }

    /// At multiples of how many bytes, up to 16, all columns of a product begin.
    fn begins(&self, sizes: [usize; 2], batch: f64) -> usize {
        let GpuProblem { pattern, dtype, layout, batch: n, aligned, .. } = *self.problem;
        // What permutations wrote begins where an allocation begins.
        if !(aligned || (batch > 1.0 && moves(pattern) && layout == Layout::BatchFirst)) {
            return dtype.size();
        }
        let of = |elements: usize| vector_of(elements.max(1) * dtype.size());
        if layout == Layout::BatchLast { of(n) } else { sizes.into_iter().map(of).min().unwrap_or(16) }
    }

    /// Swapping `p` and `q` of an array of `bytes`, which comes so much faster than from memory.
    fn permutation(&self, p: usize, q: usize, bytes: f64, cached: f64) -> f64 {
        if p == 1 || q == 1 {
            return 0.0;
        }
        let GpuProblem { dtype, layout, batch, aligned, .. } = *self.problem;
        let widest = |elements: usize| match aligned {
            true => (1usize << elements.trailing_zeros().min(4)) * dtype.size(),
            false => dtype.size(),
        };
        let width = match layout {
            Layout::BatchFirst => widest(p).min(widest(q)),
            Layout::BatchLast => widest(batch),
        };
        let narrow = match width {
            8.. => 1.0,
            4..8 => NARROW[0],
            _ => NARROW[1],
        };
        let moved = bytes * (1.0 + 1.0 / cached) / (self.machine.bytes_per_second * PERMUTED * narrow);
        PERMUTATION.hypot(self.machine.kernel_seconds + moved)
    }
}

impl GpuMachine {
    /// How much faster than from device memory arrays come that are used while so many bytes pass.
    fn cached_while(&self, bytes: f64) -> f64 {
        if 2.0 * bytes < self.l2_bytes as f64 { self.cached } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(pattern: &str, layout: Layout, batch: usize) -> GpuProblem {
        GpuProblem::new(pattern.parse().unwrap(), DType::F16, layout, batch)
    }

    fn of(algorithm: Algorithm, problem: &GpuProblem) -> Option<f64> {
        seconds(algorithm, problem, &GpuMachine::h100(), 1 << 30)
    }

    #[test]
    fn an_algorithm_that_does_not_exist_has_no_time() {
        let lanes = problem("4,64,64,4", Layout::BatchFirst, 1000);
        assert_eq!(of(Algorithm::Strided, &lanes), None);
        assert!(of(Algorithm::Strided, &GpuProblem { layout: Layout::BatchLast, ..lanes.clone() }).is_some());
        assert!(of(Algorithm::Strided, &problem("4,64,64,1", Layout::BatchFirst, 1000)).is_some());
        for algorithm in [Algorithm::Auto, Algorithm::Fused, Algorithm::Einsum, Algorithm::Csr, Algorithm::Bsr] {
            assert_eq!(of(algorithm, &lanes), None, "{algorithm}");
        }
        for algorithm in ALGORITHMS {
            assert_eq!(of(algorithm, &GpuProblem { dtype: DType::C64, ..lanes.clone() }), None, "{algorithm}");
        }
    }

    #[test]
    fn weights_above_the_limit_are_not_considered() {
        // 1024 × 1024 numbers of two bytes as a dense matrix, 16 · 64 · 64 otherwise.
        let p = problem("4,64,64,4", Layout::BatchFirst, 1000);
        let limited = |algorithm, limit| seconds(algorithm, &p, &GpuMachine::h100(), limit).is_some();
        assert!(limited(Algorithm::Dense, 2 << 20) && !limited(Algorithm::Dense, (2 << 20) - 1));
        assert!(limited(Algorithm::PermuteBmm, 128 << 10) && !limited(Algorithm::PermuteBmm, (128 << 10) - 1));
    }

    #[test]
    fn every_part_takes_time() {
        let plain = problem("4,64,64,4", Layout::BatchFirst, 25088);
        let time = |p: &GpuProblem| of(Algorithm::PermuteBmm, p).unwrap();
        let apart = problem("16,64,64,1", Layout::BatchFirst, 25088);
        assert!(time(&plain) > 2.0 * time(&apart), "two permutations: {} {}", time(&plain), time(&apart));
        assert_eq!(Some(time(&apart)), of(Algorithm::Strided, &apart), "nothing is permuted where d = 1");
        assert!(time(&GpuProblem { bias: true, ..plain.clone() }) > time(&plain), "a pass for the bias");
        assert!(time(&GpuProblem { aligned: false, ..plain.clone() }) > time(&plain), "narrow accesses");
        assert!(time(&problem("4,64,66,4", Layout::BatchFirst, 25088)) > 1.3 * time(&plain), "crooked columns");
        assert!(time(&GpuProblem { dtype: DType::F32, ..plain.clone() }) > 1.9 * time(&plain), "twice the bytes");
        let one = problem("4,64,64,4", Layout::BatchLast, 1);
        for algorithm in ALGORITHMS {
            let seconds = of(algorithm, &one).unwrap();
            assert!((1e-6..2e-5).contains(&seconds), "{algorithm}: {seconds}");
        }
    }
}
