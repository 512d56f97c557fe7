//! The move.
//!
//! Kernel counterparts: `ttm_bo_handle_move_mem` (tell everybody, then move), `ttm_bo_move_accel_cleanup`
//! (the old backing waits for the copy).

use std::sync::Arc;
use std::time::Instant;

use super::importer::{self, InvalidationCause};
use super::seats::{Guest, Seats};
use super::shared::{BufferInner, wait_all};
use super::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{
    Allocation, Backing, Content, View, copy_by_host, is_small_for_host, zero_by_host,
};
use crate::sync::{Fence, Fences, Guard, Retired, Signal, Usage, waits_on};
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
/// Lock the reservation; refuse if somebody holds the buffer; tell every importer; submit the copy, ordered
/// behind all fences of the buffer, those of other devices included; publish the new backing, one generation
/// on; add the copy's fence as a `Move`, which everybody waits for; keep the old backing until the copy
/// and the last mapping of it are over. A failure at any step before "publish" leaves the buffer exactly
/// as it was.
///
/// The caller waits for no device, but for an earlier move of the same buffer. It waits, without the
/// reservation, for work of the host, which no queue may be made to wait for.
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
    let mut move_ = Move { buffer, state, gate: None };
    move_.tell_importers();
    move_.wait_for(|fence| fence.is_for_host(&mover.device))?;
    finish(move_, &mover, home, new)
}

/// The copy, and what comes after it. The importers have been told, and what no queue can wait for has been
/// waited for.
pub(super) fn finish(
    mut move_: Move<'_>,
    mover: &Mover,
    home: &Arc<DeviceInner>,
    new: Backing,
) -> Result<Moved> {
    match mover.copy(move_.buffer, &mut move_.state, home, new) {
        Ok(()) => Ok(Moved::Yes),
        Err(failed) => instead_of_copy(move_, mover, home, *failed),
    }
}

/// The copy could not be submitted: the host copies where it sees both places; else nothing has changed.
#[cold]
fn instead_of_copy(
    mut move_: Move<'_>,
    mover: &Mover,
    home: &DeviceInner,
    NotCopied { error, new, cleared }: NotCopied,
) -> Result<Moved> {
    let buffer = move_.buffer;
    tracing::warn!(%error, buffer = buffer.name(), "no copy on the device; does the host see both?");
    let mut by_host = || {
        if error.is_device_lost() {
            return Ok(false);
        }
        // Others must not come in while it waits, and the new place is being cleared.
        move_.state.fences.add(Usage::Bookkeep, cleared.clone());
        move_.wait_for(|_| true)?;
        mover.copy_by_host(buffer, &move_.state, &new)
    };
    match by_host().and_then(|copied| if copied { Ok(()) } else { Err(error) }) {
        Ok(()) => {
            let mut new = new;
            new.own();
            publish(buffer, &mut move_.state, home, new, Fence::signalled());
            Ok(Moved::Yes)
        }
        Err(error) => {
            retire(buffer, new, after(cleared));
            Err(error)
        }
    }
}

/// Takes the reservation of a buffer that may move now: nobody holds it, and nothing is under way that the
/// mover's queue could not wait for. Nor is an earlier move: one at a time, else whoever moves a buffer to
/// and fro would fill queues and memory with places that it has left.
fn lock_movable<'a>(buffer: &'a Arc<BufferInner>, mover: &DeviceInner) -> Result<Guard<'a, State>> {
    let state = buffer.lock_when(|state| first_waits(state, mover))?;
    if state.is_held() {
        return Err(buffer.busy(&state));
    }
    Ok(state)
}

/// What has to be waited for before a move may begin.
pub(super) fn first_waits(state: &mut State, mover: &DeviceInner) -> Vec<Fence> {
    let mut waits = state.fences.pending(Usage::Bookkeep);
    waits.retain(|fence| fence.is_for_host(mover));
    waits.extend(state.fences.pending(Usage::Move));
    waits
}

/// A move that is under way, with the reservation.
pub(super) struct Move<'a> {
    pub(super) buffer: &'a Arc<BufferInner>,
    // Declared before the gate: those who wait for it take the reservation next.
    pub(super) state: Guard<'a, State>,
    gate: Option<Signal>,
}

/// A move that waits, without the reservation.
pub(super) struct Parked<'a> {
    buffer: &'a Arc<BufferInner>,
    waits: Vec<Fence>,
    gate: Option<Signal>,
}

impl<'a> Move<'a> {
    pub(super) fn new(buffer: &'a Arc<BufferInner>, state: Guard<'a, State>) -> Self {
        Self { buffer, state, gate: None }
    }

