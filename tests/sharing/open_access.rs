//! Accesses that an application submits itself: which work they wait for, and which they leave to the GPU.

use crate::common::gate::Gate;
use crate::common::{LONG, Rig, bytes, commands};
use peerbuf::{Access, BufferDescriptor, Error, Fence};

const SIZE: u64 = 4096;

#[test]
fn a_deferred_access_returns_the_fences_of_other_devices() {
    let rig = Rig::new();
    let [near, far] = rig.two_of_one_adapter();
    let buffer = rig.engine().create_buffer(&near, BufferDescriptor::new(SIZE)).expect("a buffer");
    let attachments = [&near, &far].map(|device| buffer.attach(device).expect("attached"));
    let [ours, theirs] =
        attachments.each_ref().map(|attachment| attachment.map(Access::ReadWrite).expect("mapped"));
    let begin = |access| ours.begin_access_deferred(access, 0..SIZE).expect("it waits for nothing");
    let (idle, waits) = begin(Access::Write);
    assert!(waits.is_empty(), "no work is pending: {waits:?}");
    idle.end(Fence::signalled());
    let gate = Gate::close(&far);
    let write = commands::fill(rig.engine(), &far, &theirs, 7).expect("a submission");
    for access in [Access::Read, Access::Write] {
        let (open, waits) = begin(access);
        assert_eq!(waits.len(), 1, "{access}: {waits:?}");
        assert!(!waits[0].is_signalled().expect("no error"), "{access}: behind the gate");
        assert_eq!(open.view(), ours.view().expect("current"));
        drop(open);
    }
    let error = theirs.begin_access_deferred(Access::Read, 0..SIZE + 1).expect_err("too long");
    assert!(matches!(error, Error::OutOfBounds { .. }), "{error:?}");
    let (own, waits) = theirs.begin_access_deferred(Access::Write, 0..SIZE).expect("its own queue");
    assert!(waits.is_empty(), "a queue keeps its order: {waits:?}");
    drop(own);
    let (open, waits) = begin(Access::Read);
    gate.open();
    waits[0].wait(LONG).expect("it ends");
    open.end(Fence::signalled());
    write.wait(LONG).expect("it ends");
    let expected: Vec<u8> = 7u32.to_ne_bytes().into_iter().cycle().take(SIZE as usize).collect();
    bytes::assert_same(&bytes::read(&buffer), &expected, "the far device's write");
    drop((ours, theirs));
}

#[test]
fn a_deferred_access_still_waits_for_the_host() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let buffer =
        rig.engine().create_buffer(&device, BufferDescriptor::new(SIZE)).expect("a buffer");
    let attachment = buffer.attach(&device).expect("attached");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(Access::Write).expect("nothing is pending").end(fence.clone());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| mapping.begin_access_deferred(Access::Read, 0..SIZE));
        for _ in 0..16 {
            std::thread::yield_now();
            assert!(!reader.is_finished(), "no queue may wait for the host");
        }
        drop(signal);
        let (_, waits) = reader.join().expect("no panic").expect("begun");
        assert!(waits.is_empty() && fence.is_signalled().expect("no error"), "{waits:?}");
    });
}
