//! Exports to and imports from external code: both sides see the same bytes and no others, and an fd that does not
//! match its description is refused.
#![expect(unsafe_code, reason = "importing fds is unsafe, and some here are wrong on purpose")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::common::reach::imports_files;
use crate::common::{self, Rig, assert_pattern, bytes, fds, fill, needs_dma_buf};
use peerbuf::device::{Call, Uuid};
use peerbuf::{
    BufferDescriptor, Device, DomainId, Engine, Error, ForeignFdReason, ForeignInfo, HandleType,
    Placement, Provider, Result, SharedBuffer,
};
use rustix::fs::{MemfdFlags, SealFlags};

const PLACES: [Placement; 2] = [Placement::Vram, Placement::System];

fn create(rig: &Rig, home: &Device, size: u64, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).name("frame").placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

fn import(
    engine: &Engine,
    device: &Device,
    fd: BorrowedFd<'_>,
    info: ForeignInfo,
) -> Result<SharedBuffer> {
    // SAFETY: the fds of these tests come from engines in this process, with their own `ForeignInfo`, or are
    // refused before any use. All uses follow each other in one thread.
    unsafe { engine.import_foreign(device, fd, info, Some("external")) }
}

fn refusal(result: Result<SharedBuffer>) -> (HandleType, ForeignFdReason) {
    match result {
        Err(Error::ForeignFd { handle, reason, .. }) => (handle, reason),
        other => panic!("{other:?}"),
    }
}

fn info(device: &Device, handle: HandleType, size: u64) -> ForeignInfo {
    let mut info = ForeignInfo::new(handle, size);
    info.device_uuid = device.adapter().device_uuid();
    info.driver_uuid = device.adapter().driver_uuid();
    info
}

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("external", flags).expect("a memfd");
    rustix::fs::ftruncate(&fd, size).expect("its size");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("its seals");
    fd
}

#[test]
fn exporting_moves_the_buffer_out_of_its_slab_with_its_content() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in PLACES {
            let neighbour = create(&rig, &device, 5000, placement);
            let buffer = create(&rig, &device, 5000, placement);
            bytes::write(&neighbour, 1);
            bytes::write(&buffer, 2);
            let export = buffer.export_foreign().expect("an fd");
            assert_eq!(buffer.generation(), 1, "moved out of the slab");
            assert!(export.buffer().is_same(&buffer));
            bytes::assert_sequence(&buffer, 2, "after the move");
            bytes::assert_sequence(&neighbour, 1, "the neighbour");
            let again = buffer.export_foreign().expect("a second fd");
            assert_eq!(buffer.generation(), 1, "it has its own memory already");
            assert_eq!(again.info(), export.info());
        }
    }
}

#[test]
fn an_export_describes_its_memory_to_the_receiver() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in PLACES {
            let buffer = create(&rig, &device, 5000, placement);
            let export = buffer.export_foreign().expect("an fd");
            let info = export.info();
            assert_eq!(info.size, 5000);
            assert!(info.memory_size >= 5000);
            assert_eq!(info.device_uuid, device.adapter().device_uuid());
            assert_eq!(info.driver_uuid, device.adapter().driver_uuid());
            let handle = match buffer.provider() {
                Provider::Device { handle, .. } => handle,
                Provider::Memfd => HandleType::HostPointer,
                _ => HandleType::DmaBuf,
            };
            assert_eq!(info.handle, handle);
            assert_eq!(ForeignInfo::from_bytes(&info.to_bytes()), Some(info));
            let second = export.handle().expect("a second fd");
            assert_ne!(second.as_fd().as_raw_fd(), export.as_fd().as_raw_fd());
            assert_eq!(fds::link_of(second.as_fd()), fds::link_of(export.as_fd()));
            assert!(fds::is_close_on_exec(second.as_fd()) && fds::is_close_on_exec(export.as_fd()));
        }
    }
}

