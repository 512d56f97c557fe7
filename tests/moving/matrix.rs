//! The matrix: start domain × importer kind × importer device × pinned or not. Each row attaches, evicts the buffer,
//! and moves it back. One set of plain rules ([`Rules`]) states the outcome of each row.
//!
//! upstream: `xe_dma_buf_kunit` (`drivers/gpu/drm/xe/tests/xe_dma_buf.c`), whose 18 rows are among
//! these 54. Its expectations, with the numbers that the comments below use:
//!
//! * XD-1: a device that imports its own buffer gets the same object, in any domain;
//! * XD-2, XD-6: a dynamic peer-to-peer importer leaves the buffer in VRAM;
//! * XD-3, XD-4: VRAM only, and an importer that cannot reach VRAM: attaching fails and changes nothing;
//! * XD-5: every importer reaches system memory;
//! * XD-7, XD-8: VRAM or system memory, and an importer that cannot reach VRAM: the buffer moves;
//! * XD-9: an eviction notifies every importer once, and its mappings become stale;
//! * XD-10: when used again, the buffer is in the expected domain, with its bytes;
//! * XD-11: pinning moves nothing; XD-12: a pinned buffer is not evicted;
//! * XD-13: an interrupted wait is not reported as a refusal.
//!
//! Where peerbuf differs, on purpose:
//!
//! * Static importers may use VRAM where the route was proved (XD-4, XD-8). The kernel keeps them in system
//!   memory, because it could never evict their VRAM; here the pin ends with the mapping.
//! * Peer-to-peer access depends on proved routes, not on the bus topology. So the rules ask [`Engine::route`].
//! * `migrate` moves a buffer back (XD-10); in xe a new validation does.
#![expect(unsafe_code, reason = "importing an fd is unsafe")]

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use crate::common::bound::{besides, too_short, with_bound};
use crate::common::note::Note;
use crate::common::reach::{AttachCaps, can_live, reaches, route_of};
use crate::common::recorder::Recorder;
use crate::common::{Rig, assert_pattern, wait_idle};
use peerbuf::observe::Object;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, DomainKind, Engine, Error, Importer,
    Invalidation, Mapping, Migration, Pin, Placement, Provider, RefusalReason, Result,
    SharedBuffer, Signal,
};

/// A slot of a slab. A multiple of the word size, as the compute passes require.
const SIZE: u64 = 12_292;

const STARTS: [Placement; 3] = [Placement::Vram, Placement::System, Placement::VramOrSystem];

/// The kind of importer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Dynamic. Accepts another device's VRAM where a route was proved.
    PeerToPeer,
    /// Dynamic. Accepts only host memory of other devices.
    HostOnly,
    /// Static: its mappings are pins.
    Static,
}

/// The device of the importer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The buffer's home device.
    Home,
    /// Another device of the same adapter.
    Twin,
    /// A device of another driver.
    OtherDriver,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    start: Placement,
    kind: Kind,
    place: Place,
    pinned: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned = if self.pinned { "pinned" } else { "not pinned" };
        write!(f, "{:?} × {:?} × {:?} × {pinned}", self.start, self.kind, self.place)
    }
}

fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for start in STARTS {
        for kind in [Kind::PeerToPeer, Kind::HostOnly, Kind::Static] {
            for place in [Place::Home, Place::Twin, Place::OtherDriver] {
                rows.extend([false, true].map(|pinned| Row { start, kind, place, pinned }));
            }
        }
    }
    rows
}

// ---- the oracle ----

/// The expected outcomes of a row.
struct Rules {
    /// The domain after the importer has attached; `None` if attaching fails.
    attached: Option<DomainKind>,
    /// The outcome of a move to system memory.
    evict: Outcome,
    /// The outcome of a following move to the home device's VRAM.
    back: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The buffer is there already: no importer is notified.
    Stays,
    /// The buffer moves; every importer is notified once.
    Moves,
    /// The buffer is busy: nothing changes. It moves after its holders are dropped.
    Busy,
    /// An importer could not reach the target: nothing changes.
    Unreachable,
}

