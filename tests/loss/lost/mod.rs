//! A device is lost with the content of its memory. A buffer with a clean copy elsewhere is promoted to that copy;
//! without one it is poisoned; buffers in other domains are not affected.

mod at_work;
mod detection;
mod shared_timelines;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::commands::record_fill;
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::until::until;
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::What;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Fence, Importer,
    Invalidation, InvalidationCause, Migration, Placement, Refault, SharedBuffer, UnplugReport,
};

const SIZE: u64 = 1 << 20;

/// Two devices of one adapter. The first one is lost.
struct Pair {
    first: Device,
    second: Device,
    // Last: its drop checks that nothing else is alive.
    rig: Rig,
}

impl Pair {
    fn new() -> Self {
        let rig = Rig::new();
        let [first, second] = rig.two_of_one_adapter();
        Self { first, second, rig }
    }

    fn engine(&self) -> &Engine {
        self.rig.engine()
    }

    /// A buffer in the memory of the first device only, with the sequence of 1.
    fn buffer(&self) -> SharedBuffer {
        let descriptor = BufferDescriptor::new(SIZE);
        let buffer = self.engine().create_buffer(&self.first, descriptor).expect("a buffer");
        bytes::write(&buffer, 1);
        assert_eq!(buffer.domain(), vram(&self.first));
        buffer
    }

    /// Such a buffer with a clean copy.
    fn with_clean_copy(&self) -> SharedBuffer {
        let buffer = self.buffer();
        buffer.evict().expect("not held");
        buffer.request_residency().expect("there is room");
        wait_idle(&[&self.first]);
        assert_eq!(buffer.domain(), vram(&self.first));
        buffer
    }

    /// An attachment of the second device for `importer`.
    fn attach(&self, buffer: &SharedBuffer, importer: Arc<dyn Importer>) -> Attachment {
        buffer.attach_dynamic(&self.second, importer).expect("an attachment")
    }

    /// Unplugs the first device. Returns how many buffers were promoted and lost.
    fn unplug(&self) -> (usize, usize) {
        counts(self.engine().unplug(&self.first).expect("of this engine"))
    }

    /// Makes a submission detect that the first device is lost.
    fn lose(&self) {
        lose(self.engine(), &self.first);
    }
}

fn counts(report: UnplugReport) -> (usize, usize) {
    (report.promoted, report.lost)
}

/// Makes a submission detect that the device is lost.
pub(crate) fn lose(engine: &Engine, device: &Device) {
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    let lost = engine.submit(device, |_| Ok(())).expect_err("the injected error");
    assert!(matches!(lost, Error::DeviceLost { .. }) && device.is_lost(), "{lost}");
}

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn assert_lost(error: &Error) {
    assert!(error.is_device_lost(), "{error}");
}

/// A buffer whose home is the first device, with the pattern of `seed` and an attachment of each device.
fn create(
    engine: &Engine,
    devices: &[Device; 2],
    placement: Placement,
    seed: u32,
) -> (SharedBuffer, [Attachment; 2], Arc<Recorder>) {
    let descriptor = BufferDescriptor::new(SIZE).placement(placement);
    let buffer = engine.create_buffer(&devices[0], descriptor).expect("a buffer");
    let recorder = Recorder::new(true);
    let attachments = [
        buffer.attach_dynamic(&devices[0], Recorder::new(true)).expect("an attachment"),
        buffer.attach_dynamic(&devices[1], Arc::clone(&recorder) as _).expect("an attachment"),
    ];
    attachments[0].map(Access::Write).and_then(|mapping| mapping.fill(seed)).expect("filled");
    (buffer, attachments, recorder)
}

fn assert_pattern(attachment: &Attachment, seed: u32) {
    let report =
        attachment.map(Access::Read).and_then(|mapping| mapping.verify(seed)).expect("read");
    assert!(report.is_clean(), "{report:?}");
}

