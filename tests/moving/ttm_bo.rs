//! The tests of `drivers/gpu/drm/ttm/tests/ttm_bo_test.c` about lifetime, pins and moves of a
//! buffer. Those about reserving are in `engine/sync/tests/ttm_bo.rs`.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TB-1 … TB-6 | `ttm_bo_reserve_*` | `engine/sync/tests/ttm_bo.rs` |
//! | TB-7 | `ttm_bo_unreserve_basic` | `engine/residency/tests/ttm_bo.rs` |
//! | TB-8 | `ttm_bo_unreserve_pinned` | `engine/residency/tests/ttm_bo.rs`; that it stays is [`a_buffer_pinned_during_use_stays`] |
//! | TB-9 | `ttm_bo_unreserve_bulk` | `engine/residency/tests/ttm_bo.rs` |
//! | TB-10 | `ttm_bo_fini_basic` | [`the_last_handle_frees_the_memory`] |
//! | TB-11 | `ttm_bo_fini_shared_resv` | [`buffers_locked_together_are_dropped_independently`]: two buffers do not share a reservation here |
//! | TB-12 | `ttm_bo_pin_basic` | [`pins_nest`] |
//! | TB-13 | `ttm_bo_pin_unpin_resource` | [`a_dropped_pin_leaves_no_trace`]; its order of last use: `engine/residency/tests/ttm_bo.rs` |
//! | TB-14 | `ttm_bo_multiple_pin_one_unpin` | [`dropping_one_of_three_pins_leaves_the_buffer_pinned`] |
//!
//! Unpinning what is not pinned (`WARN_ON_ONCE(!bo->pin_count)`) cannot be written: a pin is a guard.

use std::sync::Arc;

use crate::common;
use crate::common::gate::Gate;
use crate::common::{LONG, Rig};
use peerbuf::observe::Object;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Importer, Invalidation,
    Migration, SharedBuffer,
};

struct Indifferent;

impl Importer for Indifferent {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

fn create(engine: &Engine, home: &Device, size: u64) -> SharedBuffer {
    engine.create_buffer(home, BufferDescriptor::new(size).name("bo")).expect("a buffer")
}

fn attach(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Indifferent)).expect("attached")
}

/// The other domain: the one where the buffer is not.
fn elsewhere(buffer: &SharedBuffer) -> DomainId {
    match buffer.domain() {
        DomainId::System => DomainId::Vram(buffer.home().id()),
        _ => DomainId::System,
    }
}

/// Asserts that the buffer cannot move, and that the attempt changes nothing.
fn assert_stays(buffer: &SharedBuffer, what: &str) {
    let before = (buffer.generation(), buffer.domain());
    let error = buffer.migrate(elsewhere(buffer)).expect_err(what);
    assert!(matches!(error, Error::Busy { .. }), "{what}: {error}");
    assert_eq!((buffer.generation(), buffer.domain()), before, "{what}");
}

fn pins(engine: &Engine) -> u64 {
    engine.live().count(Object::Pin)
}

/// upstream: `ttm_bo_fini_basic`
#[test]
fn the_last_handle_frees_the_memory() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        // A size with its own allocation and a slot of a slab, each with and without a move.
        for size in [9 << 20, 4096] {
            for moved in [false, true] {
                let what = format!("{}: {size} bytes, moved: {moved}", device.name());
                engine.trim();
                let alive =
                    || Object::ALL.iter().map(|&object| engine.live().count(object)).collect();
                let before: Vec<u64> = alive();
                let buffer = create(engine, &device, size);
                let other = buffer.clone();
                if moved {
                    buffer.migrate(DomainId::System).expect("not busy");
                }
                drop(buffer);
                assert_eq!(other.size(), size, "{what}: another handle is alive");
                assert_eq!(
                    engine.live().count(Object::Buffer),
                    1,
                    "{what}: both handles are one buffer"
                );
                drop(other);
                assert_eq!(engine.live().count(Object::Buffer), 0, "{what}");
                common::wait_idle(&[&device]);
                engine.trim();
                let after: Vec<u64> = alive();
                assert_eq!(after, before, "{what}");
            }
        }
    }
}

