//! The tests of `drivers/gpu/drm/ttm/tests/ttm_bo_test.c` that are about a buffer's life, its pins and its
//! moves. Those of reserving are in `engine/sync/tests/ttm_bo.rs`.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TB-1 … TB-6 | `ttm_bo_reserve_*` | `engine/sync/tests/ttm_bo.rs` |
//! | TB-7 | `ttm_bo_unreserve_basic` | `engine/residency/tests/ttm_bo.rs` |
//! | TB-8 | `ttm_bo_unreserve_pinned` | `engine/residency/tests/ttm_bo.rs`; that it stays is [`what_was_pinned_while_it_was_used_stays`] |
//! | TB-9 | `ttm_bo_unreserve_bulk` | `engine/residency/tests/ttm_bo.rs` |
//! | TB-10 | `ttm_bo_fini_basic` | [`the_last_handle_frees_what_it_had`] |
//! | TB-11 | `ttm_bo_fini_shared_resv` | [`two_that_were_locked_together_go_alone`]: two buffers do not share a reservation here |
//! | TB-12 | `ttm_bo_pin_basic` | [`pins_nest`] |
//! | TB-13 | `ttm_bo_pin_unpin_resource` | [`a_pin_that_is_given_back_leaves_no_trace`]; its order of last use: `engine/residency/tests/ttm_bo.rs` |
//! | TB-14 | `ttm_bo_multiple_pin_one_unpin` | [`one_of_three_pins_given_back_leaves_it_pinned`] |
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

fn seat(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Indifferent)).expect("a seat")
}

/// Where it is not.
fn elsewhere(buffer: &SharedBuffer) -> DomainId {
    match buffer.domain() {
        DomainId::System => DomainId::Vram(buffer.home().id()),
        _ => DomainId::System,
    }
}

/// Asserts that it does not move, and that trying has changed nothing.
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
fn the_last_handle_frees_what_it_had() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        // One with memory of its own, one with a slot of a slab, and one of each that was moved.
        for size in [9 << 20, 4096] {
            for moved in [false, true] {
                let what = format!("{}: {size} bytes, moved: {moved}", device.name());
                engine.trim();
                let before = Object::ALL.map(|object| engine.live().count(object));
                let buffer = create(engine, &device, size);
                let other = buffer.clone();
                if moved {
                    buffer.migrate(DomainId::System).expect("nobody holds it");
                }
                drop(buffer);
                assert_eq!(other.size(), size, "{what}: there is another handle");
                assert_eq!(engine.live().count(Object::Buffer), 1, "{what}: both are one");
                drop(other);
                assert_eq!(engine.live().count(Object::Buffer), 0, "{what}");
                common::wait_idle(&[&device]);
                engine.trim();
                let after = Object::ALL.map(|object| engine.live().count(object));
                assert_eq!(after, before, "{what}");
            }
        }
    }
}

/// upstream: `ttm_bo_fini_shared_resv`. There one object borrows another one's reservation, and goes without
/// it. Here each has its own, and what is nearest is a set of both: one goes while a device still uses them
/// together, and the other one is none the worse.
#[test]
fn two_that_were_locked_together_go_alone() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let [one, other] = [(); 2].map(|()| create(engine, &device, 4096));
        let [seat_of_one, seat_of_other] = [&one, &other].map(|buffer| seat(buffer, &device));
        let mappings =
            [&seat_of_one, &seat_of_other].map(|seat| seat.map(Access::Write).expect("mapped"));
        common::fill(&seat_of_other, 7);
        let gate = Gate::close(&device);
        let both = engine.submit(&device, |submission| {
            mappings.iter().try_for_each(|mapping| submission.read(mapping).map(|_| ()))
        });
        // Mapped for writing only, so reading is refused, and neither has a fence of it.
        assert!(matches!(both, Err(Error::WrongAccess { .. })), "{both:?}");
        let both = engine.submit(&device, |submission| {
            mappings.iter().try_for_each(|mapping| submission.write(mapping).map(|_| ()))
        });
        let both = both.expect("a submission");
        drop((mappings, seat_of_one, one));
        assert_eq!(engine.live().count(Object::Buffer), 1, "{}", device.name());
        assert!(!both.is_signalled().expect("no error"), "it went without waiting");
        gate.open();
        both.wait(LONG).expect("the other one is there");
        common::assert_pattern(&seat_of_other, 7, device.name());
        drop((seat_of_other, other));
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
    let seats = [seat(&buffer, &home), seat(&buffer, &peer)];
    // By one device or two, for one reason or three.
    for reasons in [["scanout"; 3], ["scanout", "rdma", "capture"]] {
        let held: Vec<_> = reasons
            .iter()
            .enumerate()
            .map(|(at, reason)| {
                let pin = seats[at % 2].pin(*reason).expect("no quota");
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
fn one_of_three_pins_given_back_leaves_it_pinned() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let seats = [seat(&buffer, &home), seat(&buffer, &peer)];
    for gone in 0..3 {
        let mut held: Vec<_> =
            (0..3).map(|at| seats[at % 2].pin("scanout").expect("no quota")).collect();
        drop(held.remove(gone));
        assert_eq!(pins(engine), 2);
        assert_stays(&buffer, "two pins");
    }
    assert_eq!(buffer.migrate(DomainId::System).expect("free"), Migration::Done { generation: 1 });
}

/// upstream: `ttm_bo_pin_unpin_resource`
#[test]
fn a_pin_that_is_given_back_leaves_no_trace() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let seat = seat(&buffer, &peer);
    for turn in 0..3 {
        let pin = seat.pin("scanout").expect("no quota");
        assert_stays(&buffer, "pinned");
        drop(pin);
        let moved = buffer.migrate(elsewhere(&buffer)).expect("free again");
        assert_eq!(moved, Migration::Done { generation: turn + 1 });
        common::fill(&seat, turn);
        common::assert_pattern(&seat, turn, "the new place");
    }
    assert_eq!(pins(engine), 0);
}

/// upstream: `ttm_bo_unreserve_pinned`: what is pinned is still pinned after it was locked and let go, by a
/// submission and by the host.
#[test]
fn what_was_pinned_while_it_was_used_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(engine, &home, 8192);
    let seat = seat(&buffer, &peer);
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let pin = seat.pin("scanout").expect("no quota");
    let used = engine.submit(&peer, |submission| submission.write(&mapping).map(|_| ()));
    assert_stays(&buffer, "used by a device");
    used.and_then(|fence| fence.wait(LONG)).expect("it runs");
    drop(buffer.host_access(Access::ReadWrite).expect("the host looks"));
    assert_stays(&buffer, "used and let go");
    assert!(mapping.view().is_ok(), "its mapping is current");
    drop(pin);
    buffer.migrate(DomainId::System).expect("free");
}
