//! Slabs by the devices that share their buffers: a device imports slabs of its own buffers, and no others; and
//! private memory, which no other device can import.

use std::time::Duration;

use crate::common::recorder::Recorder;
use crate::common::{Rig, assert_pattern, bytes, fill, wait_idle};
use ash::vk::DeviceMemory;
use peerbuf::device::Call;
use peerbuf::observe::MoveCause;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, Error, Placement, Provider,
    SharedBuffer, SlabGrouping,
};

const PLACES: [Placement; 2] = [Placement::Vram, Placement::System];

/// More buffers than one slab of 4 KiB buffers holds at first.
const MANY: u64 = 100;

/// The clock stands still, so that no view becomes old and is imported again while a busy machine takes its time.
fn grouped() -> Rig {
    let rig = Rig::with(|descriptor| descriptor.slabs(SlabGrouping::BySharers));
    rig.engine().calls().set_clock(Some(Duration::ZERO));
    rig
}

fn create(rig: &Rig, home: &Device, place: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size_in(place)).placement(place);
    rig.engine().create_buffer(home, descriptor).expect("there is room")
}

/// One size for each place, since what most buffers of a size do decides where new ones begin.
fn size_in(place: Placement) -> u64 {
    if place == Placement::System { 16 << 10 } else { 4096 }
}

/// A place that both devices reach.
fn common_place(near: &Device, far: &Device) -> Placement {
    if near.adapter() == far.adapter() { Placement::Vram } else { Placement::System }
}

/// Whether both devices reach the memory of a new buffer. System memory that a GPU's driver allocates has an fd of that
/// driver alone.
fn both_reach(buffer: &SharedBuffer, near: &Device, far: &Device) -> bool {
    near.adapter() == far.adapter() || !buffer.provider().name().ends_with("opaque_fd")
}

fn memory(buffer: &SharedBuffer, device: &Device) -> DeviceMemory {
    memory_of(&buffer.attach(device).expect("attached"))
}

fn memory_of(attachment: &Attachment) -> DeviceMemory {
    let view = attachment.map(Access::Read).and_then(|mapping| mapping.view());
    view.expect("mapped").memory
}

fn imports(rig: &Rig) -> u64 {
    rig.engine().calls().made(Call::ImportMemory)
}

/// Pairs of devices of one driver, and of two, whose routes are proved.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    let mut pairs = vec![rig.two_of_one_adapter()];
    pairs.extend(rig.two_drivers());
    pairs.iter().for_each(|pair| rig.engine().prove_routes(pair).expect("routes"));
    pairs
}

#[test]
fn a_device_imports_the_slabs_of_buffers_that_it_shares_and_no_others() {
    let rig = grouped();
    for [near, far] in pairs(&rig) {
        for place in PLACES.into_iter().filter(|place| {
            *place == Placement::System || common_place(&near, &far) == Placement::Vram
        }) {
            let own: Vec<_> = (0..MANY).map(|_| create(&rig, &near, place)).collect();
            (0..).zip(&own).for_each(|(seed, buffer)| bytes::write(buffer, seed));
            let theirs: Vec<_> = own.iter().map(|buffer| memory(buffer, &near)).collect();
            let shared = create(&rig, &near, place);
            bytes::write(&shared, 77);
            // The home device imports memory that is the host's, too.
            let copied = rig.engine().moved(MoveCause::Reach).copied;
            let before = imports(&rig);
            shared.attach(&far).map(drop).expect("it moves to a slab of both");
            wait_idle(&[&near]);
            let what = format!("{place:?}, {} to {}", near.name(), far.name());
            let exported = shared.provider().name() == "opaque_fd";
            assert!(imports(&rig) - before <= if exported { 1 } else { 2 }, "{what}");
            assert_eq!(
                rig.engine().moved(MoveCause::Reach).copied,
                copied + size_in(place),
                "{what}"
            );
            bytes::assert_sequence(&shared, 77, &what);
            assert!(!theirs.contains(&memory(&shared, &near)), "{what}: a slab of its own");
            // Further buffers of the two devices import nothing.
            let before = imports(&rig);
            let more: Vec<_> = (0..10).map(|_| create(&rig, &near, place)).collect();
            let memories: Vec<_> = more.iter().map(|buffer| memory(buffer, &far)).collect();
            assert!(memories.iter().all(|other| *other == memory(&shared, &far)), "{what}");
            assert_eq!(imports(&rig), before, "{what}");
            for (seed, buffer) in (0..).zip(&own) {
                bytes::assert_sequence(buffer, seed, &what);
            }
            drop((own, more, shared));
            rig.engine().trim();
        }
    }
}

