//! Slabs: a part of a block cut into slots of one size, or a whole allocation as a single slot.
//!
//! Why (measured, BENCHMARKS.md): first touch of fresh memory costs 5 to 12 times the copy. A cycle of
//! create, export, import and free without slabs costs 26 µs, and fails at about 20,000 live fds. A slab is
//! exported and imported once, its pages stay allocated, and a slot costs a table look-up.

use std::sync::{Arc, Weak};

use super::allocation::Allocation;
use super::block::SpanAt;
use super::scrub_map::ScrubMaps;
use crate::observe::note_shared_write;

/// Takes unused memory back; implemented by the pool that the memory came from.
///
/// Declared here, so that slabs and backings need not know pools.
pub(super) trait Recycle: Send + Sync {
    /// Takes back a slot of a slab that is cut. `stale` says whether an owner's bytes may be in it.
    fn release_slot(&self, cut: Cut, slot: u32, stale: bool);

    /// Takes back a whole slab.
    fn recycle(&self, whole: Arc<Slab>);
}

/// An allocation, or a part of one that is cut into equal slots. The pool knows which of them are free ([`SlabSlots`]).
#[derive(Debug)]
pub(crate) struct Slab {
    pub(super) allocation: Arc<Allocation>,
    /// Bytes of its domain that one slot uses.
    pub(super) slot_size: u64,
    /// Where its first slot begins in the allocation.
    start: u64,
    /// The pool that it returns to; `None` for memory that was imported from outside.
    pool: Option<Weak<dyn Recycle>>,
    /// `None` if it is not cut.
    pub(super) cut: Option<Cut>,
    /// Those of its slots that are zeroed by parts.
    pub(super) scrubs: ScrubMaps,
}

/// The position of a slab that is cut, in its pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// The size class; there are fewer than 2^16.
    pub(super) class: u16,
    /// Position in the pool's list for the class.
    pub(super) index: u32,
    /// Where it is in its block.
    pub(super) span: SpanAt,
}

impl Slab {
    /// An allocation that a single buffer has all of.
    pub(super) fn whole(allocation: Arc<Allocation>, pool: Option<Weak<dyn Recycle>>) -> Arc<Self> {
        let slot_size = allocation.held();
        Arc::new(Self {
            allocation,
            slot_size,
            start: 0,
            pool,
            cut: None,
            scrubs: ScrubMaps::default(),
        })
    }

    /// Memory from outside this engine, of which a single buffer has the bytes from `start` on.
    pub(super) fn foreign(allocation: Arc<Allocation>, start: u64) -> Arc<Self> {
        Arc::new(Self {
            allocation,
            slot_size: 0,
            start,
            pool: None,
            cut: None,
            scrubs: ScrubMaps::default(),
        })
    }

    /// A part of a block, cut into slots of `slot_size` bytes.
    pub(super) fn cut(
        allocation: Arc<Allocation>,
        slot_size: u64,
        pool: Weak<dyn Recycle>,
        cut: Cut,
    ) -> Arc<Self> {
        Arc::new(Self {
            allocation,
            slot_size,
            start: cut.span.start,
            pool: Some(pool),
            cut: Some(cut),
            scrubs: ScrubMaps::default(),
        })
    }

    /// The pool that it returns to, while the engine is alive.
    pub(super) fn pool(&self) -> Option<Arc<dyn Recycle>> {
        note_shared_write();
        self.pool.as_ref()?.upgrade()
    }

    /// Offset in bytes of a slot.
    pub(super) fn offset(&self, slot: u32) -> u64 {
        self.start + u64::from(slot) * self.slot_size
    }
}

/// Which slots of a slab are free.
#[derive(Debug)]
pub(super) struct SlabSlots {
    pub(super) slab: Arc<Slab>,
    /// How many slots there are.
    total: u32,
    /// The first slot that this slab has not given out.
    fresh: u32,
    /// Whether an owner's bytes may be in those from `fresh` on.
    fresh_stale: bool,
    /// Slots that were returned and hold zeros.
    zeroed: Vec<u32>,
    /// Slots that were returned and hold an owner's bytes.
    stale: Vec<u32>,
}

/// An allocated slot.
pub(super) struct Taken {
    pub(super) slot: u32,
    /// Whether another owner's bytes may be in it.
    pub(super) stale: bool,
}

impl SlabSlots {
    /// The slots in `bytes` bytes. `stale` says whether an owner's bytes may be in them.
    pub(super) fn new(slab: Arc<Slab>, bytes: u64, stale: bool) -> Self {
        let total = bytes / slab.slot_size;
        // CAST: a slab has at most 64 MiB / 256 B = 2^18 slots.
        let (total, zeroed) = (total as u32, Vec::new());
        Self { slab, total, fresh: 0, fresh_stale: stale, zeroed, stale: Vec::new() }
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Bytes of all slots.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.total) * self.slab.slot_size
    }

    /// Takes a slot. Of those that hold zeros, and then of the others, the last one returned comes first, since it is most
    /// likely in a cache.
    pub(super) fn take(&mut self) -> Option<Taken> {
        if let Some(slot) = self.zeroed.pop() {
            return Some(Taken { slot, stale: false });
        }
        if let Some(slot) = self.stale.pop() {
            return Some(Taken { slot, stale: true });
        }
        let slot = self.fresh;
        if slot == self.total {
            return None;
        }
        self.fresh += 1;
        Some(Taken { slot, stale: self.fresh_stale })
    }

    /// Takes the slot returned last among those that hold an owner's bytes.
    pub(super) fn take_stale(&mut self) -> Option<u32> {
        self.stale.pop()
    }

    pub(super) fn give_back(&mut self, slot: u32, stale: bool) {
        debug_assert!(slot < self.fresh, "slot {slot} was never taken");
        let list = if stale { &mut self.stale } else { &mut self.zeroed };
        list.push(slot);
    }

    /// How many slots are in use.
    pub(super) fn used(&self) -> u32 {
        // CAST: no more entries than slots.
        self.fresh - (self.zeroed.len() + self.stale.len()) as u32
    }

    /// Whether an owner's bytes may be in its span, while all slots are free.
    pub(super) fn is_stale(&self) -> bool {
        // The rest of a page behind the last slot is as the slots were that were not given out.
        let rest =
            self.fresh < self.total || self.slab.cut.is_none_or(|cut| cut.span.len > self.bytes());
        !self.stale.is_empty() || (self.fresh_stale && rest)
    }

    pub(super) fn is_unused(&self) -> bool {
        self.used() == 0
    }
}
