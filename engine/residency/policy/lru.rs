//! Least recently used first.

use super::interface::{Policy, Slot};
use super::list::List;
use super::size::Size;

/// Evicts the least recently used buffer, as the kernel does.
///
/// It is good where a buffer that was used is used again soon. In a frame loop over a little more than fits, it
/// evicts every buffer just before its next use.
#[derive(Clone, Debug)]
pub struct Lru(List);

/// A boxed [`Lru`]: the policy of system memory.
pub(crate) fn lru() -> Box<dyn Policy> {
    Box::new(Lru::new())
}

impl Lru {
    /// A policy without buffers.
    #[must_use]
    pub fn new() -> Self {
        Self(List::new())
    }
}

impl Default for Lru {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Lru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn capacity(&mut self, _: u64) {}

    fn access(&mut self, slot: Slot, _: u64, _: bool) {
        if self.0.contains(slot) {
            self.0.touch(slot);
        }
    }

    fn admit(&mut self, slot: Slot, bytes: u64) {
        self.leave(slot);
        self.0.push(slot, Size::new(bytes));
    }

    fn leave(&mut self, slot: Slot) {
        if self.0.contains(slot) {
            self.0.remove(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.leave(slot);
    }

    fn victims(&mut self, wanted: u64, skip: &dyn Fn(Slot) -> bool, into: &mut Vec<Slot>) {
        let mut missing = wanted;
        let mut next = self.0.oldest();
        while let Some(slot) = next.filter(|_| missing > 0) {
            if !skip(slot) {
                into.push(slot);
                missing = missing.saturating_sub(self.0.bytes(slot));
            }
            next = self.0.newer(slot);
        }
    }

    fn footprint(&self) -> usize {
        self.0.footprint()
    }
}
