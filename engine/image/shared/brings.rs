//! What a device offers for the uses of an image, as its driver says.

use std::sync::Arc;

use super::device_image::{ImageKind, MemoryKind, is_refusal};
use super::places::Places;
use crate::buffer::Mapping;
use crate::device::{DeviceInner, HandleType, ImageFormats, ImageLimits};
use crate::error::Result;
use crate::image::driver_offer::modifier_offer;
use crate::image::extent::{Extent, Limits};
use crate::image::modifier::Modifier;
use crate::image::offer::{ImageOffer, ModifierOffer, Offer, TilingOffer};
use crate::image::usage::ImageUsage;
use crate::memory::{PlaneStart, Tiling};

/// What a device offers for some uses of an image.
#[derive(Clone, Debug)]
pub(super) struct Brings {
    /// The kind of memory that it was asked for.
    pub(super) memory: MemoryKind,
    pub(super) offer: Arc<Offer>,
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

impl Brings {
    /// Whether it was asked for memory of that kind; of any, if none is named.
    pub(super) fn is_of(&self, memory: Option<MemoryKind>) -> bool {
        memory.is_none_or(|memory| self.memory == memory)
    }

    pub(super) fn refuse_stated(&mut self) {
        self.takes_stated = false;
    }

    /// What it offers, if no stated planes are to be used.
    pub(super) fn without_stated(&self) -> Arc<Offer> {
        let mut offer = Offer::clone(&self.offer);
        if let Some(tiling) = &mut offer.linear_tiling {
            tiling.takes_any = false;
        }
        offer.linear_tiling = offer.linear_tiling.filter(|tiling| !tiling.planes.is_empty());
        Arc::new(offer)
    }

    /// Whether the device's driver takes stated planes.
    pub(super) fn takes_stated(&self) -> bool {
        self.takes_stated
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
    pub(super) fn takes_part(&self, Present { places, tiles }: Present<'_>) -> Option<bool> {
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
