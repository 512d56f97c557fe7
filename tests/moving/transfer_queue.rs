//! A device with a transfer queue for moves: which work uses which queue, and the order between the two.
//!
//! The software drivers have one queue. In some tests both kinds share it, each with its own timeline. In the others
//! a device has two queues that progress independently ([`common::soft_queues`]), and a test can hold either. Work
//! that fails to wait for it then shows wrong bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::common::app::{App, FAMILY};
use crate::common::gate::Gate;
use crate::common::random::Random;
use crate::common::reach::host_sees_vram;
use crate::common::{self, LONG, Rig, alive, bytes, commands};
use ash::vk;
use peerbuf::device::{AdoptedQueue, Call, QueueLock};
use peerbuf::observe::MoveCause;
use peerbuf::transfer::CopySpeeds;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, EngineDescriptor,
    Error, Fence, Mapping, Migration, Refault, Scope, SharedBuffer,
};

/// More bytes than the host copies itself.
const SIZE: u64 = 1 << 20;
/// A timeout that expires when no work progresses.
const SHORT: Duration = Duration::from_millis(50);
/// The indices of the two queues of [`App::with_two_queues`].
const MAIN: usize = 0;
const TRANSFER: usize = 1;

/// Runs `check` with an adopted device of every driver that has a transfer queue: a second queue, or its only one.
fn each(two_queues: bool, check: impl Fn(&Rig, &App, &Engine, &Device)) {
    let rig = Rig::new();
    for twin in rig.all() {
        let app = if two_queues {
            App::with_two_queues(&rig, twin.adapter())
        } else {
            App::new(&rig, twin.adapter(), |_| true)
        };
        let engine = rig.external_engine();
        let live = Arc::clone(engine.live());
        let device = app.join_with_transfer_queue(&rig, &engine);
        assert_eq!(device.transfer_queue_family(), Some(FAMILY));
        check(&rig, &app, &engine, &device);
        drop((device, engine));
        assert_eq!(alive(&live), Vec::<String>::new());
    }
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Creates a buffer in the device's VRAM with a refaulting attachment. It was moved out and back, so all routes and
/// speeds are known.
fn create(engine: &Engine, device: &Device) -> (SharedBuffer, Attachment) {
    let buffer = engine.create_buffer(device, BufferDescriptor::new(SIZE)).expect("a buffer");
    let attachment = attach(&buffer, device);
    move_out_and_back(&buffer);
    assert_eq!(buffer.domain(), vram(device));
    (buffer, attachment)
}

/// Moves a buffer to system memory and back, and waits for the end.
fn move_out_and_back(buffer: &SharedBuffer) {
    let from = buffer.domain();
    move_out(buffer);
    buffer.migrate(from).expect("not busy");
    drop(bytes::read(buffer));
}

fn attach(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("attached")
}

/// Proves the routes between two devices while no queue is held.
fn prove_routes(engine: &Engine, one: &Device, other: &Device) {
    let (buffer, _attachment) = create(engine, one);
    let _far = attach(&buffer, other);
    if buffer.domain() != DomainId::System {
        move_out(&buffer);
    }
    drop(bytes::read(&buffer));
}

fn move_out(buffer: &SharedBuffer) {
    let moved = buffer.migrate(DomainId::System).expect("not busy");
    assert!(matches!(moved, Migration::Done { .. }), "{moved:?}");
}

/// The pending fences of an engine's buffers, as the report describes them.
fn pending_fences(engine: &Engine) -> Vec<String> {
    let report = engine.report();
    report.buffers.iter().flat_map(|buffer| &buffer.fences).map(|fence| fence.on.clone()).collect()
}

fn is_of_move(on: &str) -> bool {
    on.contains("on the transfer queue of")
}

/// The word that fills the whole buffer.
fn word(buffer: &SharedBuffer) -> u32 {
    let bytes = bytes::read(buffer);
    let mut words =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let first = words.next().expect("the buffer is not empty");
    assert!(words.all(|word| word == first), "the words differ");
    first
}

fn fill(engine: &Engine, device: &Device, attachment: &Attachment, word: u32) -> Fence {
    let mapping = attachment.map(Access::Write).expect("mapped");
    commands::fill(engine, device, &mapping, word).expect("submitted")
}

/// Copies all of one buffer to the other in a submission to `device`.
fn copy(engine: &Engine, device: &Device, from: &Attachment, to: &Attachment) -> Fence {
    let (from, to) = (from.map(Access::Read), to.map(Access::Write));
    let (from, to) = (from.expect("mapped"), to.expect("mapped"));
    commands::copy(engine, device, &from, &to).expect("submitted")
}

fn assert_waits(fence: &Fence, what: &str) {
    let waited = fence.wait(SHORT);
    assert!(matches!(waited, Err(Error::Timeout { .. })), "{what}: {waited:?}");
}

fn assert_over(fence: &Fence, what: &str) {
    fence.wait(LONG).unwrap_or_else(|error| panic!("{what}: {error}"));
}

// ---- which work uses which queue ----

#[test]
fn only_moves_use_the_transfer_queue() {
    each(false, |_, _, engine, device| {
        let (first, attachment) = create(engine, device);
        let (second, _second_attachment) = create(engine, device);
        let (third, _third_attachment) = create(engine, device);
        let (target, target_attachment) = create(engine, device);
        for (seed, buffer) in (1..).zip([&first, &second, &third]) {
            bytes::write(buffer, seed);
        }
        // What the host wrote may be on its way through staging memory.
        common::wait_idle(&[device]);
        let gate = Gate::close(device);
        move_out(&first);
        second.evict().expect("not busy");
        let together = [(&third, DomainId::System)];
        assert!(engine.migrate_many(&together).iter().all(Result::is_ok));
        let moves = pending_fences(engine);
        assert!(moves.len() == 3 && moves.iter().all(|on| is_of_move(on)), "{moves:?}");
        // Copies and submissions use the main queue.
        let copied = engine.copy(&first, &target, CopyRegion::first(SIZE)).expect("submitted");
        assert!(!is_of_move(&copied.to_string()), "{copied}");
        let submitted = copy(engine, device, &attachment, &target_attachment);
        assert!(!is_of_move(&submitted.to_string()), "{submitted}");
        gate.open();
        assert_over(&submitted, "all work");
        bytes::assert_sequence(&target, 1, "copied");
        for (seed, buffer) in (1..).zip([&first, &second, &third]) {
            bytes::assert_sequence(buffer, seed, "moved");
        }
    });
}

#[test]
fn moves_use_the_main_queue_without_a_second_one() {
    let rig = Rig::new();
    for twin in rig.all() {
        let engine = rig.external_engine();
        let device = rig.open_on(&engine, &twin);
        if device.transfer_queue_family().is_some() {
            continue;
        }
        let (buffer, _attachment) = create(&engine, &device);
        bytes::write(&buffer, 1);
        let gate = Gate::close(&device);
        move_out(&buffer);
        let moves = pending_fences(&engine);
        assert!(moves.len() == 1 && !is_of_move(&moves[0]), "{moves:?}");
        gate.open();
        bytes::assert_sequence(&buffer, 1, "moved");
    }
}

#[test]
fn an_engine_without_transfer_queues_opens_none() {
    let rig = Rig::with(|descriptor| descriptor.transfer_queues(false));
    for device in rig.all() {
        assert_eq!(device.transfer_queue_family(), None, "{}", device.name());
    }
}

// ---- order between the queues ----

#[test]
fn work_after_a_move_waits_for_it() {
    each(true, |_, app, engine, device| {
        let (buffer, attachment) = create(engine, device);
        let (target, target_attachment) = create(engine, device);
        bytes::write(&buffer, 1);
        bytes::write(&target, 2);
        let held = app.queues().hold(TRANSFER);
        move_out(&buffer);
        assert_eq!(app.queues().waiting(TRANSFER), 1);
        let fence = copy(engine, device, &attachment, &target_attachment);
        assert_waits(&fence, "the move is held");
        drop(held);
        assert_over(&fence, "the move continues");
        bytes::assert_sequence(&target, 1, "the moved bytes");
    });
}

#[test]
fn a_move_waits_for_earlier_work() {
    each(true, |_, app, engine, device| {
        let (buffer, attachment) = create(engine, device);
        bytes::write(&buffer, 1);
        let held = app.queues().hold(MAIN);
        let written = fill(engine, device, &attachment, 0x0202_0202);
        move_out(&buffer);
        assert!(!app.queues().drains(TRANSFER, SHORT), "the write is held");
        assert!(!written.is_signalled().expect("no error"));
        drop(held);
        assert_eq!(word(&buffer), 0x0202_0202, "the written bytes");
    });
}

#[test]
fn the_two_queues_do_not_block_each_other() {
    each(true, |_, app, engine, device| {
        let (buffer, _attachment) = create(engine, device);
        let (other, other_attachment) = create(engine, device);
        bytes::write(&buffer, 1);
        {
            let _held = app.queues().hold(TRANSFER);
            move_out(&buffer);
            assert_over(
                &fill(engine, device, &other_attachment, 7),
                "another buffer, concurrently with the move",
            );
        }
        bytes::assert_sequence(&buffer, 1, "moved");
        let _held = app.queues().hold(MAIN);
        let rendering = fill(engine, device, &other_attachment, 8);
        buffer.migrate(vram(device)).expect("not busy");
        // Else the host reads by the queue that is held.
        if host_sees_vram(device) {
            bytes::assert_sequence(&buffer, 1, "moved back concurrently with the submission");
        }
        assert!(!rendering.is_signalled().expect("no error"));
        drop(_held);
        bytes::assert_sequence(&buffer, 1, "moved back");
        assert_eq!(word(&other), 8);
    });
}

#[test]
fn compute_passes_and_raw_accesses_wait_for_moves() {
    type Use = fn(&Mapping);
    let verify: Use = |mapping| assert!(mapping.verify(5).expect("verified").is_clean());
    let open: Use =
        |mapping| mapping.begin_access(Access::Read).expect("opened").end(Fence::signalled());
    for work in [verify, open] {
        each(true, |_, app, engine, device| {
            let (buffer, attachment) = create(engine, device);
            attachment.map(Access::Write).and_then(|mapping| mapping.fill(5)).expect("filled");
            let held = app.queues().hold(TRANSFER);
            move_out(&buffer);
            let mapping = attachment.map(Access::Read).expect("mapped");
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    work(&mapping);
                    sender.send(()).expect("the receiver listens");
                });
                assert!(receiver.recv_timeout(SHORT).is_err(), "the move is held");
                drop(held);
                receiver.recv_timeout(LONG).expect("the move continues");
            });
        });
    }
}

