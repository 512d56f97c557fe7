//! Waits for the work of others on a buffer.

use std::time::{Duration, Instant};

use crate::access::Access;
use crate::buffer::object::{SharedBuffer, wait_all};
use crate::error::{Error, Result};
use crate::sync::Usage;

impl SharedBuffer {
    /// Whether work is running that a use with `access` must wait for: a move, writes, and for a write also reads.
    ///
    /// A buffer whose reservation is locked by another thread is busy: this never waits. The answer may be
    /// outdated when it returns. An open [`crate::HostAccess`] or [`crate::OpenAccess`] is no such work, because
    /// only fences are.
    ///
    /// Locks: tries the reservation. Not to be called from within an [`crate::Importer`].
    #[doc(alias = "dma_resv_test_signaled")]
    #[must_use]
    pub fn is_busy(&self, access: Access) -> bool {
        let waits_for = Usage::from(access).waits_for();
        let state = self.0.reservation.try_lock(&self.0.core().queues);
        state.is_none_or(|mut state| !state.fences().pending(waits_for).is_empty())
    }

    /// Waits for the work that a use with `access` must wait for ([`SharedBuffer::is_busy`]).
    ///
    /// The fences are those of the moment of the call. Work that is submitted during the wait is not waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`; [`Error::Poisoned`] if work that was to write or move the bytes has
    /// failed; or what the query of a fence said. Failed reads are no error.
    ///
    /// Locks: the reservation, but not while waiting. Not to be called from within an [`crate::Importer`].
    #[doc(alias = "dma_resv_wait_timeout")]
    pub fn wait(&self, access: Access, timeout: Duration) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        let waits_for = Usage::from(access).waits_for();
        // Most buffers are free and idle: without a look at the clock.
        if let Some(mut state) = buffer.reservation.try_lock_alone(&buffer.core().queues)
            && state.fences().pending(waits_for).is_empty()
        {
            return buffer.check_content(&mut state);
        }
        // A timeout that the clock cannot represent is a wait without end.
        let forever = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let bound = timeout.min(forever);
        let end = Instant::now() + bound;
        let timed_out = || {
            let what = format!("the work on {}", buffer.name());
            Error::Timeout { what, after: timeout }
        };
        let lock = |left| {
            buffer.reservation.lock_timeout(&buffer.core().queues, left).ok_or_else(timed_out)
        };
        let pending = {
            let mut state = lock(bound)?;
            let pending = state.fences().pending(waits_for);
            if pending.is_empty() {
                return buffer.check_content(&mut state);
            }
            pending
        };
        wait_all(&pending, end).map_err(|error| match error {
            Error::Timeout { .. } => timed_out(),
            other => other,
        })?;
        let left = end.saturating_duration_since(Instant::now());
        buffer.check_content(&mut *lock(left)?)
    }
}
