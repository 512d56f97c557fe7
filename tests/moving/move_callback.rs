//! Moves of a shared buffer: every importer is notified once, old mappings report `Stale`, and every byte is kept.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::reach::host_sees_vram;
use crate::common::until::{rounds, until};
use crate::common::{Rig, bytes};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Error, Importer, Invalidation, Migration,
    Placement, SharedBuffer, Signal,
};

/// An importer that records its notifications.
#[derive(Default)]
struct Recorder {
    generations: Mutex<Vec<u32>>,
    host_memory_only: bool,
}

impl Recorder {
    fn invalidated(&self) -> Vec<u32> {
        self.generations.lock().expect("not poisoned").clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.generations.lock().expect("not poisoned").push(invalidation.generation());
    }

    fn allow_peer2peer(&self) -> bool {
        !self.host_memory_only
    }
}

fn create(rig: &Rig, home: &Device, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(300_004).name("moving").placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

#[test]
fn every_importer_is_notified_once_and_maps_the_new_backing() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorders = [Arc::new(Recorder::default()), Arc::new(Recorder::default())];
    let attachments = [&home, &peer].into_iter().zip(&recorders).map(|(device, recorder)| {
        buffer.attach_dynamic(device, Arc::clone(recorder) as Arc<dyn Importer>).expect("attached")
    });
    let attachments: Vec<_> = attachments.collect();
    let mut mappings: Vec<_> = attachments
        .iter()
        .map(|attachment| attachment.map(Access::ReadWrite).expect("mapped"))
        .collect();
    mappings[0].fill(1).expect("a pass");

    let moved = buffer.migrate(DomainId::System).expect("not busy");
    assert_eq!(moved, Migration::Done { generation: 1 });
    assert_eq!(buffer.domain(), DomainId::System);
    assert!(recorders.iter().all(|recorder| recorder.invalidated() == [0]), "each notified once");
    for mapping in &mappings {
        let error = mapping.view().expect_err("old");
        assert!(matches!(error, Error::Stale { mapped: 0, current: 1, .. }), "{error}");
        assert!(matches!(mapping.verify(1), Err(Error::Stale { .. })));
    }
    for (attachment, mapping) in attachments.iter().zip(&mut mappings) {
        attachment.remap(mapping).expect("a current one");
        assert_eq!(mapping.generation(), 1);
        assert!(mapping.verify(1).expect("a pass").is_clean(), "the bytes were kept");
    }
    mappings[1].fill(2).expect("a pass");
    assert!(mappings[0].verify(2).expect("a pass").is_clean(), "the bytes are still shared");
}

#[test]
fn a_move_to_the_current_domain_does_nothing() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder::default());
    let attachment = buffer.attach_dynamic(&home, Arc::clone(&recorder) as _).expect("attached");
    assert_eq!(buffer.migrate(vram(&home)).expect("already there"), Migration::Unchanged);
    assert_eq!((recorder.invalidated(), buffer.generation()), (vec![], 0));
    drop(attachment);
}

#[test]
fn a_buffer_can_change_its_home() {
    let rig = Rig::new();
    for [one, other] in [Some(rig.two_of_one_adapter()), rig.two_drivers()].into_iter().flatten() {
        let buffer = create(&rig, &one, Placement::VramOrSystem);
        bytes::write(&buffer, 5);
        for (turn, device) in [&other, &one, &other].into_iter().enumerate() {
            buffer.migrate(vram(device)).expect("every attached device reaches it");
            assert_eq!((buffer.home(), buffer.domain()), (device.clone(), vram(device)));
            bytes::assert_sequence(&buffer, 5, &format!("move {turn} to {}", device.name()));
        }
    }
}

#[test]
fn a_buffer_does_not_move_where_an_importer_cannot_follow() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder { host_memory_only: true, ..Recorder::default() });
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("attached");
    // The importer refuses peer-to-peer access, so the buffer moved to system memory when it attached. No importer
    // was attached to be notified of that.
    assert_eq!((buffer.domain(), recorder.invalidated()), (DomainId::System, vec![]));
    let error = buffer.migrate(vram(&home)).expect_err("the peer cannot reach it");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!((buffer.domain(), recorder.invalidated()), (DomainId::System, vec![]));
    // VRAM of the peer itself needs no peer-to-peer access.
    buffer.migrate(vram(&peer)).expect("the peer's own memory");
    assert_eq!(recorder.invalidated(), [buffer.generation() - 1]);
    drop(attachment);
}

