//! The allocation of a buffer that an access of the host keeps in place, without a reference count.
//!
//! All buffers of a block share one allocation, so its count is a word that threads with buffers of their own write, and
//! two of the eight atomic operations of a short access were its.
#![expect(unsafe_code, reason = "a pointer whose target the buffer's state keeps alive")]

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::Allocation;

/// An uncounted reference to an allocation.
///
/// # Invariants
///
/// The pointer is that of an allocation in an `Arc`. The holder is counted in the buffer's state as an access
/// (`State::begin_access`), and has a reference to the buffer. A buffer with an access keeps its backing
/// (`BufferInner::check_not_held`; a purge passes it over), and the backing has a reference to the allocation. So the
/// allocation is alive.
pub(super) struct HeldAllocation(NonNull<Allocation>);

impl HeldAllocation {
    /// Creates an uncounted reference.
    ///
    /// # Safety
    ///
    /// `allocation` is that of the buffer's backing, and the holder is counted as the type's invariant says, from before the
    /// reservation is released until this is no longer used.
    pub(super) unsafe fn new(allocation: &Arc<Allocation>) -> Self {
        // INVARIANT: the caller's contract.
        Self(NonNull::from(&**allocation))
    }
}

impl Deref for HeldAllocation {
    type Target = Allocation;

    #[inline]
    fn deref(&self) -> &Allocation {
        // SAFETY: by the type invariant the allocation is alive as long as the holder, and so `self`, is; no `&mut` to it
        // exists, since it is in an `Arc`.
        unsafe { self.0.as_ref() }
    }
}

// SAFETY: it is used only as `&Allocation`, and an allocation is `Sync` (asserted below).
unsafe impl Send for HeldAllocation {}

// SAFETY: as above.
unsafe impl Sync for HeldAllocation {}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Allocation>();
};