#[test]
fn buffers_that_are_usually_shared_begin_in_a_slab_of_their_devices() {
    let rig = grouped();
    let [near, far] = rig.two_of_one_adapter();
    rig.engine().prove_routes(&[near.clone(), far.clone()]).expect("routes");
    let before = rig.engine().calls().made(Call::GetMemoryFd);
    let (mut moved, mut kept) = (vec![], vec![]);
    for nth in 0..200 {
        let buffer = create(&rig, &near, Placement::Vram);
        let generation = buffer.generation();
        bytes::write(&buffer, nth);
        buffer.attach(&far).expect("attached");
        if buffer.generation() != generation {
            moved.push(nth);
        }
        kept.push(buffer);
    }
    let exports = rig.engine().calls().made(Call::GetMemoryFd) - before;
    assert!(exports <= 4, "{exports} fds for 200 buffers: one for each slab");
    assert!(moved.len() <= 3 && moved.iter().all(|nth| *nth < 4), "{moved:?}");
    // Once most are not shared, they begin apart again.
    let shared = memory(&create(&rig, &near, Placement::Vram), &near);
    let alone: Vec<_> = (0..100).map(|_| create(&rig, &near, Placement::Vram)).collect();
    let last = alone.last().map(|buffer| memory(buffer, &near));
    assert_ne!(last, Some(shared));
}

#[test]
fn an_attach_that_fails_says_nothing_about_later_buffers() {
    let rig = grouped();
    let Some([near, far]) = rig.two_drivers() else { return };
    rig.engine().prove_routes(&[near.clone(), far.clone()]).expect("routes");
    rig.engine().calls().set_import_limit(Some(0));
    for _ in 0..3 {
        let error = create(&rig, &near, Placement::System).attach(&far).expect_err("no import");
        assert!(matches!(error, Error::ImportLimit(_)), "{error}");
    }
    rig.engine().calls().set_import_limit(None);
    let next = create(&rig, &near, Placement::System);
    let generation = next.generation();
    next.attach(&far).expect("attached");
    assert_ne!(next.generation(), generation, "it began in a slab of its home device alone");
}

#[test]
fn a_buffer_that_was_never_written_changes_its_slab_without_a_copy() {
    let rig = grouped();
    for [near, far] in pairs(&rig) {
        let buffer = create(&rig, &near, common_place(&near, &far));
        let before = rig.engine().moved(MoveCause::Reach);
        let attachment = buffer.attach(&far).expect("attached");
        let after = rig.engine().moved(MoveCause::Reach);
        assert_eq!((after.moves - before.moves, after.copied - before.copied), (1, 0));
        bytes::assert_zero(&buffer, "new");
        fill(&attachment, 5);
        assert_pattern(&buffer.attach(&near).expect("attached"), 5, "written by the other");
    }
}

#[test]
fn importers_are_notified_when_a_buffer_changes_its_slab() {
    let rig = grouped();
    let [near, far] = rig.two_of_one_adapter();
    let buffer = create(&rig, &near, Placement::Vram);
    let recorder = Recorder::new(true);
    let attachment = buffer.attach_dynamic(&near, recorder.clone()).expect("attached");
    let mut mapping = attachment.map(Access::ReadWrite).expect("mapped");
    mapping.fill(3).expect("filled");
    let far = buffer.attach(&far).expect("it moves");
    assert_eq!(recorder.invalidated().len(), 1);
    assert!(matches!(mapping.view(), Err(Error::Stale { .. })));
    attachment.remap(&mut mapping).expect("remapped");
    assert_pattern(&far, 3, "moved");
}