/// Checks that bytes pass both ways between a buffer and its import in another engine.
fn check_external(rig: &Rig, home: &Device, placement: Placement, other: &Device) {
    let what = format!("{placement:?} of {} for {}", home.name(), other.name());
    let external = rig.external_engine();
    let theirs = rig.open_on(&external, other);
    let buffer = create(rig, home, 40_000, placement);
    let near = buffer.attach(home).expect("attached");
    fill(&near, 31);
    let export = buffer.export_foreign().expect("an fd");
    let handle = export.handle().expect("an fd to pass on");
    let imported = import(&external, &theirs, handle.as_fd(), handle.info()).expect("imported");
    assert!(!imported.is_dynamic() && imported.size() == 40_000, "{what}");
    assert_eq!(imported.provider(), Provider::Foreign(handle.info().handle));
    drop(OwnedFd::from(handle));
    let far = imported.attach(&theirs).expect("attached");
    assert_pattern(&far, 31, &what);
    fill(&far, 32);
    assert_pattern(&near, 32, &what);
    bytes::write(&imported, 33);
    bytes::assert_sequence(&buffer, 33, &what);
    bytes::write(&buffer, 34);
    bytes::assert_sequence(&imported, 34, &what);
}

#[test]
fn an_external_engine_on_the_same_driver_sees_the_same_bytes() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in PLACES {
            check_external(&rig, &device, placement, &device);
        }
    }
}

#[test]
fn an_external_engine_on_another_driver_sees_system_memory() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    check_external(&rig, &lavapipe, Placement::System, &swiftshader);
    check_external(&rig, &swiftshader, Placement::System, &lavapipe);
}

#[test]
fn every_device_of_an_external_engine_attaches_to_its_import() {
    let rig = Rig::new();
    let devices = rig.all();
    let external = rig.external_engine();
    let theirs: Vec<_> = devices.iter().map(|device| rig.open_on(&external, device)).collect();
    for home in &devices {
        let buffer = create(&rig, home, 4096, Placement::System);
        let export = buffer.export_foreign().expect("an fd");
        let imported =
            import(&external, &theirs[0], export.as_fd(), export.info()).expect("imported");
        let attachments: Vec<_> =
            theirs.iter().map(|device| imported.attach(device).expect("attached")).collect();
        for (seed, attachment) in (50..).zip(&attachments) {
            fill(attachment, seed);
            assert_pattern(&buffer.attach(home).expect("attached"), seed, home.name());
        }
    }
}

#[test]
fn importing_our_own_fd_returns_the_same_buffer() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in PLACES {
            let buffer = create(&rig, &device, 4000, placement);
            let export = buffer.export_foreign().expect("an fd");
            let handle = export.handle().expect("an fd to import again");
            let before = rig.made();
            let back = import(rig.engine(), &device, handle.as_fd(), handle.info());
            assert!(back.expect("our own").is_same(&buffer), "no second buffer");
            assert_eq!(rig.made().since(before), []);
            let mut longer = export.info();
            // No more than its memory has.
            longer.size = 4001;
            longer.memory_size = longer.memory_size.max(4001);
            let (_, reason) = refusal(import(rig.engine(), &device, export.as_fd(), longer));
            let handle = longer.handle;
            assert_eq!(reason, ForeignFdReason::Overlaps { handle, offset: 0, size: 4000 });
        }
    }
}

