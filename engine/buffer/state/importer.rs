//! How the other side of a dynamic attachment is notified of moves.
//!
//! Kernel counterpart: `struct dma_buf_attach_ops` (`include/linux/dma-buf.h`). The kernel renamed the
//! callback from `move_notify` in 2026, because the old name named the event and not the duty.

use std::cell::RefCell;
use std::fmt;

use crate::access::Access;
use crate::sync::{Fence, Usage};

/// The other side of a dynamic attachment ([`crate::SharedBuffer::attach_dynamic`]): it lets the buffer move,
/// and is notified of each move.
///
/// Three kinds are usual:
///
/// - one that *refaults* notes that its mapping is stale, and maps again before its next submission;
/// - one that *fences and resumes* also stops its queue, reports with a fence when it has stopped, and
///   resumes with a new mapping;
/// - one that is *revocable* ends its use for good on an [`InvalidationCause::Revoke`].
///
/// An importer must not own a mapping or an attachment of its buffer, because the buffer owns the importer.
#[doc(alias = "dma_buf_attach_ops")]
pub trait Importer: Send + Sync {
    /// Is called when the mappings of a generation become stale: the next [`crate::Attachment::map`] shows
    /// the new backing.
    ///
    /// It is called once per move and attachment, as soon as the attachment is listed, even if the attachment
    /// has no mappings. The move may still fail afterwards; then the mappings are as good as before.
    ///
    /// This is not an order to stop. Stale mappings stay valid until they are dropped, unless the cause is
    /// [`InvalidationCause::Evict`] or [`InvalidationCause::Purge`]. The move waits for work that still uses
    /// them if the work was added as a fence: before, or here with [`Invalidation::add_fence`].
    ///
    /// With [`InvalidationCause::Revoke`] there is no new backing: every mapping must be dropped within a
    /// bounded time, for which the revocation waits. This is called once per revocation and attachment.
    ///
    /// An implementation should not panic. If one does, the other importers are notified nevertheless. Then
    /// the panic continues in the caller of the move or the revocation. That move has not happened; that
    /// revocation has begun.
    ///
    /// Locks: called under the buffer's reservation. It may not lock any reservation (no map, no other operation on
    /// a buffer): that panics. It may drop mappings, attachments, pins and open accesses, whose drops wait for no
    /// lock. It may not wait for a device.
    #[doc(alias = "move_notify")]
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>);

    /// Whether the buffer may be in another device's own memory while this importer is attached. This is an
    /// offer: the proved route between the two devices decides.
    ///
    /// Locks: may be called under the reservation, any number of times; it must always return the same
    /// answer.
    fn allow_peer2peer(&self) -> bool {
        true
    }
}

/// Why an [`Importer`] is notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidationCause {
    /// The buffer moves. Map it again to see the new backing.
    Move,
    /// The buffer is evicted because its memory is needed. As for a move, but mappings of the old backing do
    /// not keep its memory.
    ///
    /// Only work that was added as a fence, before or by [`Invalidation::add_fence`], may use their raw
    /// handles; peerbuf refuses all other uses. This is the kernel's rule for every move.
    Evict,
    /// The content is discarded because the memory is needed. As for [`InvalidationCause::Evict`], but there
    /// is no new backing to map until [`crate::SharedBuffer::repopulate`] is called; then the buffer holds zeros.
    Purge,
    /// The buffer is revoked ([`crate::SharedBuffer::revoke`]). Drop every mapping of it.
    Revoke,
}

/// The notification of an [`Importer`].
pub struct Invalidation<'a> {
    pub(in crate::buffer) buffer: u64,
    pub(in crate::buffer) generation: u32,
    pub(in crate::buffer) cause: InvalidationCause,
    pub(in crate::buffer) fences: &'a RefCell<Vec<(Usage, Fence)>>,
}

impl Invalidation<'_> {
    /// The number of the buffer ([`crate::SharedBuffer::id`]). One importer can serve many buffers.
    ///
    /// There is no handle here: the buffer is locked during the call.
    pub fn buffer_id(&self) -> u64 {
        self.buffer
    }

    /// The generation whose mappings become stale.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The reason.
    pub fn cause(&self) -> InvalidationCause {
        self.cause
    }

    /// Adds a fence of work that still uses a mapping of this generation. The move or the revocation waits
    /// for it.
    #[doc(alias = "still_using")]
    pub fn add_fence(&self, access: Access, fence: Fence) {
        self.fences.borrow_mut().push((Usage::from(access), fence));
    }
}

impl fmt::Debug for Invalidation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation")
            .field("buffer", &self.buffer)
            .field("generation", &self.generation)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}
