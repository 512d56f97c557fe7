//! Who sits at a buffer, in little memory.
//!
//! Most buffers have a static seat or two, each mapped a few times: those fit in eight bytes. Importers, more
//! seats or more mappings make a crowd of them, which lives elsewhere and takes everybody in.

use std::sync::Arc;

use super::importer::Importer;
use crate::device::DeviceId;
use crate::memory::{DomainId, Provider};

/// Somebody who wants a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct AttachCaps {
    pub(in crate::buffer) device: DeviceId,
    pub(in crate::buffer) peer_to_peer: bool,
}

impl AttachCaps {
    /// Whether the device wants to have memory of `provider`, if it can reach it.
    pub(in crate::buffer) fn may_be_given(self, provider: Provider) -> bool {
        let peers = matches!(provider.domain(), DomainId::Vram(device) if device != self.device);
        self.peer_to_peer || !peers
    }
}

/// A device's seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct AttachmentEntry {
    pub(in crate::buffer) device: DeviceId,
    /// Whether its [`crate::Attachment`] is alive. A seat whose attachment was dropped stays until its
    /// last mapping is.
    attached: bool,
    manner: Manner,
    /// Live mappings of the current generation.
    mapped: u32,
}

/// How somebody sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Static,
    /// With an importer; and what that said of memory that is another device's own.
    Dynamic {
        peer_to_peer: bool,
    },
}

/// Which seat. Stays the same while the seat is taken, also when few become a crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct AttachmentId(u32);

impl AttachmentEntry {
    pub(in crate::buffer) fn is_attached(self) -> bool {
        self.attached
    }

    pub(in crate::buffer) fn is_dynamic(self) -> bool {
        self.manner != Manner::Static
    }

    pub(in crate::buffer) fn mapped(self) -> u32 {
        self.mapped
    }

    /// Whether the seat's device may be given memory that is another device's own.
    pub(in crate::buffer) fn allows_peer_to_peer(self) -> bool {
        self.manner != (Manner::Dynamic { peer_to_peer: false })
    }

    fn is_vacant(self) -> bool {
        !self.attached && self.mapped == 0
    }

    /// Its mappings that keep the buffer where it is.
    fn holds(self) -> u32 {
        if self.is_dynamic() { 0 } else { self.mapped }
    }
}

impl AttachmentId {
    fn index(self) -> usize {
        self.0 as usize
    }

    fn new(index: usize) -> Self {
        // CAST: nobody has 2^32 seats.
        Self(index as u32)
    }
}

// ---- few ----

/// Static seats, two at most, each with at most 255 mappings. `None` is a vacant one.
#[derive(Debug, Default)]
pub(in crate::buffer) struct InlineTable([Option<Small>; 2]);

const _: () = assert!(size_of::<InlineTable>() <= 8, "there may be a million of them");

/// A static seat.
#[derive(Clone, Copy, Debug)]
struct Small {
    device: DeviceId,
    attached: bool,
    mapped: u8,
}

impl InlineTable {
    /// A static seat; `None` if both are taken.
    pub(in crate::buffer) fn sit(&mut self, device: DeviceId) -> Option<AttachmentId> {
        let vacant = self.0.iter().position(Option::is_none)?;
        self.0[vacant] = Some(Small { device, attached: true, mapped: 0 });
        Some(AttachmentId::new(vacant))
    }

    pub(in crate::buffer) fn attachments(&self) -> impl Iterator<Item = AttachmentEntry> {
        self.0.iter().flatten().map(|small| small.attachment())
    }

    /// Live mappings of a seat.
    pub(in crate::buffer) fn mapped_by(&self, attachment: AttachmentId) -> u32 {
        self.0[attachment.index()].map_or(0, |small| u32::from(small.mapped))
    }

    /// Counts one more mapping. Whether there was room to.
    pub(in crate::buffer) fn map(&mut self, attachment: AttachmentId) -> bool {
        let small = self.0[attachment.index()].as_mut();
        let more = small.and_then(|small| Some((small.mapped.checked_add(1)?, small)));
        more.map(|(more, small)| small.mapped = more).is_some()
    }

