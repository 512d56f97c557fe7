//! Providers of shareable memory: plain data.

use std::fmt;

use super::domain_id::{DomainId, DomainKind};
use super::import_kind::ImportKind;
use crate::device::{DeviceId, HandleType};

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
