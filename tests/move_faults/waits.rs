//! Devices that wait for each other for the first time: creating the semaphores that they then keep may fail.

use ash::vk::Result as Code;
use peerbuf::device::Call;
use peerbuf::{Access, BufferDescriptor, Device, Engine};

use crate::common::gate::Gate;
use crate::common::note::Note;
use crate::common::{Rig, bytes, commands, in_short_vm, in_vm};
use crate::{LONG, codes, is_wrong};

const SIZE: u64 = 4096;
const CALLS: [Call; 3] = [Call::CreateSemaphore, Call::GetSemaphoreFd, Call::ImportSemaphoreFd];

/// Lets one device write and the other one write after it. Returns whether the second submission failed.
fn follow(engine: &Engine, devices: [&Device; 2], arm: impl FnOnce()) -> bool {
    let buffer = engine.create_buffer(devices[0], BufferDescriptor::new(SIZE)).expect("a buffer");
    let attachments = devices.map(|device| buffer.attach(device).expect("attached"));
    let maps = [0, 1].map(|index| attachments[index].map(Access::Write).expect("mapped"));
    maps[0].fill(0).expect("reachable and zeroed");
    arm();
    let gate = Gate::close(devices[0]);
    let first = commands::fill(engine, devices[0], &maps[0], 0x0101_0101).expect("submitted");
    let second = commands::fill(engine, devices[1], &maps[1], 0x0202_0202);
    assert!(!first.is_signalled().expect("no error"), "no submission has waited");
    gate.open();
    engine.calls().clear_faults();
    let (last, error) = match second {
        Ok(fence) => (fence.wait(LONG).map(|()| 2).expect("it runs"), None),
        Err(error) => (1, Some(error)),
    };
    let expected = vec![last; SIZE as usize];
    bytes::assert_same(&bytes::read(&buffer), &expected, "in order, or not at all");
    if let Some(error) = &error {
        assert!(!is_wrong(error, Code::SUCCESS), "{error:?}");
        // The second attempt works.
        let again = commands::fill(engine, devices[1], &maps[1], 0x0303_0303);
        again.and_then(|fence| fence.wait(LONG)).expect("the second time");
        bytes::assert_same(&bytes::read(&buffer), &vec![3; SIZE as usize], "the second time");
    }
    error.is_some()
}

#[test]
fn a_failed_semaphore_falls_back_to_the_bridge_or_fails_the_submission() {
    let rig = Rig::new();
    let engine = rig.engine();
    let known = rig.all();
    let pairs = known.iter().flat_map(|one| known.iter().map(move |two| (one, two)));
    // Between drivers there is the bridge, so the short run takes one such pair.
    let mut left = if in_short_vm() { 0..1 } else { 0..usize::MAX };
    let pairs = pairs.filter(|(one, two)| one.id() == two.id() || left.next().is_some());
    let mut met = 0;
    for (one, two) in pairs {
        for call in CALLS {
            for &code in codes(call).iter().take(if in_vm() { 1 } else { 2 }) {
                for nth in 1.. {
                    assert!(nth < 1000, "{}: each call was made", call.name());
                    // New devices share no semaphores yet.
                    let fresh = [one, two].map(|device| rig.open(&device.adapter().clone()));
                    let devices = [&fresh[0], &fresh[1]];
                    let [from, to] = devices.map(Device::name);
                    let _note =
                        Note(format!("{from} to {to}, {}, no. {nth}: {code:?}", call.name()));
                    let before = engine.calls().made(call);
                    let failed =
                        follow(engine, devices, || engine.calls().fail_nth(call, nth, code));
                    // The bridge needs no fd.
                    assert!(!failed || call == Call::CreateSemaphore, "the bridge replaces it");
                    if engine.calls().made(call) - before < nth {
                        assert!(!failed, "failed without a fault");
                        break;
                    }
                    met += 1;
                }
            }
        }
    }
    assert!(met > 0, "semaphores are made");
}
