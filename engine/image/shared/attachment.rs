//! The attachment of a device to an image, and what it maps.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::device_image::DeviceImage;
use super::mapping::{ImageMapping, Sight};
use super::own_image::OwnImage;
use super::participants::Brings;
use super::places::Places;
use super::shared_image::{ImageServices, Layout, SharedImage};
use crate::access::Access;
use crate::buffer::{Attachment, Importer, Mapping, Pin};
use crate::device::{Device, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::image::extent::Shape;
use crate::image::layout::MemoryPlane;
use crate::image::modifier::Modifier;
use crate::image::negotiate::{Candidate, Trial};
use crate::image::proofs::verdict;
use crate::image::usage::ImageUsage;
use crate::image::verdict::ImageVerdictError;
use crate::memory::{PlaneStart, Tiling};

/// A device's attachment to a [`SharedImage`], from [`SharedImage::attach`] or [`SharedImage::attach_dynamic`].
///
/// It keeps the image in its memory, or is notified when it moves, exactly as an [`Attachment`] of its buffer does.
/// Dropping it detaches the device; live mappings stay valid.
pub struct ImageAttachment {
    image: SharedImage,
    usage: ImageUsage,
    /// The device's own image, once it has needed one. Protected by its mutex, which is taken alone.
    own: Mutex<Option<Arc<OwnImage>>>,
    attachment: Attachment,
    /// Its number among those of the image.
    id: u64,
}

impl SharedImage {
    /// Attaches `device`, with a static attachment, for all uses of the image: [`crate::SharedBuffer::attach`], for an
    /// image.
    ///
    /// # Errors
    ///
    /// As [`crate::SharedBuffer::attach`].
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
    /// As [`SharedImage::attach`]; [`Error::Unsupported`] without a use.
    ///
    /// Locks: the reservation.
    pub fn attach_for(&self, device: &Device, usage: ImageUsage) -> Result<ImageAttachment> {
        check_usage(device, usage)?;
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
        check_usage(device, usage)?;
        let attachment = self.buffer().attach_dynamic(device, importer)?;
        ImageAttachment::new(self, usage, attachment)
    }
}

fn check_usage(device: &Device, usage: ImageUsage) -> Result<()> {
    if usage.is_empty() {
        let missing = "an image without any use: name at least one".to_owned();
        return Err(Error::Unsupported { device: device.name().to_owned(), missing });
    }
    Ok(())
}

/// A size at which drivers that pad rows to 256 bytes place them as those that do not.
const ROWS_ALIKE: Shape = Shape::new(512, 64);

/// How often a mapping is made again because the image has moved meanwhile.
const ATTEMPTS: u32 = 100;

impl ImageAttachment {
    fn new(image: &SharedImage, usage: ImageUsage, attachment: Attachment) -> Result<Self> {
        let by = (attachment.device().id(), usage);
        // In a statement of its own, so that the lock is not held while a driver is asked.
        let known = image.0.participants().known(by.0, usage);
        let brings = match known {
            Some(known) => known,
            None => Brings::read(&image.0.kind(usage), &attachment.map(Access::Read)?)?,
        };
        let (now, layout) = (image.0.now(), image.0.layout());
        let id = image.0.participants().add(by, brings, (now, &layout.places));
        Ok(Self { image: image.clone(), usage, own: Mutex::default(), attachment, id })
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
    /// ([`crate::Engine::image_verdict`]). Otherwise it is the attachment's own, and every use of it in a submission
    /// copies: into it first, and back out of it if the use writes.
    ///
    /// # Errors
    ///
    /// As [`Attachment::map`]; [`Error::Unsupported`] if the device has no image for these uses, of either kind.
    ///
    /// Locks: as [`Attachment::map`].
    pub fn map(&self, access: Access) -> Result<ImageMapping> {
        self.image.relayout_if_due();
        for _ in 0..ATTEMPTS {
            let mapping = self.attachment.map(access)?;
            let layout = self.image.0.layout();
            if mapping.generation() != self.image.generation() {
                // It has moved since, perhaps into another layout.
                continue;
            }
            let sight = match self.shared_image(&mapping, &layout)? {
                Some(image) => {
                    self.forget_own_image();
                    Sight::Shared(image)
                }
                None => Sight::Own(self.own_image()?),
            };
            return Ok(ImageMapping::new(self.image.clone(), layout, sight, mapping));
        }
        Err(Error::Timeout {
            what: format!("a mapping of {}, which keeps moving", self.image.name()),
            after: self.image.0.buffer.services().timeout,
        })
    }

    /// Replaces a stale mapping by a current one, for the same access. A mapping that is current stays.
    ///
    /// # Errors
    ///
    /// As [`ImageAttachment::map`], and [`Error::ForeignMapping`] for a mapping of another image or device. The mapping
    /// is then unchanged.
    ///
    /// Locks: as [`ImageAttachment::map`].
    pub fn remap(&self, mapping: &mut ImageMapping) -> Result<()> {
        if *mapping.image() != self.image || mapping.device() != self.device() {
            let (buffer, device) = (self.image.name(), self.device().name().to_owned());
            return Err(Error::ForeignMapping { buffer, device });
        }
        if mapping.generation() != self.image.generation() {
            *mapping = self.map(mapping.access())?;
        }
        Ok(())
    }

    /// The image over the shared bytes; `None` if the driver has none that sees all rows where they are.
    fn shared_image(&self, mapping: &Mapping, layout: &Layout) -> Result<Option<Arc<DeviceImage>>> {
        let (device, handle) = (mapping.device_inner(), mapping.raw_view().handle());
        let by = (device.id(), self.usage);
        if let Some(known) = self.image.0.find_image(by, mapping.generation()) {
            return Ok(Some(known));
        }
        let refused = (device.id(), self.usage, handle);
        let list = || layout.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if list().contains(&refused) {
            return Ok(None);
        }
        match self.are_rows_proved(device)? {
            Some(true) => {}
            Some(false) => {
                list().push(refused);
                return Ok(None);
            }
            // It may be known at the next call.
            None => return Ok(None),
        }
        let planes = explicit_planes(layout);
        let explicit = Tiling::Modifier { modifier: Modifier::LINEAR.raw(), planes: &planes };
        let can_be_told =
            handle == HandleType::DmaBuf && device.has_image_modifiers() && !planes.is_empty();
        let tilings = [(can_be_told, explicit), (true, Tiling::Linear)];
        for (_, tiling) in tilings.into_iter().filter(|(possible, _)| *possible) {
            if let Some(image) = self.try_tiling(mapping, layout, tiling)? {
                self.image.0.remember_image(by, mapping.generation(), &image);
                return Ok(Some(image));
            }
        }
        list().push(refused);
        Ok(None)
    }

    /// Whether images over rows work between the home device and this one, as probes of the format have found: written on
    /// one and read on the other, and back. `None` if it could not be tried now.
    ///
    /// # Errors
    ///
    /// [`Error::FdLimit`].
    ///
    /// Locks: none may be held; the first call for a format and a pair of devices waits for devices.
    fn are_rows_proved(&self, device: &Arc<DeviceInner>) -> Result<Option<bool>> {
        let (fourcc, home) = (self.image.fourcc(), self.image.home().0);
        if home.id() == device.id() {
            return Ok(Some(true));
        }
        let ImageServices { proofs, .. } = &self.image.0.services;
        let said = || {
            let evidence = proofs.evidence(fourcc);
            let pairs = [(home.id(), device.id()), (device.id(), home.id())];
            let said = pairs.map(|(from, to)| {
                let trial = Trial::new(Candidate::linear_tiling(), from, to);
                evidence.said(trial).map(std::result::Result::is_ok)
            });
            // What was not asked for in one direction is asked for in the other one.
            said.into_iter().flatten().reduce(|a, b| a && b)
        };
        if let Some(known) = said() {
            return Ok(Some(known));
        }
        let core = self.image.buffer().services();
        match verdict(core, proofs, (&home, device), fourcc, ROWS_ALIKE) {
            Err(ImageVerdictError::Engine(error @ Error::FdLimit { .. })) => Err(error),
            Err(error) => {
                tracing::debug!(%error, image = self.image.name(), "rows are not proved");
                Ok(None)
            }
            Ok(_) => Ok(said()),
        }
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
            Ok(image) => DeviceImage::new(image, self.image.buffer().clone()),
            Err(Error::Unsupported { .. } | Error::Misaligned { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Where a modifier's planes are was said, and not asked for.
        let seen = match tiling {
            Tiling::Modifier { .. } => None,
            _ => image.image().map(|image| Places::of_image(kind.format, kind.shape, image)),
        };
        let sees_it = seen.is_none_or(|places| places.as_ref() == Some(&layout.places));
        Ok(sees_it.then(|| Arc::new(image)))
    }

    /// Frees the device's own image, unless mappings of an earlier layout still have it.
    fn forget_own_image(&self) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Without the lock.
        drop(own);
    }

    /// The device's own image, made at the first call.
    fn own_image(&self) -> Result<Arc<OwnImage>> {
        let own = || self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = &*own() {
            return Ok(Arc::clone(own));
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
        let made = OwnImage::new(&self.image.0.services, &device, &kind, &self.image.name())?;
        // Another thread may have made one meanwhile, which uses have written, perhaps.
        Ok(Arc::clone(own().get_or_insert_with(|| Arc::new(made))))
    }
}

/// The planes as a modifier's are told; none if a modifier cannot tell all of the layout.
fn explicit_planes(layout: &Layout) -> Vec<PlaneStart> {
    let shape = layout.told.shape();
    if (shape.mips, shape.layers) != (1, 1) {
        return vec![];
    }
    let start =
        |plane: &MemoryPlane| PlaneStart { offset: plane.offset, pitch: plane.pitch.into() };
    layout.told.planes().iter().map(start).collect()
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
