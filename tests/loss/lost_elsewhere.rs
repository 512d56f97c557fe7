//! A device is lost, and nothing else: what could go on does, and what was there can be used elsewhere.

use std::sync::Arc;

use crate::common::bound::with_bound;
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

/// A submission finds the device lost.
fn lose(engine: &Engine, device: &Device) {
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    engine.submit(device, |_| Ok(())).expect_err("as it was told to");
}

/// How many were promoted, and lost, when `device` was given up.
fn counts(engine: &Engine, device: &Device) -> (usize, usize) {
    let given_up = engine.abandon(device).expect("ours");
    (given_up.promoted, given_up.lost)
}

/// Two devices of one adapter, and a buffer at home on the first, that was written.
fn written(rig: &Rig, descriptor: BufferDescriptor) -> ([Device; 2], SharedBuffer) {
    let devices = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&devices[0], descriptor).expect("a buffer");
    bytes::write(&buffer, 1);
    (devices, buffer)
}

/// The same, in the first one's memory, and with a clean copy in system memory.
fn with_clean_copy(rig: &Rig, size: u64) -> ([Device; 2], SharedBuffer) {
    let (devices, buffer) = written(rig, BufferDescriptor::new(size));
    buffer.evict().expect("nobody holds it");
    buffer.request_residency().expect("there is room");
    wait_idle(&[&devices[0]]);
    assert_eq!(buffer.domain(), vram(&devices[0]));
    (devices, buffer)
}

/// The submission that finds the loss out has written nothing: the clean copy is the buffer.
#[test]
fn a_submission_that_fails_loses_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = with_clean_copy(&rig, MIB);
    let seat = buffer.attach_dynamic(&first, Arc::new(Refault::new())).expect("a seat");
    let _other = buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("a seat");
    let mapping = seat.map(Access::Write).expect("mapped");
    mapping.view().expect("it is there");
    engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
    let lost = engine.submit(&first, |submission| submission.write(&mapping).map(drop));
    assert!(lost.expect_err("as it was told to").is_device_lost());
    assert_eq!(counts(engine, &first), (1, 0));
    bytes::assert_sequence(&buffer, 1, "promoted");
}

/// So have a pass and a copy.
#[test]
fn a_pass_or_a_copy_that_fails_loses_nothing() {
    for copies in [false, true] {
        let rig = Rig::new();
        let engine = rig.engine();
        let ([first, _second], buffer) = with_clean_copy(&rig, MIB);
        let seat = buffer.attach_dynamic(&first, Arc::new(Refault::new())).expect("a seat");
        let mapping = seat.map(Access::Write).expect("mapped");
        let source = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
        bytes::write(&source, 2);
        // What they need besides is made.
        drop(source.attach(&first).and_then(|seat| seat.map(Access::Read)?.checksum()));
        engine.calls().fail_nth(Call::QueueSubmit, 1, vk::Result::ERROR_DEVICE_LOST);
        let lost = if copies {
            engine.copy(&source, &buffer, CopyRegion::first(MIB)).map(drop)
        } else {
            mapping.fill(3)
        };
        assert!(lost.expect_err("as it was told to").is_device_lost());
        assert_eq!(counts(engine, &first), (1, 1), "copies: {copies}");
        bytes::assert_sequence(&buffer, 1, "promoted");
    }
}

/// A move that is refused changes nothing: the clean copy is still one.
#[test]
fn what_may_not_leave_keeps_its_clean_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = with_clean_copy(&rig, MIB);
    let before = engine.usage(DomainId::System).expect("ours").used;
    let seat = buffer.attach_dynamic(&first, Arc::new(Refault::new())).expect("a seat");
    let pin = seat.pin("scanout").expect("pinned");
    buffer.evict().expect_err("it is pinned");
    drop(pin);
    assert_eq!(engine.usage(DomainId::System).expect("ours").used, before);
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (1, 0));
}

/// Nor does one change anything that waited for somebody in vain, alone or with others.
#[test]
fn what_could_not_leave_in_time_keeps_its_clean_copy() {
    for together in [false, true] {
        with_bound(|rig, _| {
            let engine = rig.engine();
            let ([first, second], buffer) = with_clean_copy(rig, MIB);
            let before = engine.usage(DomainId::System).expect("ours").used;
            let (working, done) = engine.host_fence();
            let slow = FenceAndResume::new(Access::Read, move || working.clone());
            let _seat = buffer.attach_dynamic(&second, Arc::new(slow)).expect("a seat");
            let refused = if together {
                engine.migrate_many(&[(&buffer, DomainId::System)]).remove(0)
            } else {
                buffer.evict()
            };
            refused.expect_err("somebody is at work on it");
            let used = engine.usage(DomainId::System).expect("ours").used;
            assert_eq!(used, before, "together: {together}");
            drop(done);
            let copied = engine.moved(MoveCause::Evicted).copied;
            buffer.evict().expect("nobody is at work on it");
            assert_eq!(engine.moved(MoveCause::Evicted).copied, copied, "together: {together}");
            bytes::assert_sequence(&buffer, 1, "its clean copy");
            wait_idle(&[&first, &second]);
        });
    }
}

