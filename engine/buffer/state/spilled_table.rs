//! The attachments of a buffer that has more of them, or of another kind, than the inline table holds.

use std::sync::Arc;

use super::attachment_table::{
    AttachCaps, AttachmentEntry, AttachmentId, AttachmentKind, InlineTable,
};
use super::importer::Importer;
use crate::device::DeviceId;

/// Attachments of any kind and number. Empty while the inline table suffices.
#[derive(Debug, Default)]
pub(super) struct SpilledTable {
    entries: Vec<TableEntry>,
    /// The number of vacant entries, so that no search is made if there are none. A buffer may have thousands
    /// of attachments.
    vacant: u32,
    /// Live mappings of static attachments, so that they need not be counted.
    static_mappings: u32,
}

/// One entry of a spilled table.
pub(super) struct TableEntry {
    attachment: AttachmentEntry,
    /// Is notified when the buffer moves. `None` for a static attachment, and after the attachment's end.
    importer: Option<Arc<dyn Importer>>,
}

impl SpilledTable {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Moves all entries of the inline table to this one. They keep their ids.
    pub(super) fn spill_from(&mut self, inline: &mut InlineTable) {
        if inline.attachments().next().is_none() {
            return;
        }
        debug_assert!(self.is_empty(), "attachments are in one of the two tables only");
        for attachment in inline.take() {
            self.static_mappings += attachment.static_mappings();
            self.vacant += u32::from(attachment.is_vacant());
            self.push(TableEntry { attachment, importer: None });
        }
        self.drop_vacant_tail();
    }

    /// Adds an attachment, in a vacant entry if there is one.
    pub(super) fn attach(
        &mut self,
        caps: AttachCaps,
        importer: Option<Arc<dyn Importer>>,
    ) -> AttachmentId {
        let kind = match importer {
            Some(_) => AttachmentKind::Dynamic { peer_to_peer: caps.peer_to_peer },
            None => AttachmentKind::Static,
        };
        let attachment = AttachmentEntry { device: caps.device, attached: true, kind, mapped: 0 };
        let vacant = match self.vacant {
            0 => None,
            _ => self.entries.iter().position(|entry| entry.attachment.is_vacant()),
        };
        let index = vacant.unwrap_or(self.entries.len());
        let entry = TableEntry { attachment, importer };
        match vacant {
            Some(index) => {
                self.entries[index] = entry;
                self.vacant -= 1;
            }
            None => self.push(entry),
        }
        AttachmentId::new(index)
    }

    fn push(&mut self, entry: TableEntry) {
        if self.entries.capacity() == 0 {
            // Many tables hold one importer, or two; a `Vec` begins with four entries.
            self.entries.reserve_exact(2);
        }
        self.entries.push(entry);
    }

    /// All entries, vacant ones included.
    pub(super) fn entries(&self) -> &[TableEntry] {
        &self.entries
    }

    /// Live mappings of static attachments.
    pub(super) fn static_mappings(&self) -> u32 {
        self.static_mappings
    }

    /// Live mappings of an attachment.
    pub(super) fn mapped_by(&self, attachment: AttachmentId) -> u32 {
        self.entries[attachment.index()].attachment.mapped
    }

    pub(super) fn map(&mut self, attachment: AttachmentId) {
        let attachment = &mut self.entries[attachment.index()].attachment;
        attachment.mapped += 1;
        self.static_mappings += u32::from(!attachment.is_dynamic());
    }

    /// Ends the count of a mapping. Returns the device if its entry is vacant now.
    pub(super) fn unmap(&mut self, attachment: AttachmentId) -> Option<DeviceId> {
        let unmapped = &mut self.entries[attachment.index()].attachment;
        unmapped.mapped -= 1;
        self.static_mappings -= u32::from(!unmapped.is_dynamic());
        self.note_if_vacant(attachment)
    }

    /// Ends an attachment. Its entry stays until its last mapping is dropped. Returns its importer, and the device if
    /// the entry is vacant now.
    pub(super) fn detach(
        &mut self,
        attachment: AttachmentId,
    ) -> (Option<Arc<dyn Importer>>, Option<DeviceId>) {
        let detached = &mut self.entries[attachment.index()];
        detached.attachment.attached = false;
        let importer = detached.importer.take();
        (importer, self.note_if_vacant(attachment))
    }

    /// Removes all mappings, because the buffer leaves the backing that they show. `report` gets their number
    /// for each device.
    pub(super) fn forget_mappings(&mut self, mut report: impl FnMut(DeviceId, u32)) {
        // Attachments of one device are often neighbours: each run of them is reported as one.
        let (mut run, mut vacated) = ((DeviceId(0), 0), 0);
        for TableEntry { attachment, .. } in &mut self.entries {
            let mapped = std::mem::take(&mut attachment.mapped);
            if attachment.device != run.0 {
                report(run.0, run.1);
                run = (attachment.device, 0);
            }
            run.1 += mapped;
            // Only its mappings kept the entry in use.
            vacated += u32::from(!attachment.attached && mapped > 0);
        }
        report(run.0, run.1);
        self.vacant += vacated;
        self.static_mappings = 0;
        self.drop_vacant_tail();
    }

    /// Counts an entry that was in use as vacant, if it is; then returns its device.
    fn note_if_vacant(&mut self, attachment: AttachmentId) -> Option<DeviceId> {
        let vacant = Some(self.entries[attachment.index()].attachment).filter(|it| it.is_vacant());
        if vacant.is_some() {
            self.vacant += 1;
            self.drop_vacant_tail();
        }
        vacant.map(|attachment| attachment.device)
    }

