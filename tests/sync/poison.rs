//! Errors travel with fences: a buffer whose writer failed reports `Error::Poisoned` to every use of its bytes
//! until its content is accepted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::until::until;
use crate::common::{Rig, bytes};
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Error, Fence, Importer,
    Invalidation, SharedBuffer, Signal,
};

const SIZE: u64 = 70_000;
const WHY: &str = "the decoder failed";

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(SIZE).name("frame")).expect("a buffer")
}

/// Starts work on the buffer outside the engine. The signal ends it.
fn begin(rig: &Rig, attachment: &Attachment, access: Access) -> Signal {
    let mapping = attachment.map(access).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(access).expect("current").end(fence);
    signal
}

fn is_poisoned<T: std::fmt::Debug>(result: peerbuf::Result<T>) -> bool {
    matches!(result, Err(Error::Poisoned { buffer, .. }) if buffer == "frame")
}

#[test]
fn every_use_of_a_poisoned_buffer_is_refused_until_its_content_is_accepted() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 3);
    let attachment = buffer.attach(&home).expect("an attachment");
    let early = attachment.map(Access::ReadWrite).expect("mapped");
    let handles = early.view().expect("not yet poisoned");
    let other = rig.engine().create_buffer(&home, BufferDescriptor::new(SIZE)).expect("a buffer");
    let copy = |from, to| rig.engine().copy(from, to, CopyRegion::first(64)).map(|_| ());
    drop(attachment.pin("scanout").expect("not yet poisoned"));

    begin(&rig, &attachment, Access::Write).fail(WHY);
    let error = buffer.host_access(Access::Read).map(|_| ()).expect_err("poisoned");
    let Error::Poisoned { cause, .. } = &error else { panic!("{error}") };
    assert!(cause.contains(WHY) && !error.is_retryable(), "{error}");
    assert!(is_poisoned(early.view()), "an earlier mapping");
    assert!(is_poisoned(early.fill(1)) && is_poisoned(early.checksum()), "passes");
    assert!(is_poisoned(early.begin_access(Access::Read).map(|_| ())), "an access of its own");
    assert!(is_poisoned(attachment.map(Access::Read)), "map");
    assert!(is_poisoned(attachment.pin("scanout").map(|_| ())), "a pin as before");
    assert!(is_poisoned(attachment.pin("rdma").map(|_| ())), "a pin for a new reason");
    assert!(is_poisoned(buffer.attach(&peer).map(|_| ())), "attach");
    assert!(is_poisoned(buffer.host_access(Access::Write).map(|_| ())), "a write, maybe of a part");
    assert!(is_poisoned(buffer.export_foreign().map(|_| ())), "export");
    assert!(is_poisoned(copy(&buffer, &other)) && is_poisoned(copy(&other, &buffer)), "copies");
    assert!(buffer.is_poisoned() && !other.is_poisoned());

    buffer.accept_content().expect("no work in progress");
    assert!(!buffer.is_poisoned());
    bytes::assert_sequence(&buffer, 3, "the content is unchanged");
    assert_eq!(early.view().expect("accepted"), handles);
    drop(attachment.pin("scanout").expect("as before"));
    early.fill(5).expect("as before");
    assert!(early.verify(5).expect("a pass").is_clean());
}

#[test]
fn the_first_call_after_the_failure_reports_it() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    type Use = fn(&SharedBuffer, &Attachment) -> peerbuf::Result<()>;
    let uses: [(&str, Use); 5] = [
        ("map", |_, attachment| attachment.map(Access::Read).map(|_| ())),
        ("host access", |buffer, _| buffer.host_access(Access::Read).map(|_| ())),
        ("pin", |_, attachment| attachment.pin("scanout").map(|_| ())),
        ("move", |buffer, _| buffer.migrate(DomainId::System).map(|_| ())),
        ("export", |buffer, _| buffer.export_foreign().map(|_| ())),
    ];
    for (what, use_it) in uses {
        let buffer = create(&rig, &home);
        let attachment = buffer.attach(&peer).expect("an attachment");
        begin(&rig, &attachment, Access::ReadWrite).fail(WHY);
        assert!(is_poisoned(use_it(&buffer, &attachment)), "{what}");
        assert_eq!((buffer.generation(), buffer.domain()), (0, DomainId::Vram(home.id())));
        buffer.accept_content().expect("no work in progress");
        use_it(&buffer, &attachment).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let buffer = create(&rig, &home);
    let attachment = buffer.attach(&peer).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    begin(&rig, &attachment, Access::Write).fail(WHY);
    assert!(is_poisoned(mapping.verify(1)), "a pass");
    buffer.accept_content().expect("no work in progress");
    let submit = || rig.engine().submit(&peer, |s| s.read(&mapping).map(|_| ()));
    submit().expect("accepted");
    begin(&rig, &attachment, Access::Write).fail(WHY);
    assert!(is_poisoned(submit()), "a submission");
}