/// It is promoted first, and there is nothing to accept then.
#[test]
fn accepting_what_is_there_after_a_loss_loses_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = with_clean_copy(&rig, MIB);
    lose(engine, &first);
    buffer.accept_content().expect("nothing is at work on it");
    assert_eq!(counts(engine, &first), (1, 0));
}

/// Its bytes are gone, whether or not anybody has used it since.
#[test]
fn whoever_asks_after_a_loss_is_told_that_it_is_poisoned() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = written(&rig, BufferDescriptor::new(MIB));
    lose(engine, &first);
    assert!(buffer.is_poisoned(), "its bytes are gone");
}

/// What is handed out right after a loss is what the buffer goes on as.
#[test]
fn handing_out_after_a_loss_loses_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = with_clean_copy(&rig, 9 * MIB);
    lose(engine, &first);
    let handed_out = buffer.export_foreign();
    assert_eq!(counts(engine, &first), (1, 0), "{handed_out:?}");
}

/// Nobody wants to be in the memory of a device that was given up.
#[test]
fn nobody_is_moved_to_where_it_is_on_a_lost_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, _second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (0, 1));
    buffer.migrate(vram(&first)).expect_err("nobody goes there");
    assert_eq!(buffer.explain().wanted, DomainId::System);
}

/// Buffers elsewhere do not notice that their home is lost.
#[test]
fn what_was_in_system_memory_can_be_attached_by_others() {
    let rig = Rig::new();
    let engine = rig.engine();
    let descriptor = BufferDescriptor::new(MIB).placement(Placement::System);
    let ([first, second], buffer) = written(&rig, descriptor);
    lose(engine, &first);
    engine.abandon(&first).expect("ours");
    bytes::assert_sequence(&buffer, 1, "elsewhere");
    let seat = buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("a seat");
    drop(seat.map(Access::Read).expect("mapped"));
}

/// What was promoted is in system memory, where the second device can reach it.
#[test]
fn what_was_promoted_can_be_attached_by_others() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = with_clean_copy(&rig, MIB);
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (1, 0));
    bytes::assert_sequence(&buffer, 1, "promoted");
    let seat = buffer.attach_dynamic(&second, Arc::new(Refault::new())).expect("a seat");
    drop(seat.map(Access::Read).expect("mapped"));
}

/// The same, into the memory of a device that works.
#[test]
fn what_was_promoted_can_be_moved_to_others() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = with_clean_copy(&rig, MIB);
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (1, 0));
    buffer.migrate(vram(&second)).expect("it works");
}

/// Accepted, it can be moved away from the lost device, as the documentation of `abandon` says.
#[test]
fn what_is_lost_can_be_moved_away() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, _second], buffer) = written(&rig, BufferDescriptor::new(MIB));
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (0, 1));
    buffer.accept_content().expect("its bytes are gone");
    buffer.migrate(DomainId::System).expect("away from what is lost");
    bytes::write(&buffer, 2);
}

/// The same, to another device.
#[test]
fn what_is_lost_can_be_moved_to_others() {
    let rig = Rig::new();
    let engine = rig.engine();
    let ([first, second], buffer) = written(&rig, BufferDescriptor::new(MIB));
    lose(engine, &first);
    assert_eq!(counts(engine, &first), (0, 1));
    buffer.accept_content().expect("its bytes are gone");
    buffer.migrate(vram(&second)).expect("it works");
}

/// A purged buffer at home on a lost device gets a new place elsewhere.
#[test]
fn what_was_purged_is_renewed_elsewhere() {
    let rig = Rig::new();
    let engine = rig.engine();
    let descriptor = BufferDescriptor::new(MIB).discardable();
    let ([first, _second], buffer) = written(&rig, descriptor);
    buffer.evict().expect("nobody holds it");
    assert!(buffer.is_purged());
    lose(engine, &first);
    engine.abandon(&first).expect("ours");
    buffer.renew().expect("in system memory");
}