    pub(in crate::buffer) fn unmap(&mut self, attachment: AttachmentId) {
        self.change(attachment, |small| small.mapped -= 1);
    }

    /// Gives the seat up, but for its mappings.
    pub(in crate::buffer) fn leave(&mut self, attachment: AttachmentId) {
        self.change(attachment, |small| small.attached = false);
    }

    /// Forgets all mappings, and tells of them: those of a place that the buffer leaves.
    pub(in crate::buffer) fn forget_mappings(&mut self, mut tell: impl FnMut(DeviceId, u32)) {
        for place in &mut self.0 {
            let Some(small) = place else { continue };
            tell(small.device, u32::from(std::mem::take(&mut small.mapped)));
            place.take_if(|small| small.attachment().is_vacant());
        }
    }

    fn change(&mut self, attachment: AttachmentId, change: impl FnOnce(&mut Small)) {
        let place = &mut self.0[attachment.index()];
        debug_assert!(place.is_some(), "whoever has a attachment's number sits there");
        if let Some(small) = place {
            change(small);
        }
        place.take_if(|small| small.attachment().is_vacant());
    }
}

impl Small {
    fn attachment(self) -> AttachmentEntry {
        let Self { device, attached, mapped } = self;
        AttachmentEntry { device, attached, manner: Manner::Static, mapped: u32::from(mapped) }
    }
}

// ---- a crowd ----

/// Seats of any kind and number; none of them while few suffice.
#[derive(Debug, Default)]
pub(in crate::buffer) struct SpilledTable {
    chairs: Vec<TableEntry>,
    /// How many are vacant, so that nobody looks for one where there is none; and live mappings that keep
    /// the buffer where it is, so that nobody counts. A buffer may have thousands of seats.
    vacant: u32,
    held_by_mappings: u32,
}

/// A seat for anybody.
pub(in crate::buffer) struct TableEntry {
    attachment: AttachmentEntry,
    /// Who is told when the buffer moves; `None` for a static seat, and once nobody is attached.
    importer: Option<Arc<dyn Importer>>,
}

impl SpilledTable {
    pub(in crate::buffer) fn is_empty(&self) -> bool {
        self.chairs.is_empty()
    }

    /// Takes everybody in, who keep their numbers.
    pub(in crate::buffer) fn take_in(&mut self, few: &mut InlineTable) {
        if few.attachments().next().is_none() {
            return;
        }
        debug_assert!(self.is_empty(), "they sit in one place only");
        for place in std::mem::take(few).0 {
            let vacant = Small { device: DeviceId(0), attached: false, mapped: 0 };
            let attachment = place.unwrap_or(vacant).attachment();
            self.held_by_mappings += attachment.holds();
            self.vacant += u32::from(attachment.is_vacant());
            self.push(TableEntry { attachment, importer: None });
        }
        self.drop_vacant_tail();
    }

    pub(in crate::buffer) fn sit(
        &mut self,
        guest: AttachCaps,
        importer: Option<Arc<dyn Importer>>,
    ) -> AttachmentId {
        let manner = match importer {
            Some(_) => Manner::Dynamic { peer_to_peer: guest.peer_to_peer },
            None => Manner::Static,
        };
        let attachment =
            AttachmentEntry { device: guest.device, attached: true, manner, mapped: 0 };
        let vacant = match self.vacant {
            0 => None,
            _ => self.chairs.iter().position(|chair| chair.attachment.is_vacant()),
        };
        let index = vacant.unwrap_or(self.chairs.len());
        let chair = TableEntry { attachment, importer };
        match vacant {
            Some(index) => {
                self.chairs[index] = chair;
                self.vacant -= 1;
            }
            None => self.push(chair),
        }
        AttachmentId::new(index)
    }

    fn push(&mut self, chair: TableEntry) {
        if self.chairs.capacity() == 0 {
            // Many crowds are one importer, or two; a list begins with four.
            self.chairs.reserve_exact(2);
        }
        self.chairs.push(chair);
    }

