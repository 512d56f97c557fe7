//! A device's view of an allocation, without a reference count.
//!
//! A buffer may have thousands of mappings, which are all remapped when it moves. Two reference counts for each
//! would take most of that time (measured, BENCHMARKS.md).
#![expect(unsafe_code, reason = "a pointer whose target the buffer's state keeps alive")]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::View;

/// An uncounted reference to a view.
///
/// # Invariants
///
/// The pointer is that of a view in an `Arc`. The holder is counted in the buffer's state, as a mapping of the generation
/// whose backing the view is of. The state keeps that backing, as the current one or as a ghost, while any
/// mapping of it is counted. It also counts the device as a user of its view there, and an allocation keeps a view
/// that has users. So the view is alive.
#[derive(Clone, Copy)]
pub(super) struct ViewRef(NonNull<View>);

impl ViewRef {
    /// Creates an uncounted reference.
    ///
    /// # Safety
    ///
    /// The pointer is an `Arc`'s. The holder is counted as the type's invariant says, or the view's device as a user of
    /// it, from this call until the `ViewRef` and its copies are no longer used.
    pub(super) unsafe fn new(view: NonNull<View>) -> Self {
        Self(view)
    }

    #[inline]
    pub(super) fn get(&self) -> &View {
        // SAFETY: by the type invariant the view is alive as long as the holder, and so `self`, is; no `&mut`
        // to it exists, since it is in an `Arc`.
        unsafe { self.0.as_ref() }
    }

    /// Returns a counted reference, for a holder that is not counted as a mapping.
    pub(super) fn share(&self) -> Arc<View> {
        let pointer = self.0.as_ptr().cast_const();
        // SAFETY: the pointer is an `Arc`'s, and by the type invariant the view is alive.
        unsafe { Arc::increment_strong_count(pointer) };
        // SAFETY: as above; the count taken just now belongs to the new `Arc`.
        unsafe { Arc::from_raw(pointer) }
    }
}

// SAFETY: it is used only as `&View` and `Arc<View>`, and a view is `Send` and `Sync` (asserted below).
unsafe impl Send for ViewRef {}

// SAFETY: as above.
unsafe impl Sync for ViewRef {}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<View>();
};

/// A device's view of the backing that a buffer is in now, and the offset of the buffer's bytes in it.
///
/// It is valid while the reservation is held under which it was looked up, and the device's attachment lives.
pub(super) struct CurrentView {
    pub(super) view: ViewRef,
    pub(super) offset: u64,
}
