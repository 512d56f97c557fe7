//! A device is lost, with what was in its memory. What has a clean copy elsewhere lives on; what has none
//! says so; nobody else notices.

mod found;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::common::commands::record_fill;
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::What;
use peerbuf::{
    Abandoned, Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Fence,
    Importer, Invalidation, InvalidationCause, Migration, Placement, Refault, SharedBuffer,
};

const SIZE: u64 = 1 << 20;

/// Two devices of one adapter. The first one is what is lost.
struct Pair {
    first: Device,
    second: Device,
    // Last: it looks whether the others are gone.
    rig: Rig,
}

impl Pair {
    fn new() -> Self {
        let rig = Rig::new();
        let [first, second] = rig.two_of_one_adapter();
        Self { first, second, rig }
    }

    fn engine(&self) -> &Engine {
        self.rig.engine()
    }

    /// A buffer in the memory of the first, with the sequence of 1, and nowhere else.
    fn buffer(&self) -> SharedBuffer {
        let descriptor = BufferDescriptor::new(SIZE);
        let buffer = self.engine().create_buffer(&self.first, descriptor).expect("a buffer");
        bytes::write(&buffer, 1);
        assert_eq!(buffer.domain(), vram(&self.first));
        buffer
    }

    /// The same, with a clean copy of it.
    fn with_clean_copy(&self) -> SharedBuffer {
        let buffer = self.buffer();
        buffer.evict().expect("nobody holds it");
        buffer.request_residency().expect("there is room");
        wait_idle(&[&self.first]);
        assert_eq!(buffer.domain(), vram(&self.first));
        buffer
    }

    /// The second one's seat, for `importer`.
    fn seat(&self, buffer: &SharedBuffer, importer: Arc<dyn Importer>) -> Attachment {
        buffer.attach_dynamic(&self.second, importer).expect("a seat")
    }

    /// The first one is given up by hand; how many were promoted, and lost.
    fn abandon(&self) -> (usize, usize) {
        counts(self.engine().abandon(&self.first).expect("ours"))
    }

    /// A submission finds the first one lost.
    fn lose(&self) {
        lose(self.engine(), &self.first);
    }
}

fn counts(abandoned: Abandoned) -> (usize, usize) {
    (abandoned.promoted, abandoned.lost)
}

