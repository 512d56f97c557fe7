//! One buffer with everything that is held of it, and its shadow: what must be true of it.

use std::sync::Arc;

use peerbuf::transfer::pattern_word;
use peerbuf::{
    Access, Attachment, Device, DomainId, DomainKind, Engine, Error, ForeignExport, HostAccess,
    Mapping, Migration, Pin, Result, SharedBuffer,
};

use crate::common::bytes;
use crate::common::random::Random;
use crate::common::reach::{Guest, can_live, reaches, route_of};
use crate::common::recorder::Recorder;

pub(crate) struct Subject {
    pub(crate) id: u32,
    // What there is of it.
    pub(crate) buffer: SharedBuffer,
    pub(crate) clones: Vec<SharedBuffer>,
    pub(crate) chairs: Vec<Chair>,
    pub(crate) mappings: Vec<Mapped>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) exports: Vec<ForeignExport>,
    pub(crate) host: Option<HostAccess>,
    // What must be true of it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) domain: DomainId,
    /// Where it goes when it is asked to be where it wants to be.
    pub(crate) wanted: DomainId,
    pub(crate) home: Device,
    pub(crate) generation: u32,
    /// Whether it has left its slab to be handed out.
    pub(crate) alone: bool,
    /// Whether it was taken away from everybody.
    pub(crate) revoked: bool,
}

/// A device's seat. One whose attachment is gone stays while a current mapping of it is there.
pub(crate) struct Chair {
    pub(crate) id: u32,
    pub(crate) device: Device,
    pub(crate) attachment: Option<Attachment>,
    /// `None` for a static one.
    pub(crate) recorder: Option<Arc<Recorder>>,
    pub(crate) peer_to_peer: bool,
    /// The generations that it must have been told are old.
    pub(crate) told: Vec<u32>,
}

/// A mapping, and whose it is.
pub(crate) struct Mapped {
    pub(crate) mapping: Mapping,
    pub(crate) chair: u32,
    /// Of a static attachment.
    pub(crate) fixed: bool,
    pub(crate) generation: u32,
}

/// What must come of a request that may move the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Stays,
    Moves { to: DomainId, carried: bool },
    Busy,
    Unreachable,
    Revoked,
}

impl Chair {
    pub(crate) fn is_taken(&self) -> bool {
        self.attachment.is_some()
    }

    pub(crate) fn is_static(&self) -> bool {
        self.recorder.is_none()
    }
}

impl Subject {
    // ---- what must be true ----

    /// What a look at the state can tell, without a look at the bytes. A move that failed may have been
    /// told of, and is then told of again.
    pub(crate) fn check(&self, faulty: bool) {
        let (id, buffer) = (self.id, &self.buffer);
        assert_eq!(buffer.generation(), self.generation, "generation of {id}");
        assert_eq!(buffer.domain(), self.domain, "domain of {id}");
        assert_eq!(buffer.home(), self.home, "home of {id}");
        assert_eq!(buffer.explain().wanted, self.wanted, "where {id} wants to be");
        assert_eq!(buffer.is_revoked(), self.revoked, "whether {id} is revoked");
        for chair in &self.chairs {
            if let Some(recorder) = &chair.recorder {
                let (mut told, mut expected) = (recorder.told(), chair.told.clone());
                if faulty {
                    told.dedup();
                    expected.dedup();
                }
                assert_eq!(told, expected, "callbacks at chair {} of {id}", chair.id);
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

    /// Somebody who may looks at all bytes: the host, or a device.
    pub(crate) fn look(&self, random: &mut Random) {
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
            self.look_through(readers[random.index(readers.len())]);
        }
    }

    /// A device looks at all bytes.
    pub(crate) fn look_through(&self, mapped: &Mapped) {
        let seen = mapped.mapping.checksum().expect("a current mapping");
        let name = mapped.mapping.device().name().to_owned();
        assert_eq!(seen, checksum(&self.bytes), "{} sees {} wrong", name, self.id);
    }

    // ---- who may do what ----

    /// Whether the bytes may be looked at: the host is not writing them, and nobody took them away.
    pub(crate) fn is_readable(&self) -> bool {
        !self.revoked && self.host.as_ref().is_none_or(|guard| !guard.access().writes())
    }

    /// Whether they may be changed: the host is not at them, and nobody took them away.
    pub(crate) fn is_writable(&self) -> bool {
        !self.revoked && self.host.is_none()
    }

    pub(crate) fn is_current(&self, mapped: &Mapped) -> bool {
        mapped.generation == self.generation
    }

    /// Current mappings of a chair.
    pub(crate) fn mapped_by(&self, chair: u32) -> u32 {
        let of_it = |mapped: &&Mapped| mapped.chair == chair && self.is_current(mapped);
        // CAST: a handful.
        self.mappings.iter().filter(of_it).count() as u32
    }

    /// What keeps it in place: static mappings, accesses of the host, pins and exports.
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
        assert_eq!((*mapped, *host, *pinned), self.holds(), "who holds {}", self.id);
    }

    // ---- where it may live ----

    /// Those who have a say. Who has left a dynamic chair but for a mapping does not follow.
    fn guests(&self) -> Vec<Guest<'_>> {
        let sitting = self.chairs.iter().filter(|chair| chair.is_taken() || chair.is_static());
        sitting
            .map(|chair| Guest { device: &chair.device, peer_to_peer: chair.peer_to_peer })
            .collect()
    }

