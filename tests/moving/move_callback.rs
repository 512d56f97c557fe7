//! A buffer that moves while it is shared: everybody is told once, old mappings say so, and every byte
//! arrives.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{Rig, bytes};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Error, Importer, Invalidation, Migration,
    Placement, SharedBuffer, Signal,
};

/// An importer that notes what it is told.
#[derive(Default)]
struct Recorder {
    told: Mutex<Vec<u32>>,
    host_memory_only: bool,
}

impl Recorder {
    fn told(&self) -> Vec<u32> {
        self.told.lock().expect("not poisoned").clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.told.lock().expect("not poisoned").push(invalidation.generation());
    }

    fn allow_peer2peer(&self) -> bool {
        !self.host_memory_only
    }
}

fn create(rig: &Rig, home: &Device, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(300_004).name("traveller").placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

#[test]
fn everybody_is_told_once_and_maps_the_new_place() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorders = [Arc::new(Recorder::default()), Arc::new(Recorder::default())];
    let seats = [&home, &peer].into_iter().zip(&recorders).map(|(device, recorder)| {
        buffer.attach_dynamic(device, Arc::clone(recorder) as Arc<dyn Importer>).expect("a seat")
    });
    let seats: Vec<_> = seats.collect();
    let mut mappings: Vec<_> =
        seats.iter().map(|seat| seat.map(Access::ReadWrite).expect("mapped")).collect();
    mappings[0].fill(1).expect("a pass");

    let moved = buffer.migrate(DomainId::System).expect("nobody holds it");
    assert_eq!(moved, Migration::Done { generation: 1 });
    assert_eq!(buffer.domain(), DomainId::System);
    assert!(recorders.iter().all(|recorder| recorder.told() == [0]), "once each");
    for mapping in &mappings {
        let error = mapping.view().expect_err("old");
        assert!(matches!(error, Error::Stale { mapped: 0, current: 1, .. }), "{error}");
        assert!(matches!(mapping.verify(1), Err(Error::Stale { .. })));
    }
    for (seat, mapping) in seats.iter().zip(&mut mappings) {
        seat.remap(mapping).expect("a current one");
        assert_eq!(mapping.generation(), 1);
        assert!(mapping.verify(1).expect("a pass").is_clean(), "the bytes came along");
    }
    mappings[1].fill(2).expect("a pass");
    assert!(mappings[0].verify(2).expect("a pass").is_clean(), "and are still shared");
}

#[test]
fn a_move_to_where_it_is_is_none() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&home, Arc::clone(&recorder) as _).expect("a seat");
    assert_eq!(buffer.migrate(vram(&home)).expect("there already"), Migration::None);
    assert_eq!((recorder.told(), buffer.generation()), (vec![], 0));
    drop(seat);
}

#[test]
fn a_buffer_can_change_its_home() {
    let rig = Rig::new();
    for [one, other] in [Some(rig.two_of_one_adapter()), rig.two_drivers()].into_iter().flatten() {
        let buffer = create(&rig, &one, Placement::VramOrSystem);
        bytes::write(&buffer, 5);
        for (turn, device) in [&other, &one, &other].into_iter().enumerate() {
            buffer.migrate(vram(device)).expect("nobody is attached who could not reach it");
            assert_eq!((buffer.home(), buffer.domain()), (device.clone(), vram(device)));
            bytes::assert_sequence(&buffer, 5, &format!("move {turn} to {}", device.name()));
        }
    }
}

#[test]
fn it_does_not_move_where_somebody_cannot_follow() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder { host_memory_only: true, ..Recorder::default() });
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    // Not peer-to-peer, so it is in system memory by now, and nobody was there to be told.
    assert_eq!((buffer.domain(), recorder.told()), (DomainId::System, vec![]));
    let error = buffer.migrate(vram(&home)).expect_err("the peer cannot follow");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!((buffer.domain(), recorder.told()), (DomainId::System, vec![]));
    // Its own memory is nobody else's.
    buffer.migrate(vram(&peer)).expect("the peer's own memory");
    assert_eq!(recorder.told(), [buffer.generation() - 1]);
    drop(seat);
}

