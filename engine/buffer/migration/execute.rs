//! Executes a move: lock, check, invalidate, copy, commit.
//!
//! Kernel counterparts: `ttm_bo_handle_move_mem` (notify all importers, then move),
//! `ttm_bo_move_accel_cleanup` (the old backing waits for the copy).

use std::sync::Arc;

use super::commit::fences_of;
use super::copier::{Copier, SubmitFailed};
use super::destination::{Destination, release_unused};
use super::fallback::{HostCopy, bounce_copy, fall_back_to_host};
use super::in_progress::{ActiveMove, waits_before_move};
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::BufferInner;
use crate::buffer::placement::ImportMatrix;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::sync::{Guard, Usage};

/// Moves a buffer to `new`, where all devices of `matrix` can reach it, and makes `home` its home device.
///
/// 1. Lock the reservation.
/// 2. Refuse if the buffer is held.
/// 3. Notify every importer.
/// 4. Submit the copy, ordered behind all fences of the buffer, those of other devices included.
/// 5. Commit the new backing, with the next generation.
/// 6. Add the copy's fence as a `Move`, which all users wait for.
/// 7. Keep the old backing until the copy has ended and its last mapping is gone.
///
/// A failure at any step before the commit leaves the buffer exactly as it was.
///
/// The caller waits for no device, except for an earlier move of the same buffer. It waits, without the
/// reservation, for work of the host, which no queue can wait for. Where no device sees both backings, it
/// waits likewise for all work on the buffer, and makes a bounce copy.
pub(in crate::buffer) fn relocate(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    matrix: &ImportMatrix,
    new: Destination<'_>,
    request: MoveRequest,
) -> Result<MoveOutcome> {
    relocate_if(buffer, home, |state| matrix.is_current(buffer, state), new, request)
}

/// As [`relocate`], where `is_planned` says under the reservation whether the plan still holds.
pub(super) fn relocate_if(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    is_planned: impl FnOnce(&State) -> bool,
    new: Destination<'_>,
    request: MoveRequest,
) -> Result<MoveOutcome> {
    let Some(copier) = Copier::find(buffer, home, &new, request)? else {
        return Ok(MoveOutcome::NoPath);
    };
    if copier.needs_bounce() && !request.may_wait {
        return Ok(MoveOutcome::NoPath);
    }
    let state = lock_movable(buffer, &copier)?;
    if !is_planned(&state) || !copier.is_current(&state) {
        return Ok(MoveOutcome::Retry);
    }
    let mut active = ActiveMove::new(buffer, state);
    active.notify_importers(&copier, new.domain());
    active.wait_for(&copier, |fence| fence.is_for_host(&copier.way.device))?;
    finish(active, &copier, home, new)
}

/// Copies and commits. The importers are notified, and the waits that no queue can make are over.
///
/// During those waits the device that the buffer was on, or moves to, may have been unplugged. No device has
/// attached: attaching waits for the move.
pub(super) fn finish(
    active: ActiveMove<'_>,
    copier: &Copier,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<MoveOutcome> {
    // Declared again, to be dropped before `new`: the drop of `new` takes the reservation.
    let mut active = active;
    active.zero_rest(copier)?;
    if !copier.is_current(&active.state) {
        return Ok(MoveOutcome::Retry);
    }
    if copier.needs_bounce() {
        return bounce_copy(active, copier, home, new);
    }
    let lender = new.lender();
    match copier.copy(active.buffer, &mut active.state, home, new.take()) {
        Ok(()) => Ok(MoveOutcome::Moved),
        Err(failed) => {
            fall_back_to_host(active, copier, home, (*failed, lender), HostCopy::SamePlaces)
        }
    }
}

/// Submits the copy and commits. If the submission fails, nothing has changed: there is no fallback, and no
/// wait.
pub(super) fn finish_nowait(
    active: ActiveMove<'_>,
    copier: &Copier,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<MoveOutcome> {
    // Dropped before `new`, as in `finish`.
    let mut active = active;
    let (buffer, lender) = (active.buffer, new.lender());
    match copier.copy(buffer, &mut active.state, home, new.take()) {
        Ok(()) => Ok(MoveOutcome::Moved),
        Err(failed) => {
            let SubmitFailed { error, new, submitted_part } = *failed;
            copier.span.failed();
            // The submitted part reads the old backing.
            active.state.fences().add(Usage::Bookkeep, submitted_part.clone());
            release_unused(buffer, &mut active.state, (new, lender), fences_of(submitted_part));
            Err(error)
        }
    }
}

/// Takes the reservation of a buffer that can move now: it is not held, no work is pending that the copier's
/// queue cannot wait for, and no earlier move is in progress.
///
/// Only one move runs at a time. Otherwise, moving a buffer to and fro would fill queues with copies, and
/// memory with old backings.
pub(super) fn lock_movable<'a>(
    buffer: &'a Arc<BufferInner>,
    copier: &Copier,
) -> Result<Guard<'a, State>> {
    let until = copier.request.until(buffer.core());
    let state = buffer.lock_when(until, |state| waits_before_move(state, &copier.way.device))?;
    buffer.check_not_held(&state)?;
    Ok(state)
}

/// The error for a move that has no copy path.
pub(in crate::buffer) fn no_path(home: &DeviceInner) -> Error {
    Error::Unsupported {
        device: home.name().to_owned(),
        missing: "a copy path between the old and the new memory".into(),
    }
}
