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

/// Waits until there is a value, or until `end`.
pub(super) fn wait_until<T: Copy>(
    changed: &Condvar,
    value: MutexGuard<'_, Option<T>>,
    end: Instant,
) -> Option<T> {
    let left = end.saturating_duration_since(Instant::now());
    let waited = changed.wait_timeout_while(value, left, |value| value.is_none());
    *waited.unwrap_or_else(PoisonError::into_inner).0
}
