//! The move.
//!
//! Kernel counterparts: `ttm_bo_handle_move_mem` (tell everybody, then move), `ttm_bo_move_accel_cleanup`
//! (the old backing waits for the copy).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::destination::{Destination, Lender, leave};
use super::importer::{InvalidationCause, invalidate_importers};
use super::mover::{Mover, NotCopied, sum};
use super::publish::{after, publish};
use super::seats::{Guest, Seats};
use super::shared::{BufferInner, wait_all};
use super::state::State;
use crate::core::{Core, Wish};
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{DomainId, Placement};
use crate::observe::{MoveCause, StallCause};
use crate::residency::Demand;
use crate::sync::{Fence, Fences, Guard, Signal, Usage};
use crate::transfer::Unfinished;
use crate::transfer::mover::{MOMENT, PAUSE};

/// Why a buffer moves, and with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    pub(super) cause: MoveCause,
    /// Who or what made it so.
    pub(super) demand: Demand,
    /// Whether it goes to its clean copy.
    pub(super) clean: bool,
    /// Whether somebody has asked for this and nothing else, and may be kept waiting: for the host's copy, and
    /// for devices where none sees both places.
    pub(super) waits: bool,
    /// Until when everything that it waits for has to be over; `None` for the engine's bound, for each.
    pub(super) until: Option<Instant>,
}

impl Errand {
    /// A move to memory that is new to it.
    pub(super) fn to_new(cause: MoveCause, demand: Demand) -> Self {
        Self { cause, demand, clean: false, waits: true, until: None }
    }

    /// When a wait that begins now is over.
    fn end(self, core: &Core) -> Instant {
        self.until.unwrap_or_else(|| Instant::now() + core.timeout)
    }

    /// How long the host may copy for it.
    pub(super) fn pause(self) -> Duration {
        if self.waits { PAUSE } else { MOMENT }
    }

    /// What importers are told.
    pub(super) fn invalidation(self) -> InvalidationCause {
        match self.cause {
            MoveCause::Evicted | MoveCause::Promoted => InvalidationCause::Evict,
            _ => InvalidationCause::Move,
        }
    }
}

/// How an attempt to move a buffer ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It has moved.
    Yes,
    /// Somebody sat down, left, or moved it meanwhile: look again.
    LookAgain,
    /// No device sees both places, and nobody can carry the bytes, or is to wait for that.
    NoMover,
    /// Somebody would have to be waited for, and nobody is to wait.
    NotNow,
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
/// reservation, for work of the host, which no queue may be made to wait for. Where no device sees both places
/// it waits, likewise, for everybody, and carries the bytes.
pub(super) fn relocate(
    buffer: &Arc<BufferInner>,
    home: &Arc<DeviceInner>,
    seats: &Seats,
    new: Destination<'_>,
    errand: Errand,
) -> Result<Moved> {
    let Some(mover) = Mover::find(buffer, home, &new, errand)? else { return Ok(Moved::NoMover) };
    if mover.has_no_device() && !errand.waits {
        return Ok(Moved::NoMover);
    }
    let state = lock_movable(buffer, &mover)?;
    if !seats.still_fit(buffer, &state) || !mover.still_fits(&state) {
        return Ok(Moved::LookAgain);
    }
    let mut move_ = Move { buffer, state, gate: None };
    move_.tell_importers(&mover, new.domain());
    move_.wait_for(&mover, |fence| fence.is_for_host(&mover.device))?;
    finish(move_, &mover, home, new)
}

