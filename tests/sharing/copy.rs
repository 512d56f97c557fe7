//! Copies between any two buffers of any two devices are complete and ordered.

use crate::common::{LONG, Rig, bytes};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::{BufferDescriptor, CopyRegion, Device, Error, Placement, SharedBuffer};

fn create(rig: &Rig, home: &Device, size: u64, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(size).placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

/// Copies a region and checks every byte of both buffers.
fn check(rig: &Rig, from: &SharedBuffer, to: &SharedBuffer, region: CopyRegion) {
    let what = format!("{region:?} from {from:?} to {to:?}");
    bytes::write(from, 1);
    bytes::write(to, 2);
    let mut expected = bytes::sequence(2, to.size());
    let source = bytes::sequence(1, from.size());
    let CopyRegion { from: a, to: b, len } = region;
    let (a, b, len) = (a as usize, b as usize, len as usize);
    expected[b..b + len].copy_from_slice(&source[a..a + len]);
    rig.engine().copy(from, to, region).expect("a copy");
    bytes::assert_same(&bytes::read(to), &expected, &what);
    bytes::assert_sequence(from, 1, "the source is unchanged");
}

#[test]
fn copies_between_any_two_devices_are_exact_at_any_offset() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let regions = [(0, 0, 10_007), (1, 0, 1), (3, 5, 4099), (10_006, 9_999, 1), (17, 4096, 5000)];
    for from in &devices {
        for to in &devices {
            for placement in [Placement::Vram, Placement::System] {
                let source = create(&rig, from, 10_007, placement);
                let target = create(&rig, to, 10_007, Placement::VramOrSystem);
                for (from, to, len) in regions {
                    check(&rig, &source, &target, CopyRegion { from, to, len });
                }
            }
        }
    }
}

#[test]
fn copies_between_unconnected_devices_take_several_steps() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (from, to) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        // Longer than one step of the staging ring, and no multiple of it.
        let size = (9 << 20) + 12_345;
        let [source, target] = [from, to].map(|d| create(&rig, d, size, Placement::Vram));
        check(&rig, &source, &target, CopyRegion { from: 1, to: 3, len: size - 7 });
    }
}

#[test]
fn copies_within_one_buffer_work_without_overlap() {
    let rig = Rig::new();
    for device in rig.all() {
        let buffer = create(&rig, &device, 1000, Placement::Vram);
        for (from, to, len) in [(0, 500, 500), (700, 0, 300), (10, 11, 1)] {
            bytes::write(&buffer, 3);
            let mut expected = bytes::sequence(3, 1000);
            expected.copy_within(from as usize..(from + len) as usize, to as usize);
            rig.engine().copy(&buffer, &buffer, CopyRegion { from, to, len }).expect("a copy");
            bytes::assert_same(&bytes::read(&buffer), &expected, device.name());
        }
    }
}

#[test]
fn an_overlap_is_an_error_and_changes_nothing() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let buffer = create(&rig, device, 1000, Placement::Vram);
    bytes::write(&buffer, 3);
    for (from, to, len) in [(0, 0, 1), (0, 499, 500), (499, 0, 500), (0, 1, 999)] {
        let error = rig.engine().copy(&buffer, &buffer, CopyRegion { from, to, len });
        let Err(Error::Overlap { from: a, to: b, len: l, .. }) = error else { panic!("{error:?}") };
        assert_eq!((a, b, l), (from, to, len));
    }
    bytes::assert_sequence(&buffer, 3, "unchanged");
}

#[test]
fn an_out_of_bounds_copy_is_an_error_on_either_side() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let [small, large] = [100, 200].map(|size| create(&rig, device, size, Placement::Vram));
    let regions = [(0, 0, 101), (100, 0, 1), (0, 200, 1), (u64::MAX, 0, 2), (0, u64::MAX - 1, 2)];
    for (from, to, len) in regions {
        let error = rig.engine().copy(&small, &large, CopyRegion { from, to, len });
        assert!(matches!(error, Err(Error::OutOfBounds { .. })), "{error:?}");
        let error = rig.engine().copy(&large, &small, CopyRegion { from: to, to: from, len });
        assert!(matches!(error, Err(Error::OutOfBounds { .. })), "{error:?}");
    }
}

#[test]
fn an_empty_copy_completes_at_once() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let [a, b] = [1, 2].map(|_| create(&rig, device, 100, Placement::Vram));
    let before = rig.made();
    let fence = rig.engine().copy(&a, &b, CopyRegion { from: 100, to: 7, len: 0 }).expect("a copy");
    assert!(fence.is_signalled().expect("no device is lost"));
    rig.engine().copy(&a, &a, CopyRegion { from: 0, to: 0, len: 0 }).expect("not an overlap");
    assert_eq!(rig.made().since(before), []);
}

