//! A `VkImage` of one device, which is destroyed once its device has ended the work that may use it.

use std::sync::Arc;

use ash::vk;

use crate::buffer::{Mapping, SharedBuffer};
use crate::device::{Call, DeviceInner, HandleType};
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
    usage: ImageUsage,
    /// Its engine has the list of retired objects.
    buffer: SharedBuffer,
}

impl DeviceImage {
    /// An image that was created for some uses, over the bytes of `buffer`.
    pub(super) fn new(image: BoundImage, usage: ImageUsage, buffer: SharedBuffer) -> Self {
        Self { image: Some(image), usage, buffer }
    }

    pub(super) fn usage(&self) -> ImageUsage {
        self.usage
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

/// The memory in which a device sees a buffer. A generation may get other memory, by a new import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenMemory(vk::DeviceMemory);

impl SeenMemory {
    pub(super) fn of(mapping: &Mapping) -> Self {
        Self(mapping.raw_view().memory())
    }
}

/// The kind of the memory in which a device sees a buffer. Drivers have images over some kinds and not over others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryKind {
    pub(super) handle: HandleType,
    memory_type: u32,
}

impl MemoryKind {
    pub(super) fn of(mapping: &Mapping) -> Self {
        let view = mapping.raw_view();
        Self { handle: view.handle(), memory_type: view.memory_type() }
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
            Tiling::Modifier { modifier, .. } | Tiling::Listed { modifier, .. } => {
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
                Err(error) if is_refusal(&error) => {}
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

/// Whether an error of creating or binding an image says that the driver has no such image. Drivers may find out at
/// `vkCreateImage`: it has codes for planes at places that the device cannot use, and for formats.
pub(super) fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Unsupported { .. } | Error::Misaligned { .. } => true,
        Error::Vulkan { call, code, .. } => {
            *call == Call::CreateImage.name()
                && matches!(
                    *code,
                    vk::Result::ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT
                        | vk::Result::ERROR_FORMAT_NOT_SUPPORTED
                )
        }
        _ => false,
    }
}
