//! Providers of shareable memory, and how a device imports it.

use std::fmt;

use smallvec::SmallVec;

use super::dma_buf;
use super::domain_id::{DomainId, DomainKind};
use super::import_kind::ImportKind;
use crate::device::{DeviceId, DeviceInner, HandleType};

/// The source of a backing's memory, and the kind of handle by which it is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// A Vulkan device that exports it.
    Device {
        /// The exporter.
        device: DeviceId,
        /// The kind of handle that it exports.
        handle: HandleType,
        /// From the device's own memory, or from host-visible system memory.
        domain: DomainKind,
    },
    /// The dma-heap `system`: zeroed pages as a dma-buf.
    DmaHeap,
    /// `/dev/udmabuf`: a memfd's pages as a dma-buf.
    Udmabuf,
    /// A memfd, imported by address.
    Memfd,
    /// An exporter outside this engine.
    Foreign(HandleType),
}

impl Provider {
    /// The domain of its memory. Foreign memory is counted by its exporter.
    pub fn domain(self) -> DomainId {
        match self {
            Self::Device { device, domain: DomainKind::Vram, .. } => DomainId::Vram(device),
            _ => DomainId::System,
        }
    }

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device { handle, domain: DomainKind::Vram, .. } => handle.name(),
            Self::Device { handle: HandleType::DmaBuf, .. } => "host_visible_dma_buf",
            Self::Device { .. } => "host_visible_opaque_fd",
            Self::DmaHeap => "dma_heap",
            Self::Udmabuf => "udmabuf",
            Self::Memfd => "memfd",
            Self::Foreign(_) => "foreign",
        }
    }

    /// The same kind of provider on another device.
    pub(crate) fn of_device(self, device: DeviceId) -> Self {
        match self {
            Self::Device { handle, domain, .. } => Self::Device { device, handle, domain },
            other => other,
        }
    }

    /// How a device may import such memory, best first.
    pub(crate) fn import_kinds(self) -> &'static [ImportKind] {
        match self {
            Self::Device { handle: HandleType::DmaBuf, .. } => {
                &[ImportKind::Fd(HandleType::DmaBuf)]
            }
            Self::Device { .. } => &[ImportKind::Fd(HandleType::OpaqueFd)],
            Self::DmaHeap | Self::Udmabuf | Self::Foreign(HandleType::DmaBuf) => {
                &[ImportKind::Fd(HandleType::DmaBuf), ImportKind::HostPointer]
            }
            Self::Memfd | Self::Foreign(HandleType::HostPointer) => &[ImportKind::HostPointer],
            Self::Foreign(HandleType::OpaqueFd) => &[ImportKind::Fd(HandleType::OpaqueFd)],
        }
    }

    /// Whether its new memory is known to be zeroed.
    pub(crate) fn fresh_is_zero(self, exporter: Option<&DeviceInner>) -> bool {
        match self {
            Self::DmaHeap | Self::Udmabuf | Self::Memfd => true,
            Self::Device { .. } => exporter.is_some_and(|device| {
                device.adapter().has_quirk(crate::device::quirks::Effect::FreshMemoryIsZero)
            }),
            Self::Foreign(_) => false,
        }
    }

    /// What this machine lacks for it; `None` if nothing is known to be missing.
    pub(crate) fn missing_on_host(self) -> Option<&'static str> {
        match self {
            Self::DmaHeap if !dma_buf::can_open(dma_buf::DMA_HEAP) => {
                Some("no /dev/dma_heap/system")
            }
            Self::Udmabuf if !dma_buf::can_open(dma_buf::UDMABUF) => Some("no /dev/udmabuf"),
            _ => None,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { device, .. } => write!(f, "{} of {device}", self.name()),
            Self::Foreign(handle) => write!(f, "foreign {handle}"),
            _ => f.write_str(self.name()),
        }
    }
}

/// The providers of a kind of domain for buffers whose home is `home`, best first (ARCHITECTURE.md, "Where memory
/// comes from"): what any driver may import, then what only the same driver may, then plain pages.
pub(crate) fn candidates(home: &DeviceInner, kind: DomainKind) -> SmallVec<[Provider; 5]> {
    let exported = |handle| Provider::Device { device: home.id(), handle, domain: kind };
    let exports = [exported(HandleType::DmaBuf), exported(HandleType::OpaqueFd)];
    match kind {
        DomainKind::Vram => exports.into_iter().collect(),
        DomainKind::System => [Provider::DmaHeap, Provider::Udmabuf]
            .into_iter()
            .chain(exports.into_iter().filter(|_| has_host_only_memory(home)))
            .chain([Provider::Memfd])
            .collect(),
    }
}

/// Whether the device has memory that is host-visible and not device-local.
///
/// Integrated and software devices have only one kind of memory. There, exporting host-visible memory would be
/// the same as exporting VRAM.
pub(crate) fn has_host_only_memory(device: &DeviceInner) -> bool {
    use ash::vk::MemoryPropertyFlags as Flags;
    device.adapter().memory_types().iter().any(|kind| {
        kind.flags.contains(Flags::HOST_VISIBLE) && !kind.flags.contains(Flags::DEVICE_LOCAL)
    })
}
