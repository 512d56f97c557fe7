//! Copies that no single device can make.

use std::sync::Arc;

use super::commit::{after, commit};
use super::copier::{Copier, NotCopied, sum};
use super::destination::{Destination, Lender, leave};
use super::in_progress::ActiveMove;
use super::request::MoveOutcome;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::sync::{Fence, Fences, Usage};
use crate::transfer::Unfinished;

/// No device sees both places. The host waits for whoever is at work on the buffer, and carries the bytes: at
/// once what is over soon, the rest without the reservation, while the gate keeps others away.
pub(in crate::buffer) fn carry(
    move_: ActiveMove<'_>,
    copier: &Copier,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<MoveOutcome> {
    // As in `finish`.
    let mut move_ = move_;
    let buffer = move_.buffer;
    move_.wait_for(copier, |_| true)?;
    if !copier.still_fits(&move_.state) {
        return Ok(MoveOutcome::Retry);
    }
    let mut pause = copier.request.pause();
    let state = &mut move_.state;
    let left = new.unless(|new| copier.without_device(buffer, state, home, new, true, &mut pause));
    let Some(new) = left else { return Ok(MoveOutcome::Moved) };
    // As in `finish`.
    let mut move_ = move_;
    move_.shut();
    let parts = copier.parts(buffer, &move_.state);
    copier.slice.copying();
    if let Err(failed) = move_.state.unlocked(|| copier.carry(buffer, &parts, &new)) {
        let Unfinished { error, reading, writing } = failed;
        tracing::warn!(%error, buffer = buffer.name(), "its bytes did not get there; it stays");
        copier.slice.failed();
        // Both places are kept until nobody is at work on them any more.
        reading.into_iter().for_each(|fence| move_.state.fences.add(Usage::Read, fence));
        let mut fences = Fences::default();
        writing.into_iter().for_each(|fence| fences.add(Usage::Bookkeep, fence));
        let lender = new.lender();
        leave(buffer, &mut move_.state, (new.take(), lender), fences);
        return Err(error);
    }
    // It may have been taken away meanwhile, or the device given up that it goes to.
    buffer.check_usable(&mut move_.state)?;
    if !copier.still_fits(&move_.state) {
        return Ok(MoveOutcome::Retry);
    }
    let mut new = new.take();
    new.make_valid();
    let done = copier.done(sum(&parts));
    commit(buffer, &mut move_.state, home, new, Fence::signalled(), &done);
    Ok(MoveOutcome::Moved)
}

/// The copy could not be submitted: the host copies where it sees both places; else nothing has changed.
#[cold]
pub(in crate::buffer) fn instead_of_copy(
    mut move_: ActiveMove<'_>,
    copier: &Copier,
    home: &DeviceInner,
    NotCopied { error, new, cleared }: NotCopied,
    lender: Option<Lender<'_>>,
) -> Result<MoveOutcome> {
    let buffer = move_.buffer;
    tracing::warn!(%error, buffer = buffer.name(), "no copy on the device; does the host see both?");
    let mut copied = 0;
    let mut by_host = || {
        if error.is_device_lost() {
            return Ok(Some(false));
        }
        // Others must not come in while it waits, and some of the new place may be being written.
        move_.state.fences.add(Usage::Bookkeep, cleared.clone());
        move_.wait_for(copier, |_| true)?;
        if !copier.still_fits(&move_.state) {
            return Ok(None);
        }
        let parts = copier.parts(buffer, &move_.state);
        copied = sum(&parts);
        copier.copy_by_host(buffer, &parts, &new).map(Some)
    };
    let done = match by_host() {
        Ok(Some(false)) => Err(error),
        other => other,
    };
    match done {
        Ok(None) => {
            leave(buffer, &mut move_.state, (new, lender), after(cleared));
            Ok(MoveOutcome::Retry)
        }
        Ok(Some(_)) => {
            let mut new = new;
            new.make_valid();
            commit(buffer, &mut move_.state, home, new, Fence::signalled(), &copier.done(copied));
            Ok(MoveOutcome::Moved)
        }
        Err(error) => {
            copier.slice.failed();
            leave(buffer, &mut move_.state, (new, lender), after(cleared));
            Err(error)
        }
    }
}
