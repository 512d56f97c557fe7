//! Routes by name, and why a route is not used: plain data.
//!
//! This file imports nothing but files that hold plain ids, so that [`crate::Error`] can carry a [`Refusal`].

use std::fmt;
use std::time::Duration;

use ash::vk;

use super::pass::{Pass, Side};
use super::untried::Untried;
use crate::device::{DrmNode, HandleType, PciAddress, Uuid};
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

/// Those of the refusals that say that a route was not tried yet.
pub(crate) fn untried(refused: &[Refusal]) -> Vec<Refusal> {
    let is_untried = |refusal: &&Refusal| matches!(refusal.reason, RefusalReason::NotProvedYet(_));
    refused.iter().filter(is_untried).cloned().collect()
}

/// The first of the refusals as text, and how many there are.
pub(crate) fn first_of(refused: &[Refusal]) -> String {
    match refused {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
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
    /// Opaque fds are valid only on the same device. The UUIDs are equal, but the PCI addresses differ.
    #[error("only for the same device; the first is at {theirs}, the second at {ours}")]
    OtherPciAddress {
        /// The address of the exporting device.
        theirs: PciAddress,
        /// That of the importing device.
        ours: PciAddress,
    },
    /// Opaque fds are valid only on the same device. The UUIDs are equal, but the DRM nodes differ.
    #[error(
        "only for the same device; the first is node {}:{}, the second {}:{}",
        theirs.major, theirs.minor, ours.major, ours.minor
    )]
    OtherDrmNode {
        /// The node of the exporting device.
        theirs: DrmNode,
        /// That of the importing device.
        ours: DrmNode,
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
    /// The first device's driver is out of memory for memory that can be exported, although it allocates as much
    /// other memory.
    #[error("no exportable memory: {code:?} for {bytes} bytes, while other memory is allocated")]
    NoExportableMemory {
        /// Bytes requested.
        bytes: u64,
        /// The driver's code.
        code: vk::Result,
    },
    /// A driver reports that it is out of memory for the import, although it allocates as much memory.
    #[error(
        "the {side} device imports nothing: {code:?} for {bytes} bytes, while memory is allocated"
    )]
    ImportFailed {
        /// The device that imports.
        side: Side,
        /// Bytes to be imported.
        bytes: u64,
        /// The driver's code.
        code: vk::Result,
    },
    /// The import was accepted, but a submission that uses it fails. A submission without it succeeds.
    #[error(
        "accepted, but the {side} device's work with it fails with {code:?}; without it, work takes {control:.1?}"
    )]
    SubmissionFailed {
        /// The device whose submission failed.
        side: Side,
        /// The driver's code.
        code: vk::Result,
        /// How long an empty submission took on the same device, once the import was gone.
        control: Duration,
    },
    /// The import was accepted, but work that uses it loses the device on which it was tried. Work without it
    /// succeeds on another device of the same adapter.
    #[error(
        "accepted, but work with it loses the {side} device ({call}); without it, work takes {control:.1?}"
    )]
    DeviceLost {
        /// The device that was lost.
        side: Side,
        /// The call that reported the loss.
        call: &'static str,
        /// How long an empty submission took on a new device of the same adapter.
        control: Duration,
    },
    /// The import was accepted, but work that uses it does not end. Work without it ends on another device of the
    /// same adapter.
    #[error(
        "accepted, but work of the {side} device with it did not end within {after:.1?}; without it, work takes \
         {control:.1?}"
    )]
    Hung {
        /// The device whose work did not end.
        side: Side,
        /// How long it was waited for.
        after: Duration,
        /// How long an empty submission took on a new device of the same adapter.
        control: Duration,
    },
    /// The child process that tried the route ended by itself ([`crate::EngineDescriptor::probe_program`]).
    #[error("the process that tried it crashed: {how}")]
    Crashed {
        /// Its signal or exit status.
        how: String,
    },
    /// The child process that tried the route was killed, because this trial alone had not ended in time.
    #[error("the process that tried it did not end within {after:.1?}")]
    NeverReturned {
        /// How long the trial had taken by then.
        after: Duration,
    },
    /// The route carries data, but once the second device has imported the memory, the first device reads its own
    /// memory slowly: its driver has moved it to the host. So the route counts as one over system memory, and is
    /// used only if there is no other.
    #[error(
        "it moves the first device's memory to the host: read by the first device in {after:.1?}, before in \
         {before:.1?}"
    )]
    DragsOut {
        /// The first device's pass over the memory before the import.
        before: Duration,
        /// The same pass afterwards.
        after: Duration,
    },
    /// The route was not tried yet, which says nothing about it. It is tried again later.
    #[error("not proved yet: {0}")]
    NotProvedYet(Untried),
    /// The import was accepted, but the bytes read differ from the bytes written.
    #[error(
        "accepted, but {wrong} of {words} words {pass} were wrong, the first at byte {first_wrong}"
    )]
    #[non_exhaustive]
    WrongBytes {
        /// The pass that found it.
        pass: Pass,
        /// Words that were written and read back.
        words: u64,
        /// How many of them were wrong.
        wrong: u64,
        /// Offset in bytes of the first wrong one.
        first_wrong: u64,
    },
}
