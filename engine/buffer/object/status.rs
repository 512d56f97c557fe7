//! A buffer's generation and status flags, in one word.

use crate::sync::primitive::atomic::{AtomicU32, Ordering};

/// The word that a mapping compares with its own generation. It is one word, so that a valid mapping costs
/// one load and one comparison, and no lock.
///
/// It is written under the reservation. Release/acquire: a thread that reads a new status without the
/// reservation sees what was done before.
#[derive(Debug, Default)]
pub(in crate::buffer) struct Status(AtomicU32);

const REVOKED: u32 = 1 << 31;

const POISONED: u32 = 1 << 30;

/// The content was discarded.
const PURGED: u32 = 1 << 29;

/// The bytes of this generation are known to be valid and in place.
const READY: u32 = 1 << 28;

/// The generation. It wraps within these bits, never changes the flags, and skips numbers that are in use.
const GENERATION: u32 = READY - 1;

impl Status {
    #[inline]
    pub(super) fn generation(&self) -> u32 {
        self.0.load(Ordering::Acquire) & GENERATION
    }

    /// Whether a mapping of `generation` is current, and the buffer may be used.
    #[inline]
    pub(super) fn is_good(&self, generation: u32) -> bool {
        self.0.load(Ordering::Acquire) & !READY == generation
    }

    /// Whether, besides, the bytes are known to be valid and in place.
    #[inline]
    pub(in crate::buffer) fn is_ready(&self, generation: u32) -> bool {
        self.0.load(Ordering::Acquire) == generation | READY
    }

    /// Sets whether the bytes are known to be valid and in place. The reservation must be held, and must have
    /// been since that was found out.
    pub(in crate::buffer) fn set_ready(&self, ready: bool) {
        self.set(READY, ready);
    }

    /// Begins the next generation, whose bytes are not known to be in place. The reservation must be held.
    ///
    /// The number wraps. `in_use` says which numbers mappings of earlier generations have, or a clean copy: those
    /// are skipped, since such a mapping would become current again. There are fewer of them than numbers.
    pub(super) fn next_generation(&self, in_use: impl Fn(u32) -> bool) {
        let word = self.0.load(Ordering::Relaxed);
        let mut next = word.wrapping_add(1) & GENERATION;
        while in_use(next) {
            next = next.wrapping_add(1) & GENERATION;
        }
        self.0.store(word & !(GENERATION | READY) | next, Ordering::Release);
    }

    /// Sets the generation, for tests of numbers that come round. No mapping of the present one may exist.
    #[cfg(feature = "testing")]
    pub(super) fn set_generation(&self, generation: u32) {
        let word = self.0.load(Ordering::Relaxed);
        self.0.store(word & !(GENERATION | READY) | generation & GENERATION, Ordering::Release);
    }

    pub(in crate::buffer) fn is_revoked(&self) -> bool {
        self.0.load(Ordering::Acquire) & REVOKED != 0
    }

    /// Whether the buffer was found to be poisoned.
    pub(super) fn is_poisoned(&self) -> bool {
        self.0.load(Ordering::Acquire) & POISONED != 0
    }

    pub(in crate::buffer) fn is_purged(&self) -> bool {
        self.0.load(Ordering::Acquire) & PURGED != 0
    }

    /// Sets whether the content was discarded. The reservation must be held.
    pub(in crate::buffer) fn set_purged(&self, purged: bool) {
        self.set(PURGED, purged);
    }

    /// Sets whether the buffer is revoked. The reservation must be held.
    pub(in crate::buffer) fn set_revoked(&self, revoked: bool) {
        self.set(REVOKED, revoked);
    }

    /// Sets whether the buffer is poisoned, and returns whether that changes the flag. The reservation must
    /// be held.
    pub(in crate::buffer) fn set_poisoned(&self, poisoned: bool) -> bool {
        let changed = self.is_poisoned() != poisoned;
        self.set(POISONED, poisoned);
        changed
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
    fn a_revoked_poisoned_or_purged_buffer_has_no_good_mapping_and_keeps_its_generation() {
        let status = Status::default();
        status.next_generation(|_| false);
        assert!(status.is_good(1) && !status.is_good(0));
        status.set_ready(true);
        assert!(status.is_good(1) && status.is_ready(1) && !status.is_ready(0));
        status.set_revoked(true);
        assert!(status.is_revoked() && !status.is_good(1) && !status.is_ready(1));
        assert_eq!(status.generation(), 1);
        status.set_revoked(false);
        assert!(!status.is_revoked() && status.is_good(1));
        assert!(status.set_poisoned(true) && !status.set_poisoned(true), "changed once");
        assert!(status.is_poisoned() && !status.is_revoked() && !status.is_good(1));
        assert!(status.set_poisoned(false) && status.is_ready(1));
        status.next_generation(|_| false);
        assert!(
            status.is_good(2) && !status.is_ready(2),
            "the new backing is not known to be in place"
        );
        status.set_ready(true);
        status.set_purged(true);
        assert!(status.is_purged() && !status.is_good(2) && !status.is_ready(2));
        status.next_generation(|_| false);
        assert!(status.is_purged() && !status.is_good(3), "whatever the generation");
        status.set_purged(false);
        assert!(status.is_good(3) && !status.is_ready(3) && !status.is_revoked());
    }

    #[test]
    fn a_generation_that_wraps_leaves_the_flags_alone() {
        let status = Status(AtomicU32::new(GENERATION));
        status.next_generation(|_| false);
        assert_eq!((status.generation(), status.is_revoked()), (0, false));
        status.set_revoked(true);
        status.next_generation(|_| false);
        assert_eq!((status.generation(), status.is_revoked()), (1, true));
        assert!(!status.is_poisoned() && !status.is_purged());
    }

    #[test]
    fn a_generation_in_use_is_skipped() {
        let status = Status(AtomicU32::new(GENERATION - 1));
        status.next_generation(|number| number == GENERATION || number == 0);
        assert_eq!((status.generation(), status.is_revoked()), (1, false));
    }
}
