//! Reused memory is zeroed as far as it is used: the host's first touch zeroes a page, what is written whole is not
//! zeroed, and every other use finds zeros in all that was not written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::until::until;
use crate::common::{self, Rig, bytes, wait_idle};
use ash::vk;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Placement, Refault, SharedBuffer,
};

const PAGE: u64 = 4096;
const SIZE: u64 = (1 << 20) + 8 * PAGE + 100;
const OLD: u64 = 7;

fn create(rig: &Rig, device: &Device) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(SIZE).placement(Placement::Vram);
    rig.engine().create_buffer(device, descriptor).expect("there is room")
}

/// A new buffer in memory that holds an earlier buffer's bytes. A look at its handles would zero it.
fn recycled(rig: &Rig, device: &Device) -> SharedBuffer {
    let old = create(rig, device);
    bytes::write(&old, OLD);
    wait_idle(&[device]);
    drop(old);
    create(rig, device)
}

/// Whether all memory of the device is in the host's caches, and coherent: it is zeroed in parts.
fn is_all_cached(device: &Device) -> bool {
    let wanted = vk::MemoryPropertyFlags::HOST_CACHED | vk::MemoryPropertyFlags::HOST_COHERENT;
    let types = device.adapter().memory_types();
    let cached = types.iter().all(|memory| memory.flags.contains(wanted));
    if !cached {
        common::say(&format!("{} has memory that is zeroed as a whole", device.name()));
    }
    cached
}

/// How many bytes the host zeroes during `work`.
fn zeroed(rig: &Rig, work: impl FnOnce()) -> u64 {
    let before = rig.engine().calls().zeroed_bytes();
    work();
    rig.engine().calls().zeroed_bytes() - before
}

fn write(buffer: &SharedBuffer, offset: u64, len: u64) {
    let access = buffer.host_access(Access::Write).expect("host access");
    access.write(offset, &bytes::sequence(offset, len)).expect("in range");
    access.end().expect("it ends");
}

#[test]
fn a_touch_of_the_host_zeroes_its_page_and_a_whole_write_nothing() {
    let rig = Rig::new();
    for device in rig.all() {
        if !is_all_cached(&device) {
            continue;
        }
        let buffer = recycled(&rig, &device);
        assert_eq!(zeroed(&rig, || write(&buffer, 5 * PAGE + 8, 8)), PAGE, "one word");
        assert_eq!(zeroed(&rig, || write(&buffer, 5 * PAGE + 64, 8)), 0, "of the same page");
        assert_eq!(zeroed(&rig, || write(&buffer, 8 * PAGE, 3 * PAGE)), 0, "whole pages");
        let read = || {
            let access = buffer.host_access(Access::Read).expect("host access");
            let mut part = [1; 100];
            access.read(20 * PAGE - 50, &mut part).expect("in range");
            assert_eq!(part, [0; 100], "never written");
        };
        assert_eq!(zeroed(&rig, read), 2 * PAGE, "a read across two pages");
        // A page, three, and two are valid, in one allocation or slot of at least `SIZE` bytes.
        let copy = create(&rig, &device);
        let rest = zeroed(&rig, || {
            rig.engine().copy(&buffer, &copy, CopyRegion::first(SIZE)).expect("a copy");
        });
        assert!(rest >= SIZE - 6 * PAGE, "{rest}: what the host has not touched");
        assert_eq!(zeroed(&rig, || drop(bytes::read(&buffer))), 0, "all is valid by now");
    }
}

#[test]
fn what_the_host_writes_whole_is_not_zeroed() {
    let rig = Rig::new();
    for device in rig.all() {
        if !is_all_cached(&device) {
            continue;
        }
        let buffer = recycled(&rig, &device);
        assert_eq!(zeroed(&rig, || bytes::write(&buffer, 3)), 0, "from the first byte to the last");
        bytes::assert_sequence(&buffer, 3, "written whole");
        let buffer = recycled(&rig, &device);
        let fill = || {
            let access = buffer.host_access(Access::Write).expect("host access");
            // CAST: a test's buffer fits memory.
            access.fill(0, SIZE as usize, 9).expect("in range");
            access.end().expect("it ends");
        };
        assert_eq!(zeroed(&rig, fill), 0, "filled whole");
        bytes::assert_same(&bytes::read(&buffer), &vec![9; SIZE as usize], "filled");
    }
}

