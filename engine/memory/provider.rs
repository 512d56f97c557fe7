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
    /// The own memory of a Vulkan device, allocated without export. No other device can import it, so such a buffer
    /// moves before another device attaches it, and before it is exported ([`crate::BufferDescriptor::private`]).
    Private {
        /// The device.
        device: DeviceId,
    },
    /// The dma-heap `system`: zeroed pages as a dma-buf.
    DmaHeap,
    /// `/dev/udmabuf`: a memfd's pages as a dma-buf.
    Udmabuf,
    /// A memfd, imported by address.
    Memfd,
    /// Private anonymous pages, imported by address. They have no fd, so such a buffer moves before it is exported.
    Anonymous,
    /// An exporter outside this engine.
    Foreign(HandleType),
}

impl Provider {
    /// The domain of its memory. Foreign memory is counted by its exporter.
    pub fn domain(self) -> DomainId {
        match self {
            Self::Device { device, domain: DomainKind::Vram, .. } | Self::Private { device } => {
                DomainId::Vram(device)
            }
            _ => DomainId::System,
        }
    }

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device { handle, domain: DomainKind::Vram, .. } => handle.name(),
            Self::Device { handle: HandleType::DmaBuf, .. } => "host_visible_dma_buf",
            Self::Device { .. } => "host_visible_opaque_fd",
            Self::Private { .. } => "private",
            Self::DmaHeap => "dma_heap",
            Self::Udmabuf => "udmabuf",
            Self::Memfd => "memfd",
            Self::Anonymous => "anonymous",
            Self::Foreign(_) => "foreign",
        }
    }

    /// The same kind of provider on another device.
    pub(crate) fn of_device(self, device: DeviceId) -> Self {
        match self {
            Self::Device { handle, domain, .. } => Self::Device { device, handle, domain },
            Self::Private { .. } => Self::Private { device },
            other => other,
        }
    }

    /// The device that allocates it.
    pub(crate) fn exporter(self) -> Option<DeviceId> {
        match self {
            Self::Device { device, .. } | Self::Private { device } => Some(device),
            _ => None,
        }
    }

    /// Whether an fd names its memory.
    pub(crate) fn has_fd(self) -> bool {
        !matches!(self, Self::Anonymous | Self::Private { .. })
    }

    /// How a device may import such memory, best first. The mapping of a dma-buf is offered by address to devices whose
    /// `maps_dma_bufs` is set: the kernel maps it by page frame numbers, which no kernel driver accepts
    /// (`i915_gem_userptr.c` and `amdgpu_ttm.c` refuse such mappings). A udmabuf's pages are those of its memfd, whose own
    /// mapping is used.
    pub(crate) fn import_kinds(self, maps_dma_bufs: bool) -> &'static [ImportKind] {
        const BOTH: &[ImportKind] = &[ImportKind::Fd(HandleType::DmaBuf), ImportKind::HostPointer];
        match self {
            Self::Private { .. } => &[],
            Self::Udmabuf => BOTH,
            Self::DmaHeap | Self::Foreign(HandleType::DmaBuf) if maps_dma_bufs => BOTH,
            Self::DmaHeap | Self::Foreign(HandleType::DmaBuf) => {
                &[ImportKind::Fd(HandleType::DmaBuf)]
            }
            Self::Device { handle: HandleType::DmaBuf, .. } => {
                &[ImportKind::Fd(HandleType::DmaBuf)]
            }
            Self::Device { .. } => &[ImportKind::Fd(HandleType::OpaqueFd)],
            Self::Memfd | Self::Anonymous | Self::Foreign(HandleType::HostPointer) => {
                &[ImportKind::HostPointer]
            }
            Self::Foreign(HandleType::OpaqueFd) => &[ImportKind::Fd(HandleType::OpaqueFd)],
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { device, .. } | Self::Private { device } => {
                write!(f, "{} of {device}", self.name())
            }
            Self::Foreign(handle) => write!(f, "foreign {handle}"),
            _ => f.write_str(self.name()),
        }
    }
}
