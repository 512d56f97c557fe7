//! The switches: one for each behaviour of a driver. README has the table with the source of each.

use serde::Deserialize;

use super::codes::{ApiVersion, Code, FamilyFlags, TypeFlags};
use super::size::Size;

/// All switches of one device. The default is a device that behaves as its driver does.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Switches {
    // ---- what the device says it is ----
    /// Name, identifiers, bus address.
    pub identity: Identity,
    /// `apiVersion` of the device. Entry points of later versions are absent.
    pub api_version: Option<ApiVersion>,
    /// Extensions that the device does not list.
    pub hide_extensions: Vec<String>,
    /// `vkEnumerateDeviceExtensionProperties` of this device fails with this code.
    pub fail_extension_enumeration: Option<Code>,
    /// `vkEnumeratePhysicalDevices` fails with this code if the device is there.
    pub fail_device_enumeration: Option<Code>,
    /// `vkCreateDevice` fails with this code.
    pub fail_create_device: Option<Code>,

    // ---- memory: what the device reports ----
    /// Heaps and types in place of those of the driver.
    pub memory: Option<MemoryLayout>,
    /// A `DEVICE_LOCAL` heap of this size, and its memory types, before all others.
    pub small_heap_first: Option<Size>,
    /// The largest size of each heap. Allocations beyond it fail.
    pub heap_size: Option<Size>,
    /// Allocations beyond a heap's size succeed, as they do where the kernel pages video memory out.
    pub overcommit: bool,
    /// An integrated GPU: one heap of the host's memory, device-local as a whole.
    pub integrated: bool,
    /// Host-visible memory is not coherent, and this is `nonCoherentAtomSize`. What is not flushed is lost. One type
    /// stays coherent, as the specification asks; it comes last.
    pub non_coherent: Option<u64>,
    /// `heapBudget` of each heap, in percent of the heap. Adds `VK_EXT_memory_budget` if the driver lacks it.
    pub budget_percent: Option<u64>,
    /// `minImportedHostPointerAlignment`.
    pub host_pointer_alignment: Option<u64>,

    // ---- memory: limits and failures ----
    /// `maxMemoryAllocationSize`; more fails with `OUT_OF_DEVICE_MEMORY`.
    pub max_allocation: Option<Size>,
    /// `maxMemoryAllocationCount`; one more fails with `TOO_MANY_OBJECTS`.
    pub max_allocation_count: Option<u32>,
    /// `maxBufferSize`; a larger buffer fails with `OUT_OF_DEVICE_MEMORY`.
    pub max_buffer_size: Option<Size>,
    /// The n-th allocation of a device fails, from 1.
    pub fail_allocation: Option<FailAt>,

    // ---- external memory ----
    /// The device neither exports nor imports memory as `OPAQUE_FD`.
    pub no_opaque_fd: bool,
    /// The device neither exports nor imports memory as dma-buf.
    pub no_dma_buf: bool,
    /// The device has no `VK_EXT_external_memory_host`.
    pub no_external_memory_host: bool,
    /// Imports of fds that come from another device fail with this code.
    pub refuse_foreign_import: Option<Code>,
    /// An import of memory that the device did not export itself is refused unless the fd's file has this many bytes beyond `allocationSize`.
    pub import_slack: Option<Size>,
    /// The fd of a refused import is closed all the same.
    pub failed_import_closes_fd: bool,
    /// Host pointers that are refused.
    pub refuse_host_pointer: Option<HostPointer>,
    /// What mapping imported memory by `vkMapMemory` does.
    pub map_import: Option<MapImport>,
    /// While memory of the kind that `poisonous_import` names is imported, submissions fail with this code.
    pub import_poisons_submit: Option<Code>,
    /// Which imports poison submissions.
    pub poisonous_import: Poison,
    /// Submissions of every *other* device fail while it has imported memory of this one.
    pub export_poisons_importers: bool,
    /// With what they fail on this device, if the exporter is to blame; `DEVICE_LOST` if not set.
    pub poisoned_submit: Option<Code>,
    /// Submissions lose the device while more bytes than this are imported.
    pub submit_lost_on_oom: Option<Size>,
    /// While another device has imported memory of this one, its submissions take this many times as long.
    pub slow_exporter: Option<u32>,
    /// Copies from imported buffers read other bytes, and copies into imported buffers do not arrive.
    pub copy_engine_lies: Option<CopyEngine>,

    // ---- images ----
    /// The number of a modifier whose images are tiles. Adds `VK_EXT_image_drm_format_modifier` if the driver lacks it.
    pub tiled_modifier: Option<u64>,
    /// Its tiles are in another order than those of other devices: it has the number for another layout.
    pub tiles_in_other_order: bool,

    // ---- queues and loss ----
    /// Queue families in place of those of the driver, each with queues of its own.
    pub queue_families: Vec<Family>,
    /// The n-th submission of a device loses it, from 1; 1 is also "the next" if the control file sets it.
    pub lost_at_submit: Option<u64>,
    /// The n-th submission is accepted, is never executed, and loses the device for later calls.
    pub lost_in_thread: Option<u64>,
    /// Whether work that was submitted before a loss still runs.
    pub work_after_lost: bool,
    /// What waits say on a lost device.
    pub lost_waits: LostWaits,
    /// Submissions after the n-th never begin. 0 holds all. The control file can set and clear it.
    pub hung_after: Option<u64>,

    /// A submission that waits for a binary semaphore and has no command buffer never begins.
    pub empty_wait_hangs: bool,

    // ---- semaphores ----
    /// `vkCreateSemaphore` of an exportable timeline fails with this code, though the query offers it.
    pub timeline_export_refused: Option<Code>,
    /// The device exports and imports binary semaphores as sync files, which the layer makes. Adds
    /// `VK_KHR_external_semaphore_fd` if the driver lacks it.
    pub sync_fd: bool,
    /// The device neither exports nor imports sync files.
    pub no_sync_fd: bool,
    /// The device neither exports nor imports semaphores as `OPAQUE_FD`.
    pub no_opaque_semaphore: bool,
}

