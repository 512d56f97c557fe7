//! What a device has imported: views are given back when nothing uses them any more, and imports are limited.

use std::time::Duration;

use crate::common::bound::{besides, with_bound};
use crate::common::commands;
use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{self, Rig, bytes, wait_idle};
use peerbuf::device::Call;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Error, ImportUsage, Placement,
    SharedBuffer,
};

/// A buffer of this size has an allocation of its own.
const WHOLE: u64 = (8 << 20) + 4;

/// How many unused views a device keeps at most, whatever they import.
const KEPT: u64 = 16;

/// A rig whose clock stands still, so that no view becomes old while a busy machine takes its time.
fn stopped() -> Rig {
    let rig = Rig::new();
    rig.engine().calls().set_clock(Some(Duration::ZERO));
    rig
}

fn whole(rig: &Rig, home: &Device, place: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(WHOLE).placement(place);
    rig.engine().create_buffer(home, descriptor).expect("there is room")
}

fn imports(rig: &Rig, device: &Device) -> ImportUsage {
    rig.engine().imports(device).expect("a device of this engine")
}

fn imported(rig: &Rig) -> u64 {
    rig.engine().calls().made(Call::ImportMemory)
}

/// A buffer that another device has filled from the start, and that device. It has imported the buffer's memory.
fn filled(rig: &Rig) -> (SharedBuffer, Device) {
    let [home, far] = rig.two_of_one_adapter();
    let buffer = whole(rig, &home, Placement::Vram);
    common::fill(&buffer.attach(&far).expect("the same driver and device"), 7);
    (buffer, far)
}

#[test]
fn views_are_given_back_once_their_last_attachment_is_gone() {
    let rig = stopped();
    let [home, far] = rig.two_of_one_adapter();
    let buffers: Vec<_> = (0..36).map(|_| whole(&rig, &home, Placement::Vram)).collect();
    let attach = |buffer: &SharedBuffer| buffer.attach(&far).expect("the same driver and device");
    let attachments: Vec<_> = buffers.iter().map(attach).collect();
    let used = imports(&rig, &far);
    assert_eq!((used.views, used.system), (36, 0));
    assert!(used.peers >= 36 * WHOLE, "{used:?}");
    drop(attachments);
    let kept = imports(&rig, &far);
    assert!(kept.views <= KEPT, "a few are kept for the next attachment: {kept:?}");
    rig.engine().trim();
    let left = imports(&rig, &far);
    assert_eq!((left.views, left.peers, left.system), (0, 0, 0));
    for (seed, buffer) in (0..).zip(buffers.iter().step_by(4)) {
        common::fill(&attach(buffer), seed);
        common::assert_pattern(&attach(buffer), seed, "imported once more");
    }
}

#[test]
fn buffers_that_are_shared_in_turn_are_imported_once() {
    let rig = stopped();
    let [home, far] = rig.two_of_one_adapter();
    let create = |_| {
        let descriptor = BufferDescriptor::new(1 << 20).placement(Placement::Vram);
        rig.engine().create_buffer(&home, descriptor).expect("there is room")
    };
    let buffers: Vec<_> = (0..48).map(create).collect();
    let share_all = || {
        let attach = |buffer: &SharedBuffer| drop(buffer.attach(&far).expect("attached"));
        buffers.iter().for_each(attach);
    };
    share_all();
    let before = imported(&rig);
    (0..5).for_each(|_| share_all());
    assert_eq!(imported(&rig), before);
}

#[test]
fn an_attachment_that_comes_and_goes_imports_once() {
    let rig = stopped();
    let (buffer, far) = filled(&rig);
    let before = imported(&rig);
    for _ in 0..1000 {
        let attachment = buffer.attach(&far).expect("it was attached before");
        drop(attachment.map(Access::Read).expect("it is imported"));
    }
    assert_eq!((imported(&rig) - before, imports(&rig, &far).views), (0, 1));
}

