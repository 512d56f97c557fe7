//! A lost device may still execute what was submitted before the loss. Memory that this work uses is kept from other
//! buffers until a wait has said that nothing is in use.

use super::{SIZE, lose, vram};
use crate::common::app::{App, FAMILY};
use crate::common::bound::{besides, with_bound};
use crate::common::commands::{fill, record_fill};
use crate::common::faulty_queue::{Fate, FaultyQueue};
use crate::common::gate::Gate;
use crate::common::until::rounds;
use crate::common::{LONG, Rig, bytes, wait_idle};
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Fence, Placement,
    ResidencyOptions, SharedBuffer,
};

/// The number of buffers that a test creates to find recycled memory.
const BUFFERS: usize = 4;

fn create(engine: &Engine, home: &Device) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(SIZE).placement(Placement::System);
    engine.create_buffer(home, descriptor).expect("a buffer")
}

/// Holds the queue of `device`, and submits a fill of the buffer's bytes with 07 behind that.
fn hold_and_fill(engine: &Engine, device: &Device, buffer: &SharedBuffer) -> (Gate, Fence) {
    let attachment = buffer.attach(device).expect("an attachment");
    let mapping = attachment.map(Access::Write).expect("a mapping");
    mapping.view().expect("scrubbed by now");
    let gate = Gate::close(device);
    let fence = fill(engine, device, &mapping, 0x0707_0707).expect("a submission");
    (gate, fence)
}

#[test]
fn a_lost_device_still_at_work() {
    let rig = Rig::new();
    let engine = rig.engine();
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        let old = create(engine, &second);
        bytes::write(&old, 1);
        let (gate, fence) = hold_and_fill(engine, &first, &old);
        lose(engine, &first);
        assert!(fence.is_signalled().is_err(), "the fence of a lost device has failed");
        drop(old);
        let created: Vec<_> = (0..BUFFERS).map(|_| create(engine, &second)).collect();
        for buffer in &created {
            bytes::assert_zero(buffer, "a new buffer");
        }
        // The work of the lost device runs now.
        gate.open();
        for buffer in &created {
            bytes::assert_zero(buffer, "a new buffer, after late work of the lost device");
        }
        drop(created);
        // Now nothing is in use, so the memory returns.
        let kept = engine.live().count(Object::Allocation);
        assert!(engine.trim() > 0, "the memory is not lost for good");
        assert!(engine.live().count(Object::Allocation) < kept);
    }
}

/// The memory that a buffer has left is kept as well.
#[test]
fn memory_that_a_buffer_has_left_is_kept_while_a_lost_device_works() {
    let options = ResidencyOptions::new().clean_copies(false);
    let rig = Rig::with(|descriptor| descriptor.residency(options));
    let engine = rig.engine();
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        let old = engine.create_buffer(&second, BufferDescriptor::new(SIZE)).expect("a buffer");
        old.evict().expect("not held");
        bytes::write(&old, 1);
        let attachment = old.attach(&first).expect("an attachment");
        let mapping = attachment.map(Access::ReadWrite).expect("a mapping");
        mapping.view().expect("valid");
        let gate = Gate::close(&first);
        // An unordered use, so that the loss does not poison the buffer.
        let submitted = engine.submit(&first, |submission| {
            submission.unordered(&mapping)?;
            record_unordered_fill(submission, &first, &mapping)
        });
        submitted.expect("a submission");
        lose(engine, &first);
        drop((mapping, attachment));
        old.migrate(vram(&second)).expect("nothing holds it");
        bytes::assert_sequence(&old, 1, "moved away");
        let created: Vec<_> = (0..BUFFERS).map(|_| create(engine, &second)).collect();
        created.iter().for_each(|buffer| bytes::assert_zero(buffer, "a new buffer"));
        gate.open();
        created.iter().for_each(|buffer| bytes::assert_zero(buffer, "after late work"));
    }
}

fn record_unordered_fill<'a>(
    submission: &mut peerbuf::Submission<'a>,
    device: &'a Device,
    mapping: &peerbuf::Mapping,
) -> peerbuf::Result<()> {
    crate::common::commands::record_fill_of(submission, device, mapping, 0..SIZE, 0x0707_0707)
}

/// The content of a buffer whose writer is lost is accepted only once the writer has ended.
#[test]
fn content_is_accepted_once_the_lost_writer_has_ended() {
    with_bound(|rig, _| {
        let engine = rig.engine();
        for first in rig.all() {
            let second = rig.open(&first.adapter().clone());
            let buffer = create(engine, &second);
            let (gate, _) = besides(|| {
                bytes::write(&buffer, 1);
                hold_and_fill(engine, &first, &buffer)
            });
            lose(engine, &first);
            assert!(buffer.is_poisoned());
            let early = buffer.accept_content().expect_err("it may still write");
            assert!(matches!(early, Error::Timeout { .. }), "{early}");
            assert!(buffer.is_poisoned(), "nothing has changed");
            gate.open();
            besides(|| {
                buffer.accept_content().expect("the writer has ended");
                bytes::write(&buffer, 2);
                bytes::assert_sequence(&buffer, 2, "no late write");
            });
            assert_eq!(buffer.domain(), DomainId::System);
        }
    });
}

