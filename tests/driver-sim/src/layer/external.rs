//! Exports of memory, and what a device says about a handle that it is shown.

use std::ffi::c_void;

use ash::vk;

use super::{cname, device, origin};

pub(super) unsafe extern "system" fn get_memory_fd(
    raw: vk::Device,
    info: *const vk::MemoryGetFdInfoKHR<'_>,
    out: *mut i32,
) -> vk::Result {
    let device = device::of(raw);
    let Some(next) = device.next::<vk::PFN_vkGetMemoryFdKHR>(cname!("vkGetMemoryFdKHR").as_ptr())
    else {
        return vk::Result::ERROR_OUT_OF_HOST_MEMORY;
    };
    let result = next(raw, info.cast(), out);
    if result == vk::Result::SUCCESS
        && let Some((file, _)) = origin::FileId::of_number(*out)
    {
        // Memory that was imported and is handed on stays its exporter's.
        if origin::exporter(file).is_none() {
            let poisons = device.switches().export_poisons_importers;
            origin::exported(file, origin::Exporter { index: device.physical.index, poisons });
        }
    }
    result
}

pub(super) unsafe extern "system" fn get_memory_fd_properties(
    raw: vk::Device,
    handle: vk::ExternalMemoryHandleTypeFlags,
    fd: i32,
    out: *mut vk::MemoryFdPropertiesKHR<'_>,
) -> vk::Result {
    let device = device::of(raw);
    let next = device
        .next::<vk::PFN_vkGetMemoryFdPropertiesKHR>(cname!("vkGetMemoryFdPropertiesKHR").as_ptr());
    let Some(next) = next else {
        return vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
    };
    let result = next(raw, handle, fd, out.cast());
    if result == vk::Result::SUCCESS {
        (*out).memory_type_bits = device.physical.layout.bits((*out).memory_type_bits);
    }
    result
}

pub(super) unsafe extern "system" fn get_host_pointer_properties(
    raw: vk::Device,
    handle: vk::ExternalMemoryHandleTypeFlags,
    pointer: *const c_void,
    out: *mut vk::MemoryHostPointerPropertiesEXT<'_>,
) -> vk::Result {
    let device = device::of(raw);
    type Next = vk::PFN_vkGetMemoryHostPointerPropertiesEXT;
    let Some(next) = device.next::<Next>(cname!("vkGetMemoryHostPointerPropertiesEXT").as_ptr())
    else {
        return vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
    };
    let result = next(raw, handle, pointer, out.cast());
    if result == vk::Result::SUCCESS {
        (*out).memory_type_bits = device.physical.layout.host_bits((*out).memory_type_bits);
    }
    result
}
