//! Immutable facts about one Vulkan physical device.
#![expect(unsafe_code, reason = "physical-device queries of the Vulkan instance")]

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use ash::{ext, khr, vk};

use super::external::{self, ExternalBuffers, ExternalSemaphores, HandleType};
use super::instance::{API_VERSION, Instance};
use super::quirks::{self, Effect};
use crate::error::{Error, Result};

/// A 16-byte UUID of a device or a driver.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a device sits on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u32,
    /// Device.
    pub device: u32,
    /// Function.
    pub function: u32,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// Device number of a node under `/dev/dri`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DrmNode {
    /// Major number.
    pub major: u64,
    /// Minor number: 0–63 for `cardN`, 128–191 for `renderD128` and on.
    pub minor: u64,
}

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU in a virtual machine.
    Virtual,
    /// A software device.
    Cpu,
    /// Something else.
    Other,
}

impl AdapterKind {
    /// The short name used in reports, JSON and selections.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Cpu => "cpu",
            Self::Other => "other",
        }
    }
}

/// A Vulkan memory heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    /// Size in bytes.
    pub size: u64,
    /// Whether it is the device's own (`DEVICE_LOCAL`).
    pub device_local: bool,
}

/// A Vulkan memory type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryType {
    /// Index of its heap.
    pub heap: u32,
    /// What it can do.
    pub flags: vk::MemoryPropertyFlags,
}

/// One Vulkan physical device: facts, read once.
///
/// Cheap to clone. Kernel counterpart: `struct drm_device`, as far as it can be seen from outside.
#[derive(Clone)]
pub struct Adapter(Arc<Facts>);

struct Facts {
    instance: Arc<Instance>,
    physical: vk::PhysicalDevice,
    index: usize,
    name: String,
    driver_name: String,
    driver_info: String,
    driver_id: vk::DriverId,
    driver_version: u32,
    api_version: u32,
    kind: AdapterKind,
    device_uuid: Uuid,
    driver_uuid: Uuid,
    drm_render: Option<DrmNode>,
    drm_primary: Option<DrmNode>,
    pci: Option<PciAddress>,
    heaps: Vec<Heap>,
    memory_types: Vec<MemoryType>,
    queue_families: Vec<vk::QueueFamilyProperties>,
    buffers: [ExternalBuffers; HandleType::ALL.len()],
    semaphores: Vec<ExternalSemaphores>,
    host_pointer_alignment: Option<u64>,
    storage_range: u64,
    max_allocation: u64,
    extensions: Vec<&'static CStr>,
    missing: Vec<&'static str>,
}

