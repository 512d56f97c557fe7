//! What a driver reports that it can export and import, per handle type.
//!
//! Vulkan: `vkGetPhysicalDeviceExternalBufferProperties`,
//! `vkGetPhysicalDeviceExternalSemaphoreProperties`. These are statements, not proofs: routes
//! are proved in [`crate::transfer`].
#![expect(unsafe_code, reason = "physical-device queries of the Vulkan instance")]

use ash::vk;

use super::handle_type::HandleType;

/// The handle type by which a semaphore's payload is shared.
pub(crate) use vk::ExternalSemaphoreHandleTypeFlags as SemaphoreHandle;

/// What a driver reports about memory of shared buffers, for one handle type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExternalBuffers {
    /// The handle type.
    pub handle: HandleType,
    /// New memory can be exported as such a handle.
    pub exportable: bool,
    /// Such a handle can be imported.
    pub importable: bool,
    /// Both require memory that is dedicated to a single `VkBuffer`.
    pub dedicated_only: bool,
}

/// What a driver reports about semaphores, for one handle type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExternalSemaphores {
    /// The handle type: `OPAQUE_FD` or `SYNC_FD`.
    pub handle: vk::ExternalSemaphoreHandleTypeFlags,
    /// Whether this row is about timeline semaphores.
    pub timeline: bool,
    /// A semaphore can be exported as such a handle.
    pub exportable: bool,
    /// Such a handle can be imported.
    pub importable: bool,
}

/// The usages that every shared buffer has.
///
/// One `VkBuffer` spans a whole slab, and the uses of a slot's next owner are not known. So the slab has every
/// usage that needs no extension.
pub(crate) const SHARED_BUFFER_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw()
        | vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::UNIFORM_BUFFER.as_raw()
        | vk::BufferUsageFlags::INDEX_BUFFER.as_raw()
        | vk::BufferUsageFlags::VERTEX_BUFFER.as_raw()
        | vk::BufferUsageFlags::INDIRECT_BUFFER.as_raw(),
);

/// Queries the driver about shared buffers, for one handle type.
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

/// Queries the driver about semaphores: binary and timeline as `OPAQUE_FD`, binary as `SYNC_FD`.
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
