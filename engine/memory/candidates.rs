//! The providers that a home device and this machine offer, best first.

use rustix::io::Errno;
use smallvec::SmallVec;

use super::dma_buf;
use super::domain_id::DomainKind;
use super::provider::Provider;
use crate::device::{DeviceInner, HandleType};

impl Provider {
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
        let (node, absent, denied) = match self {
            Self::DmaHeap => (
                dma_buf::DMA_HEAP,
                "no /dev/dma_heap/system",
                "no permission to read /dev/dma_heap/system",
            ),
            Self::Udmabuf => {
                (dma_buf::UDMABUF, "no /dev/udmabuf", "no permission to read /dev/udmabuf")
            }
            _ => return None,
        };
        match dma_buf::can_open(node) {
            Ok(()) => None,
            Err(Errno::ACCESS | Errno::PERM) => Some(denied),
            Err(_) => Some(absent),
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
