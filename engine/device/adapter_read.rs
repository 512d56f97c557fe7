//! Reads the facts of an adapter.
#![expect(unsafe_code, reason = "physical-device queries of the Vulkan instance")]

use std::ffi::CStr;
use std::sync::Arc;

use ash::{ext, khr, vk};

use super::adapter::{Adapter, Facts, Heap, MemoryType};
use super::external::{self, ExternalBuffers};
use super::handle_type::{HandleType, Uuid};
use super::image_facts::ImageCache;
use super::instance::{API_VERSION, Instance};
use super::quirks::{self, Effect};
use super::selector::{AdapterKind, DrmNode, PciAddress};
use crate::error::{Error, Result};

/// Every device extension that peerbuf uses. None is required.
const WANTED: &[&CStr] = &[
    khr::external_memory_fd::NAME,
    ext::external_memory_dma_buf::NAME,
    ext::external_memory_host::NAME,
    ext::queue_family_foreign::NAME,
    khr::external_semaphore_fd::NAME,
    ext::image_drm_format_modifier::NAME,
    ext::physical_device_drm::NAME,
    ext::pci_bus_info::NAME,
    ext::memory_budget::NAME,
    ext::memory_priority::NAME,
];

impl Adapter {
    /// Reads the facts of `physical`.
    pub(crate) fn read(
        instance: &Arc<Instance>,
        physical: vk::PhysicalDevice,
        index: usize,
    ) -> Result<Self> {
        let raw = instance.raw();
        // SAFETY: `physical` was enumerated from the live `raw`.
        let basic = unsafe { raw.get_physical_device_properties(physical) };
        let facts = Facts::basic(instance, physical, index, &basic);
        if basic.api_version < API_VERSION {
            // Nothing newer than its own version may be asked of it.
            return Ok(Self(Arc::new(Facts { missing: vec!["Vulkan 1.2"], ..facts })));
        }
        let present = present_extensions(raw, physical)?;
        let is_present = |name: &CStr| {
            present.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name))
        };
        let extensions: Vec<_> = WANTED.iter().copied().filter(|name| is_present(name)).collect();
        let mut missing = Vec::new();
        let (timelines, device_addresses, host_query_reset) = features(raw, physical);
        if !timelines {
            missing.push("timeline semaphores");
        }
        let has = |name: &CStr| extensions.contains(&name);

        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut drm = vk::PhysicalDeviceDrmPropertiesEXT::default();
        let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
        let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut limits = vk::PhysicalDeviceMaintenance3Properties::default();
        // Stays where the driver does not report it.
        let mut newer = vk::PhysicalDeviceMaintenance4Properties {
            max_buffer_size: u64::MAX,
            ..Default::default()
        };
        let mut all = vk::PhysicalDeviceProperties2::default()
            .push_next(&mut id)
            .push_next(&mut limits)
            .push_next(&mut driver);
        if is_present(khr::maintenance4::NAME) {
            all = all.push_next(&mut newer);
        }
        if has(ext::physical_device_drm::NAME) {
            all = all.push_next(&mut drm);
        }
        if has(ext::pci_bus_info::NAME) {
            all = all.push_next(&mut pci);
        }
        if has(ext::external_memory_host::NAME) {
            all = all.push_next(&mut host);
        }
        // SAFETY: `physical` is as above; the chain holds only structures that its version and
        // extensions define.
        unsafe { raw.get_physical_device_properties2(physical, &mut all) };
        // SAFETY: as above.
        let memory = unsafe { raw.get_physical_device_memory_properties(physical) };
        // SAFETY: as above.
        let queue_families = unsafe { raw.get_physical_device_queue_family_properties(physical) };

        Ok(Self(Arc::new(Facts {
            driver_name: text(driver.driver_name_as_c_str()),
            driver_info: text(driver.driver_info_as_c_str()),
            driver_id: driver.driver_id,
            device_uuid: Uuid(id.device_uuid),
            driver_uuid: Uuid(id.driver_uuid),
            drm_render: drm_node(drm.has_render, drm.render_major, drm.render_minor),
            drm_primary: drm_node(drm.has_primary, drm.primary_major, drm.primary_minor),
            pci: has(ext::pci_bus_info::NAME).then_some(PciAddress {
                domain: pci.pci_domain,
                bus: pci.pci_bus,
                device: pci.pci_device,
                function: pci.pci_function,
            }),
            heaps: memory.memory_heaps_as_slice().iter().map(heap).collect(),
            memory_types: memory.memory_types_as_slice().iter().map(memory_type).collect(),
            queue_families,
            buffers: buffer_abilities(raw, physical, &extensions, driver.driver_id),
            semaphores: external::query_semaphores(raw, physical),
            host_pointer_alignment: has(ext::external_memory_host::NAME)
                .then_some(host.min_imported_host_pointer_alignment),
            max_allocation: limits.max_memory_allocation_size.min(newer.max_buffer_size),
            device_addresses,
            host_query_reset,
            extensions,
            missing,
            ..facts
        })))
    }
}

