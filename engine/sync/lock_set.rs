//! Locking many reservations without deadlock.
//!
//! Kernel counterpart: `drm_exec` (`drivers/gpu/drm/drm_exec.c`) over a `ww_acquire_ctx`.
#![expect(unsafe_code, reason = "references to what the held locks protect")]

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::lock_order::{assert_nothing_held, note_held, note_released};
use super::reservation::Reservation;
use super::wait_queue::{Refused, Ticket, WaitQueues};

/// A set of reservations that is being locked. The closure of [`lock_many`] receives it, and locks each
/// reservation that it needs with [`LockSet::lock`].
///
/// The set exists only inside that closure, and its result cannot lock more. So a set cannot be used after it
/// is complete, nor unlocked twice, nor used with a stale ticket.
///
/// # Invariants
///
/// Every reservation in `held` is locked with this set's ticket, and is in the list once.
pub(crate) struct LockSet<'a, T> {
    queues: &'a WaitQueues,
    ticket: Ticket,
    held: SmallVec<[&'a Reservation<T>; 32]>,
    contended: Option<&'a Reservation<T>>,
    timeout: Duration,
    /// When its waits end: set by the first of them, so that a set without contention reads no clock.
    end: Option<Instant>,
    /// Makes the type `!Send`: the lock-order check counts per thread.
    _stays: PhantomData<*const ()>,
}

/// The set must back off, because an older ticket has the lock. Return it from the closure (with `?`); the
/// closure is then called again.
#[derive(Debug)]
#[must_use = "return it from the closure, so that the set starts again"]
pub(crate) struct Contended(Refused);

/// The wait timed out before all reservations were locked. None of them is locked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// Identifies one of a set's reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index(usize);

/// All reservations of a set, locked. Dropping it unlocks them.
pub(crate) struct Locked<'a, T>(LockSet<'a, T>);

/// Locks all reservations that `choose` requests. If the set must back off for an older ticket, it releases all
/// of them, locks the contended one first, and calls `choose` again.
pub(crate) fn lock_many<'a, T, R>(
    queues: &'a WaitQueues,
    timeout: Duration,
    choose: impl FnMut(&mut LockSet<'a, T>) -> Result<R, Contended>,
) -> Result<(Locked<'a, T>, R), TimedOut> {
    let mut set = LockSet::new(queues, timeout);
    let result = set.complete(choose)?;
    Ok((Locked(set), result))
}

/// As [`lock_many`], and calls `work` with what is locked. A set is long, and this does not copy it.
#[inline]
pub(crate) fn with_locked<'a, T: 'a, R, O>(
    queues: &'a WaitQueues,
    timeout: Duration,
    choose: impl FnMut(&mut LockSet<'a, T>) -> Result<R, Contended>,
    work: impl FnOnce(&mut Locked<'a, T>, R) -> O,
) -> Result<O, TimedOut> {
    let mut locked = Locked(LockSet::new(queues, timeout));
    let result = locked.0.complete(choose)?;
    Ok(work(&mut locked, result))
}

impl<'a, T> LockSet<'a, T> {
    /// A set without reservations.
    #[inline]
    fn new(queues: &'a WaitQueues, timeout: Duration) -> Self {
        assert_nothing_held();
        Self {
            queues,
            ticket: Ticket::of_set(),
            held: SmallVec::new(),
            contended: None,
            timeout,
            end: None,
            _stays: PhantomData,
        }
    }

    /// Locks all that `choose` requests.
    #[inline]
    fn complete<R>(
        &mut self,
        mut choose: impl FnMut(&mut Self) -> Result<R, Contended>,
    ) -> Result<R, TimedOut> {
        loop {
            if let Some(first) = self.contended.take()
                && self.wait_for(first).is_err()
            {
                return Err(TimedOut);
            }
            match choose(self) {
                Ok(result) => return Ok(result),
                Err(Contended(Refused::TimedOut)) => return Err(TimedOut),
                // The ticket is kept, so that a set that backs off often becomes the oldest in the end.
                Err(Contended(Refused::Die)) => self.release_all(),
            }
        }
    }

    /// Makes room for so many reservations.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.held.reserve(count.saturating_sub(self.held.len()));
    }

    /// Locks one more reservation. If the set holds it already, returns its index.
    #[inline]
    pub(crate) fn lock(&mut self, reservation: &'a Reservation<T>) -> Result<Index, Contended> {
        // One that is free is not in the set, so only one that is not free is looked for.
        if reservation.try_acquire(self.ticket) {
            return Ok(self.hold(reservation));
        }
        self.lock_taken(reservation)
    }

    #[cold]
    fn lock_taken(&mut self, reservation: &'a Reservation<T>) -> Result<Index, Contended> {
        if reservation.is_held_by(self.ticket)
            && let Some(at) = self.held.iter().position(|held| std::ptr::eq(*held, reservation))
        {
            return Ok(Index(at));
        }
        self.wait_for(reservation).map_err(|refused| {
            self.contended = Some(reservation);
            Contended(refused)
        })
    }

    /// Locks a reservation that is not in the set, and waits for it if need be.
    fn wait_for(&mut self, reservation: &'a Reservation<T>) -> Result<Index, Refused> {
        let timeout = self.timeout;
        let end = *self.end.get_or_insert_with(|| Instant::now() + timeout);
        self.ticket.holding = !self.held.is_empty();
        reservation.acquire(self.queues, self.ticket, end)?;
        Ok(self.hold(reservation))
    }

    /// Adds a reservation that was locked just now.
    #[inline]
    fn hold(&mut self, reservation: &'a Reservation<T>) -> Index {
        if self.held.is_empty() {
            // Once for the set: whether anything is held is all that is asked.
            note_held();
        }
        reservation.apply_deferred(self.queues);
        // INVARIANT: locked by the caller with this set's ticket. It was free or another owner's before, so it is not in
        // the list.
        self.held.push(reservation);
        Index(self.held.len() - 1)
    }

    /// The value that a locked reservation protects.
    pub(crate) fn get_mut(&mut self, index: Index) -> &mut T {
        // SAFETY: by the type invariant the reservation is locked by this set, which is borrowed
        // exclusively, and no other index refers to it.
        unsafe { &mut *self.held[index.0].value() }
    }

    /// As [`LockSet::get_mut`], to look at several.
    fn get(&self, index: Index) -> &T {
        // SAFETY: as in `get_mut`; exclusive references come from an exclusive borrow of the set, so none exists meanwhile.
        unsafe { &*self.held[index.0].value() }
    }

    /// The age of its ticket: smaller is older.
    #[cfg(all(test, peerbuf_shuttle))]
    pub(crate) fn age(&self) -> u64 {
        self.ticket.age
    }

    fn release_all(&mut self) {
        if self.held.is_empty() {
            return;
        }
        self.held.iter().for_each(|held| held.release(self.queues, self.ticket));
        self.held.clear();
        note_released(1);
        self.queues.try_deferred();
    }
}

impl<T> Drop for LockSet<'_, T> {
    fn drop(&mut self) {
        self.release_all();
    }
}

impl<T> Locked<'_, T> {
    /// The value that a reservation protects, to look at several.
    pub(crate) fn get(&self, index: Index) -> &T {
        self.0.get(index)
    }

    /// The value that a reservation protects.
    pub(crate) fn get_mut(&mut self, index: Index) -> &mut T {
        self.0.get_mut(index)
    }
}
