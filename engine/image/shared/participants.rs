//! The attachments of an image, and what the device of each offers for its uses.

use std::sync::Arc;
use std::time::Duration;

use super::brings::{Brings, Present, Way};
use super::device_image::MemoryKind;
use super::places::Places;
use crate::device::DeviceId;
use crate::image::modifier::Modifier;
use crate::image::negotiate::{self, Agreement, Renegotiation};
use crate::image::usage::ImageUsage;

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
    /// Whether it was taken for one that uses the shared bytes directly.
    counts_as_direct: bool,
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
            one.counts_as_direct = sees(&brings);
            one.seen.offer = Arc::clone(&brings.offer);
            one.brings = brings;
        }
        self.changed();
    }

    /// A mapping of an attachment uses an image of its own. If it was taken for one that uses the shared bytes, since its
    /// driver would, another layout may be better: its images over these rows are not proved with those of others.
    pub(super) fn uses_own(&mut self, id: u64, now: Duration) {
        let mut listed = self.listed.iter_mut();
        if let Some(one) = listed.find(|one| one.seen.id == id && one.counts_as_direct) {
            one.counts_as_direct = false;
            self.renegotiation.attached(now, true);
        }
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
        let counts_as_direct = part == Some(true);
        self.listed.push(Participant { seen, brings, counts_as_direct });
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

    /// Whether the attachments have changed since they agreed on a layout.
    pub(super) fn has_wish(&self) -> bool {
        self.renegotiation.has_wish()
    }

    /// Whether the attachments have changed, and it is time to look for a better layout.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.renegotiation.is_due(now)
    }
}
