//! A device with a queue of its own for moves: who goes where, and what waits for what.
//!
//! The software drivers have one queue. In some tests both lanes are on it, each with its own timeline; in the
//! others a device has two queues that go on independently ([`common::soft_queues`]), and either can be held up:
//! what does not wait for it then goes wrong.

use std::sync::Arc;
use std::time::Duration;

use crate::common::app::{App, FAMILY};
use crate::common::gate::Gate;
use crate::common::random::Random;
use crate::common::{self, LONG, Rig, alive, bytes, commands};
use ash::vk;
use peerbuf::device::{AdoptedQueue, Call, QueueLock};
use peerbuf::observe::MoveCause;
use peerbuf::transfer::CopySpeeds;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Engine, EngineDescriptor,
    Error, Fence, Mapping, Migration, Refault, Scope, SharedBuffer,
};

/// More than the host copies by itself.
const SIZE: u64 = 1 << 20;
/// A bound that is reached when nothing goes on.
const SHORT: Duration = Duration::from_millis(50);
/// The indices of the two queues of [`App::with_two_queues`].
const MAIN: usize = 0;
const TRANSFER: usize = 1;

/// An engine with an application's device of every driver, whose moves have a lane of their own: on a queue of
/// its own, or on the only one.
fn each(two_queues: bool, check: impl Fn(&Rig, &App, &Engine, &Device)) {
    let rig = Rig::new();
    for twin in rig.all() {
        let app = if two_queues {
            App::with_two_queues(&rig, twin.adapter())
        } else {
            App::new(&rig, twin.adapter(), |_| true)
        };
        let engine = rig.stranger();
        let live = Arc::clone(engine.live());
        let device = app.join_with_lane(&rig, &engine);
        assert_eq!(device.transfer_queue_family(), Some(FAMILY));
        check(&rig, &app, &engine, &device);
        drop((device, engine));
        assert_eq!(alive(&live), Vec::<String>::new());
    }
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// A buffer in the device's own memory, with a seat that follows it. It has been away, so nothing is left to
/// find out about the ways.
fn create(engine: &Engine, device: &Device) -> (SharedBuffer, Attachment) {
    let buffer = engine.create_buffer(device, BufferDescriptor::new(SIZE)).expect("a buffer");
    let seat = sit(&buffer, device);
    travel(&buffer);
    assert_eq!(buffer.domain(), vram(device));
    (buffer, seat)
}

/// To and fro, and at the end it is over.
fn travel(buffer: &SharedBuffer) {
    let from = buffer.domain();
    leave(buffer);
    buffer.migrate(from).expect("nobody holds it");
    drop(bytes::read(buffer));
}

fn sit(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("a seat")
}

/// Finds out about the ways between two devices, while nobody is held up.
fn meet(engine: &Engine, one: &Device, other: &Device) {
    let (buffer, _seat) = create(engine, one);
    let _far = sit(&buffer, other);
    if buffer.domain() != DomainId::System {
        leave(&buffer);
    }
    drop(bytes::read(&buffer));
}

fn leave(buffer: &SharedBuffer) {
    let moved = buffer.migrate(DomainId::System).expect("nobody holds it");
    assert!(matches!(moved, Migration::Done { .. }), "{moved:?}");
}

/// What is under way on the buffers of an engine, as the report says it.
fn under_way(engine: &Engine) -> Vec<String> {
    let report = engine.report();
    report.buffers.iter().flat_map(|buffer| &buffer.fences).map(|fence| fence.on.clone()).collect()
}

fn is_of_move(on: &str) -> bool {
    on.contains("on the transfer queue of")
}

/// The one word that a buffer shows everywhere.
fn word(buffer: &SharedBuffer) -> u32 {
    let bytes = bytes::read(buffer);
    let mut words =
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let first = words.next().expect("it has some");
    assert!(words.all(|word| word == first), "not one word everywhere");
    first
}

fn fill(engine: &Engine, device: &Device, seat: &Attachment, word: u32) -> Fence {
    let mapping = seat.map(Access::Write).expect("mapped");
    commands::fill(engine, device, &mapping, word).expect("submitted")
}

/// Copies all of one buffer to the other, in a submission to `device`.
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

// ---- who goes where ----

#[test]
fn moves_have_a_lane_and_nothing_else_is_on_it() {
    each(false, |_, _, engine, device| {
        let (first, seat) = create(engine, device);
        let (second, _second_seat) = create(engine, device);
        let (third, _third_seat) = create(engine, device);
        let (target, target_seat) = create(engine, device);
        for (seed, buffer) in (1..).zip([&first, &second, &third]) {
            bytes::write(buffer, seed);
        }
        let gate = Gate::close(device);
        leave(&first);
        second.evict().expect("nobody holds it");
        let together = [(&third, DomainId::System)];
        assert!(engine.migrate_many(&together).iter().all(Result::is_ok));
        let moves = under_way(engine);
        assert!(moves.len() == 3 && moves.iter().all(|on| is_of_move(on)), "{moves:?}");
        // A copy and a submission are somebody's own work.
        let copied = engine.copy(&first, &target, CopyRegion::first(SIZE)).expect("submitted");
        assert!(!is_of_move(&copied.to_string()), "{copied}");
        let submitted = copy(engine, device, &seat, &target_seat);
        assert!(!is_of_move(&submitted.to_string()), "{submitted}");
        gate.open();
        assert_over(&submitted, "all of it");
        bytes::assert_sequence(&target, 1, "copied");
        for (seed, buffer) in (1..).zip([&first, &second, &third]) {
            bytes::assert_sequence(buffer, seed, "moved");
        }
    });
}

#[test]
fn without_a_second_queue_there_is_one_lane() {
    let rig = Rig::new();
    for twin in rig.all() {
        let engine = rig.stranger();
        let device = rig.open_on(&engine, &twin);
        if device.transfer_queue_family().is_some() {
            continue;
        }
        let (buffer, _seat) = create(&engine, &device);
        bytes::write(&buffer, 1);
        let gate = Gate::close(&device);
        leave(&buffer);
        let moves = under_way(&engine);
        assert!(moves.len() == 1 && !is_of_move(&moves[0]), "{moves:?}");
        gate.open();
        bytes::assert_sequence(&buffer, 1, "moved");
    }
}

#[test]
fn whoever_wants_no_second_queue_gets_none() {
    let rig = Rig::with(|descriptor| descriptor.transfer_queues(false));
    for device in rig.all() {
        assert_eq!(device.transfer_queue_family(), None, "{}", device.name());
    }
}

// ---- what waits for what ----

#[test]
fn what_follows_a_move_waits_for_it() {
    each(true, |_, app, engine, device| {
        let (buffer, seat) = create(engine, device);
        let (target, target_seat) = create(engine, device);
        bytes::write(&buffer, 1);
        bytes::write(&target, 2);
        let held = app.queues().hold(TRANSFER);
        leave(&buffer);
        assert_eq!(app.queues().waiting(TRANSFER), 1);
        let fence = copy(engine, device, &seat, &target_seat);
        assert_waits(&fence, "the move is held up");
        drop(held);
        assert_over(&fence, "the move goes on");
        bytes::assert_sequence(&target, 1, "what was moved");
    });
}

#[test]
fn a_move_waits_for_what_it_follows() {
    each(true, |_, app, engine, device| {
        let (buffer, seat) = create(engine, device);
        bytes::write(&buffer, 1);
        let held = app.queues().hold(MAIN);
        let written = fill(engine, device, &seat, 0x0202_0202);
        leave(&buffer);
        assert!(!app.queues().drains(TRANSFER, SHORT), "the write is held up");
        assert!(!written.is_signalled().expect("no error"));
        drop(held);
        assert_eq!(word(&buffer), 0x0202_0202, "what was written");
    });
}

#[test]
fn lanes_do_not_hold_each_other_up() {
    each(true, |_, app, engine, device| {
        let (buffer, _seat) = create(engine, device);
        let (other, other_seat) = create(engine, device);
        bytes::write(&buffer, 1);
        {
            let _held = app.queues().hold(TRANSFER);
            leave(&buffer);
            assert_over(&fill(engine, device, &other_seat, 7), "another buffer, beside the move");
        }
        bytes::assert_sequence(&buffer, 1, "moved");
        let _held = app.queues().hold(MAIN);
        let rendering = fill(engine, device, &other_seat, 8);
        buffer.migrate(vram(device)).expect("nobody holds it");
        bytes::assert_sequence(&buffer, 1, "moved back beside the submission");
        assert!(!rendering.is_signalled().expect("no error"));
        drop(_held);
        assert_eq!(word(&other), 8);
    });
}

#[test]
fn passes_and_accesses_of_the_applications_own_come_after_moves() {
    type Use = fn(&Mapping);
    let verify: Use = |mapping| assert!(mapping.verify(5).expect("verified").is_clean());
    let open: Use =
        |mapping| mapping.begin_access(Access::Read).expect("opened").end(Fence::signalled());
    for work in [verify, open] {
        each(true, |_, app, engine, device| {
            let (buffer, seat) = create(engine, device);
            seat.map(Access::Write).and_then(|mapping| mapping.fill(5)).expect("filled");
            let held = app.queues().hold(TRANSFER);
            leave(&buffer);
            let mapping = seat.map(Access::Read).expect("mapped");
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    work(&mapping);
                    sender.send(()).expect("somebody listens");
                });
                assert!(receiver.recv_timeout(SHORT).is_err(), "the move is held up");
                drop(held);
                receiver.recv_timeout(LONG).expect("the move goes on");
            });
        });
    }
}

