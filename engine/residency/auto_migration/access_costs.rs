//! What it costs a device to read a byte in a domain. Read at every use, and so without a lock.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::device::DeviceId;
use crate::memory::DomainId;

/// The time that a device takes to read a byte, in femtoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccessCost(NonZeroU32);

impl AccessCost {
    /// From a measurement: reading `bytes` took so long.
    pub(crate) fn measured(bytes: u64, took: Duration) -> Self {
        Self::new(took.as_nanos().saturating_mul(1_000_000) / u128::from(bytes.max(1)))
    }

    /// From a bandwidth in bytes per second.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn from_bandwidth(bytes: u64) -> Self {
        Self::new(1_000_000_000_000_000 / u128::from(bytes.max(1)))
    }

    fn new(femtoseconds: u128) -> Self {
        // The largest number means unknown.
        let most = u128::from(UNKNOWN - 1);
        // CAST: bounded above.
        Self(NonZeroU32::new(femtoseconds.min(most) as u32).unwrap_or(NonZeroU32::MIN))
    }

    /// The cost of reading `bytes`, in picoseconds.
    pub(crate) fn of(self, bytes: u64) -> u64 {
        let all = u128::from(bytes) * u128::from(self.0.get()) / 1000;
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// Whether it is at least one and a half times `other`. A smaller difference may be noise.
    pub(crate) fn is_worse_than(self, other: Self) -> bool {
        2 * u64::from(self.0.get()) >= 3 * u64::from(other.0.get())
    }
}

/// A cache of access costs: one word per pair of device and domain, which several pairs may share.
#[derive(Debug)]
pub(crate) struct AccessCosts {
    /// The pair's tag and its cost. Relaxed: a word is complete, and independent of other memory.
    words: [AtomicU64; WORDS],
    /// Costs that the application has set. The lock is held while a word is written.
    set: Mutex<Vec<(DeviceId, DomainId, AccessCost)>>,
}

const WORDS: usize = 256;

/// The cost of a pair that was looked up and has none. No cost is 0, so a word that was written is not 0.
const UNKNOWN: u32 = u32::MAX;

impl AccessCosts {
    pub(super) fn new() -> Self {
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)), set: Mutex::default() }
    }

    /// The cost for `user` in `domain`. If the cache does not have it, `measured` says what is known.
    #[inline]
    pub(crate) fn get(
        &self,
        user: DeviceId,
        domain: DomainId,
        measured: impl FnOnce() -> Option<AccessCost>,
    ) -> Option<AccessCost> {
        let tag = tag(user, domain);
        let word = self.word(tag).load(Ordering::Relaxed);
        // CAST: the two halves.
        match ((word >> 32) as u32 == tag, NonZeroU32::new(word as u32)) {
            (true, Some(cost)) => (cost.get() != UNKNOWN).then_some(AccessCost(cost)),
            _ => self.look_up(user, domain, measured),
        }
    }

    #[cold]
    fn look_up(
        &self,
        user: DeviceId,
        domain: DomainId,
        measured: impl FnOnce() -> Option<AccessCost>,
    ) -> Option<AccessCost> {
        // The lock is held until the word is written, so that `forget` cannot be overtaken by this write.
        let set = self.lock();
        let known = set.iter().find(|(of, at, _)| (*of, *at) == (user, domain));
        let cost = known.map(|known| known.2).or_else(measured);
        let tag = tag(user, domain);
        let low = cost.map_or(UNKNOWN, |cost| cost.0.get());
        self.word(tag).store(u64::from(tag) << 32 | u64::from(low), Ordering::Relaxed);
        cost
    }

    /// Sets a cost that replaces the measured one; `None` restores the measured one.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn set(&self, user: DeviceId, domain: DomainId, cost: Option<AccessCost>) {
        let mut set = self.lock();
        set.retain(|(of, at, _)| (*of, *at) != (user, domain));
        set.extend(cost.map(|cost| (user, domain, cost)));
        self.clear();
    }

    /// Empties the cache, after a measurement or when a measurement is no longer valid.
    pub(crate) fn forget(&self) {
        let _set = self.lock();
        self.clear();
    }

    fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn word(&self, tag: u32) -> &AtomicU64 {
        // CAST: a remainder.
        &self.words[(tag.wrapping_mul(0x9e37_79b1) >> 24) as usize % WORDS]
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(DeviceId, DomainId, AccessCost)>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tag(user: DeviceId, domain: DomainId) -> u32 {
    let domain = match domain {
        DomainId::Vram(device) => device.0,
        // No device has this number: there are 65,535 devices at most.
        DomainId::System => u16::MAX,
    };
    u32::from(user.0) << 16 | u32::from(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: DomainId = DomainId::Vram(DeviceId(0));

    #[test]
    fn costs_are_looked_up_once_until_the_cache_is_emptied() {
        let costs = AccessCosts::new();
        let slow = AccessCost::from_bandwidth(1_000_000_000);
        for domain in [HERE, DomainId::System] {
            assert_eq!(costs.get(DeviceId(0), domain, || Some(slow)), Some(slow));
            assert_eq!(costs.get(DeviceId(0), domain, || unreachable!("known")), Some(slow));
            costs.forget();
            assert_eq!(costs.get(DeviceId(0), domain, || None), None);
            assert_eq!(costs.get(DeviceId(0), domain, || unreachable!("not measured")), None);
        }
    }

    #[test]
    fn a_cost_that_was_set_replaces_the_measured_one() {
        let costs = AccessCosts::new();
        let [slow, fast] =
            [1, 9].map(|gigabytes| AccessCost::from_bandwidth(gigabytes * 1_000_000_000));
        assert_eq!(costs.get(DeviceId(1), HERE, || Some(slow)), Some(slow));
        costs.set(DeviceId(1), HERE, Some(fast));
        assert_eq!(costs.get(DeviceId(1), HERE, || Some(slow)), Some(fast));
        costs.set(DeviceId(1), HERE, None);
        assert_eq!(costs.get(DeviceId(1), HERE, || Some(slow)), Some(slow));
    }

    #[test]
    fn pairs_that_share_a_word_have_their_own_costs() {
        let costs = AccessCosts::new();
        let speed = |user: u16| AccessCost::from_bandwidth(u64::from(user + 1) * 1_000_000);
        for _ in 0..2 {
            for user in 0..1000 {
                let cost = costs.get(DeviceId(user), HERE, || Some(speed(user)));
                assert_eq!(cost, Some(speed(user)));
            }
        }
    }

    #[test]
    fn a_cost_is_what_was_measured() {
        let cost = AccessCost::measured(1 << 20, Duration::from_micros(105));
        assert_eq!(cost.of(1 << 20) / 1_000_000, 104, "rounded down, twice");
        assert_eq!(
            AccessCost::from_bandwidth(10_000_000_000).of(10_000_000_000),
            1_000_000_000_000
        );
        assert_eq!(AccessCost::measured(u64::MAX, Duration::ZERO).of(1000), 1, "never zero");
        assert!(AccessCost::from_bandwidth(0) > AccessCost::from_bandwidth(1_000_000));
        let at = |speed: u64| AccessCost::from_bandwidth(speed * 1_000_000);
        assert!(at(1000).is_worse_than(at(1500)) && !at(1000).is_worse_than(at(1499)));
    }
}
