//! What a device with `tiled_modifier` says about such images.

use ash::vk;

use super::chain::{find, find_mut, without};
use super::physical::Physical;
use super::query::{driver_extensions, next};
use super::{cname, tiling};

/// The features of optimal images that tiled images have as well.
fn features_of(optimal: vk::FormatFeatureFlags) -> vk::FormatFeatureFlags {
    use vk::FormatFeatureFlags as F;
    optimal
        & (F::SAMPLED_IMAGE
            | F::SAMPLED_IMAGE_FILTER_LINEAR
            | F::STORAGE_IMAGE
            | F::COLOR_ATTACHMENT
            | F::COLOR_ATTACHMENT_BLEND
            | F::BLIT_SRC
            | F::BLIT_DST
            | F::TRANSFER_SRC
            | F::TRANSFER_DST)
}

pub(super) unsafe extern "system" fn get_format2(
    handle: vk::PhysicalDevice,
    format: vk::Format,
    out: *mut vk::FormatProperties2<'_>,
) {
    let device = Physical::of(handle);
    type Next = vk::PFN_vkGetPhysicalDeviceFormatProperties2;
    let Some(next) = next!(
        device,
        Next,
        "vkGetPhysicalDeviceFormatProperties2",
        "vkGetPhysicalDeviceFormatProperties2KHR"
    ) else {
        return;
    };
    let Some(modifier) = device.fixed.tiled_modifier else {
        next(device.raw, format, out.cast());
        return;
    };
    let kinds = [
        vk::StructureType::DRM_FORMAT_MODIFIER_PROPERTIES_LIST_EXT,
        vk::StructureType::DRM_FORMAT_MODIFIER_PROPERTIES_LIST_2_EXT,
    ];
    without(out.cast(), &kinds, || next(device.raw, format, out.cast()));
    let mut all = Vec::new();
    let features = features_of((*out).format_properties.optimal_tiling_features);
    if tiling::texel_bytes(format).is_some() && !features.is_empty() {
        all.push(vk::DrmFormatModifierPropertiesEXT {
            drm_format_modifier: modifier,
            drm_format_modifier_plane_count: 1,
            drm_format_modifier_tiling_features: features,
        });
    }
    all.extend(of_driver(device, format, next));
    type List<'a> = vk::DrmFormatModifierPropertiesListEXT<'a>;
    if let Some(list) = find_mut::<List<'_>>((*out).p_next) {
        let room = list.p_drm_format_modifier_properties;
        list.drm_format_modifier_count = write(&all, room, list.drm_format_modifier_count);
    }
    type List2<'a> = vk::DrmFormatModifierPropertiesList2EXT<'a>;
    if let Some(list) = find_mut::<List2<'_>>((*out).p_next) {
        let second = |one: &vk::DrmFormatModifierPropertiesEXT| {
            let features = u64::from(one.drm_format_modifier_tiling_features.as_raw());
            vk::DrmFormatModifierProperties2EXT {
                drm_format_modifier: one.drm_format_modifier,
                drm_format_modifier_plane_count: one.drm_format_modifier_plane_count,
                drm_format_modifier_tiling_features: vk::FormatFeatureFlags2::from_raw(features),
            }
        };
        let all: Vec<_> = all.iter().map(second).collect();
        let room = list.p_drm_format_modifier_properties;
        list.drm_format_modifier_count = write(&all, room, list.drm_format_modifier_count);
    }
}

/// Writes a list, by Vulkan's two-call idiom. Returns how many were written, or how many there are.
unsafe fn write<T: Copy>(items: &[T], room: *mut T, count: u32) -> u32 {
    // CAST: there are few modifiers.
    let all = items.len() as u32;
    if room.is_null() {
        return all;
    }
    for (at, item) in items.iter().take(count as usize).enumerate() {
        *room.add(at) = *item;
    }
    all.min(count)
}

