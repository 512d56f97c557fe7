//! Poison: a buffer whose writer failed reports `Error::Poisoned` until its content is accepted.
//!
//! Kernel counterpart: fence errors (`dma_fence_set_error`). In the kernel each user must check them. Here the
//! buffer keeps the error, because a fence is dropped once it is over.

use std::time::Instant;

use crate::buffer::object::{SharedBuffer, wait_all};
use crate::error::Result;
use crate::memory::Provider;
use crate::observe::StallCause;
use crate::sync::Usage;

impl SharedBuffer {
    /// Returns whether the content is undefined, because work that should have written or moved the buffer has
    /// failed.
    ///
    /// Its device was lost, or the owner of a fence has reported the failure ([`crate::Signal::fail`]). Every
    /// use of the content then fails with [`crate::Error::Poisoned`].
    ///
    /// Locks: the reservation.
    pub fn is_poisoned(&self) -> bool {
        self.0.set.handle_lost_devices();
        let mut state = self.0.lock();
        self.0.check_content(&mut state).is_err()
    }

    /// Accepts the content of a poisoned buffer as it is, after which the buffer can be used as before.
    ///
    /// Call it if the content does not matter, or is about to be overwritten whole. If the failed work was a
    /// move or a scrub, the buffer holds zeros from now on, and never an earlier owner's bytes.
    ///
    /// Waits, for at most the engine timeout, for all pending work on the buffer, because that might poison it
    /// again; and for work that a lost device still has under way, because that might still write to the buffer.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Purged`]; [`crate::Error::Timeout`]. The buffer is then unchanged.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn accept_content(&self) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        let end = Instant::now() + buffer.core().timeout;
        let mut state = loop {
            let mut state = buffer.lock();
            let pending = state.fences().pending(Usage::Bookkeep);
            let in_use = if pending.is_empty() { state.fences().in_use() } else { vec![] };
            if pending.is_empty() && in_use.is_empty() {
                break state;
            }
            drop(state);
            buffer.core().counters.stalls.during(StallCause::Work, || {
                wait_all(&pending, end)?;
                let left = || end.saturating_duration_since(Instant::now());
                in_use.iter().try_for_each(|fence| fence.wait_until_released(left()))
            })?;
        };
        // A purged buffer has no content to accept.
        buffer.backing(&state)?;
        let failed = state.fences().forget_failures();
        // The clean copy may hold bytes from before the failed work.
        buffer.drop_clean_copy(&mut state);
        let imported = matches!(state.location().provider(), Provider::Foreign(_));
        if failed == Some(Usage::Move) && !imported {
            buffer.backing_mut(&mut state)?.mark_stale();
            // The next pin makes the content valid again.
            state.close_pins();
            buffer.status.set_ready(false);
            buffer.note_change(&state);
        }
        buffer.status.set_poisoned(false);
        Ok(())
    }
}
