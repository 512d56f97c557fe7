//! Import: another program's image, by an fd and a description that is checked before any driver sees it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::device_image::ImageKind;
use super::error::ImageError;
use super::places::Places;
use super::shared_image::{ImageServices, Layout, SharedImage, assemble};
use crate::buffer::{self, Buffers, ForeignInfo};
use crate::device::DeviceInner;
use crate::image::extent::{Extent, Limits, Shape};
use crate::image::foreign::ForeignImage;
use crate::image::format::Format;
use crate::image::fourcc::Fourcc;
use crate::image::layout::{ImageLayout, LayoutError, MemoryPlane};
use crate::image::modifier::Modifier;
use crate::image::offer::{ModifierOffer, Offer};
use crate::image::usage::ImageUsage;
use crate::memory::Tiling;

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
    let overflow = LayoutError::Overflow { plane: 0 };
    let end = info.offset.checked_add(info.size).ok_or(overflow)?;
    let claimed = ForeignImage { fds: vec![end], ..image.clone() };
    let layout = claimed.check(&offer(device, format, image.usage))?;
    let kind = ImageKind { format, shape: layout.shape(), usage: image.usage };
    let planes: Option<Vec<_>> = layout
        .planes()
        .iter()
        .map(|plane| {
            let offset = plane.offset.checked_sub(info.offset)?;
            Some(MemoryPlane { offset, ..*plane })
        })
        .collect();
    let planes = planes.ok_or(overflow)?;
    let layout = ImageLayout::new(layout.fourcc(), layout.modifier(), layout.shape(), &planes)?;
    let places = Places::of_planes(format, &layout).ok_or(overflow)?;
    if places.end().is_none_or(|end| end > info.size) {
        return Err(overflow.into());
    }
    let buffer = buffer::import(set, device, fd, info, name)?;
    if buffer.is_dynamic() {
        // Its image may get another layout, which this one would not know of.
        return Err(ImageError::OwnExport);
    }
    Ok(assemble(services, buffer, &kind, Layout::new(places)?))
}

/// What a device offers for images of others: rows, which it sees as an image, or copies to and from one of its own.
fn offer(device: &DeviceInner, format: &'static Format, usage: ImageUsage) -> Offer {
    let kind = ImageKind { format, shape: Shape::new(1, 1), usage };
    let spec = kind.spec(Tiling::Linear, false);
    let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
    let able = [&formats.linear, &formats.optimal];
    let allows = able.iter().fold(ImageUsage::NONE, |allows, images| {
        allows.union(ImageUsage::of_features(images.features))
    });
    let limits = able.iter().filter_map(|images| images.limits.ok()).map(|most| Limits {
        extent: Extent::new(most.width, most.height),
        mips: 1,
        layers: 1,
    });
    let largest = limits.max_by_key(|limits| limits.extent);
    Offer {
        modifiers: vec![ModifierOffer {
            modifier: Modifier::LINEAR,
            // CAST: formats have at most four planes.
            planes: format.planes().len() as u8,
            rank: 0,
            allows,
            limits: largest,
            importable: true,
            exportable: false,
            dedicated: false,
        }],
        ..Offer::default()
    }
}