    /// All seats, some of which may be vacant.
    pub(in crate::buffer) fn chairs(&self) -> &[TableEntry] {
        &self.chairs
    }

    /// Live mappings of static seats.
    pub(in crate::buffer) fn static_mappings(&self) -> u32 {
        self.held_by_mappings
    }

    /// Live mappings of a seat.
    pub(in crate::buffer) fn mapped_by(&self, attachment: AttachmentId) -> u32 {
        self.chairs[attachment.index()].attachment.mapped
    }

    pub(in crate::buffer) fn map(&mut self, attachment: AttachmentId) {
        let attachment = &mut self.chairs[attachment.index()].attachment;
        attachment.mapped += 1;
        self.held_by_mappings += u32::from(!attachment.is_dynamic());
    }

    pub(in crate::buffer) fn unmap(&mut self, attachment: AttachmentId) {
        let unmapped = &mut self.chairs[attachment.index()].attachment;
        unmapped.mapped -= 1;
        self.held_by_mappings -= u32::from(!unmapped.is_dynamic());
        self.sweep(attachment);
    }

    /// Gives the seat up, but for its mappings.
    pub(in crate::buffer) fn leave(
        &mut self,
        attachment: AttachmentId,
    ) -> Option<Arc<dyn Importer>> {
        let left = &mut self.chairs[attachment.index()];
        left.attachment.attached = false;
        let importer = left.importer.take();
        self.sweep(attachment);
        importer
    }

    /// Forgets all mappings, and tells of them: those of a place that the buffer leaves.
    pub(in crate::buffer) fn forget_mappings(&mut self, mut tell: impl FnMut(DeviceId, u32)) {
        // Seats of one device often stand side by side: they are counted together.
        let (mut run, mut vacated) = ((DeviceId(0), 0), 0);
        for TableEntry { attachment, .. } in &mut self.chairs {
            let of_this = std::mem::take(&mut attachment.mapped);
            if attachment.device != run.0 {
                tell(run.0, run.1);
                run = (attachment.device, 0);
            }
            run.1 += of_this;
            // Only its mappings kept the seat.
            vacated += u32::from(!attachment.attached && of_this > 0);
        }
        tell(run.0, run.1);
        self.vacant += vacated;
        self.held_by_mappings = 0;
        self.drop_vacant_tail();
    }

    /// Looks whether a seat has become vacant, just now.
    fn sweep(&mut self, attachment: AttachmentId) {
        if self.chairs[attachment.index()].attachment.is_vacant() {
            self.vacant += 1;
            self.drop_vacant_tail();
        }
    }

    fn drop_vacant_tail(&mut self) {
        while self.chairs.last().is_some_and(|chair| chair.attachment.is_vacant()) {
            self.chairs.pop();
            self.vacant -= 1;
        }
        debug_assert_eq!(
            (self.vacant, self.held_by_mappings),
            self.chairs.iter().fold((0, 0), |(vacant, held), TableEntry { attachment, .. }| {
                (vacant + u32::from(attachment.is_vacant()), held + attachment.holds())
            }),
            "vacant attachments and static mappings are counted as they come and go"
        );
    }
}

impl TableEntry {
    /// The seat, if it is taken.
    pub(in crate::buffer) fn taken(&self) -> Option<AttachmentEntry> {
        Some(self.attachment).filter(|attachment| !attachment.is_vacant())
    }

    /// The importer, if there is one whose attachment is alive.
    pub(in crate::buffer) fn importer(&self) -> Option<(DeviceId, &dyn Importer)> {
        Some((self.attachment.device, self.importer.as_deref()?))
    }
}