#[test]
fn exported_memory_is_never_reused_by_another_buffer() {
    let rig = Rig::new();
    for device in rig.all() {
        for (placement, size) in PLACES.into_iter().flat_map(|p| [(p, 4096), (p, (8 << 20) + 4)]) {
            let external = rig.external_engine();
            let theirs = rig.open_on(&external, &device);
            let buffer = create(&rig, &device, size, placement);
            bytes::write(&buffer, 61);
            let export = buffer.export_foreign().expect("an fd");
            let imported =
                import(&external, &theirs, export.as_fd(), export.info()).expect("imported");
            drop((export, buffer));
            let next: Vec<_> = (0..3)
                .map(|_| {
                    let buffer = create(&rig, &device, size, placement);
                    bytes::write(&buffer, 62);
                    let export = buffer.export_foreign().expect("an fd");
                    (buffer, export)
                })
                .collect();
            let what = format!("{size} bytes in {placement:?} of {}", device.name());
            bytes::assert_sequence(&imported, 61, &what);
            bytes::write(&imported, 63);
            for (buffer, _) in &next {
                bytes::assert_sequence(buffer, 62, &what);
            }
        }
    }
}

#[test]
fn exported_padding_holds_no_previous_owners_bytes() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in PLACES {
            // Each has its own allocation, of the same rounded size.
            let old = create(&rig, &device, 9 << 20, placement);
            bytes::write(&old, 71);
            drop(old);
            let buffer = create(&rig, &device, (8 << 20) + 5, placement);
            let export = buffer.export_foreign().expect("an fd");
            let mut whole = export.info();
            whole.size = 9 << 20;
            let external = rig.external_engine();
            let theirs = rig.open_on(&external, &device);
            let imported = import(&external, &theirs, export.as_fd(), whole).expect("imported");
            bytes::assert_zero(&imported, &format!("{placement:?} of {}", device.name()));
        }
    }
}

#[test]
fn a_move_into_recycled_memory_clears_the_padding() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let old = create(&rig, &lavapipe, 9 << 20, Placement::System);
    bytes::write(&old, 71);
    drop(old);
    let buffer = create(&rig, &lavapipe, (8 << 20) + 5, Placement::VramOrSystem);
    bytes::write(&buffer, 72);
    drop(buffer.attach(&swiftshader).expect("it moves to system memory"));
    let export = buffer.export_foreign().expect("an fd");
    let external = rig.external_engine();
    let theirs = rig.open_on(&external, &lavapipe);
    let mut whole = export.info();
    whole.size = 9 << 20;
    let imported = import(&external, &theirs, export.as_fd(), whole).expect("imported");
    let mut expected = bytes::sequence(72, (8 << 20) + 5);
    expected.resize(9 << 20, 0);
    bytes::assert_same(&bytes::read(&imported), &expected, "the whole memory");
}

#[test]
fn a_closed_fd_is_refused_for_every_handle_type() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    // SAFETY: the number is above every limit, so it never is an open fd. Every call on it fails with EBADF, which
    // is what the test needs.
    let closed = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
    for &handle in HandleType::ALL {
        let result = import(rig.engine(), device, closed, info(device, handle, 4096));
        assert_eq!(refusal(result), (handle, ForeignFdReason::Closed));
    }
}

#[test]
fn an_fd_that_is_no_dma_buf_is_refused() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let (pipe, _other_end) = rustix::pipe::pipe().expect("a pipe");
    let sealed = memfd(4096, SealFlags::SHRINK);
    for fd in [pipe.as_fd(), sealed.as_fd()] {
        let result = import(rig.engine(), device, fd, info(device, HandleType::DmaBuf, 4096));
        assert_eq!(refusal(result), (HandleType::DmaBuf, ForeignFdReason::NotDmaBuf));
    }
}

#[test]
fn host_memory_must_be_a_memfd_that_cannot_shrink() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let (pipe, _other_end) = rustix::pipe::pipe().expect("a pipe");
    let unsealed = memfd(65_536, SealFlags::empty());
    let growing = memfd(65_536, SealFlags::GROW);
    for fd in [pipe.as_fd(), unsealed.as_fd(), growing.as_fd()] {
        let result = import(rig.engine(), device, fd, info(device, HandleType::HostPointer, 4096));
        assert_eq!(refusal(result), (HandleType::HostPointer, ForeignFdReason::NotSealed));
    }
}

