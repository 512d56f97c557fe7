//! The attachment of a device to an image, and what it maps.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::brings::Way;
use super::device_image::{DeviceImage, MemoryKind, is_refusal};
use super::mapping::{ImageMapping, Sight};
use super::own_image::OwnImage;
use super::shared_image::{Layout, SharedImage};
use super::tiles::Tiles;
use crate::access::Access;
use crate::buffer::{Attachment, Importer, Mapping, Pin};
use crate::device::{Device, HandleType};
use crate::error::{Error, Result};
use crate::image::known_rows::Rows;
use crate::image::modifier::Modifier;
use crate::image::usage::ImageUsage;
use crate::memory::Tiling;

/// A device's attachment to a [`SharedImage`], from [`SharedImage::attach`] or [`SharedImage::attach_dynamic`].
///
/// It keeps the image in its memory, or is notified when it moves, as an [`Attachment`] of its buffer does.
/// Dropping it detaches the device; live mappings stay valid.
pub struct ImageAttachment {
    image: SharedImage,
    usage: ImageUsage,
    /// The device's own image, while mappings have it. Protected by its mutex, within which no other lock is taken.
    own: Mutex<Weak<OwnImage>>,
    attachment: Attachment,
    id: u64,
}

impl SharedImage {
    /// Attaches `device`, with a static attachment, for all uses of the image: [`crate::SharedBuffer::attach`], for an
    /// image.
    ///
    /// The first attachment of a device for some uses maps the memory that the texels are in for a moment, as
    /// [`ImageAttachment::map`] does. The first one to an image of this format, size and layout asks its driver for an image
    /// over that memory.
    ///
    /// # Errors
    ///
    /// As [`crate::SharedBuffer::attach`] and [`Attachment::map`]. If the driver fails after the image has moved to where the
    /// device reaches it, the image stays there.
    ///
    /// Locks: the reservation.
    pub fn attach(&self, device: &Device) -> Result<ImageAttachment> {
        self.attach_for(device, self.usage())
    }

    /// Attaches `device` as [`SharedImage::attach`] does, for some uses. A device that sees the layout and cannot draw
    /// into it uses the shared bytes directly if it names no drawing.
    ///
    /// # Errors
    ///
    /// As [`SharedImage::attach`]; [`Error::Unsupported`] without a use, or with one that the image was not created for
    /// ([`SharedImage::usage`]).
    ///
    /// Locks: the reservation.
    pub fn attach_for(&self, device: &Device, usage: ImageUsage) -> Result<ImageAttachment> {
        self.check_usage(device, usage)?;
        ImageAttachment::new(self, usage, self.buffer().attach(device)?)
    }

    /// Attaches `device` with an importer that is notified when the image moves, for some uses:
    /// [`crate::SharedBuffer::attach_dynamic`], for an image.
    ///
    /// # Errors
    ///
    /// As [`SharedImage::attach_for`].
    ///
    /// Locks: the reservation.
    pub fn attach_dynamic(
        &self,
        device: &Device,
        usage: ImageUsage,
        importer: Arc<dyn Importer>,
    ) -> Result<ImageAttachment> {
        self.check_usage(device, usage)?;
        let attachment = self.buffer().attach_dynamic(device, importer)?;
        ImageAttachment::new(self, usage, attachment)
    }

    fn check_usage(&self, device: &Device, usage: ImageUsage) -> Result<()> {
        let other = usage.without(self.usage());
        let missing = if usage.is_empty() {
            "an image without any use: name at least one".to_owned()
        } else if !other.is_empty() {
            format!("{other} of an image that was created for {}: name it there", self.usage())
        } else {
            return Ok(());
        };
        Err(Error::Unsupported { device: device.name().to_owned(), missing })
    }
}

/// How often a mapping is made again because the image has moved meanwhile.
const ATTEMPTS: u32 = 100;

impl ImageAttachment {
    fn new(image: &SharedImage, usage: ImageUsage, attachment: Attachment) -> Result<Self> {
        let by = (attachment.device().id(), usage);
        // In a statement of its own, so that the lock is not held while a driver is asked.
        let known = image.0.participants().known(by, None);
        let (now, layout) = (image.0.now(), image.0.layout());
        let brings = match known {
            Some(known) => known,
            None => layout.brings_of(&image.0.kind(usage), &attachment.map(Access::Read)?)?,
        };
        let id = image.0.participants().add(by, brings, (now, layout.present()));
        Ok(Self { image: image.clone(), usage, own: Mutex::default(), attachment, id })
    }

    /// Returns its number among the attachments that the image has had, which is never reused. Agreements and
    /// explanations name attachments by it ([`SharedImage::negotiate`], [`SharedImage::explain`]).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the image.
    pub fn image(&self) -> &SharedImage {
        &self.image
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        self.attachment.device()
    }

    /// Returns the uses that it was made for.
    pub fn usage(&self) -> ImageUsage {
        self.usage
    }

