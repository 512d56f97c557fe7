//! Which way bytes take, and that they arrive by all of them: the host, a device, both together, and a ring
//! where no device sees both places.

use std::time::Duration;

use crate::common::gate::Gate;
use crate::common::note::Note;
use crate::common::{LONG, Rig, bytes};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::transfer::{CopySpeed, CopySpeeds};
use peerbuf::{
    BufferDescriptor, CopyRegion, Device, DomainId, Engine, Migration, Result, SharedBuffer,
};

const MIB: u64 = 1 << 20;
/// What a ring copies at once.
const STEP: u64 = 4 * MIB;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// A buffer with bytes in it. The host sees its memory from now on, or never.
fn create(engine: &Engine, home: &Device, size: u64, seed: u64, seen: bool) -> SharedBuffer {
    engine.calls().set_unmappable_device_memory(!seen);
    let buffer = engine.create_buffer(home, BufferDescriptor::new(size)).expect("there is room");
    bytes::write(&buffer, seed);
    buffer
}

fn assert_moved(migrated: Result<Migration>, generation: u32) {
    assert_eq!(migrated.expect("nobody holds it"), Migration::Done { generation });
}

fn submissions(engine: &Engine, work: impl FnOnce()) -> u64 {
    let before = engine.calls().made(Call::QueueSubmit);
    work();
    engine.calls().made(Call::QueueSubmit) - before
}

// ---- where no device sees both places ----

/// Two devices, neither of which sees the other's own memory: what they import is not what was exported.
fn apart(rig: &Rig) -> [Device; 2] {
    let [one, two] = rig.two_of_one_adapter();
    rig.engine().calls().set_lying_imports(true);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let verdict = rig.engine().route(from, to).expect("a verdict");
        let vram = [peerbuf::Route::DmaBuf, peerbuf::Route::OpaqueFd];
        assert!(verdict.working.iter().all(|working| !vram.contains(&working.route)));
    }
    [one, two]
}

/// A buffer moves from one device to the other and back, where the host sees the two places or does not.
fn check_carried(size: u64, seen: [bool; 2]) {
    let _note = Note(format!("{size} bytes, seen by the host: {seen:?}"));
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = apart(&rig);
    // Memory that was mapped once stays so, and is given to the next one who needs as much.
    drop(create(engine, &to, size, 9, seen[1]));
    let buffer = create(engine, &from, size, 1, seen[0]);
    engine.calls().set_unmappable_device_memory(true);
    for (generation, target) in [(1, &to), (2, &from)] {
        let made = submissions(engine, || assert_moved(buffer.migrate(vram(target)), generation));
        assert_eq!((buffer.domain(), buffer.home().id()), (vram(target), target.id()));
        let unseen = seen.iter().filter(|seen| !**seen).count() as u64;
        let steps = unseen * size.div_ceil(STEP);
        // One more clears what an old owner left behind the end.
        let expected = if steps == 0 { 0..=0 } else { steps..=steps + 1 };
        assert!(expected.contains(&made), "{made} submissions, not {expected:?}");
        let system = engine.usage(DomainId::System).expect("there is one").used;
        assert_eq!(system, 0, "it does not go through there");
    }
    bytes::assert_sequence(&buffer, 1, "there and back");
    assert_eq!(engine.report().buffers[0].fences, [], "nothing is under way");
}

#[test]
fn a_buffer_is_carried_where_no_device_sees_both_places() {
    // Some slot; a step to the byte, and a bit more; three steps.
    for size in [5000, STEP, STEP + 4, 9 * MIB + 3] {
        for seen in [[false, false], [true, false], [false, true], [true, true]] {
            check_carried(size, seen);
        }
    }
}

