//! Backings: the bytes of one buffer, in exactly one domain.
//!
//! Kernel counterpart: `ttm_resource`.

use std::sync::Arc;

use super::allocation::Allocation;
use super::domain::DomainId;
use super::slab::Slab;

/// Whose bytes are in a backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Zeros.
    Zero,
    /// Those of an earlier owner. Must be scrubbed before anybody sees them.
    Stale,
    /// Those of this owner.
    Own,
}

/// The bytes of one buffer: a slot of a slab, or an allocation of its own.
///
/// Dropping it gives the memory back for the next owner, who will not see what is in it.
#[derive(Debug)]
pub(crate) struct Backing {
    /// `None` only during drop.
    place: Option<Place>,
    content: Content,
}

#[derive(Debug)]
enum Place {
    Slot { slab: Arc<Slab>, slot: u32 },
    Dedicated(Arc<Allocation>),
}

impl Backing {
    pub(super) fn slot(slab: Arc<Slab>, slot: u32, stale: bool) -> Self {
        Self { place: Some(Place::Slot { slab, slot }), content: content(stale) }
    }

    pub(super) fn dedicated(allocation: Arc<Allocation>, stale: bool) -> Self {
        Self { place: Some(Place::Dedicated(allocation)), content: content(stale) }
    }

    /// A stranger's bytes, which are somebody's own.
    pub(crate) fn foreign(allocation: Arc<Allocation>) -> Self {
        Self { place: Some(Place::Dedicated(allocation)), content: Content::Own }
    }

    /// The allocation that the bytes lie in.
    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        match self.place() {
            Place::Slot { slab, .. } => &slab.allocation,
            Place::Dedicated(allocation) => allocation,
        }
    }

    /// Where in the allocation they begin, in bytes; a multiple of 256.
    pub(crate) fn offset(&self) -> u64 {
        match self.place() {
            Place::Slot { slab, slot } => slab.offset(*slot),
            Place::Dedicated(_) => 0,
        }
    }

    /// Whether the allocation has no other buffer in it.
    pub(crate) fn is_dedicated(&self) -> bool {
        matches!(self.place(), Place::Dedicated(_))
    }

    /// How many bytes from [`Backing::offset`] on nobody else has, for a buffer of `size` bytes. What
    /// lies beyond the buffer in an allocation of its own goes out with its fd, so it is scrubbed too;
    /// the rest of a slot is seen by nobody.
    pub(crate) fn extent(&self, size: u64) -> u64 {
        match self.place() {
            Place::Slot { .. } => size,
            Place::Dedicated(allocation) => allocation.size(),
        }
    }

    /// Bytes of its domain that it has in use.
    pub(crate) fn footprint(&self) -> u64 {
        match self.place() {
            Place::Slot { slab, .. } => slab.slot_size,
            Place::Dedicated(allocation) => allocation.held(),
        }
    }

    pub(crate) fn domain(&self) -> DomainId {
        self.allocation().provider().domain()
    }

    pub(crate) fn content(&self) -> Content {
        self.content
    }

    /// From now on the bytes are the owner's.
    pub(crate) fn own(&mut self) {
        self.content = Content::Own;
    }

    /// From now on the bytes are nobody's: they are scrubbed before the next use.
    pub(crate) fn disown(&mut self) {
        self.content = Content::Stale;
    }

    fn place(&self) -> &Place {
        match &self.place {
            Some(place) => place,
            None => unreachable!("taken only by drop"),
        }
    }
}

fn content(stale: bool) -> Content {
    if stale { Content::Stale } else { Content::Zero }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let stale = self.content != Content::Zero;
        match self.place.take() {
            Some(Place::Slot { slab, slot }) => {
                // Without its pool the engine is gone, and the slab goes with this.
                if let Some(pool) = slab.pool.upgrade() {
                    pool.release_slot(&slab, slot, stale);
                }
                slab.allocation.domain().credit(slab.slot_size);
            }
            Some(Place::Dedicated(allocation)) => {
                allocation.domain().credit(allocation.held());
                if let Some(pool) = allocation.pool()
                    && !allocation.has_escaped()
                {
                    pool.recycle(allocation);
                }
            }
            None => {}
        }
    }
}
