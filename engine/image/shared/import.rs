//! Import: another program's image, by an fd and a description that is checked before any driver sees it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::device_image::ImageKind;
use super::error::ImageError;
use super::places::Places;
use super::shared_image::{ImageServices, SharedImage, assemble};
use crate::buffer::{self, Buffers, ForeignInfo};
use crate::device::DeviceInner;
use crate::error::Error;
use crate::fd;
use crate::image::extent::{Extent, Limits, Shape};
use crate::image::foreign::ForeignImage;
use crate::image::foreign_error::{ForeignImageError, PlaneError};
use crate::image::format::Format;
use crate::image::fourcc::Fourcc;
use crate::image::layout::{ImageLayout, LayoutError, MemoryPlane};
use crate::image::modifier::Modifier;
use crate::image::offer::{ModifierOffer, Offer};
use crate::image::usage::ImageUsage;
use crate::memory::{SLOT_ALIGN, Tiling};

/// Imports an image. The contract is that of [`crate::Engine::import_image`].
pub(crate) fn import(
    (set, services): (&Arc<Buffers>, &ImageServices),
    device: &Arc<DeviceInner>,
    (fd, info): (BorrowedFd<'_>, ForeignInfo),
    image: &ForeignImage,
    name: Option<&str>,
) -> Result<SharedImage, ImageError> {
    if image.fds.len() > 1 {
        return Err(ImageError::SeveralFiles(image.fds.len()));
    }
    if image.usage.is_empty() {
        return Err(ImageError::NoUsage);
    }
    let format = Format::of(Fourcc::from_raw(image.fourcc))?;
    // What is imported of the file is what may be used of it.
    let end = info.offset.checked_add(info.size).ok_or_else(|| Error::too_large(info.size))?;
    let claimed = ForeignImage { fds: vec![end], ..image.clone() };
    let layout = claimed.check_any(&offers(device, format, image.usage))?;
    let kind = ImageKind { format, shape: layout.shape(), usage: image.usage };
    let mut planes = vec![];
    for (plane, place) in layout.planes().iter().enumerate() {
        let error = PlaneError::OffsetBeforeStart { offset: place.offset, start: info.offset };
        let offset = place.offset.checked_sub(info.offset);
        let offset = offset.ok_or(ForeignImageError::Plane { plane, error })?;
        planes.push(MemoryPlane { offset, ..*place });
    }
    if !info.offset.is_multiple_of(SLOT_ALIGN) {
        let what = "offset of foreign memory";
        return Err(Error::Misaligned { what, value: info.offset, align: SLOT_ALIGN }.into());
    }
    // All planes end within what is imported, so these are the last numbers that could be wrong.
    let layout = ImageLayout::new(layout.fourcc(), layout.modifier(), layout.shape(), &planes)?;
    let places = Places::of_planes(format, &layout).ok_or(LayoutError::Overflow { plane: 0 })?;
    let buffer = buffer::import(set, device, fd, info, name)?;
    if buffer.is_dynamic() {
        // Its image may get another layout, which this one would not know of.
        return Err(ImageError::OwnExport);
    }
    let layout = services.layouts.of(places, buffer.size())?;
    Ok(assemble(services, buffer, (&kind, false), layout))
}

/// Imports an image whose planes have fds of their own. The contract is that of
/// [`crate::Engine::import_image_files`].
pub(crate) fn import_files(
    of: (&Arc<Buffers>, &ImageServices),
    device: &Arc<DeviceInner>,
    (files, info): (&[BorrowedFd<'_>], ForeignInfo),
    image: &ForeignImage,
    name: Option<&str>,
) -> Result<SharedImage, ImageError> {
    let several = || ImageError::SeveralFiles(files.len());
    let (first, others) = files.split_first().ok_or_else(several)?;
    let file = fd::identity(first)?;
    for other in others {
        if file.is_none() || fd::identity(other)? != file {
            return Err(several());
        }
    }
    let mut image = image.clone();
    for (plane, place) in image.planes.iter_mut().enumerate() {
        let (fd, fds) = (place.fd, files.len());
        if fd as usize >= fds {
            let error = PlaneError::FdIndex { fd, fds };
            return Err(ForeignImageError::Plane { plane, error }.into());
        }
        place.fd = 0;
    }
    image.fds = vec![];
    import(of, device, (*first, info), &image, name)
}

/// What a device offers for images of others: rows, which it sees as an image; or which it copies to and from one of its
/// own. A use that the one allows and another use that the other one allows are not allowed together.
fn offers(device: &DeviceInner, format: &'static Format, usage: ImageUsage) -> Vec<Offer> {
    let kind = ImageKind { format, shape: Shape::new(1, 1), usage };
    // With copies, so that what the format does not allow is named.
    let spec = kind.spec(Tiling::Linear, true);
    let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
    let copies = ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
    let directly = ImageUsage::of_features(formats.linear.features);
    let by_copies = ImageUsage::of_features(formats.optimal.features);
    // What cannot be copied has no use by copies.
    let by_copies = if by_copies.contains(copies) { by_copies } else { ImageUsage::NONE };
    let able = [(formats.linear.limits, directly), (formats.optimal.limits, by_copies)];
    let able = able.into_iter().filter(|(_, allows)| !allows.is_empty());
    let able = able.filter_map(|(limits, allows)| Some((limits.ok()?, allows)));
    able.map(|(most, allows)| rows(format, Extent::new(most.width, most.height), allows)).collect()
}

/// Rows of images up to an extent, for some uses.
fn rows(format: &Format, extent: Extent, allows: ImageUsage) -> Offer {
    let linear = ModifierOffer {
        modifier: Modifier::LINEAR,
        // CAST: formats have at most four planes.
        planes: format.planes().len() as u8,
        rank: 0,
        allows,
        limits: Some(Limits { extent, mips: 1, layers: 1 }),
        importable: true,
        exportable: false,
        dedicated: false,
    };
    Offer { modifiers: vec![linear], ..Offer::default() }
}
