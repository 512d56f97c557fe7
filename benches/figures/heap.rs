//! A counter of the heap bytes that the process holds, off by default.
#![expect(unsafe_code, reason = "a global allocator that forwards every call to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// The system's allocator with a counter. It is off by default: two atomic operations per allocation would slow
/// the side that uses this allocator, while drivers use C's.
pub(crate) struct Counted;

static COUNTING: AtomicBool = AtomicBool::new(false);
// Relaxed: a sum, read by the thread that caused it.
static LIVE: AtomicI64 = AtomicI64::new(0);

/// Bytes that `work` has requested from the Rust heap and not freed. They include neither the allocator's
/// rounding nor what a driver takes from C's heap.
pub(crate) fn taken_by<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let before = LIVE.load(Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    let out = work();
    COUNTING.store(false, Ordering::Relaxed);
    (out, LIVE.load(Ordering::Relaxed) - before)
}

fn count(taken: usize, given: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        // CAST: no allocation is larger than `isize::MAX`.
        LIVE.fetch_add(taken as i64 - given as i64, Ordering::Relaxed);
    }
}

// SAFETY: every call is forwarded to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
