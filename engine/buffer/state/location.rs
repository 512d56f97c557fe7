//! Where a buffer's bytes are, or that there are none any more.
//!
//! Kernel counterpart: a `ttm_buffer_object` whose `resource` is `NULL` (`ttm_bo_pipeline_gutting`).

use std::sync::Arc;

use crate::memory::{Allocation, Backing, Content, DomainId, GroupId, Provider};

/// Where a buffer is.
///
/// Whoever wants the memory asks for a [`Backing`], and has to cope with there being none
/// (`BufferInner::backing` says it with an error).
#[derive(Debug)]
pub(in crate::buffer) enum Location {
    /// It has its bytes here.
    Resident(Backing),
    /// Its content was purged; who provided the memory then, and on whose account.
    Purged(Provider, GroupId),
}

impl Location {
    /// Who provides its memory, or did last.
    pub(in crate::buffer) fn provider(&self) -> Provider {
        match self {
            Self::Resident(backing) => backing.allocation().provider(),
            Self::Purged(provider, _) => *provider,
        }
    }

    /// On whose account it is.
    pub(in crate::buffer) fn group(&self) -> GroupId {
        match self {
            Self::Resident(backing) => backing.group(),
            Self::Purged(_, group) => *group,
        }
    }

    /// Where it is, or was last.
    pub(in crate::buffer) fn domain(&self) -> DomainId {
        self.provider().domain()
    }

    /// Bytes of its domain that it has in use.
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

    /// Whether bytes of the buffer's own are there. Others are zeros to whoever looks.
    pub(in crate::buffer) fn has_content(&self) -> bool {
        self.backing().is_some_and(|backing| backing.content() == Content::Valid)
    }

    /// Whether its bytes begin there.
    pub(in crate::buffer) fn is_at(&self, allocation: &Arc<Allocation>, offset: u64) -> bool {
        self.backing().is_some_and(|backing| {
            Arc::ptr_eq(backing.allocation(), allocation) && backing.offset() == offset
        })
    }

    /// Takes the bytes out.
    pub(in crate::buffer) fn take(&mut self) -> Option<Backing> {
        let nowhere = Self::Purged(self.provider(), self.group());
        match std::mem::replace(self, nowhere) {
            Self::Resident(backing) => Some(backing),
            Self::Purged(..) => None,
        }
    }
}
