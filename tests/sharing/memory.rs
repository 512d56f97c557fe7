//! Memory of buffers: new buffers are zero even in recycled memory, buffers do not overlap, and unused memory is
//! freed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::reach::is_integrated;
use crate::common::{self, LONG, Rig, alive, bytes, wait_idle};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Error, Placement, RawView, SharedBuffer,
};

/// More refusals than an allocation of a small buffer in VRAM makes attempts.
const REFUSALS: u64 = 60;

const PLACES: [Placement; 2] = [Placement::Vram, Placement::System];

/// A rig whose clock stands still, so that no view becomes old while a busy machine takes its time.
fn stopped() -> Rig {
    let rig = Rig::new();
    rig.engine().calls().set_clock(Some(Duration::ZERO));
    rig
}

fn create(rig: &Rig, device: &Device, size: u64, place: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).placement(place);
    rig.engine().create_buffer(device, descriptor).expect("there is room")
}

/// The memory and offset of a buffer, as its home device sees it.
fn place(buffer: &SharedBuffer) -> RawView {
    let attachment = buffer.attach(&buffer.home()).expect("a device reaches its own buffer");
    attachment
        .map(Access::Read)
        .and_then(|mapping| mapping.view())
        .expect("the home device maps it")
}

/// Checks that the host and the home device read zeros in all of a new buffer.
fn check_fresh(rig: &Rig, device: &Device, size: u64, at: Placement) {
    let what = format!("{} bytes in {at:?} of {}", size, device.name());
    let buffer = create(rig, device, size, at);
    // The device reads first: zeros written at the first host access would hide what the device saw.
    let copy = create(rig, device, size, at);
    bytes::write(&copy, 0xff);
    rig.engine().copy(&buffer, &copy, CopyRegion::first(size)).expect("a copy");
    bytes::assert_zero(&copy, &format!("{what}, seen by the device"));
    bytes::assert_zero(&buffer, &format!("{what}, seen by the host"));
}

#[test]
fn new_buffers_are_zero() {
    let rig = Rig::new();
    for device in rig.all() {
        for at in PLACES {
            for size in [1, 255, 4096, 65_537, 1 << 20, (8 << 20) + 1] {
                check_fresh(&rig, &device, size, at);
            }
        }
    }
}

#[test]
fn new_buffers_that_the_host_cannot_map_are_zero() {
    let rig = Rig::new();
    rig.engine().calls().set_unmappable_device_memory(true);
    for device in rig.all() {
        for size in [1, 4096, (1 << 20) + 4] {
            check_fresh(&rig, &device, size, Placement::Vram);
        }
    }
}

fn bytes_used(rig: &Rig, domain: DomainId) -> u64 {
    rig.engine().usage(domain).expect("one of our domains").used
}

#[derive(Clone, Copy, Debug)]
enum Writer {
    Host,
    Device,
}

/// Checks that a buffer in recycled memory shows no bytes of the previous owner.
fn check_recycled(rig: &Rig, device: &Device, size: u64, at: Placement, writer: Writer) {
    let what = format!("{size} bytes in {at:?} of {}, written by {writer:?}", device.name());
    let old = create(rig, device, size, at);
    match writer {
        Writer::Host => bytes::write(&old, 7),
        Writer::Device => common::fill(&old.attach(device).expect("attached"), 7),
    }
    let before = place(&old);
    // The memory is not reused while a device works on it.
    wait_idle(&[device]);
    drop(old);
    let new = create(rig, device, size, at);
    let after = place(&new);
    assert_eq!((before.memory, before.offset), (after.memory, after.offset), "{what}: recycled");
    bytes::assert_zero(&new, &what);
    // Recycle it once more without a read in between, so that it still holds the first owner's bytes.
    bytes::write(&new, 9);
    wait_idle(&[device]);
    drop(new);
    drop(create(rig, device, size, at));
    let last = create(rig, device, size, at);
    bytes::assert_zero(&last, &format!("{what}, two owners later"));
}

const WRITERS: [Writer; 2] = [Writer::Host, Writer::Device];

