//! Takes the reservation: at once, when the buffer is idle, or when given fences have signalled. Waits
//! without it.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffer::BufferInner;
use crate::buffer::state::State;
use crate::error::{Error, Result};
use crate::observe::StallCause;
use crate::sync::{Fence, Guard, Owner, Usage, drop_unlocked};

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
        self.lock_when(Until::Stuck(self.core().timeout), |state| {
            let mut pending = state.fences().pending(usage);
            pending.retain(|fence| relevant(fence));
            pending
        })
    }

    /// Takes the reservation of a usable buffer once no fence that `waits` returns is pending. Waits without
    /// the reservation.
    ///
    /// # Errors
    ///
    /// As [`BufferInner::lock_idle`].
    pub(in crate::buffer) fn lock_when(
        &self,
        until: Until,
        waits: impl Fn(&mut State) -> Vec<Fence>,
    ) -> Result<Guard<'_, State>> {
        loop {
            let left = match until {
                Until::Stuck(_) => self.core().bounds.lock,
                Until::End(end) => end.saturating_duration_since(Instant::now()),
            };
            let locked = self.reservation.lock_timeout(&self.core().queues, left);
            let Some(mut state) = locked else {
                let what = format!("the reservation of {}", self.name());
                return Err(Error::Timeout { what, after: self.core().bounds.lock });
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
            self.core().counters.stalls.during(cause, || wait_all(&pending, until))?;
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
            if self.is_made_valid(&mut state)? {
                return Ok(state);
            }
        }
    }

    /// Makes the bytes valid. Returns `false` if a device zeroes them, so that its work has to be waited for.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Poisoned`] if a device was to zero them and was lost: the bytes are those of their earlier owner.
    pub(in crate::buffer) fn is_made_valid(&self, state: &mut State) -> Result<bool> {
        self.make_valid(state)?;
        // The zeroing may have been submitted to a device. It may be over by now, with or without success.
        if !state.fences().pending(Usage::Move).is_empty() {
            return Ok(false);
        }
        self.check_usable(state)?;
        Ok(true)
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

    /// As [`BufferInner::end_access`], but waits for no lock: if the reservation is taken, its owner ends the access.
    pub(in crate::buffer) fn end_access_in_drop(self: &Arc<Self>) {
        self.do_or_defer(|_, state| {
            state.end_access();
            // Dropped after the reservation is released, because the waiters take it next.
            state.take_drained().map(|drained| Box::new(drained) as _)
        });
    }

    /// Does `work` under the reservation: now if it is free, otherwise when its owner releases it. For drops, which
    /// wait for no lock. What `work` returns is dropped without the reservation.
    pub(in crate::buffer) fn do_or_defer(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut State) -> Option<Box<dyn Any>> + Send + 'static,
    ) {
        let queues = &self.core().queues;
        if let Some(mut state) = self.reservation.try_lock(queues) {
            let left = work(self, &mut state);
            drop(state);
            left.into_iter().for_each(drop_unlocked);
            return;
        }
        let this = Arc::clone(self);
        self.reservation.defer(queues, self, move |state| {
            let left = work(&this, state);
            // The drop of the reference may be that of the buffer.
            Some(Box::new((left, this)))
        });
    }
}

impl Owner for BufferInner {
    fn try_lock_once(&self) {
        drop(self.reservation.try_lock(&self.core().queues));
    }
}

/// When a wait for fences ends without success.
#[derive(Clone, Copy, Debug)]
pub(in crate::buffer) enum Until {
    /// When no awaited timeline has made a step for so long.
    Stuck(Duration),
    /// At a point in time.
    End(Instant),
}

impl From<Instant> for Until {
    fn from(end: Instant) -> Self {
        Self::End(end)
    }
}

/// Waits until all fences have signalled or failed. A failure is no error here: the caller checks the buffer again,
/// and finds there whether it affects the bytes.
pub(in crate::buffer) fn wait_all(fences: &[Fence], until: impl Into<Until>) -> Result<()> {
    let until = until.into();
    fences.iter().try_for_each(|fence| match until {
        Until::Stuck(bound) => fence.wait_while_in_progress(bound),
        Until::End(end) => fence.wait_until_over(end.saturating_duration_since(Instant::now())),
    })
}