impl Rules {
    fn of(row: Row, engine: &Engine, home: &Device, peer: &Device) -> Self {
        // The importer may accept VRAM, and the proved routes decide.
        let importer = AttachCaps { device: peer, peer_to_peer: row.kind != Kind::HostOnly };
        let can = |kind| can_live(engine, home, kind, &[importer]);
        // The best allowed domain that every importer reaches.
        let best = |kinds: &[DomainKind]| kinds.iter().copied().find(|kind| can(*kind));
        let attached = match row.start {
            Placement::Vram => best(&[DomainKind::Vram]),
            Placement::System => best(&[DomainKind::System]),
            _ => best(&[DomainKind::Vram, DomainKind::System]),
        };
        // A pin holds the buffer, and so does the mapping of a static importer.
        let held = row.pinned || row.kind == Kind::Static;
        let request = |here, there| match (here == there, can(there), held) {
            (true, ..) => Outcome::Stays,
            (_, false, _) => Outcome::Unreachable,
            (.., true) => Outcome::Busy,
            (.., false) => Outcome::Moves,
        };
        let here = attached.unwrap_or(DomainKind::System);
        let evict = request(here, DomainKind::System);
        let here = if evict == Outcome::Unreachable { here } else { DomainKind::System };
        Self { attached, evict, back: request(here, DomainKind::Vram) }
    }
}

// ---- a row, step by step ----

/// A buffer with its home and one importer attached, and the state that is expected of it.
struct Case<'a> {
    row: Row,
    engine: &'a Engine,
    home: &'a Device,
    peer: &'a Device,
    buffer: SharedBuffer,
    near: Participant,
    far: Option<Participant>,
    pin: Option<Pin>,
    // The expected state.
    domain: DomainId,
    generation: u32,
    /// The seed of the pattern in the buffer.
    seed: u32,
}

/// An attachment, its mapping, and the generation at which it attached.
struct Participant {
    attachment: Attachment,
    recorder: Option<Arc<Recorder>>,
    mapping: Option<Mapping>,
    since: u32,
}

impl Participant {
    fn attach(buffer: &SharedBuffer, device: &Device, kind: Kind) -> Result<Self> {
        let recorder = (kind != Kind::Static).then(|| Recorder::new(kind == Kind::PeerToPeer));
        let attachment = match &recorder {
            Some(recorder) => buffer.attach_dynamic(device, Arc::clone(recorder) as _)?,
            None => buffer.attach(device)?,
        };
        Ok(Self { attachment, recorder, mapping: None, since: buffer.generation() })
    }

    fn map(&mut self) {
        let access = Access::ReadWrite;
        self.mapping.get_or_insert_with(|| self.attachment.map(access).expect("mapped"));
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("mapped before")
    }

    /// Checks that a dynamic importer was notified once of each move since it attached.
    fn check_notified(&self, generation: u32) {
        if let Some(recorder) = &self.recorder {
            assert_eq!(recorder.invalidated(), Vec::from_iter(self.since..generation), "callbacks");
        }
    }
}

impl<'a> Case<'a> {
    /// Creates a buffer in its start domain, with a pattern written by its home device.
    fn start(row: Row, engine: &'a Engine, home: &'a Device, peer: &'a Device) -> Self {
        let descriptor = BufferDescriptor::new(SIZE).placement(row.start);
        let buffer = engine.create_buffer(home, descriptor).expect("there is room");
        let mut near =
            Participant::attach(&buffer, home, Kind::PeerToPeer).expect("its own buffer");
        near.map();
        near.mapping().fill(1).expect("a pass");
        let domain = match row.start {
            Placement::System => DomainId::System,
            _ => DomainId::Vram(home.id()),
        };
        let (far, pin) = (None, None);
        Self { row, engine, home, peer, buffer, near, far, pin, domain, generation: 0, seed: 1 }
    }

