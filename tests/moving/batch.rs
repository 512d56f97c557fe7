//! Batches: buffers that move in one submission, mappings that are replaced together, and small copies that need
//! no device.
#![expect(unsafe_code, reason = "importing an fd is unsafe")]

use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use crate::common::reach::host_sees_vram;
use crate::common::until::until;
use crate::common::{LONG, Rig, bytes, wait_idle};
use peerbuf::ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::shared_writes;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Importer, Invalidation,
    Mapping, Migration, Placement, Result, SharedBuffer, Signal,
};

/// More bytes than the host copies itself, and fewer.
const LARGE: u64 = 200_004;
const SMALL: u64 = 4096;
/// A size with its own allocation, and one that gets an equally large allocation and ends within a word.
const WHOLE: u64 = 9 << 20;
const ODD: u64 = (8 << 20) + 5;

#[derive(Default)]
struct Recorder(Mutex<Vec<u32>>);

impl Recorder {
    fn invalidated(&self) -> Vec<u32> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.0.lock().expect("not poisoned").push(invalidation.generation());
    }
}

fn create(rig: &Rig, home: &Device, size: u64) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).placement(Placement::VramOrSystem);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn migrate_all(rig: &Rig, buffers: &[SharedBuffer], to: DomainId) -> Vec<Result<Migration>> {
    let moves: Vec<_> = buffers.iter().map(|buffer| (buffer, to)).collect();
    rig.engine().migrate_many(&moves)
}

fn assert_moved(results: Vec<Result<Migration>>, generation: u32) {
    for result in results {
        assert_eq!(result.expect("not busy"), Migration::Done { generation });
    }
}

/// The number of submissions that `work` makes.
fn submissions(rig: &Rig, work: impl FnOnce()) -> u64 {
    let before = rig.engine().calls().made(Call::QueueSubmit);
    work();
    rig.engine().calls().made(Call::QueueSubmit) - before
}

#[test]
fn buffers_that_move_together_share_a_submission() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..8).map(|_| create(&rig, &home, LARGE)).collect();
    let recorders: Vec<_> = (0..8).map(|_| Arc::new(Recorder::default())).collect();
    let mut attachments = Vec::new();
    for (seed, (buffer, recorder)) in (0..).zip(buffers.iter().zip(&recorders)) {
        bytes::write(buffer, seed);
        let attachment = buffer.attach_dynamic(&peer, Arc::clone(recorder) as _).expect("attached");
        let mapping = attachment.map(Access::Read).expect("mapped");
        attachments.push((attachment, mapping));
    }
    // The backings exist, and the routes between the devices are proved.
    assert_moved(migrate_all(&rig, &buffers, vram(&peer)), 1);
    for (seed, buffer) in (0..).zip(&buffers) {
        bytes::assert_sequence(buffer, seed, "after the first move");
    }
    let made = submissions(&rig, || {
        assert_moved(migrate_all(&rig, &buffers, vram(&home)), 2);
    });
    assert_eq!(made, 1, "one submission for all");
    for (seed, buffer) in (0..).zip(&buffers) {
        bytes::assert_sequence(buffer, seed, "after the second move");
    }
    for (recorder, (attachment, mapping)) in recorders.iter().zip(&mut attachments) {
        assert_eq!(recorder.invalidated(), [0, 1], "once per move");
        assert!(matches!(mapping.view(), Err(Error::Stale { mapped: 0, current: 2, .. })));
        attachment.remap(mapping).expect("a current one");
        mapping.view().expect("handles");
    }
}

#[test]
fn a_batch_larger_than_one_submission_moves_completely() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for size in [SMALL, 66_000] {
        let buffers: Vec<_> = (0..130).map(|_| create(&rig, &home, size)).collect();
        for (seed, buffer) in (0..).zip(&buffers) {
            bytes::write(buffer, seed);
        }
        for (turn, to) in (1..).zip([&peer, &home]) {
            assert_moved(migrate_all(&rig, &buffers, vram(to)), turn);
            for (seed, buffer) in (0..).zip(&buffers) {
                bytes::assert_sequence(buffer, seed, "after a move");
            }
        }
    }
}

