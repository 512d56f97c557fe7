//! Revocation: every importer is notified once, all holders release the buffer, and every use is refused until it
//! is rearmed. The content is unchanged.

mod races;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};

use crate::common::bound::{besides, with_bound};
use crate::common::until::until;
use crate::common::{Rig, bytes, wait_idle};
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Importer, Invalidation,
    InvalidationCause as Cause, Mapping, Migration, SharedBuffer, Signal,
};

const SIZE: u64 = 70_000;

/// An importer that records its notifications.
#[derive(Default)]
struct Recorder(Mutex<Vec<(u32, Cause)>>);

impl Recorder {
    fn invalidated(&self) -> Vec<(u32, Cause)> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl Importer for Recorder {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        self.0
            .lock()
            .expect("not poisoned")
            .push((invalidation.generation(), invalidation.cause()));
    }
}

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(SIZE).name("lent")).expect("a buffer")
}

fn is_revoked<T: std::fmt::Debug>(result: peerbuf::Result<T>) -> bool {
    matches!(result, Err(Error::Revoked { buffer, .. }) if buffer == "lent")
}

/// Waits until another thread has marked the buffer.
fn until_marked(buffer: &SharedBuffer) {
    until(|| buffer.is_revoked(), |&marked| marked);
}

/// An importer that panics when it is notified.
struct Panics;

impl Importer for Panics {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        panic!("this importer is broken");
    }
}

/// The revocation is complete in spite of the panic.
#[test]
fn a_panicking_importer_does_not_stop_the_notifications() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorders: [Arc<Recorder>; 2] = Default::default();
    let attach = |importer| buffer.attach_dynamic(&peer, importer).expect("an attachment");
    let first = attach(Arc::clone(&recorders[0]) as Arc<dyn Importer>);
    let broken = attach(Arc::new(Panics));
    let last = attach(Arc::clone(&recorders[1]) as _);
    let mapping = last.map(Access::Read).expect("mapped");
    let revoking = std::panic::AssertUnwindSafe(|| buffer.revoke());
    std::panic::catch_unwind(revoking).expect_err("one importer is broken");
    for recorder in &recorders {
        assert_eq!(recorder.invalidated(), [(0, Cause::Revoke)]);
    }
    assert!(buffer.is_revoked() && is_revoked(mapping.view()));
    drop(mapping);
    buffer.revoke().expect("not held, and no second notification");
    buffer.unrevoke().expect("not held");
    last.map(Access::Read).expect("rearmed").view().expect("current");
    drop((first, broken));
}

/// upstream: `dmabuf_revoke` (`iommufd.c`)
#[test]
fn revocation_notifies_once_and_refuses_every_use_until_rearmed() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 4);
    let recorder = Arc::new(Recorder::default());
    let fixed = buffer.attach(&home).expect("an attachment");
    let moving = buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("an attachment");
    let mut mapping = fixed.map(Access::ReadWrite).expect("mapped");
    let other = rig.engine().create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
    let copy = |from, to| rig.engine().copy(from, to, CopyRegion::first(64)).map(|_| ());
    drop(fixed.pin("usual").expect("no limit"));

    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        until_marked(&buffer);
        // The revocation waits for this thread's mapping; meanwhile every use is refused.
        assert!(is_revoked(mapping.view()), "an earlier mapping");
        assert!(is_revoked(mapping.fill(1)) && is_revoked(mapping.verify(1)), "passes");
        assert!(is_revoked(mapping.begin_access(Access::Read).map(|_| ())), "an access of its own");
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
        assert!(is_revoked(buffer.migrate(buffer.domain())), "a move to its current domain");
        assert!(is_revoked(copy(&buffer, &other)) && is_revoked(copy(&other, &buffer)), "copies");
        drop(mapping);
        revoker.join().expect("no panic").expect("no longer held");
    });
    assert_eq!(recorder.invalidated(), [(0, Cause::Revoke)]);
    assert!(is_revoked(fixed.map(Access::Read)), "still revoked");

    buffer.revoke().expect("complete already");
    assert_eq!(recorder.invalidated().len(), 1, "no second notification");
    buffer.unrevoke().expect("not held");
    buffer.unrevoke().expect("rearmed already");
    assert!(!buffer.is_revoked());
    bytes::assert_sequence(&buffer, 4, "after the revocation");
    drop(fixed.pin("usual").expect("as before"));
    fixed.map(Access::Write).and_then(|mapping| mapping.fill(6)).expect("the same attachments");
    let seen = moving.map(Access::Read).and_then(|mapping| mapping.verify(6)).expect("a pass");
    assert!(seen.is_clean(), "{seen:?}");
    buffer.revoke().expect("again");
    assert_eq!(recorder.invalidated(), [(0, Cause::Revoke); 2], "once per revocation");
}