    /// Attaches the importer, or checks the refusal. Returns whether it is attached.
    fn attach(&mut self, expected: Option<DomainKind>) -> bool {
        self.check();
        let importer =
            AttachCaps { device: self.peer, peer_to_peer: self.row.kind != Kind::HostOnly };
        let route = route_of(self.buffer.provider()).expect("of this engine");
        let in_place = reaches(self.engine, self.home, route, importer);
        let far = Participant::attach(&self.buffer, self.peer, self.row.kind);
        let Some(kind) = expected else {
            // XD-3, XD-4.
            let error = far.map(|_| ()).expect_err("it cannot follow");
            let Error::Unreachable { refused, .. } = &error else { panic!("{error}") };
            let says = |reason| refused.iter().any(|refusal| refusal.reason == reason);
            assert!(self.row.kind != Kind::HostOnly || says(RefusalReason::NoPeerToPeer));
            assert!(says(RefusalReason::Placement(DomainKind::System)), "{error}");
            self.check();
            return false;
        };
        self.far = Some(far.expect("every importer reaches an allowed domain"));
        let domain = match kind {
            DomainKind::Vram => DomainId::Vram(self.home.id()),
            _ => DomainId::System,
        };
        if domain == self.domain && in_place {
            // XD-1, XD-2, XD-5, XD-6.
            self.check();
        } else {
            // XD-7, XD-8. The new importer was not yet attached, so it is not notified. A device's own system memory
            // is not that of another driver, so a buffer may leave it and stay in its domain.
            self.moved(domain);
        }
        true
    }

    fn far(&mut self) -> &mut Participant {
        self.far.as_mut().expect("the importer is attached")
    }

    /// Maps for the importer, and pins if the row requires it. Nothing moves.
    fn hold(&mut self) {
        self.far().map();
        assert_eq!(self.far().mapping().generation(), self.generation);
        if self.row.pinned {
            // XD-11. The quota allows one pin, so that a second one reports the numbers.
            self.engine.set_pin_quota(self.peer, SIZE).expect("our device");
            self.pin = Some(self.far().attachment.pin("matrix").expect("within the quota"));
            let error = self.far().attachment.pin("one too many").expect_err("over the quota");
            assert!(
                matches!(error, Error::PinQuota { requested: SIZE, used: SIZE, quota: SIZE, .. }),
                "{error}"
            );
        }
        self.check();
    }

    /// Drops what holds the buffer: the pin, and the mapping of a static importer.
    fn release(&mut self) {
        if self.pin.take().is_some() {
            drop(self.far().attachment.pin("again").expect("nothing is pinned any more"));
        }
        if self.row.kind == Kind::Static {
            self.far().mapping = None;
        }
    }

    /// Requests a move and checks its outcome.
    fn migrate(&mut self, to: DomainId, expected: Outcome) {
        let result = self.buffer.migrate(to);
        match expected {
            Outcome::Stays => {
                assert_eq!(result.expect("already there"), Migration::Unchanged);
                self.check();
            }
            Outcome::Moves => self.done(result, to),
            Outcome::Busy => {
                // XD-12, with the holders.
                let error = result.expect_err("the buffer is busy");
                let Error::Busy { mapped, host, pinned, .. } = error else { panic!("{error}") };
                let (fixed, kept) = (self.row.kind == Kind::Static, self.row.pinned);
                assert_eq!((mapped, host, pinned), (fixed.into(), 0, kept.into()));
                self.check();
                self.release();
                self.done(self.buffer.migrate(to), to);
            }
            Outcome::Unreachable => {
                let error = result.expect_err("an importer cannot reach it");
                assert!(matches!(error, Error::Unreachable { .. }), "{error}");
                self.check();
            }
        }
        // The next step begins with the same holders, independent of this outcome.
        self.pin = None;
        self.hold();
    }

    fn done(&mut self, result: Result<Migration>, to: DomainId) {
        let generation = self.generation + 1;
        assert_eq!(result.expect("not busy"), Migration::Done { generation });
        self.moved(to);
    }

    /// XD-9 and XD-10: every importer was notified once, old mappings report `Stale`, new ones show the bytes.
    fn moved(&mut self, to: DomainId) {
        let old = self.generation;
        self.generation += 1;
        self.domain = to;
        for participant in [Some(&mut self.near), self.far.as_mut()].into_iter().flatten() {
            let Some(mapping) = &mut participant.mapping else { continue };
            for error in [mapping.view().err(), mapping.verify(1).err(), mapping.fill(1).err()] {
                let error = error.expect("an old mapping is not used");
                let Error::Stale { mapped, current, .. } = error else { panic!("{error}") };
                assert_eq!((mapped, current), (old, old + 1));
            }
            participant.attachment.remap(mapping).expect("a current one");
        }
        self.check();
    }

