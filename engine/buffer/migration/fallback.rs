//! Copies that no single device can make.

use std::sync::Arc;

use super::commit::{after, publish};
use super::copier::{Mover, NotCopied, sum};
use super::destination::{Destination, Lender, leave};
use super::in_progress::Move;
use super::request::Moved;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::sync::{Fence, Fences, Usage};
use crate::transfer::Unfinished;

/// No device sees both places. The host waits for whoever is at work on the buffer, and carries the bytes: at
/// once what is over soon, the rest without the reservation, while the gate keeps others away.
pub(in crate::buffer) fn carry(
    move_: Move<'_>,
    mover: &Mover,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<Moved> {
    // As in `finish`.
    let mut move_ = move_;
    let buffer = move_.buffer;
    move_.wait_for(mover, |_| true)?;
    if !mover.still_fits(&move_.state) {
        return Ok(Moved::LookAgain);
    }
    let mut pause = mover.errand.pause();
    let state = &mut move_.state;
    let left = new.unless(|new| mover.without_device(buffer, state, home, new, true, &mut pause));
    let Some(new) = left else { return Ok(Moved::Yes) };
    // As in `finish`.
    let mut move_ = move_;
    move_.shut();
    let parts = mover.parts(buffer, &move_.state);
    mover.slice.copying();
    if let Err(failed) = move_.state.unlocked(|| mover.carry(buffer, &parts, &new)) {
        let Unfinished { error, reading, writing } = failed;
        tracing::warn!(%error, buffer = buffer.name(), "its bytes did not get there; it stays");
        mover.slice.failed();
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
    if !mover.still_fits(&move_.state) {
        return Ok(Moved::LookAgain);
    }
    let mut new = new.take();
    new.make_valid();
    let done = mover.done(sum(&parts));
    publish(buffer, &mut move_.state, home, new, Fence::signalled(), &done);
    Ok(Moved::Yes)
}

/// The copy could not be submitted: the host copies where it sees both places; else nothing has changed.
#[cold]
pub(in crate::buffer) fn instead_of_copy(
    mut move_: Move<'_>,
    mover: &Mover,
    home: &DeviceInner,
    NotCopied { error, new, cleared }: NotCopied,
    lender: Option<Lender<'_>>,
) -> Result<Moved> {
    let buffer = move_.buffer;
    tracing::warn!(%error, buffer = buffer.name(), "no copy on the device; does the host see both?");
    let mut copied = 0;
    let mut by_host = || {
        if error.is_device_lost() {
            return Ok(Some(false));
        }
        // Others must not come in while it waits, and some of the new place may be being written.
        move_.state.fences.add(Usage::Bookkeep, cleared.clone());
        move_.wait_for(mover, |_| true)?;
        if !mover.still_fits(&move_.state) {
            return Ok(None);
        }
        let parts = mover.parts(buffer, &move_.state);
        copied = sum(&parts);
        mover.copy_by_host(buffer, &parts, &new).map(Some)
    };
    let done = match by_host() {
        Ok(Some(false)) => Err(error),
        other => other,
    };
    match done {
        Ok(None) => {
            leave(buffer, &mut move_.state, (new, lender), after(cleared));
            Ok(Moved::LookAgain)
        }
        Ok(Some(_)) => {
            let mut new = new;
            new.make_valid();
            publish(buffer, &mut move_.state, home, new, Fence::signalled(), &mover.done(copied));
            Ok(Moved::Yes)
        }
        Err(error) => {
            mover.slice.failed();
            leave(buffer, &mut move_.state, (new, lender), after(cleared));
            Err(error)
        }
    }
}
