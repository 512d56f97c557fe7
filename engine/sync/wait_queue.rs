//! Tickets of a wait-die lock, and the queues in which threads wait for reservations.

use std::time::Instant;

use super::deferred::Deferred;
use super::primitive::{Arc, Condvar, Mutex, draw_age, lock, wait_until};

pub(super) const WAITERS: u64 = 1 << 0;
const ALONE: u64 = 1 << 1;
const AGE_SHIFT: u32 = 2;

/// What a thread locks with: its age, and whether it must back off for an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) age: u64,
    alone: bool,
    /// Whether it holds other locks of its set: only then can waiting close a cycle.
    pub(super) holding: bool,
}

impl Ticket {
    /// The ticket of a thread that locks a single reservation, before its age matters: a thread that does not
    /// wait needs no age.
    pub(super) const ALONE: Self = Self { age: 1, alone: true, holding: false };

    /// A ticket for a set of locks. It is unlike any other ticket, of other engines too.
    #[inline]
    pub(super) fn of_set() -> Self {
        Self { age: draw_age(), alone: false, holding: false }
    }

    /// A ticket for a single lock that may have to wait, likewise.
    pub(super) fn of_one() -> Self {
        Self { age: draw_age(), ..Self::ALONE }
    }

    /// The state word of a reservation that is locked with this ticket.
    pub(super) fn word(self) -> u64 {
        self.age << AGE_SHIFT | if self.alone { ALONE } else { 0 }
    }

    /// Whether it may not wait for an owner with this state word.
    pub(super) fn must_die(self, owner: u64) -> bool {
        !self.alone && self.holding && owner & ALONE == 0 && owner >> AGE_SHIFT < self.age
    }
}

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The owner has an older ticket: release all locks of the set (kernel: `-EDEADLK`).
    Die,
    /// The wait timed out.
    TimedOut,
}

/// Holds the waiting threads, for all reservations of an engine.
#[derive(Debug)]
pub(crate) struct WaitQueues {
    /// Work of drops that found a reservation locked.
    pub(super) deferred: Deferred,
    buckets: [Mutex<Vec<Arc<Waiter>>>; BUCKETS],
}

const BUCKETS: usize = 64;

/// A thread that waits for a reservation.
#[derive(Debug)]
pub(super) struct Waiter {
    /// Address of the reservation.
    pub(super) lock: usize,
    pub(super) ticket: Ticket,
    verdict: Mutex<Option<Verdict>>,
    changed: Condvar,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    Die,
}

impl WaitQueues {
    pub(crate) fn new() -> Self {
        Self {
            deferred: Deferred::default(),
            buckets: std::array::from_fn(|_| Mutex::new(Vec::new())),
        }
    }

    /// Tries the reservations for which work is deferred, if there are any. To be called after a release.
    #[inline]
    pub(super) fn try_deferred(&self) {
        if !self.deferred.is_empty() {
            self.deferred.try_all();
        }
    }

    /// The queue that waiters for this reservation share with those for others.
    pub(super) fn bucket(&self, lock: usize) -> &Mutex<Vec<Arc<Waiter>>> {
        // Reservations are at least 16 bytes apart; Fibonacci hashing spreads the rest.
        let hash = (lock as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> 58) as usize]
    }
}

/// What models check at the end.
#[cfg(all(test, peerbuf_shuttle))]
impl WaitQueues {
    /// How many threads are waiting.
    pub(crate) fn sleepers(&self) -> usize {
        self.buckets.iter().map(|queue| lock(queue).len()).sum()
    }
}

impl Waiter {
    pub(super) fn new(address: usize, ticket: Ticket) -> Self {
        Self { lock: address, ticket, verdict: Mutex::new(None), changed: Condvar::new() }
    }

    /// Waits for the verdict. `None` after `end`.
    pub(super) fn wait(&self, end: Instant) -> Option<Verdict> {
        wait_until(&self.changed, lock(&self.verdict), end, |verdict| *verdict)
    }

    /// The verdict, if there is one.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        *lock(&self.verdict)
    }

    /// Ends the wait. The caller holds the queue's lock.
    pub(super) fn decide(&self, verdict: Verdict) {
        *lock(&self.verdict) = Some(verdict);
        self.changed.notify_one();
    }
}

impl Verdict {
    pub(super) fn into_result(self) -> Result<(), Refused> {
        match self {
            Self::Granted => Ok(()),
            Self::Die => Err(Refused::Die),
        }
    }
}
