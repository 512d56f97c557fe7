//! The attachments of a buffer, two of them inline in eight bytes.
//!
//! Most buffers have one or two static attachments, each with a few mappings: those fit into an [`InlineTable`].
//! With importers, more attachments or more mappings, all entries move to a `SpilledTable` on the heap.

use crate::device::DeviceId;
use crate::memory::{DomainId, Provider};

/// What a device that is to be attached can cope with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct AttachCaps {
    pub(in crate::buffer) device: DeviceId,
    /// Whether the buffer may be in the memory of another device.
    pub(in crate::buffer) peer_to_peer: bool,
}

impl AttachCaps {
    /// Whether the device accepts memory of `provider`, provided that it can reach it.
    pub(in crate::buffer) fn accepts(self, provider: Provider) -> bool {
        let peers = matches!(provider.domain(), DomainId::Vram(device) if device != self.device);
        self.peer_to_peer || !peers
    }
}

/// One attachment of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct AttachmentEntry {
    pub(in crate::buffer) device: DeviceId,
    /// Whether its [`crate::Attachment`] is alive. The entry of a dropped attachment stays until its last
    /// mapping is dropped.
    pub(super) attached: bool,
    pub(super) kind: AttachmentKind,
    /// Live mappings of the current generation.
    pub(super) mapped: u32,
}

/// Whether an attachment keeps the buffer in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttachmentKind {
    /// Its mappings keep the buffer in place.
    Static,
    /// Its importer is notified of moves. The importer has also said whether the buffer may be in another
    /// device's own memory.
    Dynamic { peer_to_peer: bool },
}

/// The index of an attachment's entry. It stays the same as long as the entry is in use, also when the entries
/// move from the inline table to the spilled one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct AttachmentId(pub(super) u32);

impl AttachmentEntry {
    pub(in crate::buffer) fn is_attached(self) -> bool {
        self.attached
    }

    pub(in crate::buffer) fn is_dynamic(self) -> bool {
        self.kind != AttachmentKind::Static
    }

    pub(in crate::buffer) fn mapped(self) -> u32 {
        self.mapped
    }

    /// Whether the buffer may be in another device's own memory while this attachment exists.
    pub(in crate::buffer) fn allows_peer_to_peer(self) -> bool {
        self.kind != (AttachmentKind::Dynamic { peer_to_peer: false })
    }

    pub(super) fn is_vacant(self) -> bool {
        !self.attached && self.mapped == 0
    }

    /// The number of its mappings that keep the buffer in place.
    pub(super) fn static_mappings(self) -> u32 {
        if self.is_dynamic() { 0 } else { self.mapped }
    }
}

impl AttachmentId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn new(index: usize) -> Self {
        // CAST: a buffer has fewer than 2^32 attachments.
        Self(index as u32)
    }
}

/// At most two static attachments, each with at most 255 mappings. `None` is a vacant entry.
#[derive(Debug, Default)]
pub(super) struct InlineTable([Option<InlineEntry>; 2]);

const _: () = assert!(size_of::<InlineTable>() <= 8, "there may be a million of them");

/// A static attachment.
#[derive(Clone, Copy, Debug)]
struct InlineEntry {
    device: DeviceId,
    attached: bool,
    mapped: u8,
}

