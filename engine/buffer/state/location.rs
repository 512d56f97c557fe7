//! Where a buffer's bytes are, or that it has none.
//!
//! Kernel counterpart: a `ttm_buffer_object` whose `resource` is `NULL` (`ttm_bo_pipeline_gutting`).

use std::sync::Arc;

use crate::memory::{Allocation, Backing, Content, DomainId, GroupId, Provider};

/// The backing of a buffer, or what remains of it after a purge.
///
/// Code that needs the memory asks for the [`Backing`] and handles its absence (`BufferInner::backing`
/// returns it as an error).
#[derive(Debug)]
pub(in crate::buffer) enum Location {
    /// The buffer has this backing.
    Resident(Backing),
    /// The content was discarded. The provider and the client group of the last backing remain.
    Purged(Provider, GroupId),
}

impl Location {
    /// The provider of its memory; after a purge, the last one.
    pub(in crate::buffer) fn provider(&self) -> Provider {
        match self {
            Self::Resident(backing) => backing.allocation().provider(),
            Self::Purged(provider, _) => *provider,
        }
    }

    /// The client group that it is charged to.
    pub(in crate::buffer) fn group(&self) -> GroupId {
        match self {
            Self::Resident(backing) => backing.group(),
            Self::Purged(_, group) => *group,
        }
    }

    /// Its domain; after a purge, the last one.
    pub(in crate::buffer) fn domain(&self) -> DomainId {
        self.provider().domain()
    }

    /// Bytes that it has in use in its domain.
    pub(in crate::buffer) fn footprint(&self) -> u64 {
        self.backing().map_or(0, Backing::footprint)
    }

    pub(in crate::buffer) fn backing(&self) -> Option<&Backing> {
        match self {
            Self::Resident(backing) => Some(backing),
            Self::Purged(..) => None,
        }
    }

    pub(in crate::buffer) fn backing_mut(&mut self) -> Option<&mut Backing> {
        match self {
            Self::Resident(backing) => Some(backing),
            Self::Purged(..) => None,
        }
    }

    /// Whether the backing holds valid bytes. Without them, every reader gets zeros.
    pub(in crate::buffer) fn has_content(&self) -> bool {
        let content = self.backing().map(Backing::content);
        matches!(content, Some(Content::Valid | Content::Partial))
    }

    /// Whether its bytes begin at `offset` of `allocation`.
    pub(in crate::buffer) fn is_at(&self, allocation: &Arc<Allocation>, offset: u64) -> bool {
        self.backing().is_some_and(|backing| {
            Arc::ptr_eq(backing.allocation(), allocation) && backing.offset() == offset
        })
    }

    /// Takes the backing out, and leaves [`Location::Purged`].
    pub(in crate::buffer) fn take(&mut self) -> Option<Backing> {
        let purged = Self::Purged(self.provider(), self.group());
        match std::mem::replace(self, purged) {
            Self::Resident(backing) => Some(backing),
            Self::Purged(..) => None,
        }
    }
}
