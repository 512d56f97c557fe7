//! The attachments and mappings in a buffer's state, and the ghosts that old mappings show.

use std::sync::Arc;

use super::attachment_table::{AttachCaps, AttachmentEntry, AttachmentId};
use super::ghost::{Ghost, GhostBacking, Mappings, count};
use super::importer::Importer;
use super::location::Location;
use super::protected::State;
use super::spilled_table::{SpilledTable, TableEntry};
use crate::device::DeviceId;
use crate::memory::Backing;
use crate::sync::Fences;

impl State {
    // ---- attachments ----

    /// Lists an attachment. This is the last step of an attach: the importer may be called at any time
    /// afterwards. The caller has counted the device as a user of its view of the backing, and leaves the count to the
    /// entry (`ViewUser::keep`).
    pub(in crate::buffer) fn attach(
        &mut self,
        caps: AttachCaps,
        importer: Option<Arc<dyn Importer>>,
    ) -> AttachmentId {
        if importer.is_none()
            && self.spilled().is_none()
            && let Some(attachment) = self.inline.attach(caps.device)
        {
            return attachment;
        }
        self.spill().attach(caps, importer)
    }

    /// Counts entries of a device as users of its view of the backing, if there is a backing.
    fn count_views(&self, device: DeviceId, entries: u32) {
        if let Some(backing) = self.location.backing() {
            backing.allocation().add_users(device, entries);
        }
    }

    /// Ends the count of an entry that has become vacant.
    fn vacated(&self, device: Option<DeviceId>) {
        if let (Some(device), Some(backing)) = (device, self.location.backing()) {
            backing.allocation().remove_users(device, 1);
        }
    }

    /// The number of entries by device.
    fn entries_by_device(&self) -> Mappings {
        let mut entries = Mappings::new();
        self.attachment_runs().for_each(|(attachment, of)| {
            count(&mut entries, attachment.device, of);
        });
        entries
    }

    /// Gives a purged buffer a backing.
    pub(in crate::buffer) fn repopulate(&mut self, backing: Backing) {
        debug_assert!(self.location.backing().is_none(), "the buffer was purged");
        self.location = Location::Resident(backing);
        self.entries_by_device().into_iter().for_each(|(device, of)| self.count_views(device, of));
    }

    /// All attachments, including those that ended and still have mappings.
    pub(in crate::buffer) fn attachments(&self) -> impl Iterator<Item = AttachmentEntry> {
        let spilled = self.entries().iter().filter_map(TableEntry::attachment);
        self.inline.attachments().chain(spilled)
    }

    /// All attachments, as runs of neighbours that are alike but for their numbers of mappings: the first one of each run,
    /// and how many there are. A move asks several times, and thousands of equal importers may be adjacent.
    pub(in crate::buffer) fn attachment_runs(
        &self,
    ) -> impl Iterator<Item = (AttachmentEntry, u32)> {
        let inline = self.inline.attachments().map(|attachment| (attachment, 1));
        inline.chain(TableEntry::runs(self.entries()))
    }

    /// The importers that are notified of a move: those of live dynamic attachments.
    pub(in crate::buffer) fn importers(&self) -> impl Iterator<Item = (DeviceId, &dyn Importer)> {
        self.entries().iter().filter_map(TableEntry::importer)
    }

    /// Whether a device has a live static attachment.
    pub(in crate::buffer) fn has_static_attachment(&self, device: DeviceId) -> bool {
        let mut attached = self.attachments().filter(|attachment| attachment.is_attached());
        attached.any(|attachment| attachment.device == device && !attachment.is_dynamic())
    }

    /// Ends an attachment. Its entry stays until its last mapping is dropped.
    ///
    /// The caller must drop the returned importer without the reservation: it is the application's code, and
    /// may own objects whose drop takes the reservation.
    pub(in crate::buffer) fn detach(
        &mut self,
        attachment: AttachmentId,
    ) -> Option<Arc<dyn Importer>> {
        if let Some(rare) = self.rare_mut() {
            rare.pins.retain(|counter| !counter.detach(attachment));
        }
        let (importer, vacated) = match self.spilled_mut() {
            Some(spilled) => spilled.detach(attachment),
            None => (None, self.inline.detach(attachment)),
        };
        self.vacated(vacated);
        importer
    }

    /// The entries as one slice, because a move walks thousands of them several times.
    fn entries(&self) -> &[TableEntry] {
        self.more.as_ref().map_or(&[], |more| more.spilled.entries())
    }

    /// The spilled table, if it is in use.
    fn spilled(&self) -> Option<&SpilledTable> {
        self.more.as_ref().map(|more| &more.spilled).filter(|spilled| !spilled.is_empty())
    }

    fn spilled_mut(&mut self) -> Option<&mut SpilledTable> {
        self.more.as_mut().map(|more| &mut more.spilled).filter(|spilled| !spilled.is_empty())
    }

    /// Moves all attachments to the spilled table.
    fn spill(&mut self) -> &mut SpilledTable {
        let spilled = &mut self.more.get_or_insert_default().spilled;
        spilled.spill_from(&mut self.inline);
        spilled
    }

    // ---- mappings ----