    /// Checks domain, generation, callbacks, and the bytes seen from both sides. Then one side writes and the other
    /// one verifies.
    fn check(&mut self) {
        assert_eq!(self.buffer.domain(), self.domain, "domain");
        assert_eq!(self.buffer.generation(), self.generation, "generation");
        assert_eq!(self.buffer.home(), *self.home, "home");
        let participants = || [Some(&self.near), self.far.as_ref()].into_iter().flatten();
        for participant in participants() {
            participant.check_notified(self.generation);
            assert!(participant.attachment.is_dynamic() == participant.recorder.is_some());
            assert_pattern(&participant.attachment, self.seed, "before");
        }
        // The two sides take turns as writer and reader.
        let sides = [Some(&self.near), self.far.as_ref().or(Some(&self.near))];
        let [writer, reader] = [0, 1].map(|side| sides[(self.seed as usize + side) % 2]);
        let (Some(writer), Some(reader)) = (writer, reader) else { return };
        if let Some(mapping) = &writer.mapping {
            self.seed += 1;
            mapping.fill(self.seed).expect("a current mapping");
            assert_pattern(&reader.attachment, self.seed, "from the other side");
        }
    }

    /// Detaches the importer, which requires that it has nothing mapped. Then exports the buffer and checks that
    /// importing the fd returns the same buffer.
    fn end(mut self) {
        self.pin = None;
        self.engine.set_pin_quota(self.peer, u64::MAX).expect("our device");
        let Participant { attachment, mapping, .. } =
            self.far.take().expect("the importer is attached");
        let refused = attachment.detach().expect_err("mapped");
        let attachment = refused.into_attachment();
        drop(mapping);
        attachment.detach().expect("no longer mapped");

        // XD-1. The export moves the buffer out of its slab first, a move like any other. Memory without an fd is left
        // for any other that the buffer may have.
        let has_fd = self.buffer.provider() != Provider::Anonymous;
        let export = self.buffer.export_foreign().expect("an fd");
        self.moved(if has_fd { self.domain } else { self.buffer.domain() });
        // SAFETY: the engine's own fd, with its own `ForeignInfo`.
        let same =
            unsafe { self.engine.import_foreign(self.home, export.as_fd(), export.info(), None) };
        assert!(same.expect("its own fd").is_same(&self.buffer));
        let elsewhere = match self.domain {
            DomainId::System => DomainId::Vram(self.home.id()),
            _ => DomainId::System,
        };
        let error = self.buffer.migrate(elsewhere).expect_err("exported");
        assert!(matches!(error, Error::Busy { mapped: 0, host: 0, pinned: 1, .. }), "{error}");
        self.check();
    }
}

/// Runs a row and returns its rules.
fn check(row: Row, engine: &Engine, home: &Device, peer: &Device) -> Rules {
    let _note = Note(format!("row {row}, home {}, imported by {}", home.name(), peer.name()));
    let rules = Rules::of(row, engine, home, peer);
    let mut case = Case::start(row, engine, home, peer);
    if case.attach(rules.attached) {
        case.hold();
        case.migrate(DomainId::System, rules.evict);
        case.migrate(DomainId::Vram(home.id()), rules.back);
        case.end();
    } else {
        drop(case);
    }
    for object in [Object::Buffer, Object::Attachment, Object::Mapping, Object::Pin] {
        assert_eq!(engine.live().count(object), 0, "{object:?} at the end");
    }
    rules
}

