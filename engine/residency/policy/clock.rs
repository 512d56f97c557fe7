//! Second chance: a buffer that was used since the hand passed it last is passed over once.

use super::interface::{Policy, Slot};
use super::list::List;
use super::size::{Size, grow};

/// Evicts in order of arrival, but passes once over each buffer that was used since the last pass.
///
/// The choice is close to that of [`Lru`](super::Lru), and a use costs only one store.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The hand is at the oldest buffer.
    ring: List,
    used: Vec<bool>,
}

impl Clock {
    /// A policy without buffers.
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
                // This walk reaches it again if the other buffers are not enough.
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
