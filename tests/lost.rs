//! A device is lost, with what was in its memory. What has a clean copy elsewhere lives on; what has none
//! says so; nobody else notices.

mod common;

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use ash::vk;
use common::commands::record_fill;
use common::gate::Gate;
use common::recorder::Recorder;
use common::{Rig, bytes, wait_idle};
use peerbuf::device::Call;
use peerbuf::observe::What;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Fence, Importer,
    Invalidation, InvalidationCause, Migration, Placement, Refault, SharedBuffer,
};

const SIZE: u64 = 1 << 20;

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
        let vram = DomainId::Vram(first.id());
        let anywhere = Placement::VramOrSystem;
        let (kept, kept_seats, told) = create(engine, &devices, anywhere, 1);
        let (gone, gone_seats, _) = create(engine, &devices, anywhere, 2);
        let (apart, apart_seats, untold) = create(engine, &devices, Placement::System, 3);
        kept.evict().expect("nobody holds it");
        kept.request_residency().expect("there is room");
        assert_eq!((kept.domain(), gone.domain()), (vram, vram));
        wait_idle(&[&devices[0], &devices[1]]);
        if really {
            engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
            let lost = engine.submit(&first, |_| Ok(())).expect_err("as it was told to");
            assert!(matches!(lost, Error::DeviceLost { .. }) && first.is_lost(), "{lost}");
        }
        let callbacks = (told.told().len(), untold.told().len());
        let abandoned = engine.abandon(&first).expect("ours");
        assert_eq!((abandoned.promoted, abandoned.lost), (1, 1));
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
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, _second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(SIZE)).expect("a buffer");
    let told = Arc::new(Told(Default::default()));
    let seat = buffer.attach_dynamic(&first, Arc::clone(&told) as _).expect("a seat");
    bytes::write(&buffer, 1);
    buffer.evict().expect("nobody holds it");
    buffer.request_residency().expect("there is room");
    wait_idle(&[&first]);
    assert_eq!(engine.abandon(&first).expect("ours").promoted, 1);
    let causes = told.0.lock().expect("no panic").clone();
    let expected = [InvalidationCause::Evict, InvalidationCause::Move, InvalidationCause::Evict];
    assert_eq!(causes, expected);
    drop(seat);
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// A buffer in the memory of `home`, with the sequence of 1, and with a clean copy of it.
fn with_clean_copy(engine: &Engine, home: &Device) -> SharedBuffer {
    let buffer = engine.create_buffer(home, BufferDescriptor::new(SIZE)).expect("a buffer");
    bytes::write(&buffer, 1);
    buffer.evict().expect("nobody holds it");
    buffer.request_residency().expect("there is room");
    wait_idle(&[home]);
    assert_eq!(buffer.domain(), vram(home));
    buffer
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
    let rig = Rig::new();
    let engine = rig.engine();
    for fails in [false, true] {
        let [first, second] = rig.two_of_one_adapter();
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(SIZE)).expect("a buffer");
        let seat = buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("a seat");
        bytes::write(&buffer, 1);
        buffer.evict().expect("nobody holds it");
        engine.set_cap(vram(&first), Some(0)).expect("ours");
        let mapping = seat.map(Access::Write).expect("mapped");
        let (before, signal) = engine.host_fence();
        if fails {
            signal.fail("the test says so");
        } else {
            drop(signal);
        }
        let gate = Gate::close(&second);
        let written = engine.submit(&second, |submission| {
            submission.after(&before);
            record_fill(submission, &second, &mapping, 7)
        });
        written.expect("what it relies on is known when it has run");
        drop(mapping);
        engine.set_cap(vram(&first), None).expect("ours");
        buffer.request_residency().expect("there is room");
        assert_eq!(buffer.domain(), vram(&first), "behind the write");
        gate.open();
        wait_idle(&[&first, &second]);
        let abandoned = engine.abandon(&first).expect("ours");
        assert_eq!(abandoned.promoted, usize::from(!fails), "{abandoned:?}");
        assert_eq!(buffer.is_poisoned(), fails, "what it holds is what was written, or failed");
    }
}

/// A move waits for work of the host while the device that it moves on is given up.
#[test]
fn a_move_that_waits_survives_an_abandoned_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = with_clean_copy(engine, &first);
    let (fence, signal) = engine.host_fence();
    let importer = AtWork::new(Access::Read, fence);
    let seat = buffer.attach_dynamic(&second, Arc::clone(&importer) as _).expect("a seat");
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.relocate());
        while !importer.was_told() {
            std::thread::yield_now();
        }
        // Takes the reservation, so not before the move waits.
        let abandoned = engine.abandon(&first).expect("ours");
        assert_eq!((abandoned.promoted, abandoned.lost), (1, 0));
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
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = with_clean_copy(engine, &first);
    let (fence, signal) = engine.host_fence();
    let importer = AtWork::new(Access::Read, fence);
    let seat = buffer.attach_dynamic(&second, Arc::clone(&importer) as _).expect("a seat");
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.evict());
        while !importer.was_told() {
            std::thread::yield_now();
        }
        let abandoning = scope.spawn(|| engine.abandon(&first).expect("ours"));
        drop(signal);
        moving.join().expect("no panic").expect("nobody holds it");
        assert_eq!(abandoning.join().expect("no panic").lost, 0);
    });
    assert_eq!(buffer.domain(), DomainId::System);
    bytes::assert_sequence(&buffer, 1, "evicted");
    drop(seat);
}

