//! Memory asked for while the tiles before it are computed: inputs of the next piece of work, outputs of this one.
//!
//! A piece of work touches many short runs of memory, far apart, which hardware prefetchers do not foresee; but the
//! engine knows them long before.

use super::panel::{Batch, View};
use crate::plan::Layout;

const LINE: usize = 64;

/// Walks over the cache lines of one block of a caller's array, a few at each [`Prefetch::advance`].
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    start: *const u8,
    /// Distance in bytes, and number, of: batch rows (or features); runs inside one; lines inside a run.
    rows: (usize, usize),
    runs: (usize, usize),
    lines: usize,
    at: (usize, usize, usize),
    per_step: usize,
    for_writing: bool,
}

impl Prefetch {
    /// Nothing to ask for.
    pub(super) fn nothing() -> Prefetch {
        Prefetch {
            start: std::ptr::null(),
            rows: (0, 0),
            runs: (0, 0),
            lines: 0,
            at: (0, 0, 0),
            per_step: 0,
            for_writing: false,
        }
    }

    /// `runs` runs of `len` features, `stride` features apart, from `first` on, of a batch; spread over `steps` steps.
    pub(super) fn block<T>(
        view: View<T>,
        batch: Batch,
        first: usize,
        (runs, len, stride): (usize, usize, usize),
        steps: usize,
        for_writing: bool,
    ) -> Prefetch {
        let size = size_of::<T>();
        let (offset, rows, runs, bytes) = match view.layout {
            Layout::BatchFirst => (
                batch.start * view.features + first,
                (view.features * size, batch.count),
                (stride * size, runs),
                len * size,
            ),
            Layout::BatchLast => {
                (first * view.n + batch.start, (view.n * size, len), (stride * view.n * size, runs), batch.count * size)
            }
        };
        if compete(rows.0, rows.1) {
            return Prefetch::nothing();
        }
        // A run that starts inside a line ends one line later.
        let lines = bytes.div_ceil(LINE) + 1;
        let per_step = (rows.1 * runs.1 * lines).div_ceil(steps.max(1));
        let start = view.data.wrapping_add(offset).cast_const().cast();
        Prefetch { start, rows, runs, lines, at: (0, 0, 0), per_step, for_writing }
    }

    /// Asks for the next lines.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        for _ in 0..self.per_step {
            let (run, row, line) = self.at;
            if run >= self.runs.1 {
                return;
            }
            let p = self.start.wrapping_add(run * self.runs.0 + row * self.rows.0 + line * LINE);
            hint(p, self.for_writing);
            self.at = if line + 1 < self.lines {
                (run, row, line + 1)
            } else if row + 1 < self.rows.1 {
                (run, row + 1, 0)
            } else {
                (run + 1, 0, 0)
            };
        }
    }
}

/// Whether rows `distance` bytes apart fall into so few sets of an eight-way cache of 1 MiB that they would push each
/// other out before they are used.
fn compete(distance: usize, rows: usize) -> bool {
    const SETS: usize = 2048;
    let lines = distance / LINE;
    if distance % LINE != 0 || lines == 0 {
        return false;
    }
    let shared = 1 << lines.trailing_zeros().min(SETS.trailing_zeros());
    rows > 4 * (SETS / shared)
}

#[inline(always)]
fn hint(p: *const u8, for_writing: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};
        if for_writing { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, for_writing);
}