#[test]
fn a_remaining_mapping_is_named_and_awaited_again() {
    with_bound(|rig, bound| {
        let [home, _] = rig.two_of_one_adapter();
        let recorder = Arc::new(Recorder::default());
        let (buffer, attachment, ghost, current) = besides(|| {
            let buffer = create(rig, &home);
            let attachment = buffer.attach_dynamic(&home, Arc::clone(&recorder) as _);
            let attachment = attachment.expect("an attachment");
            let ghost = attachment.map(Access::Read).expect("mapped");
            buffer.migrate(DomainId::System).expect("not held");
            let current = attachment.map(Access::Read).expect("mapped");
            (buffer, attachment, ghost, current)
        });
        let host = besides(|| buffer.host_access(Access::Read).expect("the host reads"));

        let held = |error: Error, mapped: u32, host: u32| {
            let Error::Timeout { what, after, .. } = &error else { panic!("{error}") };
            assert_eq!(*after, bound);
            let by = format!("{mapped} mappings ({mapped} by {})", home.name());
            assert!(what.contains("lent") && what.contains(&by), "{error}");
            assert!(what.contains(&format!("{host} host and open accesses")), "{error}");
        };
        held(buffer.revoke().expect_err("all are held"), 2, 1);
        assert!(buffer.is_revoked());
        drop(host);
        drop(current);
        held(buffer.unrevoke().expect_err("one is still held"), 1, 0);
        assert!(buffer.is_revoked() && is_revoked(attachment.map(Access::Read)));
        drop(ghost);
        besides(|| buffer.revoke().expect("no longer held"));
        assert_eq!(recorder.invalidated(), [(0, Cause::Move), (1, Cause::Revoke)]);
        besides(|| {
            buffer.unrevoke().expect("not held");
            attachment.map(Access::Read).expect("mapped");
        });
        drop(attachment);
        wait_idle(&[&home]);
    });
}

/// Work of each kind that a device may still do: a buffer is not revoked until it has finished. (The kernel once
/// waited for moves alone.)
#[test]
fn revocation_waits_for_fences_of_every_usage() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    for access in [Access::Read, Access::Write] {
        let buffer = create(&rig, &home);
        let attachment = buffer.attach(&home).expect("an attachment");
        let mapping = attachment.map(Access::ReadWrite).expect("mapped");
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
fn the_last_release_of_any_kind_completes_a_revocation() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    // Each of the four is released last once.
    for last in 0..4 {
        let buffer = create(&rig, &home);
        let attachment =
            buffer.attach_dynamic(&peer, Arc::new(Recorder::default())).expect("an attachment");
        let orphan = buffer.attach(&home).expect("an attachment");
        let ghost = attachment.map(Access::Read).expect("mapped");
        buffer.migrate(DomainId::System).expect("not held");
        let (fixed, current) = (
            orphan.map(Access::Read).expect("mapped"),
            attachment.map(Access::ReadWrite).expect("mapped"),
        );
        let host = buffer.host_access(Access::Read).expect("the host reads");
        let mut held: Vec<Box<dyn Send>> =
            vec![Box::new(ghost), Box::new(fixed), Box::new(host), Box::new(current)];
        held.swap(last, 3);
        // A mapping outlives its attachment.
        drop(orphan);
        let holding = AtomicU32::new(4);
        std::thread::scope(|scope| {
            let revoker = scope.spawn(|| {
                buffer.revoke().expect("it ends");
                assert_eq!(holding.load(Ordering::Acquire), 0, "a holder was left");
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
fn revocation_waits_for_an_open_access_and_its_work() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach(&home).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let open = mapping.begin_access(Access::Write).expect("current");
        let revoker = scope.spawn(|| {
            buffer.revoke().expect("it ends");
            assert!(finished.load(Ordering::Acquire), "not before its fence");
        });
        until_marked(&buffer);
        // An access that began before the revocation completes.
        open.end(fence);
        drop(mapping);
        finished.store(true, Ordering::Release);
        drop(signal);
        revoker.join().expect("after the fence");
    });
}

#[test]
fn a_pinned_buffer_is_revoked_and_stays_pinned() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let attachment =
        buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("an attachment");
    let pin = attachment.pin("scanout").expect("no limit");
    buffer.revoke().expect("a pin is only a count");
    assert_eq!(recorder.invalidated(), [(0, Cause::Revoke)]);
    buffer.unrevoke().expect("not held");
    let error = buffer.migrate(DomainId::System).expect_err("pinned");
    assert!(matches!(error, Error::Busy { pinned: 1, .. }), "{error}");
    buffer.revoke().expect("again");
    drop(pin);
    buffer.unrevoke().expect("not held");
    assert_eq!(
        buffer.migrate(DomainId::System).expect("not held"),
        Migration::Done { generation: 1 }
    );
}

#[test]
fn an_exported_buffer_cannot_be_revoked() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let attachment =
        buffer.attach_dynamic(&home, Arc::clone(&recorder) as _).expect("an attachment");
    let exports = [(); 2].map(|()| buffer.export_foreign().expect("an fd"));
    // The first export may have moved it into dedicated memory.
    let notified = recorder.invalidated().len();
    let error = buffer.revoke().expect_err("exported");
    assert!(matches!(error, Error::Exported { exports: 2, .. }), "{error}");
    assert!(error.is_retryable() && !buffer.is_revoked());
    assert_eq!(recorder.invalidated().len(), notified, "a refused revocation changes nothing");
    attachment.map(Access::Read).expect("not revoked");
    drop(exports);
    buffer.revoke().expect("no longer exported");
    assert_eq!(recorder.invalidated().len(), notified + 1);
}

#[test]
fn concurrent_revocations_all_complete() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let attachment =
        buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("an attachment");
    for round in 1..=20 {
        let mapping = attachment.map(Access::Read).expect("mapped");
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
        assert_eq!(recorder.invalidated().len(), round, "one notification per revocation");
        // Two threads unrevoke it.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| buffer.unrevoke().expect("it ends"));
            }
        });
    }
}

