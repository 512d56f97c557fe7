//! What one group of attachments brings to a candidate, by its device's offer alone.

use super::agreement::{Copies, Participation};
use super::candidate::{Candidate, Rung};
use super::objection::ObjectionReason;
use super::scene::{Group, Scene};
use crate::image::extent::{Limits, Shape};
use crate::image::layout::MemoryPlane;
use crate::image::offer::ModifierOffer;
use crate::image::usage::ImageUsage;

/// What a group brings.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// How it takes part.
    pub(super) part: Participation,
    /// Why it uses an image of its own, if it does.
    pub(super) copies_because: Option<ObjectionReason>,
    /// The uses that the shared layout allows on its device.
    pub(super) allows: ImageUsage,
    pub(super) planes: u8,
    pub(super) importable: bool,
    pub(super) exportable: bool,
    pub(super) dedicated: bool,
    /// Where the driver places the planes; `None` if it takes any places.
    pub(super) places: Option<Vec<MemoryPlane>>,
}

impl Entry {
    /// Checks that another device sees planes at the same places.
    pub(super) fn agrees_with(&self, agreed: &Self) -> Result<(), ObjectionReason> {
        if self.planes != agreed.planes {
            return Err(ObjectionReason::PlaneCount { own: self.planes, agreed: agreed.planes });
        }
        let (Some(own), Some(places)) = (&self.places, &agreed.places) else { return Ok(()) };
        let differs = own.iter().zip(places).position(|(own, agreed)| own != agreed);
        let pair = differs.and_then(|plane| Some((plane, own.get(plane)?, places.get(plane)?)));
        match pair {
            Some((plane, own, agreed)) => Err(ObjectionReason::OtherPlace {
                plane,
                own_pitch: own.pitch,
                own_offset: own.offset,
                pitch: agreed.pitch,
                offset: agreed.offset,
            }),
            None => Ok(()),
        }
    }
}

/// What a group brings to a candidate.
///
/// # Errors
///
/// Why its device cannot share the image, whatever the others offer.
pub(super) fn of(
    group: &Group<'_>,
    candidate: Candidate,
    scene: &Scene<'_>,
) -> Result<Entry, ObjectionReason> {
    match candidate.rung() {
        Rung::SharedTiled | Rung::SharedLinear => by_modifier(group, candidate, scene),
        Rung::LinearTiling => by_tiling(group, scene),
        Rung::Private => {
            let own = group.offer.own_image.ok_or(ObjectionReason::NotOffered)?;
            let missing = group.usage.without(own.allows);
            if !missing.is_empty() {
                return Err(ObjectionReason::OwnImage { missing });
            }
            check(scene.shape, own.limits)?;
            Ok(shared_by(Participation::Direct, own.allows))
        }
        Rung::SharedBuffer => {
            let copies = own_image(group, group.usage, scene.shape)?;
            // A buffer can be copied from and to by all.
            let allows = ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
            Ok(shared_by(Participation::FromBuffer(copies), allows))
        }
        Rung::Staged => {
            let copies = own_image(group, group.usage, scene.shape)?;
            Ok(shared_by(Participation::Staged(copies), ImageUsage::NONE))
        }
    }
}

/// An entry without anything to agree on.
fn shared_by(part: Participation, allows: ImageUsage) -> Entry {
    Entry {
        part,
        copies_because: None,
        allows,
        planes: 1,
        importable: true,
        exportable: true,
        dedicated: false,
        places: None,
    }
}

fn by_modifier(
    group: &Group<'_>,
    candidate: Candidate,
    scene: &Scene<'_>,
) -> Result<Entry, ObjectionReason> {
    let shape = scene.shape;
    let offered = group.offer.modifier(candidate.modifier()).ok_or(ObjectionReason::NotOffered)?;
    if offered.modifier.is_invalid() {
        return Err(ObjectionReason::Implicit);
    }
    check(shape, offered.limits.ok_or(ObjectionReason::ListedOnly)?)?;
    // CAST: formats have at most four planes.
    let by_definition = offered.modifier.memory_planes(scene.format.planes().len() as u8);
    if let Some(agreed) = by_definition.filter(|planes| *planes != offered.planes) {
        return Err(ObjectionReason::PlaneCount { own: offered.planes, agreed });
    }
    let (part, copies_because) = part(group, offered.allows, shape)?;
    let &ModifierOffer { allows, planes, importable, exportable, dedicated, .. } = offered;
    Ok(Entry {
        part,
        copies_because,
        allows,
        planes,
        importable,
        exportable,
        dedicated,
        places: None,
    })
}

fn by_tiling(group: &Group<'_>, scene: &Scene<'_>) -> Result<Entry, ObjectionReason> {
    let offered = group.offer.linear_tiling.as_ref().ok_or(ObjectionReason::NotOffered)?;
    let planes = scene.format.planes().len();
    if !offered.takes_any && offered.planes.len() != planes {
        return Err(ObjectionReason::ListedOnly);
    }
    check(scene.shape, offered.image.limits)?;
    let (part, copies_because) = part(group, offered.image.allows, scene.shape)?;
    let places = if offered.takes_any { None } else { Some(offered.planes.clone()) };
    let entry = shared_by(part, offered.image.allows);
    Ok(Entry { copies_because, places, ..entry })
}

fn check(shape: Shape, limits: Limits) -> Result<(), ObjectionReason> {
    shape.check(limits).map_err(ObjectionReason::TooLarge)
}

/// How a group takes part in a shared image that allows some uses; and why by an own image, if so.
fn part(
    group: &Group<'_>,
    allows: ImageUsage,
    shape: Shape,
) -> Result<(Participation, Option<ObjectionReason>), ObjectionReason> {
    let missing = group.usage.without(allows);
    if missing.is_empty() {
        return Ok((Participation::Direct, None));
    }
    let copies = own_image(group, missing, shape)?;
    let lacking = copied(copies).without(allows);
    if !lacking.is_empty() {
        return Err(ObjectionReason::UsageAndCopies { missing, copies: lacking });
    }
    Ok((Participation::OwnImage(copies), Some(ObjectionReason::Usage { missing })))
}

/// The copies of an own image that is used in these ways.
///
/// # Errors
///
/// The device has no such image.
pub(super) fn own_image(
    group: &Group<'_>,
    used: ImageUsage,
    shape: Shape,
) -> Result<Copies, ObjectionReason> {
    let copies = group.copies(used);
    let to = if copies.before { ImageUsage::COPIED_TO } else { ImageUsage::NONE };
    let from = if copies.after { ImageUsage::COPIED_FROM } else { ImageUsage::NONE };
    let needed = used.union(to).union(from);
    let own = group.offer.own_image.ok_or(ObjectionReason::OwnImage { missing: needed })?;
    let missing = needed.without(own.allows);
    if !missing.is_empty() {
        return Err(ObjectionReason::OwnImage { missing });
    }
    check(shape, own.limits)?;
    Ok(copies)
}

/// The uses of the shared side that copies of an own image need.
pub(super) fn copied(copies: Copies) -> ImageUsage {
    let from = if copies.before { ImageUsage::COPIED_FROM } else { ImageUsage::NONE };
    let to = if copies.after { ImageUsage::COPIED_TO } else { ImageUsage::NONE };
    from.union(to)
}
