//! An allocator that counts for each thread the bytes in use and their peak.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

thread_local! {
    static USED: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    /// Seed and iteration of the input that runs, to be printed when the process must end.
    static AT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// No single allocation may be larger, in bytes; the process ends with a message if one is.
pub const LARGEST: usize = 1 << 30;

/// The system's allocator, counted.
pub struct Counting;

fn add(size: usize) {
    if size > LARGEST {
        let (seed, iteration) = AT.get();
        // Not by a macro of the test harness, which would keep it to itself until the test ends, and it does not.
        let _ = writeln!(std::io::stderr(), "{size} bytes asked for at seed {seed}, iteration {iteration}");
        std::process::abort();
    }
    // Where a thread is being taken down its counters may be gone.
    let _ = USED.try_with(|used| {
        used.set(used.get().wrapping_add(size));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(used.get())));
    });
}

fn subtract(size: usize) {
    // Memory may come from another thread: then the count stays at zero.
    let _ = USED.try_with(|used| used.set(used.get().saturating_sub(size)));
}

// SAFETY: every method passes its arguments on to the system's allocator and returns what that returns; counting neither
// allocates nor unwinds (the counters need no initialisation and no destructor, and refusing ends the process).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: the pointer came from `System` through this allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        subtract(layout.size());
        add(size);
        // SAFETY: as in `dealloc`; the caller keeps the contract on `size`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `f` and returns with its result by how many bytes this thread's use grew at the most meanwhile.
pub fn peak<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = USED.get();
    PEAK.set(before);
    let result = f();
    (result, PEAK.get().saturating_sub(before))
}

/// Notes what runs, for the message of an allocation that is too large.
pub(crate) fn note(seed: u64, iteration: u64) {
    AT.set((seed, iteration));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_counted_and_passing() {
        let (kept, grown) = peak(|| {
            drop(std::hint::black_box(vec![1u8; 3 << 20]));
            std::hint::black_box(vec![0u8; 1 << 20])
        });
        assert!((3 << 20..4 << 20).contains(&grown), "{grown}");
        assert_eq!(kept.len(), 1 << 20);
        let (_, grown) = peak(|| std::hint::black_box(Vec::<u8>::new()));
        assert_eq!(grown, 0);
    }
}
