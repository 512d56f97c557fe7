//! The providers that a home device and this machine offer, best first.

use rustix::io::Errno;
use smallvec::SmallVec;

use super::dma_buf;
use super::domain_id::DomainKind;
use super::import_kind::ImportKind;
use super::provider::Provider;
use crate::device::quirks::Effect;
use crate::device::{DeviceId, DeviceInner, HandleType};

impl Provider {
    /// Whether its new memory is known to be zeroed.
    pub(crate) fn fresh_is_zero(self, exporter: Option<&DeviceInner>) -> bool {
        match self {
            Self::DmaHeap | Self::Udmabuf | Self::Memfd | Self::Anonymous => true,
            Self::Device { .. } | Self::Private { .. } => {
                exporter.is_some_and(|device| device.adapter().has_quirk(Effect::FreshMemoryIsZero))
            }
            Self::Foreign(_) => false,
        }
    }

    /// How a device may import its memory, best first.
    pub(crate) fn imports_of(self, device: &DeviceInner) -> &'static [ImportKind] {
        self.import_kinds(device.adapter().has_quirk(Effect::ImportsDmaBufMappings))
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
/// comes from"): private memory, which only buffers take that want it; what any driver may import; what only the same
/// driver may; plain pages.
pub(crate) fn candidates(home: &DeviceInner, kind: DomainKind) -> SmallVec<[Provider; 6]> {
    match kind {
        DomainKind::Vram => [Provider::Private { device: home.id() }]
            .into_iter()
            .chain(exports(home.id(), kind))
            .collect(),
        DomainKind::System => [Provider::DmaHeap, Provider::Udmabuf]
            .into_iter()
            .chain(host_exports(home))
            .chain([Provider::Memfd, Provider::Anonymous])
            .collect(),
    }
}

/// The providers of host-visible memory that a device exports: the home device or another attached one.
pub(crate) fn host_exports(exporter: &DeviceInner) -> impl Iterator<Item = Provider> {
    let has_some = has_host_only_memory(exporter);
    exports(exporter.id(), DomainKind::System).into_iter().filter(move |_| has_some)
}

fn exports(device: DeviceId, domain: DomainKind) -> [Provider; 2] {
    [HandleType::DmaBuf, HandleType::OpaqueFd].map(|handle| Provider::Device {
        device,
        handle,
        domain,
    })
}

/// Whether the device's accesses and the host's caches are coherent, as far as its memory types say: all that it has in the
/// host's caches is not, or is.
pub(crate) fn is_coherent_with_caches(device: &DeviceInner) -> bool {
    use ash::vk::MemoryPropertyFlags as Flags;
    let types = device.adapter().memory_types().iter().map(|kind| kind.flags);
    let mut cached = types.filter(|flags| flags.contains(Flags::HOST_CACHED)).peekable();
    cached.peek().is_none() || cached.any(|flags| flags.contains(Flags::HOST_COHERENT))
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