#[test]
fn a_slab_stays_imported_for_any_of_its_buffers() {
    let rig = stopped();
    let [home, far] = rig.two_of_one_adapter();
    let create = || rig.engine().create_buffer(&home, BufferDescriptor::new(4096));
    let buffers = [create(), create()].map(|buffer| buffer.expect("there is room"));
    let [first, second] =
        buffers.each_ref().map(|buffer| buffer.attach(&far).expect("the same driver"));
    let mapping = second.map(Access::ReadWrite).expect("it is imported");
    drop(first);
    rig.engine().trim();
    assert_eq!(imports(&rig, &far).views, 1);
    // A mapping needs the view, also after the end of its attachment.
    drop(second);
    rig.engine().trim();
    assert_eq!(imports(&rig, &far).views, 1);
    commands::fill(rig.engine(), &far, &mapping, 5).expect("the mapping is valid");
    drop(mapping);
    wait_idle(&[&far]);
    rig.engine().trim();
    assert_eq!(imports(&rig, &far).views, 0);
}

#[test]
fn a_view_stays_until_the_work_that_uses_it_has_ended() {
    let rig = stopped();
    let (buffer, far) = filled(&rig);
    let gate = Gate::close(&far);
    let attachment = buffer.attach(&far).expect("it was attached before");
    let mapping = attachment.map(Access::Write).expect("it is imported");
    let fence = commands::fill(rig.engine(), &far, &mapping, 0x0101_0101).expect("submitted");
    drop((mapping, attachment));
    for _ in 0..3 {
        rig.engine().trim();
        assert_eq!(imports(&rig, &far).views, 1, "the fill has not run yet");
    }
    gate.open();
    fence.wait(common::LONG).expect("the fill runs");
    rig.engine().trim();
    assert_eq!(imports(&rig, &far).views, 0);
    bytes::assert_same(&bytes::read(&buffer), &vec![1; buffer.size() as usize], "the fill");
}

#[test]
fn a_stale_mapping_keeps_its_view_and_a_move_gives_the_other_back() {
    let rig = stopped();
    let [home, far] = rig.two_of_one_adapter();
    let buffer = rig
        .engine()
        .create_buffer(&home, BufferDescriptor::new(WHOLE).placement(Placement::VramOrSystem))
        .expect("there is room");
    let attachment = buffer.attach_dynamic(&far, Recorder::new(true)).expect("reachable");
    let mut mapping = attachment.map(Access::Read).expect("it is imported");
    let stale = imports(&rig, &far);
    buffer.migrate(DomainId::System).expect("nothing keeps it");
    buffer.wait(Access::ReadWrite, common::LONG).expect("the move ends");
    rig.engine().trim();
    assert!(imports(&rig, &far).peers >= stale.peers, "the old mapping may name it");
    attachment.remap(&mut mapping).expect("the new backing is reachable");
    rig.engine().trim();
    let current = imports(&rig, &far);
    assert_eq!((current.peers, current.views), (0, 1), "the old view is given back: {current:?}");
    drop((mapping, attachment));
    rig.engine().trim();
    assert_eq!(imports(&rig, &far).views, 0);
}

#[test]
fn views_that_were_not_used_for_long_are_given_back() {
    let rig = stopped();
    let (_buffer, far) = filled(&rig);
    let home = rig.engine().devices().swap_remove(0);
    for (seconds, expected) in [(1000, 1), (1009, 1), (1011, 0)] {
        rig.engine().calls().set_clock(Some(Duration::from_secs(seconds)));
        drop(whole(&rig, &home, Placement::Vram));
        assert_eq!(imports(&rig, &far).views, expected, "after {seconds} s");
    }
}

#[test]
fn submissions_give_back_views_that_were_not_used_for_long() {
    let rig = stopped();
    let (_buffer, far) = filled(&rig);
    let home = rig.engine().devices().swap_remove(0);
    let other = whole(&rig, &home, Placement::Vram);
    let attachment = other.attach(&home).expect("its own");
    let mapping = attachment.map(Access::Write).expect("its own");
    for (seconds, expected) in [(1000, 1), (1009, 1), (1011, 0)] {
        rig.engine().calls().set_clock(Some(Duration::from_secs(seconds)));
        commands::fill(rig.engine(), &home, &mapping, 1).expect("submitted");
        assert_eq!(imports(&rig, &far).views, expected, "after {seconds} s");
    }
}

