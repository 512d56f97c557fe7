//! What it costs a device to read a byte in a place: looked up at every use, so without a lock.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::device::DeviceId;
use crate::memory::DomainId;

/// How long a device takes to read a byte, in femtoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Price(NonZeroU32);

impl Price {
    /// Of so many bytes that took so long.
    pub(crate) fn measured(bytes: u64, took: Duration) -> Self {
        Self::new(took.as_nanos().saturating_mul(1_000_000) / u128::from(bytes.max(1)))
    }

    /// At so many bytes in a second.
    pub(crate) fn of_speed(bytes: u64) -> Self {
        Self::new(1_000_000_000_000_000 / u128::from(bytes.max(1)))
    }

    fn new(femtoseconds: u128) -> Self {
        // The largest number stands for none.
        let most = u128::from(UNKNOWN - 1);
        // CAST: bounded above.
        Self(NonZeroU32::new(femtoseconds.min(most) as u32).unwrap_or(NonZeroU32::MIN))
    }

    /// Of so many bytes, in picoseconds.
    pub(crate) fn of(self, bytes: u64) -> u64 {
        let all = u128::from(bytes) * u128::from(self.0.get()) / 1000;
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// Whether it is half as much again: less may be noise.
    pub(crate) fn is_worse_than(self, other: Self) -> bool {
        2 * u64::from(self.0.get()) >= 3 * u64::from(other.0.get())
    }
}

/// Those that were asked for: each has its word, which it may have to share.
#[derive(Debug)]
pub(crate) struct Prices {
    /// Who reads, where, and the price. Relaxed: a word is whole, and says nothing of others.
    words: [AtomicU64; WORDS],
    /// Those that somebody has set. Held while a word is written.
    set: Mutex<Vec<(DeviceId, DomainId, Price)>>,
}

const WORDS: usize = 256;

/// What a price is that was looked for and not found. No price is 0, so no word that was written is.
const UNKNOWN: u32 = u32::MAX;

impl Prices {
    pub(super) fn new() -> Self {
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)), set: Mutex::default() }
    }

    /// What `user` pays in `place`. If nobody has asked yet, `measured` says what is known.
    #[inline]
    pub(crate) fn get(
        &self,
        user: DeviceId,
        place: DomainId,
        measured: impl FnOnce() -> Option<Price>,
    ) -> Option<Price> {
        let tag = tag(user, place);
        let word = self.word(tag).load(Ordering::Relaxed);
        // CAST: the two halves.
        match ((word >> 32) as u32 == tag, NonZeroU32::new(word as u32)) {
            (true, Some(price)) => (price.get() != UNKNOWN).then_some(Price(price)),
            _ => self.look_up(user, place, measured),
        }
    }

    #[cold]
    fn look_up(
        &self,
        user: DeviceId,
        place: DomainId,
        measured: impl FnOnce() -> Option<Price>,
    ) -> Option<Price> {
        // Held meanwhile: what is forgotten after this look is forgotten in the word as well.
        let set = self.lock();
        let known = set.iter().find(|(of, at, _)| (*of, *at) == (user, place));
        let price = known.map(|known| known.2).or_else(measured);
        let tag = tag(user, place);
        let low = price.map_or(UNKNOWN, |price| price.0.get());
        self.word(tag).store(u64::from(tag) << 32 | u64::from(low), Ordering::Relaxed);
        price
    }

    /// Says what it is, whatever was measured; `None` for that.
    pub(crate) fn set(&self, user: DeviceId, place: DomainId, price: Option<Price>) {
        let mut set = self.lock();
        set.retain(|(of, at, _)| (*of, *at) != (user, place));
        set.extend(price.map(|price| (user, place, price)));
        self.clear();
    }

    /// Something was measured, or is not to be relied on any more: everything is looked up again.
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

    fn lock(&self) -> MutexGuard<'_, Vec<(DeviceId, DomainId, Price)>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tag(user: DeviceId, place: DomainId) -> u32 {
    let place = match place {
        DomainId::Vram(device) => device.0,
        // Nobody's number: there are 65,535 devices at most.
        DomainId::System => u16::MAX,
    };
    u32::from(user.0) << 16 | u32::from(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: DomainId = DomainId::Vram(DeviceId(0));

    #[test]
    fn prices_are_asked_for_once_until_they_are_forgotten() {
        let prices = Prices::new();
        let slow = Price::of_speed(1_000_000_000);
        for place in [HERE, DomainId::System] {
            assert_eq!(prices.get(DeviceId(0), place, || Some(slow)), Some(slow));
            assert_eq!(prices.get(DeviceId(0), place, || unreachable!("known")), Some(slow));
            prices.forget();
            assert_eq!(prices.get(DeviceId(0), place, || None), None);
            assert_eq!(prices.get(DeviceId(0), place, || unreachable!("not measured")), None);
        }
    }

    #[test]
    fn what_is_set_goes_before_what_is_measured() {
        let prices = Prices::new();
        let [slow, fast] = [1, 9].map(|gigabytes| Price::of_speed(gigabytes * 1_000_000_000));
        assert_eq!(prices.get(DeviceId(1), HERE, || Some(slow)), Some(slow));
        prices.set(DeviceId(1), HERE, Some(fast));
        assert_eq!(prices.get(DeviceId(1), HERE, || Some(slow)), Some(fast));
        prices.set(DeviceId(1), HERE, None);
        assert_eq!(prices.get(DeviceId(1), HERE, || Some(slow)), Some(slow));
    }

    #[test]
    fn those_who_share_a_word_have_their_own_prices() {
        let prices = Prices::new();
        let speed = |user: u16| Price::of_speed(u64::from(user + 1) * 1_000_000);
        for _ in 0..2 {
            for user in 0..1000 {
                let price = prices.get(DeviceId(user), HERE, || Some(speed(user)));
                assert_eq!(price, Some(speed(user)));
            }
        }
    }

    #[test]
    fn a_price_is_what_was_measured() {
        let price = Price::measured(1 << 20, Duration::from_micros(105));
        assert_eq!(price.of(1 << 20) / 1_000_000, 104, "rounded down, twice");
        assert_eq!(Price::of_speed(10_000_000_000).of(10_000_000_000), 1_000_000_000_000);
        assert_eq!(Price::measured(u64::MAX, Duration::ZERO).of(1000), 1, "never nothing");
        assert!(Price::of_speed(0) > Price::of_speed(1_000_000));
        let at = |speed: u64| Price::of_speed(speed * 1_000_000);
        assert!(at(1000).is_worse_than(at(1500)) && !at(1000).is_worse_than(at(1499)));
    }
}
