//! A kernel for copies and fills of whole blocks, and the handling of the unaligned ends.

use std::fmt;
use std::ptr;

/// A routine to copy, and one to fill.
///
/// # Invariants
///
/// `copy` and `fill` may be called if `is_available` returns true, with a destination aligned to [`BLOCK`]
/// bytes, and with lengths that are multiples of it. When they return, their stores are visible to every thread
/// that sees a later store.
pub(crate) struct Kernel {
    pub(super) name: &'static str,
    /// Whether the written bytes may stay in the caches.
    pub(super) is_cached: bool,
    pub(super) is_available: fn() -> bool,
    pub(super) copy: unsafe fn(*mut u8, *const u8, usize),
    pub(super) fill: unsafe fn(*mut u8, u8, usize),
}

/// Kernels process whole blocks: two cache lines. One and four lines were no faster.
pub(super) const BLOCK: usize = 128;

/// The routines of the standard library.
pub(super) static PLAIN: Kernel = Kernel {
    name: "plain",
    is_cached: true,
    is_available: || true,
    copy: plain_copy,
    fill: plain_fill,
};

impl Kernel {
    /// Copies `len` bytes, of any alignment.
    ///
    /// # Safety
    ///
    /// This processor supports the kernel. Both ranges are mapped and do not overlap; nothing writes either of
    /// them meanwhile.
    pub(super) unsafe fn copy(&self, to: *mut u8, from: *const u8, len: usize) {
        debug_assert!(
            to.addr().abs_diff(from.addr()) >= len,
            "source and destination overlap: {len} bytes at {from:?} and {to:?}"
        );
        let [head, body, tail] = split(to, len);
        // SAFETY: the caller's contract, for a part of the range.
        unsafe { plain_copy(to, from, head) };
        let (to, from) = (to.wrapping_add(head), from.wrapping_add(head));
        // SAFETY: as above; by the type invariant, since `split` gives whole and aligned blocks.
        unsafe { (self.copy)(to, from, body) };
        // SAFETY: as above.
        unsafe { plain_copy(to.wrapping_add(body), from.wrapping_add(body), tail) };
    }

    /// Sets `len` bytes to `value`, of any alignment.
    ///
    /// # Safety
    ///
    /// This processor supports the kernel. The range is mapped, and nothing else uses it meanwhile.
    pub(super) unsafe fn fill(&self, to: *mut u8, value: u8, len: usize) {
        let [head, body, tail] = split(to, len);
        // SAFETY: the caller's contract, for a part of the range.
        unsafe { plain_fill(to, value, head) };
        let to = to.wrapping_add(head);
        // SAFETY: as above; by the type invariant, since `split` gives whole and aligned blocks.
        unsafe { (self.fill)(to, value, body) };
        // SAFETY: as above.
        unsafe { plain_fill(to.wrapping_add(body), value, tail) };
    }
}

/// Splits `len` bytes: those before the first whole block of the destination, the whole blocks, and the rest.
fn split(to: *const u8, len: usize) -> [usize; 3] {
    let head = to.align_offset(BLOCK).min(len);
    let tail = (len - head) % BLOCK;
    [head, len - head - tail, tail]
}

/// # Safety
///
/// As for [`Kernel::copy`].
unsafe fn plain_copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
}

/// # Safety
///
/// As for [`Kernel::fill`].
unsafe fn plain_fill(to: *mut u8, value: u8, len: usize) {
    // SAFETY: the caller's contract.
    unsafe { to.write_bytes(value, len) };
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