#[test]
fn at_its_limit_a_device_is_waited_for_only_if_it_keeps_unused_views() {
    let rig = stopped();
    let Some([home, far]) = rig.two_drivers() else { return };
    let [first, second] = [(); 2].map(|()| whole(&rig, &home, Placement::System));
    let attachment = first.attach(&far).expect("both import host memory");
    let used = imports(&rig, &far).system;
    rig.engine().calls().set_import_limit(Some(used));
    // Work that has nothing to do with the imports, and does not end.
    let gate = Gate::close(&far);
    let error = second.attach(&far).expect_err("beyond the limit");
    assert!(matches!(error, Error::ImportLimit(_)), "{error}");
    // Work that uses the view of an attachment that is gone.
    let mapping = attachment.map(Access::Write).expect("it is imported");
    let fence = commands::fill(rig.engine(), &far, &mapping, 1).expect("submitted");
    drop((mapping, attachment));
    std::thread::scope(|scope| {
        let attach = scope.spawn(|| second.attach(&far));
        gate.open();
        attach.join().expect("no panic").expect("the other view is given back");
    });
    fence.wait(common::LONG).expect("it has run");
    rig.engine().calls().set_import_limit(None);
}

#[test]
fn the_error_of_the_limit_stays_if_the_work_does_not_end_in_time() {
    with_bound(|rig, _| {
        let Some([home, far]) = besides(|| rig.two_drivers()) else { return };
        let [first, second] = [(); 2].map(|()| whole(rig, &home, Placement::System));
        let attachment = besides(|| first.attach(&far).expect("both import host memory"));
        rig.engine().calls().set_import_limit(Some(imports(rig, &far).system));
        let mapping = besides(|| attachment.map(Access::Write).expect("it is imported"));
        let gate = Gate::close(&far);
        let filled = || commands::fill(rig.engine(), &far, &mapping, 1).expect("submitted");
        let fence = besides(filled);
        drop((mapping, attachment));
        let error = second.attach(&far).expect_err("the view is in use");
        assert!(matches!(error, Error::ImportLimit(_)), "{error}");
        gate.open();
        fence.wait(common::LONG).expect("it runs");
        besides(|| second.attach(&far).map(drop).expect("the view is given back"));
        rig.engine().calls().set_import_limit(None);
    });
}

#[test]
fn a_device_that_may_import_no_more_says_so_and_gives_unused_views_back_first() {
    let rig = stopped();
    let Some([home, far]) = rig.two_drivers() else { return };
    let buffers: Vec<_> = (0..4).map(|_| whole(&rig, &home, Placement::System)).collect();
    let attach = |buffer: &SharedBuffer| buffer.attach(&far);
    let mut attachments: Vec<Attachment> = buffers[..2]
        .iter()
        .map(|buffer| attach(buffer).expect("both import host memory"))
        .collect();
    let used = imports(&rig, &far);
    assert_eq!((used.views, used.peers), (2, 0));
    rig.engine().calls().set_import_limit(Some(used.system));
    for _ in 0..3 {
        let error = attach(&buffers[2]).expect_err("beyond the limit");
        let Error::ImportLimit(beyond) = error else { panic!("{error}") };
        assert_eq!((beyond.imported, beyond.limit), (used.system, used.system));
        assert_eq!(beyond.requested, used.system / 2, "the whole allocation");
        assert_eq!(imports(&rig, &far).system, used.system, "nothing has changed");
    }
    // The other one is unused now: it is given back for the next.
    attachments.pop();
    attachments.push(attach(&buffers[2]).expect("there is room for it"));
    assert_eq!(imports(&rig, &far).system, used.system);
    for (seed, attachment) in (0..).zip(&attachments) {
        common::fill(attachment, seed);
        common::assert_pattern(attachment, seed, "imported");
    }
    rig.engine().calls().set_import_limit(None);
    attach(&buffers[3]).expect("without the limit");
}