#[test]
fn other_devices_wait_for_a_move() {
    each(true, |rig, app, engine, device| {
        for twin in rig.all() {
            let other = rig.open_on(engine, &twin);
            let (buffer, _seat) = create(engine, device);
            let (target, target_seat) = create(engine, &other);
            meet(engine, device, &other);
            bytes::write(&buffer, 1);
            // It waits for the other lane first, which is another timeline.
            let (early, early_seat) = create(engine, device);
            let early_far = sit(&early, &other);
            let held = app.queues().hold(MAIN);
            drop(fill(engine, device, &early_seat, 1));
            let fence = copy(engine, &other, &early_far, &target_seat);
            assert_waits(&fence, "the main lane is held up");
            drop(held);
            assert_over(&fence, "the main lane goes on");
            let held = app.queues().hold(TRANSFER);
            // It may have to move for a newcomer.
            let far = sit(&buffer, &other);
            if buffer.domain() == vram(device) {
                leave(&buffer);
            }
            assert_eq!((buffer.domain(), app.queues().waiting(TRANSFER)), (DomainId::System, 1));
            let fence = copy(engine, &other, &far, &target_seat);
            assert_waits(&fence, &format!("{} while the move is held up", other.name()));
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
            meet(engine, device, &other);
            let (buffer, _seat) = create(engine, device);
            let far = sit(&buffer, &other);
            bytes::write(&buffer, 1);
            let gate = Gate::close(&other);
            let written = fill(engine, &other, &far, 0x0303_0303);
            // To where it is not, if need be without the other one.
            drop(far);
            let here = buffer.domain() == vram(device);
            let to = if here { DomainId::System } else { vram(device) };
            buffer.migrate(to).expect("nobody holds it");
            assert!(!app.queues().drains(TRANSFER, SHORT), "{} is held up", other.name());
            assert!(!written.is_signalled().expect("no error"));
            gate.open();
            assert_eq!(word(&buffer), 0x0303_0303, "{}", other.name());
        }
    });
}

