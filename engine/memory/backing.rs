//! Backings: the bytes of one buffer, in exactly one domain.
//!
//! Kernel counterpart: `ttm_resource`.

use std::sync::Arc;

use super::account::GroupId;
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

/// The bytes of one buffer: a slot of a slab, or an allocation of its own, which is a slab of one slot.
///
/// Dropping it gives the memory back for the next owner, who will not see what is in it.
// Kept small: every buffer has one.
#[derive(Debug)]
pub(crate) struct Backing {
    slab: Arc<Slab>,
    slot: u32,
    content: Content,
    /// On whose account its bytes are.
    group: GroupId,
}

const _: () = assert!(size_of::<Option<Backing>>() <= 16, "there may be a million of them");

impl Backing {
    pub(super) fn slot(slab: Arc<Slab>, slot: u32, stale: bool) -> Self {
        Self { slab, slot, content: content(stale), group: GroupId::NONE }
    }

    /// All of a slab that is whole.
    pub(super) fn dedicated(slab: Arc<Slab>, stale: bool) -> Self {
        Self::slot(slab, 0, stale)
    }

    /// A stranger's bytes, which are somebody's own.
    pub(crate) fn foreign(allocation: Arc<Allocation>) -> Self {
        let (slab, group) = (Slab::whole(allocation), GroupId::NONE);
        Self { slab, slot: 0, content: Content::Own, group }
    }

    /// The same, on the account of a group, which was charged for it.
    pub(crate) fn on_account_of(mut self, group: GroupId) -> Self {
        self.group = group;
        self
    }

    /// On whose account its bytes are.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// The allocation that the bytes lie in.
    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        &self.slab.allocation
    }

    /// Where in the allocation they begin, in bytes; a multiple of 256.
    pub(crate) fn offset(&self) -> u64 {
        self.slab.offset(self.slot)
    }

    /// Whether the allocation has no other buffer in it.
    pub(crate) fn is_dedicated(&self) -> bool {
        self.slab.cut.is_none()
    }

    /// How many bytes from [`Backing::offset`] on nobody else has, for a buffer of `size` bytes. What
    /// lies beyond the buffer in an allocation of its own goes out with its fd, so it is scrubbed too;
    /// the rest of a slot is seen by nobody.
    pub(crate) fn extent(&self, size: u64) -> u64 {
        if self.is_dedicated() { self.allocation().size() } else { size }
    }

    /// Bytes of its domain that it has in use.
    pub(crate) fn footprint(&self) -> u64 {
        self.slab.slot_size
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
}

fn content(stale: bool) -> Content {
    if stale { Content::Stale } else { Content::Zero }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let Slab { allocation, slot_size, cut } = &*self.slab;
        match cut {
            Some(cut) => {
                // Without its pool the engine is gone, and the slab goes with this.
                if let Some(pool) = cut.pool.upgrade() {
                    pool.release_slot(cut, self.slot, self.content != Content::Zero);
                }
                allocation.domain().credit((*slot_size, self.group));
            }
            None => {
                allocation.domain().credit((*slot_size, self.group));
                if let Some(pool) = allocation.pool()
                    && !allocation.has_escaped()
                {
                    pool.recycle(Arc::clone(&self.slab));
                }
            }
        }
    }
}