#[test]
fn a_new_owner_never_sees_the_old_owners_bytes() {
    let rig = stopped();
    for device in rig.all() {
        for (at, writer) in PLACES.into_iter().flat_map(|at| WRITERS.map(|writer| (at, writer))) {
            // Slots of slabs, and one size with its own allocation.
            for size in [4, 2048, 100_000, (8 << 20) + 4] {
                check_recycled(&rig, &device, size, at, writer);
            }
        }
    }
}

#[test]
fn unmappable_memory_never_shows_the_old_owners_bytes() {
    let rig = stopped();
    rig.engine().calls().set_unmappable_device_memory(true);
    for device in rig.all() {
        for (size, writer) in [4, 2048, 100_000].into_iter().flat_map(|s| WRITERS.map(|w| (s, w))) {
            check_recycled(&rig, &device, size, Placement::Vram, writer);
        }
    }
}

#[test]
fn a_new_owner_on_another_device_never_sees_the_old_owners_bytes() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let old = create(&rig, &first, 8192, Placement::System);
    let attachment = old.attach(&second).expect("system memory reaches it");
    common::fill(&attachment, 3);
    drop((attachment, old));
    let new = create(&rig, &second, 8192, Placement::System);
    let attachment = new.attach(&second).expect("attached");
    let mapping = attachment.map(Access::Read).expect("mapped");
    let zeros = create(&rig, &second, 8192, Placement::System).attach(&second).expect("attached");
    let zeros = zeros.map(Access::Read).expect("mapped");
    assert_eq!(mapping.checksum().expect("a pass"), zeros.checksum().expect("a pass"));
    drop((mapping, attachment));
    bytes::assert_zero(&new, "a slot that another device had");
}

#[test]
fn buffers_of_many_sizes_do_not_overlap() {
    let rig = Rig::new();
    for device in rig.all() {
        for at in PLACES {
            let sizes = (0..48u64).map(|i| 1 + i * i * 173).chain([4096; 16]).chain([1 << 20]);
            let buffers: Vec<_> = sizes.map(|size| create(&rig, &device, size, at)).collect();
            for (seed, buffer) in (1..).zip(&buffers) {
                bytes::write(buffer, seed);
            }
            let mut places = BTreeSet::new();
            for (seed, buffer) in (1..).zip(&buffers) {
                bytes::assert_sequence(buffer, seed, &format!("{buffer:?}"));
                let view = place(buffer);
                assert!(view.offset.is_multiple_of(256), "{view:?}");
                assert_eq!(view.size, buffer.size());
                assert!(places.insert((view.memory, view.offset)), "{view:?} twice");
            }
        }
    }
}

#[test]
fn trimming_frees_all_unused_memory() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let vram = DomainId::Vram(device.id());
    let kept = create(&rig, device, 4096, Placement::Vram);
    let with_one = bytes_used(&rig, vram);
    assert!(with_one >= 4096);
    let more = [1 << 20, 3 << 20, 9 << 20].map(|size| create(&rig, device, size, Placement::Vram));
    let in_system = create(&rig, device, 9 << 20, Placement::System);
    bytes::write(&kept, 5);
    assert!(bytes_used(&rig, vram) >= with_one + (13 << 20));
    drop((more, in_system));
    let freed = rig.engine().trim();
    assert!(freed >= 22 << 20, "{freed} bytes were freed");
    assert_eq!(bytes_used(&rig, vram), with_one, "the slab in use stays");
    // The memory of an integrated device is system memory.
    let in_system = if is_integrated(device) { with_one } else { 0 };
    assert_eq!(bytes_used(&rig, DomainId::System), in_system);
    bytes::assert_sequence(&kept, 5, "a buffer that stayed alive");
    drop(kept);
    rig.engine().trim();
    assert_eq!((bytes_used(&rig, vram), bytes_used(&rig, DomainId::System)), (0, 0));
    assert_eq!(rig.engine().live().count(Object::Allocation), 0);
    assert_eq!(rig.engine().trim(), 0, "nothing is left to free");
}

#[test]
fn reusing_dropped_memory_makes_no_driver_call() {
    let rig = stopped();
    for device in rig.all() {
        for (size, at) in [4096, 9 << 20].into_iter().flat_map(|size| PLACES.map(|at| (size, at))) {
            drop(create(&rig, &device, size, at));
            let before = rig.made();
            drop(create(&rig, &device, size, at));
            assert_eq!(rig.made().since(before), [], "{size} bytes in {at:?}");
        }
    }
}