fn check_all(rig: &Rig, home: &Device, other_driver: &Device) {
    let twin = rig.open(&home.adapter().clone());
    let rows = rows();
    assert_eq!(rows.len(), 54);
    let mut met = vec![];
    for row in rows {
        let peer = match row.place {
            Place::Home => home,
            Place::Twin => &twin,
            Place::OtherDriver => other_driver,
        };
        let rules = check(row, rig.engine(), home, peer);
        if rules.attached.is_some() {
            met.extend([rules.evict, rules.back]);
        }
    }
    // Two software devices of one adapter share their VRAM; two drivers share only host memory.
    for outcome in [Outcome::Stays, Outcome::Moves, Outcome::Busy, Outcome::Unreachable] {
        assert!(met.contains(&outcome), "no row was {outcome:?}");
    }
}

#[test]
fn every_row_matches_the_rules_on_lavapipe() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check_all(&rig, &lavapipe, &swiftshader);
}

#[test]
fn every_row_matches_the_rules_on_swiftshader() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check_all(&rig, &swiftshader, &lavapipe);
}

/// An importer that adds a fence of its device's work, and lets the test signal it.
struct Stuck {
    engine: Arc<Engine>,
    pending: Mutex<Vec<(u32, Signal)>>,
}

impl Importer for Stuck {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.engine.host_fence();
        invalidation.add_fence(Access::Read, fence);
        let mut pending = self.pending.lock().expect("not poisoned");
        pending.push((invalidation.generation(), signal));
    }
}

/// XD-13. In the kernel a signal interrupts the wait (`-EINTR`, `-ERESTARTSYS`); here the engine timeout ends it.
#[test]
fn a_wait_that_times_out_is_no_refusal() {
    with_bound(|rig, _| {
        let [home, peer] = rig.two_of_one_adapter();
        let engine = Arc::new(rig.take_engine());
        let stuck = Arc::new(Stuck { engine: Arc::clone(&engine), pending: Mutex::default() });
        let (buffer, attachment, mapping) = besides(|| {
            let buffer = engine.create_buffer(&home, BufferDescriptor::new(SIZE));
            let buffer = buffer.expect("a buffer");
            let attachment = buffer.attach_dynamic(&peer, Arc::clone(&stuck) as _);
            let attachment = attachment.expect("attached");
            let mapping = attachment.map(Access::ReadWrite).expect("mapped");
            mapping.fill(7).expect("a pass");
            (buffer, attachment, mapping)
        });
        let here = buffer.domain();
        if here == DomainId::System {
            // The route to device memory was not proved in time, and the attach moved the buffer.
            too_short();
        }

        let error = buffer.migrate(DomainId::System).expect_err("the importer never stops");
        assert!(matches!(error, Error::Timeout { .. }) && error.is_retryable(), "{error}");
        assert_eq!((buffer.domain(), buffer.generation()), (here, 0));
        assert!(besides(|| mapping.verify(7).expect("unchanged")).is_clean());

        // The importer's work has ended, so the next move succeeds.
        let pending = std::mem::take(&mut *stuck.pending.lock().expect("not poisoned"));
        if pending.is_empty() {
            // The timeout expired before the notification.
            too_short();
        }
        assert_eq!(pending.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), [0]);
        drop(pending);
        std::thread::scope(|scope| {
            let mover = scope.spawn(|| buffer.migrate(DomainId::System));
            // The engine timeout bounds the move.
            while !mover.is_finished() {
                stuck.pending.lock().expect("not poisoned").clear();
                std::thread::yield_now();
            }
            let moved = mover.join().expect("no panic");
            assert_eq!(besides(|| moved.expect("moved")), Migration::Done { generation: 1 });
        });
        drop(mapping);
        besides(|| assert_pattern(&attachment, 7, "after the move"));
        drop((attachment, buffer));
        wait_idle(&[&home, &peer]);
    });
}

/// The device is attached already, by an importer that accepts any memory.
#[test]
fn each_attachment_of_a_device_follows_its_own_importer() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
    let first = Participant::attach(&buffer, &peer, Kind::PeerToPeer).expect("attached");
    assert_eq!(buffer.domain(), DomainId::Vram(home.id()));
    let second = Participant::attach(&buffer, &peer, Kind::HostOnly).expect("attached again");
    assert_eq!(buffer.domain(), DomainId::System, "the second importer accepts no peer memory");
    first.check_notified(1);
    second.check_notified(1);
}
