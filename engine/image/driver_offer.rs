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
            modifiers.iter().enumerate().map(|(rank, of)| listed_offer(device, rank, of));
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

/// What a device offers for a modifier that its driver lists: over dma-bufs, and if there are none, tiles over opaque fds.
fn listed_offer(device: &DeviceInner, rank: usize, listed: &ModifierImages) -> ModifierOffer {
    let handles: &[_] = match Modifier::from_raw(listed.modifier).is_linear() {
        // Rows at an agreed pitch are for dma-bufs.
        true => &[],
        false => &[HandleType::DmaBuf, HandleType::OpaqueFd],
    };
    let able = |handle: &&HandleType| {
        let shared = listed.images.external(**handle);
        has_extension(device, **handle) && shared.importable && shared.exportable
    };
    let handle = handles.iter().find(able).copied().unwrap_or(HandleType::DmaBuf);
    modifier_offer(device, rank, listed, handle)
}

/// What a device offers for a modifier over memory that is shared as `handle`.
pub(super) fn modifier_offer(
    device: &DeviceInner,
    rank: usize,
    ModifierImages { modifier, planes, images, .. }: &ModifierImages,
    handle: HandleType,
) -> ModifierOffer {
    let by_fd = images.external(handle);
    let enabled = has_extension(device, handle);
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
