//! Explains where an image is, in which layout, and why devices use images of their own.

use std::fmt;
use std::sync::PoisonError;

use super::brings::Way;
use super::participants::Participant;
use super::places::ImagePart;
use super::proved::{allows, beside};
use super::shared_image::{Layout, SharedImage};
use crate::buffer::Explanation;
use crate::device::DeviceId;
use crate::image::layout::ImageLayout;
use crate::image::usage::ImageUsage;

/// Where an image is and why, in which layout, and how each attachment uses it, made by [`SharedImage::explain`].
/// `Display` prints it as text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageExplanation {
    /// Where the texels are, and why.
    pub buffer: Explanation,
    /// Their layout.
    pub layout: ImageLayout,
    /// The attachments, the oldest first.
    pub attachments: Vec<AttachmentExplanation>,
}

/// How an attachment uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttachmentExplanation {
    /// Its number ([`super::ImageAttachment::id`]).
    pub attachment: u64,
    /// Its device.
    pub device: DeviceId,
    /// The uses that it was made for.
    pub usage: ImageUsage,
    /// Why it does not use the shared bytes; `None` if it does.
    pub own_because: Option<OwnImageReason>,
    /// Whether it has an image of its own instead. A mapping fails if it has neither.
    pub has_own: bool,
}

/// Why an attachment does not use the shared bytes as an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnImageReason {
    /// The device's driver has no images over rows of this format for all uses.
    #[error("its driver has no images over rows that can be {missing}")]
    #[non_exhaustive]
    Usage {
        /// Those for which it has none.
        missing: ImageUsage,
    },
    /// The device's driver has none of this size, over this memory.
    #[error("its driver has no such image over rows, in this memory")]
    NoRows,
    /// The device's driver places rows elsewhere, and is not told where they are.
    #[error(
        "its driver places plane {}, level {}, layer {} at {own_offset} with pitch {own_pitch}, the layout at {offset} with \
         pitch {pitch}", .part.plane, .part.level, .part.layer
    )]
    #[non_exhaustive]
    OtherPlace {
        /// The first part that it places elsewhere.
        part: ImagePart,
        /// Its first byte in the driver's image.
        own_offset: u64,
        /// The driver's pitch in bytes.
        own_pitch: u64,
        /// Its first byte in the layout.
        offset: u64,
        /// The layout's pitch in bytes.
        pitch: u64,
    },
    /// The device's driver refused to create the image.
    #[error("its driver refused to create an image over these rows")]
    Refused,
    /// A probe found that texels do not pass between this device and another one ([`crate::Engine::image_verdict`]).
    #[error("texels in rows do not pass between it and {with}, as a probe found")]
    #[non_exhaustive]
    NotCarried {
        /// The other device: the home device, or one that was attached earlier.
        with: DeviceId,
    },
    /// No probe has proved yet that they pass. The next mapping tries it.
    #[error("no probe has proved yet that texels in rows pass between it and {with}")]
    #[non_exhaustive]
    NotProved {
        /// The other device.
        with: DeviceId,
    },
}

impl SharedImage {
    /// Says why the image is where it is, as [`crate::SharedBuffer::explain`] does for a buffer; in which layout; and
    /// which attachments use images of their own, and why. That is what the last mappings found: no device is asked.
    ///
    /// Locks: as [`crate::SharedBuffer::explain`].
    pub fn explain(&self) -> ImageExplanation {
        let buffer = self.buffer().explain();
        // Each lock in a statement of its own.
        let layout = self.0.layout();
        let listed = self.0.participants().list();
        let explained = listed.iter().map(|one| {
            let own_because = self.why_own(one, &listed, &layout);
            AttachmentExplanation {
                attachment: one.seen.id,
                device: one.seen.device,
                usage: one.seen.usage,
                own_because,
                has_own: own_because.is_some() && one.brings.copies,
            }
        });
        ImageExplanation { buffer, layout: layout.told, attachments: explained.collect() }
    }

    /// Why an attachment does not use the bytes of a layout; `None` if it does.
    fn why_own(
        &self,
        one: &Participant,
        listed: &[Participant],
        layout: &Layout,
    ) -> Option<OwnImageReason> {
        let (device, usage, places) = (one.seen.device, one.seen.usage, &layout.places);
        let Some(way) = one.brings.way(places) else {
            let Some(own) = one.brings.direct.as_deref() else {
                let linear = one.seen.offer.linear_tiling.as_ref();
                let missing = linear.map(|linear| usage.without(linear.image.allows));
                let missing = missing.filter(|missing| !missing.is_empty());
                let usage = missing.map(|missing| OwnImageReason::Usage { missing });
                return Some(usage.unwrap_or(OwnImageReason::NoRows));
            };
            let mut parts = own.all().zip(places.all());
            let (own, (part, rows)) = parts.find(|(own, rows)| own != rows)?;
            let (own_offset, own_pitch) = (own.1.offset, own.1.pitch);
            let (offset, pitch) = (rows.offset, rows.pitch);
            return Some(OwnImageReason::OtherPlace { part, own_offset, own_pitch, offset, pitch });
        };
        let refused = (device, usage, one.brings.memory, way);
        let list = layout.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if list.contains(&refused) {
            return Some(OwnImageReason::Refused);
        }
        drop(list);
        let earlier = listed.iter().take_while(|other| other.seen.device != device);
        let ahead =
            earlier.filter_map(|other| Some((other.seen.device, Some(other.brings.way(places)?))));
        let home = std::iter::once((self.home().id(), None));
        home.chain(ahead)
            .find_map(|(with, their_way)| self.why_not_beside(device, way, (with, their_way)))
    }

    /// Why a device does not use rows in a way beside another one.
    fn why_not_beside(
        &self,
        device: DeviceId,
        way: Way,
        (with, their_way): (DeviceId, Option<Way>),
    ) -> Option<OwnImageReason> {
        // What another device does that is gone is of no account.
        if with == device || self.present_device(with).is_none() {
            return None;
        }
        let rows = &self.0.services.proofs.rows;
        match rows.get(self.fourcc(), [with, device], self.0.now()).flatten() {
            None => Some(OwnImageReason::NotProved { with }),
            Some(rows) if allows(beside(rows, their_way), way) => None,
            Some(_) => Some(OwnImageReason::NotCarried { with }),
        }
    }
}

impl fmt::Display for ImageExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  layout {}", self.buffer, self.layout)?;
        self.attachments.iter().try_for_each(|attachment| write!(f, "\n  {attachment}"))
    }
}

impl fmt::Display for AttachmentExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attachment, device, usage, own_because, has_own } = self;
        write!(f, "attachment {attachment} ({device}), {usage}: ")?;
        match own_because {
            None => f.write_str("uses the shared bytes"),
            Some(why) if *has_own => write!(f, "an image of its own, since {why}"),
            Some(why) => write!(f, "no image: {why}, and it has none of its own"),
        }
    }
}