impl InlineTable {
    /// Adds a static attachment; `None` if both entries are in use.
    pub(super) fn attach(&mut self, device: DeviceId) -> Option<AttachmentId> {
        let vacant = self.0.iter().position(Option::is_none)?;
        self.0[vacant] = Some(InlineEntry { device, attached: true, mapped: 0 });
        Some(AttachmentId::new(vacant))
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = AttachmentEntry> {
        self.0.iter().flatten().map(|entry| entry.attachment())
    }

    /// Removes all entries, vacant ones included, for the spilled table.
    pub(super) fn take(&mut self) -> [AttachmentEntry; 2] {
        let vacant = InlineEntry { device: DeviceId(0), attached: false, mapped: 0 };
        std::mem::take(self).0.map(|entry| entry.unwrap_or(vacant).attachment())
    }

    /// Live mappings of an attachment.
    pub(super) fn mapped_by(&self, attachment: AttachmentId) -> u32 {
        self.0[attachment.index()].map_or(0, |entry| u32::from(entry.mapped))
    }

    /// Counts one more mapping. Returns `false` if the counter is full; then it is unchanged.
    pub(super) fn map(&mut self, attachment: AttachmentId) -> bool {
        let entry = self.0[attachment.index()].as_mut();
        let more = entry.and_then(|entry| Some((entry.mapped.checked_add(1)?, entry)));
        more.map(|(more, entry)| entry.mapped = more).is_some()
    }

    /// Ends the count of a mapping. Returns the device if its entry is vacant now.
    pub(super) fn unmap(&mut self, attachment: AttachmentId) -> Option<DeviceId> {
        self.change(attachment, |entry| entry.mapped -= 1)
    }

    /// Ends an attachment. Its entry stays until its last mapping is dropped. Returns the device if the entry is
    /// vacant now.
    pub(super) fn detach(&mut self, attachment: AttachmentId) -> Option<DeviceId> {
        self.change(attachment, |entry| entry.attached = false)
    }

    /// Removes all mappings, because the buffer leaves the backing that they show. `report` gets their number
    /// for each device.
    pub(super) fn forget_mappings(&mut self, mut report: impl FnMut(DeviceId, u32)) {
        for slot in &mut self.0 {
            let Some(entry) = slot else { continue };
            report(entry.device, u32::from(std::mem::take(&mut entry.mapped)));
            slot.take_if(|entry| entry.attachment().is_vacant());
        }
    }

    fn change(
        &mut self,
        attachment: AttachmentId,
        change: impl FnOnce(&mut InlineEntry),
    ) -> Option<DeviceId> {
        let slot = &mut self.0[attachment.index()];
        debug_assert!(slot.is_some(), "an id names an entry in use");
        if let Some(entry) = slot {
            change(entry);
        }
        slot.take_if(|entry| entry.attachment().is_vacant()).map(|entry| entry.device)
    }
}

impl InlineEntry {
    fn attachment(self) -> AttachmentEntry {
        let Self { device, attached, mapped } = self;
        AttachmentEntry {
            device,
            attached,
            kind: AttachmentKind::Static,
            mapped: u32::from(mapped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DeviceId = DeviceId(7);
    const B: DeviceId = DeviceId(8);

    #[test]
    fn an_entry_stays_until_its_attachment_and_its_mappings_are_dropped() {
        let mut inline = InlineTable::default();
        let a = inline.attach(A).expect("there are two");
        let b = inline.attach(B).expect("there are two");
        assert_eq!(inline.attach(A), None);
        assert!(inline.map(a) && inline.map(a));
        inline.detach(a);
        inline.detach(b);
        let left: Vec<_> = inline.attachments().collect();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].device, left[0].is_attached(), left[0].mapped()), (A, false, 2));
        assert_eq!(inline.attach(B), Some(b), "the vacant entry is reused");
        inline.unmap(a);
        assert_eq!((inline.mapped_by(a), inline.attach(A)), (1, None));
        inline.unmap(a);
        assert_eq!(inline.attach(A), Some(a));
    }

    #[test]
    fn forgotten_mappings_are_reported_and_vacate_detached_entries() {
        let mut inline = InlineTable::default();
        for device in [A, B] {
            let attachment = inline.attach(device).expect("there are two");
            assert!(inline.map(attachment));
        }
        inline.detach(AttachmentId(1));
        let mut reported = vec![];
        inline.forget_mappings(|device, mapped| reported.push((device, mapped)));
        assert_eq!(reported, [(A, 1), (B, 1)]);
        let left: Vec<_> = inline.attachments().collect();
        assert_eq!(left.len(), 1, "nothing keeps the other entry");
        assert_eq!((left[0].device, left[0].mapped()), (A, 0));
    }

    #[test]
    fn an_inline_entry_counts_255_mappings_and_refuses_the_next() {
        let mut inline = InlineTable::default();
        let attachment = inline.attach(A).expect("there are two");
        for _ in 0..255 {
            assert!(inline.map(attachment));
        }
        assert!(!inline.map(attachment), "the counter is full");
        assert_eq!(inline.mapped_by(attachment), 255);
    }
}
