//! A move without waits: if it would have to wait, the buffer stays in its domain.
//!
//! Kernel counterpart: `no_wait_gpu` of `ttm_operation_ctx`.

use std::sync::Arc;

use super::copier::{Copier, zeroing_time};
use super::execute::finish_nowait;
use super::in_progress::{ActiveMove, waits_before_move};
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::error::Result;
use crate::observe::MoveCause;

/// The most bytes that the host zeroes before a move that must not wait: half a millisecond.
pub(in crate::buffer) const ZEROED_AT_ONCE: u64 = 4 << 20;

impl BufferInner {
    /// Does the same steps as `relocate`, but never waits.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn try_migrate(
        self: &Arc<Self>,
        plan: Plan<'_>,
        request: MoveRequest,
    ) -> Result<MoveOutcome> {
        let request = MoveRequest { clean: plan.clean, may_wait: false, ..request };
        self.zero_rest(ZEROED_AT_ONCE);
        let Plan { home, matrix, new, .. } = plan;
        let Some(copier) = Copier::find(self, &home, &new, request)? else {
            return Ok(MoveOutcome::NoPath);
        };
        // The move would have to wait for a bounce copy.
        if copier.needs_bounce() {
            return Ok(MoveOutcome::NoPath);
        }
        let Some(mut state) = self.reservation.try_lock(&self.core().queues) else {
            return Ok(MoveOutcome::WouldBlock);
        };
        self.check_usable(&mut state)?;
        if !matrix.is_current(self, &state) || !copier.is_current(&state) {
            return Ok(MoveOutcome::Retry);
        }
        // What the host has not touched is zeroed before it moves.
        let zeroes_long = zeroing_time(&state) > request.host_time();
        if zeroes_long || would_block(&mut state, &copier) {
            return Ok(MoveOutcome::WouldBlock);
        }
        self.check_not_held(&state)?;
        let mut active = ActiveMove::new(self, state);
        active.notify_importers(&copier, new.domain());
        match active.suspend(&copier.way.device) {
            Ok(active) => finish_nowait(active, &copier, &home, new),
            Err(suspended) => {
                // Importers were notified of a move that did not happen. `NoPath` makes the caller back off,
                // so that this is not repeated at every use.
                suspended.cancel();
                Ok(MoveOutcome::NoPath)
            }
        }
    }
}

/// Whether the move would have to wait before it may begin.
///
/// The copy of a restore is queued behind that of the eviction. Queues hold no more than these two, since
/// every other move waits for the earlier ones.
fn would_block(state: &mut State, copier: &Copier) -> bool {
    let is_restore = copier.request.cause == MoveCause::Restored;
    let waits = waits_before_move(state, &copier.way.device);
    waits.iter().any(|fence| !is_restore || fence.is_for_host(&copier.way.device))
}
