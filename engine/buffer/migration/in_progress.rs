//! A move that is under way: it holds the reservation, or the move fence while it waits without.

use std::sync::Arc;

use super::copier::Copier;
use super::invalidate::invalidate_importers;
use crate::buffer::object::{BufferInner, wait_all};
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::DomainId;
use crate::observe::StallCause;
use crate::sync::{Fence, Guard, Signal, Usage};

/// A move that is under way, with the reservation.
pub(in crate::buffer) struct ActiveMove<'a> {
    pub(in crate::buffer) buffer: &'a Arc<BufferInner>,
    // Declared before the gate: those who wait for it take the reservation next.
    pub(in crate::buffer) state: Guard<'a, State>,
    move_fence: Option<Signal>,
}

impl<'a> ActiveMove<'a> {
    pub(in crate::buffer) fn new(buffer: &'a Arc<BufferInner>, state: Guard<'a, State>) -> Self {
        Self { buffer, state, move_fence: None }
    }

    /// Calls every importer, under the reservation. Devices that they say are still using the buffer are
    /// for the copy to wait for, work of the host for the caller.
    pub(in crate::buffer) fn notify_importers(&mut self, copier: &Copier, to: DomainId) {
        let (cause, device) = (copier.request.cause, copier.device.id());
        self.buffer.trace_begin(&self.state, &copier.slice, cause, (device, to));
        let cause = copier.request.invalidation();
        invalidate_importers(self.buffer, &mut self.state, cause, copier.slice.id());
    }

    /// Waits for the fences that `relevant` picks, without the reservation.
    pub(in crate::buffer) fn wait_for(
        &mut self,
        copier: &Copier,
        relevant: impl Fn(&Fence) -> bool,
    ) -> Result<()> {
        let waits = self.close(relevant);
        if !waits.is_empty() {
            let end = copier.request.end(self.buffer.core());
            let stalls = &self.buffer.core().counters.stalls;
            let wait = || stalls.during(StallCause::Move, || wait_all(&waits, end));
            self.state.unlocked(wait)?;
        }
        // It may have been taken away meanwhile, or what was waited for may have failed.
        self.buffer.check_usable(&mut self.state)
    }

    /// The fences that `relevant` picks. If there are any, a host fence, which is a `Move` like any other,
    /// keeps everybody away from now on, and whoever maps waits for it: the reservation may be given up.
    fn close(&mut self, relevant: impl Fn(&Fence) -> bool) -> Vec<Fence> {
        let move_fence = self.state.moving().cloned();
        let mut waits = self.state.fences.pending(Usage::Bookkeep);
        waits.retain(|fence| {
            relevant(fence)
                && !move_fence.as_ref().is_some_and(|move_fence| move_fence.covers(fence))
        });
        if !waits.is_empty() {
            self.shut();
        }
        waits
    }

    /// Keeps everybody away from now on, with or without the reservation.
    pub(in crate::buffer) fn shut(&mut self) {
        if self.move_fence.is_none() {
            let (move_fence, signal) = Fence::host();
            self.state.fences.add(Usage::Move, move_fence.clone());
            self.state.set_moving(Some(move_fence));
            self.move_fence = Some(signal);
        }
    }

    /// Gives the reservation up, if there is something that no queue can wait for; `Ok` if there is
    /// nothing.
    pub(in crate::buffer) fn park(
        mut self,
        copier: &DeviceInner,
    ) -> Result<Self, SuspendedMove<'a>> {
        let waits = self.close(|fence| fence.is_for_host(copier));
        if waits.is_empty() {
            return Ok(self);
        }
        // Without its gate it does not let others in when it is dropped.
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
pub(in crate::buffer) struct SuspendedMove<'a> {
    buffer: &'a Arc<BufferInner>,
    waits: Vec<Fence>,
    move_fence: Option<Signal>,
}

impl<'a> SuspendedMove<'a> {
    /// Nobody waits: the buffer stays where it is, and whoever waits for the move goes on.
    pub(in crate::buffer) fn give_up(self) {
        let Self { buffer, move_fence, .. } = self;
        drop(ActiveMove { buffer, state: buffer.lock(), move_fence });
    }

    /// Waits, and takes the reservation again.
    pub(in crate::buffer) fn resume(self, copier: &Copier) -> Result<ActiveMove<'a>> {
        let Self { buffer, waits, move_fence } = self;
        let end = copier.request.end(buffer.core());
        let waited =
            buffer.core().counters.stalls.during(StallCause::Move, || wait_all(&waits, end));
        let mut resumed = ActiveMove { buffer, state: buffer.lock(), move_fence };
        waited?;
        // As after any wait of a move.
        buffer.check_usable(&mut resumed.state)?;
        Ok(resumed)
    }
}

/// What has to be waited for before a move may begin.
pub(in crate::buffer) fn first_waits(state: &mut State, copier: &DeviceInner) -> Vec<Fence> {
    let mut waits = state.fences.pending(Usage::Bookkeep);
    waits.retain(|fence| fence.is_for_host(copier));
    waits.extend(state.fences.pending(Usage::Move));
    waits
}
