//! What a raw image is to be, and whether its device can have it.
//!
//! Vulkan: `VkImageCreateInfo`, `vkGetPhysicalDeviceImageFormatProperties2`.
#![expect(unsafe_code, reason = "an image format query of the Vulkan instance")]

use ash::vk;

use crate::device::quirks::Effect;
use crate::device::{DeviceInner, HandleType};
use crate::error::{Error, Result};

/// A 2D image in the numbers of Vulkan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageSpec<'a> {
    /// The format.
    pub(crate) format: vk::Format,
    /// For a format of several planes, the format in which a view shows each of them; empty for others.
    pub(crate) plane_formats: &'a [vk::Format],
    /// Texels of level 0.
    pub(crate) extent: vk::Extent2D,
    /// Mip levels.
    pub(crate) mips: u32,
    /// Array layers.
    pub(crate) layers: u32,
    /// The usages; not empty.
    pub(crate) usage: vk::ImageUsageFlags,
    /// How texels are arranged.
    pub(crate) tiling: Tiling<'a>,
}

/// How the texels of an image are arranged in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiling<'a> {
    /// As the driver likes it (`OPTIMAL`). No other image can be laid over the same bytes.
    Optimal,
    /// Rows, with the driver's own pitch (`LINEAR`).
    Linear,
    /// A modifier and where its memory planes are, counted from where the image is bound (`DRM_FORMAT_MODIFIER_EXT`).
    Modifier { modifier: u64, planes: &'a [PlaneStart] },
}

/// Where a plane begins, and the bytes from a row to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaneStart {
    pub(crate) offset: u64,
    pub(crate) pitch: u64,
}

impl ImageSpec<'_> {
    /// The flags of `VkImageCreateInfo`. A view of one plane has a format of its own
    /// (VUID-VkImageViewCreateInfo-image-01762).
    pub(super) fn flags(&self) -> vk::ImageCreateFlags {
        match self.plane_formats {
            [] => vk::ImageCreateFlags::empty(),
            _ => vk::ImageCreateFlags::MUTABLE_FORMAT,
        }
    }

    /// The formats of views: that of the image, and those of its planes.
    pub(super) fn view_formats(&self) -> Vec<vk::Format> {
        [self.format].into_iter().chain(self.plane_formats.iter().copied()).collect()
    }

    pub(super) fn vulkan_tiling(&self) -> vk::ImageTiling {
        match self.tiling {
            Tiling::Optimal => vk::ImageTiling::OPTIMAL,
            Tiling::Linear => vk::ImageTiling::LINEAR,
            Tiling::Modifier { .. } => vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT,
        }
    }

    /// Checks that `device` can have such an image: over memory that is shared as `handle`, or over memory of its own.
    ///
    /// After that, `vkCreateImage` breaks no rule about limits (VUID-VkImageCreateInfo-imageCreateMaxMipLevels-02251,
    /// -extent-02252, -extent-02253, -mipLevels-02255, -arrayLayers-02256).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], with what is missing.
    pub(super) fn check(&self, device: &DeviceInner, handle: Option<HandleType>) -> Result<()> {
        let refuse = |missing: String| Error::Unsupported {
            device: device.name().to_owned(),
            missing: format!("{:?} images, {:?}: {missing}", self.format, self.vulkan_tiling()),
        };
        if matches!(self.tiling, Tiling::Modifier { .. }) && !device.has_image_modifiers() {
            return Err(refuse("VK_EXT_image_drm_format_modifier".into()));
        }
        let vk::Extent2D { width, height } = self.extent;
        if width == 0 || height == 0 || self.mips == 0 || self.layers == 0 || self.usage.is_empty()
        {
            return Err(refuse(format!(
                "a size or usage of nothing ({width}×{height}, {} levels, {} layers, {:?})",
                self.mips, self.layers, self.usage
            )));
        }
        let (limits, external) = match (self.query(device, handle), handle) {
            // The driver imports such memory and reports that it does not. It is proved with texels.
            (Err(_), Some(HandleType::HostPointer))
                if device.adapter().has_quirk(Effect::HostImportUnreported) =>
            {
                self.query(device, None)
            }
            (other, _) => other,
        }
        .map_err(|code| refuse(format!("vkGetPhysicalDeviceImageFormatProperties2: {code:?}")))?;
        let most = limits.max_extent;
        if width > most.width
            || height > most.height
            || self.mips > limits.max_mip_levels
            || self.mips > u32::BITS - width.max(height).leading_zeros()
            || self.layers > limits.max_array_layers
        {
            return Err(refuse(format!(
                "{width}×{height} with {} levels and {} layers; it allows {}×{}, {}, {}",
                self.mips,
                self.layers,
                most.width,
                most.height,
                limits.max_mip_levels,
                limits.max_array_layers
            )));
        }
        if external.contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY) {
            return Err(refuse("over memory that is not dedicated to the image".into()));
        }
        Ok(())
    }

    /// What the driver says of such images.
    fn query(
        &self,
        device: &DeviceInner,
        handle: Option<HandleType>,
    ) -> Result<(vk::ImageFormatProperties, vk::ExternalMemoryFeatureFlags), vk::Result> {
        let (mut external, mut modifier_info);
        let view_formats = self.view_formats();
        let mut list = vk::ImageFormatListCreateInfo::default().view_formats(&view_formats);
        let mut info = vk::PhysicalDeviceImageFormatInfo2::default()
            .format(self.format)
            .ty(vk::ImageType::TYPE_2D)
            .tiling(self.vulkan_tiling())
            .usage(self.usage)
            .flags(self.flags());
        if !self.plane_formats.is_empty() {
            info = info.push_next(&mut list);
        }
        if let Some(handle) = handle {
            external = vk::PhysicalDeviceExternalImageFormatInfo::default();
            external.handle_type = handle.vk();
            info = info.push_next(&mut external);
        }
        if let Tiling::Modifier { modifier, .. } = self.tiling {
            modifier_info = vk::PhysicalDeviceImageDrmFormatModifierInfoEXT::default()
                .drm_format_modifier(modifier)
                .sharing_mode(vk::SharingMode::EXCLUSIVE);
            info = info.push_next(&mut modifier_info);
        }
        let mut features = vk::ExternalImageFormatProperties::default();
        let mut out = vk::ImageFormatProperties2::default();
        if handle.is_some() {
            out = out.push_next(&mut features);
        }
        let adapter = device.adapter();
        // SAFETY: the physical device belongs to the live instance; the chain has a modifier exactly if the tiling is
        // one (VUID-VkPhysicalDeviceImageFormatInfo2-tiling-02249), and a list of formats if flags and tiling ask for it
        // (VUID-VkPhysicalDeviceImageFormatInfo2-tiling-02313); the usage is not empty, which `check` has found.
        unsafe {
            adapter.instance().raw().get_physical_device_image_format_properties2(
                adapter.physical(),
                &info,
                &mut out,
            )
        }?;
        let limits = out.image_format_properties;
        let external = features.external_memory_properties.external_memory_features;
        let able = handle.is_none()
            || external.intersects(
                vk::ExternalMemoryFeatureFlags::EXPORTABLE
                    | vk::ExternalMemoryFeatureFlags::IMPORTABLE,
            );
        if able { Ok((limits, external)) } else { Err(vk::Result::ERROR_FORMAT_NOT_SUPPORTED) }
    }
}
