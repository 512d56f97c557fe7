//! The matrix: where a buffer starts × who imports it × from where × pinned or not; then it is evicted,
//! and then used again. One set of plain rules ([`Rules`]) says what must come of each row.
//!
//! upstream: `xe_dma_buf_kunit` (`drivers/gpu/drm/xe/tests/xe_dma_buf.c`), whose 18 rows are among
//! these 54. Its expectations, by the numbers that the comments below use:
//!
//! * XD-1: a device that imports its own buffer gets the same object, wherever that is;
//! * XD-2, XD-6: a dynamic peer-to-peer importer leaves it in VRAM;
//! * XD-3, XD-4: VRAM alone, and an importer that cannot follow: refused, and nothing has changed;
//! * XD-5: in system memory everybody reaches it;
//! * XD-7, XD-8: VRAM or system memory, and an importer that cannot follow into VRAM: it moves;
//! * XD-9: evicting it tells every importer once, and their mappings are old;
//! * XD-10: used again, it is where it is expected, with its bytes;
//! * XD-11: pinning it moves nothing; XD-12: what is pinned is not evicted;
//! * XD-13: a wait that was cut short is not taken for a refusal.
//!
//! Where peerbuf differs, on purpose:
//!
//! * Static importers are given VRAM where the route was proved (XD-4, XD-8). The kernel keeps them in
//!   system memory, because it could never take VRAM back from them; here the pin ends with the mapping.
//! * peer-to-peer is what a route was proved to do, not what the bus topology promises. So the rules ask
//!   [`Engine::route`].
//! * `migrate` brings a buffer back (XD-10); in xe a new validation does.
#![expect(unsafe_code, reason = "taking in one's own fd")]

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use crate::common::bound::{too_short, with_bound};
use crate::common::note::Note;
use crate::common::reach::{Guest, can_live};
use crate::common::recorder::Recorder;
use crate::common::{Rig, assert_pattern, wait_idle};
use peerbuf::observe::Object;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, DomainKind, Engine, Error, Importer,
    Invalidation, Mapping, Migration, Pin, Placement, RefusalReason, Result, SharedBuffer, Signal,
};

/// Some slot of a slab; words, because the compute passes want them.
const SIZE: u64 = 12_292;

const STARTS: [Placement; 3] = [Placement::Vram, Placement::System, Placement::VramOrSystem];

/// Who imports the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Dynamic, and takes another device's own memory where a route was proved.
    PeerToPeer,
    /// Dynamic, and wants nothing but host memory of others.
    HostOnly,
    /// Static: its mappings are pins.
    Static,
}

/// From where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The buffer's home itself.
    Home,
    /// Another device of the same adapter.
    Twin,
    /// A device of another driver.
    Stranger,
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
            for place in [Place::Home, Place::Twin, Place::Stranger] {
                rows.extend([false, true].map(|pinned| Row { start, kind, place, pinned }));
            }
        }
    }
    rows
}

// ---- the oracle ----

/// What must come of a row.
struct Rules {
    /// Where the buffer is once the importer has sat down; `None` if it cannot.
    seat: Option<DomainKind>,
    /// What comes of moving it to system memory.
    evict: Outcome,
    /// What then comes of moving it into its home's VRAM.
    back: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is there already: nobody is told anything.
    Stays,
    /// It moves; everybody is told once.
    Moves,
    /// Somebody holds it: nothing changes, and when they let go it moves.
    Busy,
    /// Somebody could not follow: nothing changes.
    Unreachable,
}

impl Rules {
    fn of(row: Row, engine: &Engine, home: &Device, peer: &Device) -> Self {
        // The importer offers, and what was proved decides.
        let importer = Guest { device: peer, peer_to_peer: row.kind != Kind::HostOnly };
        let can = |kind| can_live(engine, home, kind, &[importer]);
        // The best place that it may live in and everybody reaches.
        let best = |kinds: &[DomainKind]| kinds.iter().copied().find(|kind| can(*kind));
        let seat = match row.start {
            Placement::Vram => best(&[DomainKind::Vram]),
            Placement::System => best(&[DomainKind::System]),
            Placement::VramOrSystem => best(&[DomainKind::Vram, DomainKind::System]),
        };
        // A pin holds it, and so does the mapping of a static importer.
        let held = row.pinned || row.kind == Kind::Static;
        let request = |here, there| match (here == there, can(there), held) {
            (true, ..) => Outcome::Stays,
            (_, false, _) => Outcome::Unreachable,
            (.., true) => Outcome::Busy,
            (.., false) => Outcome::Moves,
        };
        let here = seat.unwrap_or(DomainKind::System);
        let evict = request(here, DomainKind::System);
        let here = if evict == Outcome::Unreachable { here } else { DomainKind::System };
        Self { seat, evict, back: request(here, DomainKind::Vram) }
    }
}

