//! Second chance: who was used since the hand came by last is passed over once.

use super::list::List;
use super::{Policy, Size, Slot, grow};

/// Evicts in order of arrival, but passes over whoever was used since it looked at them last.
///
/// Close to [`Lru`](super::Lru), and a use costs one store.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The hand is at the oldest.
    ring: List,
    used: Vec<bool>,
}

impl Clock {
    /// One that knows nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self { ring: List::new(), used: Vec::new() }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, _: u64, _: bool) {
        if let Some(used) = self.used.get_mut(slot.index()) {
            *used = true;
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.leave(slot);
        grow(&mut self.used, slot.index());
        self.used[slot.index()] = false;
        self.ring.push(slot, Size::new(bytes));
    }

    fn leave(&mut self, slot: Slot) {
        if self.ring.contains(slot) {
            self.ring.remove(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut next = self.ring.oldest();
        while let Some(slot) = next.filter(|_| missing > 0) {
            next = self.ring.newer(slot);
            if skip(slot) {
                continue;
            }
            let used = &mut self.used[slot.index()];
            if *used {
                // It comes up again in this walk if the others are not enough.
                *used = false;
                self.ring.touch(slot);
                next = next.or(Some(slot));
            } else {
                into.push(slot);
                missing = missing.saturating_sub(self.ring.bytes(slot));
            }
        }
    }

    fn footprint(&self) -> usize {
        self.ring.footprint() + size_of::<Vec<bool>>() + self.used.capacity()
    }
}
