//! Failures propagate with fences to all dependent work, and to no other work.

use std::sync::Arc;

use crate::common::commands::{copy, fill, record_fill};
use crate::common::gate::Gate;
use crate::common::until::until;
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
    let attachments: Vec<_> = devices
        .iter()
        .map(|device| {
            buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("an attachment")
        })
        .collect();
    let mappings = attachments
        .iter()
        .map(|attachment| attachment.map(Access::ReadWrite).expect("mapped"))
        .collect();
    (buffer, mappings)
}

/// A fence of work that has failed.
fn failed(engine: &Engine) -> Fence {
    let (fence, signal) = engine.host_fence();
    signal.fail("injected failure");
    fence
}

/// A write that depends on work that has failed.
fn failing_fill(engine: &Engine, device: &Device, mapping: &Mapping) -> Fence {
    let failed = failed(engine);
    let fence = engine.submit(device, |submission| {
        submission.after(&failed);
        record_fill(submission, device, mapping, 1)
    });
    fence.expect("it fails only when it runs")
}

#[test]
fn a_failure_reaches_dependent_work_on_other_devices() {
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
            let error = fence.wait(LONG).expect_err("a dependency failed");
            assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
            assert!(buffer.is_poisoned());
        }
        assert!(one.is_poisoned());
        // Work that does not depend on the failure continues.
        for buffer in [&one, &two, &three] {
            buffer.accept_content().expect("no work in progress");
        }
        let fine = copy(engine, &devices[1], &ones[1], &twos[1]).expect("a submission");
        fine.wait(LONG).expect("no failure");
    }
}

#[test]
fn a_failure_reaches_dependent_compute_passes() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    let (_one, ones) = shared(&rig, &devices);
    let (two, twos) = shared(&rig, &devices);
    ones[0].copy_to(&twos[0]).expect("the pass is compiled");
    let gate = Gate::close(&devices[0]);
    failing_fill(engine, &devices[0], &ones[0]);
    let submitted = engine.calls().made(Call::QueueSubmit);
    let copied = std::thread::scope(|scope| {
        let copier = scope.spawn(|| ones[0].copy_to(&twos[0]));
        until(|| engine.calls().made(Call::QueueSubmit), |&now| now != submitted);
        gate.open();
        copier.join().expect("no panic")
    });
    let error = copied.expect_err("it copied bytes that were never written");
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
    assert!(two.is_poisoned());
    // Passes on other buffers are not affected.
    let (_three, threes) = shared(&rig, &devices);
    threes[0].fill(1).expect("a pass");
}

#[test]
fn device_loss_fails_dependent_work() {
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
    // The bridge waits, and detects the loss; no other call reports the error.
    engine.calls().fail_nth(Call::WaitSemaphores, 1, vk::Result::ERROR_DEVICE_LOST);
    let second = copy(engine, &devices[1], &ones[1], &twos[1]).expect("a submission");
    until(|| devices[0].is_lost(), |&lost| lost);
    assert!(matches!(first.is_signalled(), Err(Error::DeviceLost { .. })));
    // It was released by the loss, and used bytes that were never written.
    let error = second.wait(LONG).expect_err("a dependency failed");
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
    assert!(one.is_poisoned() && two.is_poisoned());
    // The device is not really lost: its work must end before its memory is freed.
    gate.open();
}

#[test]
fn a_failure_does_not_reach_independent_work() {
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
    assert!(beside.is_signalled().expect("nor depend on it"));
    assert!(!two.is_poisoned());
}

#[test]
fn a_failure_propagates_along_a_chain_of_any_length() {
    // A recursive walk would have 64 bytes of stack for a link. More links take the validation layer, whose time grows
    // with their square, beyond its own timeout on a busy machine; an emulated machine is slower still.
    const STACK: usize = 256 << 10;
    let links = if common::in_vm() { 1_000 } else { 4_096 };
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
    // The last fence is dropped on the small stack as well.
    let wait = move || last.wait(LONG).expect_err("its first dependency failed");
    let waiter = std::thread::Builder::new().stack_size(STACK).spawn(wait).expect("a thread");
    let error = waiter.join().expect("the stack holds the wait");
    assert!(matches!(error, Error::WorkFailed { .. }), "{error}");
}

#[test]
#[expect(unsafe_code, reason = "commands of the test's own")]
fn a_recording_is_dropped_without_the_reservation_held() {
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
fn a_scope_with_unsupported_stages_is_refused() {
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
