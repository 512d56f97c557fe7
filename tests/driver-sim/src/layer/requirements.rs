//! Buffers and images: their sizes, the memory types that fit them, and the memory of bound buffers.

use ash::vk;

use super::device::{self, Device};
use super::{cname, lock, report};

pub(super) unsafe extern "system" fn create_buffer(
    raw: vk::Device,
    info: *const vk::BufferCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Buffer,
) -> vk::Result {
    let device = device::of(raw);
    if let Some(limit) = device.switches().max_buffer_size
        && (*info).size > limit.0
    {
        report::event(
            "max_buffer_size",
            format_args!("{}: {} bytes", device.label(), (*info).size),
        );
        return vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    }
    (device.fns.fp_v1_0().create_buffer)(raw, info.cast(), allocator.cast(), out)
}

pub(super) unsafe extern "system" fn destroy_buffer(
    raw: vk::Device,
    buffer: vk::Buffer,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = device::of(raw);
    lock(&device.buffers).remove(&buffer);
    device.fns.destroy_buffer(buffer, allocator.as_ref());
}

pub(super) unsafe extern "system" fn bind_buffer(
    raw: vk::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    offset: vk::DeviceSize,
) -> vk::Result {
    let device = device::of(raw);
    lock(&device.buffers).insert(buffer, memory);
    (device.fns.fp_v1_0().bind_buffer_memory)(raw, buffer, memory, offset)
}

pub(super) unsafe extern "system" fn bind_buffer2(
    raw: vk::Device,
    count: u32,
    infos: *const vk::BindBufferMemoryInfo<'_>,
) -> vk::Result {
    let device = device::of(raw);
    for info in std::slice::from_raw_parts(infos, count as usize) {
        lock(&device.buffers).insert(info.buffer, info.memory);
    }
    let next = device
        .next::<vk::PFN_vkBindBufferMemory2>(cname!("vkBindBufferMemory2").as_ptr())
        .or_else(|| device.next(cname!("vkBindBufferMemory2KHR").as_ptr()));
    next.map_or(vk::Result::ERROR_OUT_OF_HOST_MEMORY, |next| next(raw, count, infos.cast()))
}

impl Device {
    /// Whether the buffer's memory was imported.
    pub(super) fn is_import(&self, buffer: vk::Buffer) -> bool {
        let Some(memory) = lock(&self.buffers).get(&buffer).copied() else {
            return false;
        };
        lock(&self.memory).get(&memory).is_some_and(|memory| memory.import.is_some())
    }
}

pub(super) unsafe extern "system" fn of_buffer(
    raw: vk::Device,
    buffer: vk::Buffer,
    out: *mut vk::MemoryRequirements,
) {
    let device = device::of(raw);
    *out = device.fns.get_buffer_memory_requirements(buffer);
    (*out).memory_type_bits = device.physical.layout.bits((*out).memory_type_bits);
}

macro_rules! second {
    ($($own:ident $name:literal $info:ty;)*) => {$(
        pub(super) unsafe extern "system" fn $own(
            raw: vk::Device,
            info: *const $info,
            out: *mut vk::MemoryRequirements2<'_>,
        ) {
            type Next = unsafe extern "system" fn(vk::Device, *const $info, *mut vk::MemoryRequirements2<'_>);
            let device = device::of(raw);
            if let Some(next) = device.next::<Next>(cname!($name).as_ptr()) {
                next(raw, info, out);
                let bits = &mut (*out).memory_requirements.memory_type_bits;
                *bits = device.physical.layout.bits(*bits);
            }
        }
    )*};
}

second! {
    of_buffer2 "vkGetBufferMemoryRequirements2" vk::BufferMemoryRequirementsInfo2<'_>;
    of_buffer2_khr "vkGetBufferMemoryRequirements2KHR" vk::BufferMemoryRequirementsInfo2<'_>;
    of_buffer_info "vkGetDeviceBufferMemoryRequirements" vk::DeviceBufferMemoryRequirements<'_>;
    of_buffer_info_khr "vkGetDeviceBufferMemoryRequirementsKHR" vk::DeviceBufferMemoryRequirements<'_>;
    of_image_info "vkGetDeviceImageMemoryRequirements" vk::DeviceImageMemoryRequirements<'_>;
    of_image_info_khr "vkGetDeviceImageMemoryRequirementsKHR" vk::DeviceImageMemoryRequirements<'_>;
}
