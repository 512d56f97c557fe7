//! Immutable facts about one Vulkan physical device.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::external::{ExternalBuffers, ExternalSemaphores};
use super::handle_type::{HandleType, Uuid};
use super::image_facts::ImageCache;
use super::instance::Instance;
use super::quirks::{self, Effect};
use super::selector::{AdapterKind, DrmNode, PciAddress};
use crate::error::{Error, Result};

/// A Vulkan memory heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heap {
    /// Size in bytes.
    pub size: u64,
    /// Whether it is the device's own (`DEVICE_LOCAL`).
    pub device_local: bool,
}

/// A Vulkan memory type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryType {
    /// Index of its heap.
    pub heap: u32,
    /// Its properties.
    pub flags: vk::MemoryPropertyFlags,
}

/// One Vulkan physical device: facts, read once.
///
/// Cheap to clone. Kernel counterpart: `struct drm_device`, as far as it can be seen from outside.
#[derive(Clone)]
pub struct Adapter(pub(super) Arc<Facts>);

pub(super) struct Facts {
    pub(super) instance: Arc<Instance>,
    pub(super) physical: vk::PhysicalDevice,
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) driver_name: String,
    pub(super) driver_info: String,
    pub(super) driver_id: vk::DriverId,
    pub(super) driver_version: u32,
    pub(super) api_version: u32,
    pub(super) kind: AdapterKind,
    pub(super) device_uuid: Uuid,
    pub(super) driver_uuid: Uuid,
    pub(super) drm_render: Option<DrmNode>,
    pub(super) drm_primary: Option<DrmNode>,
    pub(super) pci: Option<PciAddress>,
    pub(super) heaps: Vec<Heap>,
    pub(super) memory_types: Vec<MemoryType>,
    pub(super) queue_families: Vec<vk::QueueFamilyProperties>,
    pub(super) buffers: [ExternalBuffers; HandleType::ALL.len()],
    pub(super) semaphores: Vec<ExternalSemaphores>,
    pub(super) host_pointer_alignment: Option<u64>,
    pub(super) storage_range: u64,
    pub(super) max_allocation: u64,
    pub(super) device_addresses: bool,
    pub(super) host_query_reset: bool,
    pub(super) timestamp_period: f32,
    pub(super) extensions: Vec<&'static CStr>,
    pub(super) missing: Vec<&'static str>,
    pub(super) read_error: Option<Error>,
    /// What was asked about images so far.
    pub(super) images: ImageCache,
}

impl Adapter {
    /// Its position in the loader's list.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The device's name, as the driver reports it.
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

    /// Its PCI address, if it has one and the driver reports it.
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

    /// What the driver reports that it can export and import as memory of buffers.
    pub fn external_buffers(&self) -> &[ExternalBuffers] {
        &self.0.buffers
    }

    /// The row of [`Adapter::external_buffers`] for one handle type.
    pub fn external_buffer(&self, handle: HandleType) -> ExternalBuffers {
        self.0.buffers[HandleType::ALL.iter().position(|&h| h == handle).unwrap_or(0)]
    }

    /// What the driver reports that it can export and import as semaphores.
    pub fn external_semaphores(&self) -> &[ExternalSemaphores] {
        &self.0.semaphores
    }

    /// Alignment in bytes that imported host pointers must have; `None` if it cannot import any.
    pub fn host_pointer_alignment(&self) -> Option<u64> {
        self.0.host_pointer_alignment
    }

    /// The quirks of its driver.
    pub fn quirks(&self) -> impl Iterator<Item = &'static quirks::Quirk> {
        quirks::of(self.0.driver_id)
    }

    /// What the adapter lacks for peerbuf to open it; empty if nothing.
    pub fn missing(&self) -> &[&'static str] {
        &self.0.missing
    }

    /// The device extensions that an application should enable for peerbuf to adopt its device: all that
    /// peerbuf uses and this adapter supports.
    ///
    /// The device must also have the feature `timelineSemaphore` (Vulkan 1.2) enabled.
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

    /// Whether its own memory is the host's: an integrated device, or one of another kind all of whose heaps are
    /// device-local. Software devices model two memories, and count as such.
    pub(crate) fn shares_system_memory(&self) -> bool {
        match self.kind() {
            AdapterKind::Integrated => true,
            AdapterKind::Discrete | AdapterKind::Cpu => false,
            _ => self.heaps().iter().all(|heap| heap.device_local),
        }
    }

    /// Largest single allocation, in bytes: the lesser of `maxMemoryAllocationSize` and, where the driver reports it,
    /// `maxBufferSize`. No buffer can be larger, in any domain.
    pub fn max_allocation(&self) -> u64 {
        self.0.max_allocation
    }

    /// Whether shaders can address its buffers (feature `bufferDeviceAddress`).
    pub fn has_device_addresses(&self) -> bool {
        self.0.device_addresses
    }

    /// Whether the host can reset queries (feature `hostQueryReset`).
    pub(super) fn has_host_query_reset(&self) -> bool {
        self.0.host_query_reset
    }

    /// Nanoseconds between two ticks of the clock that timestamps show.
    pub(super) fn timestamp_period(&self) -> f32 {
        self.0.timestamp_period
    }

    /// How many bits of a timestamp are valid on queues of a family; 0 if they have none.
    pub(super) fn timestamp_bits(&self, family: u32) -> u32 {
        let family = self.0.queue_families.get(family as usize);
        family.map_or(0, |family| family.timestamp_valid_bits)
    }

    /// Largest range of a storage buffer binding, in bytes.
    pub(crate) fn storage_range(&self) -> u64 {
        self.0.storage_range
    }

    /// The first family with compute queues: copies and compute kernels run there.
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

    /// Its queue families.
    pub(super) fn queue_families(&self) -> &[vk::QueueFamilyProperties] {
        &self.0.queue_families
    }

    /// The capabilities of a queue family; empty for a family that does not exist.
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

    /// The PCI addresses, if both are known and differ.
    pub(crate) fn differing_pci(&self, other: &Self) -> Option<(PciAddress, PciAddress)> {
        self.0.pci.zip(other.0.pci).filter(|(a, b)| a != b)
    }

    /// The render nodes, or else the primary nodes, if both are known and differ.
    pub(crate) fn differing_drm(&self, other: &Self) -> Option<(DrmNode, DrmNode)> {
        let render = self.0.drm_render.zip(other.0.drm_render).filter(|(a, b)| a != b);
        render.or(self.0.drm_primary.zip(other.0.drm_primary).filter(|(a, b)| a != b))
    }

    /// Whether both are the same device under the same driver build, which `OPAQUE_FD` requires
    /// (VUID-VkMemoryAllocateInfo-pNext-02742 and the table in "External Memory Handle Types
    /// Compatibility").
    ///
    /// Equal UUIDs do not suffice: some drivers gave one UUID to all devices of a kind.
    pub(crate) fn same_driver_and_device(&self, other: &Self) -> bool {
        self.differing_uuid(other).is_none()
            && self.differing_pci(other).is_none()
            && self.differing_drm(other).is_none()
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
