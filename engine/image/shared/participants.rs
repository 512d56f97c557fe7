//! The attachments of an image, and what the device of each offers for its uses.

use std::sync::Arc;
use std::time::Duration;

use super::device_image::{ImageKind, MemoryKind, is_refusal};
use super::places::Places;
use crate::buffer::Mapping;
use crate::device::{DeviceId, DeviceInner, HandleType, ImageFormats, ImageLimits};
use crate::error::Result;
use crate::image::driver_offer::modifier_offer;
use crate::image::extent::{Extent, Limits};
use crate::image::modifier::Modifier;
use crate::image::negotiate::{self, Agreement, Renegotiation};
use crate::image::offer::{ImageOffer, ModifierOffer, Offer, TilingOffer};
use crate::image::usage::ImageUsage;
use crate::memory::{PlaneStart, Tiling};

/// The attachments of an image, as negotiations see them.
#[derive(Debug, Default)]
pub(super) struct Participants {
    listed: Vec<Participant>,
    /// The number of the next one.
    next: u64,
    renegotiation: Renegotiation,
    /// How often the list has changed, or what attachments bring.
    changes: u64,
    agreed: Option<Agreed>,
}

/// What the attachments have agreed on, and what was known then: the home device, and the number of changes of proofs.
#[derive(Debug)]
struct Agreed {
    asked: (DeviceId, u64),
    agreement: Arc<Agreement>,
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
    /// The kind of memory that it was asked for.
    pub(super) memory: MemoryKind,
    offer: Arc<Offer>,
    /// Where its driver places rows over shared bytes, if it has such images for all these uses.
    pub(super) direct: Option<Arc<Places>>,
    /// The tiled modifiers of which it has images over the shared bytes, best first.
    pub(super) tiled: Vec<Modifier>,
    /// Whether its driver takes stated planes at other places; it has taken those of a layout, and refused none.
    takes_stated: bool,
    /// Whether the device can use the image by copies.
    pub(super) copies: bool,
}

/// How a device has rows at some places as an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its driver places them there.
    Linear,
    /// Its driver is told that they are there.
    Stated,
    /// There are tiles instead.
    Tiles,
}

/// The present layout of an image.
#[derive(Clone, Copy)]
pub(super) struct Present<'a> {
    /// Its rows, if it has rows.
    pub(super) places: &'a Places,
    /// The modifier, if it is in tiles.
    pub(super) tiles: Option<Modifier>,
}

impl Participants {
    /// What another attachment of the same device brings for the same uses, in that kind of memory, or in any.
    pub(super) fn known(
        &self,
        (device, usage): (DeviceId, ImageUsage),
        memory: Option<MemoryKind>,
    ) -> Option<Brings> {
        let same = |one: &&Participant| {
            one.seen.device == device && one.seen.usage == usage && one.brings.is_of(memory)
        };
        self.listed.iter().find(same).map(|one| one.brings.clone())
    }

    /// Whether what an attachment brings is known for another kind of memory.
    pub(super) fn is_of_other_memory(&self, id: u64, memory: MemoryKind) -> bool {
        self.listed.iter().any(|one| one.seen.id == id && one.brings.memory != memory)
    }

