//! Tiles of a modifier: where a driver places them, and how texels get into them and out of them.

use std::sync::Arc;

use super::device_image::{DeviceImage, ImageKind, is_refusal};
use super::places::Places;
use crate::buffer::SharedBuffer;
use crate::device::{DeviceInner, HandleType, Waits};
use crate::error::{Error, Result};
use crate::image::layout::{ImageLayout, LayoutError, MemoryPlane};
use crate::image::modifier::Modifier;
use crate::memory::{PlaneStart, Tiling, UnboundImage};
use crate::sync::Fence;
use crate::transfer::{Span, TexelCopy, copy_texels};

/// Where the memory planes of a modifier are. What is in them is the modifier's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    modifier: Modifier,
    planes: Vec<PlaneStart>,
}

/// The most modifiers of which a new image asks how many bytes they take. Drivers list the best ones first.
const MOST_ASKED: usize = 8;

impl Tiles {
    /// As a device's driver places them in an image of so many bytes that is shared as `handle`, or that the device alone
    /// has.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the driver has no such image that can be copied from and to, or if it takes more bytes;
    /// those of creating an image.
    pub(super) fn of_driver(
        kind: &ImageKind,
        device: &Arc<DeviceInner>,
        (modifier, handle): (Modifier, Option<HandleType>),
        size: u64,
    ) -> Result<Self> {
        let refuse = |missing| Error::Unsupported { device: device.name().to_owned(), missing };
        let planes = memory_planes(kind, device, modifier);
        let listed = Tiling::Listed { modifier: modifier.raw(), planes };
        if !kind.is_allowed(device, listed, true) {
            return Err(refuse(format!("{modifier} images that can be copied from and to")));
        }
        let image = UnboundImage::new(device, &kind.spec(listed, true), handle)?;
        let needs = image.requirements().size;
        if needs > size {
            return Err(refuse(format!(
                "{modifier} images of {needs} bytes in a buffer of {size}"
            )));
        }
        Ok(Self { modifier, planes: image.memory_planes() })
    }

    /// The most bytes that a device's driver needs for an image of a tiled modifier over memory that others can import;
    /// 0 if it has none.
    ///
    /// # Errors
    ///
    /// Those of creating an image, except that the driver has none.
    pub(super) fn most_bytes(kind: &ImageKind, device: &Arc<DeviceInner>) -> Result<u64> {
        let mut most = 0;
        for modifier in listed(kind, device).into_iter().take(MOST_ASKED) {
            let planes = memory_planes(kind, device, modifier);
            let tiling = Tiling::Listed { modifier: modifier.raw(), planes };
            if !kind.is_allowed(device, tiling, true) {
                continue;
            }
            for handle in [HandleType::DmaBuf, HandleType::OpaqueFd] {
                match UnboundImage::new(device, &kind.spec(tiling, true), Some(handle)) {
                    Ok(image) => most = image.requirements().size.max(most),
                    Err(error) if is_refusal(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(most)
    }

    pub(super) fn modifier(&self) -> Modifier {
        self.modifier
    }

    /// The tiling of an image over them.
    pub(super) fn tiling(&self) -> Tiling<'_> {
        Tiling::Modifier { modifier: self.modifier.raw(), planes: &self.planes }
    }

    /// The layout of an image, which has rows at some places otherwise, as others are told it.
    pub(super) fn told(&self, rows: &Places) -> Result<ImageLayout, LayoutError> {
        let rows = rows.image_layout()?;
        let plane = |(plane, start): (usize, &PlaneStart)| {
            let pitch = u32::try_from(start.pitch).map_err(|_| LayoutError::Overflow { plane })?;
            Ok(MemoryPlane { offset: start.offset, pitch, fd: 0 })
        };
        let planes: Result<Vec<_>, LayoutError> =
            self.planes.iter().enumerate().map(plane).collect();
        ImageLayout::new(rows.fourcc(), self.modifier, rows.shape(), &planes?)
    }

    /// Submits a copy of all texels to the main queue of a device: into the tiles in the second span, from rows in the
    /// first one; or the other way about. With `zero`, all else in the second one becomes zero.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the device has no such image over that memory; those of creating an image, and of
    /// submitting.
    pub(super) fn copy(
        &self,
        (kind, buffer, rows): (&ImageKind, &SharedBuffer, &Places),
        (device, waits): (&Arc<DeviceInner>, Waits),
        [from, to]: [Span<'_>; 2],
        (into_image, zero): (bool, bool),
    ) -> Result<Fence> {
        let (tiles, bytes) = if into_image { (to, from) } else { (from, to) };
        if !kind.is_allowed(device, self.tiling(), true) {
            return Err(Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!("{} images that can be copied from and to", self.modifier),
            });
        }
        let handle = (!tiles.view.is_private()).then(|| tiles.view.handle());
        let image = UnboundImage::new(device, &kind.spec(self.tiling(), true), handle)?;
        let bound = image.bind(tiles.view, tiles.offset)?;
        // Retired when it is dropped, behind the submission.
        let image = DeviceImage::new(bound, kind.usage, buffer.clone());
        let regions = rows.regions(bytes.offset);
        let copy = TexelCopy { image: image.raw(), into_image, regions: &regions };
        copy_texels(device, waits, [from, to], copy, zero)
    }
}

/// The tiled modifiers that a driver lists, best first.
fn listed(kind: &ImageKind, device: &DeviceInner) -> Vec<Modifier> {
    let spec = kind.spec(Tiling::Optimal, true);
    let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
    let all = formats.modifiers.iter().map(|listed| Modifier::from_raw(listed.modifier));
    all.filter(|modifier| device.has_image_modifiers() && !modifier.is_linear()).collect()
}

/// The memory planes that a driver gives a modifier; 0 if it does not list it.
fn memory_planes(kind: &ImageKind, device: &DeviceInner, modifier: Modifier) -> u32 {
    let spec = kind.spec(Tiling::Optimal, true);
    let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
    let mut listed = formats.modifiers.iter();
    listed.find(|listed| listed.modifier == modifier.raw()).map_or(0, |listed| listed.planes)
}
