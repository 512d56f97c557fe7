//! A device's seat at a buffer: taken once, given up when nobody uses it, cheap to have, and never
//! taken at the expense of those who sit there.

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
fn a_device_sits_down_once() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::Vram);
    let seat = buffer.attach(&peer).expect("the first time");
    let error = buffer.attach(&peer).expect_err("the second time");
    let Error::AlreadyAttached { buffer: name, device } = &error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), device.as_str()), ("frame", peer.name()));
    seat.detach().expect("nobody uses it");
    buffer.attach(&peer).expect("the seat is free again").detach().expect("and again");
}

#[test]
fn detaching_while_mapped_gives_the_attachment_back() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::Vram);
    let seat = buffer.attach(&peer).expect("a seat");
    let mappings = [Access::Read, Access::Write].map(|access| seat.map(access).expect("mapped"));
    let refused = seat.detach().expect_err("two mappings are alive");
    assert!(refused.to_string().contains('2'), "{refused}");
    let seat = refused.into_attachment();
    assert_eq!(seat.device(), peer);
    mappings[1].fill(4).expect("the mappings still work");
    let error: Error = seat.detach().expect_err("still").into();
    let Error::StillMapped { mapped: 2, .. } = error else { panic!("{error:?}") };
    // The attachment went with the error; the mappings keep the seat.
    assert!(mappings[0].verify(4).expect("a pass").is_clean());
    drop(mappings);
    buffer.attach(&peer).expect("the seat is free").detach().expect("nobody uses it");
}

/// Those are of a place that the buffer has left, and live as long as they like.
#[test]
fn old_mappings_do_not_keep_a_seat() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, Placement::VramOrSystem);
    let seat = buffer.attach_dynamic(&peer, std::sync::Arc::new(Refault::new())).expect("a seat");
    let old = seat.map(Access::Read).expect("mapped");
    buffer.migrate(DomainId::System).expect("nobody holds it");
    let current = seat.map(Access::Read).expect("mapped");
    let refused = seat.detach().expect_err("the current one is alive");
    drop(current);
    refused.into_attachment().detach().expect("only the old one is left");
    let report = rig.engine().report();
    let told = report.named("frame").next().expect("it is alive");
    assert_eq!((told.attachments.len(), told.mappings()), (0, 1));
    assert_eq!(told.ghosts[0].mapped, [(peer.id(), 1)]);
    drop(old);
}

#[test]
fn mappings_outlive_a_dropped_attachment_and_keep_the_buffer_where_it_is() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let buffer = create(&rig, &lavapipe, Placement::VramOrSystem);
    let seat = buffer.attach(&lavapipe).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    drop(seat);
    mapping.fill(8).expect("it still works");
    let error = buffer.attach(&swiftshader).expect_err("it would have to move");
    assert!(matches!(error, Error::Busy { mapped: 1, .. }), "{error}");
    let again = buffer.attach(&lavapipe).expect("the seat may be taken again");
    drop(mapping);
    assert_pattern(&again, 8, "after the old mapping has gone");
    drop(again);
    let other = buffer.attach(&swiftshader).expect("now it can move");
    assert_pattern(&other, 8, "after the move");
}

#[test]
fn sharing_with_one_more_device_costs_no_call_at_all() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for placement in [Placement::VramOrSystem, Placement::System] {
        // The first buffer pays for the slab.
        let first = create(&rig, &devices[0], placement);
        let seats: Vec<_> = devices.iter().map(|d| first.attach(d).expect("a seat")).collect();
        let first_mappings: Vec<_> =
            seats.iter().map(|seat| seat.map(Access::Read).expect("mapped")).collect();
        // The second one is in use on its home device already.
        let place = match first.domain().kind() {
            DomainKind::Vram => Placement::Vram,
            DomainKind::System => Placement::System,
        };
        let buffer = create(&rig, &devices[0], place);
        fill(&buffer.attach(&devices[0]).expect("a seat"), 1);
        for device in &devices {
            let (fds, before) = (common::fds::OpenFds::now(), rig.made());
            let seat = buffer.attach(device).expect("a seat");
            let mapping = seat.map(Access::Read).expect("mapped");
            mapping.view().expect("handles");
            assert_eq!(rig.made().since(before), [], "{placement:?}: {}", device.name());
            assert_eq!(fds.difference(&common::fds::OpenFds::now()), Vec::<String>::new());
        }
        drop((first_mappings, seats));
    }
}