fn check(detected: bool) {
    let rig = Rig::new();
    let engine = rig.engine();
    for first in rig.all() {
        let devices = [first.clone(), rig.open(&first.adapter().clone())];
        let vram = vram(&first);
        let anywhere = Placement::VramOrSystem;
        let (kept, kept_attachments, kept_recorder) = create(engine, &devices, anywhere, 1);
        let (gone, gone_attachments, _) = create(engine, &devices, anywhere, 2);
        let (apart, apart_attachments, apart_recorder) =
            create(engine, &devices, Placement::System, 3);
        kept.evict().expect("not held");
        kept.request_residency().expect("there is room");
        assert_eq!((kept.domain(), gone.domain()), (vram, vram));
        wait_idle(&[&devices[0], &devices[1]]);
        if detected {
            lose(engine, &first);
        }
        let callbacks = (kept_recorder.invalidated().len(), apart_recorder.invalidated().len());
        assert_eq!(counts(engine.unplug(&first).expect("of this engine")), (1, 1));
        // The buffer is its clean copy.
        assert_eq!(kept.domain(), DomainId::System);
        assert_pattern(&kept_attachments[1], 1);
        assert_eq!(kept_recorder.invalidated().len(), callbacks.0 + 1, "notified once");
        let explained = kept.explain();
        assert_eq!(explained.decisions[0].what, What::Promoted, "{explained}");
        // A buffer without a copy is poisoned until its content is accepted.
        let error = gone_attachments[1].map(Access::Read).expect_err("its content is lost");
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        let explained = gone.explain();
        assert_eq!(explained.decisions[0].what, What::Lost, "{explained}");
        gone.accept_content().expect("not in use");
        gone.migrate(DomainId::System).expect("there is nothing to copy");
        bytes::assert_zero(&gone, "zeroed memory");
        // Other buffers are not affected.
        assert_pattern(&apart_attachments[1], 3);
        assert_eq!(apart_recorder.invalidated().len(), callbacks.1);
        let (other, other_attachments, _) = {
            let swapped = [devices[1].clone(), devices[1].clone()];
            create(engine, &swapped, anywhere, 4)
        };
        assert_pattern(&other_attachments[1], 4);
        drop((other, other_attachments));
        wait_idle(&[&devices[0], &devices[1]]);
        drop((kept_attachments, gone_attachments, apart_attachments));
        drop((kept, gone, apart));
    }
}

#[test]
fn unplugging_a_device_loses_only_content_without_a_copy() {
    check(false);
}

#[test]
fn device_loss_loses_only_content_without_a_copy() {
    check(true);
}

/// Importers are notified that the backing is gone, not that they may keep using the old one.
#[test]
fn promotion_notifies_importers_as_an_eviction() {
    struct Causes(Mutex<Vec<InvalidationCause>>);
    impl Importer for Causes {
        fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
            self.0.lock().expect("not poisoned").push(invalidation.cause());
        }
    }
    let pair = Pair::new();
    let buffer = pair.buffer();
    let recorder = Arc::new(Causes(Default::default()));
    let attachment =
        buffer.attach_dynamic(&pair.first, Arc::clone(&recorder) as _).expect("an attachment");
    buffer.evict().expect("not held");
    buffer.request_residency().expect("there is room");
    wait_idle(&[&pair.first]);
    assert_eq!(pair.unplug(), (1, 0));
    let causes = recorder.0.lock().expect("not poisoned").clone();
    let expected = [InvalidationCause::Evict, InvalidationCause::Move, InvalidationCause::Evict];
    assert_eq!(causes, expected);
    drop(attachment);
}

/// Reports, at its first notification, that work is still in progress.
struct AtWork(Access, Mutex<Option<Fence>>);

impl AtWork {
    fn new(access: Access, fence: Fence) -> Arc<Self> {
        Arc::new(Self(access, Mutex::new(Some(fence))))
    }

    fn was_notified(&self) -> bool {
        self.1.lock().expect("not poisoned").is_none()
    }
}

impl Importer for AtWork {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        if let Some(fence) = self.1.lock().expect("not poisoned").take() {
            invalidation.add_fence(self.0, fence);
        }
    }
}

/// The buffer was restored while the write to its later clean copy was pending; the write then fails.
#[test]
fn a_clean_copy_whose_writer_failed_is_not_promoted() {
    for fails in [false, true] {
        let pair = Pair::new();
        let (engine, first, second) = (pair.engine(), &pair.first, &pair.second);
        let buffer = pair.buffer();
        let attachment = pair.attach(&buffer, Arc::new(Refault::new()));
        buffer.evict().expect("not held");
        engine.set_cap(vram(first), Some(0)).expect("of this engine");
        let mapping = attachment.map(Access::Write).expect("mapped");
        let (before, signal) = engine.host_fence();
        if fails {
            signal.fail("injected failure");
        } else {
            drop(signal);
        }
        let gate = Gate::close(second);
        let written = engine.submit(second, |submission| {
            submission.after(&before);
            record_fill(submission, second, &mapping, 7)
        });
        written.expect("it fails only when it runs");
        drop(mapping);
        engine.set_cap(vram(first), None).expect("of this engine");
        buffer.request_residency().expect("there is room");
        assert_eq!(buffer.domain(), vram(first), "behind the write");
        gate.open();
        wait_idle(&[first, second]);
        assert_eq!(pair.unplug(), (usize::from(!fails), usize::from(fails)));
        assert_eq!(buffer.is_poisoned(), fails, "poisoned exactly if the write failed");
        drop((attachment, buffer));
    }
}

