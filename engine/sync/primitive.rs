//! The primitives that locks are built from, in one file, so that a model checker can replace them.
//!
//! Under `cfg(peerbuf_shuttle)` the unit tests use shuttle's primitives (`make model`). At every operation on
//! one of these, shuttle decides which thread runs next. Every lock that is held across such an operation
//! must be one of these: the checker runs all threads of a model on one real thread, which a lock of the
//! standard library would block for ever.

pub(crate) use choice::{
    Arc, Condvar, Mutex, MutexGuard, ThreadId, YIELDS, atomic, thread_local, yield_now,
};

use std::cell::Cell;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use choice::AGES;

#[cfg(not(all(test, peerbuf_shuttle)))]
mod choice {
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
    pub(super) use std::thread::current;
    pub(crate) use std::thread::{ThreadId, yield_now};
    pub(crate) use std::thread_local;

    /// How often to yield and retry before sleeping.
    pub(crate) const YIELDS: usize = 3;
    /// How many ages a thread takes at a time.
    pub(super) const AGES: u64 = 8;
}

#[cfg(all(test, peerbuf_shuttle))]
mod choice {
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
    pub(super) use shuttle::thread::current;
    pub(crate) use shuttle::thread::{ThreadId, yield_now};
    pub(crate) use shuttle::thread_local;

    /// Zero: the checker chooses the next thread anyway.
    pub(crate) const YIELDS: usize = 0;
    /// One: threads draw in the order that the checker chooses.
    pub(super) const AGES: u64 = 1;
}

/// The id of the thread that calls. In a model, that of the modelled thread.
pub(crate) fn current_thread() -> ThreadId {
    choice::current().id()
}

/// An age for a ticket that no other ticket of the process has. A thread's later ages are larger.
///
/// Threads take ages in blocks, so that locks which do not contend share no word. A thread that has kept its block for
/// long draws older ages than others, at most one block of them: so a set is overtaken by a bounded number of sets.
#[inline]
pub(super) fn draw_age() -> u64 {
    // Relaxed, and no primitive of the models: only uniqueness and growth matter. 0 would look like a free lock, and 1 is the
    // age of threads that do not wait.
    static NEXT: AtomicU64 = AtomicU64::new(2);
    std::thread_local! {
        /// The next age of this thread, and the end of its block.
        static BLOCK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    }
    let (mut age, mut end) = BLOCK.get();
    if age == end {
        age = NEXT.fetch_add(AGES, Ordering::Relaxed);
        end = age + AGES;
    }
    BLOCK.set((age + 1, end));
    age
}

/// Locks a mutex. Poisoning is ignored: no code under these locks panics with its data half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `pick` returns a value, or until `end`.
///
/// In a model, only an `end` that has already passed ends the wait. Any later one is never reached there, so
/// a lost wake-up is a deadlock, which the checker reports.
pub(crate) fn wait_until<T, R>(
    changed: &Condvar,
    guard: MutexGuard<'_, T>,
    end: Instant,
    pick: impl Fn(&T) -> Option<R>,
) -> Option<R> {
    pick(&wait_while(changed, guard, end, |value| pick(value).is_none()))
}

/// As [`wait_until`], while the value is `blocked`. The lock is held when it returns.
pub(crate) fn wait_while<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    end: Instant,
    blocked: impl Fn(&T) -> bool,
) -> MutexGuard<'a, T> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return guard;
    }
    let waited = changed.wait_timeout_while(guard, left, |value| blocked(value));
    waited.unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_grow_within_a_thread_and_no_two_are_equal() {
        let draw = || (0..1000).map(|_| draw_age()).collect::<Vec<_>>();
        let threads = [(); 4].map(|()| std::thread::spawn(draw));
        let mut all = draw();
        for thread in threads {
            let ages = thread.join().expect("no panic");
            assert!(ages.is_sorted() && ages[0] > 1, "{ages:?}");
            all.extend(ages);
        }
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