#[test]
fn a_buffer_that_is_kept_in_place_is_shared_where_it_is() {
    let rig = grouped();
    for [near, far] in pairs(&rig) {
        let buffer = create(&rig, &near, common_place(&near, &far));
        if !both_reach(&buffer, &near, &far) {
            continue;
        }
        let attachment = buffer.attach(&near).expect("attached");
        let mapping = attachment.map(Access::ReadWrite).expect("mapped");
        mapping.fill(3).expect("filled");
        let generation = buffer.generation();
        assert_pattern(&buffer.attach(&far).expect("attached"), 3, "in place");
        assert_eq!(buffer.generation(), generation, "it has not moved");
        mapping.view().expect("the mapping is current");
    }
}

#[test]
fn compacting_keeps_buffers_in_slabs_of_their_devices() {
    let rig = grouped();
    let engine = rig.engine();
    let [near, far] = rig.two_of_one_adapter();
    let vram = DomainId::Vram(near.id());
    let share = |shared: bool| {
        let buffer = create(&rig, &near, Placement::Vram);
        let attachment = shared.then(|| buffer.attach(&far).expect("attached"));
        (buffer, attachment)
    };
    let alone: Vec<_> = (0..700).map(|_| share(false)).collect();
    let shared: Vec<_> = (0..700).map(|_| share(true)).collect();
    // The attachments keep the imports of their slabs.
    let every = |all: Vec<(SharedBuffer, Option<Attachment>)>| -> (Vec<_>, Vec<_>) {
        all.into_iter().step_by(16).unzip()
    };
    let ((alone, _), (shared, attachments)) = (every(alone), every(shared));
    (0..).zip(alone.iter().chain(&shared)).for_each(|(seed, buffer)| bytes::write(buffer, seed));
    wait_idle(&[&near, &far]);
    let (held, before) = (engine.usage(vram).expect("of this engine").held, imports(&rig));
    assert!(engine.compact(u64::MAX).buffers > 0);
    wait_idle(&[&near, &far]);
    engine.trim();
    assert!(engine.usage(vram).expect("of this engine").held < held);
    let apart: Vec<_> = alone.iter().map(|buffer| memory(buffer, &near)).collect();
    for buffer in &shared {
        assert!(!apart.contains(&memory(buffer, &near)), "{buffer:?} is among those of one device");
    }
    for attachment in attachments.iter().flatten() {
        memory_of(attachment);
    }
    // Compaction goes to slabs that are there; and the far device has imported those of its own.
    assert_eq!(imports(&rig), before);
    for (seed, buffer) in (0..).zip(alone.iter().chain(&shared)) {
        bytes::assert_sequence(buffer, seed, "compacted");
    }
}

#[test]
fn a_buffer_that_is_evicted_and_restored_stays_in_slabs_of_its_devices() {
    let rig = grouped();
    let [near, far] = rig.two_of_one_adapter();
    let place = Placement::VramOrSystem;
    let [alone, shared] = [1, 2].map(|seed| {
        let buffer = create(&rig, &near, place);
        bytes::write(&buffer, seed);
        buffer
    });
    shared.attach(&far).map(drop).expect("attached");
    let kept = shared.attach(&far).expect("attached");
    for buffer in [&alone, &shared] {
        buffer.evict().expect("there is room");
    }
    assert_ne!(memory(&alone, &near), memory(&shared, &near), "in system memory");
    for buffer in [&alone, &shared] {
        buffer.migrate(DomainId::Vram(near.id())).expect("there is room");
    }
    assert_ne!(memory(&alone, &near), memory(&shared, &near), "back");
    kept.map(Access::Read).expect("mapped");
    bytes::assert_sequence(&alone, 1, "moved twice");
    bytes::assert_sequence(&shared, 2, "moved twice");
}

