//! One buffer with all handles to it, and its shadow: what must be true of it.

use std::sync::Arc;

use peerbuf::transfer::pattern_word;
use peerbuf::{
    Access, Attachment, Device, DomainId, DomainKind, Engine, Error, ForeignExport, HostAccess,
    Mapping, Migration, Pin, Placement, Result, SharedBuffer,
};

use crate::common::bytes;
use crate::common::random::Random;
use crate::common::reach::{AttachCaps, can_live, reaches, route_of};
use crate::common::recorder::Recorder;

pub(crate) struct Subject {
    pub(crate) id: u32,
    // Its handles.
    pub(crate) buffer: SharedBuffer,
    pub(crate) clones: Vec<SharedBuffer>,
    pub(crate) entries: Vec<AttachmentEntry>,
    pub(crate) mappings: Vec<Mapped>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) exports: Vec<ForeignExport>,
    pub(crate) host: Option<HostAccess>,
    // Its shadow.
    pub(crate) bytes: Vec<u8>,
    pub(crate) domain: DomainId,
    /// The preferred domain.
    pub(crate) preferred: DomainId,
    pub(crate) home: Device,
    pub(crate) generation: u32,
    /// Whether it has left its slab for an export.
    pub(crate) alone: bool,
    /// Whether it is revoked.
    pub(crate) revoked: bool,
}

/// A device's entry in the attachment table. It outlives its attachment while a current mapping of it exists.
pub(crate) struct AttachmentEntry {
    pub(crate) id: u32,
    pub(crate) device: Device,
    pub(crate) attachment: Option<Attachment>,
    /// `None` if the attachment is static.
    pub(crate) recorder: Option<Arc<Recorder>>,
    pub(crate) peer_to_peer: bool,
    /// The generations whose end must have been notified.
    pub(crate) notified: Vec<u32>,
}

/// A mapping, and the entry that it belongs to.
pub(crate) struct Mapped {
    pub(crate) mapping: Mapping,
    pub(crate) entry: u32,
    /// Whether its attachment is static.
    pub(crate) fixed: bool,
    pub(crate) generation: u32,
}

/// The expected outcome of a request that may move the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Stays,
    Moves { to: DomainId, bounced: bool },
    Busy,
    Unreachable,
    Revoked,
}

impl AttachmentEntry {
    pub(crate) fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    pub(crate) fn is_static(&self) -> bool {
        self.recorder.is_none()
    }
}

impl Subject {
    // ---- what must be true ----

    /// Compares the buffer's state with the shadow, without reading the bytes. If calls fail, a failed move may have
    /// notified importers, and its repetition notifies them again.
    pub(crate) fn check(&self, faulty: bool) {
        let (id, buffer) = (self.id, &self.buffer);
        assert_eq!(buffer.generation(), self.generation, "generation of {id}");
        assert_eq!(buffer.domain(), self.domain, "domain of {id}");
        assert_eq!(buffer.home(), self.home, "home of {id}");
        assert_eq!(buffer.explain().preferred, self.preferred, "preferred domain of {id}");
        assert_eq!(buffer.is_revoked(), self.revoked, "whether {id} is revoked");
        for entry in &self.entries {
            if let Some(recorder) = &entry.recorder {
                let (mut notified, mut expected) = (recorder.invalidated(), entry.notified.clone());
                if faulty {
                    notified.dedup();
                    expected.dedup();
                }
                assert_eq!(notified, expected, "callbacks at entry {} of {id}", entry.id);
            }
        }
        for mapped in &self.mappings {
            assert_eq!(mapped.mapping.generation(), mapped.generation, "a mapping of {id}");
            if mapped.generation != self.generation {
                let error = mapped.mapping.view().expect_err("an old mapping");
                self.assert_stale(&error, mapped.generation);
            }
        }
    }

    pub(crate) fn assert_stale(&self, error: &Error, generation: u32) {
        let Error::Stale { mapped, current, .. } = error else { panic!("{error}") };
        assert_eq!((*mapped, *current), (generation, self.generation));
    }

    /// Checks all bytes, by the host or by a device that has them mapped for reading.
    pub(crate) fn check_bytes(&self, random: &mut Random) {
        if !self.is_readable() {
            return;
        }
        let readers = self.mappings.iter().filter(|mapped| {
            mapped.generation == self.generation && mapped.mapping.access().reads()
        });
        let readers: Vec<&Mapped> = readers.collect();
        if readers.is_empty() || random.one_in(2) {
            bytes::assert_same(&bytes::read(&self.buffer), &self.bytes, "seen by the host");
        } else {
            self.check_bytes_through(readers[random.index(readers.len())]);
        }
    }

    /// Checks all bytes by a device.
    pub(crate) fn check_bytes_through(&self, mapped: &Mapped) {
        let seen = mapped.mapping.checksum().expect("a current mapping");
        let name = mapped.mapping.device().name().to_owned();
        assert_eq!(seen, checksum(&self.bytes), "wrong bytes: {} reads {}", name, self.id);
    }

