//! What is known of one who stands in the order of a place.

use super::policy::Slot;
use super::priority::Priority;
use super::recency::Victim;
use crate::memory::GroupId;

/// Twelve bytes, for a key of four: there may be a million.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    /// In units of [`UNIT`], rounded up.
    pub(super) units: u32,
    pub(super) group: GroupId,
    marks: u8,
    /// The how many-th who has the slot. It wraps: whoever is taken for somebody 256 before is parked for no
    /// reason, and asked later than its turn.
    pub(super) tenant: u8,
}

const STATE: u8 = 0b11;
const PRIORITY: u8 = 0b11 << PRIORITY_AT;
const PRIORITY_AT: u32 = 2;

/// Its content may be lost.
pub(super) const PURGEABLE: u8 = 1 << 4;
/// The slot is in the list of the parked ones; it stays there until its turn comes, whoever has it.
pub(super) const QUEUED: u8 = 1 << 5;
/// It is in an age group, and stands in that one's bulk, not by itself.
pub(super) const AGED: u8 = 1 << 6;
/// It is no buffer, but stands for those of an age group.
pub(super) const BULK: u8 = 1 << 7;

/// What all footprints are multiples of.
const UNIT: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody's.
    Vacant,
    /// It would like to be here, and is elsewhere.
    Away,
    /// It is here, and may be asked to leave.
    Here,
    /// It is here, and was found to be pinned.
    Parked,
}

const STATES: [State; 4] = [State::Vacant, State::Away, State::Here, State::Parked];

impl<K> Entry<K> {
    pub(super) fn new(key: K, bytes: u64, group: GroupId, priority: Priority, here: bool) -> Self {
        let state = if here { State::Here } else { State::Away };
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

    /// Which of the ranks it belongs to.
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

fn units(bytes: u64) -> u32 {
    // CAST: saturated. Beyond a tebibyte the order does not matter.
    bytes.div_ceil(UNIT).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_bits_of_its_own() {
        assert_eq!(size_of::<Entry<u32>>(), 12);
        for priority in Priority::ALL {
            for state in STATES {
                let mut entry = Entry::new((), 300, GroupId(7), priority, true);
                entry.set_state(state);
                for mark in [QUEUED, AGED, BULK] {
                    entry.set(mark, true);
                    assert_eq!((entry.state(), entry.rank()), (state, 1 + priority.index()));
                    entry.set(mark, false);
                    assert!(!entry.has(QUEUED | AGED | BULK | PURGEABLE));
                }
                entry.set(PURGEABLE, true);
                assert_eq!((entry.state(), entry.rank(), entry.bytes()), (state, 0, 512));
            }
        }
    }
}
