//! Backings: the bytes of one buffer, in exactly one domain.
//!
//! Kernel counterpart: `ttm_resource`.
#![expect(unsafe_code, reason = "zeroing the rest of a backing")]

use std::sync::Arc;

use super::allocation::Allocation;
use super::device_set::DeviceSet;
use super::domain_id::DomainId;
use super::group_account::GroupId;
use super::provider::Provider;
use super::scrub_map::ScrubMap;
use super::slab::Slab;

/// The state of a backing's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Zeros.
    Zeroed,
    /// Bytes of an earlier owner, or of a failed write. Must be scrubbed before they are read.
    Stale,
    /// As [`Content::Stale`], but for the parts that a map of the slab names, which hold bytes of this owner. The host
    /// alone has used it.
    Partial,
    /// Bytes of this owner.
    Valid,
}

/// The bytes of one buffer: a slot of a slab, or an allocation of its own, which is a slab of one slot.
///
/// Dropping it returns the memory for the next owner, which cannot read what is in it.
// Small, because every buffer has one.
#[derive(Debug)]
pub(crate) struct Backing {
    slab: Arc<Slab>,
    slot: u32,
    content: Content,
    /// The group that its bytes are charged to.
    group: GroupId,
    /// Whether they are still charged.
    charged: bool,
}

const _: () = assert!(size_of::<Option<Backing>>() <= 16, "there may be a million of them");

impl Backing {
    pub(super) fn slot(slab: Arc<Slab>, slot: u32, stale: bool) -> Self {
        Self { slab, slot, content: content(stale), group: GroupId::NONE, charged: true }
    }

    /// All of a slab that is not cut.
    pub(super) fn dedicated(slab: Arc<Slab>, stale: bool) -> Self {
        Self::slot(slab, 0, stale)
    }

    /// Imported memory from outside this engine, from byte `start` of the allocation on. Its bytes are valid.
    pub(crate) fn foreign(allocation: Arc<Allocation>, start: u64) -> Self {
        let (slab, group) = (Slab::foreign(allocation, start), GroupId::NONE);
        Self { slab, slot: 0, content: Content::Valid, group, charged: true }
    }

    /// Notes the group that was charged for it.
    pub(crate) fn charged_to(mut self, group: GroupId) -> Self {
        self.group = group;
        self
    }

