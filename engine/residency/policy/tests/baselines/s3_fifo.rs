//! S3-FIFO: Yang et al., "FIFO queues are all you need for cache eviction", 2023.

use std::collections::HashMap;

use super::{Policy, Queue, Slot};

/// A small queue of a tenth of the bytes, a main one, and a ghost of what the small one evicted.
#[derive(Debug, Default)]
pub(super) struct S3Fifo {
    capacity: u64,
    small: Queue,
    main: Queue,
    ghost: Queue,
    uses: HashMap<Slot, u32>,
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "S3-FIFO"
    }

    fn capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    fn access(&mut self, slot: Slot, _: u64, resident: bool) {
        if resident {
            let uses = self.uses.entry(slot).or_default();
            *uses = (*uses + 1).min(3);
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.uses.insert(slot, 0);
        if self.ghost.remove(slot).is_some() {
            self.main.push(slot, bytes);
        } else {
            self.small.push(slot, bytes);
        }
    }

    fn leave(&mut self, slot: Slot) {
        self.small.remove(slot);
        self.main.remove(slot);
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut left = 5 * (self.small.order.len() + self.main.order.len());
        while missing > 0 && left > 0 {
            left -= 1;
            let from_small = self.small.bytes > self.capacity / 10 || self.main.order.is_empty();
            let queue = if from_small { &self.small } else { &self.main };
            let Some((slot, bytes)) = queue.oldest() else {
                continue;
            };
            let uses = self.uses.entry(slot).or_default();
            let kept = if from_small { *uses > 1 } else { *uses > 0 };
            if kept || skip(slot) {
                *uses = if from_small { 0 } else { uses.saturating_sub(1) };
                self.small.remove(slot);
                self.main.push(slot, bytes);
                continue;
            }
            self.leave(slot);
            if from_small {
                self.ghost.push(slot, bytes);
                self.ghost.trim(self.capacity / 10 * 9);
            }
            into.push(slot);
            missing = missing.saturating_sub(bytes);
        }
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
    }
}
