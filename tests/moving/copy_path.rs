//! Copy paths of a move: the host, a device, both together, and a bounce copy where no device sees both
//! backings. Bytes are right on each of them.

use std::time::Duration;

use crate::common::gate::Gate;
use crate::common::note::Note;
use crate::common::until::until;
use crate::common::{LONG, Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::transfer::{CopySpeed, CopySpeeds};
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Migration, Result,
    SharedBuffer,
};

const MIB: u64 = 1 << 20;
/// The bytes of one step of the staging ring.
const STEP: u64 = 4 * MIB;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Creates a buffer with content. If `seen`, the host maps its memory now; otherwise it cannot map it later.
fn create(engine: &Engine, home: &Device, size: u64, seed: u64, seen: bool) -> SharedBuffer {
    engine.calls().set_unmappable_device_memory(!seen);
    let buffer = engine.create_buffer(home, BufferDescriptor::new(size)).expect("there is room");
    bytes::write(&buffer, seed);
    buffer
}

fn assert_moved(migrated: Result<Migration>, generation: u32) {
    assert_eq!(migrated.expect("not busy"), Migration::Done { generation });
}

fn submissions(engine: &Engine, work: impl FnOnce()) -> u64 {
    let before = engine.calls().made(Call::QueueSubmit);
    work();
    engine.calls().made(Call::QueueSubmit) - before
}

// ---- no device sees both backings ----

/// Opens two devices that cannot reach each other's VRAM: their imports show bytes other than the exported ones.
fn unconnected(rig: &Rig) -> [Device; 2] {
    let [one, two] = rig.two_of_one_adapter();
    rig.engine().calls().set_lying_imports(true);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let verdict = rig.engine().route(from, to).expect("a verdict");
        let vram = [peerbuf::Route::DmaBuf, peerbuf::Route::OpaqueFd];
        assert!(verdict.working.iter().all(|working| !vram.contains(&working.route)));
    }
    [one, two]
}

/// Moves a buffer from one device to the other and back. `seen` states which backings the host can map.
fn check_bounced(size: u64, seen: [bool; 2]) {
    let _note = Note(format!("{size} bytes, seen by the host: {seen:?}"));
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = unconnected(&rig);
    // Mapped memory stays mapped, and the next buffer of this size reuses it.
    drop(create(engine, &to, size, 9, seen[1]));
    let buffer = create(engine, &from, size, 1, seen[0]);
    engine.calls().set_unmappable_device_memory(true);
    for (generation, target) in [(1, &to), (2, &from)] {
        let made = submissions(engine, || assert_moved(buffer.migrate(vram(target)), generation));
        assert_eq!((buffer.domain(), buffer.home().id()), (vram(target), target.id()));
        let unseen = seen.iter().filter(|seen| !**seen).count() as u64;
        let steps = unseen * size.div_ceil(STEP);
        // One more submission may clear the padding of recycled memory.
        let expected = if steps == 0 { 0..=0 } else { steps..=steps + 1 };
        assert!(expected.contains(&made), "{made} submissions, not {expected:?}");
        let system = engine.usage(DomainId::System).expect("the system domain").used;
        assert_eq!(system, 0, "system memory is not used");
    }
    bytes::assert_sequence(&buffer, 1, "moved out and back");
    assert_eq!(engine.report().buffers[0].fences, [], "nothing is under way");
}

#[test]
fn a_bounce_copy_moves_buffers_between_unconnected_devices() {
    // A slot of a slab, exactly one step, slightly more than a step, and three steps.
    for size in [5000, STEP, STEP + 4, 9 * MIB + 3] {
        for seen in [[false, false], [true, false], [false, true], [true, true]] {
            check_bounced(size, seen);
        }
    }
}

#[test]
fn a_bounce_copy_between_drivers_works_alone_and_in_a_batch() {
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
            bytes::assert_sequence(buffer, seed, "moved out and back");
        }
    }
}

