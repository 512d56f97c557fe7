//! The loader's interface, instances, and the functions of the layer by their names.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::{Arc, LazyLock, Mutex};

use ash::vk::{self, Handle};

use super::{commands, device, lock, objects, passes, submit};
use crate::layer::abi::{NegotiateLayerInterface, negotiate, take_instance_link};

/// One instance: the next layer's functions.
pub(super) struct Instance {
    pub(super) raw: vk::Instance,
    get: vk::PFN_vkGetInstanceProcAddr,
    pub(super) fns: ash::Instance,
    /// Of an instance with `VK_EXT_debug_utils`.
    pub(super) message: Option<vk::PFN_vkSubmitDebugUtilsMessageEXT>,
}

static INSTANCES: LazyLock<Mutex<HashMap<usize, Arc<Instance>>>> = LazyLock::new(Mutex::default);

/// The key of a dispatchable handle: physical devices have that of their instance, queues and command buffers that of
/// their device.
///
/// # Safety
/// `raw` is a live dispatchable handle.
pub(super) unsafe fn key(raw: u64) -> usize {
    *(raw as *const usize)
}

/// The instance of a physical device.
pub(super) unsafe fn instance_of(physical: vk::PhysicalDevice) -> Option<Arc<Instance>> {
    lock(&INSTANCES).get(&key(physical.as_raw())).cloned()
}

/// The loader's first call to this layer.
///
/// # Safety
/// `interface` is the loader's `VkNegotiateLayerInterface`.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn recorder_negotiate(
    interface: *mut NegotiateLayerInterface,
) -> vk::Result {
    negotiate(interface, get_instance_proc_addr, get_device_proc_addr, None)
}

unsafe extern "system" fn get_instance_proc_addr(
    raw: vk::Instance,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    let text = CStr::from_ptr(name);
    if let Some(own) = global(text) {
        return Some(own);
    }
    if raw == vk::Instance::null() {
        return None;
    }
    let instance = lock(&INSTANCES).get(&key(raw.as_raw())).cloned()?;
    let next = (instance.get)(raw, name)?;
    Some(of_device(text).unwrap_or(next))
}

unsafe extern "system" fn get_device_proc_addr(
    raw: vk::Device,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    let device = device::of(raw)?;
    // What the driver lacks or the application has not enabled stays absent.
    let next = (device.get)(raw, name)?;
    Some(of_device(CStr::from_ptr(name)).unwrap_or(next))
}

unsafe extern "system" fn create_instance(
    info: *const vk::InstanceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Instance,
) -> vk::Result {
    let Some(get) = take_instance_link((*info).p_next) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    let Some(create) = get(vk::Instance::null(), c"vkCreateInstance".as_ptr()) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    // SAFETY: the function of this name.
    let create = unsafe {
        std::mem::transmute::<unsafe extern "system" fn(), vk::PFN_vkCreateInstance>(create)
    };
    let result = create(info.cast(), allocator.cast(), out);
    if result != vk::Result::SUCCESS {
        return result;
    }
    let raw = *out;
    let extensions = match (*info).enabled_extension_count {
        0 => &[],
        count => std::slice::from_raw_parts((*info).pp_enabled_extension_names, count as usize),
    };
    let has_messages =
        extensions.iter().any(|name| CStr::from_ptr(*name) == vk::EXT_DEBUG_UTILS_NAME);
    let message = get(raw, c"vkSubmitDebugUtilsMessageEXT".as_ptr()).filter(|_| has_messages);
    let load =
        |name: &CStr| get(raw, name.as_ptr()).map_or(std::ptr::null(), |found| found as *const _);
    let instance = Instance {
        raw,
        get,
        fns: ash::Instance::load_with(load, raw),
        // SAFETY: the function of this name.
        message: unsafe {
            std::mem::transmute::<
                vk::PFN_vkVoidFunction,
                Option<vk::PFN_vkSubmitDebugUtilsMessageEXT>,
            >(message)
        },
    };
    lock(&INSTANCES).insert(key(raw.as_raw()), Arc::new(instance));
    result
}

unsafe extern "system" fn destroy_instance(
    raw: vk::Instance,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    if raw == vk::Instance::null() {
        return;
    }
    if let Some(instance) = lock(&INSTANCES).remove(&key(raw.as_raw())) {
        instance.fns.destroy_instance(allocator.as_ref());
    }
}