#[test]
fn each_buffer_of_a_batch_has_its_own_outcome() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let [moves, held, there, fresh] = [(); 4].map(|()| create(&rig, &home, LARGE));
    for (seed, buffer) in (0..).zip([&moves, &held, &there]) {
        bytes::write(buffer, seed);
    }
    there.migrate(vram(&peer)).expect("not busy");
    let attachment = held.attach(&home).expect("attached");
    let pin = attachment.pin("a test").expect("no quota");
    let external = rig.external_engine();
    let strange = rig.open_on(&external, &home);
    let strange = external.create_buffer(&strange, BufferDescriptor::new(SMALL)).expect("a buffer");

    let to = vram(&peer);
    let list =
        [(&moves, to), (&held, to), (&there, to), (&moves, to), (&strange, to), (&fresh, to)];
    let results = rig.engine().migrate_many(&list);
    let [moved, busy, none, again, foreign, empty] = <[_; 6]>::try_from(results).expect("one each");
    assert_eq!(moved.expect("moved"), Migration::Done { generation: 1 });
    assert!(matches!(busy, Err(Error::Busy { pinned: 1, .. })), "{busy:?}");
    assert_eq!(none.expect("already there"), Migration::Unchanged);
    assert_eq!(again.expect("already there"), Migration::Unchanged);
    assert!(matches!(foreign, Err(Error::ForeignEngine { .. })), "{foreign:?}");
    assert_eq!(empty.expect("nothing to copy"), Migration::Done { generation: 1 });
    assert_eq!((held.domain(), held.generation()), (vram(&home), 0), "nothing has changed");
    for (seed, buffer) in (0..).zip([&moves, &held, &there]) {
        bytes::assert_sequence(buffer, seed, "afterwards");
    }
    bytes::assert_zero(&fresh, "never written");
    drop(pin);
    assert!(rig.engine().migrate_many(&[]).is_empty());
}

fn used(rig: &Rig, device: &Device) -> u64 {
    rig.engine().usage(vram(device)).expect("of this engine").used
}

#[test]
fn buffers_that_are_alike_share_a_charge_and_a_lock_and_nothing_is_kept_for_them() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..64).map(|_| create(&rig, &home, SMALL)).collect();
    for (seed, buffer) in (0..).zip(&buffers) {
        bytes::write(buffer, seed);
    }
    let all = used(&rig, &home);
    // The first turns allocate slabs.
    for turn in 1..=4 {
        let to = if turn % 2 == 0 { &home } else { &peer };
        let writes = shared_writes();
        let made = submissions(&rig, || assert_moved(migrate_all(&rig, &buffers, vram(to)), turn));
        let each = (shared_writes() - writes) / 64;
        // What a device copies is retired, which is another matter.
        let is_checked = turn > 2 && made == 0;
        assert!(!is_checked || each < 6, "{each} shared words were written for each buffer");
        for (seed, buffer) in (0..).zip(&buffers) {
            bytes::assert_sequence(buffer, seed, "after a move");
        }
    }
    wait_idle(&[&home, &peer]);
    rig.engine().trim();
    assert_eq!([used(&rig, &home), used(&rig, &peer)], [all, 0]);
}

/// The plan of a buffer that is alike is checked with that buffer's own generation.
#[test]
fn a_buffer_that_is_listed_twice_moves_once_behind_one_with_another_generation() {
    const SIZE: u64 = 200_004;
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let [leader, twice] = [(); 2].map(|()| create(&rig, &home, SIZE));
    for (seed, buffer) in (0..).zip([&leader, &twice]) {
        bytes::write(buffer, seed);
        // There and back, so that both domains have free slots.
        for domain in [vram(&peer), vram(&home)] {
            buffer.migrate(domain).expect("not busy");
        }
    }
    leader.relocate().expect("not busy");
    wait_idle(&[&home, &peer]);
    let before = twice.generation();
    assert_ne!(leader.generation(), before);
    let to = vram(&peer);
    let results = rig.engine().migrate_many(&[(&leader, to), (&twice, to), (&twice, to)]);
    let [_, first, second] = <[_; 3]>::try_from(results).expect("one each");
    assert_eq!(first.expect("moved"), Migration::Done { generation: before + 1 });
    assert_eq!(second.expect("already there"), Migration::Unchanged);
    assert_eq!(twice.generation(), before + 1);
    for (seed, buffer) in (0..).zip([&leader, &twice]) {
        bytes::assert_sequence(buffer, seed, "afterwards");
    }
}