#[test]
fn an_import_that_the_driver_has_no_memory_for_is_tried_again_without_unused_views() {
    let rig = stopped();
    let (_buffer, far) = filled(&rig);
    let home = rig.engine().devices().swap_remove(0);
    let other = whole(&rig, &home, Placement::Vram);
    let refused = ash::vk::Result::ERROR_TOO_MANY_OBJECTS;
    rig.engine().calls().fail_nth(Call::ImportMemory, 1, refused);
    let attachment = other.attach(&far).expect("tried again");
    assert_eq!(imports(&rig, &far).views, 1, "the unused view is gone");
    common::fill(&attachment, 3);
    common::assert_pattern(&attachment, 3, "imported");
}

#[test]
fn reports_name_what_each_device_has_imported() {
    let rig = stopped();
    let (buffer, far) = filled(&rig);
    let _attachment = buffer.attach(&far).expect("it was attached before");
    let report = rig.engine().report();
    let of = |device: &Device| report.devices.iter().find(|it| it.id == device.id()).expect("it");
    assert_eq!(of(&far).imports, imports(&rig, &far));
    assert_eq!(of(&buffer.home()).imports.views, 0, "its own memory is no import");
    assert!(report.to_string().contains("Imports, in bytes"), "{report}");
}

#[test]
fn threads_that_attach_while_views_are_given_back_see_their_bytes() {
    const ROUNDS: u32 = 200;
    let rig = stopped();
    let [home, far] = rig.two_of_one_adapter();
    let create = || rig.engine().create_buffer(&home, BufferDescriptor::new(4096));
    // In one slab, so that all threads use one view.
    let buffers: Vec<_> = (0..3).map(|_| create().expect("there is room")).collect();
    let share = |(seed, buffer): (u32, &SharedBuffer)| {
        for round in 0..ROUNDS {
            let attachment = buffer.attach(&far).expect("the same driver and device");
            if round % 8 == 0 {
                common::fill(&attachment, seed);
            }
            common::assert_pattern(&attachment, seed, "this thread's own");
        }
    };
    std::thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> =
            (1..).zip(&buffers).map(|each| scope.spawn(move || share(each))).collect();
        // A thread that panics is finished, too.
        while threads.iter().any(|thread| !thread.is_finished()) {
            rig.engine().trim();
            std::thread::yield_now();
        }
    });
    wait_idle(&[&far]);
    rig.engine().trim();
    assert_eq!(imports(&rig, &far).views, 0);
}

/// A GPU reaches system memory through a heap, which may be full. Its own memory is left all the same.
#[test]
fn a_buffer_leaves_the_memory_of_a_device_that_may_import_no_more() {
    let rig = stopped();
    let engine = rig.engine();
    let devices = rig.all();
    // A GPU proves that it imports system memory, and could not later.
    engine.prove_routes(&devices).expect("routes");
    for (device, mapped) in devices.iter().flat_map(|device| [(device, true), (device, false)]) {
        engine.calls().set_unmappable_device_memory(!mapped);
        let buffer = engine.create_buffer(device, BufferDescriptor::new(WHOLE)).expect("room");
        bytes::write(&buffer, 3);
        let imported = |device| (imports(&rig, device).views, imports(&rig, device).system);
        let before = imported(device);
        engine.calls().set_import_limit(Some(0));
        buffer.evict().expect("the host copies");
        assert_eq!((buffer.domain(), imported(device)), (DomainId::System, before), "{mapped}");
        bytes::assert_sequence(&buffer, 3, device.name());
        buffer.request_residency().expect("the host copies");
        assert_eq!((buffer.domain(), imported(device)), (DomainId::Vram(device.id()), before));
        bytes::assert_sequence(&buffer, 3, device.name());
        engine.calls().set_import_limit(None);
    }
    engine.calls().set_unmappable_device_memory(false);
}