/// The copy, and what comes after it. The importers have been told, and what no queue can wait for has been
/// waited for; meanwhile the device may have been given up that the buffer was on, or goes to. Nobody has sat
/// down: whoever would waits for the move.
pub(super) fn finish(
    move_: Move<'_>,
    mover: &Mover,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<Moved> {
    // Ends before the new place goes back, which takes the reservation.
    let mut move_ = move_;
    if !mover.still_fits(&move_.state) {
        return Ok(Moved::LookAgain);
    }
    if mover.has_no_device() {
        return carry(move_, mover, home, new);
    }
    let lender = new.lender();
    match mover.copy(move_.buffer, &mut move_.state, home, new.take()) {
        Ok(()) => Ok(Moved::Yes),
        Err(failed) => instead_of_copy(move_, mover, home, *failed, lender),
    }
}

/// The copy, if it can be submitted; else nothing has changed, and nobody is waited for.
pub(super) fn finish_at_once(
    move_: Move<'_>,
    mover: &Mover,
    home: &Arc<DeviceInner>,
    new: Destination<'_>,
) -> Result<Moved> {
    // As in `finish`.
    let mut move_ = move_;
    let (buffer, lender) = (move_.buffer, new.lender());
    match mover.copy(buffer, &mut move_.state, home, new.take()) {
        Ok(()) => Ok(Moved::Yes),
        Err(failed) => {
            let NotCopied { error, new, cleared } = *failed;
            mover.slice.failed();
            // What was submitted all the same reads the old place.
            move_.state.fences.add(Usage::Bookkeep, cleared.clone());
            leave(buffer, &mut move_.state, (new, lender), after(cleared));
            Err(error)
        }
    }
}

/// No device sees both places. The host waits for whoever is at work on the buffer, and carries the bytes: at
/// once what is over soon, the rest without the reservation, while the gate keeps others away.
fn carry(
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
    new.own();
    let done = mover.done(sum(&parts));
    publish(buffer, &mut move_.state, home, new, Fence::signalled(), &done);
    Ok(Moved::Yes)
}

/// The copy could not be submitted: the host copies where it sees both places; else nothing has changed.
#[cold]
fn instead_of_copy(
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
            new.own();
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

/// Takes the reservation of a buffer that may move now: nobody holds it, and nothing is under way that the
/// mover's queue could not wait for. Nor is an earlier move: one at a time, else whoever moves a buffer to
/// and fro would fill queues and memory with places that it has left.
fn lock_movable<'a>(buffer: &'a Arc<BufferInner>, mover: &Mover) -> Result<Guard<'a, State>> {
    let end = mover.errand.end(&buffer.core);
    let state = buffer.lock_when(end, |state| first_waits(state, &mover.device))?;
    buffer.check_not_held(&state)?;
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
    pub(super) fn tell_importers(&mut self, mover: &Mover, to: DomainId) {
        self.buffer.trace_begin(&self.state, mover, to);
        let cause = mover.errand.invalidation();
        invalidate_importers(self.buffer, &mut self.state, cause, mover.slice.id());
    }

    /// Waits for the fences that `relevant` picks, without the reservation.
    fn wait_for(&mut self, mover: &Mover, relevant: impl Fn(&Fence) -> bool) -> Result<()> {
        let waits = self.close(relevant);
        if !waits.is_empty() {
            let end = mover.errand.end(&self.buffer.core);
            let stalls = &self.buffer.core.stalls;
            let wait = || stalls.during(StallCause::Move, || wait_all(&waits, end));
            self.state.unlocked(wait)?;
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
        if !waits.is_empty() {
            self.shut();
        }
        waits
    }

    /// Keeps everybody away from now on, with or without the reservation.
    fn shut(&mut self) {
        if self.gate.is_none() {
            let (gate, signal) = Fence::host();
            self.state.fences.add(Usage::Move, gate.clone());
            self.state.set_moving(Some(gate));
            self.gate = Some(signal);
        }
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
    /// Nobody waits: the buffer stays where it is, and whoever waits for the move goes on.
    pub(super) fn give_up(self) {
        let Self { buffer, gate, .. } = self;
        drop(Move { buffer, state: buffer.lock(), gate });
    }

    /// Waits, and takes the reservation again.
    pub(super) fn resume(self, mover: &Mover) -> Result<Move<'a>> {
        let Self { buffer, waits, gate } = self;
        let end = mover.errand.end(&buffer.core);
        let waited = buffer.core.stalls.during(StallCause::Move, || wait_all(&waits, end));
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
    // Nobody goes back to a device that was given up.
    let abandoned = buffer.core.member(home.id()).is_abandoned();
    let placement = if abandoned { Placement::System } else { buffer.placement() };
    let (size, group) = (buffer.size, buffer.group());
    let wish = Wish { home, placement, size, dedicated: false, group };
    let terms = buffer.core.terms(buffer.demand());
    let new = buffer.core.allocate(&wish, &terms, accept)?;
    let new = new.ok_or_else(unreachable)?;
    // Its view of the new place before anything moves: a newcomer that fails has moved nobody.
    let take = seats.take(guest, new.allocation().provider()).ok_or_else(unreachable)?;
    new.allocation().view(newcomer, take)?;
    match relocate(
        buffer,
        home,
        seats,
        new.into(),
        Errand::to_new(MoveCause::Reach, Demand::Device(newcomer.id())),
    )? {
        Moved::Yes | Moved::LookAgain | Moved::NotNow => Ok(()),
        Moved::NoMover => Err(no_mover(home)),
    }
}

pub(super) fn no_mover(home: &DeviceInner) -> Error {
    Error::Unsupported {
        device: home.name().to_owned(),
        missing: "a view of the new place, or anybody's of the old one".into(),
    }
}