    /// An attachment brings something else: the image has moved into memory of another kind.
    pub(super) fn update(
        &mut self,
        id: u64,
        brings: Brings,
        (now, present): (Duration, Present<'_>),
    ) {
        if let Some(one) = self.listed.iter_mut().find(|one| one.seen.id == id) {
            let sees = |brings: &Brings| brings.takes_part(present) == Some(true);
            if (!sees(&brings) && sees(&one.brings)) || brings.tiled != one.brings.tiled {
                self.renegotiation.attached(now, brings.takes_part(present).is_some());
            }
            one.seen.offer = Arc::clone(&brings.offer);
            one.brings = brings;
        }
        self.changed();
    }

    fn changed(&mut self) {
        self.changes += 1;
        self.agreed = None;
    }

    /// How often what a negotiation depends on has changed here.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// What was agreed, if nothing has changed since.
    pub(super) fn agreed(&self, asked: (DeviceId, u64)) -> Option<Arc<Agreement>> {
        let agreed = self.agreed.as_ref().filter(|agreed| agreed.asked == asked);
        agreed.map(|agreed| Arc::clone(&agreed.agreement))
    }

    /// Keeps what was agreed when there were so many changes.
    pub(super) fn note_agreed(
        &mut self,
        changes: u64,
        asked: (DeviceId, u64),
        agreement: &Arc<Agreement>,
    ) {
        if changes == self.changes {
            self.agreed = Some(Agreed { asked, agreement: Arc::clone(agreement) });
        }
    }

    /// The device refuses stated planes for these uses. It is not taken for one that sees other places.
    pub(super) fn refuses_stated(&mut self, device: DeviceId, usage: ImageUsage) {
        let same = |one: &&mut Participant| one.seen.device == device && one.seen.usage == usage;
        self.listed.iter_mut().filter(same).for_each(|one| one.brings.refuse_stated());
        self.changed();
    }

    /// The devices that were attached before `device`, and use rows at these places as an image: with each of them such
    /// images have to be proved before `device` uses one.
    pub(super) fn ahead_of(&self, device: DeviceId, places: &Places) -> Vec<(DeviceId, Way)> {
        let earlier = self.listed.iter().take_while(|one| one.seen.device != device);
        let ways = earlier.filter_map(|one| Some((one.seen.device, one.brings.way(places)?)));
        ways.collect()
    }

    /// The device refuses an image over tiles for these uses.
    pub(super) fn refuses_tiles(
        &mut self,
        device: DeviceId,
        usage: ImageUsage,
        modifier: Modifier,
    ) {
        let same = |one: &&mut Participant| one.seen.device == device && one.seen.usage == usage;
        for one in self.listed.iter_mut().filter(same) {
            one.brings.tiled.retain(|tiled| *tiled != modifier);
        }
    }

    /// The image has left its tiles, and may get them again.
    pub(super) fn left_tiles(&mut self, now: Duration) {
        self.renegotiation.negotiated(now, true);
        self.renegotiation.attached(now, true);
    }

    /// Lists an attachment, and returns its number.
    pub(super) fn add(
        &mut self,
        (device, usage): (DeviceId, ImageUsage),
        brings: Brings,
        (now, present): (Duration, Present<'_>),
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        self.changed();
        let part = brings.takes_part(present);
        // In tiles it may be used better than in rows.
        if part != Some(true) || (present.tiles.is_none() && !brings.tiled.is_empty()) {
            // If it can, it takes part by copies meanwhile.
            self.renegotiation.attached(now, part.is_some());
        }
        let offer = Arc::clone(&brings.offer);
        let seen = negotiate::AttachmentOffer { id, device, usage, offer };
        self.listed.push(Participant { seen, brings });
        id
    }

    /// Removes an attachment.
    pub(super) fn remove(&mut self, id: u64, now: Duration) {
        self.listed.retain(|one| one.seen.id != id);
        self.changed();
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

    /// The image could not be moved into a better layout, or devices could not be asked.
    pub(super) fn put_off(&mut self, now: Duration) {
        self.renegotiation.put_off(now);
    }

    /// Whether the attachments have changed, and it is time to look for a better layout.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.renegotiation.is_due(now)
    }
}

impl Brings {
    /// Whether it was asked for memory of that kind; of any, if none is named.
    pub(super) fn is_of(&self, memory: Option<MemoryKind>) -> bool {
        memory.is_none_or(|memory| self.memory == memory)
    }

    pub(super) fn refuse_stated(&mut self) {
        self.takes_stated = false;
    }

    /// How the device uses the shared bytes directly if rows are there; `None` if it does not.
    pub(super) fn way(&self, places: &Places) -> Option<Way> {
        if self.direct.as_deref() == Some(places) {
            return Some(Way::Linear);
        }
        self.takes_stated.then_some(Way::Stated)
    }

    /// Whether there are places, or tiles, at which it uses the shared bytes directly.
    pub(super) fn has_way(&self) -> bool {
        self.takes_stated || self.direct.is_some() || !self.tiled.is_empty()
    }

    /// Whether the device uses the shared bytes directly in a layout; `None` if it cannot use the image at all.
    fn takes_part(&self, Present { places, tiles }: Present<'_>) -> Option<bool> {
        match tiles {
            // No device copies tiles for another one.
            Some(modifier) => self.tiled.contains(&modifier).then_some(true),
            None if self.way(places).is_some() => Some(true),
            None => self.copies.then_some(false),
        }
    }

    /// Asks the driver. `mapping` is one of the image's buffer on the device, and `stated` the planes of its layout.
    ///
    /// # Errors
    ///
    /// Those of creating an image, except that the driver has none.
    pub(super) fn read(kind: &ImageKind, mapping: &Mapping, stated: &[PlaneStart]) -> Result<Self> {
        let device = mapping.device_inner();
        let spec = kind.spec(Tiling::Linear, false);
        let formats = device.adapter().image_formats(spec.format, spec.usage, &spec.views());
        let memory = MemoryKind::of(mapping);
        let handle = memory.handle;
        let allows = ImageUsage::of_features(formats.linear.features);
        // Of a device that cannot use rows in all these ways, those that it can.
        let allowed = kind.usage.without(kind.usage.without(allows));
        let places = match allowed.is_empty() {
            true => None,
            false => linear_places(&ImageKind { usage: allowed, ..*kind }, mapping)?,
        };
        let listed = formats.modifiers.iter();
        let lists_rows = handle == HandleType::DmaBuf
            && device.has_image_modifiers()
            && (kind.shape.mips, kind.shape.layers) == (1, 1)
            && listed.filter(|listed| listed.modifier == Modifier::LINEAR.raw()).any(|listed| {
                let external = listed.images.external(HandleType::DmaBuf);
                let allows = ImageUsage::of_features(listed.images.features);
                external.importable && external.limits.is_ok() && allows.contains(kind.usage)
            });
        let takes_stated = lists_rows && takes_planes(stated, kind, mapping)?;
        let linear_tiling = formats.linear.external(handle).limits.ok().and_then(|most| {
            let told = places.as_ref().and_then(|places| places.image_layout().ok());
            let planes = told.map(|told| told.planes().to_vec());
            let image = ImageOffer { allows, limits: limits(most) };
            let tiling = |planes| TilingOffer { image, planes, takes_any: takes_stated };
            planes.or_else(|| takes_stated.then(Vec::new)).map(tiling)
        });
        let own_image = formats.optimal.limits.ok().map(|most| ImageOffer {
            allows: ImageUsage::of_features(formats.optimal.features),
            limits: limits(most),
        });
        // Rows by the modifier `LINEAR` are offered as linear tiling that takes any places.
        let modifiers = tiled_modifiers(device, &formats, handle);
        let is_whole = |offered: &&ModifierOffer| {
            let fits = offered.limits.is_some_and(|limits| kind.shape.check(limits).is_ok());
            offered.importable && fits && offered.allows.contains(kind.usage)
        };
        let tiled = modifiers.iter().filter(is_whole).map(|offered| offered.modifier).collect();
        let offer = Offer { modifiers, linear_tiling, own_image, ..Offer::default() };
        let direct = places.filter(|_| allowed == kind.usage).map(Arc::new);
        let copies = kind.is_allowed(device, Tiling::Optimal, true);
        Ok(Self { memory, offer: Arc::new(offer), direct, tiled, takes_stated, copies })
    }
}

/// What a device offers for images of tiled modifiers over memory that is shared as `handle`.
fn tiled_modifiers(
    device: &DeviceInner,
    formats: &ImageFormats,
    handle: HandleType,
) -> Vec<ModifierOffer> {
    let listed: &[_] = if device.has_image_modifiers() { &formats.modifiers } else { &[] };
    let offers = listed.iter().enumerate().map(|(rank, of)| {
        let offered = modifier_offer(device, rank, of, handle);
        // Memory is not dedicated to images.
        let (importable, exportable) = (offered.importable, offered.exportable);
        let shared = !offered.dedicated;
        ModifierOffer {
            importable: importable && shared,
            exportable: exportable && shared,
            dedicated: false,
            ..offered
        }
    });
    offers.filter(|offered| !offered.modifier.is_linear()).collect()
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
        Err(error) if is_refusal(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let places = Places::of_image(kind.format, kind.shape, &image);
    let size = mapping.buffer().size();
    Ok(places.filter(|places| places.end().is_some_and(|end| end <= size)))
}

/// Whether a driver takes planes as they are stated.
fn takes_planes(planes: &[PlaneStart], kind: &ImageKind, mapping: &Mapping) -> Result<bool> {
    let stated = Tiling::Modifier { modifier: Modifier::LINEAR.raw(), planes };
    if planes.is_empty() || !kind.is_allowed(mapping.device_inner(), stated, false) {
        return Ok(false);
    }
    match kind.over(mapping, stated, false) {
        Ok(_) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn limits(most: ImageLimits) -> Limits {
    Limits { extent: Extent::new(most.width, most.height), mips: most.mips, layers: most.layers }
}
