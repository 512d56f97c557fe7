//! Numbers of buffers, given to threads in blocks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::{SHARDS, Shard, note_shared_write};

/// How many numbers a thread gets at once.
const BLOCK: u64 = 64;

/// The numbers of one engine: each is given once. Those of one thread ascend; some are never given.
#[derive(Debug)]
pub(crate) struct Ids {
    /// The first number of the next block.
    blocks: AtomicU64,
    shards: Box<[Next; SHARDS]>,
}

/// The next number of a shard, on a cache line of its own; a multiple of [`BLOCK`] once the block has no more.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Next(AtomicU64);

impl Ids {
    /// A number that was not given before.
    pub(crate) fn next(&self) -> u64 {
        // Relaxed: only uniqueness matters. A block is given to one thread, and within it every number to one change of
        // `next`. If threads that share a shard take a block at a time, the rest of one is never given.
        let shard = Shard::mine();
        let next = &self.shards[shard.index()].0;
        let within = |number: u64| (!number.is_multiple_of(BLOCK)).then(|| number + 1);
        let given = if shard.is_exclusive() {
            // No other thread writes it.
            let number = next.load(Ordering::Relaxed);
            within(number).map(|after| {
                next.store(after, Ordering::Relaxed);
                number
            })
        } else {
            next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok()
        };
        given.unwrap_or_else(|| self.first_of_block(next))
    }

    #[cold]
    fn first_of_block(&self, next: &AtomicU64) -> u64 {
        note_shared_write();
        let first = self.blocks.fetch_add(BLOCK, Ordering::Relaxed);
        next.store(first + 1, Ordering::Relaxed);
        first
    }
}

impl Default for Ids {
    fn default() -> Self {
        let shards = Box::new(std::array::from_fn(|_| Next::default()));
        Self { blocks: AtomicU64::new(0), shards }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn no_number_is_given_twice_and_one_thread_counts_from_zero() {
        let ids = Ids::default();
        let first: Vec<_> = (0..200).map(|_| ids.next()).collect();
        assert_eq!(first, (0..200).collect::<Vec<_>>());
        // More threads than shards: some share one.
        let given = Mutex::new(first.into_iter().collect::<HashSet<_>>());
        let all_alive = std::sync::Barrier::new(80);
        std::thread::scope(|scope| {
            for _ in 0..80 {
                scope.spawn(|| {
                    all_alive.wait();
                    let mine: Vec<_> = (0..300).map(|_| ids.next()).collect();
                    all_alive.wait();
                    let mut given = given.lock().expect("no test panics");
                    assert!(mine.into_iter().all(|id| given.insert(id)), "given twice");
                });
            }
        });
    }
}
