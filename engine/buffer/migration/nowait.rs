//! A move that takes place at once or not at all: whoever would have to be waited for keeps the buffer where it
//! is.

use std::sync::Arc;

use super::copier::Copier;
use super::execute::finish_nowait;
use super::in_progress::{ActiveMove, first_waits};
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::error::Result;
use crate::observe::MoveCause;

impl BufferInner {
    /// As `relocate`, but that it waits for nobody. The steps are the same.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn try_migrate(
        self: &Arc<Self>,
        plan: Plan<'_>,
        request: MoveRequest,
    ) -> Result<MoveOutcome> {
        let request = MoveRequest { clean: plan.clean, waits: false, ..request };
        let Plan { home, seats, new, .. } = plan;
        let Some(copier) = Copier::find(self, &home, &new, request)? else {
            return Ok(MoveOutcome::NoPath);
        };
        // Bytes that no device copies would have to be waited for.
        if copier.has_no_device() {
            return Ok(MoveOutcome::NoPath);
        }
        let Some(mut state) = self.reservation.try_lock(&self.core().queues) else {
            return Ok(MoveOutcome::WouldBlock);
        };
        self.check_usable(&mut state)?;
        if !seats.still_fit(self, &state) || !copier.still_fits(&state) {
            return Ok(MoveOutcome::Retry);
        }
        if would_wait(&mut state, &copier) {
            return Ok(MoveOutcome::WouldBlock);
        }
        self.check_not_held(&state)?;
        let mut move_ = ActiveMove::new(self, state);
        move_.notify_importers(&copier, new.domain());
        match move_.park(&copier.device) {
            Ok(move_) => finish_nowait(move_, &copier, &home, new),
            Err(parked) => {
                // They were told of a move that does not take place, and shall not be at every use.
                parked.give_up();
                Ok(MoveOutcome::NoPath)
            }
        }
    }
}

/// Whether somebody would have to be waited for before the move may begin.
///
/// The copy of a return is queued behind that of the eviction. No more than these two wait in queues, since
/// every other move waits until those before it are over.
fn would_wait(state: &mut State, copier: &Copier) -> bool {
    let returns = copier.request.cause == MoveCause::Returned;
    let waits = first_waits(state, &copier.device);
    waits.iter().any(|fence| !returns || fence.is_for_host(&copier.device))
}
