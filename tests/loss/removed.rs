//! A device leaves the engine: nothing of the engine is left on it, and the other devices go on.

use crate::common::app::App;
use crate::common::commands;
use crate::common::{self, LONG, Rig, assert_pattern, bytes, fill};
use crate::lost::lose;
use peerbuf::device::Call;
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Error, Placement, SharedBuffer,
};

const SIZE: u64 = 1 << 20;

fn create(rig: &Rig, home: &Device, place: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(SIZE).placement(place);
    rig.engine().create_buffer(home, descriptor).expect("there is room")
}

/// What keeps the device: attachments, mappings, buffers, handles.
fn users(error: Error) -> [u64; 4] {
    match error {
        Error::DeviceInUse(users) => {
            [users.attachments, users.mappings, users.buffers, users.handles]
        }
        other => panic!("{other}"),
    }
}

/// Both devices use buffers in the memory of each and of the host, one after the other and at once.
fn use_both(rig: &Rig, a: &Device, b: &Device) {
    for (home, place) in [a, b].into_iter().zip([Placement::Vram, Placement::VramOrSystem]) {
        let buffers = [create(rig, home, place), create(rig, home, Placement::System)];
        for buffer in &buffers {
            let [near, far] = [a, b].map(|device| buffer.attach(device).expect("reachable"));
            let maps = [&near, &far].map(|it| it.map(Access::ReadWrite).expect("mapped"));
            for (device, mapping) in [a, b, a].into_iter().zip([&maps[0], &maps[1], &maps[0]]) {
                let fence = commands::fill(rig.engine(), device, mapping, 7).expect("submitted");
                drop(fence);
            }
            drop(maps);
            fill(&near, 3);
            assert_pattern(&far, 3, "the other device");
        }
        let all = CopyRegion::first(SIZE);
        rig.engine().copy(&buffers[0], &buffers[1], all).expect("a copy").wait(LONG).expect("ends");
    }
}

#[test]
fn an_adopted_device_is_destroyed_after_its_removal_while_others_go_on() {
    let rig = Rig::new();
    for adapter in rig.engine().adapters() {
        let app = App::new(&rig, adapter, |_| true);
        let device = app.join(&rig, rig.engine());
        let (id, other) = (device.id(), rig.open(adapter));
        use_both(&rig, &device, &other);
        let inside = create(&rig, &device, Placement::VramOrSystem);
        bytes::write(&inside, 9);
        let shared = create(&rig, &device, Placement::System);
        let attachment = shared.attach(&other).expect("reachable");
        fill(&attachment, 5);
        rig.engine().remove_device(device).expect("nothing uses it");
        drop(app);

        assert!(rig.engine().devices().iter().all(|device| device.id() != id));
        let gone = rig.engine().usage(DomainId::Vram(id)).expect_err("it has left");
        assert!(matches!(gone, Error::DeviceRemoved(_)), "{gone}");
        assert_eq!(inside.domain(), DomainId::System);
        assert_ne!(inside.home().id(), id);
        bytes::assert_sequence(&inside, 9, "moved out");
        assert_pattern(&attachment, 5, "an attachment of another device");
        let next = rig.open(adapter);
        assert!(next.id() > id, "a number is used once");
        use_both(&rig, &other, &next);
        drop((inside, shared));
        bytes::assert_sequence(
            &{
                let moved = create(&rig, &next, Placement::Vram);
                bytes::write(&moved, 4);
                moved
            },
            4,
            "memory that others have",
        );
    }
}