/// Keeps a mapping until it is notified, then adds a fence and sends both to a thread that ends its work and drops
/// the mapping.
struct StopsAndReleases {
    engine: Arc<Engine>,
    stopping: Sender<(Mapping, Signal)>,
    held: Mutex<Option<Mapping>>,
}

impl StopsAndReleases {
    fn new(engine: &Arc<Engine>) -> (Arc<Self>, Receiver<(Mapping, Signal)>) {
        let (stopping, stopped) = channel();
        (Arc::new(Self { engine: Arc::clone(engine), stopping, held: Mutex::default() }), stopped)
    }
}

impl Importer for StopsAndReleases {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let held = self.held.lock().expect("not poisoned").take();
        if let (Cause::Revoke, Some(mapping)) = (invalidation.cause(), held) {
            let (fence, signal) = self.engine.host_fence();
            invalidation.add_fence(Access::ReadWrite, fence);
            self.stopping.send((mapping, signal)).expect("the test listens");
        }
    }
}

#[test]
fn an_importer_releases_its_mapping_on_revocation() {
    let mut rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let engine = Arc::new(rig.take_engine());
    let descriptor = BufferDescriptor::new(SIZE).name("lent");
    let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
    let (importer, stopped) = StopsAndReleases::new(&engine);
    let attachment =
        buffer.attach_dynamic(&peer, Arc::clone(&importer) as _).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    *importer.held.lock().expect("not poisoned") = Some(mapping);
    let finished = Arc::new(AtomicBool::new(false));
    let worker = std::thread::spawn({
        let finished = Arc::clone(&finished);
        move || {
            let (mapping, signal) = stopped.recv().expect("notified");
            drop(signal);
            finished.store(true, Ordering::Release);
            drop(mapping);
        }
    });
    buffer.revoke().expect("all holders release it");
    assert!(finished.load(Ordering::Acquire));
    worker.join().expect("no panic");
}

#[test]
fn no_mapping_survives_a_revocation() {
    const ROUNDS: u32 = 100;
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let recorder = Arc::new(Recorder::default());
    let attachments = [
        buffer.attach(&home).expect("an attachment"),
        buffer.attach_dynamic(&peer, Arc::clone(&recorder) as _).expect("an attachment"),
    ];
    let (done, mapped) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for attachment in &attachments {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    match attachment.map(Access::ReadWrite) {
                        Ok(mapping) => {
                            mapped.fetch_add(1, Ordering::Relaxed);
                            let view = mapping.view().map(|_| ());
                            assert!(view.is_ok() || is_revoked(view), "current or revoked");
                        }
                        Err(error) => assert!(matches!(error, Error::Revoked { .. }), "{error}"),
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            // Between two revocations, a thread maps it at least once.
            let before = mapped.load(Ordering::Relaxed);
            until(|| mapped.load(Ordering::Relaxed), |&mapped| mapped != before);
            buffer.revoke().expect("all holders release it");
            let live = rig.engine().live();
            // A mapping leaves the count of live objects just after its release.
            until(|| live.count(Object::Mapping), |&mappings| mappings == 0);
            let counted = mapped.load(Ordering::Acquire);
            buffer.revoke().expect("complete already");
            assert_eq!(mapped.load(Ordering::Acquire), counted, "round {round}: a new mapping");
            buffer.unrevoke().expect("not held");
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(recorder.invalidated(), vec![(0, Cause::Revoke); ROUNDS as usize]);
}
