//! Slabs: one allocation cut into slots of one size. One that is not cut is a slab of one slot.
//!
//! Why (measured, BENCHMARKS.md): first touch of fresh memory costs 5 to 12 times the copy; a cycle of
//! create, export, import and free by hand costs 26 µs and ends at about 20,000 live fds. A slab is
//! exported and imported once, stays warm, and a slot costs a table look-up.

use std::sync::{Arc, Weak};

use super::allocation::Allocation;
use super::pool::Pool;

/// An allocation, whole or cut into equal slots. Which of them are free is known to the pool
/// ([`SlabSlots`]).
#[derive(Debug)]
pub(crate) struct Slab {
    pub(super) allocation: Arc<Allocation>,
    /// Bytes of its domain that one slot has in use.
    pub(super) slot_size: u64,
    /// `None` if it is whole.
    pub(super) cut: Option<Cut>,
}

/// Where a slab that is cut belongs.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) class: usize,
    /// Position in the pool's list for the class.
    pub(super) index: usize,
    pub(super) pool: Weak<Pool>,
}

impl Slab {
    /// One that a single buffer has all of.
    pub(super) fn whole(allocation: Arc<Allocation>) -> Arc<Self> {
        let slot_size = allocation.held();
        Arc::new(Self { allocation, slot_size, cut: None })
    }

    /// Offset in bytes of a slot.
    pub(super) fn offset(&self, slot: u32) -> u64 {
        u64::from(slot) * self.slot_size
    }
}

/// Which slots of a slab are free.
#[derive(Debug)]
pub(super) struct SlabSlots {
    pub(super) slab: Arc<Slab>,
    /// How many slots there are.
    total: u32,
    /// Slots from here on were never used.
    fresh: u32,
    /// Slots that were used and given back, with a flag for those that hold old bytes.
    recycled: Vec<u32>,
}

const STALE: u32 = 1 << 31;

/// A slot that was taken.
pub(super) struct Taken {
    pub(super) slot: u32,
    /// Whether another owner's bytes may be in it.
    pub(super) stale: bool,
}

impl SlabSlots {
    pub(super) fn new(slab: Arc<Slab>) -> Self {
        let total = slab.allocation.size() / slab.slot_size;
        // CAST: a slab has at most 64 MiB / 256 B = 2^18 slots.
        Self { slab, total: total as u32, fresh: 0, recycled: Vec::new() }
    }

    /// Takes a slot, the last one given back first: it is the warmest.
    pub(super) fn take(&mut self) -> Option<Taken> {
        if let Some(entry) = self.recycled.pop() {
            return Some(Taken { slot: entry & !STALE, stale: entry & STALE != 0 });
        }
        let slot = self.fresh;
        if slot == self.total {
            return None;
        }
        self.fresh += 1;
        Some(Taken { slot, stale: !self.slab.allocation.is_zeroed() })
    }

    pub(super) fn give_back(&mut self, slot: u32, stale: bool) {
        debug_assert!(slot < self.fresh, "slot {slot} was never taken");
        self.recycled.push(if stale { slot | STALE } else { slot });
    }

    pub(super) fn is_full(&self) -> bool {
        self.fresh == self.total && self.recycled.is_empty()
    }

    pub(super) fn is_unused(&self) -> bool {
        // CAST: no more entries than slots.
        self.recycled.len() as u32 == self.fresh
    }
}
