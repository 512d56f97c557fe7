//! Errors travel with the fences, to whatever was made of the bytes; and nothing else suffers.

use std::sync::Arc;

use crate::common::commands::{copy, fill, record_fill};
use crate::common::gate::Gate;
use crate::common::{self, LONG, Rig, bytes};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, BufferDescriptor, Device, Engine, Error, Fence, Mapping, Refault, Scope, SharedBuffer,
};

const SIZE: u64 = 40_000;

/// A buffer and a mapping of it on each device.
fn shared(rig: &Rig, devices: &[Device]) -> (SharedBuffer, Vec<Mapping>) {
    let descriptor = BufferDescriptor::new(SIZE).name("shared");
    let buffer = rig.engine().create_buffer(&devices[0], descriptor).expect("a buffer");
    let seats: Vec<_> = devices
        .iter()
        .map(|device| buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("a seat"))
        .collect();
    let mappings = seats.iter().map(|seat| seat.map(Access::ReadWrite).expect("mapped")).collect();
    (buffer, mappings)
}

/// A fence of work that has gone wrong.
fn failed(engine: &Engine) -> Fence {
    let (fence, signal) = engine.host_fence();
    signal.fail("the test says so");
    fence
}

/// A write that relies on work that has gone wrong.
fn failing_fill(engine: &Engine, device: &Device, mapping: &Mapping) -> Fence {
    let failed = failed(engine);
    let fence = engine.submit(device, |submission| {
        submission.after(&failed);
        record_fill(submission, device, mapping, 1)
    });
    fence.expect("it is known when it has run")
}

#[test]
fn from_device_to_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let devices = [device.clone(), rig.open(&device.adapter().clone())];
        let (one, ones) = shared(&rig, &devices);
        let (two, twos) = shared(&rig, &devices);
        let (three, threes) = shared(&rig, &devices);
        let gate = Gate::close(&devices[0]);
        failing_fill(engine, &devices[0], &ones[0]);
        let copied = copy(engine, &devices[1], &ones[1], &twos[1]).expect("a submission");
        let again = copy(engine, &devices[0], &twos[0], &threes[0]).expect("a submission");
        gate.open();
        for (fence, buffer) in [(copied, &two), (again, &three)] {
            let error = fence.wait(LONG).expect_err("what it relied on failed");
            assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
            assert!(buffer.is_poisoned());
        }
        assert!(one.is_poisoned());
        // The rest goes on.
        for buffer in [&one, &two, &three] {
            buffer.accept_content().expect("nothing is under way");
        }
        let fine = copy(engine, &devices[1], &ones[1], &twos[1]).expect("a submission");
        fine.wait(LONG).expect("fine");
    }
}

#[test]
fn through_passes() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_one, ones) = shared(&rig, &devices);
    let (two, twos) = shared(&rig, &devices);
    ones[0].copy_to(&twos[0]).expect("everything is compiled");
    let gate = Gate::close(&devices[0]);
    failing_fill(engine, &devices[0], &ones[0]);
    let submitted = engine.calls().made(Call::QueueSubmit);
    let copied = std::thread::scope(|scope| {
        let copier = scope.spawn(|| ones[0].copy_to(&twos[0]));
        while engine.calls().made(Call::QueueSubmit) == submitted {
            std::thread::yield_now();
        }
        gate.open();
        copier.join().expect("no panic")
    });
    let error = copied.expect_err("it copied bytes that were never written");
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
    assert!(two.is_poisoned());
    // Passes of others are not its business.
    let (_three, threes) = shared(&rig, &devices);
    threes[0].fill(1).expect("a pass");
}

#[test]
fn from_a_device_that_is_lost() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (one, ones) = shared(&rig, &devices);
    let (two, twos) = shared(&rig, &devices);
    for (buffer, seed) in [(&one, 1), (&two, 2)] {
        bytes::write(buffer, seed);
    }
    let gate = Gate::close(&devices[0]);
    let first = fill(engine, &devices[0], &ones[0], 5).expect("a submission");
    // The bridge is the one that waits, and hears it; no other call says it again.
    engine.calls().fail_nth(Call::WaitSemaphores, 1, vk::Result::ERROR_DEVICE_LOST);
    let second = copy(engine, &devices[1], &ones[1], &twos[1]).expect("a submission");
    while !devices[0].is_lost() {
        std::thread::yield_now();
    }
    assert!(matches!(first.is_signalled(), Err(Error::DeviceLost { .. })));
    // It was let go, and has worked on bytes that were never written.
    let error = second.wait(LONG).expect_err("what it relied on failed");
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
    assert!(one.is_poisoned() && two.is_poisoned());
    // The device is not lost in truth, and has to come to its end before its memory goes.
    gate.open();
}

#[test]
fn not_to_those_who_did_not_rely_on_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_one, ones) = shared(&rig, &devices);
    let (two, twos) = shared(&rig, &devices);
    fill(engine, &devices[0], &ones[0], 1).and_then(|fence| fence.wait(LONG)).expect("warm");
    let gate = Gate::close(&devices[0]);
    failing_fill(engine, &devices[0], &ones[0]);
    let beside = engine.submit(&devices[1], |submission| {
        submission.unordered(&ones[1])?;
        submission.write(&twos[1]).map(|_| ())
    });
    let beside = beside.expect("a submission");
    beside.wait(LONG).expect("it does not wait for the writer");
    gate.open();
    assert!(beside.is_signalled().expect("nor rely on it"));
    assert!(!two.is_poisoned());
}

#[test]
fn along_a_chain_of_any_length() {
    // More than a stack would hold, if each were looked at by way of the next; an emulated machine needs a
    // minute for so many.
    let links = if common::in_vm() { 1_000 } else { 20_000 };
    let rig = Rig::new();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    let gate = Gate::close(&device);
    let mut last = failed(engine);
    for _ in 0..links {
        let next = engine.submit(&device, |submission| {
            submission.after(&last);
            Ok(())
        });
        last = next.expect("a submission");
    }
    gate.open();
    let error = last.wait(LONG).expect_err("it goes back to one that failed");
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
}

#[test]
#[expect(unsafe_code, reason = "commands of the test's own")]
fn what_a_recording_owns_is_dropped_where_its_drop_may_take_the_reservation() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_one, mut ones) = shared(&rig, &devices);
    let mapping = ones.remove(0);
    let fence = engine.submit(&devices[0], |submission| {
        submission.write(&mapping)?;
        let record = move |_| assert_eq!(mapping.generation(), 0);
        // SAFETY: it records nothing.
        unsafe { submission.record(record) };
        Ok(())
    });
    fence.expect("a submission").wait(LONG).expect("it runs");
}

#[test]
fn scopes_are_what_the_queue_has() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_one, ones) = shared(&rig, &devices);
    let submit = |stages| {
        let scope = Scope { stages, access: vk::AccessFlags::empty() };
        engine.submit(&devices[0], |submission| {
            submission.uses(&ones[0], Access::Read, scope).map(|_| ())
        })
    };
    submit(vk::PipelineStageFlags::empty()).and_then(|f| f.wait(LONG)).expect("any stage");
    let error = submit(vk::PipelineStageFlags::from_raw(1 << 30)).expect_err("no such stage");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}