#[test]
fn a_removal_that_is_refused_changes_nothing() {
    let rig = Rig::new();
    let [device, other] = rig.two_of_one_adapter();
    let buffer = create(&rig, &device, Placement::Vram);
    let first = buffer.attach(&device).expect("its own");
    let second = buffer.attach(&other).expect("reachable");
    fill(&first, 1);
    let mapping = first.map(Access::Read).expect("mapped");
    let remove = |device: &Device| rig.engine().remove_device(device.clone());
    assert_eq!(users(remove(&device).expect_err("attached")), [1, 1, 0, 0]);
    drop(first);
    assert_eq!(users(remove(&device).expect_err("mapped")), [1, 1, 0, 0]);
    assert_eq!(buffer.domain(), DomainId::Vram(device.id()));
    drop(mapping);
    let pinned = second.map(Access::Read).expect("mapped");
    assert_eq!(users(remove(&device).expect_err("cannot move")), [0, 0, 1, 0]);
    assert_pattern(&second, 1, "it stays");
    let again = buffer.attach(&device).expect("the device takes part");
    assert_pattern(&again, 1, "it stays");
    drop((again, pinned));
    assert_eq!(rig.engine().devices(), [device.clone(), other.clone()]);
    // Unplugged by now, and held by the handle.
    let held = users(remove(&device).expect_err("the test has a handle"));
    assert_eq!((held[0], held[1], held[2]), (0, 0, 0));
    assert!(held[3] >= 1, "{held:?}");
    rig.engine().remove_device(device).expect("the last handle");
    // Where alone it may be used is gone.
    let gone = second.map(Access::Read).map(drop).expect_err("it has left");
    assert!(matches!(gone, Error::DeviceRemoved(_)), "{gone}");
    buffer.migrate(DomainId::Vram(other.id())).expect("another place");
    assert_pattern(&second, 1, "moved");
    assert_eq!(rig.engine().live().count(Object::Device), 1);
}

#[test]
fn a_fence_keeps_the_device() {
    let rig = Rig::new();
    let [device, other] = rig.two_of_one_adapter();
    let buffer = create(&rig, &other, Placement::System);
    let attachment = buffer.attach(&device).expect("reachable");
    let mapping = attachment.map(Access::Write).expect("mapped");
    let fence = commands::fill(rig.engine(), &device, &mapping, 1).expect("submitted");
    drop((mapping, attachment));
    common::wait_idle(&[&device]);
    assert_eq!(users(rig.engine().remove_device(device).expect_err("the fence")), [0, 0, 0, 1]);
    fence.wait(LONG).expect("it has run");
    drop(fence);
    let device = rig.engine().devices().swap_remove(0);
    rig.engine().remove_device(device).expect("nothing uses it");
}

#[test]
fn the_last_device_leaves_once_no_buffer_needs_a_home() {
    let rig = Rig::new();
    let [device, other] = rig.two_of_one_adapter();
    rig.engine().remove_device(other).expect("unused");
    let buffer = create(&rig, &device, Placement::System);
    bytes::write(&buffer, 2);
    assert_eq!(users(rig.engine().remove_device(device).expect_err("its home")), [0, 0, 1, 0]);
    bytes::assert_sequence(&buffer, 2, "in system memory");
    drop(buffer);
    let device = rig.engine().devices().swap_remove(0);
    rig.engine().remove_device(device).expect("nothing uses it");
    assert_eq!(rig.engine().devices(), []);
}

#[test]
fn a_removal_that_found_no_other_home_goes_on_once_there_is_one() {
    let rig = Rig::new();
    let [device, other] = rig.two_of_one_adapter();
    let adapter = device.adapter().clone();
    rig.engine().remove_device(other).expect("unused");
    let buffer = create(&rig, &device, Placement::System);
    bytes::write(&buffer, 2);
    assert_eq!(users(rig.engine().remove_device(device).expect_err("its home")), [0, 0, 1, 0]);
    let next = rig.open(&adapter);
    let device = rig.engine().devices().swap_remove(0);
    rig.engine().remove_device(device).expect("the buffer has another home");
    assert_eq!(buffer.home(), next);
    bytes::assert_sequence(&buffer, 2, "in system memory");
}

#[test]
fn a_lost_device_is_destroyed_after_its_removal_and_another_takes_its_place() {
    let rig = Rig::new();
    let lavapipe = rig.engine().adapters().first().expect("an adapter").clone();
    let app = App::new(&rig, &lavapipe, |_| true);
    let device = app.join(&rig, rig.engine());
    let other = rig.open(&lavapipe);
    use_both(&rig, &device, &other);
    let kept = create(&rig, &other, Placement::System);
    bytes::write(&kept, 6);
    let inside = create(&rig, &device, Placement::Vram);
    bytes::write(&inside, 8);
    lose(rig.engine(), &device);
    assert_eq!(users(rig.engine().remove_device(device).expect_err("a buffer")), [0, 0, 1, 0]);
    drop(inside);
    let device = rig.engine().devices().swap_remove(0);
    assert!(device.is_lost());
    rig.engine().remove_device(device).expect("nothing uses it");
    drop(app);
    let next = rig.open(&lavapipe);
    use_both(&rig, &other, &next);
    bytes::assert_sequence(&kept, 6, "the host's");
    assert!(rig.engine().calls().made(Call::QueueSubmit) > 0);
}