/// upstream: `ttm_bo_fini_shared_resv`. There one object borrows another one's reservation and is freed
/// without it. Here each buffer has its own. The closest case locks both: one buffer is dropped while a device
/// still uses both, and the other one stays intact.
#[test]
fn buffers_locked_together_are_dropped_independently() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let [one, other] = [(); 2].map(|()| create(engine, &device, 4096));
        let [to_one, to_other] = [&one, &other].map(|buffer| attach(buffer, &device));
        let mappings =
            [&to_one, &to_other].map(|attachment| attachment.map(Access::Write).expect("mapped"));
        common::fill(&to_other, 7);
        let gate = Gate::close(&device);
        let both = engine.submit(&device, |submission| {
            mappings.iter().try_for_each(|mapping| submission.read(mapping).map(|_| ()))
        });
        // Both are mapped for writing only, so the read is refused, and neither gets a fence of it.
        assert!(matches!(both, Err(Error::WrongAccess { .. })), "{both:?}");
        let both = engine.submit(&device, |submission| {
            mappings.iter().try_for_each(|mapping| submission.write(mapping).map(|_| ()))
        });
        let both = both.expect("a submission");
        drop((mappings, to_one, one));
        assert_eq!(engine.live().count(Object::Buffer), 1, "{}", device.name());
        assert!(!both.is_signalled().expect("no error"), "the drop did not wait");
        gate.open();
        both.wait(LONG).expect("the other buffer is alive");
        common::assert_pattern(&to_other, 7, device.name());
        drop((to_other, other));
        assert_eq!(engine.live().count(Object::Buffer), 0, "{}", device.name());
        engine.trim();
    }
}

/// upstream: `ttm_bo_pin_basic`
#[test]
fn pins_nest() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let attachments = [attach(&buffer, &home), attach(&buffer, &peer)];
    // By two devices, for one reason or three.
    for reasons in [["scanout"; 3], ["scanout", "rdma", "capture"]] {
        let held: Vec<_> = reasons
            .iter()
            .enumerate()
            .map(|(at, reason)| {
                let pin = attachments[at % 2].pin(*reason).expect("no quota");
                assert_eq!(pins(engine), at as u64 + 1);
                pin
            })
            .collect();
        assert_stays(&buffer, "three pins");
        drop(held);
        assert_eq!(pins(engine), 0);
    }
}

/// upstream: `ttm_bo_multiple_pin_one_unpin`
#[test]
fn dropping_one_of_three_pins_leaves_the_buffer_pinned() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let attachments = [attach(&buffer, &home), attach(&buffer, &peer)];
    for gone in 0..3 {
        let mut held: Vec<_> =
            (0..3).map(|at| attachments[at % 2].pin("scanout").expect("no quota")).collect();
        drop(held.remove(gone));
        assert_eq!(pins(engine), 2);
        assert_stays(&buffer, "two pins");
    }
    assert_eq!(buffer.migrate(DomainId::System).expect("free"), Migration::Done { generation: 1 });
}

/// upstream: `ttm_bo_pin_unpin_resource`
#[test]
fn a_dropped_pin_leaves_no_trace() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let attachment = attach(&buffer, &peer);
    for turn in 0..3 {
        let pin = attachment.pin("scanout").expect("no quota");
        assert_stays(&buffer, "pinned");
        drop(pin);
        let moved = buffer.migrate(elsewhere(&buffer)).expect("free again");
        assert_eq!(moved, Migration::Done { generation: turn + 1 });
        common::fill(&attachment, turn);
        common::assert_pattern(&attachment, turn, "the new backing");
    }
    assert_eq!(pins(engine), 0);
}

/// upstream: `ttm_bo_unreserve_pinned`: a pinned buffer stays pinned after a submission and the host have locked and
/// released it.
#[test]
fn a_buffer_pinned_during_use_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let attachment = attach(&buffer, &peer);
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    let pin = attachment.pin("scanout").expect("no quota");
    let used = engine.submit(&peer, |submission| submission.write(&mapping).map(|_| ()));
    assert_stays(&buffer, "used by a device");
    used.and_then(|fence| fence.wait(LONG)).expect("it runs");
    drop(buffer.host_access(Access::ReadWrite).expect("the host looks"));
    assert_stays(&buffer, "used and released");
    assert!(mapping.view().is_ok(), "its mapping is current");
    drop(pin);
    buffer.migrate(DomainId::System).expect("free");
}