/// As the documentation says how to take a device away that still works: out with all, then give it up.
#[test]
fn nobody_returns_to_an_abandoned_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(SIZE)).expect("a buffer");
    let seat = buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("a seat");
    bytes::write(&buffer, 1);
    engine.evict_all(&first).expect("ours");
    let abandoned = engine.abandon(&first).expect("ours");
    assert_eq!((abandoned.promoted, abandoned.lost), (0, 0), "all were out");
    seat.map(Access::Read).expect("mapped");
    assert_eq!(engine.restore(&first).expect("ours"), 0);
    assert_eq!(buffer.request_residency().expect("it is there"), Migration::None);
    let error = buffer.migrate(vram(&first)).expect_err("it was given up");
    assert!(error.is_device_lost(), "{error}");
    let joint = engine.migrate_many(&[(&buffer, vram(&first))]);
    assert!(joint.iter().flat_map(|moved| moved.as_ref().err()).all(Error::is_device_lost));
    assert_eq!((joint.len(), buffer.domain()), (1, DomainId::System));
    bytes::assert_sequence(&buffer, 1, "it goes on");
}

#[test]
fn importers_of_what_is_lost_are_told() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(SIZE)).expect("a buffer");
    let recorder = Recorder::new(true);
    let seat = buffer.attach_dynamic(&second, Arc::clone(&recorder) as _).expect("a seat");
    bytes::write(&buffer, 1);
    assert_eq!(engine.abandon(&first).expect("ours").lost, 1);
    assert_eq!(recorder.told(), [0]);
    drop(seat);
}

/// An importer writes still, and says so only when it is asked.
#[test]
fn what_an_importer_writes_while_it_is_told_is_not_forgotten() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = with_clean_copy(engine, &first);
    let (fence, signal) = engine.host_fence();
    let importer = AtWork::new(Access::Write, fence);
    let seat = buffer.attach_dynamic(&second, importer).expect("a seat");
    let abandoned = engine.abandon(&first).expect("ours");
    drop(signal);
    assert_eq!((abandoned.promoted, abandoned.lost), (0, 1));
    assert!(buffer.is_poisoned(), "bytes were written to what is lost");
    drop(seat);
}

#[test]
fn an_importer_that_panics_keeps_nobody_from_being_promoted_or_lost() {
    struct Panics;
    impl Importer for Panics {
        fn invalidate_mappings(&self, _: &Invalidation<'_>) {
            panic!("the test says so");
        }
    }
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let kept: Vec<_> = (0..3).map(|_| with_clean_copy(engine, &first)).collect();
    let gone = engine.create_buffer(&first, BufferDescriptor::new(SIZE)).expect("a buffer");
    bytes::write(&gone, 1);
    let seats = [&kept[1], &gone]
        .map(|buffer| buffer.attach_dynamic(&second, Arc::new(Panics)).expect("a seat"));
    let caught = catch_unwind(AssertUnwindSafe(|| engine.abandon(&first)));
    assert!(caught.is_err(), "the panic goes on");
    for buffer in &kept {
        assert_eq!(buffer.domain(), DomainId::System);
        bytes::assert_sequence(buffer, 1, "promoted");
    }
    assert!(gone.is_poisoned());
    drop(seats);
}

/// A stranger keeps an fd of memory that the buffer has left since, and writes.
#[test]
#[expect(unsafe_code, reason = "mapping an fd that was handed out")]
fn memory_that_has_left_the_process_is_no_clean_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    let mut seen = 0;
    for first in rig.all() {
        // An allocation of its own.
        let descriptor = BufferDescriptor::new(9 << 20);
        let buffer = engine.create_buffer(&first, descriptor).expect("a buffer");
        bytes::write(&buffer, 1);
        buffer.evict().expect("nobody holds it");
        let export = buffer.export_foreign().expect("an fd");
        let handle = export.handle().expect("a second one");
        drop(export);
        buffer.request_residency().expect("there is room");
        wait_idle(&[&first]);
        // SAFETY: a fresh mapping of a file.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                4096,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                handle.as_fd(),
                0,
            )
        };
        // Not every driver's memory can be mapped by its fd.
        let Ok(mapped) = mapped else { continue };
        seen += 1;
        // SAFETY: mapped just now, and aligned as a page.
        unsafe { mapped.cast::<u64>().write_volatile(0xdead_beef_dead_beef) };
        // SAFETY: nobody uses the mapping any more.
        unsafe { rustix::mm::munmap(mapped, 4096) }.expect("mapped above");
        buffer.evict().expect("nobody holds it");
        bytes::assert_sequence(&buffer, 1, "a stranger with an old fd writes nothing of ours");
    }
    assert!(seen > 0, "nobody has memory that a stranger can map");
}
