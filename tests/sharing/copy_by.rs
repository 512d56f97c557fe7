//! Copies by a given way: each is exact, does what its name says, and has a reason where it is not there.

use crate::common::reach::host_sees_vram;
use crate::common::{LONG, Rig, bytes};
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, CopyBy, CopyRegion, Device, Error, Placement, SharedBuffer,
};

/// Longer than the ring's step, and a multiple of 4, but of nothing larger.
const SIZE: u64 = (4 << 20) + 12_340;

fn create(rig: &Rig, home: &Device, placement: Placement) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(SIZE).placement(placement);
    rig.engine().create_buffer(home, descriptor).expect("a buffer")
}

/// The ways that are there, and the names of the others with their errors.
fn ways(rig: &Rig, from: &SharedBuffer, to: &SharedBuffer) -> (Vec<CopyBy>, Vec<(CopyBy, Error)>) {
    let (mut there, mut missing) = (vec![], vec![]);
    for way in rig.engine().copy_ways(from, to).expect("a list") {
        match way.missing {
            None => there.push(way.by),
            Some(error) => missing.push((way.by, error)),
        }
    }
    (there, missing)
}

/// Copies a region by a way, and checks every byte of both buffers.
fn check(rig: &Rig, (from, to): (&SharedBuffer, &SharedBuffer), region: CopyRegion, by: &CopyBy) {
    let what = format!("{region:?} by {by} from {from:?} to {to:?}");
    bytes::write(from, 1);
    bytes::write(to, 2);
    let mut expected = bytes::sequence(2, SIZE);
    let [a, b, len] = [region.from, region.to, region.len].map(|value| value as usize);
    expected[b..b + len].copy_from_slice(&bytes::sequence(1, SIZE)[a..a + len]);
    let run = rig.engine().copy_by(from, to, region, by).unwrap_or_else(|e| panic!("{what}: {e}"));
    run.fence().wait(LONG).expect("it ends");
    assert_eq!(run.bytes(), region.len, "{what}");
    bytes::assert_same(&bytes::read(to), &expected, &what);
    bytes::assert_sequence(from, 1, &what);
}

#[test]
fn every_way_of_every_pair_copies_exactly_what_it_is_given() {
    let rig = Rig::new();
    let regions = [
        CopyRegion::first(SIZE),
        CopyRegion { from: 256, to: 4096, len: SIZE - 4096 },
        CopyRegion { from: 1 << 20, to: 0, len: 4 },
    ];
    let devices = rig.twice_each();
    for (index, from) in devices.iter().enumerate() {
        // To itself, to the other device of its adapter, and to one of another adapter.
        for to in [index, index ^ 1, (index + 2) % devices.len()].map(|to| &devices[to]) {
            for placement in [Placement::Vram, Placement::System] {
                let source = create(&rig, from, placement);
                let target = create(&rig, to, Placement::Vram);
                let (there, _) = ways(&rig, &source, &target);
                // Memory of software devices is mapped, and so is system memory of any.
                let mapped =
                    host_sees_vram(to) && (placement == Placement::System || host_sees_vram(from));
                assert_eq!(there.contains(&CopyBy::Host), mapped, "{there:?}");
                for by in &there {
                    for region in regions {
                        check(&rig, (&source, &target), region, by);
                    }
                }
            }
        }
    }
}

#[test]
fn each_end_of_a_pair_that_shares_memory_can_act_and_one_that_does_not_has_a_reason() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let [source, target] = [&first, &second].map(|home| create(&rig, home, Placement::Vram));
    let (there, _) = ways(&rig, &source, &target);
    for device in [&first, &second] {
        for by in [CopyBy::MainQueue(device.clone()), CopyBy::ComputePass(device.clone())] {
            assert!(there.contains(&by), "{by} is not in {there:?}");
        }
    }
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let [source, target] =
        [&lavapipe, &swiftshader].map(|home| create(&rig, home, Placement::Vram));
    let (there, missing) = ways(&rig, &source, &target);
    assert!(there.contains(&CopyBy::Ring), "{there:?}");
    bytes::write(&source, 1);
    bytes::write(&target, 2);
    for device in [&lavapipe, &swiftshader] {
        for by in [CopyBy::MainQueue(device.clone()), CopyBy::ComputePass(device.clone())] {
            let (_, listed) = missing.iter().find(|(other, _)| *other == by).expect("a reason");
            let Error::Unreachable { refused, .. } = listed else { panic!("{listed:?}") };
            assert!(!refused.is_empty(), "{listed:?} names routes");
            let tried = rig.engine().copy_by(&source, &target, CopyRegion::first(SIZE), &by);
            let error = tried.expect_err("it is not there");
            assert_eq!(error.to_string(), listed.to_string(), "the list says what a copy says");
        }
    }
    bytes::assert_sequence(&target, 2, "nothing was copied");
}

