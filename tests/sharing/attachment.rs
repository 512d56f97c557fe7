//! Attachments: one static attachment per device, detached when unmapped, cheap to create, and never made at the
//! expense of attached devices.

use std::sync::Arc;

use crate::common::{self, Rig, assert_pattern, bytes, fill};
use peerbuf::transfer::RefusalReason;
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, DomainKind, Error, Placement, Refault, Route,
    SharedBuffer,
};

fn create(rig: &Rig, home: &Device, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(4096).name("frame").placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

#[test]
fn a_device_attaches_once() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::Vram);
    let attachment = buffer.attach(&peer).expect("the first time");
    let error = buffer.attach(&peer).expect_err("the second time");
    let Error::AlreadyAttached { buffer: name, device, .. } = &error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), device.as_str()), ("frame", peer.name()));
    attachment.detach().expect("not mapped");
    buffer.attach(&peer).expect("attaching again works").detach().expect("not mapped");
}

#[test]
fn detaching_while_mapped_returns_the_attachment() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::Vram);
    let attachment = buffer.attach(&peer).expect("attached");
    let mappings =
        [Access::Read, Access::Write].map(|access| attachment.map(access).expect("mapped"));
    let refused = attachment.detach().expect_err("two mappings are alive");
    assert!(refused.to_string().contains('2'), "{refused}");
    let attachment = refused.into_attachment();
    assert_eq!(attachment.device(), peer);
    mappings[1].fill(4).expect("the mappings still work");
    let error: Error = attachment.detach().expect_err("still").into();
    let Error::StillMapped { mapped: 2, .. } = error else { panic!("{error:?}") };
    // The error dropped the attachment's handle; the mappings keep the attachment itself.
    assert!(mappings[0].verify(4).expect("a pass").is_clean());
    drop(mappings);
    buffer.attach(&peer).expect("the attachment has ended").detach().expect("not mapped");
}

/// Stale mappings show a backing that the buffer has left. They may live on.
#[test]
fn stale_mappings_do_not_keep_an_attachment() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let attachment = buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("attached");
    let old = attachment.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("not busy");
    let current = attachment.map(Access::Read).expect("mapped");
    let refused = attachment.detach().expect_err("the current mapping is alive");
    drop(current);
    refused.into_attachment().detach().expect("only the stale mapping is left");
    let report = rig.engine().report();
    let entry = report.named("frame").next().expect("it is alive");
    assert_eq!((entry.attachments.len(), entry.mappings()), (0, 1));
    assert_eq!(entry.ghosts[0].mapped, [(peer.id(), 1)]);
    drop(old);
}

#[test]
fn static_mappings_outlive_their_attachment_and_block_moves() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let buffer = create(&rig, &lavapipe, Placement::VramOrSystem);
    let attachment = buffer.attach(&lavapipe).expect("attached");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    drop(attachment);
    mapping.fill(8).expect("it still works");
    let error = buffer.attach(&swiftshader).expect_err("attaching requires a move");
    assert!(matches!(error, Error::Busy { mapped: 1, .. }), "{error}");
    let again = buffer.attach(&lavapipe).expect("attaching again works");
    drop(mapping);
    assert_pattern(&again, 8, "after the old mapping was dropped");
    drop(again);
    let other = buffer.attach(&swiftshader).expect("the move is possible now");
    assert_pattern(&other, 8, "after the move");
}

#[test]
fn attaching_another_device_makes_no_driver_call() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for placement in [Placement::VramOrSystem, Placement::System] {
        // The first buffer pays for the slab.
        let first = create(&rig, &devices[0], placement);
        let attachments: Vec<_> =
            devices.iter().map(|d| first.attach(d).expect("attached")).collect();
        let first_mappings: Vec<_> = attachments
            .iter()
            .map(|attachment| attachment.map(Access::Read).expect("mapped"))
            .collect();
        // The second buffer is in use on its home device already.
        let place = match first.domain().kind() {
            DomainKind::Vram => Placement::Vram,
            _ => Placement::System,
        };
        let buffer = create(&rig, &devices[0], place);
        fill(&buffer.attach(&devices[0]).expect("attached"), 1);
        for device in &devices {
            let (fds, before) = (common::fds::OpenFds::now(), rig.made());
            let attachment = buffer.attach(device).expect("attached");
            let mapping = attachment.map(Access::Read).expect("mapped");
            mapping.view().expect("handles");
            assert_eq!(rig.made().since(before), [], "{placement:?}: {}", device.name());
            assert_eq!(fds.difference(&common::fds::OpenFds::now()), Vec::<String>::new());
        }
        drop((first_mappings, attachments));
    }
}

#[test]
fn a_device_that_cannot_reach_the_buffer_makes_it_move() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, peer) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let buffer = create(&rig, home, Placement::VramOrSystem);
        let near = buffer.attach(home).expect("attached");
        fill(&near, 5);
        assert_eq!((buffer.generation(), buffer.domain().kind()), (0, DomainKind::Vram));
        let far = buffer.attach(peer).expect("it moves");
        assert_eq!((buffer.generation(), buffer.domain().kind()), (1, DomainKind::System));
        assert_pattern(&far, 5, "the new backing");
        assert_pattern(&near, 5, "the old device, in the new backing");
        let mapping = near.map(Access::Read).expect("mapped");
        assert_eq!(mapping.generation(), 1);
    }
}

