//! Files from external users: what of them is mapped, which are refused, and that the same bytes are never two
//! buffers.
#![expect(unsafe_code, reason = "importing fds is unsafe, and some here are wrong on purpose")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::common::reach::imports_files;
use crate::common::{self, Rig, assert_pattern, bytes, fill, needs_dma_buf};
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, Error, ForeignFdReason, ForeignInfo, HandleType,
    Placement, Provider, Result, SharedBuffer,
};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

const SEALED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("external", flags).expect("a memfd");
    rustix::fs::ftruncate(&fd, size).expect("its size");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("its seals");
    fd
}

fn import(
    engine: &Engine,
    device: &Device,
    fd: BorrowedFd<'_>,
    info: ForeignInfo,
) -> Result<SharedBuffer> {
    // SAFETY: the fds of these tests are memfds and exports of engines in this process, with what they are, or are
    // refused before any use. All uses follow each other in one thread.
    unsafe { engine.import_foreign(device, fd, info, Some("external")) }
}

/// A device of each adapter that imports memfds.
fn importers(rig: &Rig) -> Vec<Device> {
    rig.all().into_iter().filter(|device| imports_files(rig.engine(), device)).collect()
}

fn part(offset: u64, size: u64) -> ForeignInfo {
    let mut info = ForeignInfo::new(HandleType::HostPointer, size);
    info.offset = offset;
    info
}

