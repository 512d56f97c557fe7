//! Buffers protected from eviction while one submission makes room for all of them.
//!
//! Kernel counterpart: cgroup v2 memory protection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

/// The numbers of the protected buffers. Protection is not a lock: other moves are still allowed, and nothing
/// waits for it.
#[derive(Debug, Default)]
pub(crate) struct ProtectedSet {
    /// The number of protected buffers, so that an empty set is not searched. Relaxed: the thread that must
    /// not evict a buffer is the one that protects it.
    count: AtomicUsize,
    /// How many guards protect a buffer, by its number. The innermost lock; held across no call.
    buffers: Mutex<HashMap<u64, u32>>,
}

/// Protects its buffers until it is dropped.
#[derive(Debug)]
pub(crate) struct Protection<'a> {
    set: &'a ProtectedSet,
    buffers: SmallVec<[u64; 8]>,
}

impl ProtectedSet {
    /// Protects the buffers with these numbers as long as the guard lives.
    pub(crate) fn protect(&self, buffers: SmallVec<[u64; 8]>) -> Protection<'_> {
        let mut all = self.all();
        buffers.iter().for_each(|number| *all.entry(*number).or_default() += 1);
        self.count.store(all.len(), Ordering::Relaxed);
        drop(all);
        Protection { set: self, buffers }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.all().contains_key(&number)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Protection<'_> {
    fn drop(&mut self) {
        let mut all = self.set.all();
        for number in &self.buffers {
            if let Some(guards) = all.get_mut(number) {
                *guards -= 1;
                if *guards == 0 {
                    all.remove(number);
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
}