#[test]
fn other_devices_wait_for_a_move() {
    each(true, |rig, app, engine, device| {
        for twin in rig.all() {
            let other = rig.open_on(engine, &twin);
            let (buffer, _attachment) = create(engine, device);
            let (target, target_attachment) = create(engine, &other);
            prove_routes(engine, device, &other);
            bytes::write(&buffer, 1);
            // The other device first waits for the main queue, which has its own timeline.
            let (early, early_attachment) = create(engine, device);
            let early_far = attach(&early, &other);
            let held = app.queues().hold(MAIN);
            drop(fill(engine, device, &early_attachment, 1));
            let fence = copy(engine, &other, &early_far, &target_attachment);
            assert_waits(&fence, "the main queue is held");
            drop(held);
            assert_over(&fence, "the main queue continues");
            let held = app.queues().hold(TRANSFER);
            // Attaching may have moved the buffer already.
            let far = attach(&buffer, &other);
            if buffer.domain() == vram(device) {
                move_out(&buffer);
            }
            assert_eq!((buffer.domain(), app.queues().waiting(TRANSFER)), (DomainId::System, 1));
            let fence = copy(engine, &other, &far, &target_attachment);
            assert_waits(&fence, &format!("{} while the move is held", other.name()));
            drop(held);
            assert_over(&fence, other.name());
            bytes::assert_sequence(&target, 1, other.name());
        }
    });
}

