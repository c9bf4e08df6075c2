//! How long this project's CPU engine and a dense product take, estimated: a roofline whose ceilings are measured on the
//! machine ([`Calibration`]), with the traffic through the caches added.
//!
//! # The model
//!
//! For `n` vectors, a chain takes the sum of
//!
//! * arithmetic: `Σ 2·n′·a·b′·c·d` operations at the peak of a dense product, `n′` being the vectors in whole registers (from five
//!   on) and `b′` the outputs in whole register tiles of eight; or, if that is longer, the time in which the weights come from
//!   memory as often as panels of three registers read them (once where they fit the cores' caches);
//! * `X` and `Y`, once each at the rate of a large copy, by all threads or as many as have work;
//! * the panels: `n′·(rows + cols)` numbers of every factor at a quarter of the rate of a copy within a core's cache, since they are
//!   turned and scattered on the way;
//! * ten microseconds where other threads are woken;
//! * five microseconds for the call itself, whose own data and code are not in the caches either.
//!
//! A chain is shared out by panels, so that fewer panels than threads leave threads idle; one factor is shared out by its
//! blocks too; and as the engine does, by no more threads than have work for some ten microseconds. A dense product takes its operations at 80 % of the peak, and `X`, `Y` and the weights once; the 16-bit types are
//! widened to `f32` before it, by one thread.
//!
//! Tiles and panels are the engine's; 10 µs, a quarter and 80 % are round numbers that suit the 14 cold rows of real numbers in
//! `record/2026-11-22-epyc-zen4/quick`. Estimate over measured there, least, median and most: the engine 0.78, 0.90, 1.00; dense
//! 0.88, 0.98, 1.19. Operations and bytes from memory are the record's own ceilings; what one thread has from memory and the caches'
//! rate are not in it, and are taken as 20 and 225 GB/s, which [`Calibration::measure`] gave on that machine at another time. A test
//! of the bench crate repeats this, and says how much hangs on these two. Other machines were not compared, and other dense products, such as a
//! vendor's, can be faster than the one here, which is that of the `gemm` crate.

use super::calibration::Calibration;
use crate::{ChainPattern, DType, Pattern};

/// Rows of the register tile, registers of a panel.
const TILE: usize = 8;
const PANEL: usize = 3;
/// Batches up to this run along the outputs, see `cpu/narrow.rs`, one thread for so many weights.
const NARROW: usize = 4;
const WEIGHTS_PER_THREAD: usize = 1 << 17;
/// The engine wakes a thread for so much work: operations, or bytes moved, each of which counts as ten of them.
const WORK_PER_THREAD: f64 = (1 << 20) as f64;
const WORK_PER_BYTE: f64 = 10.0;
/// Seconds of a call: about what the smallest of 300 random problems took, 4.8 µs (`record/2026-11-23-epyc`).
const CALL: f64 = 5e-6;
/// Seconds of waking other threads.
const WAKE: f64 = 10e-6;
/// Share of the rate of a plain copy within a cache at which panels are written and read.
const PANELS: f64 = 0.25;
/// Share of the peak that a dense product reaches.
const DENSE: f64 = 0.8;

/// Ceilings for one element type.
struct Machine<'a> {
    calibration: &'a Calibration,
    peak: f64,
    memory: f64,
    cache: f64,
    /// Bytes of a number within the engine, and of one in memory.
    real: usize,
    size: usize,
}

impl Machine<'_> {
    fn of(calibration: &Calibration, dtype: DType) -> Machine<'_> {
        let wide = dtype == DType::F64;
        let peak = if wide { calibration.flops_f64 } else { calibration.flops_f32 } as f64;
        let (memory, cache) = (calibration.memory_bytes as f64, calibration.cache_bytes as f64);
        Machine { calibration, peak, memory, cache, real: if wide { 8 } else { 4 }, size: dtype.size() }
    }
    fn threads(&self) -> usize {
        self.calibration.machine.threads
    }
    /// Bytes per second from memory to so many threads.
    fn memory(&self, threads: usize) -> f64 {
        self.memory.min(threads as f64 * self.calibration.memory_bytes_alone as f64)
    }
}

/// Estimated seconds of the fused engine for a chain of real numbers, caches cold; see the [module](self).
pub fn chain_seconds(chain: &ChainPattern, dtype: DType, batch: usize, calibration: &Calibration) -> f64 {
    let machine = Machine::of(calibration, dtype);
    let (patterns, threads) = (chain.patterns(), machine.threads());
    let lanes = (calibration.machine.vector_bytes / machine.real).max(1);
    let narrow = batch <= NARROW;
    let vectors = batch.div_ceil(lanes);
    let n = if narrow { batch } else { vectors * lanes } as f64;
    // As `plan::Tile` cuts the batch.
    let wanted = if patterns.len() == 1 { 1 } else { threads };
    let panels = if narrow { 1 } else { vectors.div_ceil(PANEL).max(wanted.min(vectors)).max(1) };
    let busy = match (narrow, patterns) {
        (true, _) => (chain.parameters() / WEIGHTS_PER_THREAD).clamp(1, threads),
        (false, [one]) => threads.min(panels * one.a() * one.d()),
        (false, _) => threads.min(panels),
    };
    let work = chain.flops(batch).max(WORK_PER_BYTE * chain.bytes(batch, machine.size));
    let busy = if narrow { busy } else { busy.min((work / WORK_PER_THREAD) as usize).max(1) };
    let share = busy as f64 / threads as f64;
    let operations = |p: &Pattern| {
        let outputs = p.b().next_multiple_of(TILE) as f64;
        2.0 * n * outputs * (p.a() as f64 * p.d() as f64 * p.c() as f64)
    };
    let arithmetic = patterns.iter().map(operations).sum::<f64>() / (machine.peak * share);
    let weights = chain.parameters() as f64 * machine.real as f64;
    let reads = if weights <= (threads * calibration.machine.core_cache) as f64 { 1 } else { panels };
    let ends = batch as f64 * (chain.rows() as f64 + chain.cols() as f64) * machine.size as f64;
    let through = |p: &Pattern| n * (p.rows() as f64 + p.cols() as f64) * machine.real as f64;
    let caches =
        if narrow { 0.0 } else { patterns.iter().map(through).sum::<f64>() / (PANELS * machine.cache * share) };
    let wake = if busy > 1 { WAKE } else { 0.0 };
    let memory = machine.memory(busy);
    CALL + arithmetic.max(weights * reads as f64 / memory) + ends / memory + caches + wake
}

