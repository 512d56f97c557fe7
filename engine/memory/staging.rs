//! Staging memory: private to one device, allocated by `gpu-allocator`.
#![expect(unsafe_code, reason = "buffers bound to memory that gpu-allocator owns")]

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;
use gpu_allocator::vulkan::{
    Allocation, AllocationCreateDesc, AllocationScheme, Allocator, AllocatorCreateDesc,
};
use gpu_allocator::{AllocationError, AllocationSizes, MemoryLocation};

use super::memory_type;
use super::volatile::HostPtr;
use crate::device::{Adapter, DeviceInner, MemoryType};
use crate::error::{Error, Result};

/// A device's staging memory.
pub(crate) struct Staging {
    /// `gpu-allocator` needs `&mut`. Dropped before the device, whose memory it frees.
    allocator: ManuallyDrop<Mutex<Allocator>>,
    device: Arc<DeviceInner>,
}

/// The direction of a copy through staging memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The host writes, the device reads.
    Upload,
    /// The device writes, the host reads.
    Readback,
}

impl Staging {
    pub(crate) fn new(device: &Arc<DeviceInner>) -> Result<Arc<Self>> {
        Self::with_blocks(device, block_sizes(device.adapter()))
    }

    /// Staging memory in small blocks, for a device that lives only for some passes.
    pub(crate) fn small(device: &Arc<DeviceInner>) -> Result<Arc<Self>> {
        // The smallest that the allocator takes.
        const BLOCK: u64 = 4 << 20;
        Self::with_blocks(device, AllocationSizes::new(BLOCK, BLOCK))
    }

    fn with_blocks(device: &Arc<DeviceInner>, sizes: AllocationSizes) -> Result<Arc<Self>> {
        let desc = AllocatorCreateDesc {
            instance: device.adapter().instance().raw().clone(),
            device: device.raw().clone(),
            physical_device: device.adapter().physical(),
            debug_settings: Default::default(),
            buffer_device_address: false,
            allocation_sizes: sizes,
        };
        let allocator = Allocator::new(&desc).map_err(|source| Error::Staging {
            device: device.name().to_owned(),
            size: 0,
            source,
        })?;
        Ok(Arc::new(Self {
            allocator: ManuallyDrop::new(Mutex::new(allocator)),
            device: Arc::clone(device),
        }))
    }

    /// Allocates a mapped buffer of `size` bytes.
    pub(crate) fn buffer(
        self: &Arc<Self>,
        size: u64,
        direction: Direction,
    ) -> Result<StagingBuffer> {
        let device = &self.device;
        let usage = vk::BufferUsageFlags::TRANSFER_SRC
            | vk::BufferUsageFlags::TRANSFER_DST
            | vk::BufferUsageFlags::STORAGE_BUFFER;
        let info = vk::BufferCreateInfo::default().size(size).usage(usage);
        // SAFETY: a plain buffer of a size that is not zero.
        let raw = unsafe { device.raw().create_buffer(&info, None) }
            .map_err(|code| device.error("vkCreateBuffer", code))?;
        let mut buffer = StagingBuffer { staging: Arc::clone(self), raw, allocation: None };
        // SAFETY: the buffer is live.
        let requirements = unsafe { device.raw().get_buffer_memory_requirements(raw) };
        let allocation = self
            .allocate(raw, requirements, direction)
            .map_err(|source| Error::Staging { device: device.name().to_owned(), size, source })?;
        let allocation = buffer.allocation.insert(allocation);
        // SAFETY: the allocation's memory is live while the allocation is.
        let memory = unsafe { allocation.memory() };
        // SAFETY: the range was allocated for this buffer's requirements, and nothing else uses it.
        unsafe { device.raw().bind_buffer_memory(raw, memory, allocation.offset()) }
            .map_err(|code| device.error("vkBindBufferMemory", code))?;
        Ok(buffer)
    }