#[test]
fn an_external_memfd_is_imported() {
    let rig = Rig::new();
    for device in rig.all() {
        let fd = memfd(65_536, SealFlags::SHRINK | SealFlags::GROW);
        rustix::io::pwrite(&fd, &bytes::sequence(81, 5000), 0).expect("bytes in it");
        let info = info(&device, HandleType::HostPointer, 5000);
        let imported = import(rig.engine(), &device, fd.as_fd(), info);
        if imports_files(rig.engine(), &device) {
            bytes::assert_sequence(&imported.expect("imported"), 81, device.name());
        } else {
            let (handle, reason) = refusal(imported);
            assert_eq!(handle, HandleType::HostPointer);
            assert!(matches!(reason, ForeignFdReason::Rejected(_)), "{reason}");
        }
    }
}

#[test]
fn an_fd_that_is_too_small_is_refused_with_both_sizes() {
    let rig = Rig::new();
    for device in rig.all() {
        let sealed = memfd(65_536, SealFlags::SHRINK);
        let claimed = 65_537;
        let info = info(&device, HandleType::HostPointer, claimed);
        let (_, reason) = refusal(import(rig.engine(), &device, sealed.as_fd(), info));
        let ForeignFdReason::TooSmall { claimed: said, actual, .. } = reason else {
            panic!("{reason}")
        };
        assert_eq!((said, actual), (claimed, 65_536));

        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let buffer = create(&rig, &device, 4096, Placement::Vram);
        let export = buffer.export_foreign().expect("an fd");
        let memory = export.info().memory_size;
        let mut info = export.info();
        info.size = memory + 1;
        let (_, reason) = refusal(import(&external, &theirs, export.as_fd(), info));
        let ForeignFdReason::TooSmall { claimed, actual, .. } = reason else { panic!("{reason}") };
        assert!(claimed > memory && actual == memory, "{reason}");
    }
}

#[test]
fn an_opaque_fd_of_another_driver_is_refused_with_both_uuids() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        let buffer = create(&rig, home, 4096, Placement::Vram);
        let export = buffer.export_foreign().expect("an fd");
        if export.info().handle != HandleType::OpaqueFd {
            common::say(&format!("{} exports {}", home.name(), export.info().handle));
            continue;
        }
        bytes::write(&buffer, 4);
        let (_, reason) = refusal(import(rig.engine(), other, export.as_fd(), export.info()));
        let ForeignFdReason::OtherDriver { theirs, ours, .. } = reason else { panic!("{reason}") };
        let uuids = [home, other].map(|device| device.adapter().driver_uuid());
        assert_eq!([theirs, ours], uuids);
        bytes::assert_sequence(&buffer, 4, "unchanged");
        // The same driver on another device is refused as well.
        let mut info = export.info();
        info.device_uuid = Uuid([7; 16]);
        let (_, reason) = refusal(import(rig.engine(), home, export.as_fd(), info));
        assert!(matches!(reason, ForeignFdReason::OtherDriver { .. }), "{reason}");
    }
}

#[test]
fn a_memory_type_that_does_not_exist_is_refused() {
    let rig = Rig::new();
    for device in rig.all() {
        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let buffer = create(&rig, &device, 4096, Placement::Vram);
        let export = buffer.export_foreign().expect("an fd");
        if export.info().handle != HandleType::OpaqueFd {
            common::say(&format!("{} exports {}", device.name(), export.info().handle));
            continue;
        }
        for memory_type in [31, 32, u32::MAX] {
            let mut info = export.info();
            info.memory_type = memory_type;
            let (_, reason) = refusal(import(&external, &theirs, export.as_fd(), info));
            assert_eq!(reason, ForeignFdReason::NoMemoryType);
        }
    }
}

#[test]
fn facts_of_an_unknown_kind_do_not_parse() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let mut bytes = info(device, HandleType::DmaBuf, 4096).to_bytes();
    assert!(ForeignInfo::from_bytes(&bytes).is_some());
    bytes[52] = 9;
    assert_eq!(ForeignInfo::from_bytes(&bytes), None);
}

