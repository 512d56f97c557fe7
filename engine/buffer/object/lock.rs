//! Takes the reservation: at once, when the buffer is idle, or when given fences have signalled. Waits
//! without it.

use std::time::Instant;

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::error::{Error, Result};
use crate::observe::StallCause;
use crate::sync::{Fence, Guard, Usage};

impl BufferInner {
    /// Takes the reservation. Waits for its holder without a time limit.
    pub(in crate::buffer) fn lock(&self) -> Guard<'_, State> {
        self.reservation.lock(&self.core().queues)
    }

    /// Takes the reservation of a usable buffer once no fence that `usage` waits for and `relevant` selects
    /// is pending. Waits without the reservation.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`]; [`Error::Timeout`] after the engine
    /// timeout; [`Error::DeviceLost`].
    pub(in crate::buffer) fn lock_idle(
        &self,
        usage: Usage,
        relevant: impl Fn(&Fence) -> bool,
    ) -> Result<Guard<'_, State>> {
        self.lock_when(Instant::now() + self.core().timeout, |state| {
            let mut pending = state.fences().pending(usage);
            pending.retain(|fence| relevant(fence));
            pending
        })
    }

    /// Takes the reservation of a usable buffer once no fence that `waits` returns is pending. Waits without
    /// the reservation, until `end`.
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
            // Checked afterwards: a fence that is no longer pending may have failed.
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

    /// Takes the reservation of a buffer whose bytes are valid and in place.
    ///
    /// # Errors
    ///
    /// As [`BufferInner::lock_idle`].
    pub(in crate::buffer) fn lock_valid(&self) -> Result<Guard<'_, State>> {
        loop {
            let mut state = self.lock_idle(Usage::Move, |_| true)?;
            self.make_valid(&mut state)?;
            // The zeroing may have been submitted to a device. It may be over by now, with or without
            // success.
            if state.fences().pending(Usage::Move).is_empty() {
                self.check_usable(&mut state)?;
                return Ok(state);
            }
        }
    }

    /// Ends an access that [`State::begin_access`] has counted.
    pub(in crate::buffer) fn end_access(&self) {
        let mut state = self.lock();
        state.end_access();
        let take_drained = state.take_drained();
        drop(state);
        // Dropped after the reservation is released, because the waiters take it next.
        drop(take_drained);
    }
}

/// Waits until all fences have signalled or failed, but not beyond `end`. A failure is no error here: the
/// caller checks the buffer again, and finds there whether it affects the bytes.
pub(in crate::buffer) fn wait_all(fences: &[Fence], end: Instant) -> Result<()> {
    let left = || end.saturating_duration_since(Instant::now());
    fences.iter().try_for_each(|fence| fence.wait_until_over(left()))
}
