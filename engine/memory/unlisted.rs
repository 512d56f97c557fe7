//! Excludes that a piece of a pool's unused memory is in no list while all unused memory is taken out to be freed.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock of a thread that has a piece of unused memory out of its list, to zero it, or that takes all out.
#[derive(Debug, Default)]
pub(super) struct Unlisted {
    turn: Mutex<()>,
    /// How many threads wait for the piece. Relaxed: it orders nothing.
    wanted: AtomicU32,
}

impl Unlisted {
    /// Waits until all unused memory is listed: for as long as the other thread takes for the part that it is zeroing
    /// ([`Unlisted::is_wanted`]). It stays listed while the result lives.
    pub(super) fn exclude(&self) -> MutexGuard<'_, ()> {
        self.wanted.fetch_add(1, Relaxed);
        let turn = self.turn();
        self.wanted.fetch_sub(1, Relaxed);
        turn
    }

    /// Allows one piece to be out of its list while the result lives.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        // It protects no data.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a thread waits in [`Unlisted::exclude`]. The thread that has the turn looks often, and gives it back then.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed) > 0
    }
}