#[test]
fn a_move_waits_for_other_devices() {
    each(true, |rig, app, engine, device| {
        for twin in rig.all() {
            let other = rig.open_on(engine, &twin);
            prove_routes(engine, device, &other);
            let (buffer, _attachment) = create(engine, device);
            let far = attach(&buffer, &other);
            bytes::write(&buffer, 1);
            let gate = Gate::close(&other);
            let written = fill(engine, &other, &far, 0x0303_0303);
            // Move to the other domain. Detach first, since the other device may not reach it.
            drop(far);
            let here = buffer.domain() == vram(device);
            let to = if here { DomainId::System } else { vram(device) };
            buffer.migrate(to).expect("not busy");
            assert!(!app.queues().drains(TRANSFER, SHORT), "{} is blocked", other.name());
            assert!(!written.is_signalled().expect("no error"));
            gate.open();
            assert_eq!(word(&buffer), 0x0303_0303, "{}", other.name());
        }
    });
}

#[test]
fn move_callbacks_run_after_the_move() {
    each(true, |_, app, engine, device| {
        let (buffer, attachment) = create(engine, device);
        bytes::write(&buffer, 1);
        let held = app.queues().hold(TRANSFER);
        move_out(&buffer);
        let mapping = attachment.map(Access::Read).expect("mapped");
        let after =
            engine.submit(device, |work| work.uses(&mapping, Access::Read, Scope::ALL).map(|_| ()));
        let after = after.expect("submitted");
        let (sender, receiver) = std::sync::mpsc::channel();
        engine
            .on_signal(&after, move || sender.send(()).expect("the receiver listens"))
            .expect("imported");
        assert!(receiver.recv_timeout(SHORT).is_err(), "the move is held");
        drop(held);
        receiver.recv_timeout(LONG).expect("called");
    });
}

