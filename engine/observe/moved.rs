//! Counters of moves, by cause.

use std::sync::atomic::{AtomicU64, Ordering};

use super::move_cause::MoveCause;

/// The moves for one cause: [`crate::Engine::moved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Moved {
    /// The number of committed moves.
    pub moves: u64,
    /// Bytes of the buffers that moved.
    pub bytes: u64,
    /// Bytes that were copied: fewer, if the destination was a clean copy, or the buffer was never written.
    pub copied: u64,
}

/// The counters of moves. Relaxed, because they are statistics and no decision depends on them.
#[derive(Debug, Default)]
pub(crate) struct MovedCounters([[AtomicU64; 3]; MoveCause::ALL.len()]);

impl MovedCounters {
    pub(crate) fn add(&self, cause: MoveCause, bytes: u64, copied: u64) {
        let row = &self.0[cause as usize];
        for (counter, more) in row.iter().zip([1, bytes, copied]) {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self, cause: MoveCause) -> Moved {
        let [moves, bytes, copied] =
            [0, 1, 2].map(|at| self.0[cause as usize][at].load(Ordering::Relaxed));
        Moved { moves, bytes, copied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_row() {
        let counters = MovedCounters::default();
        counters.add(MoveCause::Evicted, 10, 0);
        counters.add(MoveCause::Evicted, 10, 10);
        let evicted = Moved { moves: 2, bytes: 20, copied: 10 };
        for &cause in MoveCause::ALL {
            let expected = if cause == MoveCause::Evicted { evicted } else { Moved::default() };
            assert_eq!(counters.get(cause), expected, "{cause}");
        }
    }
}
