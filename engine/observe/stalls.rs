//! Counters of waits, by cause.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a caller had to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StallCause {
    /// Room: evictions had to end first.
    Room,
    /// A move of the buffer, or work that a move had to wait for.
    Move,
    /// Work on the buffer that no queue could wait for.
    Work,
}

impl StallCause {
    /// The short name used in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Room => "for room",
            Self::Move => "for a move",
            Self::Work => "for work",
        }
    }

    /// All causes, in order.
    pub const ALL: &[Self] = &[Self::Room, Self::Move, Self::Work];
}

impl fmt::Display for StallCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The waits for one cause: [`crate::Engine::stalls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stalls {
    /// The number of waits.
    pub waits: u64,
    /// The sum of all waits of all threads.
    pub total: Duration,
    /// The longest wait.
    pub longest: Duration,
}

/// The counters of waits. Relaxed, because they are statistics and no decision depends on them.
#[derive(Debug, Default)]
pub(crate) struct StallCounters([Row; StallCause::ALL.len()]);

#[derive(Debug, Default)]
struct Row {
    waits: AtomicU64,
    /// In nanoseconds.
    total: AtomicU64,
    longest: AtomicU64,
}

impl StallCounters {
    /// Runs `wait` and counts its time, even if it fails.
    pub(crate) fn during<T>(&self, cause: StallCause, wait: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let waited = wait();
        self.add(cause, start.elapsed());
        waited
    }

    /// Counts a wait.
    pub(crate) fn add(&self, cause: StallCause, waited: Duration) {
        let row = &self.0[cause as usize];
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        row.waits.fetch_add(1, Ordering::Relaxed);
        row.total.fetch_add(nanos, Ordering::Relaxed);
        row.longest.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, cause: StallCause) -> Stalls {
        let row = &self.0[cause as usize];
        let time = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        Stalls {
            waits: row.waits.load(Ordering::Relaxed),
            total: time(&row.total),
            longest: time(&row.longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_row() {
        let counters = StallCounters::default();
        let [short, long] = [1, 3].map(Duration::from_millis);
        counters.add(StallCause::Move, long);
        counters.add(StallCause::Move, short);
        let moves = Stalls { waits: 2, total: short + long, longest: long };
        for &cause in StallCause::ALL {
            let expected = if cause == StallCause::Move { moves } else { Stalls::default() };
            assert_eq!(counters.get(cause), expected, "{cause}");
        }
    }

    #[test]
    fn a_failed_wait_is_counted() {
        let counters = StallCounters::default();
        let waited: Result<(), ()> = counters.during(StallCause::Room, || Err(()));
        assert!(waited.is_err());
        assert_eq!(counters.get(StallCause::Room).waits, 1);
    }
}
