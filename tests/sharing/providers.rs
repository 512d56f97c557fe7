//! Where shared memory comes from if a device cannot export or import what others can.

use std::os::fd::AsFd;

use crate::common::app::App;
use crate::common::soft_memory::{HOST, SoftMemory};
use crate::common::{Rig, assert_pattern, bytes, fill};
use ash::ext;
use ash::vk::MemoryPropertyFlags as Flags;
use peerbuf::{
    BufferDescriptor, Device, DomainId, DomainKind, Engine, Error, HandleType, Placement, Provider,
    Route,
};

const GIB: u64 = 1 << 30;
const ALL: Flags =
    Flags::from_raw(Flags::DEVICE_LOCAL.as_raw() | HOST.as_raw() | Flags::HOST_CACHED.as_raw());

/// A device like those of software drivers, on which host pointers into files cannot be imported (RADV).
fn refuses_files() -> SoftMemory {
    SoftMemory {
        heaps: vec![(GIB, true)],
        types: vec![(0, ALL)],
        refuses_files: true,
        ..SoftMemory::discrete(0, 0)
    }
}

fn share(engine: &Engine, home: &Device, other: &Device) {
    let buffer = engine.create_buffer(home, BufferDescriptor::new(100_000)).expect("a buffer");
    bytes::write(&buffer, 3);
    let attachments = [home, other].map(|device| buffer.attach(device).expect("a route"));
    bytes::assert_sequence(&buffer, 3, "moved to memory that both reach");
    for (seed, [writer, reader]) in [(5, [0, 1]), (6, [1, 0])] {
        fill(&attachments[writer], seed);
        assert_pattern(&attachments[reader], seed, buffer.provider().name());
    }
    assert_eq!((buffer.provider(), buffer.domain()), (Provider::Anonymous, DomainId::System));
}

/// reims-vgpu#85: drivers of AMD refuse addresses that a file is mapped at, and no device node is
/// accessible.
#[test]
fn drivers_that_refuse_files_share_anonymous_memory() {
    let rig = Rig::new();
    let Some(drivers) = rig.two_drivers() else { return };
    let apps = drivers
        .each_ref()
        .map(|device| App::with_memory(&rig, device.adapter(), refuses_files(), |_| true));
    let engine = rig.external_engine();
    let [a, b] = apps.each_ref().map(|app| app.join(&rig, &engine));
    let verdict = engine.route(&a, &b).expect("a verdict");
    let works = |route| verdict.working.iter().any(|working| working.route == route);
    assert_eq!((works(Route::Memfd), works(Route::Anonymous)), (false, true), "{verdict:?}");
    share(&engine, &a, &b);
    share(&engine, &b, &a);
    drop((a, b, engine));
    drop(apps);
}

/// Anonymous memory has no fd. A buffer in it moves to memory that has one, or stays where it is.
#[test]
fn a_buffer_in_anonymous_memory_moves_before_it_is_exported() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    let app = App::with_memory(&rig, device.adapter(), refuses_files(), |_| true);
    {
        let engine = rig.external_engine();
        let home = app.join(&rig, &engine);
        let create = |placement| {
            let descriptor = BufferDescriptor::new(5000).placement(placement);
            let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
            bytes::write(&buffer, 4);
            buffer
        };
        let buffer = create(Placement::VramOrSystem);
        buffer.migrate(DomainId::System).expect("not held");
        assert_eq!(buffer.provider(), Provider::Anonymous);
        let export = buffer.export_foreign().expect("its own memory has an fd");
        assert_eq!(export.info().handle, HandleType::OpaqueFd);
        assert!(export.as_fd().try_clone_to_owned().is_ok());
        assert_eq!(buffer.domain(), DomainId::Vram(home.id()));
        bytes::assert_sequence(&buffer, 4, "moved and exported");
        drop(export);
        // Where no other memory is allowed, nothing changes.
        let stays = create(Placement::System);
        let error = stays.export_foreign().expect_err("system memory without an fd");
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert_eq!((stays.provider(), stays.generation()), (Provider::Anonymous, 0));
        bytes::assert_sequence(&stays, 4, "not moved");
    }
    drop(app);
}

#[test]
fn an_export_from_anonymous_memory_stays_in_system_memory_if_some_of_it_has_an_fd() {
    let rig = Rig::new();
    let Some(drivers) = rig.two_drivers() else { return };
    let discrete = SoftMemory { refuses_files: true, ..SoftMemory::discrete(GIB, GIB) };
    let apps = drivers
        .each_ref()
        .map(|device| App::with_memory(&rig, device.adapter(), discrete.clone(), |_| true));
    let engine = rig.external_engine();
    let [near, far] = apps.each_ref().map(|app| app.join(&rig, &engine));
    let buffer = engine.create_buffer(&near, BufferDescriptor::new(5000)).expect("a buffer");
    bytes::write(&buffer, 3);
    drop(buffer.attach(&far).expect("a route"));
    assert_eq!(buffer.provider(), Provider::Anonymous);
    let export = buffer.export_foreign().expect("its home device exports system memory");
    assert_eq!((buffer.domain(), export.info().handle), (DomainId::System, HandleType::OpaqueFd));
    bytes::assert_sequence(&buffer, 3, "moved and exported");
    drop((export, buffer, near, far, engine));
    drop(apps);
}

/// The home device has no memory that the other one may use; the other one exports system memory.
#[test]
fn an_attached_device_exports_host_visible_memory_for_the_home_device() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    // Equal types, since an opaque fd names one of them; those of the home device are all its own memory.
    let integrated = SoftMemory {
        types: vec![(0, ALL), (0, ALL), (0, ALL)],
        heaps: vec![(GIB, true)],
        ..SoftMemory::discrete(0, 0)
    };
    let no_addresses = |name: &std::ffi::CStr| name != ext::external_memory_host::NAME;
    let near = App::with_memory(&rig, device.adapter(), integrated, no_addresses);
    let far = App::with_memory(&rig, device.adapter(), SoftMemory::discrete(GIB, GIB), |_| true);
    {
        let engine = rig.external_engine();
        let (home, other) = (near.join(&rig, &engine), far.join(&rig, &engine));
        // The other device must not use the home device's own memory.
        let descriptor = BufferDescriptor::new(100_000).peer_to_peer(false);
        let buffer = engine.create_buffer(&home, descriptor).expect("in VRAM");
        bytes::write(&buffer, 8);
        let attachment = buffer.attach(&other).expect("in its own system memory");
        let Provider::Device { device, domain, .. } = buffer.provider() else {
            panic!("{:?}", buffer.provider())
        };
        assert_eq!((device, domain), (other.id(), DomainKind::System));
        assert_eq!(buffer.domain(), DomainId::System);
        bytes::assert_sequence(&buffer, 8, "moved");
        let near = buffer.attach(&home).expect("it imports the memory");
        fill(&attachment, 11);
        assert_pattern(&near, 11, "the home device");
        fill(&near, 12);
        assert_pattern(&attachment, 12, "the exporter");
        drop((near, attachment));
        buffer.migrate(DomainId::Vram(home.id())).expect("nothing holds it");
        assert_pattern(&buffer.attach(&home).expect("its own"), 12, "home again");
    }
    drop((near, far));
}
