//! Bytes that stay charged while no buffer has them: slots that threads keep for their next buffers.
//!
//! They are subtracted from what is reported as used, and given back before a charge is refused. Slots are kept while no
//! more than half of the budget is charged. Once more is, or a charge has failed, or bytes are claimed, none are until less
//! than a quarter is charged and no claim is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Keeps slots with their charges; implemented by the pools of a domain.
pub(super) trait Keeper: std::fmt::Debug + Send + Sync {
    /// Bytes of a domain that it keeps.
    fn kept(&self) -> u64;

    /// Gives all of them back; returns whether there were any.
    ///
    /// Locks: those of the pool.
    fn give_back_kept(&self) -> bool;
}

/// The keepers of a domain and of its parts.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    // Innermost; held for no call.
    list: Mutex<Vec<Weak<dyn Keeper>>>,
    /// What may be kept, and how often that has changed: [`OPEN`], [`CLOSED`] or [`EMPTY`] as the remainder by 3.
    phase: AtomicU64,
}

/// Slots may be kept.
const OPEN: u64 = 0;
/// None may be, but some may be left.
const CLOSED: u64 = 1;
/// None may be, and none is left.
const EMPTY: u64 = 2;

impl Keepers {
    /// Whether slots may be kept.
    pub(super) fn is_open(&self) -> bool {
        self.phase.load(Ordering::Acquire) % 3 == OPEN
    }

    /// Adds a keeper.
    pub(super) fn add(&self, keeper: Weak<dyn Keeper>) {
        let mut list = self.list();
        list.retain(|keeper| keeper.strong_count() > 0);
        list.push(keeper);
    }

    /// Lets nothing be kept from now on. Returns the number of the phase if slots may be left that were kept before.
    pub(super) fn close(&self) -> Option<u64> {
        let close = |now: u64| (now % 3 == OPEN).then_some(now + CLOSED);
        match self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, close) {
            Ok(open) => Some(open + CLOSED),
            Err(now) => (now % 3 == CLOSED).then_some(now),
        }
    }

    /// Notes that nothing is left of what was kept before phase `closed`.
    pub(super) fn emptied(&self, closed: u64) {
        let empty = closed - CLOSED + EMPTY;
        // Otherwise another thread has noted it, or slots may be kept again.
        _ = self.phase.compare_exchange(closed, empty, Ordering::Release, Ordering::Relaxed);
    }

    /// Lets slots be kept again.
    pub(super) fn open(&self) {
        let open = |now: u64| (now % 3 != OPEN).then(|| now - now % 3 + 3);
        _ = self.phase.fetch_update(Ordering::AcqRel, Ordering::Relaxed, open);
    }

    /// Those that are alive.
    pub(super) fn all(&self) -> Vec<Arc<dyn Keeper>> {
        self.list().iter().filter_map(Weak::upgrade).collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Weak<dyn Keeper>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