/// The ways to hold a buffer in its backing.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Mapping,
    HostAccess,
    Export,
}

#[test]
fn a_busy_buffer_does_not_move_and_reports_its_holders() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for holder in [Holder::Mapping, Holder::HostAccess, Holder::Export] {
        let buffer = create(&rig, &lavapipe, Placement::VramOrSystem);
        bytes::write(&buffer, 3);
        let attachment = buffer.attach(&lavapipe).expect("attached");
        let mapping = matches!(holder, Holder::Mapping).then(|| attachment.map(Access::Read));
        let access = matches!(holder, Holder::HostAccess).then(|| buffer.host_access(Access::Read));
        let export = matches!(holder, Holder::Export).then(|| buffer.export_foreign());
        let generation = buffer.generation();
        let error = buffer.attach(&swiftshader).expect_err("the buffer is busy");
        let Error::Busy { buffer: name, mapped, host, pinned, .. } = &error else {
            panic!("{holder:?}: {error:?}")
        };
        let counts = match holder {
            Holder::Mapping => (1, 0, 0),
            Holder::HostAccess => (0, 1, 0),
            Holder::Export => (0, 0, 1),
        };
        assert_eq!((name.as_str(), (*mapped, *host, *pinned)), ("frame", counts));
        assert!(error.is_retryable());
        assert_eq!(buffer.generation(), generation, "nothing changed");
        drop((mapping, access, export));
        drop(buffer.attach(&swiftshader).expect("the move is possible now"));
        bytes::assert_sequence(&buffer, 3, "after the move");
    }
}

#[test]
fn a_vram_only_buffer_refuses_unreachable_devices_with_every_reason() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let buffer = create(&rig, &lavapipe, Placement::Vram);
    bytes::write(&buffer, 9);
    // Prove the routes first: what that creates is not counted as the attachment's.
    rig.engine().route(&lavapipe, &swiftshader).expect("a verdict");
    let (alive, fds) = (common::alive(rig.engine().live()), common::fds::OpenFds::now());
    let error = buffer.attach(&swiftshader).expect_err("another driver");
    let Error::Unreachable { buffer: name, device, refused, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((name.as_str(), device.as_str()), ("frame", swiftshader.name()));
    let reason = |route| refused.iter().find(|refusal| refusal.route == route).map(|r| &r.reason);
    assert!(matches!(reason(Route::OpaqueFd), Some(RefusalReason::OtherDriver { .. })), "{error}");
    assert!(reason(Route::DmaBuf).is_some(), "{error}");
    let system = RefusalReason::Placement(DomainKind::System);
    assert!(refused.iter().any(|refusal| refusal.reason == system), "{error}");
    assert_eq!(common::alive(rig.engine().live()), alive, "no side effect");
    assert_eq!(fds.difference(&common::fds::OpenFds::now()), Vec::<String>::new());
    assert_eq!(buffer.generation(), 0);
    bytes::assert_sequence(&buffer, 9, "the buffer is unchanged");
    drop(buffer.attach(&lavapipe).expect("the home device still reaches it"));
}

#[test]
fn a_buffer_moves_where_every_attached_device_reaches_it() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let buffer = create(&rig, &devices[0], Placement::VramOrSystem);
    let mut attachments = vec![];
    for (seed, device) in (1..).zip(&devices) {
        attachments.push(buffer.attach(device).expect("reachable"));
        fill(&attachments[attachments.len() - 1], seed);
        for attachment in &attachments {
            assert_pattern(attachment, seed, device.name());
        }
    }
    assert!(buffer.generation() <= 1, "one move was enough: {}", buffer.generation());
}

#[test]
fn an_aliased_buffer_covers_exactly_the_mapping() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, Placement::Vram);
        let attachment = buffer.attach(&device).expect("attached");
        let mapping = Arc::new(attachment.map(Access::ReadWrite).expect("mapped"));
        let own =
            mapping.aliased_buffer(ash::vk::BufferUsageFlags::VERTEX_BUFFER).expect("a buffer");
        let shared = mapping.view().expect("handles");
        assert_ne!(own.raw(), shared.buffer);
        drop((mapping, attachment, buffer));
        assert_eq!(own.mapping().buffer().size(), 4096, "it keeps its mapping alive");
    }
}

#[test]
fn an_aliased_buffer_is_replaced_after_a_move() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer =
            rig.engine().create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
        let attachment =
            buffer.attach_dynamic(&device, Arc::new(Refault::new())).expect("attached");
        let mapping = Arc::new(attachment.map(Access::Read).expect("mapped"));
        let usage = ash::vk::BufferUsageFlags::VERTEX_BUFFER;
        let mut aliased = mapping.aliased_buffer(usage).expect("a buffer");
        assert!(attachment.remap_aliased(&mut aliased).expect("current").is_none());
        let raw = aliased.raw();
        buffer.relocate().expect("not held");
        let old = attachment.remap_aliased(&mut aliased).expect("remapped").expect("it was stale");
        assert!(old.raw() == raw && aliased.raw() != raw, "the old one lives");
        assert_eq!(aliased.mapping().generation(), buffer.generation());
        assert!(attachment.remap_aliased(&mut aliased).expect("current").is_none());
    }
}
