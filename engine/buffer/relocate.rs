//! The move.
//!
//! Kernel counterparts: `ttm_bo_handle_move_mem` (tell everybody, then move), `ttm_bo_move_accel_cleanup`
//! (the old backing waits for the copy).

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::importer::Invalidation;
use super::seats::Seats;
use super::shared::{BufferInner, wait_all};
use super::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, Content, View};
use crate::sync::{Fence, Fences, Guard, Retired, Signal, Usage};
use crate::transfer::{self, Span};

/// How an attempt to move a buffer ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It has moved.
    Yes,
    /// Somebody sat down, left, or moved it meanwhile: look again.
    LookAgain,
    /// No device sees both places.
    NoMover,
}

/// Moves a buffer that nobody holds to `new`, at home on `home`, where the `seats` can reach it.
///
/// Lock the reservation; refuse if somebody holds the buffer; tell every importer; wait, without the
/// reservation, for what runs on other devices than the one that copies; submit the copy, ordered behind
/// the rest; publish the new backing, generation + 1; add the copy's fence as a `Move`, which everybody
/// waits for; keep the old backing until the copy and the last mapping of it are over. A failure at any
/// step before "publish" leaves the buffer exactly as it was.
pub(super) fn relocate(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    seats: &Seats,
    new: Backing,
) -> Result<Moved> {
    let Some(mover) = Mover::find(buffer, home, &new)? else { return Ok(Moved::NoMover) };
    let state = lock_movable(buffer, &mover.device)?;
    if !seats.still_fit(buffer, &state) || !mover.still_fits(&state) {
        return Ok(Moved::LookAgain);
    }
    let (mut state, gate) = tell_importers(buffer, state, &mover.device)?;
    let moved = mover.copy(buffer, &mut state, home, new);
    if gate.is_some() {
        state.set_moving(None);
    }
    drop(state);
    // After the reservation: those who wait for it take that next.
    drop(gate);
    moved.map(|()| Moved::Yes)
}

/// Takes the reservation of a buffer that may move now: nobody holds it, and no other device than the
/// one that will copy it is at work on it.
fn lock_movable<'a>(buffer: &'a Arc<BufferInner>, mover: &DeviceInner) -> Result<Guard<'a, State>> {
    let state = buffer.lock_idle(Usage::Bookkeep, |fence| !fence.is_on(mover))?;
    if state.is_held() {
        return Err(buffer.busy(&state));
    }
    Ok(state)
}

/// Calls every importer, under the reservation. If they say that devices are still using the buffer,
/// lets go of the reservation until those have finished; meanwhile a host fence, which is a `Move` like
/// any other, keeps everybody away, and whoever maps waits for it.
fn tell_importers<'a>(
    buffer: &'a Arc<BufferInner>,
    mut state: Guard<'a, State>,
    mover: &DeviceInner,
) -> Result<(Guard<'a, State>, Option<Signal>)> {
    let importers = state.importers();
    if importers.is_empty() {
        return Ok((state, None));
    }
    let said = RefCell::default();
    let invalidation = Invalidation { generation: buffer.generation(), fences: &said };
    for importer in &importers {
        importer.invalidate_mappings(&invalidation);
    }
    for (usage, fence) in said.take() {
        state.fences.add(usage, fence);
    }
    let mut waits = state.fences.pending(Usage::Bookkeep);
    waits.retain(|fence| !fence.is_on(mover));
    if waits.is_empty() {
        return Ok((state, None));
    }
    let (gate, signal) = Fence::host();
    state.fences.add(Usage::Move, gate.clone());
    state.set_moving(Some(gate));
    drop(state);
    // Theirs may be the last references by now, and their drop may take the reservation.
    drop(importers);
    let waited = wait_all(&waits, Instant::now() + buffer.core.timeout);
    let mut state = buffer.lock();
    match waited {
        Ok(()) => Ok((state, Some(signal))),
        Err(error) => {
            state.set_moving(None);
            Err(error)
        }
    }
}

/// A device that sees the old place and the new one, and copies.
struct Mover {
    device: Arc<DeviceInner>,
    old: Arc<Allocation>,
    from: Arc<View>,
    to: Arc<View>,
}