#[test]
fn dropped_memory_of_sizes_in_use_is_kept_rather_than_that_of_earlier_sizes() {
    let rig = stopped();
    for device in rig.all() {
        // As much unused memory as is kept of large buffers.
        drop([240, 16].map(|mib| create(&rig, &device, mib << 20, Placement::Vram)));
        drop(create(&rig, &device, 24 << 20, Placement::Vram));
        let before = rig.made();
        drop(create(&rig, &device, 24 << 20, Placement::Vram));
        assert_eq!(rig.made().since(before), [], "the size that was dropped last");
        let before = rig.made();
        drop(create(&rig, &device, 240 << 20, Placement::Vram));
        assert_ne!(rig.made().since(before), [], "what was dropped first was freed");
        rig.engine().trim();
    }
}

#[test]
fn a_failed_allocation_leaves_nothing_allocated() {
    let rig = Rig::new();
    let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    for device in rig.all() {
        let vram = DomainId::Vram(device.id());
        let before = (alive(rig.engine().live()), bytes_used(&rig, vram));
        // Each provider of the placement fails for a slab, for smaller ones, and again after unused memory was freed.
        for nth in 1..=REFUSALS {
            rig.engine().calls().fail_nth(Call::AllocateMemory, nth, code);
        }
        let descriptor = BufferDescriptor::new(5000).placement(Placement::Vram);
        let error = rig.engine().create_buffer(&device, descriptor).expect_err("no memory");
        rig.engine().calls().clear_faults();
        let Error::OutOfMemory { domain, requested, budget, used, code: said, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((domain, said), (vram, Some(code)));
        assert!(requested >= 5000 && budget > 0 && used <= budget, "{requested} {used} {budget}");
        assert_eq!((alive(rig.engine().live()), bytes_used(&rig, vram)), before);
        drop(create(&rig, &device, 5000, Placement::Vram));
        rig.engine().trim();
    }
}

#[test]
fn a_buffer_falls_back_to_system_memory_when_vram_is_full() {
    let rig = Rig::new();
    let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
    for device in rig.all() {
        // Each provider of the placement fails for a slab, for smaller ones, and again after unused memory was freed.
        for nth in 1..=REFUSALS {
            rig.engine().calls().fail_nth(Call::AllocateMemory, nth, code);
        }
        let buffer =
            rig.engine().create_buffer(&device, BufferDescriptor::new(5000)).expect("falls back");
        rig.engine().calls().clear_faults();
        assert_eq!(buffer.domain(), DomainId::System);
        bytes::write(&buffer, 3);
        bytes::assert_sequence(&buffer, 3, "in system memory");
        drop(buffer);
        rig.engine().trim();
    }
}

#[test]
fn memory_of_buffers_dropped_during_a_copy_is_reclaimed() {
    let rig = Rig::new();
    for device in rig.all() {
        let source = create(&rig, &device, 1 << 20, Placement::Vram);
        bytes::write(&source, 1);
        for _ in 0..300 {
            let target = create(&rig, &device, 1 << 20, Placement::Vram);
            let fence = rig.engine().copy(&source, &target, CopyRegion::first(1 << 20));
            drop(target);
            fence.and_then(|f| f.wait(LONG)).expect("it ends");
        }
        // No trim was requested, and only a few buffers are in use at any time.
        let used = bytes_used(&rig, DomainId::Vram(device.id()));
        assert!(used <= 64 << 20, "{used} bytes for one buffer of 1 MiB at a time");
    }
}

#[test]
fn a_buffer_is_dropped_while_another_thread_allocates_memory_for_its_size() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let create = || {
        let descriptor = BufferDescriptor::new(4096).placement(Placement::Vram);
        rig.engine().create_buffer(&home, descriptor).expect("there is room")
    };
    let first = create();
    let held = rig.engine().calls().hold_next(Call::AllocateMemory);
    std::thread::scope(|scope| {
        // More than one slab has slots for.
        let filling = scope.spawn(|| (0..1000).map(|_| create()).collect::<Vec<_>>());
        held.wait();
        drop(first);
        // The slot that was returned is there for others.
        drop(create());
        held.wait();
        assert_eq!(filling.join().expect("no panic").len(), 1000);
    });
}