    /// Allocates memory for a buffer: a part of a block, or if there is no memory for a block, as much as the buffer
    /// needs (Traverse-Research/gpu-allocator#57). Each is tried in the best memory first.
    fn allocate(
        &self,
        buffer: vk::Buffer,
        requirements: vk::MemoryRequirements,
        direction: Direction,
    ) -> Result<Allocation, AllocationError> {
        let mut allocator = self.allocator.lock().unwrap_or_else(PoisonError::into_inner);
        let location = match direction {
            Direction::Upload => MemoryLocation::CpuToGpu,
            Direction::Readback => MemoryLocation::GpuToCpu,
        };
        let (usable, spared) = staging_types(self.device.adapter());
        let usable = usable & requirements.memory_type_bits;
        let mut last = Err(AllocationError::NoCompatibleMemoryTypeFound);
        for memory_type_bits in [usable & !spared, usable & spared] {
            let schemes =
                [AllocationScheme::GpuAllocatorManaged, AllocationScheme::DedicatedBuffer(buffer)];
            for allocation_scheme in schemes.into_iter().filter(|_| memory_type_bits != 0) {
                last = allocator.allocate(&AllocationCreateDesc {
                    name: "peerbuf staging",
                    requirements: vk::MemoryRequirements { memory_type_bits, ..requirements },
                    location,
                    linear: true,
                    allocation_scheme,
                });
                match last {
                    Err(AllocationError::OutOfMemory) => {}
                    // The spared types may have what the others lack.
                    Err(AllocationError::NoCompatibleMemoryTypeFound) => break,
                    _ => return last,
                }
            }
        }
        last
    }
}

/// Bytes of a block of staging memory, from which buffers get parts: 8 MiB, or half of it on a device whose memory for
/// the host is small.
fn block_sizes(adapter: &Adapter) -> AllocationSizes {
    const BLOCK: u64 = 8 << 20;
    const SMALL_HEAP: u64 = 16 * BLOCK;
    let visible = vk::MemoryPropertyFlags::HOST_VISIBLE;
    let seen = adapter.memory_types().iter().filter(|kind| kind.flags.contains(visible));
    let heaps = seen.filter_map(|kind| adapter.heaps().get(kind.heap as usize));
    let largest = heaps.map(|heap| heap.size).max().unwrap_or(0);
    let block = if largest < SMALL_HEAP { BLOCK / 2 } else { BLOCK };
    AllocationSizes::new(block, block)
}

/// A device-local heap that the host can see and that is no larger is spared.
const SMALL_BAR: u64 = 256 << 20;

/// The memory types that may be used, and among them those of small device-local heaps. Without a resizable BAR, drivers
/// and all processes share the 256 MiB that the host can see.
fn staging_types(adapter: &Adapter) -> (u32, u32) {
    let local = vk::MemoryPropertyFlags::DEVICE_LOCAL;
    let is_small =
        |heap: u32| adapter.heaps().get(heap as usize).is_some_and(|heap| heap.size <= SMALL_BAR);
    let bits = |of: &dyn Fn(&MemoryType) -> bool| {
        let types = (0u32..).zip(adapter.memory_types()).filter(|(_, kind)| of(kind));
        types.fold(0, |bits, (index, _)| bits | 1 << index)
    };
    let spared = bits(&|kind| kind.flags.contains(local) && is_small(kind.heap));
    (bits(&|kind| memory_type::is_usable(kind.flags)), spared)
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: dropped once, here, before the device that it frees memory of.
        unsafe { ManuallyDrop::drop(&mut self.allocator) };
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

/// A buffer in staging memory, mapped for the host.
///
/// # Invariants
///
/// `raw` is live and ours; once constructed it is bound to `allocation`. A caller that submits work that uses
/// it waits for that work before dropping it.
#[derive(Debug)]
pub(crate) struct StagingBuffer {
    raw: vk::Buffer,
    /// `None` only during construction and drop.
    allocation: Option<Allocation>,
    staging: Arc<Staging>,
}

impl StagingBuffer {
    pub(crate) fn raw(&self) -> vk::Buffer {
        self.raw
    }

    /// The host's mapping. `gpu-allocator` uses only coherent memory for both directions.
    pub(crate) fn host(&self) -> Result<HostPtr> {
        self.allocation
            .as_ref()
            .and_then(Allocation::mapped_ptr)
            .map(|pointer| HostPtr::new(pointer.cast()))
            .ok_or_else(|| Error::Unsupported {
                device: self.staging.device.name().to_owned(),
                missing: "host-visible memory for staging".into(),
            })
    }
}

impl Drop for StagingBuffer {
    fn drop(&mut self) {
        // SAFETY: by the type invariant live, ours, and idle.
        unsafe { self.staging.device.raw().destroy_buffer(self.raw, None) };
        if let Some(allocation) = self.allocation.take() {
            let mut allocator =
                self.staging.allocator.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = allocator.free(allocation) {
                tracing::error!(%error, "freeing staging memory failed; leaked");
            }
        }
    }
}
