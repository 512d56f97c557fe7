//! What locks are made of, in one place, so that a model checker can stand in for it.
//!
//! Under `cfg(peerbuf_shuttle)` the unit tests run on shuttle's (`make model`), which decides at every one
//! of these operations who goes on. Every lock that is held across one of them must come from here: the
//! checker runs all threads of a model on one real thread, which a lock of the standard library would
//! stop for good.

pub(crate) use choice::{Arc, Condvar, Mutex, MutexGuard, YIELDS, atomic, thread_local, yield_now};

use std::sync::PoisonError;
use std::time::Instant;

#[cfg(not(all(test, peerbuf_shuttle)))]
mod choice {
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use std::thread::yield_now;
    pub(crate) use std::thread_local;

    /// How often to look again, and let others go on, before sleeping.
    pub(crate) const YIELDS: usize = 3;
}

#[cfg(all(test, peerbuf_shuttle))]
mod choice {
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::thread::yield_now;
    pub(crate) use shuttle::thread_local;

    /// None: whoever is to go on is the checker's choice anyway.
    pub(crate) const YIELDS: usize = 0;
}

/// Takes a mutex. Poisoning is passed over: nothing under these panics half-way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `pick` finds a value, or until `end`.
///
/// In a model only a bound that is over already ends the wait: any other one is never reached there, so
/// that a wake-up that was lost is a deadlock, which the checker reports.
pub(super) fn wait_until<T, R>(
    changed: &Condvar,
    guard: MutexGuard<'_, T>,
    end: Instant,
    pick: impl Fn(&T) -> Option<R>,
) -> Option<R> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return pick(&guard);
    }
    let waited = changed.wait_timeout_while(guard, left, |value| pick(value).is_none());
    pick(&waited.unwrap_or_else(PoisonError::into_inner).0)
}
