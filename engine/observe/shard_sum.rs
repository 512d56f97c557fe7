//! A sum to which all threads add without a word in common.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shard::{SHARDS, Shard};

/// A sum of what threads have added. Each shard has cache lines of its own.
pub(crate) struct ShardSum(Box<[Row; SHARDS]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Row(AtomicU64);

impl ShardSum {
    /// The sum. It wraps around.
    pub(crate) fn get(&self) -> u64 {
        self.0.iter().fold(0, |sum, row| sum.wrapping_add(row.0.load(Ordering::Relaxed)))
    }

    // Relaxed: a statistic. No other memory is read because of its value.
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        let shard = Shard::mine();
        let row = &self.0[shard.index()].0;
        if shard.is_exclusive() {
            // No other thread writes this row.
            row.store(row.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        } else {
            row.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

impl Default for ShardSum {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Row::default())))
    }
}

impl fmt::Debug for ShardSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_add_is_in_the_sum() {
        let sum = ShardSum::default();
        std::thread::scope(|scope| {
            // More than there are shards, so that some share one.
            for _ in 0..80 {
                scope.spawn(|| (0..100).for_each(|amount| sum.add(amount)));
            }
        });
        assert_eq!(sum.get(), 80 * 4950);
    }
}
