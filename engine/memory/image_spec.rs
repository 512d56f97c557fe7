//! What a raw image is to be, and whether its device can have it.
//!
//! Vulkan: `VkImageCreateInfo`.

use ash::vk;

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
    /// A modifier with so many memory planes, which the driver places: what others are told of it.
    Listed { modifier: u64, planes: u32 },
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

    /// The formats of views, if views have other formats than the image: its own, and those of its planes.
    pub(crate) fn views(&self) -> Vec<vk::Format> {
        let own = [self.format].into_iter().filter(|_| !self.plane_formats.is_empty());
        own.chain(self.plane_formats.iter().copied()).collect()
    }

    pub(super) fn vulkan_tiling(&self) -> vk::ImageTiling {
        match self.tiling {
            Tiling::Optimal => vk::ImageTiling::OPTIMAL,
            Tiling::Linear => vk::ImageTiling::LINEAR,
            Tiling::Modifier { .. } | Tiling::Listed { .. } => {
                vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT
            }
        }
    }

    /// Checks that `device` can have such an image: over memory that is shared as `handle`, or over memory of its own.
    /// Returns the usages that its driver was asked for, which are at least those of the image.
    ///
    /// After that, `vkCreateImage` with these usages breaks no rule about limits
    /// (VUID-VkImageCreateInfo-imageCreateMaxMipLevels-02251, -extent-02252, -extent-02253, -mipLevels-02255,
    /// -arrayLayers-02256, -mipLevels-00958).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], with what is missing.
    pub(super) fn check(
        &self,
        device: &DeviceInner,
        handle: Option<HandleType>,
    ) -> Result<vk::ImageUsageFlags> {
        let refuse = |missing: String| Error::Unsupported {
            device: device.name().to_owned(),
            missing: format!("{:?} images, {:?}: {missing}", self.format, self.vulkan_tiling()),
        };
        let formats = device.adapter().image_formats(self.format, self.usage, &self.views());
        let listed = |modifier: u64, planes: u32| {
            let mut all = formats.modifiers.iter();
            let found = all.find(|listed| listed.modifier == modifier);
            let found =
                found.ok_or_else(|| refuse(format!("the modifier {modifier:#x} for such uses")))?;
            // VUID-VkImageDrmFormatModifierExplicitCreateInfoEXT-drmFormatModifierPlaneCount-02265.
            if found.planes != planes {
                let own = found.planes;
                return Err(refuse(format!("{planes} memory planes; the driver has {own}")));
            }
            Ok(&found.images)
        };
        let images = match self.tiling {
            Tiling::Optimal => &formats.optimal,
            Tiling::Linear => &formats.linear,
            Tiling::Modifier { .. } | Tiling::Listed { .. } if !device.has_image_modifiers() => {
                return Err(refuse("the extension VK_EXT_image_drm_format_modifier".into()));
            }
            // CAST: modifiers have at most four planes.
            Tiling::Modifier { modifier, planes } => listed(modifier, planes.len() as u32)?,
            Tiling::Listed { modifier, planes } => listed(modifier, planes)?,
        };
        if !images.missing.is_empty() {
            return Err(refuse(format!("{:?}", images.missing)));
        }
        let external = handle.map(|handle| images.external(handle));
        let limits = external.map_or(images.limits, |external| external.limits);
        let most = limits.map_err(|refusal| refuse(refusal.to_string()))?;
        let vk::Extent2D { width, height } = self.extent;
        let levels = u32::BITS - width.max(height).leading_zeros();
        let fits = (1..=most.width).contains(&width)
            && (1..=most.height).contains(&height)
            && (1..=most.mips.min(levels)).contains(&self.mips)
            && (1..=most.layers).contains(&self.layers);
        if !fits {
            return Err(refuse(format!(
                "{width}×{height} with {} levels and {} layers; it allows {}×{}, {}, {}",
                self.mips, self.layers, most.width, most.height, most.mips, most.layers
            )));
        }
        if external.is_some_and(|external| external.dedicated) {
            return Err(refuse("images over memory that is not dedicated to them".into()));
        }
        Ok(images.usage)
    }
}