/// The restore that reads a clean copy is still queued while its device is unplugged.
#[test]
fn a_clean_copy_that_is_being_read_is_promoted_after_its_reader() {
    const ROUNDS: usize = 200;
    let pair = Pair::new();
    let buffer = pair.buffer();
    buffer.evict().expect("not held");
    wait_idle(&[&pair.first]);
    let gate = Gate::close(&pair.first);
    buffer.request_residency().expect("there is room");
    assert_eq!(buffer.domain(), vram(&pair.first), "the copy is submitted");
    let counts = std::thread::scope(|scope| {
        let unplug = scope.spawn(|| pair.unplug());
        for _ in 0..ROUNDS {
            if unplug.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        gate.open();
        unplug.join().expect("no importer panics")
    });
    assert_eq!(counts, (1, 0));
    bytes::assert_sequence(&buffer, 1, "promoted");
}

/// A move waits for host work while its device is unplugged.
#[test]
fn a_waiting_move_survives_the_unplug() {
    let pair = Pair::new();
    let buffer = pair.with_clean_copy();
    let (fence, signal) = pair.engine().host_fence();
    let importer = AtWork::new(Access::Read, fence);
    let attachment = pair.attach(&buffer, Arc::clone(&importer) as _);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.relocate());
        until(|| importer.was_notified(), |&notified| notified);
        // Needs the reservation, so the move waits by then.
        assert_eq!(pair.unplug(), (1, 0));
        drop(signal);
        let moved = moving.join().expect("no panic").expect("moved from the promoted copy");
        assert!(matches!(moved, Migration::Done { .. }));
    });
    assert_eq!(buffer.domain(), DomainId::System, "not in the old destination");
    bytes::assert_sequence(&buffer, 1, "the content of the clean copy");
    drop(attachment);
}

/// The move owns the clean copy, so the buffer cannot be promoted meanwhile.
#[test]
fn a_waiting_eviction_completes_during_the_unplug() {
    let pair = Pair::new();
    let buffer = pair.with_clean_copy();
    let (fence, signal) = pair.engine().host_fence();
    let importer = AtWork::new(Access::Read, fence);
    let attachment = pair.attach(&buffer, Arc::clone(&importer) as _);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| buffer.evict());
        until(|| importer.was_notified(), |&notified| notified);
        let unplugging = scope.spawn(|| pair.unplug());
        drop(signal);
        moving.join().expect("no panic").expect("not held");
        assert_eq!(unplugging.join().expect("no panic").1, 0);
    });
    assert_eq!(buffer.domain(), DomainId::System);
    bytes::assert_sequence(&buffer, 1, "evicted");
    drop(attachment);
}

/// The documented way to remove a working device: evict everything, then unplug it.
#[test]
fn no_buffer_returns_to_an_unplugged_device() {
    let pair = Pair::new();
    let (engine, first) = (pair.engine(), &pair.first);
    let buffer = pair.buffer();
    let attachment = pair.attach(&buffer, Arc::new(Refault::new()));
    engine.evict_all(first).expect("of this engine");
    assert_eq!(pair.unplug(), (0, 0), "all were evicted");
    attachment.map(Access::Read).expect("mapped");
    assert_eq!(engine.restore(first).expect("of this engine"), 0);
    assert_eq!(buffer.request_residency().expect("already resident"), Migration::Unchanged);
    assert_lost(&buffer.migrate(vram(first)).expect_err("unplugged"));
    let joint = engine.migrate_many(&[(&buffer, vram(first))]);
    assert!(joint.iter().flat_map(|moved| moved.as_ref().err()).all(Error::is_device_lost));
    assert_eq!((joint.len(), buffer.domain()), (1, DomainId::System));
    bytes::assert_sequence(&buffer, 1, "usable elsewhere");
    drop(attachment);
}