#[test]
fn an_evicted_buffer_that_changes_its_slab_keeps_its_preferred_domain() {
    let rig = grouped();
    for [near, far] in pairs(&rig) {
        let buffer = create(&rig, &near, Placement::VramOrSystem);
        bytes::write(&buffer, 1);
        let preferred = buffer.domain();
        assert_eq!(preferred, DomainId::Vram(near.id()));
        buffer.evict().expect("nothing keeps it");
        let generation = buffer.generation();
        let attachment = buffer.attach_dynamic(&far, Recorder::new(true)).expect("it attaches");
        assert_ne!(buffer.generation(), generation, "in a slab of both");
        let explained = buffer.explain();
        assert_eq!((explained.domain, explained.preferred), (DomainId::System, preferred));
        drop(attachment);
        buffer.request_residency().expect("there is room");
        assert_eq!(buffer.domain(), preferred, "{}", buffer.explain());
        bytes::assert_sequence(&buffer, 1, "back");
    }
}

#[test]
fn memory_that_another_device_has_imported_is_not_kept_for_buffers_of_one_device() {
    let rig = grouped();
    let [near, far] = rig.two_of_one_adapter();
    const SIZE: u64 = 16 << 20;
    let create = || rig.engine().create_buffer(&near, BufferDescriptor::new(SIZE)).expect("room");
    let first = create();
    first.attach(&far).map(drop).expect("an allocation of its own is imported in place");
    assert_eq!(rig.engine().moved(MoveCause::Reach).moves, 0);
    drop(first);
    let before = rig.engine().calls().made(Call::AllocateMemory);
    let second = create();
    assert_eq!(rig.engine().calls().made(Call::AllocateMemory), before + 1, "new memory");
    drop(second);
    let third = create();
    assert_eq!(rig.engine().calls().made(Call::AllocateMemory), before + 1, "reused");
    drop(third);
}

#[test]
fn software_devices_have_slabs_in_common_by_default() {
    let rig = Rig::with(|descriptor| descriptor.slabs(SlabGrouping::Auto));
    for [near, far] in pairs(&rig) {
        let [alone, shared] = [1, 2].map(|_| create(&rig, &near, Placement::System));
        if !both_reach(&shared, &near, &far) {
            continue;
        }
        bytes::write(&shared, 3);
        let generation = shared.generation();
        match shared.attach(&far) {
            Ok(_) => assert_eq!(shared.generation(), generation),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(memory(&alone, &near), memory(&shared, &near));
    }
}

/// The counts of the figure `slab_waste`: a class of slots begins with 256 KiB, or with one slot if that is larger.
#[test]
fn one_buffer_of_each_size_class_holds_an_exact_number_of_bytes() {
    let rig = Rig::new();
    for device in rig.all() {
        let doublings = (0..11).map(|doubling| 4096u64 << doubling);
        let steps = doublings.flat_map(|size| (8..16).map(move |step| size / 8 * step));
        let create = |size| {
            let descriptor = BufferDescriptor::new(size).placement(Placement::Vram);
            rig.engine().create_buffer(&device, descriptor).expect("there is room")
        };
        let buffers: Vec<_> = steps.chain([8 << 20]).map(create).collect();
        let usage = rig.engine().usage(DomainId::Vram(device.id())).expect("of this engine");
        assert_eq!((buffers.len(), usage.held, usage.used), (89, 105_644_032, 104_810_496));
    }
}

// ---- private memory ----

fn private(rig: &Rig, home: &Device) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(4096).placement(Placement::VramOrSystem).private();
    let buffer = rig.engine().create_buffer(home, descriptor.clone()).expect("there is room");
    assert_eq!(buffer.descriptor(), descriptor);
    assert_eq!(buffer.provider(), Provider::Private { device: home.id() });
    buffer
}

