//! A `VkImage` of one device, which is destroyed once its device has ended the work that may use it.

use std::sync::Arc;

use ash::vk;

use crate::buffer::{Mapping, SharedBuffer};
use crate::device::{DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::image::extent::Shape;
use crate::image::format::Format;
use crate::image::usage::ImageUsage;
use crate::memory::{BoundImage, ImageSpec, Tiling, UnboundImage};

/// An image over the bytes of a buffer, on one device.
#[derive(Debug)]
pub(super) struct DeviceImage {
    // INVARIANT: `Some` until `drop`.
    image: Option<BoundImage>,
    /// Its engine has the list of retired objects.
    buffer: SharedBuffer,
}

impl DeviceImage {
    pub(super) fn new(image: BoundImage, buffer: SharedBuffer) -> Self {
        Self { image: Some(image), buffer }
    }

    /// The raw handle.
    pub(super) fn raw(&self) -> vk::Image {
        self.image.as_ref().map_or(vk::Image::null(), BoundImage::raw)
    }

    pub(super) fn image(&self) -> Option<&BoundImage> {
        self.image.as_ref()
    }
}

impl Drop for DeviceImage {
    fn drop(&mut self) {
        if let Some(image) = self.image.take() {
            // Submissions that use it hold a reference until they are submitted.
            self.buffer.services().retire_image(image);
        }
    }
}

/// What images of a format, a size and some uses are, whatever their tiling.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageKind {
    pub(super) format: &'static Format,
    pub(super) shape: Shape,
    pub(super) usage: ImageUsage,
}

impl ImageKind {
    /// The image in the numbers of Vulkan. One that is copied to and from beside its own uses is `copied`.
    pub(super) fn spec<'a>(&self, tiling: Tiling<'a>, copied: bool) -> ImageSpec<'a> {
        let copies = vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST;
        let copies = if copied { copies } else { vk::ImageUsageFlags::empty() };
        let Shape { extent, mips, layers } = self.shape;
        ImageSpec {
            format: self.format.vulkan().format,
            plane_formats: self.format.plane_views(),
            extent: vk::Extent2D { width: extent.width, height: extent.height },
            mips,
            layers,
            usage: self.usage.vulkan() | copies,
            tiling,
        }
    }

    /// Whether the features of the format allow all uses with this tiling, and copies if it is `copied`. Filtering and
    /// blending are features and no usages, so that images can be made which do not have them.
    pub(super) fn is_allowed(
        &self,
        device: &DeviceInner,
        tiling: Tiling<'_>,
        copied: bool,
    ) -> bool {
        let spec = self.spec(tiling, copied);
        let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
        let images = match tiling {
            Tiling::Optimal => &formats.optimal,
            Tiling::Linear => &formats.linear,
            Tiling::Modifier { modifier, .. } => {
                let mut listed = formats.modifiers.iter();
                match listed.find(|listed| listed.modifier == modifier) {
                    Some(listed) => &listed.images,
                    None => return false,
                }
            }
        };
        ImageUsage::of_features(images.features).contains(self.usage) && images.missing.is_empty()
    }

    /// The most bytes that a device's driver needs for a linear image over shared memory; 0 if it has none.
    ///
    /// # Errors
    ///
    /// Those of creating an image, except that the driver has none.
    pub(super) fn linear_bytes(&self, device: &Arc<DeviceInner>) -> Result<u64> {
        if !self.is_allowed(device, Tiling::Linear, false) {
            return Ok(0);
        }
        let spec = self.spec(Tiling::Linear, false);
        let mut most = 0;
        for &handle in HandleType::ALL {
            match UnboundImage::new(device, &spec, Some(handle)) {
                Ok(image) => most = image.requirements().size.max(most),
                Err(Error::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(most)
    }

    /// Creates an image and binds it where the bytes of a mapping begin.
    pub(super) fn over(
        &self,
        mapping: &Mapping,
        tiling: Tiling<'_>,
        copied: bool,
    ) -> Result<BoundImage> {
        let view = mapping.raw_view();
        let handle = (!view.is_private()).then(|| view.handle());
        let device: &Arc<DeviceInner> = mapping.device_inner();
        UnboundImage::new(device, &self.spec(tiling, copied), handle)?.bind(view, mapping.offset())
    }
}
