//! The shared image: a buffer, and where the texels are in it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::brings::linear_places;
use super::descriptor::ImageDescriptor;
use super::device_image::{DeviceImage, ImageKind, SeenMemory};
use super::error::ImageError;
pub(super) use super::layouts::Layout;
use super::layouts::Layouts;
use super::participants::Participants;
use super::places::Places;
use super::tiles::Tiles;
use crate::access::Access;
use crate::buffer::{Buffers, Mapping, Migration, SetRefs, SharedBuffer};
use crate::device::{Device, DeviceId, DeviceInner};
use crate::error::Result;
use crate::image::extent::Shape;
use crate::image::format::Format;
use crate::image::fourcc::Fourcc;
use crate::image::layout::{ImageLayout, LayoutError, LinearLayout};
use crate::image::padding::Padding;
use crate::image::proofs::ImageProofs;
use crate::image::usage::ImageUsage;
use crate::memory::DomainId;

/// What images need of their engine.
#[derive(Clone, Debug)]
pub(crate) struct ImageServices {
    /// For new buffers.
    pub(crate) refs: Arc<SetRefs<Buffers>>,
    /// What probes of images have found.
    pub(crate) proofs: Arc<ImageProofs>,
    pub(crate) layouts: Arc<Layouts>,
}

/// An image that several devices share. Its identity does not depend on where its texels are.
///
/// Made by [`crate::Engine::create_image`]. A clone is cheap, and is the same image. It has a [`SharedBuffer`], by
/// which it moves, is evicted, pinned, charged and explained; what a buffer can do and an image has no method for is
/// done with [`SharedImage::buffer`].
///
/// Its *layout* says where rows begin in the bytes of the buffer. Devices whose drivers see rows there use an image
/// over these bytes. Others have an image of their own, and copy in the submissions that use it
/// ([`crate::RawImage::is_own`]).
///
/// Kernel counterpart: `struct drm_framebuffer`.
#[derive(Clone)]
pub struct SharedImage(pub(super) Arc<ImageInner>);

pub(super) struct ImageInner {
    pub(super) buffer: SharedBuffer,
    pub(super) services: ImageServices,
    format: &'static Format,
    shape: Shape,
    usage: ImageUsage,
    /// Whether rows keep the padding that they were created with.
    padded: bool,
    /// Protected by its mutex, within which no other lock is taken.
    layout: Mutex<Arc<Layout>>,
    /// Made by the first attachment.
    sharing: OnceLock<Box<Sharing>>,
}

/// What an image has once a device is attached.
#[derive(Default)]
struct Sharing {
    /// The images over the shared bytes that are alive. Protected by its mutex, within which no other lock is taken.
    images: Mutex<Vec<Seen>>,
    /// The attachments. Protected by its mutex, within which no other lock is taken.
    participants: Mutex<Participants>,
}

/// An image over the shared bytes, for some uses of a device.
struct Seen {
    by: (DeviceId, ImageUsage),
    generation: u32,
    memory: SeenMemory,
    image: Weak<DeviceImage>,
}

/// Creates an image. The contract is that of [`crate::Engine::create_image`].
pub(crate) fn create(
    services: &ImageServices,
    home: &Arc<DeviceInner>,
    descriptor: ImageDescriptor,
) -> Result<SharedImage, ImageError> {
    let (fourcc, shape, usage) = (descriptor.fourcc(), descriptor.shape(), descriptor.usages());
    if usage.is_empty() {
        return Err(ImageError::NoUsage);
    }
    let format = Format::of(fourcc)?;
    let linear = LinearLayout::new(fourcc, shape, Padding::CROSSING)?;
    let padded = Places::of_layout(format, &linear);
    let padded = padded.ok_or(LayoutError::Overflow { plane: 0 })?;
    let kind = ImageKind { format, shape, usage };
    // Drivers that were looked at pad less than this.
    let bytes = linear.bytes().max(kind.linear_bytes(home)?).max(Tiles::most_bytes(&kind, home)?);
    let keeps_padding = descriptor.is_padded();
    let buffer = SharedBuffer::create(&services.refs, home, descriptor.into_buffer(bytes))?;
    let seen = match keeps_padding {
        true => None,
        false => home_places(&buffer, &Device(Arc::clone(home)), &kind)?,
    };
    let layout = services.layouts.of(seen.unwrap_or(padded), bytes)?;
    Ok(assemble(services, buffer, (&kind, keeps_padding), layout))
}

/// An image with the texels of a buffer. The layout's places end within the buffer.
pub(super) fn assemble(
    services: &ImageServices,
    buffer: SharedBuffer,
    (&ImageKind { format, shape, usage }, padded): (&ImageKind, bool),
    layout: Arc<Layout>,
) -> SharedImage {
    SharedImage(Arc::new(ImageInner {
        buffer,
        services: services.clone(),
        format,
        shape,
        usage,
        padded,
        layout: Mutex::new(layout),
        sharing: OnceLock::new(),
    }))
}

/// Where the home device's driver places the parts of a linear image over the buffer; `None` if it has no such image
/// that fits.
fn home_places(buffer: &SharedBuffer, home: &Device, kind: &ImageKind) -> Result<Option<Places>> {
    let attachment = buffer.attach(home)?;
    let mapping = attachment.map(Access::Read)?;
    linear_places(kind, &mapping)
}