#[test]
fn a_descriptor_may_exclude_peer_access_to_vram() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let descriptor = BufferDescriptor::new(300_004).peer_to_peer(false);
    let buffer = rig.engine().create_buffer(&home, descriptor.clone()).expect("a buffer");
    assert_eq!(buffer.domain(), vram(&home), "only the home device uses it");
    let attachment = buffer.attach(&peer).expect("a static attachment");
    assert_eq!(buffer.domain(), DomainId::System);
    let error = buffer.migrate(vram(&home)).expect_err("the peer is attached");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    drop(attachment);
    buffer.migrate(vram(&home)).expect("the peer has detached");
    // A buffer whose placement allows only VRAM cannot be shared.
    let only = descriptor.placement(Placement::Vram);
    let only = rig.engine().create_buffer(&home, only).expect("a buffer");
    let error = only.attach(&peer).expect_err("peer access is excluded");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!((only.domain(), only.generation()), (vram(&home), 0));
}

/// A dropped attachment with a live mapping does not remap, so its device need not reach the target.
#[test]
fn a_dropped_dynamic_attachment_does_not_restrict_moves() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let near = Arc::new(Recorder { host_memory_only: true, ..Recorder::default() });
    let mut peers = vec![(home.clone(), peer, near)];
    if let Some([lavapipe, swiftshader]) = rig.two_drivers() {
        peers.push((lavapipe, swiftshader, Arc::default()));
    }
    for (home, peer, recorder) in peers {
        let buffer = create(&rig, &home, Placement::VramOrSystem);
        let attachment =
            buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("attached");
        let mapping = attachment.map(Access::Read).expect("mapped");
        assert_eq!(buffer.domain(), DomainId::System, "the peer reaches system memory");
        let error = buffer.migrate(vram(&home)).expect_err("the peer cannot reach it");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        let notified = recorder.invalidated();
        drop(attachment);
        buffer.migrate(vram(&home)).expect("no importer is attached");
        assert_eq!((buffer.domain(), recorder.invalidated()), (vram(&home), notified));
        let error = mapping.view().expect_err("the mapping is stale");
        assert!(matches!(error, Error::Stale { .. }), "{error}");
    }
}

/// Panics when notified, except for the first `.0` notifications.
struct Panics(Mutex<u32>);

impl Importer for Panics {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        let mut left = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => panic!("this importer is broken"),
        }
    }
}

/// If an importer panics, the others are notified, nothing has moved, and the next move succeeds.
#[test]
fn a_panicking_importer_does_not_stop_other_notifications() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    bytes::write(&buffer, 6);
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let attach =
        |importer: Arc<dyn Importer>| buffer.attach_dynamic(&peer, importer).expect("attached");
    let first = attach(Arc::clone(&recorders[0]) as _);
    let broken = [1, 0].map(|times| attach(Arc::new(Panics(Mutex::new(times)))));
    let last = attach(Arc::clone(&recorders[1]) as _);
    let mapping = last.map(Access::Read).expect("mapped");
    for turn in 1..=2 {
        let moving = || buffer.migrate(DomainId::System);
        let panic =
            std::panic::catch_unwind(AssertUnwindSafe(moving)).expect_err("an importer panics");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"this importer is broken"));
        for recorder in &recorders {
            assert_eq!(
                recorder.invalidated(),
                vec![0; turn],
                "notified of a move that then failed"
            );
        }
        assert_eq!((buffer.generation(), buffer.domain()), (0, vram(&home)));
        mapping.view().expect("the mapping is current");
    }
    drop(broken);
    assert_eq!(
        buffer.migrate(DomainId::System).expect("not busy"),
        Migration::Done { generation: 1 }
    );
    bytes::assert_sequence(&buffer, 6, "after the move");
    drop((first, last));
}

