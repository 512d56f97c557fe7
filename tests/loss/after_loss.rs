//! Only a device is lost: other work continues, and buffers remain usable on other devices.

use std::sync::Arc;

use crate::common::bound::{besides, too_short, with_bound};
use crate::common::{Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, FenceAndResume, Placement,
    Refault, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Makes a submission detect that the device is lost.
fn lose(engine: &Engine, device: &Device) {
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    engine.submit(device, |_| Ok(())).expect_err("the injected error");
}

/// Unplugs `device`. Returns how many buffers were promoted and lost.
fn counts(engine: &Engine, device: &Device) -> (usize, usize) {
    let report = engine.unplug(device).expect("of this engine");
    (report.promoted, report.lost)
}

/// Two devices of one adapter, and a written buffer whose home is the first.
fn written(rig: &Rig, descriptor: BufferDescriptor) -> ([Device; 2], SharedBuffer) {
    let devices = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&devices[0], descriptor).expect("a buffer");
    bytes::write(&buffer, 1);
    (devices, buffer)
}

/// A written buffer in the memory of the first device, with a clean copy in system memory.
fn with_clean_copy(rig: &Rig, size: u64) -> ([Device; 2], SharedBuffer) {
    let (devices, buffer) = written(rig, BufferDescriptor::new(size));
    buffer.evict().expect("not held");
    buffer.request_residency().expect("there is room");
    wait_idle(&[&devices[0]]);
    assert_eq!(buffer.domain(), vram(&devices[0]));
    (devices, buffer)
}

/// The submission that detects the loss has written nothing: the buffer is promoted to its clean copy.
#[test]
fn a_submission_that_detects_the_loss_loses_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = with_clean_copy(&rig, MIB);
    let attachment =
        buffer.attach_dynamic(&first, Arc::new(Refault::new())).expect("an attachment");
    let _other = buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("an attachment");
    let mapping = attachment.map(Access::Write).expect("mapped");
    mapping.view().expect("current");
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    let lost = engine.submit(&first, |submission| submission.write(&mapping).map(drop));
    assert!(lost.expect_err("the injected error").is_device_lost());
    assert_eq!(counts(engine, &first), (1, 0));
    bytes::assert_sequence(&buffer, 1, "promoted");
}

/// The same for a pass and a copy.
#[test]
fn a_pass_or_copy_that_detects_the_loss_loses_nothing() {
    for copies in [false, true] {
        let rig = Rig::new();
        let engine = rig.engine();
        let ([first, _second], buffer) = with_clean_copy(&rig, MIB);
        let attachment =
            buffer.attach_dynamic(&first, Arc::new(Refault::new())).expect("an attachment");
        let mapping = attachment.map(Access::Write).expect("mapped");
        let source = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
        bytes::write(&source, 2);
        // Creates everything else that they need.
        drop(source.attach(&first).and_then(|attachment| attachment.map(Access::Read)?.checksum()));
        engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
        let lost = if copies {
            engine.copy(&source, &buffer, CopyRegion::first(MIB)).map(drop)
        } else {
            mapping.fill(3)
        };
        assert!(lost.expect_err("the injected error").is_device_lost());
        assert_eq!(counts(engine, &first), (1, 1), "copies: {copies}");
        bytes::assert_sequence(&buffer, 1, "promoted");
    }
}

/// A refused move changes nothing: the clean copy stays valid.
#[test]
fn a_refused_eviction_keeps_the_clean_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = with_clean_copy(&rig, MIB);
    let before = engine.usage(DomainId::System).expect("of this engine").used;
    let attachment =
        buffer.attach_dynamic(&first, Arc::new(Refault::new())).expect("an attachment");
    let pin = attachment.pin("scanout").expect("pinned");
    buffer.evict().expect_err("it is pinned");
    drop(pin);
    assert_eq!(engine.usage(DomainId::System).expect("of this engine").used, before);
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (1, 0));
}

