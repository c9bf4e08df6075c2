//! Small batches of real numbers: up to four vectors at once, where a panel of whole SIMD vectors would be mostly empty.
//!
//! The vectors of the machine run along the outputs of a packed tile instead of along the batch, so that the packed
//! weights serve both: each weight is read once, and used for every vector of the batch.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::element::Element;
use super::fused::{FusedChain, Stage};
use super::panel::View;
use super::simd::{Isa, Real};
use super::weights::{PackedFactor, tile_rows};

/// The largest batch that runs this way: at eight, a panel of sixteen lanes was faster where measured.
pub(super) const WIDEST: usize = 4;

/// Fewer weights than this per thread are not worth waking one up.
const WEIGHTS_PER_THREAD: usize = 1 << 17;

/// Sums longer than this are cut, as in the register tile of whole panels.
const LONGEST_SUM: usize = 256;

/// All outputs of one block: weights, inputs `[c][width]`, `c`, `b`, and where output `o` goes, `[row(o)][width]`.
pub(super) type Narrow<R> = unsafe fn(*const R, *const R, usize, usize, &mut dyn FnMut(usize, &[R]));

/// The kernels for batches of 1 to [`WIDEST`].
pub(super) fn kernels<R: Real>(isa: Isa) -> [Narrow<R>; WIDEST] {
    macro_rules! widths {
        ($f:ident) => {
            [$f::<R, 1>, $f::<R, 2>, $f::<R, 3>, $f::<R, 4>]
        };
    }
    match isa {
        Isa::Portable => widths!(portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => widths!(avx2),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => widths!(avx512),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("{} is never available here", isa.name()),
    }
}

unsafe fn portable<R: Real, const W: usize>(
    w: *const R,
    x: *const R,
    c: usize,
    b: usize,
    put: &mut dyn FnMut(usize, &[R]),
) {
    // SAFETY: the caller's promises.
    unsafe { block::<R, W>(Isa::Portable.tile_rows(1), w, x, c, b, put) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<R: Real, const W: usize>(
    w: *const R,
    x: *const R,
    c: usize,
    b: usize,
    put: &mut dyn FnMut(usize, &[R]),
) {
    // SAFETY: the caller's promises.
    unsafe { block::<R, W>(Isa::Avx2.tile_rows(1), w, x, c, b, put) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<R: Real, const W: usize>(
    w: *const R,
    x: *const R,
    c: usize,
    b: usize,
    put: &mut dyn FnMut(usize, &[R]),
) {
    // SAFETY: the caller's promises.
    unsafe { block::<R, W>(Isa::Avx512.tile_rows(1), w, x, c, b, put) }
}

/// # Safety
/// `weights` holds the packed tiles of `outputs` rows of `inputs` weights each, `x` holds `inputs · W` numbers.
#[inline(always)]
unsafe fn block<R: Real, const W: usize>(
    rows: usize,
    weights: *const R,
    x: *const R,
    inputs: usize,
    outputs: usize,
    put: &mut dyn FnMut(usize, &[R]),
) {
    let (mut o, mut weights) = (0, weights);
    while o < outputs {
        let height = tile_rows(rows, outputs - o);
        // SAFETY: the caller's promises, tile by tile.
        unsafe {
            match height {
                8 => tile::<R, 8, W>(weights, x, inputs, o, put),
                4 => tile::<R, 4, W>(weights, x, inputs, o, put),
                2 => tile::<R, 2, W>(weights, x, inputs, o, put),
                _ => tile::<R, 1, W>(weights, x, inputs, o, put),
            }
            weights = weights.add(height * inputs);
        }
        o += height;
    }
}

/// # Safety
/// As for [`block`], for `ROWS` outputs.
#[inline(always)]
unsafe fn tile<R: Real, const ROWS: usize, const W: usize>(
    weights: *const R,
    x: *const R,
    inputs: usize,
    o: usize,
    put: &mut dyn FnMut(usize, &[R]),
) {
    // Several sums side by side hide the latency of one; a single vector needs more of them.
    let apart = if W == 1 { 4 } else { 2 };
    let mut total = [[R::default(); ROWS]; W];
    let mut from = 0;
    while from < inputs {
        let upto = inputs.min(from + LONGEST_SUM);
        let mut sums = [[[R::default(); ROWS]; W]; 4];
        let mut l = from;
        // SAFETY: `l < inputs`.
        unsafe {
            while l + apart <= upto {
                for (k, sums) in sums.iter_mut().enumerate().take(apart) {
                    step(sums, weights.add((l + k) * ROWS), x.add((l + k) * W));
                }
                l += apart;
            }
            while l < upto {
                step(&mut sums[0], weights.add(l * ROWS), x.add(l * W));
                l += 1;
            }
        }
        for v in 0..W {
            for r in 0..ROWS {
                total[v][r] += (sums[0][v][r] + sums[1][v][r]) + (sums[2][v][r] + sums[3][v][r]);
            }
        }
        from = upto;
    }
    (0..ROWS).for_each(|r| {
        let line: [R; W] = std::array::from_fn(|v| total[v][r]);
        put(o + r, &line);
    });
}

/// # Safety
/// `w` holds `ROWS` weights and `x` holds `W` inputs.
#[inline(always)]
unsafe fn step<R: Real, const ROWS: usize, const W: usize>(sums: &mut [[R; ROWS]; W], w: *const R, x: *const R) {
    // SAFETY: the caller's promise.
    let weights = unsafe { w.cast::<[R; ROWS]>().read_unaligned() };
    for (v, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        let input = unsafe { *x.add(v) };
        for (sum, &weight) in sums.iter_mut().zip(&weights) {
            *sum += weight * input;
        }
    }
}

/// Numbers of scratch: two arrays of the widest vector, for every vector of the batch.
pub(super) fn scratch<R: Real>(chain: &FusedChain<R>, n: usize) -> usize {
    let size = |stage: &Stage<R>| stage.factor.pattern.rows().max(stage.factor.pattern.cols());
    let widest = chain.stages.iter().map(size).max().unwrap_or(0);
    2 * (widest * n).next_multiple_of(16)
}

/// `y = activation(x Wᵀ + bias)` for `n ≤ WIDEST` vectors of real numbers.
pub(super) fn multiply<T: Element>(
    chain: &FusedChain<T::Real>,
    x: &[T],
    y: View<T>,
    threads: usize,
    scratch: &mut [T::Real],
) {
    let (n, layout) = (y.n, y.layout);
    let (from, to) = scratch.split_at_mut(scratch.len() / 2);
    let (mut from, mut to) = (from, to);
    // The inputs, in the order in which the first-applied factor reads them.
    let p = chain.first();
    let block = p.c() * p.d();
    for feature in 0..p.cols() {
        let row = feature / block * block + chain.first_row[feature % block];
        for v in 0..n {
            from[row * n + v] = x[layout.index(v, feature, n, p.cols())].planes()[0];
        }
    }
    for stage in &chain.stages {
        product(chain.narrow[n - 1], &stage.factor, &stage.next_row, n, threads, from, to);
        std::mem::swap(&mut from, &mut to);
    }
    let rows = y.features;
    for (feature, numbers) in from[..rows * n].chunks_exact_mut(n).enumerate() {
        chain.epilogue.apply(feature, numbers, 1);
        for (v, &number) in numbers.iter().enumerate() {
            // SAFETY: `feature < features` and `v < n`, so the index lies in `y`.
            unsafe { *y.data.add(layout.index(v, feature, n, rows)) = T::from_planes([number, T::Real::default()]) };
        }
    }
}

/// A pointer that the workers of one factor share; they write different rows.
#[derive(Clone, Copy)]
struct Shared<R>(*mut R);
// SAFETY: a block of lanes is claimed once, and blocks have different outputs.
unsafe impl<R> Sync for Shared<R> {}

/// One factor: all its blocks, shared out among the threads where that pays.
fn product<R: Real>(
    kernel: Narrow<R>,
    factor: &PackedFactor<R>,
    next_row: &[usize],
    n: usize,
    threads: usize,
    from: &[R],
    to: &mut [R],
) {
    let p = factor.pattern;
    let blocks = p.a() * p.d();
    let target = Shared(to.as_mut_ptr());
    assert!(p.cols() * n <= from.len() && p.rows() * n <= to.len());
    let one = |block: usize| {
        let target = &target;
        let (i, j) = (block / p.d(), block % p.d());
        let mut put = |o: usize, line: &[R]| {
            let feature = p.row(i, o, j);
            let row = if next_row.is_empty() { feature } else { next_row[feature] };
            // SAFETY: `row` is below the rows of this factor (or the columns of the next, which are as many).
            unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), target.0.add(row * n), n) };
        };
        // SAFETY: the block's weights are packed, and its inputs are the `c` rows of `(i, j)` in reading order.
        unsafe { kernel(factor.block(i, j, 0, 1).as_ptr(), from[block * p.c() * n..].as_ptr(), p.c(), p.b(), &mut put) }
    };
    let workers = threads.min(p.nnz() / WEIGHTS_PER_THREAD).min(blocks).max(1);
    if workers == 1 {
        (0..blocks).for_each(one);
        return;
    }
    // Runs of neighbouring blocks, a few per worker.
    let run = blocks.div_ceil(4 * workers);
    let next = AtomicUsize::new(0);
    rayon::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|_| {
                loop {
                    let start = next.fetch_add(run, Ordering::Relaxed);
                    if start >= blocks {
                        return;
                    }
                    (start..blocks.min(start + run)).for_each(one);
                }
            });
        }
    });
}
