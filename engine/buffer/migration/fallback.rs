//! Copies that no single device can make.

use std::sync::Arc;

use ash::vk;

use super::commit::{commit, fences_of};
use super::copier::{Copier, SubmitFailed, total_bytes};
use super::destination::{Destination, Lender, release_unused};
use super::in_progress::ActiveMove;
use super::request::MoveOutcome;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::HostWait;
use crate::sync::{Fence, Fences, Usage};
use crate::transfer::Unfinished;

/// Makes a bounce copy, since no device sees both backings. Waits for all work on the buffer first. Short
/// host copies run under the reservation, long ones without it, while the move fence keeps new work away.
pub(super) fn bounce_copy(
    active: ActiveMove<'_>,
    copier: &Copier,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<MoveOutcome> {
    // Dropped before `new`, as in `finish`.
    let mut active = active;
    let buffer = active.buffer;
    active.wait_for(copier, |_| true)?;
    if !copier.is_current(&active.state) {
        return Ok(MoveOutcome::Retry);
    }
    let mut host_time = copier.request.host_time();
    let state = &mut active.state;
    let new = new.commit_or_keep(|new| {
        copier.copy_without_device(buffer, state, home, new, true, &mut host_time)
    });
    let Some(new) = new else { return Ok(MoveOutcome::Moved) };
    // Dropped before `new`, as in `finish`.
    let mut active = active;
    active.add_move_fence();
    let parts = copier.parts(buffer, &active.state);
    copier.span.copying();
    if let Err(failed) = active.state.unlocked(|| copier.bounce_copy(buffer, &parts, &new)) {
        let Unfinished { error, reading, writing } = failed;
        tracing::warn!(%error, buffer = buffer.name(), "bounce copy failed; buffer not moved");
        copier.span.failed();
        // Both backings are kept until this work has ended.
        reading.into_iter().for_each(|fence| active.state.fences().add(Usage::Read, fence));
        let mut fences = Fences::default();
        writing.into_iter().for_each(|fence| fences.add(Usage::Bookkeep, fence));
        let lender = new.lender();
        release_unused(buffer, &mut active.state, (new.take(), lender), fences);
        return Err(error);
    }
    // Meanwhile the buffer may have been revoked, or the device of the destination unplugged.
    buffer.check_usable(&mut active.state)?;
    if !copier.is_current(&active.state) {
        return Ok(MoveOutcome::Retry);
    }
    let mut new = new.take();
    new.make_valid();
    let summary = copier.summary(total_bytes(&parts));
    commit(buffer, &mut active.state, home, new, Fence::signalled(), &summary);
    Ok(MoveOutcome::Moved)
}

/// What the host copies where no device does.
#[derive(Clone, Copy)]
pub(super) enum HostCopy<'a> {
    /// What is to be copied of the buffer, to the same places.
    SamePlaces,
    /// Parts to other places.
    OtherPlaces {
        parts: &'a [vk::BufferCopy],
        /// Called under the reservation once the bytes are at their new places.
        done: &'a dyn Fn(),
    },
}

/// Copies by the host, if it sees both backings, since the copy could not be submitted. If the host cannot
/// copy either, nothing has changed.
#[cold]
pub(super) fn fall_back_to_host(
    mut active: ActiveMove<'_>,
    copier: &Copier,
    home: &DeviceInner,
    (SubmitFailed { error, new, submitted_part }, lender): (SubmitFailed, Option<Lender<'_>>),
    what: HostCopy<'_>,
) -> Result<MoveOutcome> {
    let buffer = active.buffer;
    tracing::warn!(%error, buffer = buffer.name(), "device copy failed; trying a host copy");
    let mut copied = 0;
    // The host would copy tiles as bytes, and the other domain is to have rows.
    let in_tiles = copier.tiles_to_leave(&active.state, &new).is_some();
    let mut by_host = || {
        // A submitted part of the copy may still be reading the old backing and writing the new one, also on a device
        // that is lost.
        active.state.fences().add(Usage::Bookkeep, submitted_part.clone());
        if error.is_device_lost() || in_tiles {
            return Ok(Some(false));
        }
        // The wait needs the move fence.
        active.wait_for(copier, |_| true)?;
        if !copier.is_current(&active.state) {
            return Ok(None);
        }
        let ranges = copier.parts(buffer, &active.state);
        let copy = |wait| match what {
            HostCopy::SamePlaces => copier.copy_by_host(buffer, &ranges, &new, wait),
            HostCopy::OtherPlaces { parts, .. } => {
                copier.copy_parts_by_host(buffer, parts, &new, wait)
            }
        };
        copied = match what {
            HostCopy::SamePlaces => total_bytes(&ranges),
            HostCopy::OtherPlaces { parts, .. } => parts.iter().map(|part| part.size).sum(),
        };
        if copy(HostWait::Never)? {
            return Ok(Some(true));
        }
        // The host may have to wait for the fences of a dma-buf: without the reservation, while the move fence keeps
        // new work away.
        active.add_move_fence();
        let wait = HostWait::within(buffer.core().timeout);
        let copied = active.state.unlocked(|| copy(wait))?;
        buffer.check_usable(&mut active.state)?;
        Ok(copier.is_current(&active.state).then_some(copied))
    };
    let copied_by_host = match by_host() {
        Ok(Some(false)) => Err(error),
        other => other,
    };
    match copied_by_host {
        Ok(None) => {
            release_unused(buffer, &mut active.state, (new, lender), fences_of(submitted_part));
            Ok(MoveOutcome::Retry)
        }
        Ok(Some(_)) => {
            let mut new = new;
            new.make_valid();
            commit(
                buffer,
                &mut active.state,
                home,
                new,
                Fence::signalled(),
                &copier.summary(copied),
            );
            if let HostCopy::OtherPlaces { done, .. } = what {
                done();
            }
            Ok(MoveOutcome::Moved)
        }
        Err(error) => {
            copier.span.failed();
            release_unused(buffer, &mut active.state, (new, lender), fences_of(submitted_part));
            Err(error)
        }
    }
}
