//! Why buffers move. A new reason to move begins here.

use std::fmt;

/// Why a buffer moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MoveCause {
    /// The caller asked for it ([`crate::SharedBuffer::migrate`], [`crate::SharedBuffer::relocate`]).
    Asked,
    /// A device attached that could not reach the buffer in its domain.
    Reach,
    /// The buffer was exported to another process, which needs an allocation of its own instead of a slab; or its
    /// last export has ended, and it left that allocation.
    #[doc(alias = "HandedOut")]
    Exported,
    /// The buffer was evicted: to make room, or because the caller asked for it.
    Evicted,
    /// The buffer was used, and was restored to its preferred domain.
    #[doc(alias = "Returned")]
    Restored,
    /// The caller asked that it be in its preferred domain ([`crate::SharedBuffer::request_residency`],
    /// [`crate::Engine::restore`]).
    Requested,
    /// The device whose memory held the buffer is lost, and its clean copy became its backing.
    Promoted,
    /// The buffer was auto-migrated to the memory of a device that used it often from another domain
    /// ([`crate::ResidencyOptions::auto_migration`]).
    #[doc(alias = "Attracted")]
    AutoMigrated,
    /// The buffer was idle in a sparse block, which was emptied: by [`crate::Engine::compact`] or [`crate::Engine::trim`], or
    /// because its domain lacked memory.
    Compacted,
    /// The bytes of an image got other places, within its domain ([`crate::SharedImage::relayout`], also by itself).
    Rearranged,
}

impl MoveCause {
    /// The short name used in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Reach => "to be reached",
            Self::Exported => "handed out",
            Self::Evicted => "evicted",
            Self::Restored => "returned",
            Self::Requested => "requested",
            Self::Promoted => "promoted",
            Self::AutoMigrated => "attracted",
            Self::Compacted => "compacted",
            Self::Rearranged => "laid out anew",
        }
    }

    /// All causes, in order.
    pub const ALL: &[Self] = &[
        Self::Asked,
        Self::Reach,
        Self::Exported,
        Self::Evicted,
        Self::Restored,
        Self::Requested,
        Self::Promoted,
        Self::AutoMigrated,
        Self::Compacted,
        Self::Rearranged,
    ];
}

impl fmt::Display for MoveCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