#[test]
fn an_import_of_no_bytes_is_refused() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let fd = memfd(65_536, SealFlags::SHRINK);
    let info = info(device, HandleType::HostPointer, 0);
    let error = import(rig.engine(), device, fd.as_fd(), info).expect_err("no bytes");
    assert!(matches!(error, Error::InvalidSize { size: 0, .. }), "{error:?}");
}

#[test]
fn a_refused_import_leaves_the_fd_with_its_owner() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let fd = memfd(4096, SealFlags::empty());
    let info = info(device, HandleType::HostPointer, 4096);
    import(rig.engine(), device, fd.as_fd(), info).expect_err("not sealed");
    assert_eq!(rustix::fs::fstat(&fd).expect("still open").st_size, 4096);
}

#[test]
fn in_the_vm_every_driver_imports_a_dma_buf() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    if !needs_dma_buf(&lavapipe) {
        return;
    }
    let buffer = create(&rig, &lavapipe, 4096, Placement::Vram);
    let export = buffer.export_foreign().expect("an fd");
    assert!(fds::link_of(export.as_fd()).starts_with("/dmabuf"));
    assert_eq!(export.info().handle, HandleType::DmaBuf);
    drop((export, buffer));
    check_external(&rig, &lavapipe, Placement::Vram, &lavapipe);
    check_external(&rig, &lavapipe, Placement::Vram, &swiftshader);
    check_external(&rig, &lavapipe, Placement::System, &swiftshader);
}

#[test]
fn in_the_vm_a_dma_buf_that_is_too_small_is_refused_with_both_sizes() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    if !needs_dma_buf(&device) {
        return;
    }
    let buffer = create(&rig, &device, 4096, Placement::System);
    let export = buffer.export_foreign().expect("an fd");
    let external = rig.external_engine();
    let theirs = rig.open_on(&external, &device);
    let claimed = 1 << 40;
    let mut info = export.info();
    info.size = claimed;
    let (handle, reason) = refusal(import(&external, &theirs, export.as_fd(), info));
    assert_eq!(handle, HandleType::DmaBuf);
    let ForeignFdReason::TooSmall { claimed: said, actual, .. } = reason else {
        panic!("{reason}")
    };
    assert!(said == claimed && actual < claimed, "{reason}");
}

#[test]
fn a_buffer_that_cannot_leave_its_slab_refuses_export() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    let descriptor = BufferDescriptor::new(4096).placement(Placement::System);
    let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
    // Every import of its memory fails while the routes are proved, and the host cannot map it any more.
    rig.engine().forget_routes();
    for nth in 1..=40 {
        let refused = ash::vk::Result::ERROR_INVALID_EXTERNAL_HANDLE;
        rig.engine().calls().fail_nth(Call::ImportMemory, nth, refused);
        rig.engine().calls().fail_nth(Call::Mmap, nth, refused);
    }
    let error = buffer.export_foreign().expect_err("neither a device nor the host can copy it out");
    assert!(!error.is_retryable(), "{error}");
    rig.engine().calls().clear_faults();
    rig.engine().forget_routes();
    drop(buffer.export_foreign().expect("the faults are cleared"));
}

/// External memory cannot move, not even to where it is.
#[test]
fn a_request_to_move_an_import_is_unsupported() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 4096, Placement::Vram);
        bytes::write(&buffer, 3);
        let export = buffer.export_foreign().expect("an fd");
        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let imported = import(&external, &theirs, export.as_fd(), export.info()).expect("imported");
        assert!(!imported.is_dynamic());
        let results = [
            imported.migrate(imported.domain()),
            imported.migrate(DomainId::System),
            imported.migrate(DomainId::Vram(theirs.id())),
            imported.relocate(),
            imported.evict(),
            imported.request_residency(),
        ];
        for (call, result) in results.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::Unsupported { .. })), "call {call}: {result:?}");
        }
        assert_eq!(imported.generation(), 0);
        bytes::assert_sequence(&imported, 3, "unchanged");
    }
}