/// In a batch, the other buffers still move, and a move that waits for host work still ends.
#[test]
fn a_panicking_importer_does_not_affect_the_rest_of_its_batch() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let [slow, broken, other] = [(); 3].map(|()| create(&rig, &home, Placement::VramOrSystem));
    let engine = Arc::new(rig.take_engine());
    let stopper = Arc::new(Stopper {
        rig: Arc::clone(&engine),
        running: Mutex::default(),
        stopped: AtomicBool::new(false),
    });
    let stopped = slow.attach_dynamic(&peer, Arc::clone(&stopper) as _).expect("attached");
    let attachment =
        broken.attach_dynamic(&peer, Arc::new(Panics(Mutex::new(0)))).expect("attached");
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let moves = [&slow, &broken, &other].map(|buffer| (buffer, DomainId::System));
            engine.migrate_many(&moves)
        });
        until(|| stopper.stopped.load(Ordering::Acquire), |&stopped| stopped);
        drop(stopper.running.lock().expect("not poisoned").take());
        mover.join().expect_err("one importer is broken");
    });
    assert_eq!((slow.domain(), other.domain()), (DomainId::System, DomainId::System));
    assert_eq!((broken.generation(), broken.domain()), (0, vram(&home)));
    stopped.map(Access::Read).expect("no move is in progress");
    drop((stopped, attachment, slow, broken, other, stopper));
}

/// Stops work of its own when notified, and adds a fence that signals when the work has stopped.
struct Stopper {
    rig: Arc<peerbuf::Engine>,
    running: Mutex<Option<Signal>>,
    stopped: AtomicBool,
}

impl Importer for Stopper {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.rig.host_fence();
        invalidation.add_fence(Access::ReadWrite, fence);
        *self.running.lock().expect("not poisoned") = Some(signal);
        self.stopped.store(true, Ordering::Release);
    }
}

#[test]
fn a_move_waits_for_fences_added_by_importers() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    bytes::write(&buffer, 9);
    let engine = Arc::new(rig.take_engine());
    let stopper = Arc::new(Stopper {
        rig: Arc::clone(&engine),
        running: Mutex::default(),
        stopped: AtomicBool::new(false),
    });
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&stopper) as _).expect("attached");
    let old = attachment.map(Access::ReadWrite).expect("mapped");
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        until(|| stopper.stopped.load(Ordering::Acquire), |&stopped| stopped);
        // The buffer cannot have moved, and a new mapping waits and gets the new backing.
        assert_eq!(old.generation(), buffer.generation());
        let mapper =
            scope.spawn(|| attachment.map(Access::Read).map(|mapping| mapping.generation()));
        drop(stopper.running.lock().expect("not poisoned").take());
        assert!(matches!(mover.join().expect("no panic"), Ok(Migration::Done { generation: 1 })));
        assert_eq!(mapper.join().expect("no panic").expect("mapped"), 1);
    });
    drop(old);
    bytes::assert_sequence(&buffer, 9, "after the move");
    drop(attachment);
    drop(buffer);
    drop(stopper);
}

#[test]
fn a_failed_move_changes_nothing() {
    let rig = Rig::new();
    // Otherwise the host would copy instead.
    rig.engine().calls().set_unmappable_device_memory(true);
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder::default());
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("attached");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    mapping.fill(3).expect("a pass");
    // The routes are proved, so the next submission is the copy.
    buffer.migrate(DomainId::System).expect("not busy");
    buffer.migrate(vram(&home)).expect("not busy");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    let calls = rig.engine().calls();
    // Not an out-of-memory error, since the engine retries after those.
    let code = ash::vk::Result::ERROR_INITIALIZATION_FAILED;
    calls.fail_nth(peerbuf::device::Call::QueueSubmit, 1, code);
    buffer.migrate(DomainId::System).expect_err("the copy cannot be submitted");
    assert!(!calls.clear_faults(), "the fault was injected");
    assert_eq!((buffer.generation(), buffer.domain()), (2, vram(&home)));
    assert!(mapping.verify(3).expect("still current").is_clean());
    drop(mapping);
    drop(attachment);
}