fn refusal(result: Result<SharedBuffer>) -> ForeignFdReason {
    match result {
        Err(Error::ForeignFd { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn content(fd: &OwnedFd, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let read = rustix::io::pread(fd, &mut bytes, offset).expect("its bytes");
    assert_eq!(read as u64, len);
    bytes
}

/// Bytes of address space that this process has mapped.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages: u64 = pages.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

#[test]
fn a_small_claim_on_a_large_memfd() {
    const FILE: u64 = 64 << 30;
    let rig = Rig::new();
    for device in importers(&rig) {
        let fd = memfd(FILE, SEALED);
        rustix::io::pwrite(&fd, &bytes::sequence(1, 4096), 0).expect("bytes in it");
        let before = address_space();
        let buffer = import(rig.engine(), &device, fd.as_fd(), part(0, 4096)).expect("imported");
        let more = address_space().saturating_sub(before);
        assert!(more < FILE / 64, "{}: {more} bytes mapped for 4096", device.name());
        bytes::assert_sequence(&buffer, 1, device.name());
    }
}

#[test]
fn files_that_are_no_whole_pages_are_imported() {
    let rig = Rig::new();
    for device in importers(&rig) {
        for size in [800 * 600 * 4, 5000, 4] {
            let fd = memfd(size, SEALED);
            rustix::io::pwrite(&fd, &bytes::sequence(2, size), 0).expect("bytes in it");
            let buffer =
                import(rig.engine(), &device, fd.as_fd(), part(0, size)).expect("imported");
            let what = format!("{size} bytes of {}", device.name());
            bytes::assert_sequence(&buffer, 2, &what);
            let attachment = buffer.attach(&device).expect("attached");
            fill(&attachment, 3);
            assert_pattern(&attachment, 3, &what);
            bytes::write(&buffer, 4);
            bytes::assert_same(&content(&fd, 0, size), &bytes::sequence(4, size), &what);
        }
    }
}

#[test]
fn buffers_of_one_pool_have_offsets() {
    let rig = Rig::new();
    for device in importers(&rig) {
        let fd = memfd(100_000, SEALED);
        rustix::io::pwrite(&fd, &bytes::sequence(5, 100_000), 0).expect("bytes in it");
        let parts = [(0, 256), (256, 768), (12_544, 4100), (20_480, 65_536)];
        let buffers = parts.map(|(offset, size)| {
            let info = part(offset, size);
            import(rig.engine(), &device, fd.as_fd(), info).expect("imported")
        });
        let mut expected = bytes::sequence(5, 100_000);
        for (seed, ((offset, size), buffer)) in (6..).zip(parts.into_iter().zip(&buffers)) {
            let range = offset as usize..(offset + size) as usize;
            let what = format!("{size} bytes at {offset} on {}", device.name());
            bytes::assert_same(&bytes::read(buffer), &expected[range.clone()], &what);
            fill(&buffer.attach(&device).expect("attached"), seed);
            assert_pattern(&buffer.attach(&device).expect("attached"), seed, &what);
            bytes::write(buffer, u64::from(seed));
            expected[range].copy_from_slice(&bytes::sequence(u64::from(seed), size));
            bytes::assert_same(&content(&fd, 0, 100_000), &expected, &what);
        }
        let odd = import(rig.engine(), &device, fd.as_fd(), part(100, 256)).expect_err("odd");
        assert!(matches!(odd, Error::Misaligned { value: 100, align: 256, .. }), "{odd:?}");
        let beyond = refusal(import(rig.engine(), &device, fd.as_fd(), part(99_840, 4096)));
        let ForeignFdReason::TooSmall { claimed, actual, .. } = beyond else { panic!("{beyond}") };
        assert_eq!((claimed, actual), (103_936, 100_000));
        let wraps = import(rig.engine(), &device, fd.as_fd(), part(u64::MAX - 255, 4096));
        assert!(matches!(wraps, Err(Error::InvalidSize { size: 4096, .. })), "{wraps:?}");
    }
}

#[test]
fn a_part_of_a_pool_is_exported_with_its_offset() {
    let rig = Rig::new();
    for device in importers(&rig) {
        let fd = memfd(65_536, SEALED);
        rustix::io::pwrite(&fd, &bytes::sequence(5, 65_536), 0).expect("bytes in it");
        let buffer = import(rig.engine(), &device, fd.as_fd(), part(8448, 512)).expect("imported");
        let export = buffer.export_foreign().expect("an fd");
        assert_eq!((export.info().offset, export.info().size), (8448, 512));
        let back = import(rig.engine(), &device, export.as_fd(), export.info()).expect("our own");
        assert!(back.is_same(&buffer));
        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let imported = import(&external, &theirs, export.as_fd(), export.info()).expect("imported");
        bytes::assert_same(&bytes::read(&imported), &bytes::sequence(5, 65_536)[8448..8960], "");
    }
}

#[test]
fn files_that_cannot_be_written_are_refused_with_the_reason() {
    let rig = Rig::new();
    for device in rig.all() {
        let try_import =
            |fd: &OwnedFd| refusal(import(rig.engine(), &device, fd.as_fd(), part(0, 4096)));
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
            let reason = try_import(&memfd(4096, SEALED | seal));
            assert_eq!(reason, ForeignFdReason::SealedAgainstWriting, "{seal:?}");
        }
        let fd = memfd(4096, SEALED);
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let reader = rustix::fs::open(path, flags, Mode::empty()).expect("a second fd");
        assert_eq!(try_import(&reader), ForeignFdReason::ReadOnly);
    }
}

#[test]
fn a_memfd_of_huge_pages_is_refused() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let made = rustix::fs::memfd_create("huge", flags).and_then(|fd| {
        rustix::fs::ftruncate(&fd, 2 << 20)?;
        rustix::fs::fcntl_add_seals(&fd, SEALED)?;
        Ok(fd)
    });
    match made {
        Ok(fd) => {
            let reason = refusal(import(rig.engine(), device, fd.as_fd(), part(0, 4096)));
            assert_eq!(reason, ForeignFdReason::HugePages);
        }
        Err(errno) => common::say(&format!("this kernel has no huge pages: {errno}")),
    }
}

#[test]
fn an_opaque_fd_is_at_least_as_large_as_its_memory() {
    let rig = Rig::new();
    for device in rig.all() {
        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let descriptor = BufferDescriptor::new(4096).placement(Placement::Vram);
        let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
        let export = buffer.export_foreign().expect("an fd");
        if export.info().handle != HandleType::OpaqueFd {
            common::say(&format!("{} exports {}", device.name(), export.info().handle));
            continue;
        }
        let mut info = export.info();
        info.memory_size = 1 << 40;
        let before = external.calls().made(Call::CreateBuffer);
        let reason = refusal(import(&external, &theirs, export.as_fd(), info));
        let ForeignFdReason::TooSmall { claimed, actual, .. } = reason else { panic!("{reason}") };
        assert!(claimed == 1 << 40 && actual < 1 << 40, "{reason}");
        assert_eq!(external.calls().made(Call::CreateBuffer), before, "no driver was asked");
    }
}

#[test]
fn importing_the_same_bytes_twice_returns_one_buffer() {
    let rig = Rig::new();
    let devices = importers(&rig);
    for device in &devices {
        let fd = memfd(65_536, SEALED);
        let again = fd.try_clone().expect("a second fd");
        let first = import(rig.engine(), device, fd.as_fd(), part(4096, 4096)).expect("imported");
        for other in &devices {
            let second = import(rig.engine(), other, again.as_fd(), part(4096, 4096));
            assert!(second.expect("imported again").is_same(&first), "{}", other.name());
        }
        let mut said = part(4096, 4096);
        (said.memory_size, said.memory_type) = (8192, 3);
        let second = import(rig.engine(), device, fd.as_fd(), said).expect("for opaque fds alone");
        assert!(second.is_same(&first), "{}", device.name());
        drop(second);
        for (offset, size) in [(4096, 4095), (4096, 8192), (0, 4097), (8191 / 256 * 256, 300)] {
            let reason = refusal(import(rig.engine(), device, fd.as_fd(), part(offset, size)));
            let (handle, offset, size) = (HandleType::HostPointer, 4096, 4096);
            assert_eq!(reason, ForeignFdReason::Overlaps { handle, offset, size });
        }
        let next = import(rig.engine(), device, fd.as_fd(), part(8192, 4096)).expect("beside it");
        assert!(!next.is_same(&first));
        drop((first, next));
        let whole = import(rig.engine(), device, fd.as_fd(), part(0, 65_536)).expect("free again");
        assert_eq!(whole.size(), 65_536);
    }
}

#[test]
fn an_fd_whose_export_has_ended_is_imported_as_external_memory() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in [Placement::Vram, Placement::System] {
            let what = format!("{placement:?} of {}", device.name());
            let descriptor = BufferDescriptor::new(4096).placement(placement);
            let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
            bytes::write(&buffer, 81);
            let handle = buffer.export_foreign().and_then(|export| export.handle());
            let handle = handle.expect("an fd that outlives its export");
            let imported = import(rig.engine(), &device, handle.as_fd(), handle.info());
            let imported = imported.expect("imported");
            assert!(!imported.is_same(&buffer), "{what}");
            assert_eq!(imported.provider(), Provider::Foreign(handle.info().handle), "{what}");
            bytes::assert_sequence(&imported, 81, &what);
            bytes::write(&buffer, 82);
            bytes::assert_sequence(&imported, 81, &what);
            bytes::write(&imported, 83);
            bytes::assert_sequence(&buffer, 82, &what);
        }
    }
}

