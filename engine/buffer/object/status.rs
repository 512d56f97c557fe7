//! A buffer's generation, whether its bytes are in place, and whether it may be used at all, in one word.

use crate::sync::primitive::atomic::{AtomicU32, Ordering};

/// What a mapping compares itself with. One word, so that finding a mapping to be good is one load and
/// one comparison, without a lock.
///
/// Written under the reservation; release/acquire, so that who reads a new standing without it sees what
/// was done before.
#[derive(Debug, Default)]
pub(in crate::buffer) struct Status(AtomicU32);

const REVOKED: u32 = 1 << 31;

const POISONED: u32 = 1 << 30;

/// It has no bytes any more.
const PURGED: u32 = 1 << 29;

/// The bytes of this generation are known to be the buffer's own and in place.
const READY: u32 = 1 << 28;

/// The generation, which wraps in here and never spills into the flags.
const GENERATION: u32 = READY - 1;

impl Status {
    #[inline]
    pub(in crate::buffer) fn generation(&self) -> u32 {
        self.0.load(Ordering::Acquire) & GENERATION
    }

    /// Whether a mapping of `generation` shows the buffer as it is, and may be used.
    #[inline]
    pub(in crate::buffer) fn is_good(&self, generation: u32) -> bool {
        self.0.load(Ordering::Acquire) & !READY == generation
    }

    /// The same, and the bytes are known to be the buffer's own and in place.
    #[inline]
    pub(in crate::buffer) fn is_ready(&self, generation: u32) -> bool {
        self.0.load(Ordering::Acquire) == generation | READY
    }

    /// The reservation is held, and was when that was found out.
    pub(in crate::buffer) fn set_ready(&self, ready: bool) {
        self.set(READY, ready);
    }

    /// The reservation is held.
    pub(in crate::buffer) fn next_generation(&self) {
        let word = self.0.load(Ordering::Relaxed);
        let next = word & !(GENERATION | READY) | word.wrapping_add(1) & GENERATION;
        self.0.store(next, Ordering::Release);
    }

    pub(in crate::buffer) fn is_revoked(&self) -> bool {
        self.0.load(Ordering::Acquire) & REVOKED != 0
    }

    /// Whether it was found to be poisoned.
    pub(in crate::buffer) fn is_poisoned(&self) -> bool {
        self.0.load(Ordering::Acquire) & POISONED != 0
    }

    pub(in crate::buffer) fn is_purged(&self) -> bool {
        self.0.load(Ordering::Acquire) & PURGED != 0
    }

    /// The reservation is held.
    pub(in crate::buffer) fn set_purged(&self, purged: bool) {
        self.set(PURGED, purged);
    }

    /// The reservation is held.
    pub(in crate::buffer) fn set_revoked(&self, revoked: bool) {
        self.set(REVOKED, revoked);
    }

    /// Whether that is news. The reservation is held.
    pub(in crate::buffer) fn set_poisoned(&self, poisoned: bool) -> bool {
        let news = self.is_poisoned() != poisoned;
        self.set(POISONED, poisoned);
        news
    }

    fn set(&self, flag: u32, on: bool) {
        let word = self.0.load(Ordering::Relaxed);
        self.0.store(word & !flag | if on { flag } else { 0 }, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_what_is_revoked_or_poisoned_are_not_good_and_the_generation_stays() {
        let status = Status::default();
        status.next_generation();
        assert!(status.is_good(1) && !status.is_good(0));
        status.set_ready(true);
        assert!(status.is_good(1) && status.is_ready(1) && !status.is_ready(0));
        status.set_revoked(true);
        assert!(status.is_revoked() && !status.is_good(1) && !status.is_ready(1));
        assert_eq!(status.generation(), 1);
        status.set_revoked(false);
        assert!(!status.is_revoked() && status.is_good(1));
        assert!(status.set_poisoned(true) && !status.set_poisoned(true), "news once");
        assert!(status.is_poisoned() && !status.is_revoked() && !status.is_good(1));
        assert!(status.set_poisoned(false) && status.is_ready(1));
        status.next_generation();
        assert!(status.is_good(2) && !status.is_ready(2), "another place");
        status.set_ready(true);
        status.set_purged(true);
        assert!(status.is_purged() && !status.is_good(2) && !status.is_ready(2));
        status.next_generation();
        assert!(status.is_purged() && !status.is_good(3), "whatever the generation");
        status.set_purged(false);
        assert!(status.is_good(3) && !status.is_ready(3) && !status.is_revoked());
    }

    #[test]
    fn a_generation_that_wraps_revokes_nothing() {
        let status = Status(AtomicU32::new(GENERATION));
        status.next_generation();
        assert_eq!((status.generation(), status.is_revoked()), (0, false));
        status.set_revoked(true);
        status.next_generation();
        assert_eq!((status.generation(), status.is_revoked()), (1, true));
        assert!(!status.is_poisoned() && !status.is_purged());
    }
}