#[test]
fn the_host_copies_where_no_device_can() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder::default());
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("attached");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    mapping.fill(3).expect("a pass");
    // The routes are proved, so the next submission is the copy.
    buffer.migrate(DomainId::System).expect("not busy");
    buffer.migrate(vram(&home)).expect("not busy");
    let calls = rig.engine().calls();
    calls.fail_nth(
        peerbuf::device::Call::QueueSubmit,
        1,
        ash::vk::Result::ERROR_OUT_OF_HOST_MEMORY,
    );
    buffer.migrate(DomainId::System).expect("the host copies");
    assert!(!calls.clear_faults(), "the fault was injected");
    assert_eq!((buffer.generation(), buffer.domain()), (3, DomainId::System));
    // Where the host does not see VRAM, the device copies in a second attempt, which notifies as well.
    let attempts: &[u32] = if host_sees_vram(&home) { &[0, 1, 2] } else { &[0, 1, 2, 2] };
    assert_eq!(recorder.invalidated(), attempts, "notified once each");
    drop(mapping);
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    assert!(mapping.verify(3).expect("a pass").is_clean());
    drop(mapping);
    drop(attachment);
}

#[test]
fn continuous_moves_tear_nothing() {
    const ROUNDS: u32 = 60;
    let rig = Rig::new();
    let [one, two] = rig.two_of_one_adapter();
    let buffer = create(&rig, &one, Placement::VramOrSystem);
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let attachments: Vec<_> = [&one, &two]
        .into_iter()
        .zip(&recorders)
        .map(|(device, recorder)| {
            buffer.attach_dynamic(device, Arc::clone(recorder) as _).expect("attached")
        })
        .collect();
    let done = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let places = [DomainId::System, vram(&two), vram(&one)];
            let mut moves = 0;
            for place in places.into_iter().cycle() {
                // A busy machine may run this thread for the first time after the last round.
                if done.load(Ordering::Acquire) && moves > 0 {
                    break;
                }
                match buffer.migrate(place) {
                    Ok(Migration::Done { .. }) => moves += 1,
                    Ok(_) => {}
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            moves
        });
        // The two devices take turns: one writes, the other verifies, in whichever domain the buffer is.
        for round in 0..ROUNDS {
            let (writer, reader) =
                (&attachments[round as usize % 2], &attachments[(round as usize + 1) % 2]);
            retry(|| writer.map(Access::Write)?.fill(round));
            let report = retry(|| reader.map(Access::Read)?.verify(round));
            assert!(report.is_clean(), "round {round}: {report:?}");
        }
        done.store(true, Ordering::Release);
        mover.join().expect("no panic")
    });
    assert!(moves > 0, "the buffer moved meanwhile");
    for recorder in &recorders {
        assert_eq!(recorder.invalidated().len(), moves, "moves and callbacks");
    }
    assert_eq!(buffer.generation() as usize, moves);
}

/// Repeats `work` while it reports `Stale`, as a refaulting importer does.
fn retry<R>(mut work: impl FnMut() -> peerbuf::Result<R>) -> R {
    for _ in rounds() {
        match work() {
            Err(Error::Stale { .. }) => {}
            other => return other.expect("only moves interrupt it"),
        }
    }
    panic!("it was stale each time");
}

/// An importer that keeps its old mapping, which importers should not do.
#[derive(Default)]
struct Hoarder(Mutex<Option<peerbuf::Mapping>>);

impl Importer for Hoarder {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

#[test]
fn an_importers_drop_may_use_its_buffer() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let hoarder = Arc::new(Hoarder::default());
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&hoarder) as _).expect("attached");
    let old = attachment.map(Access::Read).expect("mapped");
    *hoarder.0.lock().expect("not poisoned") = Some(old);
    buffer.migrate(DomainId::System).expect("not busy");
    drop(hoarder);
    // The attachment drops the last reference to the importer, and with it the mapping.
    drop(attachment);
    assert_eq!(
        buffer.migrate(vram(&home)).expect("still works"),
        Migration::Done { generation: 2 }
    );
}

#[test]
fn remap_refuses_a_mapping_of_another_attachment() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers = [(); 2].map(|()| create(&rig, &home, Placement::VramOrSystem));
    let attachments = buffers.each_ref().map(|buffer| buffer.attach(&peer).expect("attached"));
    let mut mapping = attachments[0].map(Access::Read).expect("mapped");
    let error = attachments[1].remap(&mut mapping).expect_err("of another buffer");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    attachments[0].remap(&mut mapping).expect("its own mapping");
}