/// A submission for which `vkQueueSubmit` reports the loss counts as submitted.
#[test]
fn a_rejected_submission_counts_as_submitted() {
    let rig = Rig::new();
    for twin in rig.all() {
        let app = App::new(&rig, twin.adapter(), |_| true);
        let queue = FaultyQueue::new(&app.device, FAMILY);
        let engine = &rig.external_engine();
        let lost = app
            .try_join(&rig, engine, |facts| facts.device = queue.device().clone())
            .expect("adopted");
        let twin = rig.open_on(engine, &twin);
        let (read, written) = (create(engine, &twin), create(engine, &twin));
        bytes::write(&read, 1);
        bytes::write(&written, 2);
        let attachments = [&read, &written].map(|buffer| buffer.attach(&lost).expect("attached"));
        let mappings = [(0, Access::Read), (1, Access::Write)]
            .map(|(at, access)| attachments[at].map(access).expect("a mapping"));
        assert!(mappings.iter().all(|mapping| mapping.view().is_ok()));
        let gate = Gate::close(&lost);
        queue.next(Fate::RunsAndReportsLoss);
        let submitted = engine.submit(&lost, |submission| {
            submission.read(&mappings[0])?;
            record_fill(submission, &lost, &mappings[1], 0x0707_0707)
        });
        assert!(submitted.is_err_and(|error| error.is_device_lost()));
        drop((mappings, attachments));
        assert!(written.is_poisoned(), "it may be written at any time");
        bytes::assert_sequence(&read, 1, "a buffer that is only read is not poisoned");
        drop(written);
        let created: Vec<_> = (0..BUFFERS).map(|_| create(engine, &twin)).collect();
        created.iter().for_each(|buffer| bytes::assert_zero(buffer, "a new buffer"));
        gate.open();
        created.iter().for_each(|buffer| bytes::assert_zero(buffer, "after late work"));
    }
}

/// So does the copy back of a host access to memory that the host cannot map.
#[test]
fn a_rejected_copy_of_a_host_access_counts_as_submitted() {
    let rig = Rig::new();
    for twin in rig.all() {
        let app = App::new(&rig, twin.adapter(), |_| true);
        let queue = FaultyQueue::new(&app.device, FAMILY);
        let engine = &rig.external_engine();
        engine.calls().set_unmappable_device_memory(true);
        let lost = app
            .try_join(&rig, engine, |facts| facts.device = queue.device().clone())
            .expect("adopted");
        let buffer = engine.create_buffer(&lost, BufferDescriptor::new(SIZE)).expect("a buffer");
        let access = buffer.host_access(Access::ReadWrite).expect("a host access");
        access.write(0, &bytes::sequence(1, SIZE)).expect("written");
        engine.trim();
        let gate = Gate::close(&lost);
        queue.next(Fate::RunsAndReportsLoss);
        assert!(access.end().is_err_and(|error| error.is_device_lost()));
        assert!(buffer.is_poisoned(), "it may be written at any time");
        let used = engine.live().count(Object::Allocation);
        drop(buffer);
        engine.trim();
        assert_eq!(engine.live().count(Object::Allocation), used, "the copy may still run");
        gate.open();
        let is_freed = |_| {
            engine.trim();
            engine.live().count(Object::Allocation) < used
        };
        assert!(rounds().any(is_freed), "the memory is not lost for good");
    }
}

/// The second device copies from a buffer that the first one has not zeroed yet, and the first one is lost meanwhile.
#[test]
fn a_copy_of_memory_whose_zeroing_is_lost_fails() {
    let rig = Rig::new();
    let engine = rig.engine();
    // Only devices can zero it.
    engine.calls().set_unmappable_device_memory(true);
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        let create = |home| {
            let buffer = engine.create_buffer(home, BufferDescriptor::new(SIZE));
            buffer.expect("a buffer")
        };
        let target = create(&second);
        bytes::write(&target, 2);
        let old = create(&first);
        bytes::write(&old, 1);
        // So the second device has a view of the memory.
        drop(
            old.attach(&second).and_then(|attachment| attachment.map(Access::Read)).expect("seen"),
        );
        wait_idle(&[&first, &second]);
        drop(old);
        let source = create(&first);
        let attachment = source.attach(&second).expect("an attachment");
        let gate = Gate::close(&first);
        let copy = engine.copy(&source, &target, CopyRegion::first(SIZE));
        lose(engine, &first);
        let ended = copy.and_then(|fence| fence.wait(LONG));
        let read = target.host_access(Access::Read).map(drop);
        gate.open();
        assert!(ended.is_err(), "{}: the copy has read bytes of an earlier owner", first.name());
        assert!(matches!(read, Err(Error::Poisoned { .. })), "{}: {read:?}", first.name());
        drop(attachment);
    }
}