#[test]
fn private_memory_becomes_exportable_when_another_device_attaches() {
    for grouping in [SlabGrouping::Auto, SlabGrouping::BySharers] {
        let rig = Rig::with(|descriptor| descriptor.slabs(grouping));
        for [near, far] in pairs(&rig) {
            let before = rig.made();
            let buffer = private(&rig, &near);
            let other = private(&rig, &near);
            fill(&buffer.attach(&near).expect("its own buffer"), 5);
            fill(&other.attach(&near).expect("its own buffer"), 6);
            let made = rig.made().since(before);
            let exports = ["vkGetMemoryFdKHR", "vkAllocateMemory (import)"];
            assert!(!made.iter().any(|(call, _)| exports.contains(call)), "{made:?}");
            let attachment = buffer.attach(&far).expect("it moves");
            assert_ne!(buffer.provider(), Provider::Private { device: near.id() });
            assert_pattern(&attachment, 5, "shared");
            assert_eq!(other.provider(), Provider::Private { device: near.id() });
            // A buffer that is kept in place cannot be shared.
            let held = other.attach(&near).expect("attached");
            let mapping = held.map(Access::Read).expect("mapped");
            let error = other.attach(&far).expect_err("it cannot move");
            assert!(matches!(error, Error::Busy { mapped: 1, .. }), "{error:?}");
            mapping.view().expect("nothing has changed");
            drop((mapping, held));
            assert_pattern(&other.attach(&far).expect("now it can"), 6, "shared");
        }
    }
}

#[test]
fn private_memory_is_left_before_an_export_and_found_again_after_an_eviction() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = private(&rig, &device);
        bytes::write(&buffer, 8);
        buffer.evict().expect("there is room");
        buffer.migrate(DomainId::Vram(device.id())).expect("there is room");
        assert_eq!(buffer.provider(), Provider::Private { device: device.id() });
        let export = buffer.export_foreign().expect("it moves");
        assert_ne!(buffer.provider(), Provider::Private { device: device.id() });
        bytes::assert_sequence(&buffer, 8, "exported");
        drop(export);
    }
}

#[test]
fn private_buffers_are_copied_and_migrated_to_other_devices() {
    let rig = Rig::new();
    for [near, far] in pairs(&rig) {
        let [from, to] = [private(&rig, &near), private(&rig, &far)];
        fill(&from.attach(&near).expect("its own buffer"), 4);
        rig.engine().copy(&from, &to, CopyRegion::first(4096)).expect("a copy");
        assert_pattern(&to.attach(&far).expect("its own buffer"), 4, "copied");
        from.migrate(DomainId::Vram(far.id())).expect("migrated");
        assert_pattern(&from.attach(&far).expect("its own buffer"), 4, "migrated");
    }
}

// ---- peer-to-peer access ----

#[test]
fn a_veto_of_peer_to_peer_access_holds_for_copies_and_moves() {
    for grouping in [SlabGrouping::Auto, SlabGrouping::BySharers] {
        let rig = Rig::with(|descriptor| descriptor.slabs(grouping));
        let [near, far] = rig.two_of_one_adapter();
        rig.engine().prove_routes(&[near.clone(), far.clone()]).expect("routes");
        let create = |home: &Device, allowed| {
            let descriptor = BufferDescriptor::new(64 << 10).placement(Placement::Vram);
            let buffer = rig.engine().create_buffer(home, descriptor.peer_to_peer(allowed));
            buffer.expect("there is room")
        };
        for allowed in [[false, false], [false, true], [true, false]] {
            let [from, to] = [create(&near, allowed[0]), create(&far, allowed[1])];
            fill(&from.attach(&near).expect("its own buffer"), 4);
            let before = rig.made();
            rig.engine().copy(&from, &to, CopyRegion::first(64 << 10)).expect("a copy");
            assert_pattern(&to.attach(&far).expect("its own buffer"), 4, "copied");
            if !(allowed[0] || allowed[1]) {
                let made = rig.made().since(before);
                assert!(!made.iter().any(|(call, _)| call.contains("import")), "{made:?}");
            }
        }
        let buffer = create(&near, false);
        fill(&buffer.attach(&near).expect("its own buffer"), 9);
        let before = rig.made();
        buffer.migrate(DomainId::Vram(far.id())).expect("through staging memory");
        let made = rig.made().since(before);
        assert!(!made.iter().any(|(call, _)| call.contains("import")), "{made:?}");
        assert_pattern(&buffer.attach(&far).expect("its own buffer"), 9, "moved");
    }
}
