//! Host access: the host sees every byte that devices wrote and devices see every byte that the host wrote,
//! within the range and in any memory.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::common::bound::{besides, too_short, with_bound};
use crate::common::gate::Gate;
use crate::common::{self, Rig, assert_pattern, bytes, commands, fill, needs_dma_buf};
use crate::vgem::VgemBuffer;
use ash::vk;
use peerbuf::device::Call;
use peerbuf::transfer::pattern_word;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Error, ForeignInfo, HandleType,
    Placement, Provider, SharedBuffer,
};

/// After this time the kernel ends a fence of vgem by itself.
const VGEM_TIMEOUT: Duration = Duration::from_secs(10);

/// The ways in which the host reaches the bytes.
const WAYS: [(Placement, bool); 3] =
    [(Placement::Vram, false), (Placement::Vram, true), (Placement::System, false)];

fn create(rig: &Rig, home: &Device, size: u64, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).name("page").placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

/// Runs `check` on every device: with mapped VRAM, with VRAM reached by bounce copies, and with host memory.
fn everywhere(check: impl Fn(&Rig, &Device, Placement)) {
    for (placement, unmappable) in WAYS {
        let rig = Rig::new();
        rig.engine().calls().set_unmappable_device_memory(unmappable);
        for device in rig.all() {
            check(&rig, &device, placement);
        }
    }
}

#[test]
fn odd_ranges_are_written_and_read_exactly() {
    everywhere(|rig, device, placement| {
        let buffer = create(rig, device, 10_007, placement);
        let mut expected = vec![0; 10_007];
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        for (offset, len) in [(0, 1), (1, 2), (3, 7), (4093, 5), (5000, 4097), (10_006, 1), (9, 0)]
        {
            let part = bytes::sequence(offset, len);
            access.write(offset, &part).expect("in range");
            expected[offset as usize..][..part.len()].copy_from_slice(&part);
        }
        access.fill(101, 999, 0xab).expect("in range");
        expected[101..1100].fill(0xab);
        for (offset, len) in [(0, 10_007), (1, 3), (4095, 4099), (10_006, 1), (10_007, 0)] {
            let mut part = vec![0; len];
            access.read(offset, &mut part).expect("in range");
            bytes::assert_same(&part, &expected[offset as usize..][..len], "the same access");
        }
        access.end().expect("it ends");
        bytes::assert_same(&bytes::read(&buffer), &expected, "a later access");
    });
}

#[test]
fn an_out_of_bounds_access_reports_its_numbers() {
    everywhere(|rig, device, placement| {
        let buffer = create(rig, device, 100, placement);
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        for (offset, len) in [(0, 101), (100, 1), (99, 2), (u64::MAX, 1), (u64::MAX - 3, 8)] {
            let error = access.write(offset, &vec![1; len]).expect_err("out of bounds");
            let Error::OutOfBounds { offset: at, len: of, size: 100, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!((at, of), (offset, len as u64));
            assert!(matches!(
                access.read(offset, &mut vec![0; len]),
                Err(Error::OutOfBounds { .. })
            ));
            assert!(matches!(access.fill(offset, len, 1), Err(Error::OutOfBounds { .. })));
        }
        drop(access);
        bytes::assert_zero(&buffer, "nothing was written");
    });
}

#[test]
fn an_access_permits_only_its_declared_kind() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let buffer = create(&rig, device, 100, Placement::Vram);
    let reading = buffer.host_access(Access::Read).expect("host access");
    let error = reading.write(0, &[1]).expect_err("opened for reading");
    assert!(
        matches!(error, Error::WrongAccess { opened: Access::Read, used: Access::Write, .. }),
        "{error:?}"
    );
    reading.fill(0, 1, 1).expect_err("filling is writing");
    let writing = buffer.host_access(Access::Write).expect("host access");
    writing.read(0, &mut [0]).expect_err("opened for writing");
    let attachment = buffer.attach(device).expect("attached");
    attachment.map(Access::Read).expect("mapped").fill(1).expect_err("the same holds for devices");
    attachment.map(Access::Write).expect("mapped").verify(1).expect_err("both ways");
}

