//! A buffer that is taken away: everybody is told once, everybody lets go, nobody gets at it again until
//! it is armed again; and its bytes are what they were.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};

use crate::common::bound::with_bound;
use crate::common::{Rig, bytes, wait_idle};
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Importer, Invalidation,
    InvalidationCause as Cause, Mapping, Migration, SharedBuffer, Signal,
};

const SIZE: u64 = 70_000;

/// An importer that notes what it is told.
#[derive(Default)]
struct Recorder(Mutex<Vec<(u32, Cause)>>);

impl Recorder {
    fn told(&self) -> Vec<(u32, Cause)> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        self.0.lock().expect("not poisoned").push((told.generation(), told.cause()));
    }
}

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(SIZE).name("lent")).expect("a buffer")
}

fn is_revoked<T: std::fmt::Debug>(result: peerbuf::Result<T>) -> bool {
    matches!(result, Err(Error::Revoked { buffer }) if buffer == "lent")
}

/// Waits until another thread has marked the buffer. The watchdog ends a wait that does not end.
fn until_marked(buffer: &SharedBuffer) {
    while !buffer.is_revoked() {
        std::thread::yield_now();
    }
}

/// Panics when it is told.
struct Panics;

impl Importer for Panics {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        panic!("this importer is broken");
    }
}

/// Nor does it come back half revoked.
#[test]
fn an_importer_that_panics_keeps_nobody_from_being_told() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let attach = |importer| buffer.attach_dynamic(&peer, importer).expect("a seat");
    let first = attach(Arc::clone(&recorders[0]) as Arc<dyn Importer>);
    let broken = attach(Arc::new(Panics));
    let last = attach(Arc::clone(&recorders[1]) as _);
    let mapping = last.map(Access::Read).expect("mapped");
    let revoking = std::panic::AssertUnwindSafe(|| buffer.revoke());
    std::panic::catch_unwind(revoking).expect_err("one importer is broken");
    for recorder in &recorders {
        assert_eq!(recorder.told(), [(0, Cause::Revoke)]);
    }
    assert!(buffer.is_revoked() && is_revoked(mapping.view()));
    drop(mapping);
    buffer.revoke().expect("nobody is told a second time, and nobody holds it");
    buffer.rearm().expect("nobody holds it");
    last.map(Access::Read).expect("armed again").view().expect("it is good");
    drop((first, broken));
}

/// upstream: `dmabuf_revoke` (`iommufd.c`)
#[test]
fn everybody_is_told_once_and_everything_is_refused_until_it_is_armed_again() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 4);
    let recorder = Arc::new(Recorder::default());
    let fixed = buffer.attach(&home).expect("a seat");
    let moving = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    let mut mapping = fixed.map(Access::ReadWrite).expect("mapped");
    let other = rig.engine().create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
    let copy = |from, to| rig.engine().copy(from, to, CopyRegion::first(64)).map(|_| ());
    drop(fixed.pin("usual").expect("no limit"));

    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        until_marked(&buffer);
        // It waits for this thread's mapping; meanwhile nothing goes any more.
        assert!(is_revoked(mapping.view()), "a mapping from before");
        assert!(is_revoked(mapping.fill(1)) && is_revoked(mapping.verify(1)), "passes");
        assert!(is_revoked(mapping.begin_access(Access::Read).map(|_| ())), "an own submission");
        let submit = |s: &mut peerbuf::Submission<'_>| s.read(&mapping).map(|_| ());
        assert!(is_revoked(rig.engine().submit(&home, submit)), "a submission");
        assert!(is_revoked(fixed.remap(&mut mapping)), "remap");
        assert!(is_revoked(fixed.map(Access::Read)) && is_revoked(moving.map(Access::Read)), "map");
        assert!(is_revoked(moving.pin("late").map(|_| ())), "pin");
        assert!(is_revoked(fixed.pin("usual").map(|_| ())), "a pin as before");
        assert!(is_revoked(buffer.attach(&peer).map(|_| ())), "attach");
        assert!(is_revoked(buffer.host_access(Access::Read).map(|_| ())), "host access");
        assert!(is_revoked(buffer.export_foreign().map(|_| ())), "export");
        assert!(is_revoked(buffer.migrate(DomainId::System)), "a move");
        assert!(is_revoked(buffer.migrate(buffer.domain())), "a move to where it is");
        assert!(is_revoked(copy(&buffer, &other)) && is_revoked(copy(&other, &buffer)), "copies");
        drop(mapping);
        revoker.join().expect("no panic").expect("nobody holds it any more");
    });
    assert_eq!(recorder.told(), [(0, Cause::Revoke)]);
    assert!(is_revoked(fixed.map(Access::Read)), "still");

    buffer.revoke().expect("it is at its end already");
    assert_eq!(recorder.told().len(), 1, "nobody is told a second time");
    buffer.rearm().expect("nobody holds it");
    buffer.rearm().expect("nor now");
    assert!(!buffer.is_revoked());
    bytes::assert_sequence(&buffer, 4, "after all that");
    drop(fixed.pin("usual").expect("as before"));
    fixed.map(Access::Write).and_then(|mapping| mapping.fill(6)).expect("the same seats");
    let seen = moving.map(Access::Read).and_then(|mapping| mapping.verify(6)).expect("a pass");
    assert!(seen.is_clean(), "{seen:?}");
    buffer.revoke().expect("again");
    assert_eq!(recorder.told(), [(0, Cause::Revoke); 2], "once per revocation");
}