#[test]
fn a_bounce_copy_holds_no_reservation_and_every_use_waits_for_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = unconnected(&rig);
    let buffer = create(engine, &from, 5 * MIB, 1, false);
    let other = create(engine, &from, 5 * MIB, 2, false);
    let gate = Gate::close(&from);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.migrate(vram(&to)));
        until(
            || (engine.report().buffers[0].moving, moving.is_finished()),
            |&(moving, finished)| {
                assert!(!finished, "the move needs the blocked device");
                moving
            },
        );
        // Each of these takes the reservation briefly.
        assert_eq!(buffer.domain(), vram(&from));
        assert_eq!(buffer.generation(), 0);
        let reader = scope.spawn(|| bytes::read(&buffer));
        let copy = scope.spawn(|| {
            let copied = engine.copy(&other, &buffer, CopyRegion { from: 0, to: 0, len: 1000 });
            copied.expect("submitted").wait(LONG)
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
fn a_failed_bounce_copy_leaves_the_buffer_in_place() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = unconnected(&rig);
    let buffer = create(engine, &from, 9 * MIB + 3, 1, false);
    let mut failed = 0;
    loop {
        // Not an out-of-memory error, since the engine retries after those.
        let code = vk::Result::ERROR_INITIALIZATION_FAILED;
        engine.calls().fail_nth(Call::QueueSubmit, failed + 1, code);
        let moved = buffer.migrate(vram(&to));
        if engine.calls().clear_faults() {
            assert_moved(moved, 1);
            break;
        }
        let error = moved.expect_err("a step could not be submitted");
        failed += 1;
        assert!(failed < 1000, "no end of submissions: {error}");
        assert_eq!((buffer.domain(), buffer.generation()), (vram(&from), 0));
        bytes::assert_sequence(&buffer, 1, "unchanged");
    }
    assert!(failed >= 6, "three steps on each side, and {failed} could fail");
    bytes::assert_sequence(&buffer, 1, "moved");
}

#[test]
fn a_destination_that_was_written_and_not_used_is_zeroed_for_its_next_owner() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [from, to] = unconnected(&rig);
    let size = 5 * MIB;
    // The destination is zeros, and is known to be: it need not be zeroed for a buffer that gets it unwritten.
    drop(create(engine, &to, size, 9, true));
    wait_idle(&[&to]);
    let zeroed = engine.zero_unused(u64::MAX);
    let is_zeroed_ahead = zeroed >= size;
    let buffer = create(engine, &from, size, 1, false);
    let gate = Gate::close(&from);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.migrate(vram(&to)));
        until(
            || (engine.report().buffers[0].moving, moving.is_finished()),
            |&(moving, finished)| {
                assert!(!finished, "the move needs the blocked device");
                moving
            },
        );
        let revoked = scope.spawn(|| buffer.revoke());
        until(|| buffer.is_revoked(), |&is_revoked| is_revoked);
        gate.open();
        let error = moving.join().expect("no panic").expect_err("revoked during the copy");
        assert!(matches!(error, Error::Revoked { .. }), "{error}");
        revoked.join().expect("no panic").expect("no use is left");
    });
    assert_eq!((buffer.domain(), buffer.generation()), (vram(&from), 0), "not moved");
    engine.calls().set_unmappable_device_memory(false);
    let before = engine.calls().zeroed_bytes();
    let next = engine.create_buffer(&to, BufferDescriptor::new(size)).expect("there is room");
    bytes::assert_zero(&next, "where the bytes of the move were");
    let zeroed_now = engine.calls().zeroed_bytes() - before;
    assert!(!is_zeroed_ahead || zeroed_now >= size, "{zeroed_now}: it has the same slot");
}

// ---- a device sees both backings ----

fn rig_with(speeds: impl Into<Option<CopySpeeds>>) -> Rig {
    Rig::with(|descriptor| descriptor.copy_speeds(speeds))
}

