//! What is negotiated for: the image, the attachments grouped by what they offer, and what is known of the devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::agreement::{Copies, NegotiationError};
use super::candidate::{Candidate, Rung};
use super::evidence::Evidence;
use crate::device::DeviceId;
use crate::image::extent::{Limits, Shape};
use crate::image::format::Format;
use crate::image::fourcc::Fourcc;
use crate::image::layout::check_shape;
use crate::image::modifier::Modifier;
use crate::image::offer::Offer;
use crate::image::padding::Padding;
use crate::image::usage::ImageUsage;

/// An attachment of an image, as a negotiation sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentOffer {
    /// Its number, which no other attachment of the image has.
    pub id: u64,
    /// Its device.
    pub device: DeviceId,
    /// How it uses the image.
    pub usage: ImageUsage,
    /// What the device offers for the format and that usage. Attachments of one device share it.
    pub offer: Arc<Offer>,
}

/// The image that is negotiated for.
#[derive(Clone, Copy, Debug)]
pub struct ImageRequest<'a> {
    /// The format.
    pub fourcc: Fourcc,
    /// The size.
    pub shape: Shape,
    /// The device in whose memory the image is, if it is in a device's.
    pub home: DeviceId,
    /// Whether system memory comes as dma-bufs here (a dma-heap, or udmabuf). Then no device has to export an image
    /// with the modifier `LINEAR`.
    pub system_dma_bufs: bool,
    /// How many candidates may be probed for this format and these devices.
    pub tries: usize,
    /// The attachments, in any order.
    pub attachments: &'a [AttachmentOffer],
}

/// Attachments that have the same device, usage and offer.
pub(super) struct Group<'a> {
    pub(super) device: DeviceId,
    pub(super) usage: ImageUsage,
    pub(super) offer: &'a Offer,
    /// Their numbers, ascending.
    pub(super) ids: Vec<u64>,
    /// Whether an attachment beside one of these writes the image.
    others_write: bool,
}

impl Group<'_> {
    /// Which copies an own image needs if it has the uses `used` of this group.
    ///
    /// An image into which all is drawn that is drawn anywhere holds the content: it is only copied out. Any other one
    /// is copied into before it is used.
    pub(super) fn copies(&self, used: ImageUsage) -> Copies {
        let after = used.writes();
        let holds_all = after && !self.others_write && !self.usage.without(used).writes();
        Copies { before: !holds_all, after }
    }
}

/// All that judging a candidate needs.
pub(super) struct Scene<'a> {
    pub(super) format: &'static Format,
    pub(super) shape: Shape,
    pub(super) system_dma_bufs: bool,
    pub(super) evidence: &'a Evidence,
    /// Ordered by device, usage and number.
    pub(super) groups: Vec<Group<'a>>,
    /// The devices, home first, then ascending.
    pub(super) devices: Vec<DeviceId>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(
        request: &ImageRequest<'a>,
        evidence: &'a Evidence,
    ) -> Result<Self, NegotiationError> {
        let format =
            Format::of(request.fourcc).map_err(|gap| NegotiationError::Layout(gap.into()))?;
        check_shape(format, request.shape, Limits::SANE)?;
        let mut attachments: Vec<_> = request.attachments.iter().collect();
        attachments.sort_by_key(|one| (one.device, one.usage, one.id));
        let mut groups: Vec<Group<'a>> = vec![];
        for one in attachments {
            let equal = |group: &&mut Group<'_>| {
                group.device == one.device && group.usage == one.usage && *group.offer == *one.offer
            };
            match groups.iter_mut().rev().find(equal) {
                Some(group) => group.ids.push(one.id),
                None => groups.push(Group {
                    device: one.device,
                    usage: one.usage,
                    offer: &one.offer,
                    ids: vec![one.id],
                    others_write: false,
                }),
            }
        }
        let writers = |group: &Group<'_>| if group.usage.writes() { group.ids.len() } else { 0 };
        let all: usize = groups.iter().map(writers).sum();
        for group in &mut groups {
            group.others_write = all > usize::from(group.usage.writes());
        }
        let mut devices: Vec<_> = groups.iter().map(|group| group.device).collect();
        devices.dedup();
        devices.sort_by_key(|device| (*device != request.home, *device));
        if devices.is_empty() {
            return Err(NegotiationError::NoAttachments);
        }
        Ok(Self {
            format,
            shape: request.shape,
            system_dma_bufs: request.system_dma_bufs,
            evidence,
            groups,
            devices,
        })
    }

    /// Every way to share the image, best first.
    pub(super) fn ladder(&self) -> Vec<Candidate> {
        let mut ladder = vec![];
        if self.devices.len() == 1 {
            ladder.push(Candidate::of(Rung::Private));
        }
        ladder.extend(self.tiled_modifiers().into_iter().map(Candidate::tiled));
        let linear = Candidate::linear(Padding::CROSSING.pitch);
        ladder.push(linear);
        if self.evidence.is_refused(linear) {
            ladder.push(Candidate::linear(Padding::WIDE.pitch));
        }
        let rest = [Rung::LinearTiling, Rung::SharedBuffer, Rung::Staged];
        ladder.extend(rest.map(Candidate::of));
        ladder
    }

    /// Every tiled modifier that a device lists, those first that rank best on all devices together.
    fn tiled_modifiers(&self) -> Vec<Modifier> {
        let mut ranks: BTreeMap<Modifier, BTreeMap<DeviceId, u64>> = BTreeMap::new();
        for group in &self.groups {
            for offered in group.offer.modifiers.iter().filter(|one| !one.modifier.is_linear()) {
                let of_devices = ranks.entry(offered.modifier).or_default();
                let rank = of_devices.entry(group.device).or_insert(u64::MAX);
                *rank = (*rank).min(offered.rank.into());
            }
        }
        // A modifier that a device does not list comes after all that it lists.
        let unlisted = u64::from(u16::MAX) + 1;
        let sum = |of_devices: &BTreeMap<DeviceId, u64>| -> u64 {
            let rank = |device| of_devices.get(device).copied().unwrap_or(unlisted);
            self.devices.iter().map(rank).sum()
        };
        let mut order: Vec<_> = ranks.iter().map(|(modifier, of)| (sum(of), *modifier)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, modifier)| modifier).collect()
    }
}
