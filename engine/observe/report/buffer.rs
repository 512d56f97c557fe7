//! The report of one buffer: its state and its users.

use std::borrow::Cow;

use crate::device::DeviceId;
use crate::memory::{DomainId, Provider};
use crate::sync::Usage;

/// A buffer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BufferReport {
    /// Its number. Those that one thread creates ascend; some numbers are never given. Numbers are never reused.
    pub id: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// The domain where it is; if it is purged, where it was.
    pub domain: DomainId,
    /// Bytes in use by it there: a slot, or an allocation of its own. 0 if it is purged.
    pub footprint: u64,
    /// Its preferred domain.
    #[doc(alias = "wanted")]
    pub preferred: DomainId,
    /// The domain of its clean copy, and the bytes in use by that.
    pub clean_copy: Option<(DomainId, u64)>,
    /// The provider of its memory; if it is purged, of the memory that it had.
    pub provider: Provider,
    /// Its home device.
    pub home: DeviceId,
    /// How often it has moved.
    pub generation: u32,
    /// Whether it is revoked: all access is denied ([`crate::SharedBuffer::revoke`]).
    pub revoked: bool,
    /// Whether it is purged: its content was discarded, and it has no memory until it is renewed
    /// ([`crate::SharedBuffer::is_purged`]).
    pub purged: bool,
    /// The write or move that failed and left its content undefined
    /// ([`crate::SharedBuffer::is_poisoned`]).
    pub poisoned: Option<String>,
    /// Whether a move waits for users of the old backing.
    pub moving: bool,
    /// Whether it was imported from an external fd.
    pub imported: bool,
    /// Live exports to external users. Each is a pin as well.
    #[doc(alias = "handed_out")]
    pub exports: u32,
    /// Whether an external user still knows its memory although no export lives: the last one has ended, and the
    /// buffer has not moved since. It moves before its next use, unless it is kept in place then.
    pub known_outside: bool,
    /// Live accesses by the host, and those that an application is submitting.
    pub host_accesses: u32,
    /// The pins that keep it where it is, with their reasons.
    pub pins: Vec<PinReport>,
    /// The fences that have not signalled.
    pub fences: Vec<FenceReport>,
    /// The attachments.
    pub attachments: Vec<AttachmentReport>,
    /// The backings that it has left and that are still mapped, oldest first.
    pub ghosts: Vec<GhostReport>,
}

/// The pins of one attachment for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinReport {
    /// The device that pinned the buffer; `None` for an export.
    pub device: Option<DeviceId>,
    /// The reason. [`PinReport::EXPORTED`] for an export.
    pub reason: Cow<'static, str>,
    /// The number of pins. Pins nest.
    pub count: u64,
    /// Bytes that each pin keeps in place.
    pub bytes: u64,
}

impl PinReport {
    /// The reason of pins that are [`crate::ForeignExport`]s.
    #[doc(alias = "HANDED_OUT")]
    pub const EXPORTED: &'static str = "handed out";
}

/// A fence that has not signalled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FenceReport {
    /// What the work behind the fence does to the buffer.
    pub usage: Usage,
    /// The device that does the work; `None` for the host.
    pub device: Option<DeviceId>,
    /// The work, in words.
    pub on: String,
}

/// An attachment of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentReport {
    /// The device.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// Whether the [`crate::Attachment`] is alive. If not, only its mappings keep the entry.
    pub attached: bool,
    /// Whether it is notified when the buffer moves.
    pub dynamic: bool,
    /// Whether it accepts another device's own memory.
    pub peer_to_peer: bool,
    /// Live mappings of the current generation.
    pub mapped: u32,
    /// Live mappings of older generations by its device, through any attachment.
    /// [`BufferReport::ghosts`] lists and counts them by generation.
    pub mapped_before: u32,
}

/// A backing that the buffer has left and that is still mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GhostReport {
    /// The generation of those mappings.
    pub generation: u32,
    /// The domain of the backing.
    pub domain: DomainId,
    /// Bytes in use by it. 0 if the buffer was evicted: the memory may belong to another buffer by now.
    pub bytes: u64,
    /// The number of mappings of each device.
    pub mapped: Vec<(DeviceId, u32)>,
}

impl BufferReport {
    /// The number of live mappings, of all generations.
    pub fn mappings(&self) -> u64 {
        let current = self.attachments.iter().map(|attachment| attachment.mapped);
        let old = self.ghosts.iter().flat_map(|ghost| &ghost.mapped).map(|(_, mapped)| *mapped);
        current.chain(old).map(u64::from).sum()
    }
}