#[test]
fn buffers_of_one_size_that_differ_move_each_by_its_own_rules() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let plain: Vec<_> = (0..10).map(|_| create(&rig, &home, SMALL)).collect();
    let group = rig.engine().client_group("one").expect("a group");
    let other_kinds = [
        BufferDescriptor::new(SMALL).client(&group),
        BufferDescriptor::new(SMALL).peer_to_peer(false),
        BufferDescriptor::new(SMALL).placement(Placement::Vram),
        BufferDescriptor::new(SMALL).private(),
    ];
    let others = other_kinds.map(|kind| rig.engine().create_buffer(&home, kind).expect("a buffer"));
    let shared: Vec<_> = (0..3).map(|_| create(&rig, &home, SMALL)).collect();
    let recorders: Vec<_> = shared.iter().map(|_| Arc::new(Recorder::default())).collect();
    let attachments: Vec<_> = shared
        .iter()
        .zip(&recorders)
        .map(|(buffer, seen)| {
            buffer.attach_dynamic(&peer, Arc::clone(seen) as _).expect("attached")
        })
        .collect();
    let held = &plain[4];
    let attachment = held.attach(&home).expect("attached");
    let pin = attachment.pin("a test").expect("no quota");
    // One of each kind after the other, and one twice.
    let mut list: Vec<_> = plain[..5].iter().chain(&others[..2]).chain(&shared).collect();
    list.extend(others[2..].iter().chain(&plain[5..]).chain(&plain[..1]));
    for (seed, buffer) in (0..).zip(&list[..list.len() - 1]) {
        bytes::write(buffer, seed);
    }
    let generations: Vec<_> = list.iter().map(|buffer| buffer.generation() + 1).collect();
    let free = used(&rig, &peer);
    let mut moved = 0_u64;
    let results =
        rig.engine().migrate_many(&list.iter().map(|b| (*b, vram(&peer))).collect::<Vec<_>>());
    for (at, (buffer, result)) in list.iter().zip(results).enumerate() {
        match result {
            Ok(Migration::Done { generation }) => {
                assert_eq!((generation, buffer.domain()), (generations[at], vram(&peer)), "{at}");
                moved += 1;
            }
            Ok(Migration::Unchanged) => {
                assert_eq!(at, list.len() - 1, "the one that is listed twice");
            }
            Err(Error::Busy { pinned: 1, .. }) => assert!(buffer.is_same(held), "{at}"),
            other => panic!("{at}: {other:?}"),
        }
    }
    assert_eq!(moved, list.len() as u64 - 2, "all but the pinned one, and one once");
    assert_eq!(used(&rig, &peer) - free, moved * SMALL, "nothing is kept");
    for (recorder, buffer) in recorders.iter().zip(&shared) {
        assert_eq!(recorder.invalidated(), [buffer.generation() - 1], "once");
    }
    for (seed, buffer) in (0..).zip(&list[..list.len() - 1]) {
        bytes::assert_sequence(buffer, seed, "afterwards");
    }
    drop((pin, attachments));
}

/// Leaves recycled system memory with old content for `count` buffers of [`ODD`] bytes.
fn leave_used_memory(rig: &Rig, home: &Device, count: u64) {
    let create = |seed| {
        let descriptor = BufferDescriptor::new(WHOLE).placement(Placement::System);
        let buffer = rig.engine().create_buffer(home, descriptor).expect("a buffer");
        bytes::write(&buffer, seed);
        buffer
    };
    drop((70..70 + count).map(create).collect::<Vec<_>>());
}

/// Proves the route, so that a move is one submission.
fn warm_up(rig: &Rig, home: &Device) {
    create(rig, home, LARGE).migrate(DomainId::System).expect("not busy");
}

/// Asserts that the memory holds the buffer's bytes, and zeros behind them.
fn assert_padding_clear(rig: &Rig, buffer: &SharedBuffer, seed: u64) {
    let export = buffer.export_foreign().expect("an fd");
    let mut info = export.info();
    info.size = WHOLE;
    let external = rig.external_engine();
    let device = rig.open_on(&external, &buffer.home());
    // SAFETY: the engine's own fd, of memory of this size.
    let imported = unsafe { external.import_foreign(&device, export.as_fd(), info, None) };
    let mut expected = bytes::sequence(seed, ODD);
    // CAST: the buffer fits memory.
    expected.resize(WHOLE as usize, 0);
    let imported = imported.expect("imported");
    bytes::assert_same(&bytes::read(&imported), &expected, "the whole memory");
}