#[test]
fn a_device_without_a_second_queue_has_no_transfer_queue() {
    let rig = Rig::new();
    for device in rig.all() {
        let [from, to] = [(); 2].map(|()| create(&rig, &device, Placement::Vram));
        let by = CopyBy::TransferQueue(device.clone());
        let copied = rig.engine().copy_by(&from, &to, CopyRegion::first(SIZE), &by);
        match device.transfer_queue_family() {
            Some(_) => copied.expect("it has one").fence().wait(LONG).expect("it ends"),
            None => {
                let Err(Error::Unsupported { missing, .. }) = copied else { panic!("{copied:?}") };
                assert!(missing.contains("second queue"), "{missing}");
            }
        }
    }
}

/// A way does what its name says, and nothing beside it.
#[test]
fn the_number_of_submissions_and_of_bytes_that_the_host_copies_is_exact() {
    let rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let [source, target] = [&first, &second].map(|home| create(&rig, home, Placement::Vram));
    bytes::write(&source, 1);
    let (there, _) = ways(&rig, &source, &target);
    let calls = rig.engine().calls();
    for by in there {
        let copy = || {
            let run = rig.engine().copy_by(&source, &target, CopyRegion::first(SIZE), &by);
            run.expect("a copy").fence().wait(LONG).expect("it ends");
        };
        // The first one makes what is kept: views, kernels, staging memory.
        copy();
        let counts = || {
            let calls = |call| calls.made(call);
            (calls(Call::QueueSubmit), calls(Call::AllocateMemory), calls(Call::ImportMemory))
        };
        let (before, copied_before) = (counts(), calls.host_copied_bytes());
        copy();
        let (after, copied) = (counts(), calls.host_copied_bytes() - copied_before);
        let made = (after.0 - before.0, after.2 - before.2);
        // Each home device copies two steps of the ring, and the host copies between them in staging memory.
        let expected = match by {
            CopyBy::Host | CopyBy::HostPastCache => ((0, 0), SIZE),
            CopyBy::Ring => ((4, 0), 0),
            _ => ((1, 0), 0),
        };
        assert_eq!((made, copied), expected, "{by}");
        assert!(by == CopyBy::Ring || after.1 == before.1, "{by} allocates nothing");
    }
}

#[test]
fn the_devices_own_time_is_known_once_its_copy_has_ended() {
    let rig = Rig::new();
    for device in rig.all() {
        let [from, to] = [(); 2].map(|()| create(&rig, &device, Placement::Vram));
        for by in [CopyBy::MainQueue(device.clone()), CopyBy::ComputePass(device.clone())] {
            let region = CopyRegion::first(SIZE);
            let run = rig.engine().copy_by(&from, &to, region, &by).expect("a copy");
            run.fence().wait(LONG).expect("it ends");
            let time = run.device_time().expect("the device is not lost");
            match device.timestamp_bits() {
                // Both drivers of the suite have the feature `hostQueryReset`.
                1.. => assert!(time.is_some_and(|time| time < LONG), "{by}: {time:?}"),
                0 => assert_eq!(time, None, "{by}"),
            }
        }
        let [from, to] = [(); 2].map(|()| create(&rig, &device, Placement::System));
        let run = rig.engine().copy_by(&from, &to, CopyRegion::first(SIZE), &CopyBy::Host);
        assert_eq!(run.expect("a copy").device_time().expect("no device"), None);
    }
}

#[test]
fn a_copy_by_the_host_beside_an_open_access_is_busy_and_changes_nothing() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let [from, to] = [(); 2].map(|()| create(&rig, device, Placement::System));
    bytes::write(&from, 1);
    bytes::write(&to, 2);
    for buffer in [&from, &to] {
        let open = buffer.host_access(Access::Read).expect("an access");
        let copied = rig.engine().copy_by(&from, &to, CopyRegion::first(SIZE), &CopyBy::Host);
        assert!(matches!(copied, Err(Error::Busy { host: 1, .. })), "{copied:?}");
        open.end().expect("the access ends");
    }
    bytes::assert_sequence(&to, 2, "unchanged");
    rig.engine().copy_by(&from, &to, CopyRegion::first(SIZE), &CopyBy::Host).expect("not busy");
    bytes::assert_sequence(&to, 1, "copied");
}

#[test]
fn a_compute_pass_takes_only_regions_that_it_can_bind() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let [from, to] = [(); 2].map(|()| create(&rig, device, Placement::Vram));
    bytes::write(&to, 2);
    let by = CopyBy::ComputePass(device.clone());
    for (from_at, to_at, len) in [(4, 0, 8), (0, 128, 8), (0, 0, 7)] {
        let region = CopyRegion { from: from_at, to: to_at, len };
        let copied = rig.engine().copy_by(&from, &to, region, &by);
        assert!(matches!(copied, Err(Error::Misaligned { .. })), "{region:?}: {copied:?}");
    }
    bytes::assert_sequence(&to, 2, "unchanged");
}

#[test]
fn a_device_of_another_engine_is_refused() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let [from, to] = [(); 2].map(|()| create(&rig, device, Placement::Vram));
    let external = rig.external_engine();
    let other = rig.open_on(&external, device);
    let by = CopyBy::MainQueue(other);
    let copied = rig.engine().copy_by(&from, &to, CopyRegion::first(4), &by);
    assert!(matches!(copied, Err(Error::ForeignEngine { .. })), "{copied:?}");
}