#[test]
fn the_host_sees_what_a_device_wrote() {
    everywhere(|rig, device, placement| {
        let buffer = create(rig, device, 4096, placement);
        fill(&buffer.attach(device).expect("attached"), 99);
        let expected: Vec<u8> =
            (0..1024).flat_map(|index| pattern_word(99, index).to_le_bytes()).collect();
        bytes::assert_same(&bytes::read(&buffer), &expected, "the device's pattern");
    });
}

#[test]
fn every_device_sees_what_the_host_wrote() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    for home in &devices {
        let buffer = create(&rig, home, 4096, Placement::VramOrSystem);
        let attachments: Vec<_> =
            devices.iter().map(|d| buffer.attach(d).expect("attached")).collect();
        let words: Vec<u8> =
            (0..1024).flat_map(|index| pattern_word(5, index).to_le_bytes()).collect();
        let access = buffer.host_access(Access::Write).expect("host access");
        access.write(0, &words).expect("in range");
        access.end().expect("it ends");
        for attachment in &attachments {
            assert_pattern(attachment, 5, home.name());
        }
    }
}

#[test]
fn dropping_an_access_makes_host_writes_visible_to_the_device() {
    everywhere(|rig, device, placement| {
        let buffer = create(rig, device, 4096, placement);
        let words: Vec<u8> =
            (0..1024).flat_map(|index| pattern_word(6, index).to_le_bytes()).collect();
        let access = buffer.host_access(Access::Write).expect("host access");
        access.write(0, &words).expect("in range");
        drop(access);
        assert_pattern(&buffer.attach(device).expect("attached"), 6, device.name());
    });
}

#[test]
fn an_open_access_keeps_the_memory_when_all_else_lets_go_of_it() {
    everywhere(|rig, device, placement| {
        let engine = rig.engine();
        let buffer = create(rig, device, 300_000, placement);
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        access.fill(0, 300_000, 0x3c).expect("in range");
        // Neither a move, nor a purge, nor the end of the last handle takes the memory, which then would be another's.
        let elsewhere = rig.all().into_iter().find(|other| other.id() != device.id());
        let elsewhere = elsewhere.map(|other| DomainId::Vram(other.id()));
        for domain in [Some(DomainId::System), elsewhere].into_iter().flatten() {
            if domain != buffer.domain() {
                assert!(buffer.migrate(domain).is_err(), "it is held");
            }
        }
        buffer.set_purgeable(true).expect("it can be");
        assert!(buffer.evict().is_err() || !buffer.is_purged(), "it is held");
        drop(buffer);
        engine.trim();
        let others: Vec<_> = (0..8).map(|_| create(rig, device, 300_000, placement)).collect();
        for other in &others {
            let write = other.host_access(Access::Write).expect("host access");
            write.fill(0, 300_000, 0xff).expect("in range");
            write.end().expect("it ends");
        }
        let mut read = vec![0; 300_000];
        access.read(0, &mut read).expect("in range");
        assert!(read.iter().all(|&byte| byte == 0x3c), "{}: its own bytes", device.name());
        access.end().expect("it ends");
    });
}

#[test]
fn host_access_waits_for_a_running_copy() {
    everywhere(|rig, device, placement| {
        let [source, target] = [1, 2].map(|_| create(rig, device, 1 << 20, placement));
        bytes::write(&source, 21);
        for _ in 0..4 {
            rig.engine().copy(&source, &target, CopyRegion::first(1 << 20)).expect("a copy");
            bytes::assert_sequence(&target, 21, "right after the copy was submitted");
            rig.engine().copy(&source, &target, CopyRegion::first(1 << 20)).expect("a copy");
            // The source must not be overwritten before it was read.
            bytes::write(&source, 22);
            bytes::assert_sequence(&target, 21, "a source that was overwritten later");
            bytes::write(&source, 21);
        }
    });
}