/// Estimated seconds of one dense product of this library, caches cold; see the [module](self).
pub fn dense_seconds(rows: usize, cols: usize, dtype: DType, batch: usize, calibration: &Calibration) -> f64 {
    let machine = Machine::of(calibration, dtype);
    let (n, rows, cols) = (batch as f64, rows as f64, cols as f64);
    let arithmetic = 2.0 * n * rows * cols / (DENSE * machine.peak);
    let bytes = machine.real as f64 * (n * (rows + cols) + rows * cols);
    let widened = if machine.size < machine.real {
        let moved = n * (rows + cols) * (machine.real + machine.size) as f64;
        moved / machine.memory(1)
    } else {
        0.0
    };
    let wake = if machine.threads() > 1 { WAKE } else { 0.0 };
    CALL + arithmetic + bytes / machine.memory + widened + wake
}

#[cfg(test)]
mod tests {
    use super::super::calibration::CpuDescription;
    use super::*;

    /// Two threads, 200 and 100 GFLOP/s, 30 GB/s from memory (20 by one thread), 240 within the caches.
    fn machine() -> Calibration {
        let here = CpuDescription {
            platform: String::new(),
            cpu: String::new(),
            isa: "avx512".into(),
            threads: 2,
            vector_bytes: 64,
            core_cache: 1 << 20,
            caches: Vec::new(),
        };
        Calibration::new(here, [200_000_000_000, 100_000_000_000], [30_000_000_000, 20_000_000_000], 240_000_000_000)
            .unwrap()
    }

    fn close(found: f64, expected: f64) {
        let expected = expected + CALL;
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} s, expected {expected} s");
    }

    #[test]
    fn terms_are_those_that_are_described() {
        let machine = machine();
        // 48 vectors are one panel; for a chain they are cut into one for each of the two threads.
        let chain = ChainPattern::monarch(1024, 1024, 32, 32).unwrap();
        let arithmetic = 2.0 * 48.0 * 65536.0 / 200e9;
        let (ends, panels) = (4.0 * 48.0 * 2048.0 / 30e9, 4.0 * 48.0 * 4096.0 / 60e9);
        close(chain_seconds(&chain, DType::F32, 48, &machine), arithmetic + ends + panels + 10e-6);
        // Half of X and Y; computed in f32.
        close(chain_seconds(&chain, DType::F16, 48, &machine), arithmetic + ends / 2.0 + panels + 10e-6);
        // One register of vectors: one panel, one thread, 16 vectors for the price of 9.
        let (arithmetic, panels) = (2.0 * 16.0 * 65536.0 / 100e9, 4.0 * 16.0 * 4096.0 / 30e9);
        close(chain_seconds(&chain, DType::F32, 9, &machine), arithmetic + 4.0 * 9.0 * 2048.0 / 20e9 + panels);
        // One vector: the weights once, which take longer than the arithmetic.
        close(chain_seconds(&chain, DType::F32, 1, &machine), (65536.0 + 2048.0) * 4.0 / 20e9);
        // Three outputs in tiles of eight.
        let odd = ChainPattern::new(vec!["1,3,64,64".parse().unwrap()]).unwrap();
        let arithmetic = 2.0 * 64.0 * 8.0 * 64.0 * 64.0 / 100e9;
        let (ends, panels) = (8.0 * 64.0 * (192.0 + 4096.0) / 30e9, 8.0 * 64.0 * (192.0 + 4096.0) / 60e9);
        close(chain_seconds(&odd, DType::F64, 64, &machine), arithmetic + ends + panels + 10e-6);
        let bytes = 4.0 * (100.0 * 3072.0 + 2048.0 * 1024.0);
        let dense = 2.0 * 100.0 * 2048.0 * 1024.0 / 160e9 + bytes / 30e9 + 10e-6;
        close(dense_seconds(2048, 1024, DType::F32, 100, &machine), dense);
        close(dense_seconds(2048, 1024, DType::Bf16, 100, &machine), dense + 6.0 * 100.0 * 3072.0 / 20e9);
    }

    #[test]
    fn large_weights_come_as_often_as_panels_read_them() {
        let mut machine = machine();
        machine.flops_f32 = 1_000_000_000_000;
        let low_rank: ChainPattern =
            ChainPattern::new(vec!["1,8192,2048,1".parse().unwrap(), "1,2048,8192,1".parse().unwrap()]).unwrap();
        let weights = 4.0 * 2.0 * 8192.0 * 2048.0;
        // 32 vectors: a panel of one register for each thread.
        let rest = 4.0 * 32.0 * 16384.0 / 30e9 + 4.0 * 32.0 * 2.0 * 10240.0 / 60e9 + 10e-6;
        close(chain_seconds(&low_rank, DType::F32, 32, &machine), 2.0 * weights / 30e9 + rest);
    }
}