#[test]
fn between_drivers_it_is_carried_as_well_and_with_others() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let engine = rig.engine();
    for seen in [true, false] {
        let all: Vec<_> = [5000, 70_000, 5 * MIB]
            .into_iter()
            .zip(1..)
            .map(|(size, seed)| create(engine, &lavapipe, size, seed, seen))
            .collect();
        for (generation, target) in [(1, &swiftshader), (2, &lavapipe)] {
            let moves: Vec<_> = all.iter().map(|buffer| (buffer, vram(target))).collect();
            for moved in engine.migrate_many(&moves) {
                assert_moved(moved, generation);
            }
        }
        for (buffer, seed) in all.iter().zip(1..) {
            bytes::assert_sequence(buffer, seed, "there and back");
        }
    }
}

#[test]
fn while_it_is_carried_nobody_holds_its_reservation_and_everybody_waits_for_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = apart(&rig);
    let buffer = create(engine, &from, 5 * MIB, 1, false);
    let other = create(engine, &from, 5 * MIB, 2, false);
    let gate = Gate::close(&from);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.migrate(vram(&to)));
        while !engine.report().buffers[0].moving {
            assert!(!moving.is_finished(), "a device is held up that it needs");
            std::thread::yield_now();
        }
        // All of these take the reservation, for a moment.
        assert_eq!(buffer.domain(), vram(&from));
        assert_eq!(buffer.generation(), 0);
        let reader = scope.spawn(|| bytes::read(&buffer));
        let copy = scope.spawn(|| {
            let copied = engine.copy(&other, &buffer, CopyRegion { from: 0, to: 0, len: 1000 });
            copied.expect("it waits").wait(LONG)
        });
        gate.open();
        assert_moved(moving.join().expect("no panic"), 1);
        let read = reader.join().expect("no panic");
        bytes::assert_same(&read[1000..], &bytes::sequence(1, 5 * MIB)[1000..], "after the move");
        copy.join().expect("no panic").expect("it ends");
    });
    bytes::assert_same(&bytes::read(&buffer)[..1000], &bytes::sequence(2, 1000), "then the copy");
}

#[test]
fn what_fails_half_way_leaves_it_where_it_was() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = apart(&rig);
    let buffer = create(engine, &from, 9 * MIB + 3, 1, false);
    let mut failed = 0;
    loop {
        // Not for want of memory: then it is tried again.
        let code = vk::Result::ERROR_INITIALIZATION_FAILED;
        engine.calls().fail_nth(Call::QueueSubmit, failed + 1, code);
        let moved = buffer.migrate(vram(&to));
        if engine.calls().clear_faults() {
            assert_moved(moved, 1);
            break;
        }
        moved.expect_err("a step could not be submitted");
        failed += 1;
        assert_eq!((buffer.domain(), buffer.generation()), (vram(&from), 0));
        bytes::assert_sequence(&buffer, 1, "as it was");
    }
    assert!(failed >= 6, "three steps on each side, and {failed} could fail");
    bytes::assert_sequence(&buffer, 1, "there");
}

// ---- where one does ----

fn rig_with(speeds: impl Into<Option<CopySpeeds>>) -> Rig {
    Rig::with(|descriptor| descriptor.copy_speeds(speeds))
}

#[test]
fn the_table_says_who_copies_and_the_bytes_are_the_same() {
    for (up_to, made) in [(0, 1), (MIB - 1, 1), (MIB, 0)] {
        let rig = rig_with(CopySpeeds::host_up_to(up_to));
        let [one, two] = rig.two_of_one_adapter();
        let engine = rig.engine();
        let [moved, source] = [1, 2].map(|seed| create(engine, &one, MIB, seed, true));
        let target = create(engine, &two, MIB, 3, true);
        // The devices meet.
        assert_moved(moved.migrate(vram(&two)), 1);
        let back = || assert_moved(moved.migrate(vram(&one)), 2);
        assert_eq!(submissions(engine, back), made, "a move, with the host up to {up_to}");
        bytes::assert_sequence(&moved, 1, "moved");
        let copy = || {
            let copied = engine.copy(&source, &target, CopyRegion::first(MIB)).expect("a copy");
            copied.wait(LONG).expect("it ends");
        };
        assert_eq!(submissions(engine, copy), made, "a copy, with the host up to {up_to}");
        bytes::assert_sequence(&target, 2, "copied");
    }
}

