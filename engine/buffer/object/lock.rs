//! Taking the reservation: at once, when idle, when given fences have signalled.

use std::time::Instant;

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::error::{Error, Result};
use crate::observe::StallCause;
use crate::sync::{Fence, Guard, Usage};

impl BufferInner {
    /// Takes the reservation.
    pub(in crate::buffer) fn lock(&self) -> Guard<'_, State> {
        self.reservation.lock(&self.core().queues)
    }

    /// Takes the reservation of a buffer that may be used, when no fence that `relevant` picks is pending,
    /// waiting without it.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`]; [`Error::Timeout`] when the engine's bound
    /// is over, [`Error::DeviceLost`].
    pub(in crate::buffer) fn lock_idle(
        &self,
        usage: Usage,
        relevant: impl Fn(&Fence) -> bool,
    ) -> Result<Guard<'_, State>> {
        self.lock_when(Instant::now() + self.core().timeout, |state| {
            let mut pending = state.fences.pending(usage);
            pending.retain(|fence| relevant(fence));
            pending
        })
    }

    /// Takes the reservation when nothing is pending that `waits` names, waiting without it, until `end`.
    ///
    /// # Errors
    ///
    /// As [`BufferInner::lock_idle`].
    pub(in crate::buffer) fn lock_when(
        &self,
        end: Instant,
        waits: impl Fn(&mut State) -> Vec<Fence>,
    ) -> Result<Guard<'_, State>> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let locked = self.reservation.lock_timeout(&self.core().queues, left);
            let Some(mut state) = locked else {
                let what = format!("the reservation of {}", self.name());
                return Err(Error::Timeout { what, after: self.core().timeout });
            };
            let pending = waits(&mut state);
            // After it: what is not pending any more may have failed.
            self.check_usable(&mut state)?;
            if pending.is_empty() {
                return Ok(state);
            }
            let moves = state.moving().is_some();
            let cause = if moves { StallCause::Move } else { StallCause::Work };
            drop(state);
            self.core().counters.stalls.during(cause, || wait_all(&pending, end))?;
        }
    }

    /// Takes the reservation of a buffer whose bytes are its own and in place.
    pub(in crate::buffer) fn lock_owned(&self) -> Result<Guard<'_, State>> {
        loop {
            let mut state = self.lock_idle(Usage::Move, |_| true)?;
            self.own(&mut state)?;
            // Scrubbing may have been left to a device, and may be over by now, well or not.
            if state.fences.pending(Usage::Move).is_empty() {
                self.check_usable(&mut state)?;
                return Ok(state);
            }
        }
    }

    /// Ends an access that was counted in `State::host`.
    pub(in crate::buffer) fn end_access(&self) {
        let mut state = self.lock();
        state.end_access();
        let take_drained = state.take_drained();
        drop(state);
        // After the reservation: those who wait for it take that next.
        drop(take_drained);
    }
}

/// Waits until all are over, well or not: whoever waits looks again, and finds in the buffer what of it
/// concerns the bytes.
pub(in crate::buffer) fn wait_all(fences: &[Fence], end: Instant) -> Result<()> {
    let left = || end.saturating_duration_since(Instant::now());
    fences.iter().try_for_each(|fence| fence.wait_until_over(left()))
}
