//! What a driver says about images, as an offer. This file and `vulkan_format` alone of `image` know Vulkan.

use ash::vk;

use super::extent::{Extent, Limits};
use super::format::Format;
use super::layout::MemoryPlane;
use super::modifier::Modifier;
use super::offer::{ImageOffer, ModifierOffer, Offer, TilingOffer};
use super::usage::ImageUsage;
use crate::device::{DeviceInner, HandleType, ImageLimits, ModifierImages, TilingImages};
use crate::transfer::has_extension;

impl Format {
    /// The formats of all views of an image that has views of its planes; empty if it has none.
    fn all_views(&self) -> Vec<vk::Format> {
        match self.plane_views() {
            [] => vec![],
            planes => [self.vulkan().format].into_iter().chain(planes.iter().copied()).collect(),
        }
    }
}

impl Offer {
    /// What a device offers for images of a format and usage: as its driver says, and as far as its extensions are
    /// enabled.
    ///
    /// `places` is where the driver puts the planes of the image in question with linear tiling. Without it, linear
    /// tiling is not offered.
    ///
    /// Locks: as [`crate::Adapter::image_formats`].
    pub(crate) fn of_device(
        device: &DeviceInner,
        format: &Format,
        usage: ImageUsage,
        places: Option<Vec<MemoryPlane>>,
    ) -> Self {
        let said = device.adapter().image_formats(
            format.vulkan().format,
            usage.vulkan(),
            &format.all_views(),
        );
        let modifiers: &[ModifierImages] =
            if device.has_image_modifiers() { &said.modifiers } else { &[] };
        let modifiers =
            modifiers.iter().enumerate().map(|(rank, of)| modifier_offer(device, rank, of));
        let places = places.filter(|_| {
            let rows = said.linear.external.iter();
            rows.into_iter().any(|row| row.importable && has_extension(device, row.handle))
        });
        let linear_tiling = places.and_then(|planes| {
            let image = image_offer(&said.linear)?;
            Some(TilingOffer { image, planes, takes_any: false })
        });
        Self {
            modifiers: modifiers.collect(),
            linear_tiling,
            own_image: image_offer(&said.optimal),
            ..Self::default()
        }
    }
}

fn modifier_offer(
    device: &DeviceInner,
    rank: usize,
    ModifierImages { modifier, planes, images, .. }: &ModifierImages,
) -> ModifierOffer {
    let by_fd = images.external(HandleType::DmaBuf);
    let enabled = has_extension(device, HandleType::DmaBuf);
    ModifierOffer {
        modifier: Modifier::from_raw(*modifier),
        planes: u8::try_from(*planes).unwrap_or(u8::MAX),
        rank: u16::try_from(rank).unwrap_or(u16::MAX),
        allows: ImageUsage::of_features(images.features),
        limits: by_fd.limits.ok().map(limits),
        importable: enabled && by_fd.importable,
        exportable: enabled && by_fd.exportable,
        dedicated: by_fd.dedicated,
    }
}

fn image_offer(images: &TilingImages) -> Option<ImageOffer> {
    let limits = limits(images.limits.ok()?);
    Some(ImageOffer { allows: ImageUsage::of_features(images.features), limits })
}

fn limits(ImageLimits { width, height, mips, layers, .. }: ImageLimits) -> Limits {
    Limits { extent: Extent::new(width, height), mips, layers }
}
