//! A pinned buffer stays where it is, for as long as somebody has a reason, and up to a quota.

mod common;

use std::sync::Arc;

use common::Rig;
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Error, Importer, Invalidation, Migration,
    SharedBuffer,
};

struct Indifferent;

impl Importer for Indifferent {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

fn create(rig: &Rig, home: &Device) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(8192).name("scanout")).expect("a buffer")
}

/// upstream: `ttm_bo_pin_basic`, `ttm_bo_multiple_pin_one_unpin`, `ttm_bo_validate_pinned`
#[test]
fn it_stays_until_the_last_pin_is_gone() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("a seat");
    let pins = [(); 3].map(|()| seat.pin("scanout").expect("within the quota"));
    assert_eq!(pins[0].reason(), "scanout");
    for pin in pins.into_iter().rev() {
        let error = buffer.migrate(DomainId::System).expect_err("pinned");
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert_eq!((buffer.generation(), buffer.domain()), (0, DomainId::Vram(home.id())));
        drop(pin);
    }
    assert_eq!(buffer.migrate(DomainId::System).expect("free"), Migration::Done { generation: 1 });
}

#[test]
fn a_static_mapping_is_a_pin_and_a_dynamic_one_is_not() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let (fixed, moving) = (
        buffer.attach(&peer).expect("a seat"),
        buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("another"),
    );
    assert!(moving.is_dynamic() && !fixed.is_dynamic());
    let free = moving.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("nobody minds");
    let held = fixed.map(Access::Read).expect("mapped");
    let error = buffer.migrate(DomainId::Vram(home.id())).expect_err("mapped statically");
    assert!(matches!(error, Error::Busy { mapped: 1, .. }), "{error}");
    drop(held);
    buffer.migrate(DomainId::Vram(home.id())).expect("only while it is mapped");
    drop(free);
}

#[test]
fn a_quota_bounds_what_a_device_may_pin() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    rig.engine().set_pin_quota(&peer, 2 * 8192).expect("our device");
    let buffers: Vec<_> = (0..3).map(|_| create(&rig, &home)).collect();
    let seats: Vec<_> =
        buffers.iter().map(|buffer| buffer.attach(&peer).expect("a seat")).collect();
    let pins: Vec<_> = seats[..2].iter().map(|seat| seat.pin("rdma").expect("fits")).collect();
    let error = seats[2].pin("rdma").expect_err("too much");
    let Error::PinQuota { requested: 8192, used: 16_384, quota: 16_384, .. } = error else {
        panic!("{error}");
    };
    // Another device has its own quota.
    let at_home = buffers[2].attach(&home).expect("a seat");
    drop(at_home.pin("scanout").expect("no limit"));
    drop(pins);
    drop(seats[2].pin("rdma").expect("there is room again"));
}

#[test]
fn what_is_handed_out_or_open_stays_as_well() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home);
    let seat = buffer.attach_dynamic(&home, Arc::new(Indifferent)).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let busy = |what: &str| {
        let error = buffer.migrate(DomainId::System).expect_err(what);
        assert!(matches!(error, Error::Busy { .. }), "{what}: {error}");
    };
    {
        let _host = buffer.host_access(Access::Read).expect("the host reads");
        busy("under host access");
    }
    {
        let open = mapping.begin_access(Access::Write).expect("current");
        assert_eq!(open.view(), mapping.view().expect("current"));
        busy("while an application submits");
        open.end(home.submitted().expect("an empty submission"));
    }
    drop(mapping);
    {
        let _export = buffer.export_foreign().expect("an fd");
        busy("handed out");
    }
    buffer.migrate(DomainId::System).expect("free again");
}
