//! The attachments of an image, and what the device of each offers for its uses.

use std::sync::Arc;
use std::time::Duration;

use super::device_image::ImageKind;
use super::places::Places;
use crate::buffer::Mapping;
use crate::device::{DeviceId, HandleType, ImageLimits};
use crate::error::{Error, Result};
use crate::image::extent::{Extent, Limits};
use crate::image::modifier::Modifier;
use crate::image::negotiate::{self, Renegotiation};
use crate::image::offer::{ImageOffer, Offer, TilingOffer};
use crate::image::usage::ImageUsage;
use crate::memory::Tiling;

/// The attachments of an image, as negotiations see them.
#[derive(Debug, Default)]
pub(super) struct Participants {
    listed: Vec<Participant>,
    /// The number of the next one.
    next: u64,
    renegotiation: Renegotiation,
}

#[derive(Clone, Debug)]
pub(super) struct Participant {
    /// As negotiations see it.
    pub(super) seen: negotiate::AttachmentOffer,
    /// What it brings.
    pub(super) brings: Brings,
}

/// What a device offers for some uses of an image.
#[derive(Clone, Debug)]
pub(super) struct Brings {
    offer: Arc<Offer>,
    /// Where its driver places rows over shared bytes, if it has such images for all these uses.
    pub(super) direct: Option<Arc<Places>>,
    /// Whether its driver takes any other places.
    takes_any: bool,
}

impl Participants {
    /// What another attachment of the same device brings for the same uses.
    pub(super) fn known(&self, device: DeviceId, usage: ImageUsage) -> Option<Brings> {
        let same = |one: &&Participant| one.seen.device == device && one.seen.usage == usage;
        self.listed.iter().find(same).map(|one| one.brings.clone())
    }

    /// Lists an attachment, and returns its number.
    pub(super) fn add(
        &mut self,
        (device, usage): (DeviceId, ImageUsage),
        brings: Brings,
        (now, present): (Duration, &Places),
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        if !brings.sees(present) {
            // It takes part by copies meanwhile.
            self.renegotiation.attached(now, true);
        }
        let offer = Arc::clone(&brings.offer);
        let seen = negotiate::AttachmentOffer { id, device, usage, offer };
        self.listed.push(Participant { seen, brings });
        id
    }

    /// Removes an attachment.
    pub(super) fn remove(&mut self, id: u64, now: Duration) {
        self.listed.retain(|one| one.seen.id != id);
        self.renegotiation.detached(now);
    }

    /// A copy of the list.
    pub(super) fn list(&self) -> Vec<Participant> {
        self.listed.clone()
    }

    /// The attachments have negotiated. `changed`: the image gets another layout.
    pub(super) fn negotiated(&mut self, now: Duration, changed: bool) {
        self.renegotiation.negotiated(now, changed);
    }

    /// Whether the attachments have changed, and it is time to look for a better layout.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.renegotiation.is_due(now)
    }
}

impl Brings {
    /// Whether the device uses the shared bytes directly if rows are there.
    pub(super) fn sees(&self, places: &Places) -> bool {
        self.takes_any || self.direct.as_deref() == Some(places)
    }

    /// Asks the driver. `mapping` is one of the image's buffer on the device.
    ///
    /// # Errors
    ///
    /// Those of creating an image, except that the driver has none.
    pub(super) fn read(kind: &ImageKind, mapping: &Mapping) -> Result<Self> {
        let device = mapping.device_inner();
        let spec = kind.spec(Tiling::Linear, false);
        let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
        let handle = mapping.raw_view().handle();
        let allows = ImageUsage::of_features(formats.linear.features);
        // Of a device that cannot use rows in all these ways, those that it can.
        let allowed = kind.usage.without(kind.usage.without(allows));
        let places = match allowed.is_empty() {
            true => None,
            false => linear_places(&ImageKind { usage: allowed, ..*kind }, mapping)?,
        };
        let listed = formats.modifiers.iter();
        let takes_any = handle == HandleType::DmaBuf
            && device.has_image_modifiers()
            && (kind.shape.mips, kind.shape.layers) == (1, 1)
            && listed.filter(|listed| listed.modifier == Modifier::LINEAR.raw()).any(|listed| {
                let external = listed.images.external(HandleType::DmaBuf);
                let allows = ImageUsage::of_features(listed.images.features);
                external.importable && external.limits.is_ok() && allows.contains(kind.usage)
            });
        let linear_tiling = formats.linear.external(handle).limits.ok().and_then(|most| {
            let told = places.as_ref().and_then(|places| places.image_layout().ok());
            let planes = told.map(|told| told.planes().to_vec());
            let image = ImageOffer { allows, limits: limits(most) };
            let tiling = |planes| TilingOffer { image, planes, takes_any };
            planes.or_else(|| takes_any.then(Vec::new)).map(tiling)
        });
        let own_image = formats.optimal.limits.ok().map(|most| ImageOffer {
            allows: ImageUsage::of_features(formats.optimal.features),
            limits: limits(most),
        });
        // Images by modifiers, tiled or not, are not proved, so they are not offered.
        let offer = Offer { linear_tiling, own_image, ..Offer::default() };
        let direct = places.filter(|_| allowed == kind.usage).map(Arc::new);
        Ok(Self { offer: Arc::new(offer), direct, takes_any })
    }
}

/// Where a driver places the rows of a linear image over the bytes of a mapping; `None` if it has no such image that
/// fits.
///
/// # Errors
///
/// Those of creating an image, except that the driver has none.
pub(super) fn linear_places(kind: &ImageKind, mapping: &Mapping) -> Result<Option<Places>> {
    if !kind.is_allowed(mapping.device_inner(), Tiling::Linear, false) {
        return Ok(None);
    }
    let image = match kind.over(mapping, Tiling::Linear, false) {
        Ok(image) => image,
        Err(Error::Unsupported { .. } | Error::Misaligned { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let places = Places::of_image(kind.format, kind.shape, &image);
    let size = mapping.buffer().size();
    Ok(places.filter(|places| places.end().is_some_and(|end| end <= size)))
}

fn limits(most: ImageLimits) -> Limits {
    Limits { extent: Extent::new(most.width, most.height), mips: most.mips, layers: most.layers }
}