#[test]
fn a_mapping_that_does_not_go_is_named_and_waited_for_again() {
    with_bound(|rig, bound| {
        let [home, _] = rig.two_of_one_adapter();
        let buffer = create(rig, &home);
        let recorder = Arc::new(Recorder::default());
        let seat = buffer.attach_dynamic(&home, Arc::clone(&recorder) as _).expect("a seat");
        let ghost = seat.map(Access::Read).expect("mapped");
        buffer.migrate(DomainId::System).expect("nobody holds it");
        let current = seat.map(Access::Read).expect("mapped");
        let host = buffer.host_access(Access::Read).expect("the host reads");

        let held = |error: Error, mapped: u32, host: u32| {
            let Error::Timeout { what, after } = &error else { panic!("{error}") };
            assert_eq!(*after, bound);
            let by = format!("{mapped} mappings ({mapped} by {})", home.name());
            assert!(what.contains("lent") && what.contains(&by), "{error}");
            assert!(what.contains(&format!("{host} host and open accesses")), "{error}");
        };
        held(buffer.revoke().expect_err("all are held"), 2, 1);
        assert!(buffer.is_revoked());
        drop(host);
        drop(current);
        held(buffer.rearm().expect_err("one is still held"), 1, 0);
        assert!(buffer.is_revoked() && is_revoked(seat.map(Access::Read)));
        drop(ghost);
        buffer.revoke().expect("now it is free");
        assert_eq!(recorder.told(), [(0, Cause::Move), (1, Cause::Revoke)]);
        buffer.rearm().expect("free");
        seat.map(Access::Read).expect("mapped");
        drop(seat);
        wait_idle(&[&home]);
    });
}

/// Work that some device may still be at, of each kind: until it says that it has finished, a buffer is
/// not revoked. (The kernel once waited for moves alone.)
#[test]
fn fences_of_every_usage_are_waited_for() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    for access in [Access::Read, Access::Write] {
        let buffer = create(&rig, &home);
        let seat = buffer.attach(&home).expect("a seat");
        let mapping = seat.map(Access::ReadWrite).expect("mapped");
        let (fence, signal) = rig.engine().host_fence();
        mapping.begin_access(access).expect("current").end(fence);
        drop(mapping);
        let finished = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let revoker = scope.spawn(|| {
                buffer.revoke().expect("it ends");
                assert!(finished.load(Ordering::Acquire), "{access}: not before its fence");
            });
            until_marked(&buffer);
            finished.store(true, Ordering::Release);
            drop(signal);
            revoker.join().expect("after the fence");
        });
    }
}