#[test]
fn no_buffer_is_created_on_an_unplugged_device() {
    let pair = Pair::new();
    let (engine, first) = (pair.engine(), &pair.first);
    let descriptor = || BufferDescriptor::new(SIZE).discardable();
    let purged = engine.create_buffer(first, descriptor()).expect("a buffer");
    purged.evict().expect("not held");
    assert_eq!(pair.unplug(), (0, 0));
    for placement in [Placement::VramOrSystem, Placement::Vram, Placement::System] {
        let made = engine.create_buffer(first, descriptor().placement(placement));
        assert_lost(&made.expect_err("unplugged"));
    }
    assert_eq!(
        engine.usage(vram(first)).expect("of this engine").used,
        0,
        "no memory is in use there"
    );
    let elsewhere = engine.create_buffer(&pair.second, descriptor()).expect("not unplugged");
    bytes::write(&elsewhere, 3);
    bytes::assert_sequence(&elsewhere, 3, "not affected");
    // A purged buffer is not renewed there either.
    purged.repopulate().expect("in another domain");
    assert_eq!(purged.domain(), DomainId::System);
}

#[test]
fn importers_of_lost_content_are_notified() {
    let pair = Pair::new();
    let buffer = pair.buffer();
    let recorder = Recorder::new(true);
    let attachment = pair.attach(&buffer, Arc::clone(&recorder) as _);
    assert_eq!(pair.unplug(), (0, 1));
    assert_eq!(recorder.invalidated(), [0]);
    drop(attachment);
}

/// An importer is still writing, and reports that only at its notification.
#[test]
fn a_write_reported_in_a_notification_prevents_promotion() {
    let pair = Pair::new();
    let buffer = pair.with_clean_copy();
    let (fence, signal) = pair.engine().host_fence();
    let attachment = pair.attach(&buffer, AtWork::new(Access::Write, fence));
    let report = pair.unplug();
    drop(signal);
    assert_eq!(report, (0, 1));
    assert!(buffer.is_poisoned(), "the lost memory was newer than the clean copy");
    drop(attachment);
}

struct Panics;

impl Importer for Panics {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {
        panic!("injected failure");
    }
}

#[test]
fn a_panicking_importer_does_not_stop_the_unplug() {
    for by_hand in [true, false] {
        let pair = Pair::new();
        let kept: Vec<_> = (0..3).map(|_| pair.with_clean_copy()).collect();
        let gone = pair.buffer();
        let attachments = [&kept[1], &gone].map(|buffer| pair.attach(buffer, Arc::new(Panics)));
        let caught = if by_hand {
            catch_unwind(AssertUnwindSafe(|| pair.unplug())).map(|_| ())
        } else {
            pair.lose();
            catch_unwind(AssertUnwindSafe(|| pair.engine().trim())).map(|_| ())
        };
        assert!(caught.is_err(), "the panic unwinds");
        for buffer in &kept {
            assert_eq!(buffer.domain(), DomainId::System);
            bytes::assert_sequence(buffer, 1, "promoted");
        }
        assert!(gone.is_poisoned());
        assert_eq!(pair.unplug(), (3, 1), "counted once");
        drop((attachments, kept, gone));
    }
}

#[test]
fn a_device_is_unplugged_once() {
    let pair = Pair::new();
    let (kept, gone) = (pair.with_clean_copy(), pair.buffer());
    let recorders = [Recorder::new(true), Recorder::new(true)];
    let attachments = [(&kept, &recorders[0]), (&gone, &recorders[1])]
        .map(|(buffer, recorder)| pair.attach(buffer, Arc::clone(recorder) as _));
    assert_eq!(pair.unplug(), (1, 1));
    let notified = || [recorders[0].invalidated(), recorders[1].invalidated()].concat();
    let (once, explained) = (notified(), gone.explain().decisions.len());
    // A second unplug, and a detected loss of the same device, change nothing.
    assert_eq!(pair.unplug(), (1, 1), "the first report");
    pair.lose();
    pair.engine().trim();
    assert_eq!(pair.unplug(), (1, 1));
    assert_eq!((notified(), gone.explain().decisions.len()), (once, explained));
    // Accepted content is not lost again.
    gone.accept_content().expect("not in use");
    assert_eq!(pair.unplug(), (1, 1));
    assert!(!gone.is_poisoned());
    drop(attachments);
}