    /// Calls every importer, under the reservation. Devices that they say are still using the buffer are
    /// for the copy to wait for, work of the host for the caller.
    pub(super) fn tell_importers(&mut self) {
        importer::tell(self.buffer, &mut self.state, InvalidationCause::Move);
    }

    /// Waits for the fences that `relevant` picks, without the reservation.
    fn wait_for(&mut self, relevant: impl Fn(&Fence) -> bool) -> Result<()> {
        let waits = self.close(relevant);
        if !waits.is_empty() {
            let end = Instant::now() + self.buffer.core.timeout;
            self.state.unlocked(|| wait_all(&waits, end))?;
        }
        // It may have been taken away meanwhile, or what was waited for may have failed.
        self.buffer.check_usable(&mut self.state)
    }

    /// The fences that `relevant` picks. If there are any, a host fence, which is a `Move` like any other,
    /// keeps everybody away from now on, and whoever maps waits for it: the reservation may be given up.
    fn close(&mut self, relevant: impl Fn(&Fence) -> bool) -> Vec<Fence> {
        let gate = self.state.moving().cloned();
        let mut waits = self.state.fences.pending(Usage::Bookkeep);
        waits.retain(|fence| {
            relevant(fence) && !gate.as_ref().is_some_and(|gate| gate.covers(fence))
        });
        if !waits.is_empty() && self.gate.is_none() {
            let (gate, signal) = Fence::host();
            self.state.fences.add(Usage::Move, gate.clone());
            self.state.set_moving(Some(gate));
            self.gate = Some(signal);
        }
        waits
    }

    /// Gives the reservation up, if there is something that no queue can wait for; `Ok` if there is
    /// nothing.
    pub(super) fn park(mut self, mover: &DeviceInner) -> Result<Self, Parked<'a>> {
        let waits = self.close(|fence| fence.is_for_host(mover));
        if waits.is_empty() {
            return Ok(self);
        }
        // Without its gate it does not let others in when it is dropped.
        Err(Parked { buffer: self.buffer, waits, gate: self.gate.take() })
    }
}

impl<'a> Parked<'a> {
    /// Waits, and takes the reservation again.
    pub(super) fn resume(self) -> Result<Move<'a>> {
        let Self { buffer, waits, gate } = self;
        let waited = wait_all(&waits, Instant::now() + buffer.core.timeout);
        let mut resumed = Move { buffer, state: buffer.lock(), gate };
        waited?;
        // As after any wait of a move.
        buffer.check_usable(&mut resumed.state)?;
        Ok(resumed)
    }
}

impl Drop for Move<'_> {
    fn drop(&mut self) {
        if self.gate.is_some() {
            self.state.set_moving(None);
        }
    }
}

/// A device that sees the old place and the new one, and copies.
pub(super) struct Mover {
    pub(super) device: Arc<DeviceInner>,
    old: Arc<Allocation>,
    from: Arc<View>,
    to: Arc<View>,
}

