//! What a buffer's reservation protects.

use std::ptr::NonNull;
use std::sync::Arc;

use super::attachment_table::{
    AttachCaps, AttachmentEntry, AttachmentId, InlineTable, SpilledTable, TableEntry,
};
use super::clean_copy::CleanCopy;
use super::eviction_entry::EvictionEntry;
use super::ghost::{Ghost, Left, Mappings, count};
use super::importer::Importer;
use super::location::Location;
use super::pin_counter::PinCounter;
use crate::device::DeviceId;
use crate::memory::Backing;
use crate::observe::{Decision, History};
use crate::sync::{Fence, Fences, Signal};

/// The mutable part of a buffer. Kept small: there may be a million of them.
#[derive(Debug)]
pub(in crate::buffer) struct State {
    pub(in crate::buffer) location: Location,
    pub(in crate::buffer) fences: Fences,
    pub(in crate::buffer) entry: EvictionEntry,
    /// Live host accesses, copies by the host, and accesses of applications that are being recorded: as many
    /// as a byte can count.
    host: u8,
    /// Who sits at it, unless there is a crowd.
    few: InlineTable,
    /// What not all buffers have.
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<State>() <= 48, "there may be a million of them");

/// What many buffers have, but hardly all.
#[derive(Debug, Default)]
struct More {
    /// Who sits at it, if those are not few.
    crowd: SpilledTable,
    /// What was decided about it.
    history: History,
    /// Further ones of [`State::host`].
    host: u32,
    rare: Option<Box<Rare>>,
}

/// What few buffers have.
#[derive(Debug, Default)]
struct Rare {
    /// Places it has left, that some mapping still looks at.
    ghosts: Vec<Ghost>,
    /// Signalled when a move that is under way has ended.
    moving: Option<Fence>,
    /// Pins, by attachment and reason.
    pins: Vec<Arc<PinCounter>>,
    /// Live exports to strangers.
    exported: u32,
    /// How often it was revoked, so that who waits for one revocation is not taken in by the next.
    revocations: u32,
    /// Where it came from, if it would go back there.
    clean: Option<CleanCopy>,
    /// Signalled when nobody looks at the buffer any more, while somebody waits for that.
    drained: Option<(Fence, Signal)>,
}

impl State {
    pub(in crate::buffer) fn new(backing: Backing, entry: EvictionEntry) -> Self {
        Self {
            location: Location::Resident(backing),
            entry,
            fences: Fences::default(),
            host: 0,
            few: InlineTable::default(),
            more: None,
        }
    }

    fn rare(&self) -> Option<&Rare> {
        self.more.as_ref()?.rare.as_deref()
    }

    fn rare_mut(&mut self) -> Option<&mut Rare> {
        self.more.as_mut()?.rare.as_deref_mut()
    }

    fn make_rare(&mut self) -> &mut Rare {
        self.more.get_or_insert_default().rare.get_or_insert_default()
    }

    // ---- seats ----

    /// Takes a seat: the last step of an attachment, after which it may be called back at any time.
    pub(in crate::buffer) fn sit(
        &mut self,
        guest: AttachCaps,
        importer: Option<Arc<dyn Importer>>,
    ) -> AttachmentId {
        if importer.is_none()
            && self.crowd().is_none()
            && let Some(attachment) = self.few.sit(guest.device)
        {
            return attachment;
        }
        self.gather().sit(guest, importer)
    }

    /// The seats that are taken.
    pub(in crate::buffer) fn attachments(&self) -> impl Iterator<Item = AttachmentEntry> {
        self.few.attachments().chain(self.chairs().iter().filter_map(TableEntry::taken))
    }

    /// Those who are to be told of a move: whose attachments are alive.
    pub(in crate::buffer) fn importers(&self) -> impl Iterator<Item = (DeviceId, &dyn Importer)> {
        self.chairs().iter().filter_map(TableEntry::importer)
    }

    /// Whether a device already has a static seat.
    pub(in crate::buffer) fn has_static_attachment(&self, device: DeviceId) -> bool {
        let mut attached = self.attachments().filter(|attachment| attachment.is_attached());
        attached.any(|attachment| attachment.device == device && !attachment.is_dynamic())
    }

    /// Live mappings of a seat, of the current generation.
    pub(in crate::buffer) fn mapped_by(&self, attachment: AttachmentId) -> u32 {
        self.crowd()
            .map_or_else(|| self.few.mapped_by(attachment), |crowd| crowd.mapped_by(attachment))
    }

    #[inline]
    pub(in crate::buffer) fn map(&mut self, attachment: AttachmentId) {
        if let Some(crowd) = self.crowd_mut() {
            crowd.map(attachment);
        } else if !self.few.map(attachment) {
            self.gather().map(attachment);
        }
    }

    /// Gives the seat up, but for its mappings. The importer is for the caller to drop, without the
    /// reservation: it is somebody else's code, and may own things whose drop takes it.
    pub(in crate::buffer) fn leave(
        &mut self,
        attachment: AttachmentId,
    ) -> Option<Arc<dyn Importer>> {
        if let Some(rare) = self.rare_mut() {
            rare.pins.retain(|line| !line.leave(attachment));
        }
        match self.crowd_mut() {
            Some(crowd) => crowd.leave(attachment),
            None => {
                self.few.leave(attachment);
                None
            }
        }
    }