#[test]
fn a_buffer_that_does_not_fit_twice_leaves_exported_memory() {
    for placement in [Placement::Vram, Placement::VramOrSystem] {
        let rig = Rig::new();
        for device in rig.all() {
            let what = format!("{placement:?} of {}", device.name());
            rig.engine().model_heap(&device, 12 << 20).expect("of this engine");
            // It has an allocation of its own from the beginning.
            let descriptor = BufferDescriptor::new(9 << 20).placement(placement);
            let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
            let home = buffer.domain();
            bytes::write(&buffer, 84);
            drop(buffer.export_foreign().expect("an fd"));
            bytes::assert_sequence(&buffer, 84, &what);
            fill(&buffer.attach(&device).expect("attached"), 85);
            assert_eq!(buffer.explain().preferred, home, "{what}");
            assert!(rig.engine().report().buffers.iter().all(|b| !b.known_outside), "{what}");
            if placement == Placement::Vram {
                assert_eq!(buffer.domain(), home, "{what}");
            }
        }
    }
}

#[test]
fn an_export_of_an_evicted_buffer_keeps_its_preferred_domain() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = rig.engine().create_buffer(&device, BufferDescriptor::new(4096));
        let buffer = buffer.expect("a buffer");
        let home = buffer.domain();
        bytes::write(&buffer, 86);
        buffer.evict().expect("not held");
        drop(buffer.export_foreign().expect("an fd"));
        bytes::assert_sequence(&buffer, 86, device.name());
        assert_eq!(buffer.explain().preferred, home, "{}", device.name());
    }
}

#[test]
fn two_exports_of_a_buffer_are_imported_as_one() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in [Placement::Vram, Placement::System] {
            let external = rig.external_engine();
            let theirs = rig.open_on(&external, &device);
            let descriptor = BufferDescriptor::new(4096).placement(placement);
            let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
            let exports = [buffer.export_foreign(), buffer.export_foreign()];
            let [first, second] = exports.map(|export| {
                let export = export.expect("an fd");
                import(&external, &theirs, export.as_fd(), export.info()).expect("imported")
            });
            assert!(first.is_same(&second), "{placement:?} of {}", device.name());
        }
    }
}

