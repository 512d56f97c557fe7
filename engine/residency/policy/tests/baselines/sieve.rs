//! SIEVE: Zhang et al., "SIEVE is simpler than LRU", 2024.

use std::collections::HashSet;

use super::{Policy, Queue, Slot};

/// A queue by arrival, and a hand that moves towards the newest and keeps its place.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    queue: Queue,
    visited: HashSet<Slot>,
    hand: u64,
}

impl Policy for Sieve {
    fn name(&self) -> &'static str {
        "SIEVE"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, _: u64, resident: bool) {
        if resident {
            self.visited.insert(slot);
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.queue.push(slot, bytes);
    }

    fn leave(&mut self, slot: Slot) {
        self.queue.remove(slot);
        self.visited.remove(&slot);
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut left = 2 * self.queue.order.len();
        while missing > 0 && left > 0 {
            left -= 1;
            let Some((&stamp, &(slot, bytes))) = self.queue.order.range(self.hand..).next() else {
                self.hand = 0;
                continue;
            };
            self.hand = stamp + 1;
            if !self.visited.remove(&slot) && !into.contains(&slot) && !skip(slot) {
                into.push(slot);
                missing = missing.saturating_sub(bytes);
            }
        }
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
    }
}