    /// Forgets a mapping. Returns the place that it was the last to look at, if the buffer has left it.
    pub(in crate::buffer) fn unmap(
        &mut self,
        attachment: AttachmentId,
        device: DeviceId,
        mapped: u32,
        current: u32,
    ) -> Option<(Fences, Backing)> {
        if mapped == current {
            match self.crowd_mut() {
                Some(crowd) => crowd.unmap(attachment),
                None => self.few.unmap(attachment),
            }
            return None;
        }
        let ghosts = &mut self.rare_mut()?.ghosts;
        let index = ghosts.iter().position(|ghost| ghost.generation == mapped)?;
        let left = &mut ghosts[index].mapped;
        if let Some((_, count)) = left.iter_mut().find(|(of, count)| *of == device && *count > 0) {
            *count -= 1;
        }
        left.retain(|(_, count)| *count > 0);
        if !left.is_empty() {
            return None;
        }
        let left = match ghosts.swap_remove(index).left {
            Left::Kept(backing, fences) => (fences, backing),
            Left::Lost(_) => return None,
        };
        match self.clean_mut() {
            Some(clean) => clean.take_in(mapped, left),
            None => Some(left),
        }
    }

    /// One slice, since a move goes through thousands of them several times.
    fn chairs(&self) -> &[TableEntry] {
        self.more.as_ref().map_or(&[], |more| more.crowd.chairs())
    }

    /// Who sits at it, if those are not few.
    fn crowd(&self) -> Option<&SpilledTable> {
        self.more.as_ref().map(|more| &more.crowd).filter(|crowd| !crowd.is_empty())
    }

    fn crowd_mut(&mut self) -> Option<&mut SpilledTable> {
        self.more.as_mut().map(|more| &mut more.crowd).filter(|crowd| !crowd.is_empty())
    }

    /// Makes those who sit at it a crowd.
    fn gather(&mut self) -> &mut SpilledTable {
        let crowd = &mut self.more.get_or_insert_default().crowd;
        crowd.take_in(&mut self.few);
        crowd
    }

    // ---- the host ----

    /// Live host accesses, copies by the host, and accesses of applications that are being recorded.
    pub(in crate::buffer) fn host(&self) -> u32 {
        u32::from(self.host) + self.more.as_ref().map_or(0, |more| more.host)
    }

    /// One of these begins.
    pub(in crate::buffer) fn begin_access(&mut self) {
        match self.host.checked_add(1) {
            Some(host) => self.host = host,
            None => self.more.get_or_insert_default().host += 1,
        }
    }

    /// One of them has ended.
    pub(in crate::buffer) fn end_access(&mut self) {
        match &mut self.more {
            Some(more) if more.host > 0 => more.host -= 1,
            _ => self.host -= 1,
        }
    }

    // ---- decisions ----

    /// Remembers what was decided about it.
    pub(in crate::buffer) fn remember(&mut self, decision: &Decision) {
        if self.more.is_some() || !decision.is_ordinary() {
            self.more.get_or_insert_default().history.record(decision);
        }
    }

