//! The functions of the layer by their names.

use std::ffi::CStr;

use ash::vk;

pub(super) use super::forward::takes_wrapped_handle;
use super::{
    abi, cname, commands, create, device, external, forward, mapping, memory, query, queue,
    requirements, semaphore, submit, tiled_barriers, tiled_queries, tiling, wait,
};

/// The name of the layer.
pub(super) const LAYER: &CStr = c"VK_LAYER_PEERBUF_driver_sim";

/// A function by its name.
type Named = (&'static CStr, unsafe extern "system" fn());

fn find(table: &[Named], name: &CStr) -> vk::PFN_vkVoidFunction {
    table.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
}

macro_rules! table {
    ($(#[$doc:meta])* $table:ident: $($($name:literal)|+ => $function:path,)*) => {
        $(#[$doc])*
        const $table: &[Named] = &[$($(
            // SAFETY: callers cast it back to the type that its name has.
            (cname!($name), unsafe {
                std::mem::transmute::<*const (), unsafe extern "system" fn()>($function as *const ())
            })
        ),+),*];
    };
}

/// Functions that need no instance, or create and destroy it.
pub(super) fn global(name: &CStr) -> vk::PFN_vkVoidFunction {
    find(GLOBAL, name)
}

/// Functions of instances and physical devices.
pub(super) fn physical(name: &CStr) -> vk::PFN_vkVoidFunction {
    find(CHANGED, name).or_else(|| forward::find(name))
}

/// The names of all functions that take a physical device.
pub(super) fn physical_names() -> impl Iterator<Item = &'static CStr> {
    CHANGED.iter().map(|(name, _)| *name).chain(forward::NAMES.iter().copied())
}

/// Functions of devices, queues and command buffers.
pub(super) fn device(name: &CStr) -> vk::PFN_vkVoidFunction {
    find(DEVICE, name)
}

table! {
    /// Functions that need no instance, or create and destroy it.
    GLOBAL:
    "vkGetInstanceProcAddr" => abi::get_instance_proc_addr,
    "vkCreateInstance" => create::create_instance,
    "vkDestroyInstance" => create::destroy_instance,
}

table! {
    /// Functions of instances and physical devices that the switches change.
    CHANGED:
    "vkEnumeratePhysicalDevices" => create::enumerate,
    "vkEnumeratePhysicalDeviceGroups" | "vkEnumeratePhysicalDeviceGroupsKHR" => create::enumerate_groups,
    "vkCreateDevice" => create::create_device,
    "vkEnumerateDeviceExtensionProperties" => query::enumerate_extensions,
    "vkGetPhysicalDeviceProperties" => query::get_properties,
    "vkGetPhysicalDeviceProperties2" | "vkGetPhysicalDeviceProperties2KHR" => query::get_properties2,
    "vkGetPhysicalDeviceMemoryProperties" => query::get_memory,
    "vkGetPhysicalDeviceMemoryProperties2" | "vkGetPhysicalDeviceMemoryProperties2KHR" => query::get_memory2,
    "vkGetPhysicalDeviceQueueFamilyProperties" => query::get_families,
    "vkGetPhysicalDeviceQueueFamilyProperties2" | "vkGetPhysicalDeviceQueueFamilyProperties2KHR" =>
        query::get_families2,
    "vkGetPhysicalDeviceExternalBufferProperties" | "vkGetPhysicalDeviceExternalBufferPropertiesKHR" =>
        query::get_external_buffer,
    "vkGetPhysicalDeviceFormatProperties2" | "vkGetPhysicalDeviceFormatProperties2KHR" =>
        tiled_queries::get_format2,
    "vkGetPhysicalDeviceImageFormatProperties2" | "vkGetPhysicalDeviceImageFormatProperties2KHR" =>
        query::get_image_format2,
    "vkGetPhysicalDeviceExternalSemaphoreProperties" | "vkGetPhysicalDeviceExternalSemaphorePropertiesKHR" =>
        query::get_external_semaphore,
}

table! {
    /// Functions of devices, queues and command buffers.
    DEVICE:
    "vkGetDeviceProcAddr" => abi::get_device_proc_addr,
    "vkDestroyDevice" => device::destroy,
    "vkGetDeviceQueue" => queue::get,
    "vkGetDeviceQueue2" => queue::get2,
    "vkAllocateMemory" => memory::allocate,
    "vkFreeMemory" => memory::free,
    "vkMapMemory" => mapping::map,
    "vkUnmapMemory" => mapping::unmap,
    "vkMapMemory2KHR" => mapping::map2,
    "vkUnmapMemory2KHR" => mapping::unmap2,
    "vkFlushMappedMemoryRanges" => mapping::flush,
    "vkInvalidateMappedMemoryRanges" => mapping::invalidate,
    "vkCreateBuffer" => requirements::create_buffer,
    "vkDestroyBuffer" => requirements::destroy_buffer,
    "vkBindBufferMemory" => requirements::bind_buffer,
    "vkBindBufferMemory2" | "vkBindBufferMemory2KHR" => requirements::bind_buffer2,
    "vkCreateImage" => tiling::create_image,
    "vkDestroyImage" => tiling::destroy_image,
    "vkBindImageMemory" => tiling::bind_image,
    "vkBindImageMemory2" | "vkBindImageMemory2KHR" => tiling::bind_image2,
    "vkGetImageSubresourceLayout" => tiling::subresource_layout,
    "vkGetImageDrmFormatModifierPropertiesEXT" => tiling::modifier,
    "vkGetBufferMemoryRequirements" => requirements::of_buffer,
    "vkGetBufferMemoryRequirements2" => requirements::of_buffer2,
    "vkGetBufferMemoryRequirements2KHR" => requirements::of_buffer2_khr,
    "vkGetImageMemoryRequirements" => tiling::requirements,
    "vkGetImageMemoryRequirements2" | "vkGetImageMemoryRequirements2KHR" => tiling::requirements2,
    "vkGetDeviceBufferMemoryRequirements" => requirements::of_buffer_info,
    "vkGetDeviceBufferMemoryRequirementsKHR" => requirements::of_buffer_info_khr,
    "vkGetDeviceImageMemoryRequirements" => requirements::of_image_info,
    "vkGetDeviceImageMemoryRequirementsKHR" => requirements::of_image_info_khr,
    "vkGetMemoryFdKHR" => external::get_memory_fd,
    "vkGetMemoryFdPropertiesKHR" => external::get_memory_fd_properties,
    "vkGetMemoryHostPointerPropertiesEXT" => external::get_host_pointer_properties,
    "vkCreateSemaphore" => semaphore::create,
    "vkDestroySemaphore" => semaphore::destroy,
    "vkGetSemaphoreFdKHR" => semaphore::get_fd,
    "vkImportSemaphoreFdKHR" => semaphore::import_fd,
    "vkQueueSubmit" => submit::submit,
    "vkQueueSubmit2" | "vkQueueSubmit2KHR" => submit::submit2,
    "vkQueueBindSparse" => queue::bind_sparse,
    "vkQueuePresentKHR" => queue::present,
    "vkQueueBeginDebugUtilsLabelEXT" => queue::begin_label,
    "vkQueueEndDebugUtilsLabelEXT" => queue::end_label,
    "vkQueueInsertDebugUtilsLabelEXT" => queue::insert_label,
    "vkSetDebugUtilsObjectNameEXT" => queue::set_object_name,
    "vkSetDebugUtilsObjectTagEXT" => queue::set_object_tag,
    "vkSetPrivateData" | "vkSetPrivateDataEXT" => queue::set_private_data,
    "vkGetPrivateData" | "vkGetPrivateDataEXT" => queue::get_private_data,
    "vkQueueWaitIdle" => wait::queue_wait_idle,
    "vkDeviceWaitIdle" => wait::device_wait_idle,
    "vkWaitForFences" => wait::wait_for_fences,
    "vkGetFenceStatus" => wait::get_fence_status,
    "vkWaitSemaphores" | "vkWaitSemaphoresKHR" => wait::wait_semaphores,
    "vkGetSemaphoreCounterValue" | "vkGetSemaphoreCounterValueKHR" => wait::get_counter,
    "vkCreateCommandPool" => commands::create_pool,
    "vkDestroyCommandPool" => commands::destroy_pool,
    "vkAllocateCommandBuffers" => commands::allocate,
    "vkCmdCopyBuffer" => commands::copy_buffer,
    "vkCmdPipelineBarrier" => tiled_barriers::pipeline_barrier,
    "vkCmdPipelineBarrier2" | "vkCmdPipelineBarrier2KHR" => tiled_barriers::pipeline_barrier2,
    "vkCmdCopyBuffer2" | "vkCmdCopyBuffer2KHR" => commands::copy_buffer2,
}

/// The version of Vulkan in which a device's function became part of the core.
pub(super) fn since(name: &CStr) -> u32 {
    let is_in =
        |list: &str| list.split_whitespace().any(|known| known.as_bytes() == name.to_bytes());
    if is_in(CORE_1_1) {
        vk::API_VERSION_1_1
    } else if is_in(CORE_1_2) {
        vk::API_VERSION_1_2
    } else if is_in(CORE_1_3) {
        vk::API_VERSION_1_3
    } else {
        vk::API_VERSION_1_0
    }
}

const CORE_1_1: &str = "vkBindBufferMemory2 vkBindImageMemory2 vkGetDeviceGroupPeerMemoryFeatures \
    vkCmdSetDeviceMask vkCmdDispatchBase vkGetImageMemoryRequirements2 vkGetBufferMemoryRequirements2 \
    vkGetImageSparseMemoryRequirements2 vkTrimCommandPool vkGetDeviceQueue2 vkCreateSamplerYcbcrConversion \
    vkDestroySamplerYcbcrConversion vkCreateDescriptorUpdateTemplate vkDestroyDescriptorUpdateTemplate \
    vkUpdateDescriptorSetWithTemplate vkGetDescriptorSetLayoutSupport";

const CORE_1_2: &str = "vkCmdDrawIndirectCount vkCmdDrawIndexedIndirectCount vkCreateRenderPass2 \
    vkCmdBeginRenderPass2 vkCmdNextSubpass2 vkCmdEndRenderPass2 vkResetQueryPool vkGetSemaphoreCounterValue \
    vkWaitSemaphores vkSignalSemaphore vkGetBufferDeviceAddress vkGetBufferOpaqueCaptureAddress \
    vkGetDeviceMemoryOpaqueCaptureAddress";

const CORE_1_3: &str = "vkCreatePrivateDataSlot vkDestroyPrivateDataSlot vkSetPrivateData vkGetPrivateData \
    vkCmdSetEvent2 vkCmdResetEvent2 vkCmdWaitEvents2 vkCmdPipelineBarrier2 vkCmdWriteTimestamp2 vkQueueSubmit2 \
    vkCmdCopyBuffer2 vkCmdCopyImage2 vkCmdCopyBufferToImage2 vkCmdCopyImageToBuffer2 vkCmdBlitImage2 \
    vkCmdResolveImage2 vkCmdBeginRendering vkCmdEndRendering vkCmdSetCullMode vkCmdSetFrontFace \
    vkCmdSetPrimitiveTopology vkCmdSetViewportWithCount vkCmdSetScissorWithCount vkCmdBindVertexBuffers2 \
    vkCmdSetDepthTestEnable vkCmdSetDepthWriteEnable vkCmdSetDepthCompareOp vkCmdSetDepthBoundsTestEnable \
    vkCmdSetStencilTestEnable vkCmdSetStencilOp vkCmdSetRasterizerDiscardEnable vkCmdSetDepthBiasEnable \
    vkCmdSetPrimitiveRestartEnable vkGetDeviceBufferMemoryRequirements vkGetDeviceImageMemoryRequirements \
    vkGetDeviceImageSparseMemoryRequirements";
