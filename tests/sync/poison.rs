//! Errors travel with fences: a buffer whose writer failed is never silently wrong. It says so to everybody
//! who would use its bytes, until somebody says that it knows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{Rig, bytes};
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Error, Fence, Importer,
    Invalidation, SharedBuffer, Signal,
};

const SIZE: u64 = 70_000;
const WHY: &str = "the decoder gave up";

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(SIZE).name("frame")).expect("a buffer")
}

/// Work on the buffer, by somebody who submits himself, that is under way until the signal says how it
/// ended.
fn begin(rig: &Rig, seat: &Attachment, access: Access) -> Signal {
    let mapping = seat.map(access).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(access).expect("current").end(fence);
    signal
}

fn is_poisoned<T: std::fmt::Debug>(result: peerbuf::Result<T>) -> bool {
    matches!(result, Err(Error::Poisoned { buffer, .. }) if buffer == "frame")
}

#[test]
fn everything_that_would_use_the_bytes_is_refused_until_somebody_accepts_them() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 3);
    let seat = buffer.attach(&home).expect("a seat");
    let early = seat.map(Access::ReadWrite).expect("mapped");
    let handles = early.view().expect("nothing has happened yet");
    let other = rig.engine().create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
    let copy = |from, to| rig.engine().copy(from, to, CopyRegion::first(64)).map(|_| ());
    drop(seat.pin("scanout").expect("nothing has happened yet"));

    begin(&rig, &seat, Access::Write).fail(WHY);
    let error = buffer.host_access(Access::Read).map(|_| ()).expect_err("torn");
    let Error::Poisoned { cause, .. } = &error else { panic!("{error}") };
    assert!(cause.contains(WHY) && !error.is_retryable(), "{error}");
    assert!(is_poisoned(early.view()), "a mapping from before");
    assert!(is_poisoned(early.fill(1)) && is_poisoned(early.checksum()), "passes");
    assert!(is_poisoned(early.begin_access(Access::Read).map(|_| ())), "an own submission");
    assert!(is_poisoned(seat.map(Access::Read)), "map");
    assert!(is_poisoned(seat.pin("scanout").map(|_| ())), "a pin as before");
    assert!(is_poisoned(seat.pin("rdma").map(|_| ())), "a pin for a new reason");
    assert!(is_poisoned(buffer.attach(&peer).map(|_| ())), "attach");
    assert!(is_poisoned(buffer.host_access(Access::Write).map(|_| ())), "a write, maybe of a part");
    assert!(is_poisoned(buffer.export_foreign().map(|_| ())), "export");
    assert!(is_poisoned(copy(&buffer, &other)) && is_poisoned(copy(&other, &buffer)), "copies");
    assert!(buffer.is_poisoned() && !other.is_poisoned());

    buffer.accept_content().expect("nothing is under way");
    assert!(!buffer.is_poisoned());
    bytes::assert_sequence(&buffer, 3, "nothing was lost here");
    assert_eq!(early.view().expect("good again"), handles);
    drop(seat.pin("scanout").expect("as before"));
    early.fill(5).expect("as before");
    assert!(early.verify(5).expect("a pass").is_clean());
}

#[test]
fn whoever_looks_first_finds_it() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    type Look = fn(&SharedBuffer, &Attachment) -> peerbuf::Result<()>;
    let looks: [(&str, Look); 5] = [
        ("map", |_, seat| seat.map(Access::Read).map(|_| ())),
        ("host access", |buffer, _| buffer.host_access(Access::Read).map(|_| ())),
        ("pin", |_, seat| seat.pin("scanout").map(|_| ())),
        ("move", |buffer, _| buffer.migrate(DomainId::System).map(|_| ())),
        ("export", |buffer, _| buffer.export_foreign().map(|_| ())),
    ];
    for (what, look) in looks {
        let buffer = create(&rig, &home);
        let seat = buffer.attach(&peer).expect("a seat");
        begin(&rig, &seat, Access::ReadWrite).fail(WHY);
        assert!(is_poisoned(look(&buffer, &seat)), "{what}");
        assert_eq!((buffer.generation(), buffer.domain()), (0, DomainId::Vram(home.id())));
        buffer.accept_content().expect("nothing is under way");
        look(&buffer, &seat).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let buffer = create(&rig, &home);
    let seat = buffer.attach(&peer).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    begin(&rig, &seat, Access::Write).fail(WHY);
    assert!(is_poisoned(mapping.verify(1)), "a pass");
    buffer.accept_content().expect("nothing is under way");
    let submit = || rig.engine().submit(&peer, |s| s.read(&mapping).map(|_| ()));
    submit().expect("accepted");
    begin(&rig, &seat, Access::Write).fail(WHY);
    assert!(is_poisoned(submit()), "a submission");
}

