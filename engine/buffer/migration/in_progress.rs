//! A move in progress. It holds the reservation, or, while it waits, the move fence instead.

use std::sync::Arc;

use super::copier::{Copier, zeroing_time};
use super::invalidate::invalidate_importers;
use crate::buffer::object::{BufferInner, wait_all};
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{Backing, DomainId};
use crate::observe::StallCause;
use crate::sync::{Fence, Guard, Signal, Usage};

/// A move in progress that holds the reservation.
pub(super) struct ActiveMove<'a> {
    pub(super) buffer: &'a Arc<BufferInner>,
    // Declared before the move fence, and so released first: threads that wait for the fence take the
    // reservation next.
    pub(super) state: Guard<'a, State>,
    move_fence: Option<Signal>,
}

impl<'a> ActiveMove<'a> {
    /// Begins a move. The reservation is held.
    pub(super) fn new(buffer: &'a Arc<BufferInner>, state: Guard<'a, State>) -> Self {
        Self { buffer, state, move_fence: None }
    }

    /// Notifies every importer, under the reservation. The copy waits for the device work that importers add;
    /// the caller waits for their host work.
    pub(super) fn notify_importers(&mut self, copier: &Copier, to: DomainId) {
        let (cause, device) = (copier.request.cause, copier.way.device.id());
        self.buffer.trace_begin(&self.state, &copier.span, cause, (device, to));
        let cause = copier.request.invalidation();
        invalidate_importers(self.buffer, &mut self.state, cause, copier.span.id());
    }

    /// Waits for the pending fences that `relevant` selects, without the reservation.
    pub(super) fn wait_for(
        &mut self,
        copier: &Copier,
        relevant: impl Fn(&Fence) -> bool,
    ) -> Result<()> {
        let waits = self.begin_wait(relevant);
        if !waits.is_empty() {
            let until = copier.request.until(self.buffer.core());
            let stalls = &self.buffer.core().counters.stalls;
            let wait = || stalls.during(StallCause::Move, || wait_all(&waits, until));
            self.state.unlocked(wait)?;
        }
        // Meanwhile the buffer may have been revoked, or the awaited work may have failed.
        self.buffer.check_usable(&mut self.state)
    }

    /// Zeroes what the host has not touched of a buffer that is zeroed in parts, if that takes longer than the host may
    /// use under the reservation: without it, while the move fence keeps new users away.
    #[expect(unsafe_code, reason = "zeroing mapped memory that nothing else uses")]
    pub(super) fn zero_rest(&mut self, copier: &Copier) -> Result<()> {
        if zeroing_time(&self.state) <= copier.request.host_time() {
            return Ok(());
        }
        let Some(rest) = self.state.location().backing().and_then(Backing::rest) else {
            return Ok(());
        };
        self.add_move_fence();
        // SAFETY: if the buffer loses its backing meanwhile, that waits for the buffer's fences before it gets another
        // owner (`State::replace_backing`). The move fence, which is one of them, signals after this.
        self.state.unlocked(|| unsafe { rest.zero() });
        // As in `wait_for`.
        self.buffer.check_usable(&mut self.state)
    }

    /// Returns the pending fences that `relevant` selects. If there are any, adds the move fence, so that the
    /// reservation may be released for the wait.
    fn begin_wait(&mut self, relevant: impl Fn(&Fence) -> bool) -> Vec<Fence> {
        let own_fence = self.state.moving().cloned();
        let mut waits = self.state.fences().pending(Usage::Bookkeep);
        waits.retain(|fence| {
            relevant(fence) && !own_fence.as_ref().is_some_and(|own| own.covers(fence))
        });
        if !waits.is_empty() {
            self.add_move_fence();
        }
        waits
    }

    /// Adds the move fence, unless it is there already: a host fence with the usage `Move`. Until it signals,
    /// all users of the buffer wait for it, with or without the reservation.
    pub(super) fn add_move_fence(&mut self) {
        if self.move_fence.is_none() {
            let (move_fence, signal) = Fence::host();
            self.state.fences().add(Usage::Move, move_fence.clone());
            self.state.set_moving(Some(move_fence));
            self.move_fence = Some(signal);
        }
    }

    /// Whether work is pending that no queue can wait for.
    pub(super) fn waits_for_host(&mut self, device: &DeviceInner) -> bool {
        let pending = self.state.fences().pending(Usage::Bookkeep);
        pending.iter().any(|fence| fence.is_for_host(device))
    }

    /// Suspends the move if work is pending that no queue can wait for: releases the reservation, and keeps
    /// the move fence. Returns `Ok` if there is no such work.
    pub(super) fn suspend(mut self, device: &DeviceInner) -> Result<Self, SuspendedMove<'a>> {
        let waits = self.begin_wait(|fence| fence.is_for_host(device));
        if waits.is_empty() {
            return Ok(self);
        }
        // Without its move fence, the drop of `self` does not end the move.
        Err(SuspendedMove { buffer: self.buffer, waits, move_fence: self.move_fence.take() })
    }
}

impl Drop for ActiveMove<'_> {
    fn drop(&mut self) {
        if self.move_fence.is_some() {
            self.state.set_moving(None);
        }
    }
}

/// A move that waits, without the reservation.
pub(super) struct SuspendedMove<'a> {
    buffer: &'a Arc<BufferInner>,
    waits: Vec<Fence>,
    move_fence: Option<Signal>,
}

impl<'a> SuspendedMove<'a> {
    /// Cancels the move without waiting: the buffer stays in its domain, and threads that wait for the move
    /// continue.
    ///
    /// Locks: no reservation may be held.
    pub(super) fn cancel(self) {
        let Self { buffer, move_fence, .. } = self;
        drop(ActiveMove { buffer, state: buffer.lock(), move_fence });
    }

    /// Waits for the pending work, then takes the reservation again.
    pub(super) fn resume(self, copier: &Copier) -> Result<ActiveMove<'a>> {
        let Self { buffer, waits, move_fence } = self;
        let until = copier.request.until(buffer.core());
        let waited =
            buffer.core().counters.stalls.during(StallCause::Move, || wait_all(&waits, until));
        let mut resumed = ActiveMove { buffer, state: buffer.lock(), move_fence };
        waited?;
        // As in `wait_for`.
        buffer.check_usable(&mut resumed.state)?;
        Ok(resumed)
    }
}

/// The fences that have to signal before a move may begin: earlier moves, and work that no queue can wait
/// for.
pub(super) fn waits_before_move(state: &mut State, device: &DeviceInner) -> Vec<Fence> {
    let mut waits = state.fences().pending(Usage::Bookkeep);
    waits.retain(|fence| fence.is_for_host(device));
    waits.extend(state.fences().pending(Usage::Move));
    waits
}
