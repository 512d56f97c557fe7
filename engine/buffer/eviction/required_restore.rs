//! Required restores: a buffer that may be used only in its device's memory returns there before a device uses it.
//!
//! Kernel counterparts: `ttm_bo_validate` in a driver's submission, with `allowed_domains` of amdgpu as the
//! placement. `amdgpu_evict_flags` evicts such an object to system memory all the same.

use std::sync::Arc;

use crate::buffer::migration::{MoveOutcome, no_path};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::{home_at, retry_on_oom};
use crate::core::{Protection, RestoreTurn};
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::{SkipReason, Trigger};

/// While it lives, searches of this thread evict none of the buffers of one submission. After the first attempt to
/// submit, required restores of other threads wait for it as well.
pub(in crate::buffer) struct RestoredForUse<'a> {
    _protection: Protection<'a>,
    _turn: Option<RestoreTurn<'a>>,
}

impl BufferInner {
    /// Moves the buffer to its preferred domain if it may be used only there and is kept elsewhere. `device` is
    /// about to use it. Evicts other buffers for it, and waits for that, for at most the engine timeout.
    ///
    /// Another thread may evict the buffer as soon as this returns: the use checks again under the reservation.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] with what could not be evicted; [`Error::Busy`] while the host accesses the buffer
    /// where it is kept; [`Error::DeviceLost`] if the device whose memory it may be used in is unplugged; others of a
    /// move. The buffer is unchanged.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn restore_for_use(self: &Arc<Self>, device: DeviceId) -> Result<()> {
        if !self.is_vram_only() || !self.is_displaced() {
            return Ok(());
        }
        in_turn(&self.set, false, || self.restore_in_turn(device)).map(drop)
    }

    fn restore_in_turn(self: &Arc<Self>, device: DeviceId) -> Result<()> {
        // Each attempt ends with a move or an error, unless another thread changes the buffer meanwhile.
        const ATTEMPTS: u32 = 100;
        for _ in 0..ATTEMPTS {
            let (preferred, generation) = {
                let state = self.lock();
                if !self.needs_restore(&state) {
                    return Ok(());
                }
                (state.entry().preferred(), self.generation())
            };
            let home = home_at(self, preferred)?;
            let moved = retry_on_oom(&self.set, home.id(), [&**self], || {
                self.restore_required(preferred, generation, device)
            });
            match moved.map_err(|error| needed_by(self, error))? {
                MoveOutcome::Moved => return Ok(()),
                MoveOutcome::Retry | MoveOutcome::WouldBlock => {}
                MoveOutcome::NoPath => return Err(no_path(&home)),
            }
        }
        Err(self.busy(&self.lock()))
    }

    fn restore_required(
        self: &Arc<Self>,
        preferred: DomainId,
        generation: u32,
        device: DeviceId,
    ) -> Result<MoveOutcome> {
        let limits = self.core().eviction_limits(self.trigger());
        let trigger = Trigger::Device(device);
        self.restore_to(preferred, generation, &limits, MoveCause::Restored, trigger)
    }
}

/// Does what [`BufferInner::restore_for_use`] does, for all buffers of one submission to `device`, of which this is
/// the `attempt`-th attempt. Keep the result until it has submitted. `None` if none has to move.
///
/// # Errors
///
/// As [`BufferInner::restore_for_use`]. If the buffers do not fit at the same time, [`Error::OutOfMemory`] names
/// them. Those that were restored before stay where they are.
///
/// Locks: none may be held.
pub(in crate::buffer) fn restore_all_for_use<'a>(
    set: &'a Buffers,
    device: DeviceId,
    buffers: &[&Arc<BufferInner>],
    attempt: u32,
) -> Result<Option<RestoredForUse<'a>>> {
    // Without the reservations: a buffer that is evicted from now on is found when it is locked.
    let may_need = |buffer: &&Arc<BufferInner>| buffer.is_displaced() && buffer.is_vram_only();
    if !buffers.iter().any(may_need) {
        return Ok(None);
    }
    let protection = set.core.protected.protect(buffers.iter().map(|buffer| buffer.id()).collect());
    let turn = in_turn(set, attempt > 1, || {
        buffers.iter().try_for_each(|buffer| buffer.restore_in_turn(device))
    })?;
    Ok(Some(RestoredForUse { _protection: protection, _turn: turn }))
}

/// Runs `restore` in a turn: together with those of other threads, or `alone`. If it fails because memory was taken
/// by a move that was not committed, runs it again, alone. Returns the turn if that is alone.
fn in_turn(
    set: &Buffers,
    alone: bool,
    restore: impl Fn() -> Result<()>,
) -> Result<Option<RestoreTurn<'_>>> {
    let take = |alone| {
        let timeout = set.core.timeout;
        let timed_out =
            || Error::Timeout { what: "restores of other threads".into(), after: timeout };
        set.core.restore_turns.take(alone, timeout).ok_or_else(timed_out)
    };
    if !alone {
        let turn = take(false)?;
        match restore() {
            Err(error) if may_be_in_transit(&error) => drop(turn),
            other => return other.map(|()| None),
        }
    }
    let turn = take(true)?;
    restore().map(|()| Some(turn))
}

/// Whether a domain was full, although what could not be evicted leaves enough room there: other threads had taken the
/// rest for moves that they have not committed, or have given up since.
fn may_be_in_transit(error: &Error) -> bool {
    let Error::OutOfMemory { requested, budget, code: None, failures, .. } = error else {
        return false;
    };
    let stayed = failures.iter().filter(|(why, ..)| *why != SkipReason::Gone);
    let stayed: u64 = stayed.map(|(_, bytes, _)| bytes).sum();
    failures.cap_reached().is_none() && stayed.saturating_add(*requested) <= *budget
}

/// Adds the name of the buffer that was to be restored.
fn needed_by(buffer: &BufferInner, mut error: Error) -> Error {
    if let Error::OutOfMemory { failures, .. } = &mut error {
        failures.needed_for(buffer.name());
    }
    error
}
