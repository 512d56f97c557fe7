//! What locks are made of, in one place, so that a model checker can stand in for it.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Arc, Condvar, Mutex};
pub(super) use std::thread::yield_now;

use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

/// Takes a mutex. Poisoning is passed over: nothing under these panics half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `pick` finds a value, or until `end`.
pub(super) fn wait_until<T, R>(
    changed: &Condvar,
    guard: MutexGuard<'_, T>,
    end: Instant,
    pick: impl Fn(&T) -> Option<R>,
) -> Option<R> {
    let left = end.saturating_duration_since(Instant::now());
    let waited = changed.wait_timeout_while(guard, left, |value| pick(value).is_none());
    pick(&waited.unwrap_or_else(PoisonError::into_inner).0)
}
