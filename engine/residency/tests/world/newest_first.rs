//! The worst policy: it evicts the most recently used buffer first.
//!
//! Whatever must be right with every policy must be right with this one.

use crate::residency::policy::{Policy, Slot};

#[derive(Debug, Default)]
struct NewestFirst(Vec<(Slot, u64)>);

pub(in crate::residency::tests) fn newest_first() -> Box<dyn Policy> {
    Box::new(NewestFirst::default())
}

impl Policy for NewestFirst {
    fn name(&self) -> &'static str {
        "newest first"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, bytes: u64, resident: bool) {
        if resident && self.0.iter().any(|(listed, _)| *listed == slot) {
            self.admit(slot, bytes);
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.leave(slot);
        self.0.push((slot, bytes));
    }

    fn leave(&mut self, slot: Slot) {
        self.0.retain(|(listed, _)| *listed != slot);
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        for &(slot, bytes) in self.0.iter().rev().filter(|(slot, _)| !skip(*slot)) {
            if missing == 0 {
                return;
            }
            into.push(slot);
            missing = missing.saturating_sub(bytes);
        }
    }

    fn footprint(&self) -> usize {
        self.0.capacity() * size_of::<(Slot, u64)>()
    }
}
