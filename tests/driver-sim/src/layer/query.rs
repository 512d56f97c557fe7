//! Questions about a physical device whose answers the switches change.

use std::ffi::{CStr, c_char};

use ash::vk;

use super::chain::{find, find_mut, without, write_list};
use super::physical::Physical;
use super::{cname, origin, report, tiled_queries};

/// Calls the next layer's function of a device's instance. Absent functions leave the output as it is.
macro_rules! next {
    ($device:expr, $pfn:ty, $($name:literal),+) => {
        $device.instance.upgrade().and_then(|instance| {
            None$(.or_else(|| instance.next::<$pfn>(cname!($name))))+
        })
    };
}
pub(super) use next;

pub(super) unsafe extern "system" fn get_properties(
    handle: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceProperties,
) {
    let device = Physical::of(handle);
    if let Some(next) =
        next!(device, vk::PFN_vkGetPhysicalDeviceProperties, "vkGetPhysicalDeviceProperties")
    {
        next(device.raw, out);
        device.change_properties(&mut *out);
    }
}

pub(super) unsafe extern "system" fn get_properties2(
    handle: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceProperties2<'_>,
) {
    let device = Physical::of(handle);
    let next = next!(
        device,
        vk::PFN_vkGetPhysicalDeviceProperties2,
        "vkGetPhysicalDeviceProperties2",
        "vkGetPhysicalDeviceProperties2KHR"
    );
    if let Some(next) = next {
        without(out.cast(), &device.own_structures(), || next(device.raw, out.cast()));
        device.change_properties(&mut (*out).properties);
        device.change_chain((*out).p_next);
    }
}

pub(super) unsafe extern "system" fn get_memory(
    handle: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceMemoryProperties,
) {
    Physical::of(handle).layout.write(&mut *out);
}

pub(super) unsafe extern "system" fn get_memory2(
    handle: vk::PhysicalDevice,
    out: *mut vk::PhysicalDeviceMemoryProperties2<'_>,
) {
    let device = Physical::of(handle);
    let next = next!(
        device,
        vk::PFN_vkGetPhysicalDeviceMemoryProperties2,
        "vkGetPhysicalDeviceMemoryProperties2",
        "vkGetPhysicalDeviceMemoryProperties2KHR"
    );
    let percent = device.switches().budget_percent;
    let own = percent.is_some() || device.layout.is_changed;
    let kinds = [vk::StructureType::PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT];
    if let Some(next) = next {
        without(out.cast(), if own { &kinds } else { &[] }, || next(device.raw, out.cast()));
    }
    device.layout.write(&mut (*out).memory_properties);
    if own
        && let Some(budget) =
            find_mut::<vk::PhysicalDeviceMemoryBudgetPropertiesEXT<'_>>((*out).p_next)
    {
        budget.heap_budget.fill(0);
        budget.heap_usage.fill(0);
        let used = origin::usage(device.index);
        for (at, heap) in device.layout.heaps.iter().enumerate() {
            budget.heap_budget[at] = heap.size / 100 * percent.unwrap_or(100);
            budget.heap_usage[at] = used[at];
        }
    }
}

pub(super) unsafe extern "system" fn enumerate_extensions(
    handle: vk::PhysicalDevice,
    layer: *const c_char,
    count: *mut u32,
    out: *mut vk::ExtensionProperties,
) -> vk::Result {
    let device = Physical::of(handle);
    if !layer.is_null() && CStr::from_ptr(layer) == super::names::LAYER {
        return write_list(&[], count, out);
    }
    if let Some(code) = device.switches().fail_extension_enumeration {
        report::event("fail_extension_enumeration", format_args!("{}", device.label));
        return code.0;
    }
    let Some(next) = next!(
        device,
        vk::PFN_vkEnumerateDeviceExtensionProperties,
        "vkEnumerateDeviceExtensionProperties"
    ) else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    if !layer.is_null() {
        return next(device.raw, layer, count, out);
    }
    match driver_extensions(device, next) {
        Ok(mut all) => {
            all.retain(|extension| {
                extension.extension_name_as_c_str().is_ok_and(|name| !device.hides(name))
            });
            for name in device.added_extensions().filter(|name| !device.hides(name)) {
                if !all.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name)) {
                    let mut added =
                        vk::ExtensionProperties { spec_version: 1, ..Default::default() };
                    for (to, byte) in added.extension_name.iter_mut().zip(name.to_bytes()) {
                        // CAST: the names are ASCII.
                        *to = *byte as c_char;
                    }
                    all.push(added);
                }
            }
            write_list(&all, count, out)
        }
        Err(code) => code,
    }
}

