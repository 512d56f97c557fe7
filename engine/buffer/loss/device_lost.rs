//! Unplugging a lost device: its memory and the content in it are gone.
//!
//! Kernel counterpart: the part of `drm_dev_unplug` that is left to each driver.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buffer::inspect::MoveSpan;
use crate::buffer::migration::{MoveRequest, MoveSummary, commit, invalidate_importers};
use crate::buffer::object::{BufferInner, Buffers, LossHandler};
use crate::buffer::placement::new_home;
use crate::buffer::state::{CleanCopy, InvalidationCause, State};
use crate::core::{Turn, UnplugReport};
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{DomainId, Provider};
use crate::observe::{MoveCause, Reason, What};
use crate::residency::Trigger;
use crate::sync::{Fence, Guard, Usage};

/// How long the thread that handles a loss waits until nothing is in use on the device. Later looks do not wait:
/// they are made when retired memory is collected.
const SETTLE: Duration = Duration::from_secs(1);

/// Unplugs a device, on request. The contract is that of [`crate::Engine::unplug`].
///
/// # Panics
///
/// Resumes the panic of an importer, after all buffers have been handled.
pub(crate) fn unplug(set: &Buffers, device: &DeviceInner) -> UnplugReport {
    // After the timeout without it: each step is made under a reservation.
    let turn = set.core.loss_guard.turn(set.core.timeout).ok().flatten();
    unplug_once(set, device, turn);
    *set.core.member(device.id()).unplug_report()
}

/// As [`unplug`], for a removal: while no other thread handles a loss.
///
/// # Errors
///
/// [`crate::Error::Timeout`] if another thread handles one for longer than the engine timeout.
pub(super) fn unplug_in_turn(set: &Buffers, device: &DeviceInner) -> Result<()> {
    let turn = set.core.loss_guard.own_turn(set.core.timeout)?;
    unplug_once(set, device, turn);
    Ok(())
}