    // ---- what is allowed ----

    /// Whether the bytes may be read: the host is not writing them, and the buffer is not revoked.
    pub(crate) fn is_readable(&self) -> bool {
        !self.revoked && self.host.as_ref().is_none_or(|guard| !guard.access().writes())
    }

    /// Whether the bytes may be written: the host has no access, and the buffer is not revoked.
    pub(crate) fn is_writable(&self) -> bool {
        !self.revoked && self.host.is_none()
    }

    pub(crate) fn is_current(&self, mapped: &Mapped) -> bool {
        mapped.generation == self.generation
    }

    /// The number of current mappings of an entry.
    pub(crate) fn mapped_by(&self, entry: u32) -> u32 {
        let of_it = |mapped: &&Mapped| mapped.entry == entry && self.is_current(mapped);
        // CAST: a handful.
        self.mappings.iter().filter(of_it).count() as u32
    }

    /// The holders that prevent a move: static mappings, host accesses, and pins with exports.
    pub(crate) fn holds(&self) -> (u32, u32, u32) {
        // CAST: a handful each.
        let count = |n: usize| n as u32;
        let fixed = self.mappings.iter().filter(|mapped| mapped.fixed).count();
        let pinned = self.pins.len() + self.exports.len();
        (count(fixed), self.host.is_some().into(), count(pinned))
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holds() != (0, 0, 0)
    }

    pub(crate) fn assert_busy(&self, error: &Error) {
        let Error::Busy { mapped, host, pinned, .. } = error else { panic!("{error}") };
        assert_eq!((*mapped, *host, *pinned), self.holds(), "holders of {}", self.id);
    }

    // ---- where it may be ----