/// A submission finds the device lost.
fn lose(engine: &Engine, device: &Device) {
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    let lost = engine.submit(device, |_| Ok(())).expect_err("as it was told to");
    assert!(matches!(lost, Error::DeviceLost { .. }) && device.is_lost(), "{lost}");
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn assert_lost(error: &Error) {
    assert!(error.is_device_lost(), "{error}");
}

/// A buffer at home on the first device, with the pattern of `seed`, and a seat of each.
fn create(
    engine: &Engine,
    devices: &[Device; 2],
    placement: Placement,
    seed: u32,
) -> (SharedBuffer, [Attachment; 2], Arc<Recorder>) {
    let descriptor = BufferDescriptor::new(SIZE).placement(placement);
    let buffer = engine.create_buffer(&devices[0], descriptor).expect("a buffer");
    let recorder = Recorder::new(true);
    let seats = [
        buffer.attach_dynamic(&devices[0], Recorder::new(true)).expect("a seat"),
        buffer.attach_dynamic(&devices[1], Arc::clone(&recorder) as _).expect("a seat"),
    ];
    seats[0].map(Access::Write).and_then(|mapping| mapping.fill(seed)).expect("filled");
    (buffer, seats, recorder)
}

fn assert_pattern(seat: &Attachment, seed: u32) {
    let report = seat.map(Access::Read).and_then(|mapping| mapping.verify(seed)).expect("read");
    assert!(report.is_clean(), "{report:?}");
}

fn check(really: bool) {
    let rig = Rig::new();
    let engine = rig.engine();
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        let vram = vram(&first);
        let anywhere = Placement::VramOrSystem;
        let (kept, kept_seats, told) = create(engine, &devices, anywhere, 1);
        let (gone, gone_seats, _) = create(engine, &devices, anywhere, 2);
        let (apart, apart_seats, untold) = create(engine, &devices, Placement::System, 3);
        kept.evict().expect("nobody holds it");
        kept.request_residency().expect("there is room");
        assert_eq!((kept.domain(), gone.domain()), (vram, vram));
        wait_idle(&[&devices[0], &devices[1]]);
        if really {
            lose(engine, &first);
        }
        let callbacks = (told.told().len(), untold.told().len());
        assert_eq!(counts(engine.abandon(&first).expect("ours")), (1, 1));
        // The copy is the buffer.
        assert_eq!(kept.domain(), DomainId::System);
        assert_pattern(&kept_seats[1], 1);
        assert_eq!(told.told().len(), callbacks.0 + 1, "told once");
        let explained = kept.explain();
        assert_eq!(explained.decisions[0].what, What::Promoted, "{explained}");
        // What has none is gone, and says so until somebody accepts that.
        let error = gone_seats[1].map(Access::Read).expect_err("its bytes are gone");
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let explained = gone.explain();
        assert_eq!(explained.decisions[0].what, What::Lost, "{explained}");
        gone.accept_content().expect("nobody is at work on it");
        gone.migrate(DomainId::System).expect("there is nothing to copy");
        bytes::assert_zero(&gone, "nobody's bytes");
        // Nobody else notices.
        assert_pattern(&apart_seats[1], 3);
        assert_eq!(untold.told().len(), callbacks.1);
        let (other, other_seats, _) = {
            let swapped = [devices[1].clone(), devices[1].clone()];
            create(engine, &swapped, anywhere, 4)
        };
        assert_pattern(&other_seats[1], 4);
        drop((other, other_seats));
        wait_idle(&[&devices[0], &devices[1]]);
        drop((kept_seats, gone_seats, apart_seats));
        drop((kept, gone, apart));
    }
}

#[test]
fn a_device_that_is_given_up_takes_only_what_was_nowhere_else() {
    check(false);
}

#[test]
fn so_does_one_that_is_lost() {
    check(true);
}

/// An importer is told that its place is gone, not that it may go on looking at it.
#[test]
fn its_importers_are_told_as_of_an_eviction() {
    struct Told(Mutex<Vec<InvalidationCause>>);
    impl Importer for Told {
        fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
            self.0.lock().expect("no panic").push(invalidation.cause());
        }
    }
    let pair = Pair::new();
    let buffer = pair.buffer();
    let told = Arc::new(Told(Default::default()));
    let seat = buffer.attach_dynamic(&pair.first, Arc::clone(&told) as _).expect("a seat");
    buffer.evict().expect("nobody holds it");
    buffer.request_residency().expect("there is room");
    wait_idle(&[&pair.first]);
    assert_eq!(pair.abandon(), (1, 0));
    let causes = told.0.lock().expect("no panic").clone();
    let expected = [InvalidationCause::Evict, InvalidationCause::Move, InvalidationCause::Evict];
    assert_eq!(causes, expected);
    drop(seat);
}

/// Says once, when it is told, that it is still at work.
struct AtWork(Access, Mutex<Option<Fence>>);

impl AtWork {
    fn new(access: Access, fence: Fence) -> Arc<Self> {
        Arc::new(Self(access, Mutex::new(Some(fence))))
    }

    fn was_told(&self) -> bool {
        self.1.lock().expect("no panic").is_none()
    }
}

impl Importer for AtWork {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        if let Some(fence) = self.1.lock().expect("no panic").take() {
            invalidation.still_using(self.0, fence);
        }
    }
}