    /// What was decided about it, latest first; it has `bytes`.
    pub(in crate::buffer) fn decisions(&self, bytes: u64) -> impl Iterator<Item = Decision> + '_ {
        self.more.iter().flat_map(move |more| more.history.decisions(bytes))
    }

    // ---- pins ----

    /// The line for pins of a seat for a reason, made by `make` if there is none; forgets what nobody
    /// uses.
    pub(in crate::buffer) fn pin_counter(
        &mut self,
        attachment: AttachmentId,
        reason: &str,
        make: impl FnOnce() -> Arc<PinCounter>,
    ) -> Arc<PinCounter> {
        let pins = &mut self.make_rare().pins;
        if let Some(line) = pins.iter().find(|line| line.is_of(attachment, reason)) {
            return Arc::clone(line);
        }
        pins.retain(|line| !line.is_idle());
        let line = make();
        pins.push(Arc::clone(&line));
        line
    }

    /// Those that may have pins.
    pub(in crate::buffer) fn pin_counters(&self) -> &[Arc<PinCounter>] {
        self.rare().map_or(&[], |rare| &rare.pins)
    }

    /// Takes out a line that nobody uses any more.
    pub(in crate::buffer) fn forget_pins(
        &mut self,
        line: NonNull<PinCounter>,
    ) -> Option<Arc<PinCounter>> {
        let pins = &mut self.rare_mut()?.pins;
        let index = pins.iter().position(|other| std::ptr::eq(&**other, line.as_ptr()))?;
        Some(pins.swap_remove(index))
    }

    /// From here on a pin takes the reservation first, until one has found the bytes in place. Returns
    /// how many there are.
    pub(in crate::buffer) fn close_pins(&self) -> u64 {
        self.pin_counters().iter().map(|line| line.close()).sum::<u64>()
            + u64::from(self.exported())
    }

    /// Live pins, those of exports among them.
    pub(in crate::buffer) fn pinned(&self) -> u64 {
        self.pin_counters().iter().map(|line| line.pins()).sum::<u64>() + u64::from(self.exported())
    }

    // ---- moving ----

    /// Places it has left, that some mapping still looks at.
    pub(in crate::buffer) fn ghosts(&self) -> impl Iterator<Item = &Ghost> {
        self.rare().into_iter().flat_map(|rare| &rare.ghosts)
    }

    /// Live mappings that keep the buffer where it is.
    pub(in crate::buffer) fn static_mappings(&self) -> u32 {
        let few = self.few.attachments().map(AttachmentEntry::mapped).sum::<u32>();
        few + self.crowd().map_or(0, SpilledTable::static_mappings)
    }

    /// Signalled when the move that is under way has ended; `None` if there is none.
    pub(in crate::buffer) fn moving(&self) -> Option<&Fence> {
        self.rare()?.moving.as_ref()
    }

    pub(in crate::buffer) fn set_moving(&mut self, gate: Option<Fence>) {
        if gate.is_some() || self.rare().is_some() {
            self.make_rare().moving = gate;
        }
    }

    /// The clean copy, if there is one.
    pub(in crate::buffer) fn clean(&self) -> Option<&CleanCopy> {
        self.rare()?.clean.as_ref()
    }

    pub(in crate::buffer) fn clean_mut(&mut self) -> Option<&mut CleanCopy> {
        self.rare_mut()?.clean.as_mut()
    }

    /// Returns the one that there was.
    pub(in crate::buffer) fn set_clean(&mut self, clean: Option<CleanCopy>) -> Option<CleanCopy> {
        if clean.is_none() && self.rare().is_none() {
            return None;
        }
        std::mem::replace(&mut self.make_rare().clean, clean)
    }

    /// Leaves the old backing for `new`, which may be nowhere. What is returned can be retired; what mappings
    /// still look at is kept until they are gone, unless the place is needed at once because the buffer is
    /// `evicted`.
    pub(in crate::buffer) fn leave_for(
        &mut self,
        new: Location,
        old_generation: u32,
        copied: Fences,
        evicted: bool,
    ) -> Option<(Fences, Backing)> {
        let old = self.location.take();
        self.location = new;
        let mut mapped = Mappings::new();
        self.few.forget_mappings(|device, of_this| count(&mut mapped, device, of_this));
        if let Some(crowd) = self.crowd_mut() {
            crowd.forget_mappings(|device, of_this| count(&mut mapped, device, of_this));
        }
        // From nowhere it leaves nothing.
        let old = old?;
        if mapped.is_empty() {
            return Some((copied, old));
        }
        let (kept, left) = if evicted {
            (Left::Lost(Arc::clone(old.allocation())), Some((copied, old)))
        } else {
            (Left::Kept(old, copied), None)
        };
        let ghost = Ghost { generation: old_generation, mapped, left: kept };
        self.make_rare().ghosts.push(ghost);
        left
    }

    // ---- strangers ----

    /// An fd of the buffer goes out, which pins it.
    pub(in crate::buffer) fn begin_export(&mut self) {
        self.make_rare().exported += 1;
    }

    /// An export has ended.
    pub(in crate::buffer) fn end_export(&mut self) {
        if let Some(rare) = self.rare_mut() {
            rare.exported -= 1;
        }
    }

    /// Live exports to strangers.
    pub(in crate::buffer) fn exported(&self) -> u32 {
        self.rare().map_or(0, |rare| rare.exported)
    }

    // ---- revoking ----

    pub(in crate::buffer) fn begin_revocation(&mut self) {
        let revocations = &mut self.make_rare().revocations;
        *revocations = revocations.wrapping_add(1);
    }

    /// Which revocation the last one is.
    pub(in crate::buffer) fn revocation(&self) -> u32 {
        self.rare().map_or(0, |rare| rare.revocations)
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

    /// Whether somebody holds a mapping, of whatever generation, or an access.
    pub(in crate::buffer) fn has_users(&self) -> bool {
        let ghosts = self.ghosts().next().is_some();
        self.host() > 0 || ghosts || self.attachments().any(|attachment| attachment.mapped() > 0)
    }

    /// Signalled when nobody does any more. Only while nobody new can come, and somebody does.
    pub(in crate::buffer) fn when_drained(&mut self) -> Fence {
        let drained = &mut self.make_rare().drained;
        drained.get_or_insert_with(Fence::host).0.clone()
    }

    /// To be called when a mapping or an access has ended: the signal of those who wait for the last one,
    /// if this was it. For the caller to drop, without the reservation, which they take next.
    pub(in crate::buffer) fn take_drained(&mut self) -> Option<Signal> {
        self.rare()?.drained.as_ref()?;
        if self.has_users() {
            return None;
        }
        self.rare_mut()?.drained.take().map(|(_, signal)| signal)
    }
}
