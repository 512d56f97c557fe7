//! One buffer's entry in a domain's eviction list.

use smallvec::SmallVec;

use super::policy::Slot;
use super::priority::Priority;
use crate::memory::GroupId;

/// Twelve bytes with a key of four, because a list may have a million entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    /// In units of [`UNIT`], rounded up.
    pub(super) units: u32,
    pub(super) group: GroupId,
    marks: u8,
    /// How many entries the slot had before this one. The number wraps: an entry that is mistaken for the one
    /// 256 before it is parked without a reason, and is chosen later than its turn.
    pub(super) tenant: u8,
}

const STATE: u8 = 0b11;
const PRIORITY: u8 = 0b11 << PRIORITY_AT;
const PRIORITY_AT: u32 = 2;

/// The content may be discarded.
pub(super) const PURGEABLE: u8 = 1 << 4;
/// The slot is in the queue of parked slots. It stays there until its turn, also if it gets another entry.
pub(super) const QUEUED: u8 = 1 << 5;
/// The buffer is in a bulk group: the group's bulk is in the policy's order, the buffer itself is not.
pub(super) const IN_BULK: u8 = 1 << 6;
/// The entry is no buffer. It represents a bulk in the policy's order.
pub(super) const BULK: u8 = 1 << 7;

/// All footprints are multiples of this many bytes.
const UNIT: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The slot has no buffer.
    Vacant,
    /// This is the buffer's preferred domain, but it is in another one.
    Displaced,
    /// The buffer is in this domain and may be chosen as a victim.
    Resident,
    /// The buffer is in this domain, and an attempt to evict it has found it pinned.
    Parked,
}

const STATES: [State; 4] = [State::Vacant, State::Displaced, State::Resident, State::Parked];

impl<K> Entry<K> {
    pub(super) fn new(
        key: K,
        bytes: u64,
        group: GroupId,
        priority: Priority,
        resident: bool,
    ) -> Self {
        let state = if resident { State::Resident } else { State::Displaced };
        let mut entry = Self { key, units: units(bytes), group, marks: 0, tenant: 0 };
        entry.set_state(state);
        entry.set_priority(priority);
        entry
    }

    pub(super) fn state(&self) -> State {
        STATES[usize::from(self.marks & STATE)]
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.marks = self.marks & !STATE | state as u8;
    }

    pub(super) fn set_priority(&mut self, priority: Priority) {
        // CAST: one of four.
        self.marks = self.marks & !PRIORITY | (priority.index() as u8) << PRIORITY_AT;
    }

    pub(super) fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    pub(super) fn set(&mut self, mark: u8, on: bool) {
        self.marks = self.marks & !mark | if on { mark } else { 0 };
    }

    /// The index of the entry's rank: 0 for purgeable entries, then one rank per priority.
    pub(super) fn rank(&self) -> usize {
        let priority = usize::from((self.marks & PRIORITY) >> PRIORITY_AT);
        if self.has(PURGEABLE) { 0 } else { 1 + priority }
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT
    }

    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.units = units(bytes);
    }
}

impl<K: Copy> Entry<K> {
    pub(super) fn victim(&self, slot: Slot) -> Victim<K> {
        Victim { slot, key: self.key, bytes: self.bytes(), tenant: self.tenant }
    }
}

/// A buffer that was chosen for eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Victim<K> {
    pub(crate) slot: Slot,
    pub(crate) key: K,
    /// The bytes that it uses in the domain.
    pub(crate) bytes: u64,
    pub(super) tenant: u8,
}

pub(crate) type Victims<K> = SmallVec<[Victim<K>; 8]>;

fn units(bytes: u64) -> u32 {
    // CAST: saturated. Beyond a tebibyte the size makes no difference to the order.
    bytes.div_ceil(UNIT).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_its_own_bits() {
        assert_eq!(size_of::<Entry<u32>>(), 12);
        for &priority in Priority::ALL {
            for state in STATES {
                let mut entry = Entry::new((), 300, GroupId(7), priority, true);
                entry.set_state(state);
                for mark in [QUEUED, IN_BULK, BULK] {
                    entry.set(mark, true);
                    assert_eq!((entry.state(), entry.rank()), (state, 1 + priority.index()));
                    entry.set(mark, false);
                    assert!(!entry.has(QUEUED | IN_BULK | BULK | PURGEABLE));
                }
                entry.set(PURGEABLE, true);
                assert_eq!((entry.state(), entry.rank(), entry.bytes()), (state, 0, 512));
            }
        }
    }
}
