//! Poison: a buffer whose bytes are not what anybody thinks says so, until somebody says that it knows.
//!
//! Kernel counterpart: errors that travel with fences (`dma_fence_set_error`). The kernel leaves it to
//! everybody to look at them; here the buffer keeps the error, because a fence is forgotten once it is
//! over.

use std::time::Instant;

use crate::buffer::object::{SharedBuffer, wait_all};
use crate::error::Result;
use crate::memory::Provider;
use crate::observe::StallCause;
use crate::sync::Usage;

impl SharedBuffer {
    /// Whether work that was to write it, or to move it, has gone wrong, so that its bytes are not what
    /// anybody thinks: its device was lost, or whoever signalled its fence said so
    /// ([`crate::Signal::fail`]). Whatever uses the bytes is then [`Error::Poisoned`].
    ///
    /// Locks: the reservation.
    pub fn is_poisoned(&self) -> bool {
        self.0.set.handle_lost_devices();
        let mut state = self.0.lock();
        self.0.check_content(&mut state).is_err()
    }

    /// Says that the caller knows what is in a poisoned buffer: it is as good as it is, or all of it is
    /// about to be written again. The buffer can then be used as before. Where it was its memory that was
    /// being made ready, by a move or a scrub, it holds zeros from now on, and nobody else's bytes.
    ///
    /// Waits, in bounds, for whatever is still at work on it, which might poison it again.
    ///
    /// # Errors
    ///
    /// [`Error::Purged`]; [`Error::Timeout`]. The buffer is then as it was.
    ///
    /// Locks: the reservation, but not while waiting.
    pub fn accept_content(&self) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        let end = Instant::now() + buffer.core().timeout;
        let mut state = loop {
            let mut state = buffer.lock();
            let pending = state.fences.pending(Usage::Bookkeep);
            if pending.is_empty() {
                break state;
            }
            drop(state);
            buffer.core().counters.stalls.during(StallCause::Work, || wait_all(&pending, end))?;
        };
        // It may be nowhere; then there is nothing to accept.
        buffer.backing(&state)?;
        let failed = state.fences.forget_failures();
        // It would bring back bytes of before what failed.
        buffer.drop_clean_copy(&mut state);
        let strangers = matches!(state.location.provider(), Provider::Foreign(_));
        if failed == Some(Usage::Move) && !strangers {
            buffer.backing_mut(&mut state)?.mark_stale();
            // The next pin makes it the buffer's own again.
            state.close_pins();
            buffer.status.set_ready(false);
        }
        buffer.status.set_poisoned(false);
        Ok(())
    }
}