/// Every device extension that peerbuf makes use of. None is required.
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
        let extensions = supported_extensions(raw, physical)?;
        let mut missing = Vec::new();
        if basic.api_version < API_VERSION {
            missing.push("Vulkan 1.2");
        } else if !has_timeline_semaphores(raw, physical) {
            missing.push("timeline semaphores");
        }
        let has = |name: &CStr| extensions.contains(&name);

        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut drm = vk::PhysicalDeviceDrmPropertiesEXT::default();
        let mut pci = vk::PhysicalDevicePCIBusInfoPropertiesEXT::default();
        let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut limits = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut all =
            vk::PhysicalDeviceProperties2::default().push_next(&mut id).push_next(&mut limits);
        if basic.api_version >= API_VERSION {
            all = all.push_next(&mut driver);
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
            instance: Arc::clone(instance),
            physical,
            index,
            name: text(basic.device_name_as_c_str()),
            driver_name: text(driver.driver_name_as_c_str()),
            driver_info: text(driver.driver_info_as_c_str()),
            driver_id: driver.driver_id,
            driver_version: basic.driver_version,
            api_version: basic.api_version,
            kind: kind(basic.device_type),
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
            storage_range: u64::from(basic.limits.max_storage_buffer_range),
            max_allocation: limits.max_memory_allocation_size,
            extensions,
            missing,
        })))
    }

    /// Position in the loader's list.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The device's name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The driver's name, for example `llvmpipe`.
    pub fn driver_name(&self) -> &str {
        &self.0.driver_name
    }

    /// The driver's own version text, for example `Mesa 25.0.7`.
    pub fn driver_info(&self) -> &str {
        &self.0.driver_info
    }

    /// The driver's registered number.
    pub fn driver_id(&self) -> vk::DriverId {
        self.0.driver_id
    }

    /// The driver's version, in the driver's own encoding.
    pub fn driver_version(&self) -> u32 {
        self.0.driver_version
    }

    /// The Vulkan version that the device offers.
    pub fn api_version(&self) -> u32 {
        self.0.api_version
    }

    /// What kind of device it is.
    pub fn kind(&self) -> AdapterKind {
        self.0.kind
    }

    /// UUID of the device.
    pub fn device_uuid(&self) -> Uuid {
        self.0.device_uuid
    }

    /// UUID of the driver build. Two devices exchange `OPAQUE_FD`s only if both UUIDs are equal.
    pub fn driver_uuid(&self) -> Uuid {
        self.0.driver_uuid
    }

    /// Its render node, if it has one.
    pub fn drm_render(&self) -> Option<DrmNode> {
        self.0.drm_render
    }

    /// Its primary node, if it has one.
    pub fn drm_primary(&self) -> Option<DrmNode> {
        self.0.drm_primary
    }

    /// Its place on PCI, if it has one and says so.
    pub fn pci(&self) -> Option<PciAddress> {
        self.0.pci
    }

    /// Its memory heaps.
    pub fn heaps(&self) -> &[Heap] {
        &self.0.heaps
    }

    /// Its memory types, in the driver's order.
    pub fn memory_types(&self) -> &[MemoryType] {
        &self.0.memory_types
    }

    /// What it says it can export and import as memory of buffers.
    pub fn external_buffers(&self) -> &[ExternalBuffers] {
        &self.0.buffers
    }

    /// The row of [`Adapter::external_buffers`] for one handle type.
    pub fn external_buffer(&self, handle: HandleType) -> ExternalBuffers {
        self.0.buffers[HandleType::ALL.iter().position(|&h| h == handle).unwrap_or(0)]
    }

    /// What it says it can export and import as semaphores.
    pub fn external_semaphores(&self) -> &[ExternalSemaphores] {
        &self.0.semaphores
    }

    /// Alignment in bytes of host pointers that it can import; `None` if it cannot import any.
    pub fn host_pointer_alignment(&self) -> Option<u64> {
        self.0.host_pointer_alignment
    }

    /// The quirks of its driver.
    pub fn quirks(&self) -> impl Iterator<Item = &'static quirks::Quirk> {
        quirks::of(self.0.driver_id)
    }

    /// What it lacks for being opened; empty if nothing.
    pub fn missing(&self) -> &[&'static str] {
        &self.0.missing
    }

    /// The device extensions that an application should enable if it wants peerbuf to adopt its
    /// device: all that peerbuf makes use of and this adapter has.
    ///
    /// Besides these, the device must have the feature `timelineSemaphore` (Vulkan 1.2) on.
    pub fn device_extensions(&self) -> &[&'static CStr] {
        &self.0.extensions
    }

    pub(crate) fn has_quirk(&self, effect: Effect) -> bool {
        self.quirks().any(|quirk| quirk.effect == effect)
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.0.instance
    }

    /// The raw handle.
    pub fn physical(&self) -> vk::PhysicalDevice {
        self.0.physical
    }

    /// Largest single allocation, in bytes: what a buffer can have at most, wherever it lives.
    pub fn max_allocation(&self) -> u64 {
        self.0.max_allocation
    }

    /// Largest range of a storage buffer binding, in bytes.
    pub(crate) fn storage_range(&self) -> u64 {
        self.0.storage_range
    }

    /// The family to run copies and compute passes on.
    pub(crate) fn compute_family(&self) -> Result<u32> {
        let wanted = vk::QueueFlags::COMPUTE;
        self.0
            .queue_families
            .iter()
            .position(|family| family.queue_flags.contains(wanted) && family.queue_count > 0)
            .and_then(|index| u32::try_from(index).ok())
            .ok_or_else(|| Error::Unsupported {
                device: self.0.name.clone(),
                missing: "a compute queue".into(),
            })
    }

    /// The families of its queues.
    pub(super) fn queue_families(&self) -> &[vk::QueueFamilyProperties] {
        &self.0.queue_families
    }

    /// What queues of a family can do; empty for a family that does not exist.
    pub(crate) fn queue_flags(&self, family: u32) -> vk::QueueFlags {
        self.0
            .queue_families
            .get(family as usize)
            .map_or(vk::QueueFlags::empty(), |f| f.queue_flags)
    }

    /// The driver UUIDs, or else the device UUIDs, if they differ.
    pub(crate) fn differing_uuid(&self, other: &Self) -> Option<(Uuid, Uuid)> {
        let pairs =
            [(self.0.driver_uuid, other.0.driver_uuid), (self.0.device_uuid, other.0.device_uuid)];
        pairs.into_iter().find(|(a, b)| a != b)
    }

    /// Whether both are the same device under the same driver build: the condition for `OPAQUE_FD`
    /// (VUID-VkMemoryAllocateInfo-pNext-02742 and the table in "External Memory Handle Types
    /// Compatibility").
    pub(crate) fn same_driver_and_device(&self, other: &Self) -> bool {
        self.differing_uuid(other).is_none()
    }
}