#[test]
fn concurrent_accesses_keep_each_others_writes() {
    everywhere(|rig, device, placement| {
        let buffer = create(rig, device, 8192, placement);
        let first = buffer.host_access(Access::Write).expect("one");
        let second = buffer.host_access(Access::Write).expect("another");
        first.write(0, &[1; 4096]).expect("in range");
        second.write(4096, &[2; 4096]).expect("in range");
        first.end().expect("it ends");
        second.end().expect("it ends");
        let expected = [vec![1; 4096], vec![2; 4096]].concat();
        bytes::assert_same(&bytes::read(&buffer), &expected, "both halves");
    });
}

#[test]
fn a_failed_access_holds_nothing() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let buffer = create(&rig, &lavapipe, 4096, Placement::VramOrSystem);
    rig.engine().calls().fail_nth(Call::MapMemory, 1, vk::Result::ERROR_MEMORY_MAP_FAILED);
    let error = buffer.host_access(Access::Read).expect_err("the driver cannot map it");
    assert!(
        matches!(error, Error::Vulkan { code: vk::Result::ERROR_MEMORY_MAP_FAILED, .. }),
        "{error:?}"
    );
    drop(buffer.attach(&swiftshader).expect("the buffer may move"));
    bytes::assert_zero(&buffer, "afterwards");
}

#[test]
fn in_the_vm_access_to_a_dma_buf_is_bracketed_by_its_ioctl() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    if !needs_dma_buf(&device) {
        return;
    }
    let buffer = create(&rig, &device, 4096, Placement::System);
    assert!(matches!(buffer.provider(), Provider::DmaHeap | Provider::Udmabuf));
    for access in [Access::Read, Access::Write, Access::ReadWrite] {
        let ioctls = || rig.engine().calls().made(Call::Ioctl);
        let before = ioctls();
        let guard = buffer.host_access(access).expect("host access");
        assert!(ioctls() > before, "{access}: begin");
        let begun = ioctls();
        guard.end().expect("it ends");
        assert!(ioctls() > begun, "{access}: end");
    }
}

#[test]
fn work_that_only_the_kernel_knows_is_waited_for_up_to_the_timeout_without_the_reservation() {
    with_bound(|rig, bound| {
        for device in rig.all() {
            let [buffer, other] = [1, 2].map(|_| create(rig, &device, 4096, Placement::System));
            let far = create(rig, &device, 4096, Placement::Vram);
            besides(|| {
                for buffer in [&buffer, &other, &far] {
                    bytes::write(buffer, 71);
                    // Proves the route: the proof reads and writes host memory, which the fault keeps busy.
                    let attachment = buffer.attach(&device).expect("attached");
                    let mapping = attachment.map(Access::Read);
                    mapping.and_then(|mapping| mapping.checksum()).expect("read");
                }
            });
            if buffer.provider() != Provider::Memfd {
                common::say(&format!("{} has {}", device.name(), buffer.provider()));
                continue;
            }
            rig.engine().calls().set_busy_host_memory(true);
            let error = buffer.host_access(Access::Read).expect_err("the memory is busy");
            let Error::Timeout { what, after, .. } = &error else { panic!("{error:?}") };
            assert!(what.contains("dma-buf") && *after == bound, "{error}");
            let report = rig.engine().report();
            assert!(report.buffers.iter().all(|buffer| buffer.host_accesses == 0), "held by none");
            // Everything else goes by a device, which does not wait.
            rig.engine().copy(&buffer, &other, CopyRegion::first(4096)).expect("by a device");
            rig.engine().copy(&far, &other, CopyRegion::first(4096)).expect("by a device");
            buffer.relocate().expect("by a device");
            far.migrate(DomainId::System).expect("by a device");
            drop(other);
            let fresh = create(rig, &device, 4096, Placement::System);
            let sum_of = |buffer: &SharedBuffer| {
                let attachment = besides(|| buffer.attach(&device).expect("attached"));
                let sum = attachment.map(Access::Read).and_then(|mapping| mapping.checksum());
                match sum {
                    // The device is late, not the memory.
                    Err(Error::Timeout { what, .. }) if !what.contains("dma-buf") => too_short(),
                    other => other.expect("scrubbed by a device"),
                }
            };
            let sum = sum_of(&fresh);
            rig.engine().calls().set_busy_host_memory(false);
            let zero = create(rig, &device, 4096, Placement::Vram);
            assert_eq!(sum, sum_of(&zero), "an earlier owner's bytes");
            besides(|| {
                bytes::assert_zero(&fresh, device.name());
                bytes::assert_sequence(&buffer, 71, device.name());
                bytes::assert_sequence(&far, 71, device.name());
            });
        }
    });
}

