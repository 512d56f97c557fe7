//! Every device sees what another one writes, also across drivers.

use crate::common::{self, Rig, assert_pattern, fds, fill, needs_dma_buf};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainKind, HandleType, Placement, Provider, Route,
    SharedBuffer,
};

/// Whether two devices can import each other's exports.
fn is_same_driver(a: &Device, b: &Device) -> bool {
    let uuids = |device: &Device| (device.adapter().device_uuid(), device.adapter().driver_uuid());
    uuids(a) == uuids(b)
}

/// Shares a buffer of `home` with `peer`, and checks that each sees what the other one writes.
fn check(rig: &Rig, home: &Device, peer: &Device, size: u64, placement: Placement) -> SharedBuffer {
    let what = format!("{size} bytes, {placement:?}, {} and {}", home.name(), peer.name());
    let descriptor = BufferDescriptor::new(size).placement(placement);
    let buffer = rig.engine().create_buffer(home, descriptor).expect("a buffer");
    let near = buffer.attach(home).expect("the home device reaches it");
    let far = buffer.attach(peer).expect("the peer reaches it");
    fill(&near, 0x1111);
    assert_pattern(&far, 0x1111, &what);
    fill(&far, 0x2222);
    assert_pattern(&near, 0x2222, &what);
    buffer
}

fn pairs(devices: &[Device]) -> impl Iterator<Item = (&Device, &Device)> {
    devices
        .iter()
        .flat_map(|home| devices.iter().filter(move |peer| *peer != home).map(move |p| (home, p)))
}

#[test]
fn every_ordered_pair_shares_in_every_placement() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for (home, peer) in pairs(&devices) {
        for size in [4, 256, 65_540] {
            check(&rig, home, peer, size, Placement::VramOrSystem);
            let shared = check(&rig, home, peer, size, Placement::System);
            assert_eq!(shared.domain().kind(), DomainKind::System);
        }
    }
}

#[test]
fn large_buffers_with_their_own_allocation_are_shared() {
    let rig = Rig::new();
    let devices = rig.all();
    for (home, peer) in pairs(&devices) {
        for size in [1 << 20, (8 << 20) + 4] {
            check(&rig, home, peer, size, Placement::VramOrSystem);
        }
    }
}

#[test]
fn a_buffer_in_vram_stays_there_for_devices_of_the_same_driver() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for (home, peer) in pairs(&devices).filter(|(home, peer)| is_same_driver(home, peer)) {
        let buffer = check(&rig, home, peer, 4096, Placement::Vram);
        assert_eq!(buffer.generation(), 0, "it did not move");
        let Provider::Device { device, handle, domain } = buffer.provider() else {
            panic!("{}", buffer.provider())
        };
        assert_eq!((device, domain), (home.id(), DomainKind::Vram));
        let exports_dma_buf = home.adapter().external_buffer(HandleType::DmaBuf).exportable;
        let best = if exports_dma_buf { HandleType::DmaBuf } else { HandleType::OpaqueFd };
        assert_eq!(handle, best);
    }
}

#[test]
fn a_buffer_in_vram_moves_to_system_memory_for_another_driver() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, peer) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let buffer = check(&rig, home, peer, 4096, Placement::VramOrSystem);
        assert_eq!(buffer.domain().kind(), DomainKind::System);
        assert_eq!(buffer.generation(), 1, "it moved once");
        let verdict = rig.engine().route(home, peer).expect("a route");
        let used = buffer.provider().name();
        assert!(verdict.working.iter().any(|w| w.route.name() == used), "{used}: {verdict:?}");
    }
}

#[test]
fn one_buffer_is_shared_by_all_devices_at_once() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for home in &devices {
        let buffer =
            rig.engine().create_buffer(home, BufferDescriptor::new(65_536)).expect("a buffer");
        let attachments: Vec<_> =
            devices.iter().map(|device| buffer.attach(device).expect("reachable")).collect();
        for (seed, writer) in (1..).zip(&attachments) {
            fill(writer, seed);
            for reader in &attachments {
                assert_pattern(reader, seed, &format!("home {}", home.name()));
            }
        }
    }
}

#[test]
fn all_devices_compute_the_same_checksum() {
    let rig = Rig::new();
    let devices = rig.all();
    let buffer =
        rig.engine().create_buffer(&devices[0], BufferDescriptor::new(65_540)).expect("a buffer");
    common::bytes::write(&buffer, 11);
    let sums: Vec<_> = devices
        .iter()
        .map(|device| {
            let attachment = buffer.attach(device).expect("reachable");
            attachment.map(Access::Read).and_then(|mapping| mapping.checksum()).expect("a pass")
        })
        .collect();
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "{sums:?}");
}

#[test]
fn in_the_vm_a_device_exports_a_real_dma_buf() {
    let rig = Rig::new();
    let Some(home) = rig.lavapipe() else { return };
    if !needs_dma_buf(&home) {
        return;
    }
    let peer = rig.open(&home.adapter().clone());
    let buffer = check(&rig, &home, &peer, 4096, Placement::Vram);
    let verdict = rig.engine().route(&home, &peer).expect("a route");
    assert!(verdict.working.iter().any(|w| w.route == Route::DmaBuf), "{verdict:?}");
    let dma_buf = Provider::Device {
        device: home.id(),
        handle: HandleType::DmaBuf,
        domain: DomainKind::Vram,
    };
    assert_eq!(buffer.provider(), dma_buf);
    let export = buffer.export_foreign().expect("an fd");
    let link = fds::link_of(std::os::fd::AsFd::as_fd(&export));
    assert!(link.starts_with("/dmabuf"), "{link}");
    assert_eq!(export.info().handle, HandleType::DmaBuf);
}

#[test]
fn in_the_vm_two_drivers_share_a_real_dma_buf_of_system_memory() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    if !needs_dma_buf(&lavapipe) {
        return;
    }
    for (home, peer) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let buffer = check(&rig, home, peer, 4096, Placement::System);
        assert!(matches!(buffer.provider(), Provider::DmaHeap | Provider::Udmabuf));
        let export = buffer.export_foreign().expect("an fd");
        let link = fds::link_of(std::os::fd::AsFd::as_fd(&export));
        assert!(link.starts_with("/dmabuf"), "{link}");
    }
}