/// The modifiers that the driver lists itself.
unsafe fn of_driver(
    device: &Physical,
    format: vk::Format,
    next: vk::PFN_vkGetPhysicalDeviceFormatProperties2,
) -> Vec<vk::DrmFormatModifierPropertiesEXT> {
    let extensions = next!(
        device,
        vk::PFN_vkEnumerateDeviceExtensionProperties,
        "vkEnumerateDeviceExtensionProperties"
    );
    let listed = extensions.and_then(|next| driver_extensions(device, next).ok());
    let name = vk::EXT_IMAGE_DRM_FORMAT_MODIFIER_NAME;
    let mut listed = listed.into_iter().flatten();
    if !listed.any(|extension| extension.extension_name_as_c_str() == Ok(name)) {
        return Vec::new();
    }
    let ask = |room: &mut [vk::DrmFormatModifierPropertiesEXT]| {
        let mut list = vk::DrmFormatModifierPropertiesListEXT::default();
        if !room.is_empty() {
            list = list.drm_format_modifier_properties(room);
        }
        let mut out = vk::FormatProperties2::default().push_next(&mut list);
        next(device.raw, format, (&raw mut out).cast());
        list.drm_format_modifier_count as usize
    };
    let mut all = vec![vk::DrmFormatModifierPropertiesEXT::default(); ask(&mut [])];
    let count = ask(&mut all);
    all.truncate(count);
    all
}

/// The answer to an image query about tiled images; `None` if it is about others.
pub(super) unsafe fn image_format2(
    device: &Physical,
    info: &vk::PhysicalDeviceImageFormatInfo2<'_>,
    out: &mut vk::ImageFormatProperties2<'_>,
) -> Option<vk::Result> {
    let modifier = device.fixed.tiled_modifier?;
    let asked = find::<vk::PhysicalDeviceImageDrmFormatModifierInfoEXT<'_>>(info.p_next)?;
    if asked.drm_format_modifier != modifier {
        return None;
    }
    let refused = Some(vk::Result::ERROR_FORMAT_NOT_SUPPORTED);
    if tiling::texel_bytes(info.format).is_none() || info.ty != vk::ImageType::TYPE_2D {
        return refused;
    }
    let mut shared = vk::ExternalMemoryProperties::default();
    if let Some(external) = find::<vk::PhysicalDeviceExternalImageFormatInfo<'_>>(info.p_next)
        && !external.handle_type.is_empty()
    {
        shared = of_memory(device, external.handle_type);
        // Tiles are for memory that a driver allocates.
        let host = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        if external.handle_type == host || shared.external_memory_features.is_empty() {
            return refused;
        }
    }
    let mut own = *info;
    own.p_next = std::ptr::null();
    own.tiling = vk::ImageTiling::OPTIMAL;
    own.usage |= vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST;
    let mut plain = vk::ImageFormatProperties2::default();
    let next = next!(
        device,
        vk::PFN_vkGetPhysicalDeviceImageFormatProperties2,
        "vkGetPhysicalDeviceImageFormatProperties2",
        "vkGetPhysicalDeviceImageFormatProperties2KHR"
    );
    let code = next.map_or(vk::Result::ERROR_FORMAT_NOT_SUPPORTED, |next| {
        next(device.raw, (&raw const own).cast(), (&raw mut plain).cast())
    });
    if code == vk::Result::SUCCESS {
        let mut said = plain.image_format_properties;
        (said.max_mip_levels, said.max_array_layers) = (1, 1);
        said.sample_counts = vk::SampleCountFlags::TYPE_1;
        out.image_format_properties = said;
        if let Some(external) = find_mut::<vk::ExternalImageFormatProperties<'_>>(out.p_next) {
            external.external_memory_properties = shared;
        }
    }
    Some(code)
}

/// What the device does with memory of this kind: what it does with that of buffers.
unsafe fn of_memory(
    device: &Physical,
    handle: vk::ExternalMemoryHandleTypeFlags,
) -> vk::ExternalMemoryProperties {
    let info = vk::PhysicalDeviceExternalBufferInfo::default()
        .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST)
        .handle_type(handle);
    let mut out = vk::ExternalBufferProperties::default();
    let next = next!(
        device,
        vk::PFN_vkGetPhysicalDeviceExternalBufferProperties,
        "vkGetPhysicalDeviceExternalBufferProperties",
        "vkGetPhysicalDeviceExternalBufferPropertiesKHR"
    );
    if let Some(next) = next {
        next(device.raw, (&raw const info).cast(), (&raw mut out).cast());
    }
    let mut said = out.external_memory_properties;
    said.external_memory_features &= !vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY;
    said
}