impl Mover {
    /// The new home, else the old one. Without the reservation, because it may prove a route.
    pub(super) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        new: &Backing,
    ) -> Result<Option<Self>> {
        let old = Arc::clone(buffer.lock().backing.allocation());
        for device in [Arc::clone(home), buffer.home()] {
            let Some(from) = see(buffer, home, &old, &device)? else { continue };
            if let Some(to) = see(buffer, home, new.allocation(), &device)? {
                return Ok(Some(Self { device, old, from, to }));
            }
        }
        Ok(None)
    }

    pub(super) fn still_fits(&self, state: &State) -> bool {
        Arc::ptr_eq(&self.old, state.backing.allocation())
    }

    /// Moves the bytes, pipelined behind the buffer's fences: the copy is submitted, not waited for.
    fn copy(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Result<(), Box<NotCopied>> {
        new = match self.without_device(buffer, state, home, new) {
            Some(new) => new,
            None => return Ok(()),
        };
        let cleared = match self.clear_tail(buffer, &new) {
            Ok(cleared) => cleared,
            Err(error) => {
                let cleared = Fence::signalled();
                return Err(Box::new(NotCopied { error, new, cleared }));
            }
        };
        let pending = state.fences.pending(Usage::Bookkeep);
        let [from, to] = self.spans(buffer, state, &new);
        let waits = waits_on(&buffer.core.bridges, &self.device, &pending);
        match waits.and_then(|waits| transfer::copy(&self.device, waits, from, to)) {
            Ok(fence) => {
                let writers = state.fences.pending(Usage::Write);
                copied(buffer, state, home, new, fence.relying_on(&writers));
                Ok(())
            }
            Err(error) => Err(Box::new(NotCopied { error, new, cleared })),
        }
    }

    /// Moves what needs no device: nothing at all, or a few bytes, by the host. Gives `new` back if a
    /// device is needed.
    pub(super) fn without_device(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Option<Backing> {
        if state.backing.content() == Content::Own {
            let copied = self.is_for_host(buffer, state, &new)
                && self.copy_by_host(buffer, state, &new).unwrap_or(false);
            if !copied {
                return Some(new);
            }
            new.own();
        }
        publish(buffer, state, home, new, Fence::signalled());
        None
    }

    /// What a device copies, and to where.
    pub(super) fn spans(
        &self,
        buffer: &BufferInner,
        state: &State,
        new: &Backing,
    ) -> [Span<'_>; 2] {
        let span =
            |view, backing: &Backing| Span { view, offset: backing.offset(), len: buffer.size };
        [span(&self.from, &state.backing), span(&self.to, new)]
    }

    /// Whether the host has copied sooner than a submission is over: few bytes, at full speed, and nothing
    /// is under way.
    fn is_for_host(&self, buffer: &BufferInner, state: &mut State, new: &Backing) -> bool {
        is_small_for_host(&self.old, new.allocation(), buffer.size) && state.fences.is_idle()
    }

    /// Moves the bytes by the host, and clears what an old owner may have left behind them. Nothing is
    /// under way in either place. `Ok(false)` if the host does not see both.
    #[expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]
    fn copy_by_host(&self, buffer: &BufferInner, state: &State, new: &Backing) -> Result<bool> {
        let from = (&*self.old, state.backing.offset());
        let to = (&**new.allocation(), new.offset());
        let size = buffer.size;
        // SAFETY: both backings have so many bytes, the old one by the buffer's invariant, the new one
        // because it was allocated for them. All fences of the old place have signalled and the
        // reservation is held; nobody knows the new one yet.
        let copied = unsafe { copy_by_host(from, to, size) }?;
        if copied && new.content() == Content::Stale {
            let tail = new.extent(size) - size;
            // SAFETY: as above: the rest of the new backing.
            unsafe { zero_by_host((to.0, to.1 + size), tail) }?;
        }
        Ok(copied)
    }

    /// Zeroes what an old owner may have left beyond the buffer's end, where the copy does not reach. The
    /// queue keeps it ahead of the copy.
    fn clear_tail(&self, buffer: &BufferInner, new: &Backing) -> Result<Fence> {
        // Whole words; the copy overwrites the bytes of the first one that are the buffer's.
        let start = buffer.size & !3;
        let len = new.extent(buffer.size) - start;
        if !has_tail(buffer, new) {
            return Ok(Fence::signalled());
        }
        let span = Span { view: &self.to, offset: new.offset() + start, len };
        transfer::zero(&self.device, span)
    }
}

/// A copy that was not submitted.
struct NotCopied {
    error: Error,
    new: Backing,
    /// What the new place's tail is being cleared by.
    cleared: Fence,
}

/// Whether an old owner may have left bytes beyond the buffer's end, which a device is to clear.
pub(super) fn has_tail(buffer: &BufferInner, new: &Backing) -> bool {
    new.content() == Content::Stale && new.extent(buffer.size) != buffer.size
}

/// Publishes the place that a copy goes to, which is under way and waits for everything that the buffer's
/// fences stand for.
pub(super) fn copied(
    buffer: &BufferInner,
    state: &mut State,
    home: &DeviceInner,
    mut new: Backing,
    fence: Fence,
) {
    new.own();
    state.fences.add(Usage::Move, fence.clone());
    publish(buffer, state, home, new, fence);
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
    // Behind everything that is under way, and not only behind the copy: that waits for all of it, but not
    // if its device is lost first, and there is none where nobody wanted the bytes.
    let mut last = after(copied);
    state.fences.pending(Usage::Bookkeep).into_iter().for_each(|f| last.add(Usage::Bookkeep, f));
    if let Some((fences, old)) = state.leave_for(new, old_generation, last) {
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
    (newcomer, guest): (&Arc<DeviceInner>, Guest),
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
    // Its view of the new place before anything moves: a newcomer that fails has moved nobody.
    let take = seats.take(guest, new.allocation().provider()).ok_or_else(unreachable)?;
    new.allocation().view(newcomer, take)?;
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