#[test]
fn a_large_copy_is_shared_out_between_a_device_and_the_host() {
    let row = |bytes, host, device| {
        let [host, device] = [host, device].map(Duration::from_micros);
        CopySpeed { bytes, host, device }
    };
    let rig = rig_with(CopySpeeds::new(&[row(4096, 1, 20), row(2 * MIB, 200, 120)], true));
    let [one, two] = rig.two_of_one_adapter();
    let engine = rig.engine();
    for (seen, made) in [(true, 1), (false, 2)] {
        let buffer = create(engine, &one, 8 * MIB, 1, seen);
        assert_moved(buffer.migrate(vram(&two)), 1);
        let back = submissions(engine, || assert_moved(buffer.migrate(vram(&one)), 2));
        assert_eq!(back, made, "what the host cannot copy after all the device does");
        bytes::assert_sequence(&buffer, 1, "by both");
        drop(buffer);
        engine.trim();
    }
}

#[test]
fn copies_are_measured_once_and_not_while_the_device_is_at_work() {
    let rig = rig_with(None);
    let engine = rig.engine();
    let [one, two] = rig.two_of_one_adapter();
    let known = || [&one, &two].map(|device| engine.copy_speeds(device).expect("ours").is_some());
    let small = create(engine, &one, 4096, 1, true);
    assert_moved(small.migrate(vram(&two)), 1);
    assert_eq!(known(), [false, false], "for so few bytes it does not matter");
    let buffer = create(engine, &one, 70_000, 2, true);
    let gate = Gate::close(&two);
    // A device that is held up, but not for peerbuf's sake, is one that has nothing to do.
    let behind = two.submitted().expect("a fence");
    let elsewhere = buffer.migrate(vram(&two));
    assert_eq!(known(), [false, false], "it would be measured as well");
    gate.open();
    behind.wait(LONG).expect("it ends");
    assert_moved(elsewhere, 1);
    bytes::assert_sequence(&buffer, 2, "moved");
    assert_moved(buffer.migrate(vram(&one)), 2);
    assert_eq!(known(), [true, false], "the new home's, who copies");
    let speeds = engine.copy_speeds(&one).expect("ours").expect("known");
    assert!(speeds.rows().iter().all(|row| !row.host.is_zero() && !row.device.is_zero()));
    assert_moved(buffer.migrate(vram(&two)), 3);
    bytes::assert_sequence(&buffer, 2, "moved");
    let again = submissions(engine, || assert_moved(buffer.migrate(vram(&one)), 4));
    assert!(again <= 1, "{again}: nothing is measured again");
    assert_eq!(engine.copy_speeds(&one).expect("ours"), Some(speeds));
}

/// Work of an application's own on the queue, that peerbuf does not know of: a move neither waits for it nor
/// leaves anything behind for ever because of it, and measures another time.
#[test]
fn what_an_application_has_on_its_queue_is_not_waited_for() {
    let rig = rig_with(None);
    let engine = rig.engine();
    let [one, two] = rig.two_of_one_adapter();
    let buffer = create(engine, &one, 70_000, 1, true);
    for (from, to) in [(&one, &two), (&two, &one)] {
        engine.route(from, to).expect("proved");
    }
    let gate = Gate::close(&two);
    // With the gate closed: it would not open before the engine's own bound.
    assert_moved(buffer.migrate(vram(&two)), 1);
    assert_eq!(engine.copy_speeds(&two).expect("ours"), None, "not measured in time");
    gate.open();
    bytes::assert_sequence(&buffer, 1, "moved");
    assert_moved(buffer.migrate(vram(&one)), 2);
    assert_moved(buffer.migrate(vram(&two)), 3);
    assert!(engine.copy_speeds(&two).expect("ours").is_some(), "measured by now");
    drop((buffer, one, two));
    rig.finish();
}
