//! Fences as semaphores, and semaphores of the application into and out of a submission: what applications that present
//! build on.
#![expect(unsafe_code, reason = "semaphores and submissions of the application")]

use std::time::Duration;

use ash::vk;
use peerbuf::{Access, BufferDescriptor, Device, Error, WaitRoute};

use crate::common::commands::fill;
use crate::common::gate::Gate;
use crate::common::{LONG, Rig, wait_idle};

/// A timeout that expires while a queue is held.
const SHORT: Duration = Duration::from_millis(20);

/// A binary semaphore of the application.
struct Binary<'d> {
    device: &'d Device,
    raw: vk::Semaphore,
}

impl<'d> Binary<'d> {
    fn new(device: &'d Device) -> Self {
        let info = vk::SemaphoreCreateInfo::default();
        // SAFETY: the device is live.
        let raw = unsafe { device.raw().create_semaphore(&info, None) }.expect("a semaphore");
        Self { device, raw }
    }

    /// Signals it, or waits for it, by a submission of the application.
    fn submit(&self, signal: bool) {
        let (raw, stages) = ([self.raw], [vk::PipelineStageFlags::ALL_COMMANDS]);
        let info = vk::SubmitInfo::default();
        let info = if signal {
            info.signal_semaphores(&raw)
        } else {
            info.wait_semaphores(&raw).wait_dst_stage_mask(&stages)
        };
        let submitted = self.device.with_queue(|queue| {
            // SAFETY: the queue is locked, and the semaphore is live until the queue is idle.
            unsafe { self.device.raw().queue_submit(queue, &[info], vk::Fence::null()) }
        });
        submitted.expect("a submission");
    }
}

impl Drop for Binary<'_> {
    fn drop(&mut self) {
        wait_idle(&[self.device]);
        // SAFETY: nothing uses it any more.
        unsafe { self.device.raw().destroy_semaphore(self.raw, None) };
    }
}

#[test]
fn a_fence_gives_its_timeline_semaphore_and_value() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let gate = Gate::close(&device);
        let fence = engine.submit(&device, |_| Ok(())).expect("a submission");
        let point = fence.semaphore().expect("it is on a timeline");
        let counter = || {
            // SAFETY: a live timeline of the device.
            unsafe { device.raw().get_semaphore_counter_value(point.semaphore) }.expect("a value")
        };
        assert!(counter() < point.value);
        let same = engine.fence_semaphore(&device, &fence).expect("of this engine");
        assert_eq!(same, Some(point));
        gate.open();
        fence.wait(LONG).expect("it ends");
        assert!(counter() >= point.value);
        assert_eq!(engine.fence_semaphore(&device, &fence).expect("of this engine"), None);
    }
    let (host, signal) = engine.host_fence();
    assert_eq!(host.semaphore(), None);
    drop(signal);
}

#[test]
fn semaphores_of_the_application_go_into_and_out_of_a_submission() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let [before, behind] = [Binary::new(&device), Binary::new(&device)];
        for _ in 0..3 {
            before.submit(true);
            let fence = engine.submit(&device, |submission| {
                // SAFETY: its signal is pending, and it lives until the queue is idle.
                unsafe { submission.wait_semaphore(before.raw, 0) };
                // SAFETY: unsignalled, and it lives as long.
                unsafe { submission.signal_semaphore(behind.raw, 0) };
                Ok(())
            });
            behind.submit(false);
            fence.and_then(|fence| fence.wait(LONG)).expect("it ends");
        }
    }
}

/// VUID-vkQueueSubmit-pWaitSemaphores-03238, and -03268 of a present: what waits for a binary semaphore must not depend
/// on a signal that is not submitted.
#[test]
fn a_binary_semaphore_is_signalled_only_behind_signals_that_are_submitted() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some([first, second]) = rig.two_drivers() else { return };
    assert_eq!(engine.wait_route(&first, &second).expect("both"), WaitRoute::Bridge);
    let gate = Gate::close(&first);
    let work = engine.submit(&first, |_| Ok(())).expect("a submission");
    let behind = engine
        .submit(&second, |submission| {
            submission.after(&work);
            Ok(())
        })
        .expect("a submission");
    let early = behind.wait_submitted(SHORT).expect_err("the host has not signalled");
    assert!(matches!(early, Error::Timeout { .. }), "{early}");
    let binary = Binary::new(&second);
    std::thread::scope(|scope| {
        let signalling = scope.spawn(|| {
            engine.submit(&second, |submission| {
                // SAFETY: unsignalled, and live until the queue is idle.
                unsafe { submission.signal_semaphore(binary.raw, 0) };
                Ok(())
            })
        });
        assert!(!behind.is_signalled().expect("no error"));
        gate.open();
        let signalled = signalling.join().expect("no panic").expect("a submission");
        signalled.wait_submitted(Duration::ZERO).expect("it has waited for that itself");
    });
    // The validation layer checks this wait, as it does a present's.
    binary.submit(false);
    behind.wait_submitted(LONG).expect("signalled");
}

#[test]
fn an_access_begins_behind_the_fences_that_it_returns() {
    let rig = Rig::new();
    let engine = rig.engine();
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        let buffer = engine.create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
        let [writer, reader] = [&first, &second].map(|device| {
            let attachment = buffer.attach(device).expect("attached");
            attachment.map(Access::ReadWrite).expect("mapped")
        });
        writer.view().and_then(|_| reader.view()).expect("valid");
        let gate = Gate::close(&first);
        let written = fill(engine, &first, &writer, 7).expect("a submission");
        let (access, behind) =
            reader.begin_access_deferred(Access::Read, 0..reader.buffer().size()).expect("no wait");
        assert_eq!(behind.len(), 1, "{behind:?}");
        let awaited = engine.fence_semaphore(&second, &behind[0]).expect("of this engine");
        assert!(awaited.is_some());
        gate.open();
        written.wait(LONG).expect("it ends");
        access.end(second.submitted().expect("a submission"));
        let (access, behind) =
            reader.begin_access_deferred(Access::Read, 0..reader.buffer().size()).expect("no wait");
        assert!(behind.is_empty(), "{behind:?}");
        drop(access);
    }
}

/// A callback is code of the application. While it runs, the bridge goes on to signal what other devices wait for.
#[test]
fn a_callback_that_waits_keeps_no_device_waiting() {
    let rig = Rig::new();
    let engine = rig.engine();
    let Some([first, second]) = rig.two_drivers() else { return };
    assert_eq!(engine.wait_route(&first, &second).expect("both"), WaitRoute::Bridge);
    let gate = Gate::close(&first);
    let early = engine.submit(&first, |_| Ok(())).expect("a submission");
    let (began, begins) = std::sync::mpsc::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let callback = move || {
        began.send(()).expect("the test listens");
        // Until the test drops its end.
        ends.recv().expect_err("nothing is sent");
    };
    assert!(engine.on_signal(&early, callback).expect("a callback").is_some(), "not yet");
    gate.open();
    begins.recv_timeout(LONG).expect("the callback is called");
    let gate = Gate::close(&first);
    let late = engine.submit(&first, |_| Ok(())).expect("a submission");
    let behind = engine
        .submit(&second, |submission| {
            submission.after(&late);
            Ok(())
        })
        .expect("a submission");
    assert!(!behind.is_signalled().expect("no error"), "behind the gate");
    gate.open();
    behind.wait(LONG).expect("the bridge signals it");
    drop(end);
}
