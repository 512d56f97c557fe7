//! A move that takes place at once or not at all: whoever would have to be waited for keeps the buffer where it
//! is.

use std::sync::Arc;

use super::copier::Mover;
use super::execute::finish_at_once;
use super::in_progress::{Move, first_waits};
use super::plan::Plan;
use super::request::{Errand, Moved};
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::error::Result;
use crate::observe::MoveCause;

impl BufferInner {
    /// As `relocate`, but that it waits for nobody. The steps are the same.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn go_at_once(
        self: &Arc<Self>,
        plan: Plan<'_>,
        errand: Errand,
    ) -> Result<Moved> {
        let errand = Errand { clean: plan.clean, waits: false, ..errand };
        let Plan { home, seats, new, .. } = plan;
        let Some(mover) = Mover::find(self, &home, &new, errand)? else {
            return Ok(Moved::NoMover);
        };
        // Bytes that no device copies would have to be waited for.
        if mover.has_no_device() {
            return Ok(Moved::NoMover);
        }
        let Some(mut state) = self.reservation.try_lock(&self.core().queues) else {
            return Ok(Moved::NotNow);
        };
        self.check_usable(&mut state)?;
        if !seats.still_fit(self, &state) || !mover.still_fits(&state) {
            return Ok(Moved::LookAgain);
        }
        if would_wait(&mut state, &mover) {
            return Ok(Moved::NotNow);
        }
        self.check_not_held(&state)?;
        let mut move_ = Move::new(self, state);
        move_.tell_importers(&mover, new.domain());
        match move_.park(&mover.device) {
            Ok(move_) => finish_at_once(move_, &mover, &home, new),
            Err(parked) => {
                // They were told of a move that does not take place, and shall not be at every use.
                parked.give_up();
                Ok(Moved::NoMover)
            }
        }
    }
}

/// Whether somebody would have to be waited for before the move may begin.
///
/// The copy of a return is queued behind that of the eviction. No more than these two wait in queues, since
/// every other move waits until those before it are over.
fn would_wait(state: &mut State, mover: &Mover) -> bool {
    let returns = mover.errand.cause == MoveCause::Returned;
    let waits = first_waits(state, &mover.device);
    waits.iter().any(|fence| !returns || fence.is_for_host(&mover.device))
}