#[test]
fn the_last_one_to_let_go_wakes_it_whoever_that_is() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    // One of them goes last, each in its turn.
    for last in 0..4 {
        let buffer = create(&rig, &home);
        let seat = buffer.attach_dynamic(&peer, Arc::new(Recorder::default())).expect("a seat");
        let orphan = buffer.attach(&home).expect("a seat");
        let ghost = seat.map(Access::Read).expect("mapped");
        buffer.migrate(DomainId::System).expect("nobody holds it");
        let (fixed, current) = (
            orphan.map(Access::Read).expect("mapped"),
            seat.map(Access::ReadWrite).expect("mapped"),
        );
        let host = buffer.host_access(Access::Read).expect("the host reads");
        let mut held: Vec<Box<dyn Send>> =
            vec![Box::new(ghost), Box::new(fixed), Box::new(host), Box::new(current)];
        held.swap(last, 3);
        // A mapping outlives its seat.
        drop(orphan);
        let holding = AtomicU32::new(4);
        std::thread::scope(|scope| {
            let revoker = scope.spawn(|| {
                buffer.revoke().expect("it ends");
                assert_eq!(holding.load(Ordering::Acquire), 0, "somebody held it");
            });
            until_marked(&buffer);
            for guard in held {
                holding.fetch_sub(1, Ordering::AcqRel);
                drop(guard);
            }
            revoker.join().expect("after the last one");
        });
    }
}

#[test]
fn an_open_access_is_waited_for_and_so_is_what_it_submitted() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach(&home).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let open = mapping.begin_access(Access::Write).expect("current");
        let revoker = scope.spawn(|| {
            buffer.revoke().expect("it ends");
            assert!(finished.load(Ordering::Acquire), "not before its fence");
        });
        until_marked(&buffer);
        // What was begun before the mark comes to its end.
        open.end(fence);
        drop(mapping);
        finished.store(true, Ordering::Release);
        drop(signal);
        revoker.join().expect("after the fence");
    });
}

#[test]
fn what_is_pinned_is_revoked_and_the_pin_counts_again_afterwards() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    let pin = seat.pin("scanout").expect("no limit");
    buffer.revoke().expect("a pin is only a count");
    assert_eq!(recorder.told(), [(0, Cause::Revoke)]);
    buffer.rearm().expect("nobody holds it");
    let error = buffer.migrate(DomainId::System).expect_err("pinned");
    assert!(matches!(error, Error::Busy { pinned: 1, .. }), "{error}");
    buffer.revoke().expect("again");
    drop(pin);
    buffer.rearm().expect("nobody holds it");
    assert_eq!(buffer.migrate(DomainId::System).expect("free"), Migration::Done { generation: 1 });
}

#[test]
fn what_a_stranger_has_cannot_be_taken_back() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&home, Arc::clone(&recorder) as _).expect("a seat");
    let exports = [(); 2].map(|()| buffer.export_foreign().expect("an fd"));
    // To be handed out it may have moved into memory of its own.
    let told = recorder.told().len();
    let error = buffer.revoke().expect_err("handed out");
    assert!(matches!(error, Error::HandedOut { exports: 2, .. }), "{error}");
    assert!(error.is_retryable() && !buffer.is_revoked());
    assert_eq!(recorder.told().len(), told, "nothing has changed");
    seat.map(Access::Read).expect("nothing");
    drop(exports);
    buffer.revoke().expect("nobody has an fd any more");
    assert_eq!(recorder.told().len(), told + 1);
}

#[test]
fn two_revoke_at_once_and_each_learns_of_the_end() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    for round in 1..=20 {
        let mapping = seat.map(Access::Read).expect("mapped");
        let start = Barrier::new(4);
        let begin = || {
            start.wait();
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    begin();
                    buffer.revoke().expect("it ends");
                });
            }
            scope.spawn(move || drop(mapping));
            begin();
        });
        assert!(buffer.is_revoked() && rig.engine().live().count(Object::Mapping) == 0);
        assert_eq!(recorder.told().len(), round, "once, whoever was first");
        // And two arm it again.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| buffer.rearm().expect("it ends"));
            }
        });
    }
}

