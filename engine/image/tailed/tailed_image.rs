//! An image with a mip tail.

use std::sync::Arc;

use crate::device::DeviceInner;
use crate::error::Result;
use crate::image::extent::Shape;
use crate::image::format::Format;
use crate::image::fourcc::Fourcc;
use crate::image::layout::LinearLayout;
use crate::image::padding::Padding;
use crate::image::shared::{
    self, ImageDescriptor, ImageError, ImagePart, ImageServices, SharedImage,
};
use crate::image::usage::ImageUsage;
use crate::memory::Placement;
use crate::residency::Priority;

/// An image whose large mip levels may be evicted while the small ones stay, created by
/// [`crate::Engine::create_tailed_image`]. Clones are handles of the same image.
///
/// It consists of two images, each in memory of its own: [`TailedImage::large`] has the levels below
/// [`TailedImage::tail_level`], [`TailedImage::tail`] has the others. Each moves, is evicted, laid out anew, pinned and
/// exported by itself, as any [`SharedImage`]. A mapping says from which level on devices may use the image
/// ([`crate::TailedMapping::min_level`]). Nothing waits for the large levels: as long as there is no room for them, a mapping
/// has the tail alone.
///
/// No `VkImage` has levels of both. A shader that filters between the last large level and the first one of the tail
/// samples two images.
#[derive(Clone, Debug)]
pub struct TailedImage(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    shape: Shape,
    tail_level: u32,
    large: SharedImage,
    tail: SharedImage,
}

/// Creates an image. The contract is that of [`crate::Engine::create_tailed_image`].
pub(crate) fn create(
    services: &ImageServices,
    home: &Arc<DeviceInner>,
    descriptor: &ImageDescriptor,
    tail_level: u32,
) -> Result<TailedImage, ImageError> {
    let shape = descriptor.shape();
    // As a whole, so that errors name the sizes that the caller knows.
    LinearLayout::new(descriptor.fourcc(), shape, Padding::CROSSING)?;
    if tail_level == 0 || tail_level >= shape.mips {
        return Err(ImageError::TailLevel { tail_level, mips: shape.mips });
    }
    let part = |first: u32, levels: u32| {
        let extent = shape.extent.at_level(first);
        let descriptor = descriptor.clone().shaped(Shape { extent, mips: levels, ..shape });
        match descriptor.named() {
            Some(name) => {
                let name = format!("{name}, levels {first} … {}", first + levels - 1);
                descriptor.name(&name)
            }
            None => descriptor,
        }
    };
    let [large_priority, tail_priority] = priorities(descriptor.prioritised());
    let tail = part(tail_level, shape.mips - tail_level).priority(tail_priority).kept();
    let large = part(0, tail_level).priority(large_priority);
    // Devices get the large levels only in the domain that they prefer. No use has to wait for them.
    let large = match large.placed() {
        Placement::Vram => large.placement(Placement::VramOrSystem),
        Placement::VramOrSystem | Placement::System => large,
    };
    // First, since it has to be there.
    let tail = shared::create(services, home, tail)?;
    let large = shared::create(services, home, large)?;
    Ok(TailedImage(Arc::new(Parts { shape, tail_level, large, tail })))
}

/// The priorities of the large levels and of the tail: all large levels of a priority are evicted before any tail of it.
fn priorities(asked: Priority) -> [Priority; 2] {
    match asked {
        Priority::Low => [Priority::Low, Priority::Normal],
        Priority::Normal => [Priority::Normal, Priority::High],
        Priority::High | Priority::Highest => [Priority::High, Priority::Highest],
    }
}

impl TailedImage {
    /// Returns the format.
    pub fn fourcc(&self) -> Fourcc {
        self.0.tail.fourcc()
    }

    /// Returns the format, with its planes.
    pub fn format(&self) -> &'static Format {
        self.0.tail.format()
    }

    /// Returns the size of the whole image: the extent of level 0, and all levels.
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// Returns what devices do with it.
    pub fn usage(&self) -> ImageUsage {
        self.0.tail.usage()
    }

    /// Returns the first level of the tail.
    pub fn tail_level(&self) -> u32 {
        self.0.tail_level
    }

    /// Returns the image of the levels below [`TailedImage::tail_level`].
    pub fn large(&self) -> &SharedImage {
        &self.0.large
    }

    /// Returns the image of the tail. Its level 0 is level [`TailedImage::tail_level`] of the whole.
    pub fn tail(&self) -> &SharedImage {
        &self.0.tail
    }

    /// Returns the least level that a mapping made now would have: 0 while the large levels are in the domain that they
    /// prefer, and the first one of the tail otherwise. The answer may be outdated when this returns.
    pub fn min_level(&self) -> u32 {
        match self.0.large.buffer().is_in_preferred_domain() {
            true => 0,
            false => self.0.tail_level,
        }
    }

    /// Returns the image that has a part, and which part it is there. A part that the image does not have is none of the
    /// returned image either.
    pub fn part(&self, part: ImagePart) -> (&SharedImage, ImagePart) {
        match part.level.checked_sub(self.0.tail_level) {
            None => (&self.0.large, part),
            Some(level) => (&self.0.tail, ImagePart { level, ..part }),
        }
    }

    /// Sets the eviction priority. Of images of one priority, the large levels of all are evicted before the tail of any:
    /// the tail has the next higher priority, and the large levels of [`Priority::Highest`] have [`Priority::High`].
    ///
    /// Locks: the reservations of both, one after the other.
    pub fn set_priority(&self, priority: Priority) {
        let [large, tail] = priorities(priority);
        self.0.large.buffer().set_priority(large);
        self.0.tail.buffer().set_priority(tail);
    }

    /// Copies the texels of a part out of the image: [`SharedImage::read_texels`]. The large levels are read where they are
    /// kept, and do not return for it.
    ///
    /// # Errors
    ///
    /// As [`SharedImage::read_texels`].
    ///
    /// Locks: as [`SharedImage::read_texels`].
    pub fn read_texels(&self, part: ImagePart) -> Result<Vec<u8>, ImageError> {
        self.check(part)?;
        let (image, part) = self.part(part);
        image.read_texels(part)
    }

    /// Copies texels into a part of the image: [`SharedImage::write_texels`]. The large levels are written where they are
    /// kept, and do not return for it.
    ///
    /// # Errors
    ///
    /// As [`SharedImage::write_texels`].
    ///
    /// Locks: as [`SharedImage::write_texels`].
    pub fn write_texels(&self, part: ImagePart, texels: &[u8]) -> Result<(), ImageError> {
        self.check(part)?;
        let (image, part) = self.part(part);
        image.write_texels(part, texels)
    }

    /// Names the part as the caller knows it in the error.
    fn check(&self, part: ImagePart) -> Result<(), ImageError> {
        let (planes, shape) = (self.format().planes().len(), self.0.shape);
        let is_there =
            (part.plane as usize) < planes && part.level < shape.mips && part.layer < shape.layers;
        if is_there { Ok(()) } else { Err(ImageError::NoSuchPart { part, planes, shape }) }
    }
}

/// Handles are equal if they are the same image, whatever its content.
impl PartialEq for TailedImage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TailedImage {}