// ---- under load, and at teardown ----

/// Evicts and restores buffers that exceed the budget, while devices write all of them. Bytes must be kept.
fn keep_bytes(two_queues: bool) {
    each(two_queues, |rig, _, engine, device| {
        const BUDGET: u64 = 6 * SIZE;
        engine.model_heap(device, BUDGET).expect("ours");
        let other = rig.open_on(engine, device);
        let mut random = Random::new(11);
        let mut all: Vec<_> = (0..16u32)
            .map(|seed| {
                let buffer = engine.create_buffer(device, BufferDescriptor::new(SIZE));
                let buffer = buffer.expect("an eviction makes room");
                let attachments = [device, &other].map(|device| attach(&buffer, device));
                let written = fill_remapped(engine, device, &attachments[0], seed);
                (buffer, attachments, written, seed)
            })
            .collect();
        for round in 0..200u32 {
            let at = random.below(16) as usize;
            let (buffer, attachments, last, value) = &mut all[at];
            match random.below(8) {
                0 => drop(buffer.evict()),
                1 => drop(buffer.request_residency()),
                2 => assert_eq!(word(buffer), *value, "round {round}, buffer {at}"),
                3 | 4 => {
                    *value = 1000 + round;
                    *last = fill_remapped(engine, &other, &attachments[1], *value);
                }
                _ => {
                    *value = 1000 + round;
                    *last = fill_remapped(engine, device, &attachments[0], *value);
                }
            }
        }
        for (at, (buffer, _, last, value)) in all.iter().enumerate() {
            assert_over(last, "the last write");
            assert_eq!(word(buffer), *value, "buffer {at} at the end");
        }
        let evicted = engine.moved(MoveCause::Evicted);
        assert!(evicted.moves > 10, "{evicted:?}");
    });
}

fn fill_remapped(engine: &Engine, device: &Device, attachment: &Attachment, word: u32) -> Fence {
    let mut mapping = attachment.map(Access::Write).expect("mapped");
    let filled =
        engine.submit_remapped(device, &mut [(attachment, &mut mapping)], |work, mapped| {
            commands::record_fill(work, device, mapped[0], word)
        });
    filled.expect("submitted")
}

#[test]
fn evicted_buffers_keep_their_bytes_on_one_queue() {
    keep_bytes(false);
}

#[test]
fn evicted_buffers_keep_their_bytes_on_two_queues() {
    keep_bytes(true);
}

#[test]
fn objects_may_be_dropped_while_both_queues_work() {
    let rig = Rig::new();
    for twin in rig.all() {
        for first in [MAIN, TRANSFER] {
            let app = App::with_two_queues(&rig, twin.adapter());
            let engine = rig.external_engine();
            let live = Arc::clone(engine.live());
            let device = app.join_with_transfer_queue(&rig, &engine);
            let (buffer, attachment) = create(&engine, &device);
            let (other, other_attachment) = create(&engine, &device);
            bytes::write(&buffer, 1);
            // Where the host does not see the memory, a queue writes it.
            assert!([MAIN, TRANSFER].iter().all(|queue| app.queues().drains(*queue, LONG)));
            let mut held = vec![app.queues().hold(first), app.queues().hold(1 - first)];
            move_out(&buffer);
            let fence = fill(&engine, &device, &other_attachment, 9);
            drop(copy(&engine, &device, &attachment, &other_attachment));
            // The last dropped object waits for both queues, whichever ends first.
            std::thread::scope(|scope| {
                let parts = (buffer, attachment, other, other_attachment, fence, device, engine);
                let gone = scope.spawn(move || drop(parts));
                drop(held.remove(0));
                // The move waits for no other work; the copy waits for the move.
                match first {
                    MAIN => assert!(!app.queues().drains(first, SHORT)),
                    _ => assert!(app.queues().drains(first, LONG)),
                }
                drop(held);
                gone.join().expect("no panic");
            });
            assert_eq!(alive(&live), Vec::<String>::new());
        }
    }
}