/// The extensions that the driver itself lists.
pub(super) unsafe fn driver_extensions(
    device: &Physical,
    next: vk::PFN_vkEnumerateDeviceExtensionProperties,
) -> Result<Vec<vk::ExtensionProperties>, vk::Result> {
    loop {
        let mut count = 0;
        next(device.raw, std::ptr::null(), &raw mut count, std::ptr::null_mut()).result()?;
        let mut all = vec![vk::ExtensionProperties::default(); count as usize];
        match next(device.raw, std::ptr::null(), &raw mut count, all.as_mut_ptr()) {
            vk::Result::SUCCESS => {
                all.truncate(count as usize);
                return Ok(all);
            }
            vk::Result::INCOMPLETE => {}
            code => return Err(code),
        }
    }
}

pub(super) unsafe extern "system" fn get_families(
    handle: vk::PhysicalDevice,
    count: *mut u32,
    out: *mut vk::QueueFamilyProperties,
) {
    let device = Physical::of(handle);
    let families = device.families();
    if families.is_empty() {
        let next = next!(
            device,
            vk::PFN_vkGetPhysicalDeviceQueueFamilyProperties,
            "vkGetPhysicalDeviceQueueFamilyProperties"
        );
        if let Some(next) = next {
            next(device.raw, count, out);
        }
        return;
    }
    // This call has no result: a list that is cut short is what was asked for.
    let _ = write_list(&families, count, out);
}

pub(super) unsafe extern "system" fn get_families2(
    handle: vk::PhysicalDevice,
    count: *mut u32,
    out: *mut vk::QueueFamilyProperties2<'_>,
) {
    let device = Physical::of(handle);
    let families = device.families();
    if families.is_empty() {
        let next = next!(
            device,
            vk::PFN_vkGetPhysicalDeviceQueueFamilyProperties2,
            "vkGetPhysicalDeviceQueueFamilyProperties2",
            "vkGetPhysicalDeviceQueueFamilyProperties2KHR"
        );
        if let Some(next) = next {
            next(device.raw, count, out.cast());
        }
        return;
    }
    // CAST: a profile has few families.
    let all = families.len() as u32;
    if out.is_null() {
        *count = all;
        return;
    }
    *count = (*count).min(all);
    for (at, family) in families.iter().take(*count as usize).enumerate() {
        (*out.add(at)).queue_family_properties = *family;
    }
}

impl Physical {
    /// The families that the profile describes; none if the driver's are kept.
    pub(super) fn families(&self) -> Vec<vk::QueueFamilyProperties> {
        let described = self.fixed.queue_families.iter();
        described
            .map(|family| vk::QueueFamilyProperties {
                queue_flags: family.flags.0,
                queue_count: family.queues,
                timestamp_valid_bits: family.timestamp_bits,
                min_image_transfer_granularity: vk::Extent3D { width: 1, height: 1, depth: 1 },
            })
            .collect()
    }

    fn lacks_memory(&self, handle: vk::ExternalMemoryHandleTypeFlags) -> bool {
        use vk::ExternalMemoryHandleTypeFlags as H;
        let fixed = &self.fixed;
        fixed.no_opaque_fd && handle == H::OPAQUE_FD
            || fixed.no_dma_buf && handle == H::DMA_BUF_EXT
            || fixed.no_external_memory_host && handle == H::HOST_ALLOCATION_EXT
    }