// ---- a row, step by step ----

/// A buffer whose home and importer both look at it, and what is known to be true of it.
struct Case<'a> {
    row: Row,
    engine: &'a Engine,
    home: &'a Device,
    peer: &'a Device,
    buffer: SharedBuffer,
    near: Seat,
    far: Option<Seat>,
    pin: Option<Pin>,
    // What must be true now.
    domain: DomainId,
    generation: u32,
    /// The seed of the pattern in it.
    seed: u32,
}

/// A seat, its mapping, and from which generation on it has been there.
struct Seat {
    attachment: Attachment,
    recorder: Option<Arc<Recorder>>,
    mapping: Option<Mapping>,
    since: u32,
}

impl Seat {
    fn sit(buffer: &SharedBuffer, device: &Device, kind: Kind) -> Result<Self> {
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

    /// It was told once of each move since it sat down, if it is one that is told.
    fn check_told(&self, generation: u32) {
        if let Some(recorder) = &self.recorder {
            assert_eq!(recorder.told(), Vec::from_iter(self.since..generation), "callbacks");
        }
    }
}

impl<'a> Case<'a> {
    /// A buffer where it starts, with its home's pattern in it.
    fn start(row: Row, engine: &'a Engine, home: &'a Device, peer: &'a Device) -> Self {
        let descriptor = BufferDescriptor::new(SIZE).placement(row.start);
        let buffer = engine.create_buffer(home, descriptor).expect("there is room");
        let mut near = Seat::sit(&buffer, home, Kind::PeerToPeer).expect("its own buffer");
        near.map();
        near.mapping().fill(1).expect("a pass");
        let domain = match row.start {
            Placement::System => DomainId::System,
            _ => DomainId::Vram(home.id()),
        };
        let (far, pin) = (None, None);
        Self { row, engine, home, peer, buffer, near, far, pin, domain, generation: 0, seed: 1 }
    }

    /// The importer sits down, or is refused. Whether it sits.
    fn attach(&mut self, expected: Option<DomainKind>) -> bool {
        self.check();
        let seat = Seat::sit(&self.buffer, self.peer, self.row.kind);
        let Some(kind) = expected else {
            // XD-3, XD-4.
            let error = seat.map(|_| ()).expect_err("it cannot follow");
            let Error::Unreachable { refused, .. } = &error else { panic!("{error}") };
            let says = |reason| refused.iter().any(|refusal| refusal.reason == reason);
            assert!(self.row.kind != Kind::HostOnly || says(RefusalReason::NoPeerToPeer));
            assert!(says(RefusalReason::Placement(DomainKind::System)), "{error}");
            self.check();
            return false;
        };
        self.far = Some(seat.expect("everybody reaches a place that it may live in"));
        let domain = match kind {
            DomainKind::Vram => DomainId::Vram(self.home.id()),
            DomainKind::System => DomainId::System,
        };
        if domain == self.domain {
            // XD-1, XD-2, XD-5, XD-6.
            self.check();
        } else {
            // XD-7, XD-8. The newcomer was not there yet to be told.
            self.moved(domain);
        }
        true
    }

    fn far(&mut self) -> &mut Seat {
        self.far.as_mut().expect("the importer sits")
    }