#[test]
fn padding_is_cleared_in_the_same_submission() {
    let rig = Rig::new();
    for home in rig.all() {
        let buffers: Vec<_> = (0..4).map(|_| create(&rig, &home, ODD)).collect();
        for (seed, buffer) in (0..).zip(&buffers) {
            bytes::write(buffer, seed);
        }
        warm_up(&rig, &home);
        let ([alone], together) = buffers.split_first_chunk().expect("several");
        leave_used_memory(&rig, &home, 4);
        wait_idle(&[&home]);
        let memory = || rig.engine().calls().made(Call::MemfdCreate);
        let before = memory();
        let made = submissions(&rig, || {
            assert_moved(migrate_all(&rig, together, DomainId::System), 1);
        });
        assert_eq!(made, 1, "one submission for all");
        let made = submissions(&rig, || {
            alone.migrate(DomainId::System).expect("not busy");
        });
        assert_eq!(made, 1, "one submission for one");
        assert_eq!(memory(), before, "the memory is recycled");
        for (seed, buffer) in (0..).zip(&buffers) {
            bytes::assert_sequence(buffer, seed, "after the move");
            assert_padding_clear(&rig, buffer, seed);
        }
    }
}

#[test]
fn buffers_stay_or_move_alone_when_a_clearing_submission_fails() {
    let rig = Rig::new();
    rig.provokes("VK_ERROR_OUT_OF_HOST_MEMORY");
    for home in rig.all() {
        let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home, ODD)).collect();
        for (seed, buffer) in (0..).zip(&buffers) {
            bytes::write(buffer, seed);
        }
        leave_used_memory(&rig, &home, 3);
        wait_idle(&[&home]);
        warm_up(&rig, &home);
        // The submission of the batch fails, and then that of the first buffer, which the host copies if it sees VRAM.
        let expected = if host_sees_vram(&home) { 4 } else { 5 };
        for nth in [1, 2] {
            let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
            rig.engine().calls().fail_nth(Call::QueueSubmit, nth, code);
        }
        let made = submissions(&rig, || {
            assert_moved(migrate_all(&rig, &buffers, DomainId::System), 1);
        });
        assert!(!rig.engine().calls().clear_faults() && made == expected, "{made} submissions");
        for (seed, buffer) in (0..).zip(&buffers) {
            bytes::assert_sequence(buffer, seed, "after the move");
            assert_padding_clear(&rig, buffer, seed);
        }
    }
}

#[test]
fn buffers_move_alone_when_the_shared_submission_fails() {
    let rig = Rig::new();
    rig.provokes("VK_ERROR_OUT_OF_HOST_MEMORY");
    let [home, peer] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..4).map(|_| create(&rig, &home, LARGE)).collect();
    for (seed, buffer) in (0..).zip(&buffers) {
        bytes::write(buffer, seed);
    }
    let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
    rig.engine().route(&home, &peer).expect("a verdict");
    rig.engine().calls().fail_nth(Call::QueueSubmit, 1, code);
    assert_moved(migrate_all(&rig, &buffers, vram(&peer)), 1);
    for (seed, buffer) in (0..).zip(&buffers) {
        bytes::assert_sequence(buffer, seed, "after the move");
    }
}

/// Adds a fence of a host reader to each invalidation, and sends the signal that ends it.
struct Reading(Arc<Engine>, Mutex<Sender<Signal>>);

impl Importer for Reading {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.0.host_fence();
        invalidation.add_fence(Access::Read, fence);
        self.1.lock().expect("not poisoned").send(signal).expect("the receiver listens");
    }
}