#[test]
fn waiters_for_the_failed_work_report_the_poison() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach(&home).expect("an attachment");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    let signal = begin(&rig, &attachment, Access::Write);
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
fn a_failed_reader_does_not_poison_the_buffer() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 7);
    let attachment = buffer.attach(&home).expect("an attachment");
    let signal = begin(&rig, &attachment, Access::Read);
    std::thread::scope(|scope| {
        // The writer waits for the reader; a failed reader has ended too.
        let writer = scope.spawn(|| buffer.host_access(Access::Write).map(|_| ()));
        signal.fail(WHY);
        writer.join().expect("no panic").expect("not poisoned");
    });
    assert!(!buffer.is_poisoned());
    bytes::assert_sequence(&buffer, 7, "after a reader failed");
}

/// Reports, at its first notification, that a write is still in progress.
#[derive(Default)]
struct Writer(Mutex<Option<Fence>>);

impl Importer for Writer {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        if let Some(fence) = self.0.lock().expect("not poisoned").take() {
            invalidation.add_fence(Access::Write, fence);
        }
    }
}

#[test]
fn a_poisoned_buffer_does_not_move() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    bytes::write(&buffer, 1);
    let writer = Arc::new(Writer::default());
    let (fence, signal) = rig.engine().host_fence();
    *writer.0.lock().expect("not poisoned") = Some(fence);
    let attachment = buffer.attach_dynamic(&peer, Arc::clone(&writer) as _).expect("an attachment");
    let domain = buffer.domain();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| buffer.migrate(DomainId::System));
        until(|| writer.0.lock().expect("not poisoned").is_none(), |&taken| taken);
        signal.fail(WHY);
        assert!(is_poisoned(mover.join().expect("no panic")));
    });
    assert_eq!((buffer.generation(), buffer.domain()), (0, domain));
    buffer.accept_content().expect("no work in progress");
    buffer.migrate(DomainId::System).expect("its content is accepted");
    bytes::assert_sequence(&buffer, 1, "in the new backing");
    drop(attachment);
}

#[test]
fn revocation_keeps_the_poison() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach(&home).expect("an attachment");
    let signal = begin(&rig, &attachment, Access::Write);
    std::thread::scope(|scope| {
        let revoker = scope.spawn(|| buffer.revoke());
        signal.fail(WHY);
        revoker.join().expect("no panic").expect("failed work has ended");
    });
    assert!(buffer.is_poisoned() && buffer.is_revoked());
    let error = attachment.map(Access::Read).expect_err("revoked and poisoned");
    assert!(matches!(error, Error::Revoked { .. }), "{error}");
    buffer.unrevoke().expect("not held");
    assert!(is_poisoned(attachment.map(Access::Read)));
    buffer.accept_content().expect("no work in progress");
    attachment.map(Access::Read).expect("mapped");
}

#[test]
fn memory_of_a_poisoned_buffer_is_reused_clean() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    for _ in 0..4 {
        let buffer = create(&rig, &home);
        bytes::assert_zero(&buffer, "a new buffer");
        bytes::write(&buffer, 2);
        let attachment = buffer.attach(&home).expect("an attachment");
        begin(&rig, &attachment, Access::Write).fail(WHY);
        assert!(buffer.is_poisoned());
    }
}

/// Counts log events of level error.
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
fn a_failed_write_logs_one_error() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let attachment = buffer.attach(&home).expect("an attachment");
    let errors = Errors::default();
    tracing::subscriber::with_default(errors.clone(), || {
        for times in 1..=2 {
            begin(&rig, &attachment, Access::Write).fail(WHY);
            for _ in 0..3 {
                assert!(is_poisoned(attachment.map(Access::Read)));
            }
            assert_eq!(errors.0.load(Ordering::Relaxed), times);
            buffer.accept_content().expect("no work in progress");
        }
    });
}