fn unplug_once(set: &Buffers, device: &DeviceInner, turn: Option<Turn<'_>>) {
    let panic = unplug_device(set, device);
    drop(turn);
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// Unplugs all devices that were found lost and are not unplugged yet. If another thread is doing that, it
/// waits for that thread instead.
///
/// # Panics
///
/// As [`unplug`], after all lost devices have been handled.
#[cold]
fn unplug_lost(set: &Buffers) {
    let Ok(Some(turn)) = set.core.loss_guard.turn(set.core.timeout) else { return };
    let mut panic = None;
    let next_lost = || {
        let members = set.core.devices.iter();
        let mut lost = members.filter(|member| member.device.is_lost() && !member.is_unplugged());
        // Counted, so that a removal does not close it meanwhile. One that has left needs no handling.
        lost.find_map(|member| set.core.devices.device(member.device.id()))
    };
    loop {
        while let Some(device) = next_lost() {
            // Handle all devices, even if an importer panics.
            panic = panic.or(unplug_device(set, &device));
        }
        // Clear the flag only now: until then, other threads wait for this one.
        set.core.calls.forget_lost_devices();
        // The flag may have been set for another device meanwhile.
        if next_lost().is_none() {
            break;
        }
    }
    drop(turn);
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

impl LossHandler for Buffers {
    #[cold]
    fn handle_lost(&self) {
        unplug_lost(self);
    }
}

/// Unplugs one device, unless that has been done. Returns the panic of an importer, if there was one.
fn unplug_device(set: &Buffers, device: &DeviceInner) -> Option<Box<dyn Any + Send>> {
    let member = set.core.member(device.id());
    // The mark comes first. A move that takes the reservation later finds it. Buffers that moved to the device
    // earlier, or were created there, are found below.
    if !member.mark_unplugged() {
        return None;
    }
    let device = &member.device;
    if device.is_lost() && !device.settle(SETTLE.min(set.core.timeout)) {
        // Its fences keep the memory that they name until a later look finds that it has settled.
        tracing::error!(
            device = device.name(),
            "work from before the loss may still run; the memory that it uses is kept from new buffers"
        );
    }
    if device.is_lost() {
        device.end_waits_for_lost();
    }
    let end = Instant::now() + set.core.timeout;
    let domain = DomainId::Vram(device.id());
    let mut panic = None;
    set.live.for_each(|buffer| {
        let mut state = lock_after_move(buffer, domain, end);
        // A buffer that may be used only there keeps its preference: its uses fail until the application moves it.
        if state.entry().preferred() == domain && !buffer.is_vram_only() {
            buffer.set_preferred(&mut state, DomainId::System);
        }
        if !is_in(&state, domain) {
            rehome(buffer, &state, device);
            return;
        }
        // Notify before the clean copy is checked: work that still writes to the lost memory adds its fence
        // now.
        let span = MoveSpan::new(&set.core);
        let notify = AssertUnwindSafe(|| {
            invalidate_importers(buffer, &mut state, InvalidationCause::Evict, span.id());
        });
        // All importers have been notified even so, and the other buffers are still to be handled.
        if let Err(payload) = catch_unwind(notify) {
            panic.get_or_insert(payload);
        }
        if promote_clean_copy(buffer, &mut state, device, &span) {
            member.unplug_report().promoted += 1;
        } else {
            mark_lost(buffer, &mut state, device);
            // While the device works, it stays home: it reaches its own memory best.
            if device.is_lost() {
                rehome(buffer, &state, device);
            }
            member.unplug_report().lost += 1;
        }
    });
    let UnplugReport { promoted, lost } = *member.unplug_report();
    tracing::warn!(device = device.name(), promoted, lost, "device unplugged");
    panic
}

/// Whether the buffer is in that domain.
pub(super) fn is_in(state: &State, domain: DomainId) -> bool {
    state.location().backing().is_some_and(|backing| backing.domain() == domain)
}

/// Locks the reservation. Waits first, until `end`, for what would save a buffer from loss: a move out of the lost
/// memory, or the readers of its clean copy.
///
/// Such a move waits for host work; it may have taken the clean copy. A move that resumes later, after `end`, checks
/// again whether the buffer is unchanged. A reader of the clean copy is the move that restored the buffer from it.
fn lock_after_move(buffer: &BufferInner, domain: DomainId, end: Instant) -> Guard<'_, State> {
    loop {
        let mut state = buffer.lock();
        let Some(saving) = saving_work(&mut state, domain) else { return state };
        drop(state);
        let left = end.saturating_duration_since(Instant::now());
        if let Err(error) = saving.wait_until_over(left) {
            tracing::warn!(
                %error,
                buffer = buffer.name(),
                "move not over in time; device unplugged without it"
            );
            return buffer.lock();
        }
    }
}

/// Unfinished work after which a buffer in that domain is not lost with it.
fn saving_work(state: &mut State, domain: DomainId) -> Option<Fence> {
    if !is_in(state, domain) {
        return None;
    }
    let work =
        if has_sound_copy(state) { state.clean_mut()?.reader() } else { state.moving().cloned() };
    work.filter(|fence| !fence.is_over())
}

/// Whether the buffer has a clean copy that holds exactly its content.
fn has_sound_copy(state: &State) -> bool {
    state.clean().is_some_and(CleanCopy::is_current)
}

/// Makes the clean copy the buffer's backing, if it is sound and no mapping, access or pin keeps the buffer in
/// place. Returns whether it did.
fn promote_clean_copy(
    buffer: &Arc<BufferInner>,
    state: &mut State,
    device: &DeviceInner,
    span: &MoveSpan,
) -> bool {
    // A user that relies on the backing cannot be notified of a new one.
    if !has_sound_copy(state) || buffer.check_not_held(state).is_err() {
        return false;
    }
    let Some((_, copy)) = state.clean_mut().and_then(CleanCopy::lend) else { return false };
    // The work that failed was to write to the memory that is gone.
    state.fences().forget_failures();
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
        &MoveSummary { request, span, copied: 0 },
    );
    true
}

/// Gives the buffer a new home if the lost device is its home, so that using and moving it needs no lost
/// device.
///
/// The caller holds the reservation.
pub(super) fn rehome(buffer: &BufferInner, state: &State, lost: &DeviceInner) {
    // Imported memory is bound to the device that imported it.
    if buffer.home_id() == lost.id() && !matches!(state.location().provider(), Provider::Foreign(_))
    {
        buffer.set_home(new_home(buffer, state, lost).id());
    }
}

/// Marks the content as lost: adds a failed fence, and poisons the buffer.
fn mark_lost(buffer: &BufferInner, state: &mut State, device: &DeviceInner) {
    let (fence, signal) = Fence::host();
    signal.fail("the device whose memory held its content is lost");
    // A `Move`: when the content is accepted, the memory is scrubbed.
    state.fences().add(Usage::Move, fence);
    let domain = DomainId::Vram(device.id());
    buffer.record(state, What::Lost, [domain, domain], Reason::DeviceLost { device: device.id() });
    // Marks the buffer, and logs it.
    buffer.poison(state);
}
