//! Counters of moves, by cause.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a buffer moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MoveCause {
    /// The caller asked for it ([`crate::SharedBuffer::migrate`], [`crate::SharedBuffer::relocate`]).
    Asked,
    /// A device attached that could not reach the buffer in its domain.
    Reach,
    /// The buffer was exported to another process, which needs an allocation of its own instead of a slab.
    #[doc(alias = "HandedOut")]
    Exported,
    /// The buffer was evicted: to make room, or because the caller asked for it.
    Evicted,
    /// The buffer was used, and was restored to its preferred domain.
    #[doc(alias = "Returned")]
    Restored,
    /// The caller asked that it be in its preferred domain ([`crate::SharedBuffer::request_residency`],
    /// [`crate::Engine::restore`]).
    Requested,
    /// The device whose memory held the buffer is lost, and its clean copy became its backing.
    Promoted,
    /// The buffer was auto-migrated to the memory of a device that used it often from another domain
    /// ([`crate::ResidencyOptions::auto_migration`]).
    #[doc(alias = "Attracted")]
    AutoMigrated,
}

impl MoveCause {
    /// The short name used in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Reach => "to be reached",
            Self::Exported => "handed out",
            Self::Evicted => "evicted",
            Self::Restored => "returned",
            Self::Requested => "requested",
            Self::Promoted => "promoted",
            Self::AutoMigrated => "attracted",
        }
    }

    /// All causes, in order.
    pub const ALL: &[Self] = &[
        Self::Asked,
        Self::Reach,
        Self::Exported,
        Self::Evicted,
        Self::Restored,
        Self::Requested,
        Self::Promoted,
        Self::AutoMigrated,
    ];
}

impl fmt::Display for MoveCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

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