/// Nothing is remembered by the number of an fd: two exports change their numbers before they are imported.
#[test]
fn exports_that_change_their_numbers_are_imported_as_what_they_are() {
    let rig = Rig::new();
    for device in rig.all() {
        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let exports = [1, 2].map(|seed| {
            let descriptor = BufferDescriptor::new(4096).placement(Placement::System);
            let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
            bytes::write(&buffer, seed);
            let export = buffer.export_foreign().expect("an fd");
            let fd = export.as_fd().try_clone_to_owned().expect("a duplicate");
            (fd, export)
        });
        let [(mut first, one), (mut second, two)] = exports;
        // What is known of them by their numbers is known now.
        for (fd, export) in [(&first, &one), (&second, &two)] {
            drop(import(&external, &theirs, fd.as_fd(), export.info()).expect("imported"));
        }
        let kept = first.try_clone().expect("a duplicate");
        rustix::io::dup2(&second, &mut first).expect("the number of the first");
        rustix::io::dup2(&kept, &mut second).expect("the number of the second");
        for (fd, export, seed) in [(&second, &one, 1), (&first, &two, 2)] {
            let imported = import(&external, &theirs, fd.as_fd(), export.info()).expect("imported");
            bytes::assert_sequence(&imported, seed, device.name());
        }
    }
}

#[test]
fn imported_memory_is_never_mapped_through_vulkan() {
    let rig = Rig::new();
    for device in rig.all() {
        let external = rig.external_engine();
        let theirs = rig.open_on(&external, &device);
        let descriptor = BufferDescriptor::new(40_000).placement(Placement::Vram);
        let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
        bytes::write(&buffer, 7);
        let export = buffer.export_foreign().expect("an fd");
        let imported = import(&external, &theirs, export.as_fd(), export.info()).expect("imported");
        bytes::assert_sequence(&imported, 7, device.name());
        bytes::write(&imported, 8);
        bytes::assert_sequence(&buffer, 8, device.name());
        let access = imported.host_access(Access::ReadWrite).expect("host access");
        access.write(5, &[1, 2, 3]).expect("in range");
        access.end().expect("it ends");
        assert_eq!(bytes::read(&buffer)[5..8], [1, 2, 3]);
        assert_eq!(external.calls().made(Call::MapMemory), 0, "{}", device.name());
    }
}

#[test]
fn mappings_are_kept_out_of_children_and_core_files() {
    let rig = Rig::new();
    for device in rig.all() {
        let descriptor = BufferDescriptor::new(1 << 20).placement(Placement::System);
        let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
        bytes::write(&buffer, 9);
        if buffer.provider() != Provider::Memfd {
            common::say(&format!("{} has {}", device.name(), buffer.provider()));
            continue;
        }
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc is mounted");
        let ours: Vec<&str> = maps
            .lines()
            .skip_while(|line| !line.contains("/memfd:peerbuf"))
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .expect("the memory is mapped")
            .split_whitespace()
            .collect();
        for flag in ["dc", "dd"] {
            assert!(ours.contains(&flag), "no {flag} in {ours:?}");
        }
    }
}

#[test]
fn in_the_vm_a_small_claim_on_a_large_dma_buf_needs_permission() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    if !needs_dma_buf(&device) {
        return;
    }
    let descriptor = BufferDescriptor::new(1 << 20).placement(Placement::System);
    let buffer = rig.engine().create_buffer(&device, descriptor).expect("a buffer");
    bytes::write(&buffer, 10);
    let export = buffer.export_foreign().expect("an fd");
    let external = rig.external_engine();
    let theirs = rig.open_on(&external, &device);
    let mut info = export.info();
    info.size = 4096;
    let reason = refusal(import(&external, &theirs, export.as_fd(), info));
    let ForeignFdReason::TooLarge { claimed: 4096, actual } = reason else { panic!("{reason}") };
    assert!(actual >= 1 << 20, "{reason}");
    info.allow_larger = true;
    let imported = import(&external, &theirs, export.as_fd(), info).expect("permitted");
    bytes::assert_same(&bytes::read(&imported), &bytes::sequence(10, 1 << 20)[..4096], "");
    drop(imported);
    info.offset = 512 << 10;
    let imported = import(&external, &theirs, export.as_fd(), info).expect("a part");
    let expected = &bytes::sequence(10, 1 << 20)[512 << 10..][..4096];
    bytes::assert_same(&bytes::read(&imported), expected, "");
    assert!(import(&external, &theirs, export.as_fd(), info).expect("again").is_same(&imported));
}