#[test]
fn its_owner_may_keep_it_out_of_memory_that_is_one_device_s_own() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let descriptor = BufferDescriptor::new(300_004).peer_to_peer(false);
    let buffer = rig.engine().create_buffer(&home, descriptor.clone()).expect("a buffer");
    assert_eq!(buffer.domain(), vram(&home), "as long as it is nobody else's");
    let seat = buffer.attach(&peer).expect("a static seat, whom nobody asks");
    assert_eq!(buffer.domain(), DomainId::System);
    let error = buffer.migrate(vram(&home)).expect_err("the peer is here");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    drop(seat);
    buffer.migrate(vram(&home)).expect("it has left");
    // And one that may live nowhere else cannot be shared.
    let only = descriptor.placement(Placement::Vram);
    let only = rig.engine().create_buffer(&home, only).expect("a buffer");
    let error = only.attach(&peer).expect_err("not to a peer");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!((only.domain(), only.generation()), (vram(&home), 0));
}

/// Its importer is gone: it will not follow, so it does not matter where it could.
#[test]
fn who_has_left_a_dynamic_seat_but_for_a_mapping_does_not_say_where_it_may_be() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let near = Arc::new(Recorder { host_memory_only: true, ..Recorder::default() });
    let mut guests = vec![(home.clone(), peer, near)];
    if let Some([lavapipe, swiftshader]) = rig.two_drivers() {
        guests.push((lavapipe, swiftshader, Arc::default()));
    }
    for (home, guest, recorder) in guests {
        let buffer = create(&rig, &home, Placement::VramOrSystem);
        let seat = buffer.attach_dynamic(&guest, Arc::clone(&recorder) as _).expect("a seat");
        let mapping = seat.map(Access::Read).expect("mapped");
        assert_eq!(buffer.domain(), DomainId::System, "where the guest reaches it");
        let error = buffer.migrate(vram(&home)).expect_err("the guest cannot follow");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        let told = recorder.told();
        drop(seat);
        buffer.migrate(vram(&home)).expect("nobody has to follow");
        assert_eq!((buffer.domain(), recorder.told()), (vram(&home), told));
        let error = mapping.view().expect_err("the place was left");
        assert!(matches!(error, Error::Stale { .. }), "{error}");
    }
}

/// Panics when it is told, but for the first so many times.
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

/// Somebody else's bug is not the others': they are told, nothing has moved, and all goes on.
#[test]
fn an_importer_that_panics_keeps_nobody_from_being_told() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    bytes::write(&buffer, 6);
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let attach =
        |importer: Arc<dyn Importer>| buffer.attach_dynamic(&peer, importer).expect("a seat");
    let first = attach(Arc::clone(&recorders[0]) as _);
    let broken = [1, 0].map(|times| attach(Arc::new(Panics(Mutex::new(times)))));
    let last = attach(Arc::clone(&recorders[1]) as _);
    let mapping = last.map(Access::Read).expect("mapped");
    for turn in 1..=2 {
        let moving = || buffer.migrate(DomainId::System);
        let panic = std::panic::catch_unwind(AssertUnwindSafe(moving)).expect_err("it is broken");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"this importer is broken"));
        for recorder in &recorders {
            assert_eq!(recorder.told(), vec![0; turn], "told by a move that then failed");
        }
        assert_eq!((buffer.generation(), buffer.domain()), (0, vram(&home)));
        mapping.view().expect("it is as good as before");
    }
    drop(broken);
    assert_eq!(
        buffer.migrate(DomainId::System).expect("nobody holds it"),
        Migration::Done { generation: 1 }
    );
    bytes::assert_sequence(&buffer, 6, "after the move");
    drop((first, last));
}