    /// The attachments that restrict the placement. A detached dynamic entry with a mapping does not.
    fn guests(&self) -> Vec<AttachCaps<'_>> {
        let bound = self.entries.iter().filter(|entry| entry.is_attached() || entry.is_static());
        bound
            .map(|entry| AttachCaps { device: &entry.device, peer_to_peer: entry.peer_to_peer })
            .collect()
    }

    /// The expected outcome of a move to `to`, with `home` as the home device.
    pub(crate) fn expect_migration(
        &self,
        engine: &Engine,
        to: DomainId,
        home: &Device,
    ) -> Expected {
        if self.revoked {
            return Expected::Revoked;
        }
        let can = |home, kind| can_live(engine, home, kind, &self.guests());
        if to == self.domain {
            return Expected::Stays;
        }
        let bounced = matches!((self.domain, to), (DomainId::Vram(_), DomainId::Vram(_)))
            && !self.is_seen_across(engine, home);
        if !can(home, to.kind()) {
            return Expected::Unreachable;
        }
        if self.is_held() { Expected::Busy } else { Expected::Moves { to, bounced } }
    }

    /// The expected outcome of a move to another backing in the same domain.
    pub(crate) fn expect_relocation(&self, engine: &Engine) -> Expected {
        let kind = self.domain.kind();
        if !can_live(engine, &self.home, kind, &self.guests()) {
            return Expected::Unreachable;
        }
        if self.is_held() {
            Expected::Busy
        } else {
            Expected::Moves { to: self.domain, bounced: false }
        }
    }

    /// Whether one of the two home devices reaches the other's memory, so that it can copy.
    fn is_seen_across(&self, engine: &Engine, home: &Device) -> bool {
        let seen = |from: &Device, to: &Device| {
            let working = &engine.route(from, to).expect("routes can be proved").working;
            let vram = [peerbuf::Route::DmaBuf, peerbuf::Route::OpaqueFd];
            working.iter().any(|working| vram.contains(&working.route))
        };
        seen(&self.home, home) || seen(home, &self.home)
    }

    /// Whether devices may use the buffer only in its preferred domain, and it is kept elsewhere.
    pub(crate) fn is_away(&self) -> bool {
        self.buffer.placement() == Placement::Vram
            && self.preferred.kind() == DomainKind::Vram
            && self.domain != self.preferred
    }

    /// The expected outcome of the move that a use by a device requires.
    pub(crate) fn expect_return(&self, engine: &Engine) -> Expected {
        if self.is_away() {
            self.expect_migration(engine, self.preferred, &self.home)
        } else {
            Expected::Stays
        }
    }

    /// Takes note of the move that a use by a device has required. Returns the error if the buffer could not return.
    pub(crate) fn settle_return<R>(
        &mut self,
        result: Result<R>,
        expected: Expected,
    ) -> (Option<R>, Option<&'static str>) {
        match (result, expected) {
            (Ok(done), Expected::Stays) => (Some(done), None),
            (Ok(done), Expected::Moves { to, .. }) => {
                self.moved(to, self.home.clone());
                (Some(done), Some("returned for a use"))
            }
            (Err(error @ Error::Busy { .. }), Expected::Busy) => {
                self.assert_busy(&error);
                (None, Some("busy"))
            }
            (Err(error), _) => panic!("{error} instead of {expected:?}"),
            (Ok(_), _) => panic!("no error instead of {expected:?}"),
        }
    }

    /// The expected outcome of attaching `guest`.
    pub(crate) fn expect_guest(&self, engine: &Engine, guest: AttachCaps<'_>) -> Expected {
        let guests = [self.guests(), vec![guest]].concat();
        if self.is_away() && !can_live(engine, &self.home, DomainKind::Vram, &guests) {
            return Expected::Unreachable;
        }
        let route = route_of(self.buffer.provider()).expect("not external memory");
        let own = self.domain == DomainId::Vram(guest.device.id());
        if own || reaches(engine, &self.home, route, guest) {
            return Expected::Stays;
        }
        let kinds = self.buffer.placement().kinds().iter();
        let best = kinds.copied().find(|kind| can_live(engine, &self.home, *kind, &guests));
        match best {
            None => Expected::Unreachable,
            Some(_) if self.is_held() => Expected::Busy,
            Some(DomainKind::Vram) => {
                Expected::Moves { to: DomainId::Vram(self.home.id()), bounced: false }
            }
            Some(_) => Expected::Moves { to: DomainId::System, bounced: false },
        }
    }

    // ---- changes ----

    /// The buffer has moved: every dynamic attachment was notified, and no other importer.
    pub(crate) fn moved(&mut self, to: DomainId, home: Device) {
        self.entries.retain(AttachmentEntry::is_attached);
        for entry in self.entries.iter_mut().filter(|entry| !entry.is_static()) {
            entry.notified.push(self.generation);
        }
        self.generation += 1;
        // A move within the domain where the buffer is kept does not say that devices may use it there.
        let preferred = if self.is_away() && to == self.domain { self.preferred } else { to };
        (self.domain, self.preferred, self.home, self.alone) = (to, preferred, home, false);
    }

    /// Checks the result of a request to move, with `home` as the new home device, and returns the outcome.
    pub(crate) fn settle(
        &mut self,
        result: Result<Migration>,
        expected: Expected,
        home: Device,
    ) -> &'static str {
        match (result, expected) {
            (Ok(Migration::Unchanged), Expected::Stays) => {
                self.preferred = self.domain;
                "already there"
            }
            (Ok(Migration::Done { generation }), Expected::Moves { to, bounced }) => {
                self.moved(to, home);
                assert_eq!(generation, self.generation);
                if bounced { "moved where no device reaches both domains" } else { "moved" }
            }
            (Err(error @ Error::Busy { .. }), Expected::Busy) => {
                self.assert_busy(&error);
                "busy"
            }
            (Err(Error::Unreachable { .. }), Expected::Unreachable) => "unreachable",
            (Err(Error::Revoked { .. }), Expected::Revoked) => "revoked",
            (other, _) => panic!("{other:?} instead of {expected:?}"),
        }
    }

    /// The buffer has been revoked: every dynamic attachment was notified.
    pub(crate) fn has_been_revoked(&mut self) {
        self.revoked = true;
        for entry in self.entries.iter_mut().filter(|entry| !entry.is_static()) {
            entry.notified.push(self.generation);
        }
    }

    /// Removes entries that have neither an attachment nor a current mapping.
    pub(crate) fn sweep(&mut self) {
        let keep: Vec<u32> = self.entries.iter().map(|entry| entry.id).collect();
        let keep: Vec<u32> = keep.into_iter().filter(|id| self.mapped_by(*id) > 0).collect();
        self.entries.retain(|entry| entry.is_attached() || keep.contains(&entry.id));
    }

    /// Sets the bytes to the pattern of `seed`.
    pub(crate) fn fill(&mut self, seed: u32) {
        // CAST: words of small buffers.
        let words = 0..(self.bytes.len() / 4) as u32;
        self.bytes = words.flat_map(|index| pattern_word(seed, index).to_le_bytes()).collect();
    }

    /// Sets the bytes to one repeated word.
    pub(crate) fn fill_with_word(&mut self, word: u32) {
        let bytes = word.to_ne_bytes().into_iter().cycle();
        self.bytes = bytes.take(self.bytes.len()).collect();
    }

    pub(crate) fn open_host(&mut self, access: Access) {
        self.host = Some(self.buffer.host_access(access).expect("no access lasts long"));
    }
}

/// What [`Mapping::checksum`] computes for these bytes: every word mixed with its position, and added.
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    // A word of the pattern is a seed mixed with a position.
    words.zip(0..).fold(0, |sum, (word, index)| sum.wrapping_add(pattern_word(word, index)))
}