impl Facts {
    /// What every version of Vulkan reports.
    pub(super) fn basic(
        instance: &Arc<Instance>,
        physical: vk::PhysicalDevice,
        index: usize,
        basic: &vk::PhysicalDeviceProperties,
    ) -> Self {
        let absent = |handle| ExternalBuffers {
            handle,
            exportable: false,
            importable: false,
            dedicated_only: false,
        };
        Self {
            instance: Arc::clone(instance),
            physical,
            index,
            name: text(basic.device_name_as_c_str()),
            driver_name: String::new(),
            driver_info: String::new(),
            driver_id: vk::DriverId::default(),
            driver_version: basic.driver_version,
            api_version: basic.api_version,
            kind: kind(basic.device_type),
            device_uuid: Uuid([0; 16]),
            driver_uuid: Uuid([0; 16]),
            drm_render: None,
            drm_primary: None,
            pci: None,
            heaps: vec![],
            memory_types: vec![],
            queue_families: vec![],
            buffers: std::array::from_fn(|at| absent(HandleType::ALL[at])),
            semaphores: vec![],
            host_pointer_alignment: None,
            storage_range: u64::from(basic.limits.max_storage_buffer_range),
            max_allocation: 0,
            device_addresses: false,
            host_query_reset: false,
            timestamp_period: basic.limits.timestamp_period,
            extensions: vec![],
            missing: vec![],
            read_error: None,
            images: ImageCache::default(),
        }
    }
}

fn present_extensions(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> Result<Vec<vk::ExtensionProperties>> {
    // SAFETY: `physical` was enumerated from the live `instance`.
    unsafe { instance.enumerate_device_extension_properties(physical) }
        .map_err(|code| Error::vulkan("vkEnumerateDeviceExtensionProperties", "adapter", code))
}

/// Whether it has timeline semaphores, buffer device addresses, and queries that the host resets.
fn features(instance: &ash::Instance, physical: vk::PhysicalDevice) -> (bool, bool, bool) {
    let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
    let mut addresses = vk::PhysicalDeviceBufferDeviceAddressFeatures::default();
    let mut queries = vk::PhysicalDeviceHostQueryResetFeatures::default();
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut timeline)
        .push_next(&mut addresses)
        .push_next(&mut queries);
    // SAFETY: `physical` was enumerated from the live `instance` and is of version 1.2.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let (timelines, addresses) = (timeline.timeline_semaphore, addresses.buffer_device_address);
    (timelines == vk::TRUE, addresses == vk::TRUE, queries.host_query_reset == vk::TRUE)
}

fn buffer_abilities(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    extensions: &[&CStr],
    driver: vk::DriverId,
) -> [ExternalBuffers; HandleType::ALL.len()] {
    std::array::from_fn(|index| {
        let handle = HandleType::ALL[index];
        if !extensions.contains(&extension_of(handle)) {
            return ExternalBuffers {
                handle,
                exportable: false,
                importable: false,
                dedicated_only: false,
            };
        }
        let mut row = external::query_buffers(instance, physical, handle);
        if handle == HandleType::HostPointer {
            row.importable |=
                quirks::of(driver).any(|quirk| quirk.effect == Effect::HostImportUnreported);
        }
        row
    })
}

/// The extension by which memory is shared as handles of a type.
pub(super) const fn extension_of(handle: HandleType) -> &'static CStr {
    match handle {
        HandleType::DmaBuf => ext::external_memory_dma_buf::NAME,
        HandleType::OpaqueFd => khr::external_memory_fd::NAME,
        HandleType::HostPointer => ext::external_memory_host::NAME,
    }
}

pub(super) fn text(name: Result<&CStr, std::ffi::FromBytesUntilNulError>) -> String {
    name.map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}

fn drm_node(has: vk::Bool32, major: i64, minor: i64) -> Option<DrmNode> {
    (has == vk::TRUE)
        .then_some(DrmNode { major: u64::try_from(major).ok()?, minor: u64::try_from(minor).ok()? })
}

fn heap(heap: &vk::MemoryHeap) -> Heap {
    Heap { size: heap.size, device_local: heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL) }
}

fn memory_type(kind: &vk::MemoryType) -> MemoryType {
    MemoryType { heap: kind.heap_index, flags: kind.property_flags }
}

pub(super) fn kind(kind: vk::PhysicalDeviceType) -> AdapterKind {
    match kind {
        vk::PhysicalDeviceType::DISCRETE_GPU => AdapterKind::Discrete,
        vk::PhysicalDeviceType::INTEGRATED_GPU => AdapterKind::Integrated,
        vk::PhysicalDeviceType::VIRTUAL_GPU => AdapterKind::Virtual,
        vk::PhysicalDeviceType::CPU => AdapterKind::Cpu,
        _ => AdapterKind::Other,
    }
}
