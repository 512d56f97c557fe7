//! `vkAllocateMemory` and `vkFreeMemory`: limits, the sizes of heaps, imports.

use std::sync::atomic::Ordering;

use ash::vk;

use super::device::{self, Device};
use super::import::Import;
use super::mapping::Mapped;
use super::physical::Physical;
use super::{lock, origin, report};

/// One memory object.
pub(super) struct Memory {
    pub(super) size: u64,
    /// Index of its type as the application sees it.
    pub(super) kind: u32,
    /// The heap that was charged.
    heap: Option<u32>,
    pub(super) import: Option<Import>,
    pub(super) mapped: Option<Mapped>,
}

impl Memory {
    /// Gives back what the memory counted for.
    pub(super) fn forget(self, physical: &Physical) {
        if let Some(heap) = self.heap {
            origin::uncharge(physical.index, heap, self.size);
        }
        if let Some(Import::Fd { from: Some(from), .. }) = self.import {
            origin::count_import(from.index, false);
        }
    }
}

pub(super) unsafe extern "system" fn allocate(
    raw: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::DeviceMemory,
) -> vk::Result {
    let (device, info) = (device::of(raw), &*info);
    let import = Import::of(&device, info);
    let heap = match admit(&device, info, import) {
        Ok(heap) => heap,
        Err(code) => {
            if let Some(Import::Fd { fd, .. }) = import
                && device.switches().failed_import_closes_fd
            {
                report::event(
                    "failed_import_closes_fd",
                    format_args!("{}: fd {fd}", device.label()),
                );
                rustix::io::close(fd);
            }
            return code;
        }
    };
    let mut own = *info;
    // An index that the device does not have is the application's fault; the driver's answer is as good as any.
    own.memory_type_index =
        device.physical.layout.real(info.memory_type_index).unwrap_or(info.memory_type_index);
    let result =
        (device.fns.fp_v1_0().allocate_memory)(raw, (&raw const own).cast(), allocator.cast(), out);
    let memory = Memory {
        size: info.allocation_size,
        kind: info.memory_type_index,
        heap,
        import,
        mapped: None,
    };
    if result == vk::Result::SUCCESS {
        if let Some(Import::Fd { from: Some(from), .. }) = import {
            origin::count_import(from.index, true);
        }
        lock(&device.memory).insert(*out, memory);
    } else if let Some(heap) = heap {
        origin::uncharge(device.physical.index, heap, info.allocation_size);
    }
    result
}

/// Checks limits and imports, and charges the heap. Returns the charged heap.
unsafe fn admit(
    device: &Device,
    info: &vk::MemoryAllocateInfo<'_>,
    import: Option<Import>,
) -> Result<Option<u32>, vk::Result> {
    let switches = device.switches();
    let number = device.allocations.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(fail) = switches.fail_allocation
        && fail.at == number
    {
        report::event("fail_allocation", format_args!("{}: allocation {number}", device.label()));
        return Err(fail.code.0);
    }
    let size = info.allocation_size;
    if let Some(limit) = switches.max_allocation
        && size > limit.0
    {
        report::event(
            "max_allocation",
            format_args!("{}: {size} of {} bytes", device.label(), limit.0),
        );
        return Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
    }
    if let Some(limit) = switches.max_allocation_count
        && lock(&device.memory).len() >= limit as usize
    {
        report::event(
            "max_allocation_count",
            format_args!("{}: {limit} allocations", device.label()),
        );
        return Err(vk::Result::ERROR_TOO_MANY_OBJECTS);
    }
    if let Some(import) = import {
        import.check(device, info)?;
        return Ok(None);
    }
    let layout = &device.physical.layout;
    let Some(memory) = layout.types.get(info.memory_type_index as usize) else {
        return Ok(None);
    };
    let limit =
        if switches.overcommit { u64::MAX } else { layout.heaps[memory.heap as usize].size };
    if origin::charge(device.physical.index, memory.heap, size, limit) {
        return Ok(Some(memory.heap));
    }
    report::event(
        "heap",
        format_args!("{}: heap {} has no room for {size} bytes", device.label(), memory.heap),
    );
    Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY)
}

pub(super) unsafe extern "system" fn free(
    raw: vk::Device,
    memory: vk::DeviceMemory,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = device::of(raw);
    let known = lock(&device.memory).remove(&memory);
    device.fns.free_memory(memory, allocator.as_ref());
    if let Some(known) = known {
        known.forget(&device.physical);
    }
}
