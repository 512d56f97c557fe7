//! Whether a buffer is displaced, and at which use it is restored to its preferred domain.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether a buffer is outside its preferred domain, and when a restore is tried again. Exponential back-off,
/// counted in uses.
///
/// One byte, because there may be a million of them. It is written under the reservation when the buffer
/// moves, and without it when the buffer is used. Relaxed: a rough measure suffices.
///
/// - 0: the buffer is in its preferred domain.
/// - 1 to 127: the buffer is displaced. Every use may restore it if there is room. At this number of uses,
///   the current one included, it may evict others as well.
/// - With [`FAILED`]: the last restore failed, and the next uses do not try. The other bits count down: from
///   `2^(n+1) - 1` to `2^n` during the n-th pause, at whose end a restore is tried again.
#[derive(Debug)]
pub(in crate::buffer) struct ReturnBackoff(AtomicU8);

/// The last restore failed.
const FAILED: u8 = 1 << 7;

/// The largest value of the other bits.
const MOST: u8 = FAILED - 1;

/// What the use that is about to begin may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) enum Turn {
    /// Do not try: a restore failed recently.
    Rest,
    /// Restore the buffer if there is room. At this many uses, the current one included, evict others for it
    /// as well.
    Try {
        /// 1 is the current use.
        left: u8,
    },
}

impl ReturnBackoff {
    /// A buffer that may evict others at its `uses`-th use; 0 is one that is in its preferred domain.
    pub(super) fn new(uses: u8) -> Self {
        Self(AtomicU8::new(uses.min(MOST)))
    }

    #[inline]
    pub(super) fn is_displaced(&self) -> bool {
        self.get() > 0
    }

    /// Sets the value, as [`ReturnBackoff::new`] does.
    pub(in crate::buffer) fn set(&self, uses: u8) {
        self.put(uses.min(MOST));
    }

    /// What the use that begins now may do. A use during a pause shortens it by one.
    pub(in crate::buffer) fn turn(&self) -> Turn {
        let word = self.get();
        let remaining = word & MOST;
        if word & FAILED == 0 {
            return Turn::Try { left: word.max(1) };
        }
        if remaining.is_power_of_two() {
            return Turn::Try { left: 1 };
        }
        self.put(word - 1);
        Turn::Rest
    }

    /// A restore failed, and the next one may succeed: pauses twice as long as the last time.
    pub(in crate::buffer) fn failed(&self) {
        let word = self.get();
        let last = if word & FAILED == 0 { 1 } else { word & MOST };
        // The highest value of the next pause.
        let next = u32::from(last).next_power_of_two().saturating_mul(4) - 1;
        self.put(FAILED | u8::try_from(next).unwrap_or(MOST).min(MOST));
    }

    /// A restore failed, and will fail until something changes: pauses for the longest time.
    pub(in crate::buffer) fn backed_off_for_long(&self) {
        self.put(FAILED | MOST);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn put(&self, word: u8) {
        self.0.store(word, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of uses until a restore may be tried again, at the cost of others.
    fn pause(backoff: &ReturnBackoff) -> u32 {
        let mut uses = 0;
        while backoff.turn() == Turn::Rest {
            uses += 1;
        }
        assert_eq!(backoff.turn(), Turn::Try { left: 1 }, "the pause is over");
        uses
    }

    #[test]
    fn a_displaced_buffer_may_be_restored_at_each_use() {
        assert!(!ReturnBackoff::new(0).is_displaced());
        let backoff = ReturnBackoff::new(3);
        assert!(backoff.is_displaced());
        assert_eq!([backoff.turn(), backoff.turn()], [Turn::Try { left: 3 }; 2]);
        backoff.set(2);
        assert_eq!(backoff.turn(), Turn::Try { left: 2 });
        backoff.set(u8::MAX);
        assert_eq!(backoff.turn(), Turn::Try { left: MOST }, "saturated, and no pause");
        backoff.set(0);
        assert!(!backoff.is_displaced());
    }

    #[test]
    fn each_failure_doubles_the_pause() {
        let backoff = ReturnBackoff::new(2);
        let pauses = [(); 8].map(|()| {
            backoff.failed();
            assert!(backoff.is_displaced());
            pause(&backoff)
        });
        assert_eq!(pauses, [1, 3, 7, 15, 31, 63, 63, 63]);
        backoff.set(2);
        backoff.failed();
        assert_eq!(pause(&backoff), 1, "restored in between");
    }

    #[test]
    fn a_lasting_failure_pauses_longest() {
        let backoff = ReturnBackoff::new(1);
        for _ in 0..2 {
            backoff.backed_off_for_long();
            assert_eq!(pause(&backoff), 63);
        }
        backoff.failed();
        assert_eq!(pause(&backoff), 63);
    }
}
