//! What was moved, and why.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a buffer moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MoveCause {
    /// Somebody said so ([`crate::SharedBuffer::migrate`], [`crate::SharedBuffer::relocate`]).
    Asked,
    /// Somebody attached who could not reach it where it was.
    Reach,
    /// It was handed out, and had to leave its slab.
    HandedOut,
    /// Its place was needed, or somebody evicted it.
    Evicted,
    /// It was used, and came back to where it wants to be.
    Returned,
    /// Somebody asked that it be where it wants to be ([`crate::SharedBuffer::request_residency`], [`crate::Engine::restore`]).
    Requested,
    /// The device that had it is lost, and its clean copy took its place.
    Promoted,
    /// A device that uses it all the time while it lived elsewhere drew it to itself
    /// ([`crate::Rules::attraction`]).
    Attracted,
}

impl MoveCause {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Reach => "to be reached",
            Self::HandedOut => "handed out",
            Self::Evicted => "evicted",
            Self::Returned => "returned",
            Self::Requested => "requested",
            Self::Promoted => "promoted",
            Self::Attracted => "attracted",
        }
    }

    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Asked,
        Self::Reach,
        Self::HandedOut,
        Self::Evicted,
        Self::Returned,
        Self::Requested,
        Self::Promoted,
        Self::Attracted,
    ];
}

impl fmt::Display for MoveCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How much was moved for one cause: [`crate::Engine::moved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Moved {
    /// How many moves were published.
    pub moves: u64,
    /// Bytes of the buffers that moved.
    pub bytes: u64,
    /// Bytes that were copied for it: fewer where a clean copy was there, or nobody had written yet.
    pub copied: u64,
}

/// The counters. Relaxed: statistics; nothing is decided by them.
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
        for cause in MoveCause::ALL {
            let expected = if cause == MoveCause::Evicted { evicted } else { Moved::default() };
            assert_eq!(counters.get(cause), expected, "{cause}");
        }
    }
}