    /// Whether the device neither exports nor imports semaphores of this type.
    pub(super) fn lacks_semaphore(&self, handle: vk::ExternalSemaphoreHandleTypeFlags) -> bool {
        use vk::ExternalSemaphoreHandleTypeFlags as H;
        let fixed = &self.fixed;
        fixed.no_sync_fd && handle == H::SYNC_FD
            || fixed.no_opaque_semaphore && handle == H::OPAQUE_FD
    }
}

pub(super) unsafe extern "system" fn get_external_buffer(
    handle: vk::PhysicalDevice,
    info: *const vk::PhysicalDeviceExternalBufferInfo<'_>,
    out: *mut vk::ExternalBufferProperties<'_>,
) {
    let device = Physical::of(handle);
    let next = next!(
        device,
        vk::PFN_vkGetPhysicalDeviceExternalBufferProperties,
        "vkGetPhysicalDeviceExternalBufferProperties",
        "vkGetPhysicalDeviceExternalBufferPropertiesKHR"
    );
    if let Some(next) = next {
        next(device.raw, info.cast(), out.cast());
    }
    if device.lacks_memory((*info).handle_type) {
        (*out).external_memory_properties = vk::ExternalMemoryProperties::default();
    }
}

pub(super) unsafe extern "system" fn get_image_format2(
    handle: vk::PhysicalDevice,
    info: *const vk::PhysicalDeviceImageFormatInfo2<'_>,
    out: *mut vk::ImageFormatProperties2<'_>,
) -> vk::Result {
    let device = Physical::of(handle);
    let external = find::<vk::PhysicalDeviceExternalImageFormatInfo<'_>>((*info).p_next);
    if external.is_some_and(|external| device.lacks_memory(external.handle_type)) {
        return vk::Result::ERROR_FORMAT_NOT_SUPPORTED;
    }
    if let Some(code) = tiled_queries::image_format2(device, &*info, &mut *out) {
        return code;
    }
    next!(
        device,
        vk::PFN_vkGetPhysicalDeviceImageFormatProperties2,
        "vkGetPhysicalDeviceImageFormatProperties2",
        "vkGetPhysicalDeviceImageFormatProperties2KHR"
    )
    .map_or(vk::Result::ERROR_FORMAT_NOT_SUPPORTED, |next| {
        next(device.raw, info.cast(), out.cast())
    })
}

pub(super) unsafe extern "system" fn get_external_semaphore(
    handle: vk::PhysicalDevice,
    info: *const vk::PhysicalDeviceExternalSemaphoreInfo<'_>,
    out: *mut vk::ExternalSemaphoreProperties<'_>,
) {
    let device = Physical::of(handle);
    let next = next!(
        device,
        vk::PFN_vkGetPhysicalDeviceExternalSemaphoreProperties,
        "vkGetPhysicalDeviceExternalSemaphoreProperties",
        "vkGetPhysicalDeviceExternalSemaphorePropertiesKHR"
    );
    if let Some(next) = next {
        next(device.raw, info.cast(), out.cast());
    }
    let is_timeline = find::<vk::SemaphoreTypeCreateInfo<'_>>((*info).p_next)
        .is_some_and(|kind| kind.semaphore_type == vk::SemaphoreType::TIMELINE);
    let sync_file = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
    if device.fixed.sync_fd && (*info).handle_type == sync_file && !is_timeline {
        use vk::ExternalSemaphoreFeatureFlags as Features;
        (*out).external_semaphore_features = Features::EXPORTABLE | Features::IMPORTABLE;
        (*out).export_from_imported_handle_types = vk::ExternalSemaphoreHandleTypeFlags::empty();
        (*out).compatible_handle_types = sync_file;
    }
    if device.lacks_semaphore((*info).handle_type) {
        (*out).external_semaphore_features = vk::ExternalSemaphoreFeatureFlags::empty();
        (*out).export_from_imported_handle_types = vk::ExternalSemaphoreHandleTypeFlags::empty();
        (*out).compatible_handle_types = vk::ExternalSemaphoreHandleTypeFlags::empty();
    }
}