    /// Whether it has an importer, which is notified when the image moves.
    pub fn is_dynamic(&self) -> bool {
        self.attachment.is_dynamic()
    }

    /// Returns the attachment of the image's buffer.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Keeps the image in its memory, as [`Attachment::pin`] does with a buffer.
    ///
    /// # Errors
    ///
    /// As [`Attachment::pin`].
    ///
    /// Locks: as [`Attachment::pin`].
    pub fn pin(&self, reason: impl Into<Cow<'static, str>>) -> Result<Pin> {
        self.attachment.pin(reason)
    }

    /// Maps the image for the device: returns a `VkImage` with its present texels, in the layout `GENERAL` between
    /// uses.
    ///
    /// If the device's driver sees rows where they are, the `VkImage` is over the shared bytes; all mappings of a
    /// device for the same uses have the same one. The first of a format on a pair of devices is proved with texels
    /// ([`crate::Engine::image_verdict`]): with the home device, and with each device that uses the shared bytes already.
    /// Otherwise it is the attachment's own, and every use of it in a submission copies: into it first, and back out of it
    /// if the use writes. It lives as long as mappings of the attachment have it.
    ///
    /// # Errors
    ///
    /// As [`Attachment::map`]; [`Error::Unsupported`] if the device has no image for these uses, of either kind;
    /// [`Error::Busy`] if the image moves again and again meanwhile, or if something keeps it in tiles that the device does
    /// not see; otherwise such an image is brought into rows.
    ///
    /// Locks: as [`Attachment::map`]. The first call for a format and a pair of devices waits for devices, as
    /// [`crate::Engine::image_verdict`] does.
    pub fn map(&self, access: Access) -> Result<ImageMapping> {
        self.image.relayout_if_due();
        self.attachment.bring_back()?;
        self.map_as_it_is(access)
    }