impl SharedImage {
    /// The number of its buffer in its engine, which never changes and is never reused.
    pub fn id(&self) -> u64 {
        self.0.buffer.id()
    }

    /// The name; without one, "buffer" and a number.
    pub fn name(&self) -> String {
        self.0.buffer.name()
    }

    /// The format.
    pub fn fourcc(&self) -> Fourcc {
        self.0.format.fourcc()
    }

    /// The format, with its planes.
    pub fn format(&self) -> &'static Format {
        self.0.format
    }

    /// The size.
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// What devices do with it.
    pub fn usage(&self) -> ImageUsage {
        self.0.usage
    }

    /// The layout that the texels have now. It belongs to the present generation, as the memory does.
    pub fn layout(&self) -> ImageLayout {
        self.0.layout().told
    }

    /// The buffer that has the texels. Its bytes between the rows are padding.
    pub fn buffer(&self) -> &SharedBuffer {
        &self.0.buffer
    }

    /// The home device, as [`SharedBuffer::home`].
    pub fn home(&self) -> Device {
        self.0.buffer.home()
    }

    /// The domain of the texels, as [`SharedBuffer::domain`].
    ///
    /// Locks: the reservation.
    pub fn domain(&self) -> DomainId {
        self.0.buffer.domain()
    }

    /// The number of moves so far. A [`crate::ImageMapping`] has the generation that it was made in.
    pub fn generation(&self) -> u32 {
        self.0.buffer.generation()
    }

    /// Moves the image into a device's own memory or into system memory, as [`SharedBuffer::migrate`] does with a
    /// buffer. Its layout stays.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`].
    ///
    /// Locks: as [`SharedBuffer::migrate`].
    pub fn migrate(&self, to: DomainId) -> Result<Migration> {
        self.0.buffer.migrate(to)
    }

    /// Moves the image into system memory until it is used again, as [`SharedBuffer::evict`] does with a buffer.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::evict`].
    ///
    /// Locks: as [`SharedBuffer::evict`].
    pub fn evict(&self) -> Result<Migration> {
        self.0.buffer.evict()
    }
}

impl ImageInner {
    pub(super) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the layout. The reservation of the buffer is held, which has the texels there.
    pub(super) fn set_layout(&self, layout: &Arc<Layout>) {
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(layout);
    }

    fn sharing(&self) -> &Sharing {
        self.sharing.get_or_init(Box::default)
    }

    pub(super) fn participants(&self) -> MutexGuard<'_, Participants> {
        self.sharing().participants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether rows keep the padding that they were created with.
    pub(super) fn is_padded(&self) -> bool {
        self.padded
    }

    /// What images for some uses are.
    pub(super) fn kind(&self, usage: ImageUsage) -> ImageKind {
        ImageKind { format: self.format, shape: self.shape, usage }
    }

    /// What images for all uses are.
    pub(super) fn whole_kind(&self) -> ImageKind {
        self.kind(self.usage)
    }

    /// Whether a mapping of a generation has an image over the shared bytes.
    pub(super) fn has_image(&self, by: (DeviceId, ImageUsage), generation: u32) -> bool {
        let images = self.images();
        let mut of = images.iter().filter(|seen| seen.by == by && seen.generation == generation);
        of.any(|seen| seen.image.strong_count() > 0)
    }

    /// The image over the shared bytes that another mapping has, if there is one.
    pub(super) fn find_image(
        &self,
        by: (DeviceId, ImageUsage),
        mapping: &Mapping,
    ) -> Option<Arc<DeviceImage>> {
        find(&self.images(), by, mapping)
    }

    /// Lets other mappings find an image that was made for one. Returns that of another thread instead, if it was earlier.
    pub(super) fn remember_image(
        &self,
        by: (DeviceId, ImageUsage),
        mapping: &Mapping,
        made: Arc<DeviceImage>,
    ) -> Arc<DeviceImage> {
        let mut images = self.images();
        if let Some(earlier) = find(&images, by, mapping) {
            // The spare one is dropped without the lock.
            drop(images);
            drop(made);
            return earlier;
        }
        let (generation, memory) = (mapping.generation(), SeenMemory::of(mapping));
        images.retain(|seen| seen.image.strong_count() > 0);
        images.push(Seen { by, generation, memory, image: Arc::downgrade(&made) });
        drop(images);
        made
    }

    fn images(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.sharing().images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that is alive for some uses of a device, over the memory of a mapping.
fn find(
    images: &[Seen],
    by: (DeviceId, ImageUsage),
    mapping: &Mapping,
) -> Option<Arc<DeviceImage>> {
    let (generation, memory) = (mapping.generation(), SeenMemory::of(mapping));
    let same =
        |seen: &&Seen| seen.by == by && seen.generation == generation && seen.memory == memory;
    images.iter().filter(same).find_map(|seen| seen.image.upgrade())
}

impl fmt::Debug for SharedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedImage")
            .field("layout", &self.layout())
            .field("buffer", &self.0.buffer)
            .finish_non_exhaustive()
    }
}

/// Handles are equal if they are the same image, whatever its content.
impl PartialEq for SharedImage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedImage {}

impl Hash for SharedImage {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<SharedImage>();
};
