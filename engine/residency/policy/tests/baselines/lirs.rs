//! LIRS: Jiang, Zhang, "LIRS: an efficient low inter-reference recency set replacement policy", 2002.

use std::collections::HashSet;

use super::{Policy, Queue, Slot};

/// The stack by recency, of which `low` are kept; other residents wait in a queue of a hundredth of the bytes.
#[derive(Debug, Default)]
pub(super) struct Lirs {
    capacity: u64,
    stack: Queue,
    low: HashSet<Slot>,
    low_bytes: u64,
    resident: Queue,
    /// In the stack and not resident: no more than twice the capacity.
    gone: Queue,
}

impl Lirs {
    /// Makes `slot` one of those that are kept, and others wait instead.
    fn raise(&mut self, slot: Slot, bytes: u64) {
        self.resident.remove(slot);
        self.stack.push(slot, bytes);
        if self.low.insert(slot) {
            self.low_bytes += bytes;
        }
        while self.low_bytes > self.capacity / 100 * 99 && self.low.len() > 1 {
            self.lower();
        }
        self.prune();
    }

    /// The last of the stack, which is one of those that are kept, waits from now on.
    fn lower(&mut self) {
        self.prune();
        if let Some((slot, bytes)) = self.stack.oldest() {
            self.stack.remove(slot);
            self.low.remove(&slot);
            self.low_bytes -= bytes;
            self.resident.push(slot, bytes);
        }
        self.prune();
    }

    /// The last of the stack is always one of those that are kept.
    fn prune(&mut self) {
        while let Some((slot, _)) = self.stack.oldest().filter(|(slot, _)| !self.low.contains(slot))
        {
            self.stack.remove(slot);
            self.gone.remove(slot);
        }
    }
}

impl Policy for Lirs {
    fn name(&self) -> &'static str {
        "LIRS"
    }

    fn capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    fn access(&mut self, slot: Slot, bytes: u64, resident: bool) {
        if !resident {
            return;
        }
        if self.low.contains(&slot) || self.stack.contains(slot) {
            self.raise(slot, bytes);
        } else {
            self.stack.push(slot, bytes);
            self.resident.push(slot, bytes);
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        let known = self.stack.contains(slot);
        self.gone.remove(slot);
        if known || self.low_bytes + bytes <= self.capacity / 100 * 99 {
            self.raise(slot, bytes);
        } else {
            self.stack.push(slot, bytes);
            self.resident.push(slot, bytes);
        }
    }

    fn leave(&mut self, slot: Slot) {
        if let Some(bytes) = self.resident.remove(slot).filter(|_| self.stack.contains(slot)) {
            self.gone.push(slot, bytes);
        }
        while self.gone.bytes > 2 * self.capacity {
            let Some((oldest, _)) = self.gone.oldest() else { break };
            self.gone.remove(oldest);
            self.stack.remove(oldest);
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut waiting: u64 = self.resident.bytes;
        while waiting < wanted && !self.low.is_empty() {
            self.lower();
            waiting = self.resident.bytes;
        }
        let mut missing = wanted;
        for &(slot, bytes) in self.resident.order.values() {
            if missing > 0 && !skip(slot) {
                into.push(slot);
                missing = missing.saturating_sub(bytes);
            }
        }
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
    }
}