/// Holds what it mapped until it is told, and hands it to a thread that drops it: an importer that gives
/// up for good, and has something of its own to stop first.
struct GiveUp {
    engine: Arc<Engine>,
    stopping: Sender<(Mapping, Signal)>,
    held: Mutex<Option<Mapping>>,
}

impl GiveUp {
    fn new(engine: &Arc<Engine>) -> (Arc<Self>, Receiver<(Mapping, Signal)>) {
        let (stopping, stopped) = channel();
        (Arc::new(Self { engine: Arc::clone(engine), stopping, held: Mutex::default() }), stopped)
    }
}

impl Importer for GiveUp {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        let held = self.held.lock().expect("not poisoned").take();
        if let (Cause::Revoke, Some(mapping)) = (told.cause(), held) {
            let (fence, signal) = self.engine.host_fence();
            told.still_using(Access::ReadWrite, fence);
            self.stopping.send((mapping, signal)).expect("somebody listens");
        }
    }
}

#[test]
fn an_importer_stops_and_lets_go_when_it_is_told() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let engine = Arc::new(rig.take_engine());
    let descriptor = BufferDescriptor::new(SIZE).name("lent");
    let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
    let (importer, stopped) = GiveUp::new(&engine);
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&importer) as _).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    *importer.held.lock().expect("not poisoned") = Some(mapping);
    let finished = Arc::new(AtomicBool::new(false));
    let worker = std::thread::spawn({
        let finished = Arc::clone(&finished);
        move || {
            let (mapping, signal) = stopped.recv().expect("it is told");
            drop(signal);
            finished.store(true, Ordering::Release);
            drop(mapping);
        }
    });
    buffer.revoke().expect("everybody lets go");
    assert!(finished.load(Ordering::Acquire));
    worker.join().expect("no panic");
}

#[test]
fn nobody_has_a_mapping_when_a_revocation_is_at_its_end() {
    const ROUNDS: u32 = 100;
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let seats = [
        buffer.attach(&home).expect("a seat"),
        buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat"),
    ];
    let (done, mapped) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for seat in &seats {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    match seat.map(Access::ReadWrite) {
                        Ok(mapping) => {
                            mapped.fetch_add(1, Ordering::Relaxed);
                            let view = mapping.view().map(|_| ());
                            assert!(view.is_ok() || is_revoked(view), "good or revoked");
                        }
                        Err(error) => assert!(matches!(error, Error::Revoked { .. }), "{error}"),
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            // Between two revocations somebody gets at it.
            let before = mapped.load(Ordering::Relaxed);
            while mapped.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            buffer.revoke().expect("they let go");
            let live = rig.engine().live();
            // A mapping is counted as dead just after it has let go.
            while live.count(Object::Mapping) > 0 {
                std::thread::yield_now();
            }
            let counted = mapped.load(Ordering::Acquire);
            buffer.revoke().expect("at its end already");
            assert_eq!(mapped.load(Ordering::Acquire), counted, "round {round}: a new mapping");
            buffer.rearm().expect("nobody holds it");
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(recorder.told(), vec![(0, Cause::Revoke); ROUNDS as usize]);
}

#[test]
fn a_buffer_that_moves_all_the_time_stands_still_when_it_is_revoked() {
    const ROUNDS: u32 = 30;
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 8);
    let recorder = Arc::new(Recorder::default());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("a seat");
    let done = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let places = [DomainId::System, DomainId::Vram(peer.id()), DomainId::Vram(home.id())];
            let mut moves = 0;
            for place in places.into_iter().cycle() {
                if done.load(Ordering::Acquire) {
                    break;
                }
                match buffer.migrate(place) {
                    Ok(Migration::Done { .. }) => moves += 1,
                    Ok(Migration::None) => {}
                    Err(error) => assert!(matches!(error, Error::Revoked { .. }), "{error}"),
                }
            }
            moves
        });
        for round in 0..ROUNDS {
            let before = buffer.generation();
            while buffer.generation() == before {
                std::thread::yield_now();
            }
            buffer.revoke().expect("moves come to their end");
            let place = (buffer.generation(), buffer.domain());
            buffer.revoke().expect("at its end already");
            assert_eq!((buffer.generation(), buffer.domain()), place, "round {round}");
            buffer.rearm().expect("nobody holds it");
        }
        done.store(true, Ordering::Release);
        mover.join().expect("no panic")
    });
    let told = recorder.told();
    let causes = |cause| told.iter().filter(|(_, why)| *why == cause).count();
    assert_eq!(causes(Cause::Revoke), ROUNDS as usize);
    assert_eq!(buffer.generation(), moves, "generations are moves, and nothing else");
    assert!(causes(Cause::Move) >= moves as usize);
    bytes::assert_sequence(&buffer, 8, "after all those moves");
    drop(seat);
}