#[test]
fn memory_that_was_zeroed_while_idle_is_not_zeroed_at_its_use() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        if !is_all_cached(&device) {
            continue;
        }
        // Slots of slabs, and one size with its own allocation.
        for size in [4096, SIZE, 9 << 20] {
            let descriptor = || BufferDescriptor::new(size).placement(Placement::Vram);
            let old = [1, 2].map(|seed| {
                let buffer = engine.create_buffer(&device, descriptor()).expect("there is room");
                bytes::write(&buffer, seed);
                buffer
            });
            wait_idle(&[&device]);
            drop(old);
            let one = engine.zero_unused(1);
            assert!((size..size + size / 4).contains(&one), "{one}: one piece at a time");
            assert!(engine.zero_unused(u64::MAX) >= size);
            assert_eq!(engine.zero_unused(u64::MAX), 0, "all is zero");
            let new = [(); 2]
                .map(|()| engine.create_buffer(&device, descriptor()).expect("there is room"));
            let use_all =
                || new.iter().for_each(|buffer| bytes::assert_zero(buffer, device.name()));
            assert_eq!(zeroed(&rig, use_all), 0, "{size} bytes");
            drop(new);
            engine.trim();
        }
    }
}

/// Sets a flag when it is dropped, also by a panic.
struct Set<'a>(&'a AtomicBool);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` while another thread zeroes unused memory without a pause.
fn while_zeroing<T>(rig: &Rig, work: impl FnOnce() -> T) -> T {
    let [begun, stop] = [AtomicBool::new(false), AtomicBool::new(false)];
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(Set(&begun));
                rig.engine().zero_unused(u64::MAX);
            }
        });
        let _stop = Set(&stop);
        until(|| begun.load(Ordering::Relaxed), |&begun| begun);
        work()
    })
}

/// What the other thread has taken out to zero it is unused all the same.
#[test]
fn unused_memory_is_freed_and_its_device_removed_while_another_thread_zeroes_it() {
    const ROUNDS: u32 = 3;
    let rig = Rig::new();
    let engine = rig.engine();
    let [other, first] = rig.two_of_one_adapter();
    let mut first = Some(first);
    for round in 0..ROUNDS {
        let device = first.take().unwrap_or_else(|| rig.open(other.adapter()));
        let leave_unused = || {
            let used = [4096, SIZE, 24 << 20].map(|size| {
                let descriptor = BufferDescriptor::new(size).placement(Placement::Vram);
                let buffer = engine.create_buffer(&device, descriptor).expect("there is room");
                bytes::write(&buffer, OLD);
                buffer
            });
            wait_idle(&[&device]);
            drop(used);
            // What has ended is collected by this thread.
            engine.zero_unused(0);
        };
        leave_unused();
        while_zeroing(&rig, || engine.trim());
        let usage = engine.usage(DomainId::Vram(device.id())).expect("it takes part");
        assert_eq!((usage.used, usage.held), (0, 0), "round {round}: all is freed");
        leave_unused();
        let removed = while_zeroing(&rig, || engine.remove_device(device));
        removed.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

/// What the host writes in [`touch`]: inside of a page, whole pages, and up to the end.
const WRITTEN: [(u64, u64); 4] =
    [(9, 7), (3 * PAGE - 1, 2), (64 * PAGE, 65 * PAGE), (SIZE - 10, 10)];

fn touch(rig: &Rig, buffer: &SharedBuffer) -> Vec<u8> {
    let mut expected = vec![0; SIZE as usize];
    let zeroed = zeroed(rig, || {
        for (offset, len) in WRITTEN {
            write(buffer, offset, len);
            let part = &mut expected[offset as usize..][..len as usize];
            part.copy_from_slice(&bytes::sequence(offset, len));
        }
    });
    if is_all_cached(&buffer.home()) {
        assert_eq!(zeroed, 3 * PAGE + 100, "in pages that were written in part: it is recycled");
    }
    expected
}

/// What [`touch`] leaves to be zeroed: not three pages that it writes in part, 65 pages, and the last 100 bytes.
const REST: u64 = SIZE - 68 * PAGE - 100;

/// Every way in which a buffer leaves the state in which the host alone has touched it. Compaction has a test of its own
/// (`compaction`).
#[test]
fn after_a_partial_access_every_user_sees_what_was_written_and_zeros() {
    /// Returns whether the buffer was used.
    type Use = fn(&Rig, &Device, &SharedBuffer) -> bool;
    let uses: [(&str, Use); 8] = [
        ("none", |_, _, _| false),
        ("a pass of the device", |_, device, buffer| {
            let attachment = buffer.attach(device).expect("attached");
            attachment.map(Access::Read).and_then(|mapping| mapping.checksum()).expect("read");
            true
        }),
        ("a pin", |_, device, buffer| {
            let importer = Arc::new(Refault::new());
            let attachment = buffer.attach_dynamic(device, importer).expect("attached");
            drop(attachment.pin("scanout").expect("pinned"));
            true
        }),
        ("a move", |_, _, buffer| {
            buffer.relocate().expect("moved");
            true
        }),
        ("an eviction", |_, _, buffer| {
            buffer.evict().expect("evicted");
            true
        }),
        ("an eviction and the return", |_, device, buffer| {
            buffer.evict().expect("evicted");
            buffer.migrate(DomainId::Vram(device.id())).expect("back");
            true
        }),
        ("a batch", |rig, _, buffer| {
            for moved in rig.engine().migrate_many(&[(buffer, DomainId::System)]) {
                moved.expect("moved");
            }
            true
        }),
        ("an export", |_, _, buffer| match buffer.export_foreign() {
            Ok(_) => true,
            Err(error) => {
                common::say(&format!("not exported: {error}"));
                false
            }
        }),
    ];
    let rig = Rig::new();
    for device in rig.all() {
        for (name, used) in uses {
            let what = format!("{name} on {}", device.name());
            let buffer = recycled(&rig, &device);
            let expected = touch(&rig, &buffer);
            let mut was_used = false;
            let zeroed = zeroed(&rig, || was_used = used(&rig, &device, &buffer));
            if was_used && is_all_cached(&device) {
                assert_eq!(zeroed, REST, "{what}: before it is used");
            }
            // The device reads first: zeros written at a host access would hide what the device saw.
            let copy = create(&rig, &device);
            bytes::write(&copy, 0xff);
            let copied = rig.engine().copy(&buffer, &copy, CopyRegion::first(SIZE));
            copied.expect("a copy").wait(common::LONG).expect("it ends");
            bytes::assert_same(&bytes::read(&copy), &expected, &format!("{what}: a device"));
            bytes::assert_same(&bytes::read(&buffer), &expected, &format!("{what}: the host"));
            wait_idle(&[&device]);
        }
    }
}

#[test]
fn the_next_owner_of_memory_that_was_touched_in_parts_sees_zeros() {
    let rig = Rig::new();
    for device in rig.all() {
        for discarded in [false, true] {
            let descriptor = BufferDescriptor::new(SIZE).placement(Placement::Vram);
            drop(recycled(&rig, &device));
            let buffer = rig.engine().create_buffer(&device, descriptor.discardable());
            let buffer = buffer.expect("there is room");
            touch(&rig, &buffer);
            if discarded {
                buffer.evict().expect("not held");
                assert!(buffer.is_purged());
            } else {
                drop(buffer);
            }
            let next = create(&rig, &device);
            let zeroed = zeroed(&rig, || write(&next, PAGE + 5, 1));
            assert!(discarded || !is_all_cached(&device) || zeroed == PAGE, "{zeroed}: recycled");
            let mut expected = vec![0; SIZE as usize];
            expected[PAGE as usize + 5] = bytes::byte(PAGE + 5, 0);
            bytes::assert_same(&bytes::read(&next), &expected, device.name());
            wait_idle(&[&device]);
        }
    }
}

/// What the host has not touched of the large one takes longer to zero than a batch may hold its reservations.
#[test]
fn a_batch_moves_large_buffers_that_were_touched_in_parts() {
    const LARGE: u64 = 16 << 20;
    let rig = Rig::new();
    for device in rig.all() {
        let engine = rig.engine();
        let descriptor = |size| BufferDescriptor::new(size).placement(Placement::Vram);
        let create = |size| engine.create_buffer(&device, descriptor(size)).expect("there is room");
        let touched = [SIZE, LARGE].map(|size| {
            let old = create(size);
            bytes::write(&old, OLD);
            wait_idle(&[&device]);
            drop(old);
            let buffer = create(size);
            write(&buffer, 5 * PAGE + 8, 8);
            buffer
        });
        let moves = touched.each_ref().map(|buffer| (buffer, DomainId::System));
        for moved in engine.migrate_many(&moves) {
            moved.expect("moved");
        }
        for buffer in &touched {
            assert_eq!(buffer.domain(), DomainId::System);
            // CAST: a test's buffer fits memory.
            let mut expected = vec![0; buffer.size() as usize];
            let at = 5 * PAGE + 8;
            expected[at as usize..][..8].copy_from_slice(&bytes::sequence(at, 8));
            bytes::assert_same(&bytes::read(buffer), &expected, device.name());
        }
        wait_idle(&[&device]);
    }
}

/// Two threads write alternating blocks, each smaller than a page, so that both touch each page first.
#[test]
fn two_accesses_that_touch_the_same_pages_first_keep_both_writes() {
    const BLOCK: u64 = 1000;
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = recycled(&rig, &device);
        let blocks = 0..SIZE / BLOCK;
        thread::scope(|scope| {
            for turn in 0..2 {
                let (buffer, blocks) = (&buffer, blocks.clone());
                scope.spawn(move || {
                    let access = buffer.host_access(Access::ReadWrite).expect("host access");
                    for block in blocks.filter(|block| block % 3 == turn) {
                        let bytes = bytes::sequence(block, BLOCK);
                        access.write(block * BLOCK, &bytes).expect("in range");
                        let mut back = vec![0; bytes.len()];
                        access.read(block * BLOCK, &mut back).expect("in range");
                        bytes::assert_same(&back, &bytes, "just written");
                    }
                    access.end().expect("it ends");
                });
            }
        });
        let mut expected = vec![0; SIZE as usize];
        for block in blocks.filter(|block| block % 3 < 2) {
            let part = &mut expected[(block * BLOCK) as usize..][..BLOCK as usize];
            part.copy_from_slice(&bytes::sequence(block, BLOCK));
        }
        bytes::assert_same(&bytes::read(&buffer), &expected, device.name());
    }
}

/// A device uses the buffer while the access is open: the rest is zeroed before that, and never again.
#[test]
fn an_access_that_is_open_zeroes_nothing_that_a_device_writes() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = recycled(&rig, &device);
        let source = create(&rig, &device);
        bytes::write(&source, 21);
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        access.write(0, &[5; 10]).expect("in range");
        let region = CopyRegion { from: 32 * PAGE, to: 32 * PAGE, len: 64 * PAGE };
        let copied = rig.engine().copy(&source, &buffer, region).expect("a copy");
        copied.wait(common::LONG).expect("it ends");
        access.write(40 * PAGE + 1, &[6; 10]).expect("in range");
        let mut expected = vec![0; SIZE as usize];
        expected[..10].fill(5);
        let part = (32 * PAGE) as usize..(96 * PAGE) as usize;
        expected[part.clone()].copy_from_slice(&bytes::sequence(21, SIZE)[part]);
        expected[(40 * PAGE) as usize + 1..][..10].fill(6);
        access.end().expect("it ends");
        bytes::assert_same(&bytes::read(&buffer), &expected, device.name());
    }
}
