//! The move.
//!
//! Kernel counterparts: `ttm_bo_handle_move_mem` (tell everybody, then move), `ttm_bo_move_accel_cleanup`
//! (the old backing waits for the copy).

use std::sync::Arc;

use super::commit::after;
use super::copier::{Copier, NotCopied};
use super::destination::{Destination, leave};
use super::fallback::{carry, instead_of_copy};
use super::in_progress::{ActiveMove, first_waits};
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::BufferInner;
use crate::buffer::placement::ImportMatrix;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::sync::{Guard, Usage};

/// Moves a buffer that nobody holds to `new`, at home on `home`, where the `seats` can reach it.
///
/// Lock the reservation; refuse if somebody holds the buffer; tell every importer; submit the copy, ordered
/// behind all fences of the buffer, those of other devices included; publish the new backing, one generation
/// on; add the copy's fence as a `Move`, which everybody waits for; keep the old backing until the copy
/// and the last mapping of it are over. A failure at any step before "publish" leaves the buffer exactly
/// as it was.
///
/// The caller waits for no device, but for an earlier move of the same buffer. It waits, without the
/// reservation, for work of the host, which no queue may be made to wait for. Where no device sees both places
/// it waits, likewise, for everybody, and carries the bytes.
pub(in crate::buffer) fn relocate(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    seats: &ImportMatrix,
    new: Destination<'_>,
    request: MoveRequest,
) -> Result<MoveOutcome> {
    let Some(copier) = Copier::find(buffer, home, &new, request)? else {
        return Ok(MoveOutcome::NoPath);
    };
    if copier.has_no_device() && !request.waits {
        return Ok(MoveOutcome::NoPath);
    }
    let state = lock_movable(buffer, &copier)?;
    if !seats.still_fit(buffer, &state) || !copier.still_fits(&state) {
        return Ok(MoveOutcome::Retry);
    }
    let mut move_ = ActiveMove::new(buffer, state);
    move_.notify_importers(&copier, new.domain());
    move_.wait_for(&copier, |fence| fence.is_for_host(&copier.device))?;
    finish(move_, &copier, home, new)
}

/// The copy, and what comes after it. The importers have been told, and what no queue can wait for has been
/// waited for; meanwhile the device may have been given up that the buffer was on, or goes to. Nobody has sat
/// down: whoever would waits for the move.
pub(in crate::buffer) fn finish(
    move_: ActiveMove<'_>,
    copier: &Copier,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<MoveOutcome> {
    // Ends before the new place goes back, which takes the reservation.
    let mut move_ = move_;
    if !copier.still_fits(&move_.state) {
        return Ok(MoveOutcome::Retry);
    }
    if copier.has_no_device() {
        return carry(move_, copier, home, new);
    }
    let lender = new.lender();
    match copier.copy(move_.buffer, &mut move_.state, home, new.take()) {
        Ok(()) => Ok(MoveOutcome::Moved),
        Err(failed) => instead_of_copy(move_, copier, home, *failed, lender),
    }
}

/// The copy, if it can be submitted; else nothing has changed, and nobody is waited for.
pub(in crate::buffer) fn finish_nowait(
    move_: ActiveMove<'_>,
    copier: &Copier,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<MoveOutcome> {
    // As in `finish`.
    let mut move_ = move_;
    let (buffer, lender) = (move_.buffer, new.lender());
    match copier.copy(buffer, &mut move_.state, home, new.take()) {
        Ok(()) => Ok(MoveOutcome::Moved),
        Err(failed) => {
            let NotCopied { error, new, cleared } = *failed;
            copier.slice.failed();
            // What was submitted all the same reads the old place.
            move_.state.fences.add(Usage::Bookkeep, cleared.clone());
            leave(buffer, &mut move_.state, (new, lender), after(cleared));
            Err(error)
        }
    }
}

/// Takes the reservation of a buffer that may move now: nobody holds it, and nothing is under way that the
/// mover's queue could not wait for. Nor is an earlier move: one at a time, else whoever moves a buffer to
/// and fro would fill queues and memory with places that it has left.
fn lock_movable<'a>(buffer: &'a Arc<BufferInner>, copier: &Copier) -> Result<Guard<'a, State>> {
    let end = copier.request.end(buffer.core());
    let state = buffer.lock_when(end, |state| first_waits(state, &copier.device))?;
    buffer.check_not_held(&state)?;
    Ok(state)
}

pub(in crate::buffer) fn no_path(home: &DeviceInner) -> Error {
    Error::Unsupported {
        device: home.name().to_owned(),
        missing: "a view of the new place, or anybody's of the old one".into(),
    }
}