    /// Live mappings of an attachment, of the current generation.
    pub(in crate::buffer) fn mapped_by(&self, attachment: AttachmentId) -> u32 {
        match self.spilled() {
            Some(spilled) => spilled.mapped_by(attachment),
            None => self.inline.mapped_by(attachment),
        }
    }

    /// Counts a mapping of the current generation.
    #[inline]
    pub(in crate::buffer) fn map(&mut self, attachment: AttachmentId) {
        if let Some(spilled) = self.spilled_mut() {
            spilled.map(attachment);
        } else if !self.inline.map(attachment) {
            self.spill().map(attachment);
        }
    }

    /// Removes a mapping of generation `mapped`. If it was the last one of a ghost, returns the ghost's
    /// backing, for the caller to retire.
    pub(in crate::buffer) fn unmap(
        &mut self,
        attachment: AttachmentId,
        device: DeviceId,
        mapped: u32,
        current: u32,
    ) -> Option<(Fences, Backing)> {
        if mapped == current {
            let vacated = match self.spilled_mut() {
                Some(spilled) => spilled.unmap(attachment),
                None => self.inline.unmap(attachment),
            };
            self.vacated(vacated);
            return None;
        }
        let ghosts = &mut self.rare_mut()?.ghosts;
        let index = ghosts.iter().position(|ghost| ghost.generation == mapped)?;
        let ghost = &mut ghosts[index];
        let left = &mut ghost.mapped;
        if let Some(at) = left.iter().position(|(of, count)| *of == device && *count > 0) {
            left[at].1 -= 1;
            if left[at].1 == 0 {
                left.swap_remove(at);
                ghost.backing.allocation().remove_users(device, 1);
            }
        }
        if !ghost.mapped.is_empty() {
            return None;
        }
        let released = match ghosts.swap_remove(index).backing {
            GhostBacking::Retained(backing, fences) => (fences, backing),
            GhostBacking::Evicted(_) => return None,
        };
        match self.clean_mut() {
            Some(clean) => clean.put_back(mapped, released),
            None => Some(released),
        }
    }

    /// Live mappings that keep the buffer in place.
    pub(in crate::buffer) fn static_mappings(&self) -> u32 {
        let inline = self.inline.attachments().map(AttachmentEntry::mapped).sum::<u32>();
        inline + self.spilled().map_or(0, SpilledTable::static_mappings)
    }

    /// Live mappings of every generation, by device.
    pub(in crate::buffer) fn mappings(&self) -> Mappings {
        let mut all = Mappings::new();
        for attachment in self.attachments() {
            count(&mut all, attachment.device, attachment.mapped());
        }
        for (device, mapped) in self.ghosts().flat_map(Ghost::mapped) {
            count(&mut all, device, mapped);
        }
        all
    }

    // ---- ghosts ----

    /// Backings that the buffer has left, and that mappings still show.
    pub(in crate::buffer) fn ghosts(&self) -> impl Iterator<Item = &Ghost> {
        self.rare().into_iter().flat_map(|rare| &rare.ghosts)
    }

    /// Whether mappings of this earlier generation exist, or the clean copy is of it.
    pub(in crate::buffer) fn knows_generation(&self, generation: u32) -> bool {
        self.ghosts().any(|ghost| ghost.generation == generation)
            || self.clean().is_some_and(|clean| clean.generation() == generation)
    }

    /// Drops what is known of fences that are over: those of the buffer, and those of ghosts.
    pub(in crate::buffer) fn forget_ended(&mut self) {
        self.fences().forget_succeeded();
        if let Some(rare) = self.rare_mut() {
            for ghost in &mut rare.ghosts {
                if let GhostBacking::Retained(_, fences) = &mut ghost.backing {
                    fences.forget_succeeded();
                }
            }
        }
    }

    /// Replaces the location by `new`, which may be [`Location::Purged`]. Returns the old backing, for the
    /// caller to retire once `copied` has signalled.
    ///
    /// If mappings show the old backing, it becomes a ghost until they are dropped. If the buffer is `evicted`,
    /// its memory is needed at once: then the ghost keeps only the allocation.
    pub(in crate::buffer) fn replace_backing(
        &mut self,
        new: Location,
        old_generation: u32,
        copied: Fences,
        evicted: bool,
    ) -> Option<(Fences, Backing)> {
        let entries = self.entries_by_device();
        let old = self.location.take();
        self.location = new;
        let mut mapped = Mappings::new();
        self.inline.forget_mappings(|device, number| count(&mut mapped, device, number));
        if let Some(spilled) = self.spilled_mut() {
            spilled.forget_mappings(|device, number| count(&mut mapped, device, number));
        }
        self.entries_by_device().into_iter().for_each(|(device, of)| self.count_views(device, of));
        // A purged buffer has no backing to leave.
        let old = old?;
        // First the ghost's, so that no view that a mapping shows is unused for a moment.
        mapped.iter().for_each(|(device, _)| old.allocation().add_users(*device, 1));
        entries.into_iter().for_each(|(device, of)| old.allocation().remove_users(device, of));
        if mapped.is_empty() {
            return Some((copied, old));
        }
        let (backing, released) = if evicted {
            (GhostBacking::Evicted(Arc::clone(old.allocation())), Some((copied, old)))
        } else {
            (GhostBacking::Retained(old, copied), None)
        };
        self.make_rare().ghosts.push(Ghost { generation: old_generation, mapped, backing });
        released
    }
}