impl PartialEq for Adapter {
    /// The same physical device of the same instance.
    fn eq(&self, other: &Self) -> bool {
        self.0.physical == other.0.physical
    }
}

impl Eq for Adapter {}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter")
            .field("index", &self.0.index)
            .field("name", &self.0.name)
            .field("driver", &self.0.driver_info)
            .field("device_uuid", &self.0.device_uuid)
            .field("driver_uuid", &self.0.driver_uuid)
            .finish_non_exhaustive()
    }
}

fn supported_extensions(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> Result<Vec<&'static CStr>> {
    // SAFETY: `physical` was enumerated from the live `instance`.
    let present = unsafe { instance.enumerate_device_extension_properties(physical) }
        .map_err(|code| Error::vulkan("vkEnumerateDeviceExtensionProperties", "adapter", code))?;
    let has = |name: &&'static CStr| {
        present.iter().any(|extension| extension.extension_name_as_c_str() == Ok(*name))
    };
    Ok(WANTED.iter().copied().filter(has).collect())
}

fn has_timeline_semaphores(instance: &ash::Instance, physical: vk::PhysicalDevice) -> bool {
    let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
    let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut timeline);
    // SAFETY: `physical` was enumerated from the live `instance` and is of version 1.2.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    timeline.timeline_semaphore == vk::TRUE
}

fn buffer_abilities(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    extensions: &[&CStr],
    driver: vk::DriverId,
) -> [ExternalBuffers; HandleType::ALL.len()] {
    HandleType::ALL.map(|handle| {
        let extension = match handle {
            HandleType::DmaBuf => ext::external_memory_dma_buf::NAME,
            HandleType::OpaqueFd => khr::external_memory_fd::NAME,
            HandleType::HostPointer => ext::external_memory_host::NAME,
        };
        if !extensions.contains(&extension) {
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

fn text(name: Result<&CStr, std::ffi::FromBytesUntilNulError>) -> String {
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

fn kind(kind: vk::PhysicalDeviceType) -> AdapterKind {
    match kind {
        vk::PhysicalDeviceType::DISCRETE_GPU => AdapterKind::Discrete,
        vk::PhysicalDeviceType::INTEGRATED_GPU => AdapterKind::Integrated,
        vk::PhysicalDeviceType::VIRTUAL_GPU => AdapterKind::Virtual,
        vk::PhysicalDeviceType::CPU => AdapterKind::Cpu,
        _ => AdapterKind::Other,
    }
}