/// Lets a move wait until it is told to go on.
#[derive(Default)]
struct Hesitant(Mutex<Option<(peerbuf::Fence, Signal)>>, Mutex<Option<Signal>>);

impl Importer for Hesitant {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        if let Some((fence, signal)) = self.0.lock().expect("not poisoned").take() {
            told.still_using(Access::Read, fence);
            *self.1.lock().expect("not poisoned") = Some(signal);
        }
    }
}

#[test]
fn a_move_that_waits_is_given_up_when_the_buffer_is_revoked() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 2);
    let hesitant = Arc::new(Hesitant::default());
    *hesitant.0.lock().expect("not poisoned") = Some(rig.engine().host_fence());
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&hesitant) as _).expect("a seat");
    let place = buffer.domain();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        while hesitant.1.lock().expect("not poisoned").is_none() {
            std::thread::yield_now();
        }
        let revoker = scope.spawn(|| buffer.revoke());
        until_marked(&buffer);
        drop(hesitant.1.lock().expect("not poisoned").take());
        assert!(is_revoked(mover.join().expect("no panic")));
        revoker.join().expect("no panic").expect("nothing is under way any more");
    });
    assert_eq!((buffer.generation(), buffer.domain()), (0, place));
    buffer.rearm().expect("nobody holds it");
    bytes::assert_sequence(&buffer, 2, "where it was");
    buffer.migrate(DomainId::System).expect("nothing of the old move is left");
    drop(seat);
}

/// Drops its own seat as soon as it is told, from another thread; so the one who tells it may have the
/// last reference, and with it a mapping.
struct Leaver {
    told: Sender<()>,
    held: Mutex<Option<Mapping>>,
}

impl Importer for Leaver {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        // Nobody listens any more the second time.
        let _ = self.told.send(());
    }
}

#[test]
fn those_who_leave_while_they_are_told_are_dropped_where_that_is_allowed() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for _ in 0..50 {
        let buffer = create(&rig, &home);
        let (told, hears) = channel();
        let leaver = Arc::new(Leaver { told, held: Mutex::default() });
        let seat = buffer.attach_dynamic(&peer, Arc::clone(&leaver) as _).expect("a seat");
        *leaver.held.lock().expect("not poisoned") = Some(seat.map(Access::Read).expect("mapped"));
        drop(leaver);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                hears.recv().expect("it is told");
                drop(seat);
            });
            buffer.revoke().expect("the mapping goes with the importer");
        });
    }
}

#[test]
fn everything_may_be_dropped_while_it_is_being_revoked() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    for round in 0..40 {
        let buffer = create(&rig, &home);
        let fixed = buffer.attach(&home).expect("a seat");
        let moving =
            buffer.attach_dynamic(&peer, Arc::new(Recorder::default())).expect("another seat");
        let mapping = fixed.map(Access::ReadWrite).expect("mapped");
        if round % 2 == 0 {
            mapping.fill(1).expect("a pass");
        }
        let seen = moving.map(Access::Read).expect("mapped");
        let pin = moving.pin("short").expect("no limit");
        let (one, other) = (buffer.clone(), buffer);
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                drop((fixed, mapping));
            });
            scope.spawn(move || {
                start.wait();
                drop((pin, seen, moving));
            });
            scope.spawn(move || {
                start.wait();
                one.revoke().expect("they let go");
            });
            start.wait();
            drop(other);
        });
    }
}