#[test]
fn consecutive_copies_keep_their_order() {
    let rig = Rig::new();
    let devices = rig.twice_each();
    let size = 1 << 18;
    let chain: Vec<_> =
        devices.iter().map(|d| create(&rig, d, size, Placement::VramOrSystem)).collect();
    for seed in 1..4 {
        bytes::write(&chain[0], seed);
        for pair in chain.windows(2) {
            rig.engine().copy(&pair[0], &pair[1], CopyRegion::first(size)).expect("a copy");
        }
        // Close the circle: the first buffer is overwritten while it is still being read.
        bytes::assert_sequence(&chain[chain.len() - 1], seed, "the end of the chain");
        let back = [chain.len() - 1, 0];
        rig.engine()
            .copy(&chain[back[0]], &chain[back[1]], CopyRegion::first(size))
            .expect("a copy");
        bytes::assert_sequence(&chain[0], seed, "back in the first buffer");
    }
}

#[test]
fn buffers_may_be_dropped_during_a_copy() {
    let rig = Rig::new();
    let devices = rig.all();
    for from in &devices {
        for to in &devices {
            let size = 1 << 20;
            let [source, target] = [from, to].map(|d| create(&rig, d, size, Placement::System));
            bytes::write(&source, 4);
            let fence = rig.engine().copy(&source, &target, CopyRegion::first(size));
            drop((source, target));
            // Their memory is not reused while the copy runs.
            let next = create(&rig, to, size, Placement::System);
            bytes::assert_zero(&next, "a new buffer, right after");
            fence.expect("a copy").wait(LONG).expect("it ends");
        }
    }
}

/// More bytes than the host copies itself.
const DEVICES: u64 = 128 << 10;

#[test]
fn a_failed_copy_exposes_no_previous_owners_bytes() {
    let rig = Rig::new();
    for device in rig.all() {
        let source = create(&rig, &device, DEVICES, Placement::Vram);
        bytes::write(&source, 1);
        let old = create(&rig, &device, DEVICES, Placement::Vram);
        bytes::write(&old, 6);
        drop(old);
        let new = create(&rig, &device, DEVICES, Placement::Vram);
        // Not an out-of-memory error, since the engine retries after those.
        let code = vk::Result::ERROR_INITIALIZATION_FAILED;
        rig.engine().calls().fail_nth(Call::QueueSubmit, 1, code);
        // The copy would have overwritten every byte, so the buffer was not zeroed before.
        rig.engine().copy(&source, &new, CopyRegion::first(DEVICES)).expect_err("a fault");
        bytes::assert_zero(&new, "after the copy that failed");
    }
}

#[test]
fn a_failed_staged_copy_exposes_no_previous_owners_bytes() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let source = create(&rig, &swiftshader, DEVICES, Placement::Vram);
    bytes::write(&source, 1);
    let old = create(&rig, &lavapipe, DEVICES, Placement::Vram);
    bytes::write(&old, 6);
    drop(old);
    let new = create(&rig, &lavapipe, DEVICES, Placement::Vram);
    rig.engine().route(&swiftshader, &lavapipe).expect("a verdict");
    rig.engine().route(&lavapipe, &swiftshader).expect("a verdict");
    let code = vk::Result::ERROR_INITIALIZATION_FAILED;
    rig.engine().calls().fail_nth(Call::QueueSubmit, 1, code);
    rig.engine().copy(&source, &new, CopyRegion::first(DEVICES)).expect_err("a fault");
    bytes::assert_zero(&new, "after the copy that failed");
}

/// The engine retries a host copy after an out-of-memory error, as it does a device copy.
#[test]
fn a_host_copy_retries_after_out_of_memory() {
    let rig = Rig::new();
    rig.provokes("VK_ERROR_OUT_OF_HOST_MEMORY");
    let engine = rig.engine();
    let [home, _] = rig.two_of_one_adapter();
    let [from, to] = [(); 2].map(|()| create(&rig, &home, 4096, Placement::VramOrSystem));
    engine.calls().fail_nth(Call::MapMemory, 1, vk::Result::ERROR_OUT_OF_HOST_MEMORY);
    engine.copy(&from, &to, CopyRegion::first(4096)).expect("the copy is retried");
    assert!(!engine.calls().clear_faults(), "the fault was injected");
}
