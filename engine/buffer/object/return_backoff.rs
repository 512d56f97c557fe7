//! Whether a buffer is elsewhere than it wants to be, and at which use it is to come back.

use std::sync::atomic::{AtomicU8, Ordering};

/// One byte: there may be a million of them. Written under the reservation when the buffer moves, without it
/// when it is used. Relaxed: a rough measure.
///
/// 0 is a buffer that is where it wants to be. Up to 127 it is away, and may come back wherever there is room:
/// after so many uses, this one included, also at the cost of others. With [`FAILED`] the last try has failed,
/// and it rests. The other bits then say how often, and how long still: from `2^n` to `2^(n+1) - 1` they are
/// what is left of the n-th rest, at whose end it is tried again.
#[derive(Debug)]
pub(in crate::buffer) struct ReturnBackoff(AtomicU8);

/// It rests.
const FAILED: u8 = 1 << 7;

/// The most that the other bits can say.
const MOST: u8 = FAILED - 1;

/// What the use that is about to begin may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) enum Turn {
    /// Nothing: it was tried not long ago.
    Rest,
    /// Bring it back, where there is room; after so many uses, this one included, also at the cost of others.
    Try {
        /// 1 is now.
        left: u8,
    },
}

impl ReturnBackoff {
    /// It may evict others at the `uses`-th use; 0 is a buffer that is not away.
    pub(in crate::buffer) fn new(uses: u8) -> Self {
        Self(AtomicU8::new(uses.min(MOST)))
    }

    #[inline]
    pub(in crate::buffer) fn is_displaced(&self) -> bool {
        self.get() > 0
    }

    /// As a new one.
    pub(in crate::buffer) fn set(&self, uses: u8) {
        self.put(uses.min(MOST));
    }

    /// What a use may do that begins now. If it is to rest, that is one use less.
    pub(in crate::buffer) fn turn(&self) -> Turn {
        let word = self.get();
        let rest = word & MOST;
        if word & FAILED == 0 {
            return Turn::Try { left: word.max(1) };
        }
        if rest.is_power_of_two() {
            return Turn::Try { left: 1 };
        }
        self.put(word - 1);
        Turn::Rest
    }

    /// It failed, and may not the next time: a rest twice as long as the last one.
    pub(in crate::buffer) fn failed(&self) {
        let word = self.get();
        let last = if word & FAILED == 0 { 1 } else { word & MOST };
        // The last one of the next rest.
        let next = u32::from(last).next_power_of_two().saturating_mul(4) - 1;
        self.put(FAILED | u8::try_from(next).unwrap_or(MOST).min(MOST));
    }

    /// It failed, and will again unless something changes: the longest rest.
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

    /// After how many uses it may be tried again, at no matter whose cost.
    fn rest(backoff: &ReturnBackoff) -> u32 {
        let mut rested = 0;
        while backoff.turn() == Turn::Rest {
            rested += 1;
        }
        assert_eq!(backoff.turn(), Turn::Try { left: 1 }, "until it is over");
        rested
    }

    #[test]
    fn who_is_away_may_be_tried_at_each_use() {
        assert!(!ReturnBackoff::new(0).is_displaced());
        let backoff = ReturnBackoff::new(3);
        assert!(backoff.is_displaced());
        assert_eq!([backoff.turn(), backoff.turn()], [Turn::Try { left: 3 }; 2]);
        backoff.set(2);
        assert_eq!(backoff.turn(), Turn::Try { left: 2 });
        backoff.set(u8::MAX);
        assert_eq!(backoff.turn(), Turn::Try { left: MOST }, "and does not rest");
        backoff.set(0);
        assert!(!backoff.is_displaced());
    }

    #[test]
    fn each_failure_makes_the_rest_twice_as_long() {
        let backoff = ReturnBackoff::new(2);
        let rests = [(); 8].map(|()| {
            backoff.failed();
            assert!(backoff.is_displaced());
            rest(&backoff)
        });
        assert_eq!(rests, [1, 3, 7, 15, 31, 63, 63, 63]);
        backoff.set(2);
        backoff.failed();
        assert_eq!(rest(&backoff), 1, "it has come back meanwhile");
    }

    #[test]
    fn what_will_fail_again_rests_longest() {
        let backoff = ReturnBackoff::new(1);
        for _ in 0..2 {
            backoff.backed_off_for_long();
            assert_eq!(rest(&backoff), 63);
        }
        backoff.failed();
        assert_eq!(rest(&backoff), 63);
    }
}
