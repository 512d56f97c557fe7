//! What a driver says it can export and import, per handle type.
//!
//! Vulkan: `vkGetPhysicalDeviceExternalBufferProperties`,
//! `vkGetPhysicalDeviceExternalSemaphoreProperties`. These are statements, not proofs; routes are
//! proved in [`crate::transfer`].
#![expect(unsafe_code, reason = "physical-device queries of the Vulkan instance")]

use std::fmt;

use ash::vk;

/// A kind of handle by which memory travels between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HandleType {
    /// A Linux dma-buf: any device, any driver, any process.
    DmaBuf,
    /// An fd that only the same driver on the same device understands.
    OpaqueFd,
    /// Host memory, taken in by address. As a foreign handle: a sealed memfd.
    HostPointer,
}

impl HandleType {
    /// Every kind, best first (ARCHITECTURE.md, "Where memory comes from").
    pub const ALL: [Self; 3] = [Self::DmaBuf, Self::OpaqueFd, Self::HostPointer];

    /// The Vulkan bit.
    pub const fn vk(self) -> vk::ExternalMemoryHandleTypeFlags {
        match self {
            Self::DmaBuf => vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT,
            Self::OpaqueFd => vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD,
            Self::HostPointer => vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT,
        }
    }

    /// The short name used in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DmaBuf => "dma_buf",
            Self::OpaqueFd => "opaque_fd",
            Self::HostPointer => "host_pointer",
        }
    }
}

impl fmt::Display for HandleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a driver says about memory of shared buffers, for one handle type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalBuffers {
    /// The handle type.
    pub handle: HandleType,
    /// New memory can be given out as such a handle.
    pub exportable: bool,
    /// Such a handle can be taken in.
    pub importable: bool,
    /// Only with memory that belongs to a single `VkBuffer`.
    pub dedicated_only: bool,
}

/// What a driver says about semaphores, for one handle type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalSemaphores {
    /// The handle type: `OPAQUE_FD` or `SYNC_FD`.
    pub handle: vk::ExternalSemaphoreHandleTypeFlags,
    /// Whether this row is about timeline semaphores.
    pub timeline: bool,
    /// A semaphore can be given out as such a handle.
    pub exportable: bool,
    /// Such a handle can be taken in.
    pub importable: bool,
}

/// The usages that every shared buffer has. One `VkBuffer` spans a whole slab, and slots do not know
/// what their next owner will do, so the slab can do everything that needs no extension.
pub(crate) const SHARED_BUFFER_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw()
        | vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::UNIFORM_BUFFER.as_raw()
        | vk::BufferUsageFlags::INDEX_BUFFER.as_raw()
        | vk::BufferUsageFlags::VERTEX_BUFFER.as_raw()
        | vk::BufferUsageFlags::INDIRECT_BUFFER.as_raw(),
);

/// Asks about shared buffers, for one handle type.
pub(super) fn query_buffers(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    handle: HandleType,
) -> ExternalBuffers {
    let info = vk::PhysicalDeviceExternalBufferInfo::default()
        .usage(SHARED_BUFFER_USAGE)
        .handle_type(handle.vk());
    let mut out = vk::ExternalBufferProperties::default();
    // SAFETY: `physical` was enumerated from `instance`, which is live and of version 1.1 or newer.
    unsafe { instance.get_physical_device_external_buffer_properties(physical, &info, &mut out) };
    let features = out.external_memory_properties.external_memory_features;
    ExternalBuffers {
        handle,
        exportable: features.contains(vk::ExternalMemoryFeatureFlags::EXPORTABLE),
        importable: features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE),
        dedicated_only: features.contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY),
    }
}

/// Asks about semaphores: binary and timeline as `OPAQUE_FD`, binary as `SYNC_FD`.
pub(super) fn query_semaphores(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> Vec<ExternalSemaphores> {
    use vk::ExternalSemaphoreHandleTypeFlags as Handle;
    [(Handle::OPAQUE_FD, false), (Handle::OPAQUE_FD, true), (Handle::SYNC_FD, false)]
        .into_iter()
        .map(|(handle, timeline)| {
            let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(if timeline {
                vk::SemaphoreType::TIMELINE
            } else {
                vk::SemaphoreType::BINARY
            });
            let info = vk::PhysicalDeviceExternalSemaphoreInfo::default()
                .handle_type(handle)
                .push_next(&mut kind);
            let mut out = vk::ExternalSemaphoreProperties::default();
            // SAFETY: `physical` was enumerated from `instance`, which is live and of version 1.2,
            // where VkSemaphoreTypeCreateInfo is core.
            unsafe {
                instance
                    .get_physical_device_external_semaphore_properties(physical, &info, &mut out);
            }
            let features = out.external_semaphore_features;
            ExternalSemaphores {
                handle,
                timeline,
                exportable: features.contains(vk::ExternalSemaphoreFeatureFlags::EXPORTABLE),
                importable: features.contains(vk::ExternalSemaphoreFeatureFlags::IMPORTABLE),
            }
        })
        .collect()
}
