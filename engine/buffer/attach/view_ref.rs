//! A device's view of an allocation, without a reference count.
//!
//! A buffer may have thousands of mappings, which all take up its new place when it moves: two counts each
//! would be most of that time (measured, BENCHMARKS.md).
#![expect(unsafe_code, reason = "a pointer whose lifetime the buffer's state vouches for")]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::View;

/// See the module.
///
/// # Invariants
///
/// It came from an `Arc`. Whoever holds it is counted in the buffer's state as a mapping of the generation
/// whose place the view is of; the state keeps that place, as the backing or as a ghost, as long as any is;
/// and an allocation never lets go of a view. So the view is there.
#[derive(Clone, Copy)]
pub(in crate::buffer) struct ViewRef(NonNull<View>);

impl ViewRef {
    /// # Safety
    ///
    /// The holder is counted as the type's invariant says, from now on until it is dropped.
    pub(in crate::buffer) unsafe fn new(view: &Arc<View>) -> Self {
        // SAFETY: an `Arc`'s pointer is not null.
        Self(unsafe { NonNull::new_unchecked(Arc::as_ptr(view).cast_mut()) })
    }

    #[inline]
    pub(in crate::buffer) fn get(&self) -> &View {
        // SAFETY: by the type invariant the view is there as long as the holder, and so `self`, is; nobody
        // has it exclusively, since it is in an `Arc`.
        unsafe { self.0.as_ref() }
    }

    /// The same with a count, for somebody who is not.
    pub(in crate::buffer) fn share(&self) -> Arc<View> {
        let pointer = self.0.as_ptr().cast_const();
        // SAFETY: the pointer is an `Arc`'s, and by the type invariant that is not gone.
        unsafe { Arc::increment_strong_count(pointer) };
        // SAFETY: as above; the count taken just now is this one's.
        unsafe { Arc::from_raw(pointer) }
    }
}

// SAFETY: it is used as `&View` and `Arc<View>` are, and a view is `Send` and `Sync` (asserted below).
unsafe impl Send for ViewRef {}

// SAFETY: as above.
unsafe impl Sync for ViewRef {}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<View>();
};

/// A device's view of where a buffer is, and where in that its bytes begin.
pub(in crate::buffer) struct CurrentView {
    pub(in crate::buffer) view: Arc<View>,
    pub(in crate::buffer) offset: u64,
}