    /// The importer maps, and pins if the row says so. Nothing moves.
    fn hold(&mut self) {
        self.far().map();
        assert_eq!(self.far().mapping().generation(), self.generation);
        if self.row.pinned {
            // XD-11. Room for one pin, so that a second one says what there is.
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

    /// What holds the buffer goes: the pin, and what a static importer has mapped.
    fn let_go(&mut self) {
        if self.pin.take().is_some() {
            drop(self.far().attachment.pin("again").expect("nothing is pinned any more"));
        }
        if self.row.kind == Kind::Static {
            self.far().mapping = None;
        }
    }

    /// Asks for a move, and checks what comes of it.
    fn migrate(&mut self, to: DomainId, expected: Outcome) {
        let result = self.buffer.migrate(to);
        match expected {
            Outcome::Stays => {
                assert_eq!(result.expect("it is there already"), Migration::None);
                self.check();
            }
            Outcome::Moves => self.done(result, to),
            Outcome::Busy => {
                // XD-12, with who holds it.
                let error = result.expect_err("somebody holds it");
                let Error::Busy { mapped, host, pinned, .. } = error else { panic!("{error}") };
                let (fixed, kept) = (self.row.kind == Kind::Static, self.row.pinned);
                assert_eq!((mapped, host, pinned), (fixed.into(), 0, kept.into()));
                self.check();
                self.let_go();
                self.done(self.buffer.migrate(to), to);
            }
            Outcome::Unreachable => {
                let error = result.expect_err("somebody could not follow");
                assert!(matches!(error, Error::Unreachable { .. }), "{error}");
                self.check();
            }
        }
        // The next step begins with what this row holds, whatever came of this one.
        self.pin = None;
        self.hold();
    }

    fn done(&mut self, result: Result<Migration>, to: DomainId) {
        let generation = self.generation + 1;
        assert_eq!(result.expect("nobody holds it"), Migration::Done { generation });
        self.moved(to);
    }

    /// XD-9 and XD-10: everybody was told once, old mappings say so, new ones show the bytes.
    fn moved(&mut self, to: DomainId) {
        let old = self.generation;
        self.generation += 1;
        self.domain = to;
        for seat in [Some(&mut self.near), self.far.as_mut()].into_iter().flatten() {
            let Some(mapping) = &mut seat.mapping else { continue };
            for error in [mapping.view().err(), mapping.verify(1).err(), mapping.fill(1).err()] {
                let error = error.expect("an old mapping is not used");
                let Error::Stale { mapped, current, .. } = error else { panic!("{error}") };
                assert_eq!((mapped, current), (old, old + 1));
            }
            seat.attachment.remap(mapping).expect("a current one");
        }
        self.check();
    }

    /// Everything that must be true: place, generation, callbacks, and the bytes, seen from both sides.
    /// Then one side writes and the other looks.
    fn check(&mut self) {
        assert_eq!(self.buffer.domain(), self.domain, "domain");
        assert_eq!(self.buffer.generation(), self.generation, "generation");
        assert_eq!(self.buffer.home(), *self.home, "home");
        let seats = || [Some(&self.near), self.far.as_ref()].into_iter().flatten();
        for seat in seats() {
            seat.check_told(self.generation);
            assert!(seat.attachment.is_dynamic() == seat.recorder.is_some());
            assert_pattern(&seat.attachment, self.seed, "before");
        }
        // One of them writes, and the other looks; the next time the other way round.
        let sides = [Some(&self.near), self.far.as_ref().or(Some(&self.near))];
        let [writer, reader] = [0, 1].map(|side| sides[(self.seed as usize + side) % 2]);
        let (Some(writer), Some(reader)) = (writer, reader) else { return };
        if let Some(mapping) = &writer.mapping {
            self.seed += 1;
            mapping.fill(self.seed).expect("a current mapping");
            assert_pattern(&reader.attachment, self.seed, "from the other side");
        }
    }

    /// The importer leaves, which it can when it has nothing mapped; and the buffer that is handed out
    /// and comes home is the same buffer.
    fn end(mut self) {
        self.pin = None;
        self.engine.set_pin_quota(self.peer, u64::MAX).expect("our device");
        let Seat { attachment, mapping, .. } = self.far.take().expect("the importer sits");
        let refused = attachment.detach().expect_err("mapped");
        let attachment = refused.into_attachment();
        drop(mapping);
        attachment.detach().expect("no longer mapped");

        // XD-1. It leaves its slab first, which is a move like any other.
        let export = self.buffer.export_foreign().expect("an fd");
        self.moved(self.domain);
        // SAFETY: the engine's own fd, with its own facts.
        let same =
            unsafe { self.engine.import_foreign(self.home, export.as_fd(), export.facts(), None) };
        assert!(same.expect("its own fd").is_same(&self.buffer));
        let elsewhere = match self.domain {
            DomainId::System => DomainId::Vram(self.home.id()),
            _ => DomainId::System,
        };
        let error = self.buffer.migrate(elsewhere).expect_err("handed out");
        assert!(matches!(error, Error::Busy { mapped: 0, host: 0, pinned: 1, .. }), "{error}");
        self.check();
    }
}

/// Runs a row; returns what the rules said of it.
fn check(row: Row, engine: &Engine, home: &Device, peer: &Device) -> Rules {
    let _note = Note(format!("row {row}, at home on {}, imported by {}", home.name(), peer.name()));
    let rules = Rules::of(row, engine, home, peer);
    let mut case = Case::start(row, engine, home, peer);
    if case.attach(rules.seat) {
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

fn check_all(rig: &Rig, home: &Device, stranger: &Device) {
    let twin = rig.open(&home.adapter().clone());
    let rows = rows();
    assert_eq!(rows.len(), 54);
    let mut met = vec![];
    for row in rows {
        let peer = match row.place {
            Place::Home => home,
            Place::Twin => &twin,
            Place::Stranger => stranger,
        };
        let rules = check(row, rig.engine(), home, peer);
        if rules.seat.is_some() {
            met.extend([rules.evict, rules.back]);
        }
    }
    // Two software devices of one adapter share their memory, two drivers host memory alone.
    for outcome in [Outcome::Stays, Outcome::Moves, Outcome::Busy, Outcome::Unreachable] {
        assert!(met.contains(&outcome), "no row was {outcome:?}");
    }
}

#[test]
fn every_row_at_home_on_lavapipe() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check_all(&rig, &lavapipe, &swiftshader);
}

#[test]
fn every_row_at_home_on_swiftshader() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check_all(&rig, &swiftshader, &lavapipe);
}

/// An importer that says that its device is still at work, and lets the test say when it is not.
struct Stuck {
    engine: Arc<Engine>,
    told: Mutex<Vec<(u32, Signal)>>,
}

impl Importer for Stuck {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.engine.host_fence();
        invalidation.still_using(Access::Read, fence);
        let mut told = self.told.lock().expect("not poisoned");
        told.push((invalidation.generation(), signal));
    }
}

/// XD-13. In the kernel a signal interrupts the wait (`-EINTR`, `-ERESTARTSYS`); here its bound does.
#[test]
fn a_wait_that_was_cut_short_is_no_refusal() {
    with_bound(|rig, _| {
        let [home, peer] = rig.two_of_one_adapter();
        let engine = Arc::new(rig.take_engine());
        let buffer = engine.create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
        let stuck = Arc::new(Stuck { engine: Arc::clone(&engine), told: Mutex::default() });
        let seat = buffer.attach_dynamic(&peer, Arc::clone(&stuck) as _).expect("a seat");
        let mapping = seat.map(Access::ReadWrite).expect("mapped");
        mapping.fill(7).expect("a pass");
        let here = buffer.domain();

        let error = buffer.migrate(DomainId::System).expect_err("the importer never stops");
        assert!(matches!(error, Error::Timeout { .. }) && error.is_retryable(), "{error}");
        assert_eq!((buffer.domain(), buffer.generation()), (here, 0));
        assert!(mapping.verify(7).expect("as good as before").is_clean());

        // The importer has stopped, and the next move finds it so.
        let told = std::mem::take(&mut *stuck.told.lock().expect("not poisoned"));
        if told.is_empty() {
            // The bound was over before it was told.
            too_short();
        }
        assert_eq!(told.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), [0]);
        drop(told);
        std::thread::scope(|scope| {
            let mover = scope.spawn(|| buffer.migrate(DomainId::System));
            while !mover.is_finished() {
                stuck.told.lock().expect("not poisoned").clear();
                std::thread::yield_now();
            }
            assert_eq!(
                mover.join().expect("no panic").expect("moved"),
                Migration::Done { generation: 1 }
            );
        });
        drop(mapping);
        assert_pattern(&seat, 7, "after the move");
        drop((seat, buffer));
        wait_idle(&[&home, &peer]);
    });
}

/// The same device sits there already, and would take anything.
#[test]
fn an_importer_is_asked_itself_and_not_its_device_s_other_seat() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
    let first = Seat::sit(&buffer, &peer, Kind::PeerToPeer).expect("a seat");
    assert_eq!(buffer.domain(), DomainId::Vram(home.id()));
    let second = Seat::sit(&buffer, &peer, Kind::HostOnly).expect("another");
    assert_eq!(buffer.domain(), DomainId::System, "the second wants none of a peer's memory");
    first.check_told(1);
    second.check_told(1);
}