#[test]
fn a_lost_device_fails_both_queues() {
    each(true, |_, app, engine, device| {
        let (buffer, attachment) = create(engine, device);
        let (_other, other_attachment) = create(engine, device);
        bytes::write(&buffer, 1);
        let held = [MAIN, TRANSFER].map(|index| app.queues().hold(index));
        let written = fill(engine, device, &other_attachment, 3);
        move_out(&buffer);
        let mapping = attachment.map(Access::Read).expect("mapped");
        let after =
            engine.submit(device, |work| work.read(&mapping).map(|_| ())).expect("submitted");
        engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
        let error = engine.submit(device, |_| Ok(())).expect_err("the injected loss");
        assert!(matches!(error, Error::DeviceLost { .. }) && device.is_lost(), "{error}");
        // Fences of both queues report the loss at once.
        for fence in [&written, &after] {
            let never = fence.is_signalled();
            assert!(matches!(never, Err(Error::DeviceLost { .. })), "{never:?}");
        }
        let error = buffer.migrate(vram(device)).expect_err("lost");
        assert!(!matches!(error, Error::Timeout { .. }), "{error}");
        drop(held);
        // The driver does not know of the injected loss, and finishes its work.
        assert!(app.queues().drains(MAIN, LONG) && app.queues().drains(TRANSFER, LONG));
        common::wait_idle(&[device]);
    });
}

// ---- queues and locks of the application ----

struct Idle;

impl QueueLock for Idle {
    fn locked(&self, _work: &mut dyn FnMut()) {}
}

#[test]
fn one_queue_has_one_lock() {
    let rig = Rig::new();
    let twin = &rig.all()[0];
    let app = App::new(&rig, twin.adapter(), |_| true);
    // Fixed speeds, since measurements would submit as well.
    let speeds = CopySpeeds::host_up_to(64 << 10);
    let descriptor = EngineDescriptor::new().copy_speeds(speeds).timeout(LONG);
    let engine = Engine::without_instance(&descriptor);
    let queue_of = |family, lock: Option<Arc<dyn QueueLock>>| {
        let mut queue = AdoptedQueue::new(family, 0);
        queue.lock = lock;
        Some(queue)
    };
    let lock = || Some(Arc::clone(&app.lock) as Arc<dyn QueueLock>);
    let other = || Some(Arc::new(Idle) as Arc<dyn QueueLock>);
    let join = |queue: Option<AdoptedQueue>, main: Option<Arc<dyn QueueLock>>| {
        app.try_join(&rig, &engine, |facts| {
            facts.transfer_queue = queue;
            facts.queue_lock = main;
        })
    };
    let error = join(queue_of(FAMILY, other()), lock()).expect_err("two locks");
    assert!(error.to_string().contains("one lock for one queue"), "{error}");
    let error = join(queue_of(FAMILY + 9, None), lock()).expect_err("no such family");
    assert!(error.to_string().contains("copies on queue family 9"), "{error}");
    // Either description may carry the lock; both kinds of work take it.
    for (queue, main) in [(None, lock()), (lock(), None), (lock(), lock())] {
        let device = join(queue_of(FAMILY, queue), main).expect("one lock");
        let (buffer, _attachment) = create(&engine, &device);
        bytes::write(&buffer, 1);
        let taken = || app.lock.taken.load(std::sync::atomic::Ordering::Relaxed);
        let before = taken();
        move_out(&buffer);
        assert_eq!(taken(), before + 1, "for the move");
        device.submitted().and_then(|fence| fence.wait(LONG)).expect("submitted");
        assert_eq!(taken(), before + 2, "for other work");
        bytes::assert_sequence(&buffer, 1, "moved");
    }
    drop(engine);
}

#[test]
fn a_queue_lock_that_skips_its_work_is_an_error() {
    let rig = Rig::new();
    let twin = &rig.all()[0];
    let app = App::new(&rig, twin.adapter(), |_| true);
    let engine = Engine::without_instance(&EngineDescriptor::new());
    let device = app
        .try_join(&rig, &engine, |facts| facts.queue_lock = Some(Arc::new(Idle)))
        .expect("nothing is submitted yet");
    let error = device.submitted().expect_err("not submitted");
    let Error::Unsupported { missing, .. } = &error else { panic!("{error:?}") };
    assert!(missing.contains("QueueLock"), "{error}");
    assert!(!device.is_lost());
    drop((device, engine));
}