impl Mover {
    /// The new home, else the old one. Without the reservation, because it may prove a route.
    fn find(buffer: &BufferInner, home: &Arc<DeviceInner>, new: &Backing) -> Result<Option<Self>> {
        let old = Arc::clone(buffer.lock().backing.allocation());
        for device in [Arc::clone(home), buffer.home()] {
            let Some(from) = see(buffer, home, &old, &device)? else { continue };
            if let Some(to) = see(buffer, home, new.allocation(), &device)? {
                return Ok(Some(Self { device, old, from, to }));
            }
        }
        Ok(None)
    }

    fn still_fits(&self, state: &State) -> bool {
        Arc::ptr_eq(&self.old, state.backing.allocation())
    }

    /// Moves the bytes, pipelined behind the buffer's fences: the copy is submitted, not waited for.
    fn copy(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Result<()> {
        if state.backing.content() != Content::Own {
            publish(buffer, state, home, new, Fence::signalled());
            return Ok(());
        }
        let span =
            |view, backing: &Backing| Span { view, offset: backing.offset(), len: buffer.size };
        let cleared = self.clear_tail(buffer, &new)?;
        let (from, to) = (span(&self.from, &state.backing), span(&self.to, &new));
        match transfer::copy(&self.device, from, to) {
            Ok(fence) => {
                new.own();
                // What the mover's queue was doing on the buffer is ordered before the copy, and
                // everything else has been waited for; so the copy's fence covers it all.
                state.fences.add(Usage::Move, fence.clone());
                publish(buffer, state, home, new, fence);
                Ok(())
            }
            Err(error) => {
                retire(buffer, new, after(cleared));
                Err(error)
            }
        }
    }

    /// Zeroes what an old owner may have left beyond the buffer's end, where the copy does not reach. The
    /// queue keeps it ahead of the copy.
    fn clear_tail(&self, buffer: &BufferInner, new: &Backing) -> Result<Fence> {
        // Whole words; the copy overwrites the bytes of the first one that are the buffer's.
        let start = buffer.size & !3;
        let len = new.extent(buffer.size) - start;
        if new.content() != Content::Stale || new.extent(buffer.size) == buffer.size {
            return Ok(Fence::signalled());
        }
        let span = Span { view: &self.to, offset: new.offset() + start, len };
        transfer::zero(&self.device, span)
    }
}

/// From here on nothing can fail.
fn publish(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    new: Backing,
    copied: Fence,
) {
    tracing::debug!(
        buffer = buffer.name(),
        from = %state.backing.domain(),
        to = %new.domain(),
        "moved"
    );
    let old_generation = buffer.generation();
    if let Some((fences, old)) = state.leave_for(new, old_generation, after(copied)) {
        buffer.core.retire.push(fences, Retired::Backing(old));
    }
    buffer.next_generation(home.id());
}

/// Lets go of a backing when its fences have signalled.
fn retire(buffer: &BufferInner, backing: Backing, fences: Fences) {
    buffer.core.retire.push(fences, Retired::Backing(backing));
}

fn after(fence: Fence) -> Fences {
    let mut fences = Fences::default();
    fences.add(Usage::Bookkeep, fence);
    fences
}

/// `device`'s view of an allocation; `None` if it cannot have one.
fn see(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
) -> Result<Option<Arc<View>>> {
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(Some(view));
    }
    let provider = allocation.provider();
    match buffer.core.take(provider, home, device, &mut Vec::new())? {
        Some(take) => allocation.view(device, take).map(Some),
        None => Ok(None),
    }
}

/// Moves the buffer to where `newcomer` and everybody at it can reach it, within its placement.
pub(super) fn make_reachable(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    newcomer: &DeviceInner,
    seats: &Seats,
) -> Result<()> {
    let unreachable = || buffer.unreachable(newcomer, seats);
    if !buffer.can_move() {
        return Err(unreachable());
    }
    let accept = |provider| seats.all_take(provider);
    let new = buffer
        .core
        .allocate(home, buffer.placement, buffer.size, false, accept)?
        .ok_or_else(unreachable)?;
    match relocate(buffer, home, seats, new)? {
        Moved::Yes | Moved::LookAgain => Ok(()),
        Moved::NoMover => Err(no_mover(home)),
    }
}

pub(super) fn no_mover(home: &DeviceInner) -> Error {
    Error::Unsupported {
        device: home.name().to_owned(),
        missing: "a view of both the old place and the new one".into(),
    }
}
