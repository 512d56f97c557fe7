//! A number for each thread, for counters and lists that all threads use and none should wait for.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

/// How many shards there are: one for each of the first threads, and the last one for all further.
pub(crate) const SHARDS: usize = 64;

/// A thread's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard(u8);

impl Shard {
    const COMMON: Self = Self((SHARDS - 1) as u8);

    /// That of this thread.
    pub(crate) fn mine() -> Self {
        MINE.get().unwrap_or_else(assign)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether no other living thread has it. What only its thread writes needs no read-modify-write;
    /// whoever gets the number later has taken the lock in between.
    pub(crate) fn is_exclusive(self) -> bool {
        self != Self::COMMON
    }
}

thread_local! {
    static MINE: Cell<Option<Shard>> = const { Cell::new(None) };
    static GIVE_BACK: GiveBack = const { GiveBack };
}

/// Numbers that no thread has, as a set of bits.
static VACANT: Mutex<u64> = Mutex::new(u64::MAX >> 1);

#[cold]
fn assign() -> Shard {
    // Without its end nobody would give the number back.
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
    // CAST: less than 64.
    Shard(lowest as u8)
}

struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        // What this thread still drops after this goes to the common one.
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
        assert!(exclusive.len() < SHARDS && exclusive.len() < THREADS, "the rest has to share");
    }
}