    /// What must come of a request for `to`, at home on `home`.
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
        let carried = matches!((self.domain, to), (DomainId::Vram(_), DomainId::Vram(_)))
            && !self.is_seen_across(engine, home);
        if !can(home, to.kind()) {
            return Expected::Unreachable;
        }
        if self.is_held() { Expected::Busy } else { Expected::Moves { to, carried } }
    }

    /// What must come of a request for other memory of the same place.
    pub(crate) fn expect_relocation(&self, engine: &Engine) -> Expected {
        let kind = self.domain.kind();
        if !can_live(engine, &self.home, kind, &self.guests()) {
            return Expected::Unreachable;
        }
        if self.is_held() {
            Expected::Busy
        } else {
            Expected::Moves { to: self.domain, carried: false }
        }
    }

    /// Whether one of two homes sees the other's memory, so that it can copy.
    fn is_seen_across(&self, engine: &Engine, home: &Device) -> bool {
        let seen = |from: &Device, to: &Device| {
            let working = &engine.route(from, to).expect("routes can be proved").working;
            let vram = [peerbuf::Route::DmaBuf, peerbuf::Route::OpaqueFd];
            working.iter().any(|working| vram.contains(&working.route))
        };
        seen(&self.home, home) || seen(home, &self.home)
    }

    /// What must come of `guest` wanting a seat.
    pub(crate) fn expect_guest(&self, engine: &Engine, guest: Guest<'_>) -> Expected {
        let route = route_of(self.buffer.provider()).expect("no stranger's memory");
        let own = self.domain == DomainId::Vram(guest.device.id());
        if own || reaches(engine, &self.home, route, guest) {
            return Expected::Stays;
        }
        let guests = [self.guests(), vec![guest]].concat();
        let kinds = self.buffer.placement().kinds().iter();
        let best = kinds.copied().find(|kind| can_live(engine, &self.home, *kind, &guests));
        match best {
            None => Expected::Unreachable,
            Some(_) if self.is_held() => Expected::Busy,
            Some(DomainKind::System) => Expected::Moves { to: DomainId::System, carried: false },
            Some(DomainKind::Vram) => {
                Expected::Moves { to: DomainId::Vram(self.home.id()), carried: false }
            }
        }
    }

    // ---- what happens to it ----

    /// It has moved: everybody attached was told, and nobody else.
    pub(crate) fn moved(&mut self, to: DomainId, home: Device) {
        self.chairs.retain(Chair::is_taken);
        for chair in self.chairs.iter_mut().filter(|chair| !chair.is_static()) {
            chair.told.push(self.generation);
        }
        self.generation += 1;
        (self.domain, self.wanted, self.home, self.alone) = (to, to, home, false);
    }

    /// A request to move, for a place at home on `home`, has come to its end. Says what it was.
    pub(crate) fn settle(
        &mut self,
        result: Result<Migration>,
        expected: Expected,
        home: Device,
    ) -> &'static str {
        match (result, expected) {
            (Ok(Migration::None), Expected::Stays) => {
                self.wanted = self.domain;
                "there already"
            }
            (Ok(Migration::Done { generation }), Expected::Moves { to, carried }) => {
                self.moved(to, home);
                assert_eq!(generation, self.generation);
                if carried { "moved where no device sees both places" } else { "moved" }
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

    /// It was taken away: everybody attached was told.
    pub(crate) fn taken_away(&mut self) {
        self.revoked = true;
        for chair in self.chairs.iter_mut().filter(|chair| !chair.is_static()) {
            chair.told.push(self.generation);
        }
    }

    /// Forgets the chairs that nobody sits on and nobody has mapped.
    pub(crate) fn sweep(&mut self) {
        let keep: Vec<u32> = self.chairs.iter().map(|chair| chair.id).collect();
        let keep: Vec<u32> = keep.into_iter().filter(|id| self.mapped_by(*id) > 0).collect();
        self.chairs.retain(|chair| chair.is_taken() || keep.contains(&chair.id));
    }

    /// The bytes are the pattern of `seed`.
    pub(crate) fn fill(&mut self, seed: u32) {
        // CAST: words of small buffers.
        let words = 0..(self.bytes.len() / 4) as u32;
        self.bytes = words.flat_map(|index| pattern_word(seed, index).to_le_bytes()).collect();
    }

    /// The bytes are one word over and over.
    pub(crate) fn fill_with_word(&mut self, word: u32) {
        let bytes = word.to_ne_bytes().into_iter().cycle();
        self.bytes = bytes.take(self.bytes.len()).collect();
    }

    pub(crate) fn open_host(&mut self, access: Access) {
        self.host = Some(self.buffer.host_access(access).expect("nobody is at work for long"));
    }
}

/// What [`Mapping::checksum`] makes of these bytes: every word mixed with its position, and added.
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    // A word of the pattern is a seed mixed with a position.
    words.zip(0..).fold(0, |sum, (word, index)| sum.wrapping_add(pattern_word(word, index)))
}