macro_rules! table {
    ($(#[$doc:meta])* $find:ident: $($($name:literal)|+ => $function:path,)*) => {
        $(#[$doc])*
        fn $find(name: &CStr) -> vk::PFN_vkVoidFunction {
            let function = match name.to_bytes() {
                $($($name)|+ => $function as *const (),)*
                _ => return None,
            };
            // SAFETY: callers cast it back to the type that its name has.
            Some(unsafe { std::mem::transmute::<*const (), unsafe extern "system" fn()>(function) })
        }
    };
}

table! {
    /// Functions that need no instance, or that create or destroy something with a dispatch table.
    global:
    b"vkGetInstanceProcAddr" => get_instance_proc_addr,
    b"vkCreateInstance" => create_instance,
    b"vkDestroyInstance" => destroy_instance,
    b"vkCreateDevice" => device::create,
}

table! {
    /// Functions of devices, queues and command buffers.
    of_device:
    b"vkGetDeviceProcAddr" => get_device_proc_addr,
    b"vkDestroyDevice" => device::destroy,
    b"vkGetDeviceQueue" => device::get_queue,
    b"vkGetDeviceQueue2" => device::get_queue2,
    b"vkAllocateMemory" => objects::allocate_memory,
    b"vkFreeMemory" => objects::free_memory,
    b"vkGetMemoryFdKHR" => objects::get_memory_fd,
    b"vkCreateBuffer" => objects::create_buffer,
    b"vkDestroyBuffer" => objects::destroy_buffer,
    b"vkBindBufferMemory" => objects::bind_buffer,
    b"vkBindBufferMemory2" | b"vkBindBufferMemory2KHR" => objects::bind_buffer2,
    b"vkCreateImage" => objects::create_image,
    b"vkDestroyImage" => objects::destroy_image,
    b"vkBindImageMemory" => objects::bind_image,
    b"vkBindImageMemory2" | b"vkBindImageMemory2KHR" => objects::bind_image2,
    b"vkCreateImageView" => objects::create_view,
    b"vkDestroyImageView" => objects::destroy_view,
    b"vkUpdateDescriptorSets" => objects::update_sets,
    b"vkCreateRenderPass" => passes::create_pass,
    b"vkCreateRenderPass2" | b"vkCreateRenderPass2KHR" => passes::create_pass2,
    b"vkDestroyRenderPass" => passes::destroy_pass,
    b"vkCreateFramebuffer" => passes::create_framebuffer,
    b"vkDestroyFramebuffer" => passes::destroy_framebuffer,
    b"vkCmdBeginRenderPass" => passes::begin,
    b"vkCmdBeginRenderPass2" | b"vkCmdBeginRenderPass2KHR" => passes::begin2,
    b"vkCmdEndRenderPass" => passes::end,
    b"vkCmdEndRenderPass2" | b"vkCmdEndRenderPass2KHR" => passes::end2,
    b"vkCmdBeginRendering" | b"vkCmdBeginRenderingKHR" => passes::begin_rendering,
    b"vkBeginCommandBuffer" => commands::begin,
    b"vkFreeCommandBuffers" => commands::free,
    b"vkCmdPipelineBarrier" => commands::barrier,
    b"vkCmdPipelineBarrier2" | b"vkCmdPipelineBarrier2KHR" => commands::barrier2,
    b"vkCmdCopyBuffer" => commands::copy_buffer,
    b"vkCmdCopyBuffer2" | b"vkCmdCopyBuffer2KHR" => commands::copy_buffer2,
    b"vkCmdFillBuffer" => commands::fill_buffer,
    b"vkCmdUpdateBuffer" => commands::update_buffer,
    b"vkCmdCopyImage" => commands::copy_image,
    b"vkCmdCopyImage2" | b"vkCmdCopyImage2KHR" => commands::copy_image2,
    b"vkCmdBlitImage" => commands::blit,
    b"vkCmdBlitImage2" | b"vkCmdBlitImage2KHR" => commands::blit2,
    b"vkCmdResolveImage" => commands::resolve,
    b"vkCmdResolveImage2" | b"vkCmdResolveImage2KHR" => commands::resolve2,
    b"vkCmdCopyBufferToImage" => commands::to_image,
    b"vkCmdCopyBufferToImage2" | b"vkCmdCopyBufferToImage2KHR" => commands::to_image2,
    b"vkCmdCopyImageToBuffer" => commands::to_buffer,
    b"vkCmdCopyImageToBuffer2" | b"vkCmdCopyImageToBuffer2KHR" => commands::to_buffer2,
    b"vkCmdClearColorImage" => commands::clear_color,
    b"vkCmdClearDepthStencilImage" => commands::clear_depth,
    b"vkCmdBindDescriptorSets" => commands::bind_sets,
    b"vkCmdDispatch" => commands::dispatch,
    b"vkCmdDispatchIndirect" => commands::dispatch_indirect,
    b"vkCmdDraw" => commands::draw,
    b"vkCmdDrawIndexed" => commands::draw_indexed,
    b"vkCmdDrawIndirect" => commands::draw_indirect,
    b"vkCmdDrawIndexedIndirect" => commands::draw_indexed_indirect,
    b"vkCmdExecuteCommands" => commands::execute,
    b"vkQueueSubmit" => submit::submit,
    b"vkQueueSubmit2" | b"vkQueueSubmit2KHR" => submit::submit2,
    b"vkQueueWaitIdle" => submit::queue_wait_idle,
    b"vkDeviceWaitIdle" => submit::device_wait_idle,
    b"vkCreateSemaphore" => submit::create_semaphore,
    b"vkDestroySemaphore" => submit::destroy_semaphore,
    b"vkGetSemaphoreFdKHR" => submit::get_semaphore_fd,
    b"vkImportSemaphoreFdKHR" => submit::import_semaphore_fd,
    b"vkSignalSemaphore" | b"vkSignalSemaphoreKHR" => submit::signal_semaphore,
    b"vkWaitSemaphores" | b"vkWaitSemaphoresKHR" => submit::wait_semaphores,
    b"vkGetSemaphoreCounterValue" | b"vkGetSemaphoreCounterValueKHR" => submit::get_counter,
    b"vkWaitForFences" => submit::wait_for_fences,
    b"vkGetFenceStatus" => submit::get_fence_status,
    b"vkResetFences" => submit::reset_fences,
    b"vkDestroyFence" => submit::destroy_fence,
}