    /// The group that its bytes are charged to.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// The allocation that the bytes lie in.
    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        &self.slab.allocation
    }

    /// Offset of the bytes in the allocation; a multiple of 256.
    pub(crate) fn offset(&self) -> u64 {
        self.slab.offset(self.slot)
    }

    /// Whether the allocation holds no other buffer.
    pub(crate) fn is_dedicated(&self) -> bool {
        self.slab.cut.is_none()
    }

    /// Whether these devices may use it without an import of a slab that is not theirs.
    pub(crate) fn suits(&self, sharers: DeviceSet) -> bool {
        self.is_dedicated() || self.allocation().sharers().covers(sharers)
    }

    /// How many bytes from [`Backing::offset`] on must be scrubbed, for a buffer of `size` bytes.
    ///
    /// An allocation of its own is exported as a whole, so the bytes beyond the buffer are scrubbed too. The rest
    /// of a slot is never read, and the rest of foreign memory is its exporter's.
    pub(crate) fn extent(&self, size: u64) -> u64 {
        let foreign = matches!(self.allocation().provider(), Provider::Foreign(_));
        if self.is_dedicated() && !foreign { self.allocation().size() } else { size }
    }

    /// The size class of its slot; `None` for an allocation of its own.
    pub(super) fn class(&self) -> Option<usize> {
        self.slab.cut.map(|cut| usize::from(cut.class))
    }

    /// Uncharges its bytes, if that was not done before.
    pub(super) fn uncharge(&mut self) {
        if std::mem::take(&mut self.charged) {
            let bytes = self.slab.slot_size;
            self.slab.allocation.domain().credit((bytes, self.group));
        }
    }

    /// Ends the owner's use of the bytes: the next owner finds zeros or stale bytes.
    pub(super) fn end_use(&mut self) {
        if self.content == Content::Partial {
            self.slab.scrubs.take(self.slot);
        }
        // A panic may have come between a write and the mark.
        self.content = content(self.content != Content::Zeroed || std::thread::panicking());
    }

    /// Bytes of its domain that it uses.
    pub(crate) fn footprint(&self) -> u64 {
        self.slab.slot_size
    }

    pub(crate) fn domain(&self) -> DomainId {
        self.allocation().provider().domain()
    }

    pub(crate) fn content(&self) -> Content {
        self.content
    }

    /// Marks the bytes as the owner's. The caller has written all of them, or zeroed the rest; of bytes that are scrubbed in
    /// parts, this zeroes the rest.
    pub(crate) fn make_valid(&mut self) {
        match self.content {
            Content::Partial => self.finish_scrub(),
            _ => self.content = Content::Valid,
        }
    }

    /// Marks the bytes as stale: they are scrubbed before the next use, that of another owner included.
    pub(crate) fn mark_stale(&mut self) {
        // An access of the host that is still open zeroes nothing later on.
        self.finish_scrub();
        self.content = Content::Stale;
    }

    /// The map by which the host zeroes stale bytes in parts, for a buffer of `size` bytes. `None` if the bytes are not
    /// stale, or are to be scrubbed as a whole: if they are few, or not in the host's caches. A new map is made only
    /// for the `first` access of the host.
    pub(crate) fn scrub_in_parts(&mut self, size: u64, first: bool) -> Option<Arc<ScrubMap>> {
        if self.content == Content::Partial {
            let map = self.slab.scrubs.get(self.slot);
            if map.is_none() {
                self.content = Content::Stale;
            }
            return map;
        }
        let suits = self.content == Content::Stale && size >= PARTS_FROM && first;
        if !suits || !self.allocation().is_coherent_and_fast_for_host() {
            return None;
        }
        // Without a mapping the whole is scrubbed, which reports the error if there is one.
        let base = self.allocation().host().ok().flatten()?;
        // CAST: mapped, so it fits the address space.
        // SAFETY: within the allocation, all of which is mapped.
        let start = unsafe { base.at(self.offset() as usize) };
        let map = Arc::new(ScrubMap::new(start, self.extent(size)));
        self.slab.scrubs.insert(self.slot, Arc::clone(&map));
        self.content = Content::Partial;
        Some(map)
    }

    /// How many bytes [`Backing::finish_scrub`] would zero.
    pub(crate) fn left_to_zero(&self) -> u64 {
        match self.content {
            Content::Partial => self.slab.scrubs.get(self.slot).map_or(0, |map| map.left()),
            _ => 0,
        }
    }

    /// What zeroes the parts that the host has not touched, if the bytes are scrubbed in parts: for a caller that releases
    /// the reservation meanwhile. [`Backing::finish_scrub`] then finds nothing left.
    pub(crate) fn rest(&self) -> Option<Rest> {
        let map = (self.content == Content::Partial).then(|| self.slab.scrubs.get(self.slot))??;
        Some(Rest { allocation: Arc::clone(self.allocation()), map })
    }

    /// Zeroes some of what the host has not touched, if the bytes are scrubbed in parts. Returns how many bytes these were. The
    /// reservation must be held; accesses of the host may be open.
    pub(crate) fn zero_some(&self) -> u64 {
        let Some(Rest { allocation, map }) = self.rest() else { return 0 };
        // SAFETY: the memory was mapped when the map was made, and stays so while the allocation lives.
        let zeroed = unsafe { map.zero_some() };
        allocation.note_zeroed(zeroed);
        zeroed
    }

    /// Zeroes the parts that the host has not touched, if the bytes are scrubbed in parts. This cannot fail, and takes
    /// the lock of the map. The reservation must be held; accesses of the host may be open. After a panic the bytes are
    /// still scrubbed in parts.
    pub(crate) fn finish_scrub(&mut self) {
        if self.content != Content::Partial {
            return;
        }
        let Some(map) = self.slab.scrubs.get(self.slot) else {
            // Without a map it is unknown what was zeroed.
            self.content = Content::Stale;
            return;
        };
        // SAFETY: the memory was mapped when the map was made, and stays so while the allocation lives.
        let zeroed = unsafe { map.finish() };
        self.slab.scrubs.take(self.slot);
        self.content = Content::Valid;
        self.allocation().note_zeroed(zeroed);
    }
}

/// The parts of a backing that the host has not touched.
#[derive(Debug)]
pub(crate) struct Rest {
    allocation: Arc<Allocation>,
    map: Arc<ScrubMap>,
}

impl Rest {
    /// Zeroes them, some at a time: an access of the host to others does not wait for all.
    ///
    /// # Safety
    ///
    /// The backing has no other owner before this returns.
    pub(crate) unsafe fn zero(&self) {
        // SAFETY: the memory was mapped when the map was made, and stays so while the allocation lives. By the caller's
        // contract it is still that of the map's backing.
        self.allocation.note_zeroed(unsafe { self.map.before_read(self.map.all()) });
    }
}

/// The size in bytes from which on a buffer is scrubbed in parts. Zeroing half as much takes one microsecond.
const PARTS_FROM: u64 = 128 << 10;

fn content(stale: bool) -> Content {
    if stale { Content::Stale } else { Content::Zeroed }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.end_use();
        match self.slab.cut {
            Some(cut) => {
                // Without its pool the engine is gone, and the slab is freed with its last backing.
                if let Some(pool) = self.slab.pool() {
                    pool.release_slot(cut, self.slot, self.content != Content::Zeroed);
                }
                self.uncharge();
            }
            None => {
                self.uncharge();
                if let Some(pool) = self.slab.pool()
                    && !self.allocation().is_external()
                {
                    pool.recycle(Arc::clone(&self.slab));
                }
            }
        }
    }
}