impl std::fmt::Debug for TableEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.attachment.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::state::Invalidation;

    const A: DeviceId = DeviceId(7);
    const B: DeviceId = DeviceId(8);

    fn taken(crowd: &SpilledTable) -> Vec<AttachmentEntry> {
        crowd.chairs().iter().filter_map(TableEntry::taken).collect()
    }

    fn importers(crowd: &SpilledTable) -> usize {
        crowd.chairs().iter().filter_map(TableEntry::importer).count()
    }

    struct Nobody;
    impl Importer for Nobody {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
    }

    fn told(forget: impl FnOnce(&mut dyn FnMut(DeviceId, u32))) -> Vec<(DeviceId, u32)> {
        let mut told = vec![];
        forget(&mut |device, mapped| told.extend((mapped > 0).then_some((device, mapped))));
        told
    }

    #[test]
    fn a_seat_is_kept_by_its_attachment_and_by_its_mappings() {
        let mut few = InlineTable::default();
        let a = few.sit(A).expect("there are two");
        let b = few.sit(B).expect("there are two");
        assert_eq!(few.sit(A), None);
        assert!(few.map(a) && few.map(a));
        few.leave(a);
        few.leave(b);
        let left: Vec<_> = few.attachments().collect();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].device, left[0].is_attached(), left[0].mapped()), (A, false, 2));
        assert_eq!(few.sit(B), Some(b), "the one that is vacant");
        few.unmap(a);
        assert_eq!((few.mapped_by(a), few.sit(A)), (1, None));
        few.unmap(a);
        assert_eq!(few.sit(A), Some(a));
    }

    #[test]
    fn a_place_that_is_left_takes_its_mappings_along() {
        let (mut few, mut crowd) = (InlineTable::default(), SpilledTable::default());
        for device in [A, B] {
            let attachment = few.sit(device).expect("there are two");
            assert!(few.map(attachment));
            let guest = AttachCaps { device, peer_to_peer: true };
            let attachment = crowd.sit(guest, None);
            crowd.map(attachment);
        }
        few.leave(AttachmentId(1));
        crowd.leave(AttachmentId(1));
        assert_eq!(told(|tell| few.forget_mappings(tell)), [(A, 1), (B, 1)]);
        assert_eq!(told(|tell| crowd.forget_mappings(tell)), [(A, 1), (B, 1)]);
        for attachments in [few.attachments().collect::<Vec<_>>(), taken(&crowd)] {
            assert_eq!(attachments.len(), 1, "nobody keeps the other one");
            assert_eq!((attachments[0].device, attachments[0].mapped()), (A, 0));
        }
        assert_eq!(crowd.static_mappings(), 0);
    }

    #[test]
    fn few_count_as_far_as_they_can_and_say_where_that_ends() {
        let mut few = InlineTable::default();
        let attachment = few.sit(A).expect("there are two");
        for _ in 0..255 {
            assert!(few.map(attachment));
        }
        assert!(!few.map(attachment), "no room for one more");
        assert_eq!(few.mapped_by(attachment), 255);
    }

    #[test]
    fn a_crowd_takes_few_in_as_they_sit() {
        let mut few = InlineTable::default();
        let [a, b] = [A, B].map(|device| few.sit(device).expect("there are two"));
        assert!(few.map(b));
        few.leave(a);
        let before: Vec<_> = few.attachments().collect();
        let mut crowd = SpilledTable::default();
        crowd.take_in(&mut few);
        assert_eq!(few.attachments().count(), 0);
        assert_eq!(taken(&crowd), before);
        assert_eq!((crowd.mapped_by(b), crowd.static_mappings()), (1, 1));
        let guest = AttachCaps { device: A, peer_to_peer: false };
        assert_eq!(crowd.sit(guest, Some(Arc::new(Nobody))), a, "the vacant one");
        crowd.map(a);
        assert_eq!((importers(&crowd), crowd.static_mappings()), (1, 1));
        assert!(crowd.leave(a).is_some() && importers(&crowd) == 0);
        crowd.leave(b);
        crowd.unmap(b);
        crowd.unmap(a);
        assert!(crowd.is_empty(), "few may sit again");
        crowd.take_in(&mut few);
        assert!(crowd.is_empty(), "nobody was there");
    }
}