/// What a device says it is. Absent fields stay those of the driver.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Identity {
    /// `deviceName`.
    pub name: Option<String>,
    /// `vendorID`.
    pub vendor: Option<u32>,
    /// `deviceID`.
    pub device: Option<u32>,
    /// `deviceType`: `discrete`, `integrated`, `virtual` or `cpu`.
    pub kind: Option<Kind>,
    /// `driverID`, as a number of `VkDriverId`.
    pub driver: Option<i32>,
    /// `driverName`.
    pub driver_name: Option<String>,
    /// `driverInfo`.
    pub driver_info: Option<String>,
    /// `driverVersion`.
    pub driver_version: Option<u32>,
    /// All 16 bytes of `deviceUUID` are this one. Two devices may report the same.
    pub device_uuid: Option<u8>,
    /// All 16 bytes of `driverUUID` are this one.
    pub driver_uuid: Option<u8>,
    /// `[domain, bus, device, function]` of `VK_EXT_pci_bus_info`, which is added if the driver lacks it.
    pub pci: Option<[u32; 4]>,
    /// Minor number of the render node in `VK_EXT_physical_device_drm`, which is added if the driver lacks it.
    pub render_node: Option<i64>,
}

/// `VkPhysicalDeviceType`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Vulkan's")]
pub enum Kind {
    Discrete,
    Integrated,
    Virtual,
    Cpu,
}

/// Heaps and memory types of a device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MemoryLayout {
    /// The heaps, in their order.
    pub heaps: Vec<Heap>,
    /// The types, in their order. Each is carried out by a type of the driver that has all its flags.
    pub types: Vec<MemoryType>,
}

/// One heap.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Heap {
    /// Its size.
    pub size: Size,
    /// Whether it is device-local.
    #[serde(default)]
    pub device_local: bool,
}

/// One memory type.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MemoryType {
    /// Index of its heap.
    pub heap: u32,
    /// Its properties.
    pub flags: TypeFlags,
}

/// A call that fails by its number.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FailAt {
    /// Which call, from 1.
    pub at: u64,
    /// With what.
    pub code: Code,
}

/// Which host pointers an import refuses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum HostPointer {
    /// Mappings with a file behind them, shared anonymous memory included.
    File,
    /// Mappings of page frames (`VM_PFNMAP`, `VM_MIXEDMAP`).
    Pfn,
    /// All of them.
    All,
}

/// Which imports poison submissions.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// Those through an fd that another device exported.
    #[default]
    Fd,
    /// Those through an address.
    Host,
    /// Both.
    Any,
}

/// What `vkMapMemory` does with imported memory.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum MapImport {
    /// It fails with `MEMORY_MAP_FAILED`.
    Refuse,
    /// It succeeds, and the first access ends the process with `SIGBUS`.
    Sigbus,
}

/// Whose copies [`Switches::copy_engine_lies`] concerns.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum CopyEngine {
    /// Those of all queue families.
    All,
    /// Those of families without compute and graphics.
    Transfer,
}

/// What waits do on a lost device.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LostWaits {
    /// They return when nothing is in use any more, as the specification asks.
    #[default]
    Finish,
    /// They return at once, while work may still run.
    AtOnce,
}

/// One queue family.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// What its queues can do.
    pub flags: FamilyFlags,
    /// How many queues it has.
    #[serde(default = "one")]
    pub queues: u32,
    /// `timestampValidBits`.
    #[serde(default)]
    pub timestamp_bits: u32,
}

fn one() -> u32 {
    1
}