/// Together with others: those move all the same, and what waits for work of the host comes to its end.
#[test]
fn an_importer_that_panics_leaves_those_alone_who_move_with_its_buffer() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let [slow, broken, other] = [(); 3].map(|()| create(&rig, &home, Placement::VramOrSystem));
    let engine = Arc::new(rig.take_engine());
    let stopper = Arc::new(Stopper {
        rig: Arc::clone(&engine),
        running: Mutex::default(),
        stopped: AtomicBool::new(false),
    });
    let stopped = slow.attach_dynamic(&peer, Arc::clone(&stopper) as _).expect("a seat");
    let seat = broken.attach_dynamic(&peer, Arc::new(Panics(Mutex::new(0)))).expect("a seat");
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let moves = [&slow, &broken, &other].map(|buffer| (buffer, DomainId::System));
            engine.migrate_many(&moves)
        });
        while !stopper.stopped.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        drop(stopper.running.lock().expect("not poisoned").take());
        mover.join().expect_err("one importer is broken");
    });
    assert_eq!((slow.domain(), other.domain()), (DomainId::System, DomainId::System));
    assert_eq!((broken.generation(), broken.domain()), (0, vram(&home)));
    stopped.map(Access::Read).expect("nobody is moving it any more");
    drop((stopped, seat, slow, broken, other, stopper));
}

/// Stops something of its own when told, and says with a fence when that has stopped.
struct Stopper {
    rig: Arc<peerbuf::Engine>,
    running: Mutex<Option<Signal>>,
    stopped: AtomicBool,
}

impl Importer for Stopper {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let (fence, signal) = self.rig.host_fence();
        invalidation.still_using(Access::ReadWrite, fence);
        *self.running.lock().expect("not poisoned") = Some(signal);
        self.stopped.store(true, Ordering::Release);
    }
}

#[test]
fn a_move_waits_for_those_who_say_that_they_are_still_at_it() {
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
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&stopper) as _).expect("a seat");
    let old = seat.map(Access::ReadWrite).expect("mapped");
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        while !stopper.stopped.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // It cannot have moved, and whoever maps now waits and gets the new place.
        assert_eq!(old.generation(), buffer.generation());
        let mapper = scope.spawn(|| seat.map(Access::Read).map(|mapping| mapping.generation()));
        drop(stopper.running.lock().expect("not poisoned").take());
        assert!(matches!(mover.join().expect("no panic"), Ok(Migration::Done { generation: 1 })));
        assert_eq!(mapper.join().expect("no panic").expect("mapped"), 1);
    });
    drop(old);
    bytes::assert_sequence(&buffer, 9, "after the move");
    drop(seat);
    drop(buffer);
    drop(stopper);
}

#[test]
fn a_move_that_fails_leaves_everything_as_it_was() {
    let rig = Rig::new();
    // Else the host would copy instead.
    rig.engine().calls().set_unmappable_device_memory(true);
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    mapping.fill(3).expect("a pass");
    // The routes are known by now, so that the next submission is the copy.
    buffer.migrate(DomainId::System).expect("nobody holds it");
    buffer.migrate(vram(&home)).expect("nor now");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let calls = rig.engine().calls();
    // Not for want of memory: then it is tried again.
    let code = ash::vk::Result::ERROR_INITIALIZATION_FAILED;
    calls.fail_nth(peerbuf::device::Call::QueueSubmit, 1, code);
    buffer.migrate(DomainId::System).expect_err("the copy cannot be submitted");
    assert!(!calls.clear_faults(), "the fault was met");
    assert_eq!((buffer.generation(), buffer.domain()), (2, vram(&home)));
    assert!(mapping.verify(3).expect("still current").is_clean());
    drop(mapping);
    drop(seat);
}

