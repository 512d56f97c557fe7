//! Being told that a buffer moves.
//!
//! Kernel counterpart: `struct dma_buf_attach_ops` (`include/linux/dma-buf.h`). The kernel renamed the
//! callback from `move_notify` in 2026, because the old name told the event and hid the duty.

use std::cell::RefCell;
use std::fmt;

use crate::access::Access;
use crate::sync::{Fence, Usage};

/// Somebody who can cope with a buffer that moves: the other side of a dynamic attachment
/// ([`crate::SharedBuffer::attach_dynamic`]).
///
/// Three kinds are usual. One that *refaults* notes that its mapping is old, and maps again before its
/// next submission. One that *fences and resumes* also stops its queue, says with a fence when it has
/// stopped, and resumes on a new mapping. One that is *revocable* gives up for good when it is told of an
/// [`InvalidationCause::Revoke`].
///
/// It may not own a mapping or an attachment of its buffer: the buffer holds the importer.
#[doc(alias = "dma_buf_attach_ops")]
pub trait Importer: Send + Sync {
    /// The mappings of a generation are old: the next [`crate::Attachment::map`] shows the new place.
    ///
    /// Not "stop now": old mappings stay valid until they are dropped (unless the cause is
    /// [`InvalidationCause::Evict`] or [`InvalidationCause::Purge`]), and what a device still does with them
    /// is waited for, provided that it was entered as a fence: before, or here, with
    /// [`Invalidation::still_using`]. Called once per move and attachment, also for mappings that are not
    /// there (any more), as soon as the attachment is listed, and possibly for a move that then fails, after
    /// which the mapping is as good as before.
    ///
    /// If the cause is [`InvalidationCause::Revoke`] there is no new place: the buffer is taken away, every
    /// mapping of it is to be dropped in bounded time, and somebody waits for that. Called once per
    /// revocation and attachment.
    ///
    /// It should not panic. If it does, all others are told nevertheless, and then the panic goes on in
    /// whoever moves or revokes the buffer: that move has not happened, that revocation has begun.
    ///
    /// Locks: called under the buffer's reservation. It may not lock any reservation (no map, no drop of
    /// a mapping, no other operation on a buffer), and may not wait for a device.
    #[doc(alias = "move_notify")]
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>);

    /// Whether the buffer may live in another device's own memory while this one is attached. The
    /// importer offers; what the route between the two devices was proved to do decides.
    ///
    /// Locks: may be called under the reservation, any number of times; always give the same answer.
    fn allow_peer2peer(&self) -> bool {
        true
    }
}

/// Why an [`Importer`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidationCause {
    /// The buffer moves: map it again to see the new place.
    Move,
    /// The buffer is evicted, because its place is needed: as for a move, but mappings of the old place do not
    /// keep that. Raw handles of theirs may be used by nothing but work that was entered as a fence, before
    /// or by [`Invalidation::still_using`]; everything that goes through peerbuf is refused anyway. This
    /// is the kernel's rule for every move.
    Evict,
    /// The buffer loses its content, because its place is needed and it may be lost: as for
    /// [`InvalidationCause::Evict`], but there is no new place to map until somebody renews the buffer
    /// ([`crate::SharedBuffer::renew`]), and then it holds zeros.
    Purge,
    /// The buffer is revoked ([`crate::SharedBuffer::revoke`]): drop every mapping of it.
    Revoke,
}

/// What an [`Importer`] is told.
pub struct Invalidation<'a> {
    pub(in crate::buffer) generation: u32,
    pub(in crate::buffer) cause: InvalidationCause,
    pub(in crate::buffer) fences: &'a RefCell<Vec<(Usage, Fence)>>,
}

impl Invalidation<'_> {
    /// The generation whose mappings are old.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Why they are.
    pub fn cause(&self) -> InvalidationCause {
        self.cause
    }

    /// Says that a device is still using a mapping of it; the move or the revocation waits for `fence`.
    pub fn still_using(&self, access: Access, fence: Fence) {
        self.fences.borrow_mut().push((Usage::from(access), fence));
    }
}

impl fmt::Debug for Invalidation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation")
            .field("generation", &self.generation)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}