#[test]
fn the_speed_table_selects_the_copier_and_bytes_stay_the_same() {
    for (up_to, made) in [(0, 1), (MIB - 1, 1), (MIB, 0)] {
        let rig = rig_with(CopySpeeds::host_up_to(up_to));
        let [one, two] = rig.two_of_one_adapter();
        let engine = rig.engine();
        let [moved, source] = [1, 2].map(|seed| create(engine, &one, MIB, seed, true));
        let target = create(engine, &two, MIB, 3, true);
        // The routes between the devices are proved.
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

/// A rig on which the host and the device together are the fastest for large copies.
fn rig_of_shared_copies() -> Rig {
    let row = |bytes, host, device| {
        let [host, device] = [host, device].map(Duration::from_micros);
        CopySpeed { bytes, host, device }
    };
    rig_with(CopySpeeds::new(&[row(4096, 1, 20), row(2 * MIB, 200, 120)], true))
}

#[test]
fn a_large_copy_is_split_between_a_device_and_the_host() {
    let rig = rig_of_shared_copies();
    let [one, two] = rig.two_of_one_adapter();
    let engine = rig.engine();
    for (seen, made) in [(true, 1), (false, 2)] {
        let buffer = create(engine, &one, 8 * MIB, 1, seen);
        assert_moved(buffer.migrate(vram(&two)), 1);
        let back = submissions(engine, || assert_moved(buffer.migrate(vram(&one)), 2));
        assert_eq!(back, made, "what the host cannot copy after all the device does");
        bytes::assert_sequence(&buffer, 1, "copied by both");
        drop(buffer);
        engine.trim();
    }
}

#[test]
fn a_large_copy_between_buffers_is_split_and_each_byte_is_copied_once() {
    let rig = rig_of_shared_copies();
    let [one, two] = rig.two_of_one_adapter();
    let engine = rig.engine();
    let size = 8 * MIB + 300;
    let source = create(engine, &one, size, 1, true);
    let target = create(engine, &two, size, 2, true);
    let mut expected = bytes::sequence(2, size);
    for (from, to, len) in [(0, 0, size), (100, 52, 8 * MIB + 1), (7, 300, 5 * MIB), (0, 0, MIB)] {
        let by_host = engine.calls().host_copied_bytes();
        let copy = || {
            let copied = engine.copy(&source, &target, CopyRegion { from, to, len });
            copied.expect("a copy").wait(LONG).expect("it ends");
        };
        // The first copy proves the routes.
        let made = submissions(engine, copy);
        assert!(
            made == 1 || from == 0 && len == size,
            "{made}: the device copies what the host does not"
        );
        let by_host = engine.calls().host_copied_bytes() - by_host;
        assert!(
            if len < 4 * MIB { by_host == 0 } else { (MIB..len).contains(&by_host) },
            "{by_host}"
        );
        let part = &bytes::sequence(1, size)[from as usize..][..len as usize];
        expected[to as usize..][..part.len()].copy_from_slice(part);
        bytes::assert_same(&bytes::read(&target), &expected, "copied by both");
    }
    // What the host cannot map the device copies, all of it.
    let hidden = create(engine, &one, size, 3, false);
    let by_host = engine.calls().host_copied_bytes();
    let copied = engine.copy(&hidden, &target, CopyRegion::first(size)).expect("a copy");
    copied.wait(LONG).expect("it ends");
    assert_eq!(engine.calls().host_copied_bytes(), by_host);
    bytes::assert_sequence(&target, 3, "copied by the device");
}

/// The host's part of these copies takes longer than it may hold a reservation.
#[test]
fn a_long_part_of_the_host_is_copied_without_the_reservations_and_holds_nothing_afterwards() {
    let row = |bytes, host, device| {
        let [host, device] = [host, device].map(Duration::from_micros);
        CopySpeed { bytes, host, device }
    };
    let rows = [row(4096, 1, 20), row(2 * MIB, 1000, 1200)];
    for parallel in [true, false] {
        let rig = rig_with(CopySpeeds::new(&rows, parallel));
        let [one, two] = rig.two_of_one_adapter();
        let engine = rig.engine();
        let size = 8 * MIB + 300;
        let source = create(engine, &one, size, 1, true);
        let target = create(engine, &two, size, 2, true);
        // Proves the routes.
        let proof = CopyRegion { from: 0, to: 0, len: 3 * MIB };
        engine.copy(&source, &target, proof).expect("a copy").wait(LONG).expect("it ends");
        let by_host = engine.calls().host_copied_bytes();
        let made = submissions(engine, || {
            let copied = engine.copy(&source, &target, CopyRegion::first(size)).expect("a copy");
            copied.wait(LONG).expect("it ends");
        });
        let by_host = engine.calls().host_copied_bytes() - by_host;
        match parallel {
            true => assert!(made == 1 && (3 * MIB..5 * MIB).contains(&by_host), "{made} {by_host}"),
            false => assert_eq!((made, by_host), (0, size), "the host is faster alone"),
        }
        bytes::assert_sequence(&target, 1, "copied");
        // No access is open, and no fence is left.
        for (buffer, to) in [(&source, &two), (&target, &one)] {
            assert!(!buffer.is_busy(Access::Write), "with both: {parallel}");
            assert_moved(buffer.migrate(vram(to)), 1);
            bytes::assert_sequence(buffer, 1, "moved");
        }
        // Within one buffer the parts do not overlap either.
        let half = CopyRegion { from: 0, to: 4 * MIB + 300, len: 4 * MIB };
        engine.copy(&source, &source, half).expect("a copy").wait(LONG).expect("it ends");
        let mut expected = bytes::sequence(1, size);
        // CAST: 4 MiB and 300 bytes.
        expected.copy_within(..(4 * MIB) as usize, (4 * MIB + 300) as usize);
        bytes::assert_same(&bytes::read(&source), &expected, "within one buffer");
    }
}

#[test]
fn the_first_large_copy_between_buffers_measures_and_small_ones_do_not() {
    let rig = rig_with(None);
    let engine = rig.engine();
    let [one, two] = rig.two_of_one_adapter();
    let size = (64 << 10) + 4;
    let [source, target] =
        [(&one, 1), (&two, 2)].map(|(home, seed)| create(engine, home, size, seed, true));
    for (len, known) in [(64 << 10, false), (size, true)] {
        let copied = engine.copy(&source, &target, CopyRegion::first(len)).expect("a copy");
        copied.wait(LONG).expect("it ends");
        assert_eq!(engine.copy_speeds(&two).expect("ours").is_some(), known, "{len} bytes");
        bytes::assert_same(
            &bytes::read(&target)[..len as usize],
            &bytes::sequence(1, len),
            "copied",
        );
    }
    assert_eq!(engine.copy_speeds(&one).expect("ours"), None, "not the home of the destination");
}

#[test]
fn copy_speeds_are_measured_once_on_an_idle_device() {
    let rig = rig_with(None);
    let engine = rig.engine();
    let [one, two] = rig.two_of_one_adapter();
    let known = || [&one, &two].map(|device| engine.copy_speeds(device).expect("ours").is_some());
    let small = create(engine, &one, 4096, 1, true);
    assert_moved(small.migrate(vram(&two)), 1);
    assert_eq!(known(), [false, false], "small copies need no speeds");
    let buffer = create(engine, &one, 70_000, 2, true);
    let gate = Gate::close(&two);
    // A device that only foreign work blocks counts as idle. This submission makes it busy.
    let behind = two.submitted().expect("a fence");
    let elsewhere = buffer.migrate(vram(&two));
    assert_eq!(known(), [false, false], "a busy device is not measured");
    gate.open();
    behind.wait(LONG).expect("it ends");
    assert_moved(elsewhere, 1);
    bytes::assert_sequence(&buffer, 2, "moved");
    assert_moved(buffer.migrate(vram(&one)), 2);
    assert!(!known()[1], "the new home copies");
    // A measurement that takes too long on a busy machine is made again at a later move.
    let mut generation = 2;
    while !known()[0] {
        for device in [&two, &one] {
            generation += 1;
            assert_moved(buffer.migrate(vram(device)), generation);
        }
        assert!(generation < 400, "not measured in {generation} moves");
    }
    let speeds = engine.copy_speeds(&one).expect("ours").expect("known");
    // After the last of a few that take too long, the speeds stay the assumed ones.
    let is_assumed = speeds == CopySpeeds::host_up_to(64 << 10);
    let is_measured = speeds.rows().iter().all(|row| !row.host.is_zero() && !row.device.is_zero());
    assert!(is_measured || is_assumed, "{speeds}");
    assert_moved(buffer.migrate(vram(&two)), generation + 1);
    bytes::assert_sequence(&buffer, 2, "moved");
    let again = submissions(engine, || assert_moved(buffer.migrate(vram(&one)), generation + 2));
    assert!(again <= 1, "{again}: nothing is measured again");
    assert_eq!(engine.copy_speeds(&one).expect("ours"), Some(speeds));
}

/// peerbuf does not know the application's own work on the queue. A move does not wait for it and leaks nothing
/// because of it; the speeds are measured later.
#[test]
fn moves_do_not_wait_for_an_applications_own_work() {
    let rig = rig_with(None);
    let engine = rig.engine();
    let [one, two] = rig.two_of_one_adapter();
    let buffer = create(engine, &one, 70_000, 1, true);
    for (from, to) in [(&one, &two), (&two, &one)] {
        engine.route(from, to).expect("proved");
    }
    let gate = Gate::close(&two);
    // The gate stays closed. A move that waited for it would exceed the engine timeout.
    assert_moved(buffer.migrate(vram(&two)), 1);
    assert_eq!(engine.copy_speeds(&two).expect("ours"), None, "not measured in time");
    gate.open();
    bytes::assert_sequence(&buffer, 1, "moved");
    // A measurement that takes too long on a busy machine is made again later.
    let is_measured = || engine.copy_speeds(&two).expect("ours").is_some();
    let mut generation = 1;
    while !is_measured() {
        for device in [&one, &two] {
            generation += 1;
            assert_moved(buffer.migrate(vram(device)), generation);
        }
        assert!(generation < 400, "not measured in {generation} moves");
    }
    drop((buffer, one, two));
    rig.finish();
}