#[test]
fn where_no_device_copies_the_host_does() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    mapping.fill(3).expect("a pass");
    // The routes are known by now, so that the next submission is the copy.
    buffer.migrate(DomainId::System).expect("nobody holds it");
    buffer.migrate(vram(&home)).expect("nor now");
    let calls = rig.engine().calls();
    calls.fail_nth(
        peerbuf::device::Call::QueueSubmit,
        1,
        ash::vk::Result::ERROR_OUT_OF_HOST_MEMORY,
    );
    buffer.migrate(DomainId::System).expect("the host copies");
    assert!(!calls.clear_faults(), "the fault was met");
    assert_eq!((buffer.generation(), buffer.domain()), (3, DomainId::System));
    assert_eq!(recorder.told(), [0, 1, 2], "told once each");
    drop(mapping);
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    assert!(mapping.verify(3).expect("a pass").is_clean());
    drop(mapping);
    drop(seat);
}

#[test]
fn moving_all_the_time_tears_nothing() {
    const ROUNDS: u32 = 60;
    let rig = Rig::new();
    let [one, two] = rig.two_of_one_adapter();
    let buffer = create(&rig, &one, Placement::VramOrSystem);
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let seats: Vec<_> = [&one, &two]
        .into_iter()
        .zip(&recorders)
        .map(|(device, told)| buffer.attach_dynamic(device, Arc::clone(told) as _).expect("a seat"))
        .collect();
    let done = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let places = [DomainId::System, vram(&two), vram(&one)];
            let mut moves = 0;
            for place in places.into_iter().cycle() {
                if done.load(Ordering::Acquire) {
                    break;
                }
                match buffer.migrate(place) {
                    Ok(Migration::Done { .. }) => moves += 1,
                    Ok(Migration::None) => {}
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            moves
        });
        // The two devices take turns: one writes, the other looks, wherever the buffer is by then.
        for round in 0..ROUNDS {
            let (writer, reader) = (&seats[round as usize % 2], &seats[(round as usize + 1) % 2]);
            retry(|| writer.map(Access::Write)?.fill(round));
            let report = retry(|| reader.map(Access::Read)?.verify(round));
            assert!(report.is_clean(), "round {round}: {report:?}");
        }
        done.store(true, Ordering::Release);
        mover.join().expect("no panic")
    });
    assert!(moves > 0, "it moved meanwhile");
    for recorder in &recorders {
        assert_eq!(recorder.told().len(), moves, "moves and callbacks");
    }
    assert_eq!(buffer.generation() as usize, moves);
}

/// What an importer that refaults does.
fn retry<R>(mut work: impl FnMut() -> peerbuf::Result<R>) -> R {
    loop {
        match work() {
            Err(Error::Stale { .. }) => {}
            other => return other.expect("nothing but moves gets in the way"),
        }
    }
}

/// Keeps its old mapping, which an importer should not.
#[derive(Default)]
struct Hoarder(Mutex<Option<peerbuf::Mapping>>);

impl Importer for Hoarder {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

#[test]
fn an_importer_is_dropped_where_its_drop_may_use_the_buffer() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let hoarder = Arc::new(Hoarder::default());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&hoarder) as _).expect("a seat");
    let old = seat.map(Access::Read).expect("mapped");
    *hoarder.0.lock().expect("not poisoned") = Some(old);
    buffer.migrate(DomainId::System).expect("nobody holds it");
    drop(hoarder);
    // The last reference to the importer goes with the seat, and with it the mapping.
    drop(seat);
    assert_eq!(
        buffer.migrate(vram(&home)).expect("still works"),
        Migration::Done { generation: 2 }
    );
}

#[test]
fn a_mapping_is_replaced_only_by_its_own_attachment() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffers = [(); 2].map(|()| create(&rig, &home, Placement::VramOrSystem));
    let seats = buffers.each_ref().map(|buffer| buffer.attach(&peer).expect("a seat"));
    let mut mapping = seats[0].map(Access::Read).expect("mapped");
    let error = seats[1].remap(&mut mapping).expect_err("of another buffer");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    seats[0].remap(&mut mapping).expect("its own");
}
