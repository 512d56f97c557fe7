//! ARC: Megiddo, Modha, "ARC: a self-tuning, low overhead replacement cache", 2003.

use super::{Policy, Queue, Slot};

/// Used once and used again, each with a ghost; `target` is how much of the bytes those used once should have.
#[derive(Debug, Default)]
pub(super) struct Arc {
    capacity: u64,
    target: u64,
    once: Queue,
    again: Queue,
    once_ghost: Queue,
    again_ghost: Queue,
    /// The buffer of the last miss was in one of the ghosts; in the second one.
    known: bool,
    was_again: bool,
}

impl Policy for Arc {
    fn name(&self) -> &'static str {
        "ARC"
    }

    fn capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    fn access(&mut self, slot: Slot, bytes: u64, resident: bool) {
        if resident {
            self.once.remove(slot);
            self.again.push(slot, bytes);
            return;
        }
        let (first, second) = (self.once_ghost.bytes, self.again_ghost.bytes);
        // The paper's steps of `max(1, second / first)` pages, in bytes.
        let step = |many: u64, few: u64| (many / few.max(1)).max(1).saturating_mul(bytes);
        let was_once = self.once_ghost.remove(slot).is_some();
        self.was_again = self.again_ghost.remove(slot).is_some();
        self.known = was_once || self.was_again;
        if was_once {
            self.target = self.target.saturating_add(step(second, first)).min(self.capacity);
        } else if self.was_again {
            self.target = self.target.saturating_sub(step(first, second));
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        if self.known {
            self.again.push(slot, bytes);
        } else {
            self.once.push(slot, bytes);
            self.once_ghost.trim(self.capacity.saturating_sub(self.once.bytes));
        }
        let rest = self.once.bytes + self.again.bytes + self.once_ghost.bytes;
        self.again_ghost.trim((2 * self.capacity).saturating_sub(rest));
    }

    fn leave(&mut self, slot: Slot) {
        self.once.remove(slot);
        self.again.remove(slot);
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut left = self.once.order.len() + self.again.order.len();
        while missing > 0 && left > 0 {
            left -= 1;
            let at_target = self.was_again && self.once.bytes == self.target;
            let over = self.once.bytes > self.target || at_target;
            let from_once = !self.once.order.is_empty() && (over || self.again.order.is_empty());
            let (queue, ghost) = if from_once {
                (&mut self.once, &mut self.once_ghost)
            } else {
                (&mut self.again, &mut self.again_ghost)
            };
            let Some((slot, bytes)) = queue.oldest() else {
                continue;
            };
            queue.remove(slot);
            if skip(slot) {
                queue.push(slot, bytes);
                continue;
            }
            ghost.push(slot, bytes);
            into.push(slot);
            missing = missing.saturating_sub(bytes);
        }
    }

    fn footprint(&self) -> usize {
        size_of::<Self>()
    }
}
