//! The DRM formats and modifiers in which a device can lay out images.
//!
//! Vulkan: `VK_EXT_image_drm_format_modifier`. Kernel: `drm_fourcc.h`. Two devices can share an image
//! only in a modifier that both list; `LINEAR` is the only one that different vendors have in common
//! (`Documentation/userspace-api/dma-buf-alloc-exchange.rst`).
#![expect(unsafe_code, reason = "format queries of the Vulkan instance")]

use ash::vk;
use drm_fourcc::{DrmFourcc, DrmModifier};

use super::adapter::Adapter;

/// One layout that a device supports for images of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatModifier {
    /// The modifier.
    pub modifier: DrmModifier,
    /// Number of memory planes of such an image.
    pub planes: u32,
    /// The uses that such an image supports.
    pub features: vk::FormatFeatureFlags,
}

/// The Vulkan format of the same bytes; `None` for formats that peerbuf does not know.
///
/// DRM names components from the highest bit of a little-endian word down, Vulkan's array formats from
/// the lowest byte up.
pub fn vulkan_format(fourcc: DrmFourcc) -> Option<vk::Format> {
    Some(match fourcc {
        DrmFourcc::R8 => vk::Format::R8_UNORM,
        DrmFourcc::Gr88 => vk::Format::R8G8_UNORM,
        DrmFourcc::Argb8888 | DrmFourcc::Xrgb8888 => vk::Format::B8G8R8A8_UNORM,
        DrmFourcc::Abgr8888 | DrmFourcc::Xbgr8888 => vk::Format::R8G8B8A8_UNORM,
        DrmFourcc::Argb2101010 | DrmFourcc::Xrgb2101010 => vk::Format::A2R10G10B10_UNORM_PACK32,
        DrmFourcc::Abgr2101010 | DrmFourcc::Xbgr2101010 => vk::Format::A2B10G10R10_UNORM_PACK32,
        DrmFourcc::Abgr16161616f | DrmFourcc::Xbgr16161616f => vk::Format::R16G16B16A16_SFLOAT,
        DrmFourcc::Nv12 => vk::Format::G8_B8R8_2PLANE_420_UNORM,
        _ => return None,
    })
}

impl Adapter {
    /// The modifiers in which the device lays out images of `fourcc`, in its order; empty without
    /// `VK_EXT_image_drm_format_modifier`, and for formats that peerbuf or the device does not know.
    ///
    /// `DRM_FORMAT_MOD_INVALID` is left out, since it has no meaning across devices (Smithay#1767).
    pub fn format_modifiers(&self, fourcc: DrmFourcc) -> Vec<FormatModifier> {
        let Some(format) = vulkan_format(fourcc) else { return vec![] };
        self.modifier_rows(format)
            .into_iter()
            .map(|row| FormatModifier {
                modifier: row.drm_format_modifier.into(),
                planes: row.drm_format_modifier_plane_count,
                features: row.drm_format_modifier_tiling_features,
            })
            .filter(|row| row.modifier != DrmModifier::Invalid)
            .collect()
    }

    /// The driver's list of modifiers for a format; empty without `VK_EXT_image_drm_format_modifier`.
    pub(super) fn modifier_rows(
        &self,
        format: vk::Format,
    ) -> Vec<vk::DrmFormatModifierPropertiesEXT> {
        let extension = ash::ext::image_drm_format_modifier::NAME;
        if !self.device_extensions().contains(&extension) {
            return vec![];
        }
        let mut count = vk::DrmFormatModifierPropertiesListEXT::default();
        self.query_format(format, &mut count);
        let mut rows = vec![Default::default(); count.drm_format_modifier_count as usize];
        let mut list = vk::DrmFormatModifierPropertiesListEXT::default()
            .drm_format_modifier_properties(&mut rows);
        self.query_format(format, &mut list);
        let count = list.drm_format_modifier_count as usize;
        rows.truncate(count);
        rows
    }

    fn query_format(
        &self,
        format: vk::Format,
        list: &mut vk::DrmFormatModifierPropertiesListEXT<'_>,
    ) {
        let mut properties = vk::FormatProperties2::default().push_next(list);
        // SAFETY: the physical device belongs to the live instance; the list's extension is supported,
        // and its pointer is null or to as many rows as its count says.
        unsafe {
            self.instance().raw().get_physical_device_format_properties2(
                self.physical(),
                format,
                &mut properties,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn component_orders_are_those_of_drm_fourcc_h() {
        // Argb8888 is [31:0] A:R:G:B, so its bytes in memory are B, G, R, A.
        assert_eq!(vulkan_format(DrmFourcc::Argb8888), Some(vk::Format::B8G8R8A8_UNORM));
        assert_eq!(vulkan_format(DrmFourcc::Abgr8888), Some(vk::Format::R8G8B8A8_UNORM));
        assert_eq!(vulkan_format(DrmFourcc::Yuyv), None);
    }
}
