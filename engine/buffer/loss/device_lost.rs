//! A device is lost, and what was in its memory with it.
//!
//! Kernel counterpart: what `drm_dev_unplug` leaves to each driver.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::buffer::inspect::MoveSpan;
use crate::buffer::migration::{MoveRequest, MoveSummary, commit, invalidate_importers};
use crate::buffer::object::{BufferInner, Buffers, LossHandler};
use crate::buffer::placement::new_home;
use crate::buffer::state::{CleanCopy, InvalidationCause, State};
use crate::core::Abandoned;
use crate::device::DeviceInner;
use crate::memory::{DomainId, Provider};
use crate::observe::{MoveCause, Reason, What};
use crate::residency::Trigger;
use crate::sync::{Fence, Guard, Usage};

/// See [`crate::Engine::abandon`].
///
/// # Panics
///
/// If an importer does, when all buffers are done.
pub(crate) fn abandon(set: &Buffers, device: &DeviceInner) -> Abandoned {
    let turn = set.core.loss_guard.turn(set.core.timeout);
    let panicked = unplug_device(set, device);
    drop(turn);
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
    *set.core.member(device.id()).unplug_report()
}

/// Gives up those that were found to be lost, and were not given up yet. Who comes while somebody is at it
/// waits for that.
///
/// # Panics
///
/// As [`abandon`], when all of them are done.
#[cold]
fn unplug_lost(set: &Buffers) {
    let Some(turn) = set.core.loss_guard.turn(set.core.timeout) else { return };
    let mut panicked = None;
    let found = || {
        let mut members = set.core.devices.iter();
        members.find(|member| member.device.is_lost() && !member.is_unplugged())
    };
    loop {
        while let Some(member) = found() {
            // All of them, whoever panics.
            panicked = panicked.or(unplug_device(set, &member.device));
        }
        // Only now: whoever comes meanwhile is to wait.
        set.core.calls.forget_lost_devices();
        // It may have been another one that was noted.
        if found().is_none() {
            break;
        }
    }
    drop(turn);
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}

impl LossHandler for Buffers {
    #[cold]
    fn handle_lost(&self) {
        unplug_lost(self);
    }
}

/// Does it, if nobody has; returns with what an importer has panicked.
fn unplug_device(set: &Buffers, device: &DeviceInner) -> Option<Box<dyn Any + Send>> {
    let member = set.core.member(device.id());
    // First: a move that has not looked yet finds it when it has the reservation, and what has moved before
    // is found below, as is a buffer that was made before.
    if !member.abandon() {
        return None;
    }
    let end = Instant::now() + set.core.timeout;
    let place = DomainId::Vram(device.id());
    let mut panicked = None;
    set.live.for_each(|buffer| {
        let mut state = lock_at_rest(buffer, place, end);
        if state.entry.preferred() == place {
            buffer.want(&mut state, DomainId::System);
        }
        if !is_in(&state, place) {
            rehome(buffer, &state, device);
            return;
        }
        // Before the copy is looked at: who still writes to what is lost says so now.
        let slice = MoveSpan::new(&set.core);
        let telling = AssertUnwindSafe(|| {
            invalidate_importers(buffer, &mut state, InvalidationCause::Evict, slice.id());
        });
        // All have been told even so, and others are to be taken care of.
        if let Err(panic) = catch_unwind(telling) {
            panicked.get_or_insert(panic);
        }
        if promote(buffer, &mut state, device, &slice) {
            member.unplug_report().promoted += 1;
        } else {
            lose(buffer, &mut state, device);
            // As long as the device works, it is the one that knows the place best.
            if device.is_lost() {
                rehome(buffer, &state, device);
            }
            member.unplug_report().lost += 1;
        }
    });
    let Abandoned { promoted, lost } = *member.unplug_report();
    tracing::warn!(device = device.name(), promoted, lost, "given up");
    panicked
}

fn is_in(state: &State, place: DomainId) -> bool {
    state.location.backing().is_some_and(|backing| backing.domain() == place)
}

/// Takes the reservation. A buffer that would be lost, while a move of it waits for work of the host, is
/// given until `end` to get out: the move may have its clean copy, too. Whatever becomes of it, a move that
/// goes on afterwards looks first whether all is as it was.
fn lock_at_rest(buffer: &BufferInner, place: DomainId, end: Instant) -> Guard<'_, State> {
    loop {
        let state = buffer.lock();
        let moving = state.moving().filter(|gate| !gate.is_over()).cloned();
        let Some(gate) = moving.filter(|_| is_in(&state, place) && !has_sound_copy(&state)) else {
            return state;
        };
        drop(state);
        if let Err(error) = gate.wait_until_over(end.saturating_duration_since(Instant::now())) {
            tracing::warn!(%error, buffer = buffer.name(), "its move has not ended in time");
            return buffer.lock();
        }
    }
}

fn has_sound_copy(state: &State) -> bool {
    state.clean().is_some_and(CleanCopy::is_sound)
}

/// Makes the clean copy the buffer, if there is one that is sound and that nobody still uses.
fn promote(
    buffer: &Arc<BufferInner>,
    state: &mut State,
    device: &DeviceInner,
    slice: &MoveSpan,
) -> bool {
    // Whoever relies on the place cannot be told that it is another one.
    if !has_sound_copy(state) || buffer.check_not_held(state).is_err() {
        return false;
    }
    let Some((_, copy)) = state.clean_mut().and_then(CleanCopy::lend) else { return false };
    // What failed was to be in the place that is gone.
    state.fences.forget_failures();
    buffer.status.set_poisoned(false);
    let request = MoveRequest {
        clean: true,
        ..MoveRequest::to_new(MoveCause::Promoted, Trigger::Device(device.id()))
    };
    let home = new_home(buffer, state, device);
    commit(
        buffer,
        state,
        &home,
        copy,
        Fence::signalled(),
        &MoveSummary { request, slice, copied: 0 },
    );
    true
}

/// A buffer that was at home there is so elsewhere, so that using and moving it needs no lost device.
/// The reservation is held.
fn rehome(buffer: &BufferInner, state: &State, lost: &DeviceInner) {
    // What strangers handed in is what it was to the device that it was handed to.
    if buffer.home_id() == lost.id() && !matches!(state.location.provider(), Provider::Foreign(_)) {
        buffer.settle_at(new_home(buffer, state, lost).id());
    }
}

/// Nobody can vouch for the bytes any more.
fn lose(buffer: &BufferInner, state: &mut State, device: &DeviceInner) {
    let (fence, signal) = Fence::host();
    signal.fail("the device that had its bytes is lost");
    // As what moves it: accepted, the bytes are scrubbed.
    state.fences.add(Usage::Move, fence);
    let place = DomainId::Vram(device.id());
    buffer.record(state, What::Lost, [place, place], Reason::DeviceLost { device: device.id() });
    // Marks it, and says so.
    buffer.poison(state);
}