/// A move that times out changes nothing either, alone or in a batch.
#[test]
fn a_timed_out_eviction_keeps_the_clean_copy() {
    for together in [false, true] {
        with_bound(|rig, _| {
            let engine = rig.engine();
            let ([first, second], buffer) = besides(|| with_clean_copy(rig, MIB));
            let before = engine.usage(DomainId::System).expect("of this engine").used;
            let (working, done) = engine.host_fence();
            let slow = FenceAndResume::new(Access::Read, move || working.clone());
            let attach = || buffer.attach_dynamic(&second, Arc::new(slow)).expect("an attachment");
            let _attachment = besides(attach);
            if buffer.domain() == DomainId::System {
                // The route to device memory was not proved in time, and the attach moved the buffer.
                too_short();
            }
            let refused = if together {
                engine.migrate_many(&[(&buffer, DomainId::System)]).remove(0)
            } else {
                buffer.evict()
            };
            refused.expect_err("still in use");
            let used = engine.usage(DomainId::System).expect("of this engine").used;
            assert_eq!(used, before, "together: {together}");
            drop(done);
            let copied = engine.moved(MoveCause::Evicted).copied;
            besides(|| buffer.evict().expect("not in use"));
            assert_eq!(engine.moved(MoveCause::Evicted).copied, copied, "together: {together}");
            besides(|| bytes::assert_sequence(&buffer, 1, "its clean copy"));
            wait_idle(&[&first, &second]);
        });
    }
}

/// The buffer is promoted first, so there is nothing to accept.
#[test]
fn accepting_content_after_a_loss_loses_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = with_clean_copy(&rig, MIB);
    lose(engine, &first);
    buffer.accept_content().expect("not in use");
    assert_eq!(counts(engine, &first), (1, 0));
}

/// The content is lost even if the buffer is not used after the loss.
#[test]
fn is_poisoned_reports_a_loss_before_any_other_use() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = written(&rig, BufferDescriptor::new(MIB));
    lose(engine, &first);
    assert!(buffer.is_poisoned(), "its content is lost");
}

/// An export right after a loss exports the promoted buffer.
#[test]
fn an_export_after_a_loss_loses_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = with_clean_copy(&rig, 9 * MIB);
    lose(engine, &first);
    let exported = buffer.export_foreign();
    assert_eq!(counts(engine, &first), (1, 0), "{exported:?}");
}

/// A lost device cannot become the preferred domain, even if the buffer is there.
#[test]
fn a_lost_device_cannot_become_the_preferred_domain() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, _second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (0, 1));
    buffer.migrate(vram(&first)).expect_err("a lost device");
    assert_eq!(buffer.explain().preferred, DomainId::System);
}

/// Buffers in system memory are not affected by the loss of their home device.
#[test]
fn a_buffer_in_system_memory_can_be_attached_after_its_home_is_lost() {
    let rig = Rig::new();
    let engine = rig.engine();
    let descriptor = BufferDescriptor::new(MIB).placement(Placement::System);
    let ([first, second], buffer) = written(&rig, descriptor);
    lose(engine, &first);
    engine.unplug(&first).expect("of this engine");
    bytes::assert_sequence(&buffer, 1, "elsewhere");
    let attachment =
        buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("an attachment");
    drop(attachment.map(Access::Read).expect("mapped"));
}

/// A promoted buffer is in system memory, where the second device can import it.
#[test]
fn a_promoted_buffer_can_be_attached_by_another_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = with_clean_copy(&rig, MIB);
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (1, 0));
    bytes::assert_sequence(&buffer, 1, "promoted");
    let attachment =
        buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("an attachment");
    drop(attachment.map(Access::Read).expect("mapped"));
}

/// A promoted buffer can move to the memory of a working device.
#[test]
fn a_promoted_buffer_can_be_moved_to_another_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = with_clean_copy(&rig, MIB);
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (1, 0));
    buffer.migrate(vram(&second)).expect("a working device");
}

/// Once accepted, it can be moved away from the lost device, as the documentation of `unplug` says.
#[test]
fn lost_content_can_be_moved_to_system_memory_once_accepted() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = written(&rig, BufferDescriptor::new(MIB));
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (0, 1));
    buffer.accept_content().expect("its content is lost");
    buffer.migrate(DomainId::System).expect("away from the lost device");
    bytes::write(&buffer, 2);
}

/// Once accepted, it can also be moved to another device.
#[test]
fn lost_content_can_be_moved_to_another_device_once_accepted() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = written(&rig, BufferDescriptor::new(MIB));
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (0, 1));
    buffer.accept_content().expect("its content is lost");
    buffer.migrate(vram(&second)).expect("a working device");
}

/// A purged buffer whose home is a lost device gets a backing elsewhere.
#[test]
fn a_purged_buffer_of_a_lost_device_is_renewed_elsewhere() {
    let rig = Rig::new();
    let engine = rig.engine();
    let descriptor = BufferDescriptor::new(MIB).discardable();
    let ([first, _second], buffer) = written(&rig, descriptor);
    buffer.evict().expect("not held");
    assert!(buffer.is_purged());
    lose(engine, &first);
    engine.unplug(&first).expect("of this engine");
    buffer.repopulate().expect("in system memory");
}