#[test]
fn an_access_that_waits_for_the_kernel_begins_when_the_work_ends() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 4096, Placement::System);
        bytes::write(&buffer, 72);
        rig.engine().calls().set_busy_host_memory(true);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| bytes::read(&buffer));
            // The reader waits without the reservation.
            fill(
                &create(&rig, &device, 4096, Placement::Vram).attach(&device).expect("attached"),
                1,
            );
            buffer.wait(Access::Write, common::LONG).expect("the reservation is free");
            rig.engine().calls().set_busy_host_memory(false);
            let read = reader.join().expect("the access ends");
            bytes::assert_same(&read, &bytes::sequence(72, 4096), device.name());
        });
    }
}

#[test]
fn a_write_through_staging_memory_follows_the_work_of_other_devices() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, 4096, Placement::Vram);
    let attachment = buffer.attach(&peer).expect("attached");
    let mapping = attachment.map(Access::Write).expect("mapped");
    let access = buffer.host_access(Access::Write).expect("host access");
    access.write(16, &[0xab; 16]).expect("in range");
    let gate = Gate::close(&peer);
    let fence = commands::fill(rig.engine(), &peer, &mapping, 0x0101_0101).expect("a submission");
    access.end().expect("the copy back is submitted");
    // The home device has time to run a copy that does not wait.
    let near = create(&rig, &home, 4096, Placement::Vram);
    for _ in 0..16 {
        std::thread::yield_now();
        assert!(!fence.is_signalled().expect("no error"), "behind the gate");
    }
    drop(near);
    gate.open();
    fence.wait(common::LONG).expect("it ends");
    let mut expected = vec![1; 4096];
    expected[16..32].fill(0xab);
    bytes::assert_same(&bytes::read(&buffer), &expected, "the later write stays");
    drop(mapping);
}

#[test]
fn threads_that_write_the_same_bytes_leave_one_of_the_values() {
    everywhere(|rig, device, placement| {
        let buffer = create(rig, device, 4096, placement);
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        std::thread::scope(|scope| {
            for value in [1u8, 2] {
                let access = &access;
                scope.spawn(move || {
                    for _ in 0..64 {
                        access.write(0, &[value; 4096]).expect("in range");
                    }
                });
            }
        });
        let mut read = vec![0; 4096];
        access.read(0, &mut read).expect("in range");
        assert!(read.iter().all(|byte| [1, 2].contains(byte)));
        access.end().expect("it ends");
    });
}

#[test]
#[expect(unsafe_code, reason = "imports a dma-buf of the kernel")]
fn in_the_vm_an_access_to_a_dma_buf_waits_for_its_fences_up_to_the_timeout() {
    with_bound(|rig, bound| {
        let Some(device) = rig.lavapipe() else { return };
        if !needs_dma_buf(&device) {
            return;
        }
        let Some(vgem) = VgemBuffer::create() else { return common::missing("vgem") };
        let info = ForeignInfo::new(HandleType::DmaBuf, vgem.size);
        // SAFETY: a dma-buf of that size, which this test alone uses.
        let buffer = unsafe { rig.engine().import_foreign(&device, vgem.fd.as_fd(), info, None) };
        let buffer = buffer.expect("imported");
        besides(|| bytes::write(&buffer, 73));
        let fence = vgem.begin_write();
        let ioctls = rig.engine().calls().made(Call::Ioctl);
        match buffer.host_access(Access::Read) {
            Err(Error::Timeout { what, after, .. }) => {
                assert!(what.contains("dma-buf") && after == bound, "{what}");
                assert_eq!(rig.engine().calls().made(Call::Ioctl), ioctls, "not begun");
            }
            // The kernel ended the fence before the bound.
            Ok(_) if bound > VGEM_TIMEOUT => return,
            other => panic!("{other:?}"),
        }
        fence.signal();
        bytes::assert_sequence(&buffer, 73, "after the fence");
    });
}