/// A kind of use, and its name.
type Use<'a> = (&'a str, &'a dyn Fn(&SharedBuffer));

#[test]
fn an_export_that_was_dropped() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in PLACES {
            let external = rig.external_engine();
            let theirs = rig.open_on(&external, &device);
            let source = create(&rig, &device, 4096, placement);
            bytes::write(&source, 92);
            let uses: [Use<'_>; 4] = [
                ("host access", &|buffer| bytes::write(buffer, 92)),
                ("a pass", &|buffer| fill(&buffer.attach(&device).expect("attached"), 92)),
                ("a copy", &|buffer| {
                    let region = peerbuf::CopyRegion::first(4096);
                    let fence = rig.engine().copy(&source, buffer, region).expect("a copy");
                    fence.wait(common::LONG).expect("it ends");
                }),
                ("an export", &|buffer| {
                    let export = buffer.export_foreign().expect("an fd");
                    bytes::write(buffer, 92);
                    drop(export);
                }),
            ];
            for (name, use_it) in uses {
                let what = format!("{name}, {placement:?} of {}", device.name());
                let buffer = create(&rig, &device, 4096, placement);
                bytes::write(&buffer, 91);
                let export = buffer.export_foreign().expect("an fd");
                let imported =
                    import(&external, &theirs, export.as_fd(), export.info()).expect("imported");
                bytes::assert_sequence(&imported, 91, &what);
                drop(export);
                let known = || rig.engine().report().named("frame").any(|b| b.known_outside);
                assert!(known(), "{what}");
                let generation = buffer.generation();
                use_it(&buffer);
                let moves = if name == "an export" { 2 } else { 1 };
                assert!(buffer.generation() > generation, "{what}: moved before its use");
                assert!(buffer.generation() <= generation + moves, "{what}: moved once");
                assert_eq!(known(), name == "an export", "{what}");
                bytes::assert_sequence(&imported, 91, &what);
                bytes::write(&imported, 93);
                assert_ne!(bytes::read(&buffer), bytes::sequence(93, 4096), "{what}");
            }
        }
    }
}

#[test]
fn a_mapping_that_is_older_than_the_end_of_an_export_is_stale() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 4096, Placement::Vram);
        let importer = std::sync::Arc::new(peerbuf::Refault::default());
        let attachment = buffer.attach_dynamic(&device, importer).expect("attached");
        drop(buffer.export_foreign().expect("an fd"));
        let mut mapping = attachment.map(peerbuf::Access::ReadWrite).expect("mapped");
        let export = buffer.export_foreign().expect("an fd");
        attachment.remap(&mut mapping).expect("mapped where it is exported");
        mapping.fill(1).expect("current");
        drop(export);
        let error = mapping.fill(2).expect_err("the buffer moves first");
        assert!(matches!(error, Error::Stale { .. }), "{error:?}");
        attachment.fill_remapped(&mut mapping, 3).expect("current again");
        assert_pattern(&attachment, 3, device.name());
    }
}

#[test]
fn a_buffer_that_is_kept_in_place_leaves_exported_memory_later() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 4096, Placement::Vram);
        let attachment = buffer.attach(&device).expect("attached");
        let export = buffer.export_foreign().expect("an fd");
        let mapping = attachment.map(peerbuf::Access::ReadWrite).expect("mapped");
        drop(export);
        let generation = buffer.generation();
        let known = || rig.engine().report().named("frame").any(|b| b.known_outside);
        mapping.fill(4).expect("the mapping keeps the buffer in place");
        assert!(known() && buffer.generation() == generation);
        drop(mapping);
        fill(&attachment, 5);
        assert!(!known());
        assert_eq!(buffer.generation(), generation + 1, "{}", device.name());
    }
}
