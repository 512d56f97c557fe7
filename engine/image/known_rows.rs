//! What is known of images over rows between two devices, and when a pair that could not be tried is tried again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::fourcc::Fourcc;
use crate::device::DeviceId;

/// A pair that could not be tried is tried again after this time, after twice as much if it still could not, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest time between two tries.
const LAST_RETRY: Duration = Duration::from_secs(256);

/// Which images over rows carry texels between two devices, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Those with linear tiling: the drivers place the rows.
    pub(crate) linear: bool,
    /// Those with stated planes, of the modifier `LINEAR`.
    pub(crate) stated: bool,
}

impl Rows {
    pub(crate) const ALL: Self = Self { linear: true, stated: true };
    pub(crate) const NONE: Self = Self { linear: false, stated: false };

    pub(crate) fn and(self, other: Self) -> Self {
        Self { linear: self.linear && other.linear, stated: self.stated && other.stated }
    }
}

/// What an engine knows of images over rows, by format and pair of devices.
#[derive(Debug, Default)]
pub(crate) struct KnownRows {
    known: Mutex<BTreeMap<Key, Known>>,
    /// How often what probes of images said has changed.
    changes: AtomicU64,
}

/// A format and two devices, the one with the lower number first.
type Key = (Fourcc, DeviceId, DeviceId);

#[derive(Clone, Copy, Debug)]
enum Known {
    Said(Rows),
    /// It could not be tried, and is not tried before `next`.
    Untried {
        next: Duration,
        pause: Duration,
    },
}

impl KnownRows {
    /// What is known at `now`, the time of the engine's clock: `None` if it is to be tried; `Some(None)` if it could not be
    /// tried, and is not to be tried yet.
    pub(crate) fn get(
        &self,
        fourcc: Fourcc,
        pair: [DeviceId; 2],
        now: Duration,
    ) -> Option<Option<Rows>> {
        match self.lock().get(&key(fourcc, pair))? {
            Known::Said(rows) => Some(Some(*rows)),
            Known::Untried { next, .. } => (now < *next).then_some(None),
        }
    }

    /// Notes what a try has said at `now`; `None` if it could not be made.
    pub(crate) fn note(
        &self,
        fourcc: Fourcc,
        pair: [DeviceId; 2],
        (said, now): (Option<Rows>, Duration),
    ) {
        let mut all = self.lock();
        let key = key(fourcc, pair);
        let known = match (said, all.get(&key)) {
            (Some(rows), _) => Known::Said(rows),
            // Another thread's answer is not forgotten.
            (None, Some(Known::Said(_))) => return,
            (None, before) => {
                let pause = match before {
                    Some(Known::Untried { pause, .. }) => (*pause * 2).min(LAST_RETRY),
                    _ => FIRST_RETRY,
                };
                Known::Untried { next: now.saturating_add(pause), pause }
            }
        };
        all.insert(key, known);
    }

    /// Forgets all of it.
    pub(super) fn forget(&self) {
        self.lock().clear();
        self.changed();
    }

    /// What probes of images said has changed.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// How often that was.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(fourcc: Fourcc, [a, b]: [DeviceId; 2]) -> Key {
    (fourcc, a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: [DeviceId; 2] = [DeviceId(0), DeviceId(1)];
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pair_that_could_not_be_tried_is_tried_again_later_and_later() {
        let known = KnownRows::default();
        let code = Fourcc::new(*b"AR24");
        let mut now = SECOND;
        assert_eq!(known.get(code, PAIR, now), None);
        for doubling in 0..10 {
            known.note(code, PAIR, (None, now));
            let pause = (SECOND * (1 << doubling)).min(LAST_RETRY);
            assert_eq!(known.get(code, PAIR, now), Some(None), "not at each mapping");
            assert_eq!(known.get(code, PAIR, now + pause - SECOND / 10), Some(None));
            now += pause;
            assert_eq!(known.get(code, PAIR, now), None, "{doubling}");
        }
    }

    #[test]
    fn what_was_said_stays_in_both_directions_until_it_is_forgotten() {
        let known = KnownRows::default();
        let code = Fourcc::new(*b"AR24");
        let refused = Rows { linear: false, stated: true };
        known.note(code, PAIR, (Some(refused), SECOND));
        known.note(code, PAIR, (None, SECOND));
        assert_eq!(known.get(code, [PAIR[1], PAIR[0]], SECOND * 9999), Some(Some(refused)));
        assert_eq!(known.get(Fourcc::new(*b"NV12"), PAIR, SECOND), None, "formats are apart");
        known.forget();
        assert_eq!(known.get(code, PAIR, SECOND), None);
    }
}