/// The buffer came back while the write to what became its clean copy was still to run, and then failed.
#[test]
fn a_clean_copy_whose_writer_failed_is_not_promoted() {
    for fails in [false, true] {
        let pair = Pair::new();
        let (engine, first, second) = (pair.engine(), &pair.first, &pair.second);
        let buffer = pair.buffer();
        let seat = pair.seat(&buffer, Arc::new(Refault::new()));
        buffer.evict().expect("nobody holds it");
        engine.set_cap(vram(first), Some(0)).expect("ours");
        let mapping = seat.map(Access::Write).expect("mapped");
        let (before, signal) = engine.host_fence();
        if fails {
            signal.fail("the test says so");
        } else {
            drop(signal);
        }
        let gate = Gate::close(second);
        let written = engine.submit(second, |submission| {
            submission.after(&before);
            record_fill(submission, second, &mapping, 7)
        });
        written.expect("what it relies on is known when it has run");
        drop(mapping);
        engine.set_cap(vram(first), None).expect("ours");
        buffer.request_residency().expect("there is room");
        assert_eq!(buffer.domain(), vram(first), "behind the write");
        gate.open();
        wait_idle(&[first, second]);
        assert_eq!(pair.abandon(), (usize::from(!fails), usize::from(fails)));
        assert_eq!(buffer.is_poisoned(), fails, "what it holds is what was written, or failed");
        drop((seat, buffer));
    }
}

/// A move waits for work of the host while the device that it moves on is given up.
#[test]
fn a_move_that_waits_survives_an_abandoned_device() {
    let pair = Pair::new();
    let buffer = pair.with_clean_copy();
    let (fence, signal) = pair.engine().host_fence();
    let importer = AtWork::new(Access::Read, fence);
    let seat = pair.seat(&buffer, Arc::clone(&importer) as _);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.relocate());
        while !importer.was_told() {
            std::thread::yield_now();
        }
        // Takes the reservation, so not before the move waits.
        assert_eq!(pair.abandon(), (1, 0));
        drop(signal);
        let moved = moving.join().expect("no panic").expect("from where it is now");
        assert!(matches!(moved, Migration::Done { .. }));
    });
    assert_eq!(buffer.domain(), DomainId::System, "not back to where the move was going");
    bytes::assert_sequence(&buffer, 1, "what the copy had");
    drop(seat);
}

/// It has its clean copy with it, so there is nothing that the buffer could go on as meanwhile.
#[test]
fn an_eviction_that_waits_gets_out_of_an_abandoned_device() {
    let pair = Pair::new();
    let buffer = pair.with_clean_copy();
    let (fence, signal) = pair.engine().host_fence();
    let importer = AtWork::new(Access::Read, fence);
    let seat = pair.seat(&buffer, Arc::clone(&importer) as _);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.evict());
        while !importer.was_told() {
            std::thread::yield_now();
        }
        let abandoning = scope.spawn(|| pair.abandon());
        drop(signal);
        moving.join().expect("no panic").expect("nobody holds it");
        assert_eq!(abandoning.join().expect("no panic").1, 0);
    });
    assert_eq!(buffer.domain(), DomainId::System);
    bytes::assert_sequence(&buffer, 1, "evicted");
    drop(seat);
}

/// As the documentation says how to take a device away that still works: out with all, then give it up.
#[test]
fn nobody_returns_to_an_abandoned_device() {
    let pair = Pair::new();
    let (engine, first) = (pair.engine(), &pair.first);
    let buffer = pair.buffer();
    let seat = pair.seat(&buffer, Arc::new(Refault::new()));
    engine.evict_all(first).expect("ours");
    assert_eq!(pair.abandon(), (0, 0), "all were out");
    seat.map(Access::Read).expect("mapped");
    assert_eq!(engine.restore(first).expect("ours"), 0);
    assert_eq!(buffer.request_residency().expect("it is there"), Migration::None);
    assert_lost(&buffer.migrate(vram(first)).expect_err("it was given up"));
    let joint = engine.migrate_many(&[(&buffer, vram(first))]);
    assert!(joint.iter().flat_map(|moved| moved.as_ref().err()).all(Error::is_device_lost));
    assert_eq!((joint.len(), buffer.domain()), (1, DomainId::System));
    bytes::assert_sequence(&buffer, 1, "it goes on");
    drop(seat);
}