#[test]
fn a_buffer_waiting_for_the_host_does_not_delay_its_batch() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home, LARGE)).collect();
    for (seed, buffer) in (0..).zip(&buffers) {
        bytes::write(buffer, seed);
    }
    let engine = Arc::new(rig.take_engine());
    let (sender, receiver) = channel();
    let reading = Arc::new(Reading(Arc::clone(&engine), Mutex::new(sender)));
    let attachment = buffers[0].attach_dynamic(&peer, reading).expect("attached");
    let to = vram(&peer);
    std::thread::scope(|scope| {
        let moves: Vec<_> = buffers.iter().map(|buffer| (buffer, to)).collect();
        let mover = scope.spawn(|| {
            let moves = moves;
            engine.migrate_many(&moves)
        });
        let signal = receiver.recv_timeout(LONG).expect("the importer is notified");
        // The others finish their move while the first still waits.
        for (seed, buffer) in (0..).zip(&buffers).skip(1) {
            until(|| buffer.generation(), |&generation| generation > 0);
            bytes::assert_sequence(buffer, seed, "while another one waits");
        }
        assert_eq!(buffers[0].generation(), 0, "its reader has not finished");
        drop(signal);
        assert_moved(mover.join().expect("no panic"), 1);
    });
    bytes::assert_sequence(&buffers[0], 0, "at last");
    drop((attachment, buffers));
}

#[test]
fn remap_all_replaces_many_mappings_under_one_lock() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, SMALL);
    bytes::write(&buffer, 1);
    let attachment = |index: usize| {
        let device = [&home, &peer][index % 2];
        let attachment =
            buffer.attach_dynamic(device, Arc::<Recorder>::default()).expect("attached");
        let mapping = attachment.map(Access::Read).expect("mapped");
        (attachment, mapping)
    };
    let mut attachments: Vec<_> = (0..100).map(attachment).collect();
    for generation in 1..5 {
        let to = if generation % 2 == 0 { DomainId::System } else { vram(&peer) };
        buffer.migrate(to).expect("not busy");
        let mut pairs: Vec<_> =
            attachments.iter_mut().map(|(attachment, mapping)| (&*attachment, mapping)).collect();
        buffer.remap_all(&mut pairs).expect("current ones");
        for (_, mapping) in &attachments {
            assert_eq!(mapping.generation(), generation);
        }
        for (_, mapping) in &attachments[..2] {
            let own = mapping.view().expect("handles");
            assert_eq!(own.size, SMALL);
        }
        bytes::assert_sequence(&buffer, 1, "after a move");
    }
    // Old backings were freed with their last mapping. Half of the attachments end, and the rest still remap.
    attachments.truncate(50);
    buffer.migrate(vram(&home)).expect("not busy");
    let other = create(&rig, &home, SMALL);
    let stray = other.attach_dynamic(&home, Arc::<Recorder>::default()).expect("attached");
    let mut strays = stray.map(Access::Read).expect("mapped");
    let mut pairs: Vec<_> =
        attachments.iter_mut().map(|(attachment, mapping)| (&*attachment, mapping)).collect();
    pairs.push((&stray, &mut strays));
    let error = buffer.remap_all(&mut pairs).expect_err("one is another buffer's");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    let old = |mapping: &Mapping| mapping.generation() == 4;
    assert!(attachments.iter().all(|(_, mapping)| old(mapping)), "nothing has changed");
    buffer.remap_all(&mut []).expect("nothing to do");
}

#[test]
fn a_small_copy_needs_no_device() {
    let rig = Rig::new();
    let devices = rig.all();
    for from in &devices {
        for to in &devices {
            let [source, target] = [from, to].map(|device| create(&rig, device, SMALL));
            bytes::write(&source, 3);
            bytes::write(&target, 4);
            let region = CopyRegion { from: 1001, to: 7, len: 3000 };
            let made = submissions(&rig, || {
                let fence = rig.engine().copy(&source, &target, region).expect("a copy");
                assert!(fence.is_signalled().expect("no device is lost"));
            });
            assert_eq!(made, 0, "from {} to {}", from.name(), to.name());
            let mut expected = bytes::sequence(4, SMALL);
            expected[7..3007].copy_from_slice(&bytes::sequence(3, SMALL)[1001..4001]);
            bytes::assert_same(&bytes::read(&target), &expected, "what the host copied");
            // The device sees what the host wrote.
            let [source, target] = [from, to].map(|device| create(&rig, device, SMALL));
            let attachment = source.attach(from).expect("attached");
            attachment.map(Access::Write).expect("mapped").fill(9).expect("a pass");
            drop(attachment);
            rig.engine().copy(&source, &target, CopyRegion::first(SMALL)).expect("a copy");
            let attachment = target.attach(to).expect("attached");
            let seen = attachment.map(Access::Read).expect("mapped").verify(9).expect("a pass");
            assert!(seen.is_clean(), "{seen:?}");
        }
    }
}
