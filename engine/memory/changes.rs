//! A count by which a mapping sees that nothing has changed, without a look at its buffer.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often a mapping of an allocation may have lost its validity. All views of the allocation have the same count.
///
/// A look-up at a mapping reads this count, which all buffers of a block share and which is in the caches, instead of the
/// buffer, which may be one of a million. While the count is the one that the mapping was valid at, it still is. After a
/// change the mapping looks at its buffer once.
///
/// **Invariant:** a buffer whose mappings lose their validity counts here, in the allocation that they show, after its own
/// status says so and under the same reservation. So a thread that reads the count before the status, and finds the status
/// good, reads another count once that has changed.
// On a cache line of its own: it is read far more often than written. 64 bits do not come round.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Changes(AtomicU64);

impl Changes {
    /// A count that [`Changes::now`] never returns.
    pub(crate) const NEVER: u64 = 0;

    /// The count. Acquire: a status that was written before the last change is seen.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Counts a change. The status was written before.
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self(AtomicU64::new(Self::NEVER + 1))
    }
}
