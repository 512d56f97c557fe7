//! A small number for each thread, for counters and lists that all threads use without waiting for each other.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

/// The number of shards. Each of the first threads has one of its own; all further threads share the last.
pub(crate) const SHARDS: usize = 64;

/// The number of a thread's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard(u8);

impl Shard {
    const COMMON: Self = Self((SHARDS - 1) as u8);

    /// The shard of the current thread.
    pub(crate) fn mine() -> Self {
        MINE.get().unwrap_or_else(assign)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether no other living thread has this shard. Then its thread may write it without a read-modify-write.
    /// A later thread with the same number has taken the lock of the vacant numbers in between.
    pub(crate) fn is_exclusive(self) -> bool {
        self != Self::COMMON
    }
}

thread_local! {
    static MINE: Cell<Option<Shard>> = const { Cell::new(None) };
    static GIVE_BACK: GiveBack = const { GiveBack };
}

/// The numbers that no thread has, as a set of bits.
static VACANT: Mutex<u64> = Mutex::new(u64::MAX >> 1);

#[cold]
fn assign() -> Shard {
    // If the thread is already ending, `GIVE_BACK` would not run, and the number would be lost.
    let ends = GIVE_BACK.try_with(|_| ()).is_ok();
    let shard = if ends { take() } else { Shard::COMMON };
    MINE.set(Some(shard));
    shard
}

fn take() -> Shard {
    let mut vacant = VACANT.lock().unwrap_or_else(PoisonError::into_inner);
    let lowest = vacant.trailing_zeros();
    if lowest >= u64::BITS {
        return Shard::COMMON;
    }
    *vacant &= !(1 << lowest);
    // CAST: below 64.
    Shard(lowest as u8)
}

struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        // Objects that this thread drops from now on are counted in the common shard.
        if let Some(shard) = MINE.replace(Some(Shard::COMMON))
            && shard.is_exclusive()
        {
            *VACANT.lock().unwrap_or_else(PoisonError::into_inner) |= 1 << shard.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn living_threads_share_no_exclusive_shard() {
        const THREADS: usize = 80;
        let all_alive = Barrier::new(THREADS);
        let shards: Vec<Shard> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let mine = Shard::mine();
                        all_alive.wait();
                        assert_eq!(Shard::mine(), mine);
                        mine
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
        });
        let exclusive: Vec<_> = shards.iter().filter(|shard| shard.is_exclusive()).collect();
        let distinct: HashSet<_> = exclusive.iter().map(|shard| shard.index()).collect();
        assert_eq!(distinct.len(), exclusive.len());
        assert!(exclusive.len() < SHARDS && exclusive.len() < THREADS, "the others share one");
    }
}