#[test]
fn a_device_that_cannot_reach_the_buffer_makes_it_move_with_its_content() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, peer) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let buffer = create(&rig, home, Placement::VramOrSystem);
        let near = buffer.attach(home).expect("a seat");
        fill(&near, 5);
        assert_eq!((buffer.generation(), buffer.domain().kind()), (0, DomainKind::Vram));
        let far = buffer.attach(peer).expect("it moves");
        assert_eq!((buffer.generation(), buffer.domain().kind()), (1, DomainKind::System));
        assert_pattern(&far, 5, "the new place");
        assert_pattern(&near, 5, "the old device, in the new place");
        let mapping = near.map(Access::Read).expect("mapped");
        assert_eq!(mapping.generation(), 1);
    }
}

/// What keeps a buffer where it is.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Mapping,
    HostAccess,
    Export,
}

#[test]
fn a_buffer_that_is_held_does_not_move_and_says_by_whom() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for holder in [Holder::Mapping, Holder::HostAccess, Holder::Export] {
        let buffer = create(&rig, &lavapipe, Placement::VramOrSystem);
        bytes::write(&buffer, 3);
        let seat = buffer.attach(&lavapipe).expect("a seat");
        let mapping = matches!(holder, Holder::Mapping).then(|| seat.map(Access::Read));
        let access = matches!(holder, Holder::HostAccess).then(|| buffer.host_access(Access::Read));
        let export = matches!(holder, Holder::Export).then(|| buffer.export_foreign());
        let generation = buffer.generation();
        let error = buffer.attach(&swiftshader).expect_err("it is held");
        let Error::Busy { buffer: name, mapped, host, pinned } = &error else {
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
        drop(buffer.attach(&swiftshader).expect("now it can move"));
        bytes::assert_sequence(&buffer, 3, "after the move");
    }
}

#[test]
fn a_buffer_for_vram_only_refuses_whom_it_cannot_reach_with_every_reason() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let buffer = create(&rig, &lavapipe, Placement::Vram);
    bytes::write(&buffer, 9);
    // What proving the routes leaves warm is not this attachment's.
    rig.engine().route(&lavapipe, &swiftshader).expect("a verdict");
    let (alive, fds) = (common::alive(rig.engine().live()), common::fds::OpenFds::now());
    let error = buffer.attach(&swiftshader).expect_err("another driver");
    let Error::Unreachable { buffer: name, device, refused } = &error else { panic!("{error:?}") };
    assert_eq!((name.as_str(), device.as_str()), ("frame", swiftshader.name()));
    let reason = |route| refused.iter().find(|refusal| refusal.route == route).map(|r| &r.reason);
    assert!(matches!(reason(Route::OpaqueFd), Some(RefusalReason::OtherDriver { .. })), "{error}");
    assert!(reason(Route::DmaBuf).is_some(), "{error}");
    let system = RefusalReason::Placement(DomainKind::System);
    assert!(refused.iter().any(|refusal| refusal.reason == system), "{error}");
    assert_eq!(common::alive(rig.engine().live()), alive, "no side effect");
    assert_eq!(fds.difference(&common::fds::OpenFds::now()), Vec::<String>::new());
    assert_eq!(buffer.generation(), 0);
    bytes::assert_sequence(&buffer, 9, "the buffer is as it was");
    drop(buffer.attach(&lavapipe).expect("its home still reaches it"));
}

#[test]
fn a_buffer_moves_to_where_everybody_who_sits_there_reaches_it() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let buffer = create(&rig, &devices[0], Placement::VramOrSystem);
    let mut seats = vec![];
    for (seed, device) in (1..).zip(&devices) {
        seats.push(buffer.attach(device).expect("it reaches it"));
        fill(&seats[seats.len() - 1], seed);
        for seat in &seats {
            assert_pattern(seat, seed, device.name());
        }
    }
    assert!(buffer.generation() <= 1, "one move was enough: {}", buffer.generation());
}

#[test]
fn a_buffer_of_its_own_covers_exactly_the_mapping() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, Placement::Vram);
        let seat = buffer.attach(&device).expect("a seat");
        let mapping = std::sync::Arc::new(seat.map(Access::ReadWrite).expect("mapped"));
        let own = mapping.own_buffer(ash::vk::BufferUsageFlags::VERTEX_BUFFER).expect("a buffer");
        let shared = mapping.view().expect("handles");
        assert_ne!(own.raw(), shared.buffer);
        drop((mapping, seat, buffer));
        assert_eq!(own.mapping().buffer().size(), 4096, "it keeps what it covers alive");
    }
}
