//! Buffers that the searches of one thread do not evict, while a submission of that thread makes room for all of
//! them.
//!
//! Kernel counterpart: an eviction for a `drm_exec` passes over the objects that the same ticket has locked, and
//! waits for those of other tickets (`ttm_lru_walk_ticketlock`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::sync::primitive::{ThreadId, current_thread};

/// The numbers of the protected buffers, by the thread that protects them. Protection is not a lock: other moves
/// and the evictions of other threads are still allowed, and nothing waits for it.
///
/// A search runs on the thread that needs the room, so the thread says whose search it is. Two submissions that
/// evict each other's buffers do not do so for ever: each makes room once before it begins and once after it has
/// ended, and at most three times for a driver that is out of memory.
#[derive(Debug, Default)]
pub(crate) struct ProtectedSet {
    /// The number of protected buffers, so that an empty set is not searched. Relaxed: the thread that must
    /// not evict a buffer is the one that protects it.
    count: AtomicUsize,
    /// How many guards of a thread protect a buffer, by its number. The innermost lock; held across no call.
    buffers: Mutex<HashMap<(ThreadId, u64), u32>>,
}

/// Protects its buffers from the searches of the thread that created it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Protection<'a> {
    set: &'a ProtectedSet,
    thread: ThreadId,
    buffers: SmallVec<[u64; 8]>,
}

impl ProtectedSet {
    /// Protects the buffers with these numbers from this thread's searches as long as the guard lives.
    pub(crate) fn protect(&self, buffers: SmallVec<[u64; 8]>) -> Protection<'_> {
        let thread = current_thread();
        let mut all = self.all();
        buffers.iter().for_each(|number| *all.entry((thread, *number)).or_default() += 1);
        self.count.store(all.len(), Ordering::Relaxed);
        drop(all);
        Protection { set: self, thread, buffers }
    }

    /// Whether this thread protects the buffer with this number.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && self.all().contains_key(&(current_thread(), number))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(ThreadId, u64), u32>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Protection<'_> {
    fn drop(&mut self) {
        let mut all = self.set.all();
        for &number in &self.buffers {
            let key = (self.thread, number);
            if let Some(guards) = all.get_mut(&key) {
                *guards -= 1;
                if *guards == 0 {
                    all.remove(&key);
                }
            }
        }
        self.set.count.store(all.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_protected_as_long_as_one_guard_names_it() {
        let set = ProtectedSet::default();
        let one = set.protect(SmallVec::from_slice(&[1, 2, 2]));
        let other = set.protect(SmallVec::from_slice(&[2, 3]));
        assert!([1, 2, 3].iter().all(|number| set.contains(*number)) && !set.contains(4));
        drop(one);
        assert_eq!([1, 2, 3].map(|number| set.contains(number)), [false, true, true]);
        drop(other);
        assert!(![1, 2, 3].iter().any(|number| set.contains(*number)));
        assert!(set.all().is_empty(), "no entry remains");
    }

    #[test]
    fn a_buffer_is_protected_from_the_thread_that_protects_it_alone() {
        let set = ProtectedSet::default();
        let own = set.protect(SmallVec::from_slice(&[1]));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!set.contains(1), "another thread's search may evict it");
                let other = set.protect(SmallVec::from_slice(&[1]));
                assert!(set.contains(1));
                drop(other);
                assert!(!set.contains(1));
            });
        });
        assert!(set.contains(1), "another thread's guard is not this thread's");
        drop(own);
        assert!(set.all().is_empty(), "no entry remains");
    }
}