#[test]
fn nobody_is_made_at_home_on_an_abandoned_device() {
    let pair = Pair::new();
    let (engine, first) = (pair.engine(), &pair.first);
    let descriptor = || BufferDescriptor::new(SIZE).discardable();
    let purged = engine.create_buffer(first, descriptor()).expect("a buffer");
    purged.evict().expect("nobody holds it");
    assert_eq!(pair.abandon(), (0, 0));
    for placement in [Placement::VramOrSystem, Placement::Vram, Placement::System] {
        let made = engine.create_buffer(first, descriptor().placement(placement));
        assert_lost(&made.expect_err("it was given up"));
    }
    assert_eq!(engine.usage(vram(first)).expect("ours").used, 0, "nobody is there");
    let elsewhere = engine.create_buffer(&pair.second, descriptor()).expect("not given up");
    bytes::write(&elsewhere, 3);
    bytes::assert_sequence(&elsewhere, 3, "as ever");
    // Nor is one renewed there.
    purged.renew().expect("somewhere else");
    assert_eq!(purged.domain(), DomainId::System);
}

#[test]
fn importers_of_what_is_lost_are_told() {
    let pair = Pair::new();
    let buffer = pair.buffer();
    let recorder = Recorder::new(true);
    let seat = pair.seat(&buffer, Arc::clone(&recorder) as _);
    assert_eq!(pair.abandon(), (0, 1));
    assert_eq!(recorder.told(), [0]);
    drop(seat);
}

/// An importer writes still, and says so only when it is asked.
#[test]
fn what_an_importer_writes_while_it_is_told_is_not_forgotten() {
    let pair = Pair::new();
    let buffer = pair.with_clean_copy();
    let (fence, signal) = pair.engine().host_fence();
    let seat = pair.seat(&buffer, AtWork::new(Access::Write, fence));
    let abandoned = pair.abandon();
    drop(signal);
    assert_eq!(abandoned, (0, 1));
    assert!(buffer.is_poisoned(), "bytes were written to what is lost");
    drop(seat);
}

struct Panics;

impl Importer for Panics {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        panic!("the test says so");
    }
}

#[test]
fn an_importer_that_panics_keeps_nobody_from_being_promoted_or_lost() {
    for by_hand in [true, false] {
        let pair = Pair::new();
        let kept: Vec<_> = (0..3).map(|_| pair.with_clean_copy()).collect();
        let gone = pair.buffer();
        let seats = [&kept[1], &gone].map(|buffer| pair.seat(buffer, Arc::new(Panics)));
        let caught = if by_hand {
            catch_unwind(AssertUnwindSafe(|| pair.abandon())).map(|_| ())
        } else {
            pair.lose();
            catch_unwind(AssertUnwindSafe(|| pair.engine().trim())).map(|_| ())
        };
        assert!(caught.is_err(), "the panic goes on");
        for buffer in &kept {
            assert_eq!(buffer.domain(), DomainId::System);
            bytes::assert_sequence(buffer, 1, "promoted");
        }
        assert!(gone.is_poisoned());
        assert_eq!(pair.abandon(), (3, 1), "and nobody is told again");
        drop((seats, kept, gone));
    }
}

#[test]
fn a_device_is_given_up_once() {
    let pair = Pair::new();
    let (kept, gone) = (pair.with_clean_copy(), pair.buffer());
    let recorders = [Recorder::new(true), Recorder::new(true)];
    let seats = [(&kept, &recorders[0]), (&gone, &recorders[1])]
        .map(|(buffer, recorder)| pair.seat(buffer, Arc::clone(recorder) as _));
    assert_eq!(pair.abandon(), (1, 1));
    let told = || [recorders[0].told(), recorders[1].told()].concat();
    let (once, explained) = (told(), gone.explain().decisions.len());
    // Again, and by whoever finds out that it is lost as well.
    assert_eq!(pair.abandon(), (1, 1), "what was done then");
    pair.lose();
    pair.engine().trim();
    assert_eq!(pair.abandon(), (1, 1));
    assert_eq!((told(), gone.explain().decisions.len()), (once, explained));
    // Accepted, it is nobody's to take again.
    gone.accept_content().expect("nobody is at work on it");
    assert_eq!(pair.abandon(), (1, 1));
    assert!(!gone.is_poisoned());
    drop(seats);
}