    fn drop_vacant_tail(&mut self) {
        while self.entries.last().is_some_and(|entry| entry.attachment.is_vacant()) {
            self.entries.pop();
            self.vacant -= 1;
        }
        debug_assert_eq!(
            (self.vacant, self.static_mappings),
            self.entries.iter().fold((0, 0), |(vacant, mapped), TableEntry { attachment, .. }| {
                let is_vacant = u32::from(attachment.is_vacant());
                (vacant + is_vacant, mapped + attachment.static_mappings())
            }),
            "the counters of vacant entries and static mappings match the entries"
        );
    }
}

impl TableEntry {
    /// The attachment, unless the entry is vacant.
    pub(super) fn attachment(&self) -> Option<AttachmentEntry> {
        Some(self.attachment).filter(|attachment| !attachment.is_vacant())
    }

    /// The attachments, as runs of neighbours that are alike: the first one of each run, and how many there are.
    pub(super) fn runs(entries: &[Self]) -> impl Iterator<Item = (AttachmentEntry, u32)> {
        let runs = entries.chunk_by(Self::is_like);
        // CAST: a buffer has fewer than 2^32 attachments.
        runs.filter_map(|run| Some((run[0].attachment()?, run.len() as u32)))
    }

    /// Whether both are alike but for the number of mappings.
    #[inline]
    fn is_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.attachment, &other.attachment);
        ours.device == theirs.device
            && ours.attached == theirs.attached
            && ours.kind == theirs.kind
            // Without mappings one that has ended is vacant.
            && (ours.attached || (ours.mapped == 0) == (theirs.mapped == 0))
    }

    /// The importer, if the attachment is dynamic and alive.
    pub(super) fn importer(&self) -> Option<(DeviceId, &dyn Importer)> {
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

    fn attachments(spilled: &SpilledTable) -> Vec<AttachmentEntry> {
        spilled.entries().iter().filter_map(TableEntry::attachment).collect()
    }

    fn importers(spilled: &SpilledTable) -> usize {
        spilled.entries().iter().filter_map(TableEntry::importer).count()
    }

    struct Ignores;
    impl Importer for Ignores {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
    }

    #[test]
    fn forgotten_mappings_are_reported_and_vacate_detached_entries() {
        let mut spilled = SpilledTable::default();
        for device in [A, B] {
            let attachment = spilled.attach(AttachCaps { device, peer_to_peer: true }, None);
            spilled.map(attachment);
        }
        spilled.detach(AttachmentId(1));
        let mut reported = vec![];
        spilled.forget_mappings(|device, mapped| {
            reported.extend((mapped > 0).then_some((device, mapped)));
        });
        assert_eq!(reported, [(A, 1), (B, 1)]);
        let left = attachments(&spilled);
        assert_eq!(left.len(), 1, "nothing keeps the other entry");
        assert_eq!((left[0].device, left[0].mapped()), (A, 0));
        assert_eq!(spilled.static_mappings(), 0);
    }

    #[test]
    fn neighbours_that_are_alike_are_one_run() {
        let mut spilled = SpilledTable::default();
        let of = |device, peer_to_peer| AttachCaps { device, peer_to_peer };
        for caps in [of(A, true), of(A, true), of(A, false), of(B, true), of(B, true), of(A, true)]
        {
            let importer = Some(Arc::new(Ignores) as Arc<dyn Importer>);
            spilled.attach(caps, importer);
        }
        spilled.attach(of(A, true), None);
        let runs = |spilled: &SpilledTable| {
            let runs = TableEntry::runs(spilled.entries());
            runs.map(|(of, number)| (of.device, of.is_attached(), number)).collect::<Vec<_>>()
        };
        let all = [(A, true, 2), (A, true, 1), (B, true, 2), (A, true, 1), (A, true, 1)];
        assert_eq!(runs(&spilled), all);
        spilled.map(AttachmentId(1));
        assert_eq!(runs(&spilled), all, "however often they are mapped");
        spilled.detach(AttachmentId(1));
        spilled.detach(AttachmentId(3));
        assert_eq!(
            runs(&spilled),
            [(A, true, 1), (A, false, 1), (A, true, 1), (B, true, 1), (A, true, 1), (A, true, 1)],
            "one that has ended is another kind, and one that is vacant is left out"
        );
    }

    #[test]
    fn spilled_attachments_keep_their_ids_and_counts() {
        let mut inline = InlineTable::default();
        let [a, b] = [A, B].map(|device| inline.attach(device).expect("there are two"));
        assert!(inline.map(b));
        inline.detach(a);
        let before: Vec<_> = inline.attachments().collect();
        let mut spilled = SpilledTable::default();
        spilled.spill_from(&mut inline);
        assert_eq!(inline.attachments().count(), 0);
        assert_eq!(attachments(&spilled), before);
        assert_eq!((spilled.mapped_by(b), spilled.static_mappings()), (1, 1));
        let caps = AttachCaps { device: A, peer_to_peer: false };
        let importer = Some(Arc::new(Ignores) as Arc<dyn Importer>);
        assert_eq!(spilled.attach(caps, importer), a, "the vacant entry is reused");
        spilled.map(a);
        assert_eq!((importers(&spilled), spilled.static_mappings()), (1, 1));
        let (importer, vacated) = spilled.detach(a);
        assert!(importer.is_some() && vacated.is_none() && importers(&spilled) == 0);
        assert!(spilled.detach(b).1.is_none(), "it is mapped");
        assert_eq!((spilled.unmap(b), spilled.unmap(a)), (Some(B), Some(A)));
        assert!(spilled.is_empty(), "the inline table may be used again");
        spilled.spill_from(&mut inline);
        assert!(spilled.is_empty(), "the inline table was empty");
    }
}
