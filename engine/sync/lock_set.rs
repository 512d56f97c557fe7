//! Locking many reservations without deadlock.
//!
//! Kernel counterpart: `drm_exec` (`drivers/gpu/drm/drm_exec.c`) over a `ww_acquire_ctx`.
#![expect(unsafe_code, reason = "references to what the held locks protect")]

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::reservation::{
    Claim, Refused, Reservation, WaitQueues, assert_nothing_held, note_held, note_released,
};

/// Reservations that are being locked together: handed to the closure of [`lock_many`], which locks what
/// it needs with [`LockSet::lock`].
///
/// It exists only inside that closure, and what comes out has no way to lock more. So a set cannot be
/// used after it is complete, nor unlocked twice, nor with a stale ticket.
///
/// # Invariants
///
/// Every reservation in `held` is locked by this set's claim, and is in it once.
pub(crate) struct LockSet<'a, T> {
    queues: &'a WaitQueues,
    claim: Claim,
    held: Vec<&'a Reservation<T>>,
    contended: Option<&'a Reservation<T>>,
    end: Instant,
    /// The rank check counts per thread, so a set stays on its own.
    _stays: PhantomData<*const ()>,
}

/// Somebody older wants what this set has: return it from the closure (with `?`), which is then called
/// again.
#[derive(Debug)]
#[must_use = "return it from the closure, so that the set starts again"]
pub(crate) struct Contended(Refused);

/// The bound of the wait was over before all were locked; none is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// Which of a set's reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index(usize);

/// All reservations of a set, locked. They are unlocked when it is dropped.
pub(crate) struct Locked<'a, T>(LockSet<'a, T>);

/// Locks what `choose` asks for, together. `choose` is called again whenever somebody older needed
/// something; the contended reservation is then locked before everything else.
pub(crate) fn lock_many<'a, T, R>(
    queues: &'a WaitQueues,
    timeout: Duration,
    mut choose: impl FnMut(&mut LockSet<'a, T>) -> Result<R, Contended>,
) -> Result<(Locked<'a, T>, R), TimedOut> {
    assert_nothing_held();
    let mut set = LockSet {
        queues,
        claim: queues.ticket(),
        held: Vec::new(),
        contended: None,
        end: Instant::now() + timeout,
        _stays: PhantomData,
    };
    loop {
        if let Some(first) = set.contended.take()
            && set.take(first).is_err()
        {
            return Err(TimedOut);
        }
        match choose(&mut set) {
            Ok(result) => return Ok((Locked(set), result)),
            Err(Contended(Refused::TimedOut)) => return Err(TimedOut),
            // The ticket stays, so that whoever backs off often is the oldest in the end.
            Err(Contended(Refused::Die)) => set.release_all(),
        }
    }
}

impl<'a, T> LockSet<'a, T> {
    /// Locks one more; one that is locked already is the same again.
    pub(crate) fn lock(&mut self, reservation: &'a Reservation<T>) -> Result<Index, Contended> {
        if let Some(at) = self.held.iter().position(|held| std::ptr::eq(*held, reservation)) {
            return Ok(Index(at));
        }
        self.take(reservation).map_err(|refused| {
            self.contended = Some(reservation);
            Contended(refused)
        })?;
        Ok(Index(self.held.len() - 1))
    }

    /// What a locked reservation protects.
    pub(crate) fn get_mut(&mut self, index: Index) -> &mut T {
        // SAFETY: by the type invariant the reservation is locked by this set, which is borrowed
        // exclusively, and no other index leads to it.
        unsafe { &mut *self.held[index.0].value() }
    }

    /// The number of its ticket: smaller is older.
    #[cfg(all(test, peerbuf_shuttle))]
    pub(crate) fn age(&self) -> u64 {
        self.claim.age
    }

    fn take(&mut self, reservation: &'a Reservation<T>) -> Result<(), Refused> {
        self.claim.holding = !self.held.is_empty();
        reservation.acquire(self.queues, self.claim, self.end)?;
        note_held();
        // INVARIANT: locked just above; callers have looked whether it was in the list.
        self.held.push(reservation);
        Ok(())
    }

    fn release_all(&mut self) {
        // CAST: a set has fewer than 2^32 locks.
        note_released(self.held.len() as u32);
        for held in self.held.drain(..) {
            held.release(self.queues);
        }
    }
}

impl<T> Drop for LockSet<'_, T> {
    fn drop(&mut self) {
        self.release_all();
    }
}

impl<T> Locked<'_, T> {
    /// What a reservation protects.
    pub(crate) fn get_mut(&mut self, index: Index) -> &mut T {
        self.0.get_mut(index)
    }
}
