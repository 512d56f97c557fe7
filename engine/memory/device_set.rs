//! Sets of devices: which of them share the buffers of a slab.

use crate::device::DeviceId;

/// A set of devices of one engine, in one word. Devices from number 63 on are in it all together, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceSet(u64);

impl DeviceSet {
    /// Every device.
    pub(crate) const ALL: Self = Self(u64::MAX);

    pub(crate) fn of(device: DeviceId) -> Self {
        Self(1 << device.index().min(63))
    }

    /// The set of a word that [`DeviceSet::bits`] returned.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    #[must_use]
    pub(crate) fn with(self, device: DeviceId) -> Self {
        self.union(Self::of(device))
    }

    #[must_use]
    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn contains(self, device: DeviceId) -> bool {
        self.covers(Self::of(device))
    }

    /// Whether it has every device of `other`.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_devices_and_those_with_high_numbers_together() {
        let [zero, one, last, beyond] = [0, 1, 63, 4000].map(DeviceId);
        let set = DeviceSet::of(zero).with(last);
        assert!(set.contains(zero) && set.contains(last) && set.contains(beyond));
        assert!(!set.contains(one) && set.with(one).contains(one));
        assert!(set.with(one).covers(set) && !set.covers(set.with(one)));
        assert!(DeviceSet::ALL.covers(set) && DeviceSet::from_bits(set.bits()) == set);
    }
}
