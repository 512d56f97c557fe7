//! Routes by name, and why a route is not used: plain data.
//!
//! This file imports nothing but files that hold plain ids, so that [`crate::Error`] can carry a [`Refusal`].

use std::fmt;

use crate::device::{HandleType, Uuid};
use crate::memory::DomainKind;

/// How two devices share bytes, or how bytes get from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Route {
    /// Both sides are the same device.
    Local,
    /// The first device exports its memory as a dma-buf; the second imports it.
    DmaBuf,
    /// The first device exports its memory as an opaque fd; the second imports it.
    OpaqueFd,
    /// Both devices import a dma-buf from a dma-heap, or its mapping.
    DmaHeap,
    /// Both devices import a dma-buf from udmabuf, or its mapping.
    Udmabuf,
    /// The first device exports host-visible memory as a dma-buf.
    HostVisibleDmaBuf,
    /// The first device exports host-visible memory as an opaque fd.
    HostVisibleOpaqueFd,
    /// Both devices import the mapping of a memfd.
    Memfd,
    /// Both devices import private anonymous pages.
    Anonymous,
    /// The devices share no memory; bytes are copied through private staging memory of each.
    Staged,
}

impl Route {
    /// All routes between two devices, best first (ARCHITECTURE.md, "Where memory comes from").
    pub const LADDER: &[Self] = &[
        Self::DmaBuf,
        Self::OpaqueFd,
        Self::DmaHeap,
        Self::Udmabuf,
        Self::HostVisibleDmaBuf,
        Self::HostVisibleOpaqueFd,
        Self::Memfd,
        Self::Anonymous,
        Self::Staged,
    ];

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::DmaBuf => "dma_buf",
            Self::OpaqueFd => "opaque_fd",
            Self::DmaHeap => "dma_heap",
            Self::Udmabuf => "udmabuf",
            Self::HostVisibleDmaBuf => "host_visible_dma_buf",
            Self::HostVisibleOpaqueFd => "host_visible_opaque_fd",
            Self::Memfd => "memfd",
            Self::Anonymous => "anonymous",
            Self::Staged => "staged",
        }
    }

    /// Whether both devices access the same bytes, without a copy.
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::Staged)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A route that was tried or considered, and why it is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The route.
    pub route: Route,
    /// Why it is not used.
    pub reason: RefusalReason,
}

impl Refusal {
    /// States why a route is not used. peerbuf does so itself; programs need it for tests of their own.
    pub fn new(route: Route, reason: RefusalReason) -> Self {
        Self { route, reason }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.route, self.reason)
    }
}

/// One of the two devices of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The device that the route starts from: the exporter, where there is one.
    First,
    /// The device that the route leads to.
    Second,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

/// Why a route is not used.
///
/// Devices are named by their side and not by their name: what is known of a pair holds for every opening of
/// the same two adapters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The first device's driver reports that it cannot export this handle type.
    #[error("the first device does not export {0}")]
    NotExportable(HandleType),
    /// A driver reports that it cannot import this handle type.
    #[error("the {side} device does not import {handle}")]
    #[non_exhaustive]
    NotImportable {
        /// The device whose driver it is.
        side: Side,
        /// The handle type.
        handle: HandleType,
    },
    /// Opaque fds are valid only for the same driver on the same device. Drivers do not check this: one was
    /// seen to accept another driver's fd and to corrupt the memory behind it.
    #[error(
        "only for the same driver and device; the first device's is {theirs}, the second's {ours}"
    )]
    #[non_exhaustive]
    OtherDriver {
        /// UUID of the first device's driver, or of the device if the drivers are equal. The first device
        /// exports.
        theirs: Uuid,
        /// The same of the second device, which imports.
        ours: Uuid,
    },
    /// The machine lacks something that the route needs.
    #[error("{0}")]
    Missing(&'static str),
    /// All memory of the first device is local to it, so it has no other memory to export.
    #[error("the first device has no host-visible memory besides its own")]
    NoHostMemory,
    /// The buffer's placement excludes the domain that the route needs.
    #[error("the buffer's placement excludes {0}")]
    Placement(DomainKind),
    /// The second device's importer does not accept another device's local memory, or the buffer's owner
    /// forbids it.
    #[error("no peer-to-peer: the importer does not offer it, or the buffer's owner forbids it")]
    NoPeerToPeer,
    /// A call failed.
    #[error("{0}")]
    Failed(String),
    /// The import was accepted, but the bytes read differ from the bytes written.
    #[error("accepted, but {wrong} of {words} words were wrong, the first at byte {first_wrong}")]
    #[non_exhaustive]
    WrongBytes {
        /// Words that were written and read back.
        words: u64,
        /// How many of them were wrong.
        wrong: u64,
        /// Offset in bytes of the first wrong one.
        first_wrong: u64,
    },
}