#[test]
fn callbacks_of_moves_come_when_they_are_over() {
    each(true, |_, app, engine, device| {
        let (buffer, seat) = create(engine, device);
        bytes::write(&buffer, 1);
        let held = app.queues().hold(TRANSFER);
        leave(&buffer);
        let mapping = seat.map(Access::Read).expect("mapped");
        let after =
            engine.submit(device, |work| work.uses(&mapping, Access::Read, Scope::ALL).map(|_| ()));
        let after = after.expect("submitted");
        let (sender, receiver) = std::sync::mpsc::channel();
        engine
            .on_signal(&after, move || sender.send(()).expect("somebody listens"))
            .expect("taken");
        assert!(receiver.recv_timeout(SHORT).is_err(), "the move is held up");
        drop(held);
        receiver.recv_timeout(LONG).expect("called");
    });
}

// ---- under load, and at the end ----

/// What does not fit goes and comes back, while the device works on all of it.
fn keep_bytes(two_queues: bool) {
    each(two_queues, |rig, _, engine, device| {
        const BUDGET: u64 = 6 * SIZE;
        engine.model_heap(device, BUDGET).expect("ours");
        let other = rig.open_on(engine, device);
        let mut random = Random::new(11);
        let mut all: Vec<_> = (0..16u32)
            .map(|seed| {
                let buffer = engine.create_buffer(device, BufferDescriptor::new(SIZE));
                let buffer = buffer.expect("somebody makes room");
                let seats = [device, &other].map(|device| sit(&buffer, device));
                let written = fill_patiently(engine, device, &seats[0], seed);
                (buffer, seats, written, seed)
            })
            .collect();
        for round in 0..200u32 {
            let at = random.below(16) as usize;
            let (buffer, seats, last, value) = &mut all[at];
            match random.below(8) {
                0 => drop(buffer.evict()),
                1 => drop(buffer.request_residency()),
                2 => assert_eq!(word(buffer), *value, "round {round}, buffer {at}"),
                3 | 4 => {
                    *value = 1000 + round;
                    *last = fill_patiently(engine, &other, &seats[1], *value);
                }
                _ => {
                    *value = 1000 + round;
                    *last = fill_patiently(engine, device, &seats[0], *value);
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

fn fill_patiently(engine: &Engine, device: &Device, seat: &Attachment, word: u32) -> Fence {
    let mut mapping = seat.map(Access::Write).expect("mapped");
    let filled = engine.submit_remapped(device, &mut [(seat, &mut mapping)], |work, mapped| {
        commands::record_fill(work, device, mapped[0], word)
    });
    filled.expect("submitted")
}

#[test]
fn what_does_not_fit_keeps_its_bytes_on_one_queue() {
    keep_bytes(false);
}

#[test]
fn what_does_not_fit_keeps_its_bytes_on_two() {
    keep_bytes(true);
}

#[test]
fn everything_goes_while_both_lanes_are_at_work() {
    let rig = Rig::new();
    for twin in rig.all() {
        for first in [MAIN, TRANSFER] {
            let app = App::with_two_queues(&rig, twin.adapter());
            let engine = rig.stranger();
            let live = Arc::clone(engine.live());
            let device = app.join_with_lane(&rig, &engine);
            let (buffer, seat) = create(&engine, &device);
            let (other, other_seat) = create(&engine, &device);
            bytes::write(&buffer, 1);
            let mut held = vec![app.queues().hold(first), app.queues().hold(1 - first)];
            leave(&buffer);
            let fence = fill(&engine, &device, &other_seat, 9);
            drop(copy(&engine, &device, &seat, &other_seat));
            // Whoever goes last waits for both, whichever comes to its end first.
            std::thread::scope(|scope| {
                let parts = (buffer, seat, other, other_seat, fence, device, engine);
                let gone = scope.spawn(move || drop(parts));
                drop(held.remove(0));
                // The move waits for nobody, the copy for the move.
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
fn a_lost_device_loses_both_lanes() {
    each(true, |_, app, engine, device| {
        let (buffer, seat) = create(engine, device);
        let (_other, other_seat) = create(engine, device);
        bytes::write(&buffer, 1);
        let held = [MAIN, TRANSFER].map(|index| app.queues().hold(index));
        let written = fill(engine, device, &other_seat, 3);
        leave(&buffer);
        let mapping = seat.map(Access::Read).expect("mapped");
        let after =
            engine.submit(device, |work| work.read(&mapping).map(|_| ())).expect("submitted");
        engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
        let error = engine.submit(device, |_| Ok(())).expect_err("as it was told to");
        assert!(matches!(error, Error::DeviceLost { .. }) && device.is_lost(), "{error}");
        // Whatever their lane, both will never be reached, and that is said at once.
        for fence in [&written, &after] {
            let never = fence.is_signalled();
            assert!(matches!(never, Err(Error::DeviceLost { .. })), "{never:?}");
        }
        let error = buffer.migrate(vram(device)).expect_err("lost");
        assert!(!matches!(error, Error::Timeout { .. }), "{error}");
        drop(held);
        // The driver does not know that, and goes on.
        assert!(app.queues().drains(MAIN, LONG) && app.queues().drains(TRANSFER, LONG));
        common::wait_idle(&[device]);
    });
}

// ---- what an application hands over ----

struct Idle;

impl QueueLock for Idle {
    fn locked(&self, _work: &mut dyn FnMut()) {}
}

#[test]
fn one_queue_has_one_lock() {
    let rig = Rig::new();
    let twin = &rig.all()[0];
    let app = App::new(&rig, twin.adapter(), |_| true);
    // What is measured is submitted, too.
    let speeds = CopySpeeds::host_up_to(64 << 10);
    let engine = Engine::without_instance(&EngineDescriptor::new().copy_speeds(speeds));
    let lane = |family, lock| Some(AdoptedQueue { family, index: 0, lock });
    let lock = || Some(Arc::clone(&app.lock) as Arc<dyn QueueLock>);
    let other = || Some(Arc::new(Idle) as Arc<dyn QueueLock>);
    let join = |queue: Option<AdoptedQueue>, main: Option<Arc<dyn QueueLock>>| {
        app.try_join(&rig, &engine, |facts| {
            facts.transfer_queue = queue;
            facts.queue_lock = main;
        })
    };
    let error = join(lane(FAMILY, other()), lock()).expect_err("two locks");
    assert!(error.to_string().contains("one lock for one queue"), "{error}");
    let error = join(lane(FAMILY + 9, None), lock()).expect_err("no such family");
    assert!(error.to_string().contains("copies on queue family 9"), "{error}");
    // Whoever names it, both lanes take it.
    for (queue, main) in [(None, lock()), (lock(), None), (lock(), lock())] {
        let device = join(lane(FAMILY, queue), main).expect("one lock");
        let (buffer, _seat) = create(&engine, &device);
        bytes::write(&buffer, 1);
        let taken = || app.lock.taken.load(std::sync::atomic::Ordering::Relaxed);
        let before = taken();
        leave(&buffer);
        assert_eq!(taken(), before + 1, "for the move");
        device.submitted().and_then(|fence| fence.wait(LONG)).expect("submitted");
        assert_eq!(taken(), before + 2, "and for all else");
        bytes::assert_sequence(&buffer, 1, "moved");
    }
    drop(engine);
}

#[test]
fn a_lock_that_does_not_do_its_work_is_an_error() {
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