#[test]
fn whoever_was_waiting_for_the_failed_work_is_told_as_well() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach(&home).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let signal = begin(&rig, &seat, Access::Write);
    std::thread::scope(|scope| {
        let waiters = [
            scope.spawn(|| buffer.host_access(Access::Read).map(|_| ())),
            scope.spawn(|| mapping.verify(1).map(|_| ())),
            scope.spawn(|| mapping.begin_access(Access::Write).map(|_| ())),
        ];
        signal.fail(WHY);
        for waiter in waiters {
            assert!(is_poisoned(waiter.join().expect("no panic")));
        }
    });
}

#[test]
fn a_reader_that_fails_harms_nobody() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 7);
    let seat = buffer.attach(&home).expect("a seat");
    let signal = begin(&rig, &seat, Access::Read);
    std::thread::scope(|scope| {
        // It waits for the reader, whose end is an end.
        let writer = scope.spawn(|| buffer.host_access(Access::Write).map(|_| ()));
        signal.fail(WHY);
        writer.join().expect("no panic").expect("nothing was torn");
    });
    assert!(!buffer.is_poisoned());
    bytes::assert_sequence(&buffer, 7, "after a reader failed");
}

/// Says, the first time, that something is still writing.
#[derive(Default)]
struct Writer(Mutex<Option<Fence>>);

impl Importer for Writer {
    fn invalidate_mappings(&self, told: &Invalidation<'_>) {
        if let Some(fence) = self.0.lock().expect("not poisoned").take() {
            told.still_using(Access::Write, fence);
        }
    }
}

#[test]
fn what_is_torn_does_not_move() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 1);
    let writer = Arc::new(Writer::default());
    let (fence, signal) = rig.engine().host_fence();
    *writer.0.lock().expect("not poisoned") = Some(fence);
    let seat = buffer.attach_dynamic(&peer, Arc::clone(&writer) as _).expect("a seat");
    let place = buffer.domain();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        while writer.0.lock().expect("not poisoned").is_some() {
            std::thread::yield_now();
        }
        signal.fail(WHY);
        assert!(is_poisoned(mover.join().expect("no panic")));
    });
    assert_eq!((buffer.generation(), buffer.domain()), (0, place));
    buffer.accept_content().expect("nothing is under way");
    buffer.migrate(DomainId::System).expect("known to be what it is");
    bytes::assert_sequence(&buffer, 1, "in the new place");
    drop(seat);
}

#[test]
fn it_can_be_revoked_and_is_still_poisoned_afterwards() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach(&home).expect("a seat");
    let signal = begin(&rig, &seat, Access::Write);
    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        signal.fail(WHY);
        revoker.join().expect("no panic").expect("the end is an end");
    });
    assert!(buffer.is_poisoned() && buffer.is_revoked());
    let error = seat.map(Access::Read).expect_err("both");
    assert!(matches!(error, Error::Revoked { .. }), "{error}");
    buffer.rearm().expect("nobody holds it");
    assert!(is_poisoned(seat.map(Access::Read)));
    buffer.accept_content().expect("nothing is under way");
    seat.map(Access::Read).expect("mapped");
}

#[test]
fn its_memory_is_as_good_as_any_for_the_next_owner() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    for _ in 0..4 {
        let buffer = create(&rig, &home);
        bytes::assert_zero(&buffer, "a new buffer");
        bytes::write(&buffer, 2);
        let seat = buffer.attach(&home).expect("a seat");
        begin(&rig, &seat, Access::Write).fail(WHY);
        assert!(buffer.is_poisoned());
    }
}

/// Counts what is told as an error.
#[derive(Clone, Default)]
struct Errors(Arc<AtomicUsize>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn it_is_said_loudly_and_once() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach(&home).expect("a seat");
    let errors = Errors::default();
    tracing::subscriber::with_default(errors.clone(), || {
        for times in 1..=2 {
            begin(&rig, &seat, Access::Write).fail(WHY);
            for _ in 0..3 {
                assert!(is_poisoned(seat.map(Access::Read)));
            }
            assert_eq!(errors.0.load(Ordering::Relaxed), times);
            buffer.accept_content().expect("nothing is under way");
        }
    });
}