    /// Maps the image as [`ImageAttachment::map`] does, if it is in its preferred domain then; `None` if it is elsewhere, has
    /// no content, or there is no room for an image of the device's own.
    ///
    /// # Errors
    ///
    /// As [`ImageAttachment::map`], except for these.
    ///
    /// Locks: as [`ImageAttachment::map`].
    pub(in crate::image) fn map_in_preferred_domain(
        &self,
        access: Access,
    ) -> Result<Option<ImageMapping>> {
        self.image.relayout_if_due();
        let is_there = || self.image.buffer().is_in_preferred_domain();
        let mapped = self.attachment.bring_back().and_then(|()| match is_there() {
            true => self.map_as_it_is(access).map(Some),
            false => Ok(None),
        });
        match mapped {
            // It may have been evicted meanwhile.
            Ok(mapping) => Ok(mapping.filter(|_| is_there())),
            Err(error) if error.is_out_of_memory() || matches!(error, Error::Purged { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Maps the image in its present layout. The image moves only where its use requires it.
    pub(super) fn map_as_it_is(&self, access: Access) -> Result<ImageMapping> {
        for _ in 0..ATTEMPTS {
            // Before the mapping, since a static one keeps the image in place.
            let (generation, layout) = (self.image.generation(), self.image.0.layout());
            let by = (self.id, self.usage);
            if !self.image.may_see_tiles(&self.device().0, by, (generation, &layout))? {
                self.image.leave_tiles(&layout)?;
                continue;
            }
            let rows = self.rows(generation, &layout)?;
            let mapping = self.attachment.map_only(access)?;
            let is_current = mapping.generation() == generation
                && generation == self.image.generation()
                && Arc::ptr_eq(&layout, &self.image.0.layout());
            if !is_current {
                // It has moved since, perhaps into another layout.
                continue;
            }
            self.note_memory(&mapping, &layout)?;
            let sight = match self.shared_image(&mapping, &layout, rows)? {
                Some(image) => Sight::Shared(image),
                None if layout.tiles.is_some() => continue,
                None => {
                    let now = self.image.0.now();
                    self.image.0.participants().uses_own(self.id, now);
                    Sight::Own(self.own_image()?)
                }
            };
            return Ok(ImageMapping::new(self.image.clone(), layout, sight, mapping));
        }
        Err(Error::Busy { buffer: self.image.name(), mapped: 0, host: 0, pinned: 0 })
    }

    /// Which images over rows are proved; none if that could not be tried now.
    fn rows(&self, generation: u32, layout: &Layout) -> Result<Rows> {
        let device = self.device().0;
        if layout.tiles.is_some() || self.image.0.has_image((device.id(), self.usage), generation) {
            return Ok(Rows::ALL);
        }
        Ok(self.image.proved_rows(&device, &layout.places)?.unwrap_or(Rows::NONE))
    }

    /// Asks the driver again if the image has moved into memory of another kind.
    fn note_memory(&self, mapping: &Mapping, layout: &Layout) -> Result<()> {
        let (by, memory) = ((self.device().id(), self.usage), MemoryKind::of(mapping));
        // Each lock in a statement of its own, so that it is not held while a driver is asked.
        let differs = self.image.0.participants().is_of_other_memory(self.id, memory);
        if !differs {
            return Ok(());
        }
        let known = self.image.0.participants().known(by, Some(memory));
        let brings = match known {
            Some(known) => known,
            None => layout.brings_of(&self.image.0.kind(self.usage), mapping)?,
        };
        let now = self.image.0.now();
        self.image.0.participants().update(self.id, brings, (now, layout.present()));
        Ok(())
    }

    /// The image over the shared bytes; `None` if the driver has none that sees all rows where they are, or none is
    /// proved.
    fn shared_image(
        &self,
        mapping: &Mapping,
        layout: &Layout,
        rows: Rows,
    ) -> Result<Option<Arc<DeviceImage>>> {
        let (device, memory) = (mapping.device_inner(), MemoryKind::of(mapping));
        let by = (device.id(), self.usage);
        if let Some(known) = self.image.0.find_image(by, mapping) {
            return Ok(Some(known));
        }
        let can_be_told = memory.handle == HandleType::DmaBuf && device.has_image_modifiers();
        let planes = if can_be_told { layout.stated_planes() } else { vec![] };
        let can_be_told = !planes.is_empty();
        let stated = Tiling::Modifier { modifier: Modifier::LINEAR.raw(), planes: &planes };
        let tiles = layout.tiles.as_deref();
        let list = || layout.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for (way, allowed, tiling) in [
            (Way::Tiles, tiles.is_some(), tiles.map_or(Tiling::Linear, Tiles::tiling)),
            (Way::Linear, rows.linear && tiles.is_none(), Tiling::Linear),
            (Way::Stated, rows.stated && can_be_told && tiles.is_none(), stated),
        ] {
            let refused = (device.id(), self.usage, memory, way);
            if !allowed || list().contains(&refused) {
                continue;
            }
            if let Some(image) = self.try_tiling(mapping, layout, tiling)? {
                return Ok(Some(self.image.0.remember_image(by, mapping, image)));
            }
            list().push(refused);
            if let Some(tiles) = tiles {
                let modifier = tiles.modifier();
                self.image.0.participants().refuses_tiles(device.id(), self.usage, modifier);
            } else if way == Way::Stated {
                self.image.0.participants().refuses_stated(device.id(), self.usage);
                layout.refuses_stated(by);
            }
        }
        Ok(None)
    }

    /// The image over the shared bytes with a tiling; `None` if the driver has none, or places rows elsewhere.
    fn try_tiling(
        &self,
        mapping: &Mapping,
        layout: &Layout,
        tiling: Tiling<'_>,
    ) -> Result<Option<Arc<DeviceImage>>> {
        let kind = self.image.0.kind(self.usage);
        if !kind.is_allowed(mapping.device_inner(), tiling, false) {
            return Ok(None);
        }
        let image = match kind.over(mapping, tiling, false) {
            Ok(image) => DeviceImage::new(image, self.usage, self.image.buffer().clone()),
            Err(error) if is_refusal(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Where a modifier's planes are was said, and not asked for.
        let sees_it = matches!(tiling, Tiling::Modifier { .. })
            || image.image().is_some_and(|image| layout.places.are_of(image));
        Ok(sees_it.then(|| Arc::new(image)))
    }

    /// The device's own image: that which mappings have, or a new one.
    fn own_image(&self) -> Result<Arc<OwnImage>> {
        // In a statement of its own, so that the lock is not held while one is made.
        let known = self.own().upgrade();
        if let Some(known) = known {
            return Ok(known);
        }
        let (device, kind) = (self.device(), self.image.0.kind(self.usage));
        if !kind.is_allowed(&device.0, Tiling::Optimal, true) {
            return Err(Error::Unsupported {
                device: device.name().to_owned(),
                missing: format!(
                    "{} images that can be {}: neither in {}, nor of its own",
                    self.image.fourcc(),
                    self.usage,
                    self.image.layout()
                ),
            });
        }
        let services = &self.image.0.services;
        let made = Arc::new(OwnImage::new(services, &device, &kind, self.image.buffer())?);
        let mut own = self.own();
        if let Some(earlier) = own.upgrade() {
            // Another thread has made one meanwhile, which uses have written, perhaps. The spare one is dropped without the
            // lock.
            drop(own);
            drop(made);
            return Ok(earlier);
        }
        *own = Arc::downgrade(&made);
        drop(own);
        Ok(made)
    }

    fn own(&self) -> MutexGuard<'_, Weak<OwnImage>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ImageAttachment {
    fn drop(&mut self) {
        let now = self.image.0.now();
        self.image.0.participants().remove(self.id, now);
    }
}

impl fmt::Debug for ImageAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageAttachment")
            .field("image", &self.image.name())
            .field("device", &self.attachment.device().name())
            .field("usage", &self.usage)
            .field("dynamic", &self.is_dynamic())
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<ImageAttachment>();
};
