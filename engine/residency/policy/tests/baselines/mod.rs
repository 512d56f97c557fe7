//! Policies from the literature, to compare with: as published, but with bytes instead of pages of one size. They
//! are for replays alone: nothing bounds their memory or time, and they forget no buffer.

mod arc;
mod interval;
mod lirs;
mod s3_fifo;
mod sieve;

use std::collections::{BTreeMap, HashMap};

use super::{Lru, Policy, Slot};

/// Six policies, new. The last three names are those of the papers.
pub(super) fn baselines() -> [Box<dyn Policy>; 6] {
    [
        Box::new(Lru::new()),
        Box::new(s3_fifo::S3Fifo::default()),
        Box::new(arc::Arc::default()),
        Box::new(lirs::Lirs::default()),
        Box::new(sieve::Sieve::default()),
        Box::new(interval::Interval::default()),
    ]
}

/// Buffers in the order in which they were pushed, and their bytes.
#[derive(Debug, Default)]
struct Queue {
    next: u64,
    order: BTreeMap<u64, (Slot, u64)>,
    stamps: HashMap<Slot, u64>,
    bytes: u64,
}

impl Queue {
    /// Makes `slot` the newest.
    fn push(&mut self, slot: Slot, bytes: u64) {
        self.remove(slot);
        self.order.insert(self.next, (slot, bytes));
        self.stamps.insert(slot, self.next);
        self.next += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, slot: Slot) -> Option<u64> {
        let (_, bytes) = self.order.remove(&self.stamps.remove(&slot)?)?;
        self.bytes -= bytes;
        Some(bytes)
    }

    fn contains(&self, slot: Slot) -> bool {
        self.stamps.contains_key(&slot)
    }

    fn oldest(&self) -> Option<(Slot, u64)> {
        self.order.values().next().copied()
    }

    /// Removes the oldest while there are more than `most` bytes.
    fn trim(&mut self, most: u64) {
        while self.bytes > most {
            self.order.pop_first().into_iter().for_each(|(_, (slot, bytes))| {
                self.stamps.remove(&slot);
                self.bytes -= bytes;
            });
        }
    }
}
