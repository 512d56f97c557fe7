//! Buffers that are not to go for the sake of those that somebody makes room for, because he uses them together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::buffer::BufferInner;

/// No hold: they may be moved by whoever does not look for victims, and nobody waits for them.
#[derive(Debug, Default)]
pub(crate) struct Spared {
    /// How many there are: nobody looks for victims in an empty list. Relaxed: whoever must not evict a buffer
    /// is the one who has entered it.
    some: AtomicUsize,
    /// By how many, by the buffer's number. Innermost; held for no call.
    buffers: Mutex<HashMap<u64, u32>>,
}

/// As long as this lives.
#[derive(Debug)]
pub(in crate::buffer) struct Sparing<'a> {
    spared: &'a Spared,
    buffers: SmallVec<[u64; 8]>,
}

impl Spared {
    pub(in crate::buffer) fn spare<'b>(
        &self,
        buffers: impl IntoIterator<Item = &'b BufferInner>,
    ) -> Sparing<'_> {
        self.spare_numbers(buffers.into_iter().map(BufferInner::id).collect())
    }

    fn spare_numbers(&self, buffers: SmallVec<[u64; 8]>) -> Sparing<'_> {
        let mut all = self.all();
        buffers.iter().for_each(|number| *all.entry(*number).or_default() += 1);
        self.some.store(all.len(), Ordering::Relaxed);
        drop(all);
        Sparing { spared: self, buffers }
    }

    pub(in crate::buffer) fn contains(&self, number: u64) -> bool {
        self.some.load(Ordering::Relaxed) > 0 && self.all().contains_key(&number)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sparing<'_> {
    fn drop(&mut self) {
        let mut all = self.spared.all();
        for number in &self.buffers {
            if let Some(by) = all.get_mut(number) {
                *by -= 1;
                if *by == 0 {
                    all.remove(number);
                }
            }
        }
        self.spared.some.store(all.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_spared_as_long_as_anybody_says_so() {
        let spared = Spared::default();
        let one = spared.spare_numbers(SmallVec::from_slice(&[1, 2, 2]));
        let other = spared.spare_numbers(SmallVec::from_slice(&[2, 3]));
        assert!([1, 2, 3].iter().all(|number| spared.contains(*number)) && !spared.contains(4));
        drop(one);
        assert_eq!([1, 2, 3].map(|number| spared.contains(number)), [false, true, true]);
        drop(other);
        assert!(![1, 2, 3].iter().any(|number| spared.contains(*number)));
        assert!(spared.all().is_empty(), "nothing is left behind");
    }
}
