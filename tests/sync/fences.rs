//! Fences that are points on a device's timeline, tested as `drivers/dma-buf/st-dma-fence-chain.c` tests a chain
//! and `st-dma-fence.c` a fence. A link of a chain signals when all before it have; so does a point.
//!
//! | upstream | here |
//! |---|---|
//! | `sanitycheck`, `find_seqno` | [`the_first_pending_point_is_found`] |
//! | `find_signaled`, `find_out_of_order`, `find_gap` | the same test, on a random selection of points |
//! | `find_race` | [`concurrent_readers_see_points_signal_in_order`] |
//! | `signal_forward`, `signal_backward` | [`a_point_signals_after_all_earlier_points`] |
//! | `wait_forward`, `wait_backward`, `wait_random` | [`waiters_wake_in_any_order_of_release`] |
//! | `test_add_callback`, `test_late_add_callback`, `test_rm_callback`, `test_late_rm_callback` | [`a_callback_runs_once_when_its_point_signals`] |
//! | `race_signal_callback` | [`callbacks_that_race_with_the_signal_run_once`] |
//! | `test_error` | [`a_host_failure_reaches_the_callbacks`] |
//! | `test_wait_timeout` | [`a_wait_accepts_any_timeout`] |
//! | `unwrap_merge_duplicate`, `_seqno`, `_order` | [`super::semaphores::a_device_waits_once_for_each_other_device`] |
//!
//! `engine/sync/tests/dma_fence.rs` tests host fences in the same way. A kernel sync file needs a driver with
//! `SYNC_FD`, which the virtual machine has: [`a_point_becomes_a_sync_file_and_back`].
#![expect(unsafe_code, reason = "the test holds and releases a queue")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use crate::common;
use crate::common::{LONG, Rig};
use ash::vk;
use peerbuf::{Device, Engine, Error, Fence};

/// A timeout that expires while nothing signals.
const SHORT: Duration = Duration::from_millis(5);

/// A queue that stops before each of its points, until the test releases that step.
struct Steps {
    device: Device,
    /// One timeline per step, so that steps can be released in any order.
    holds: Vec<vk::Semaphore>,
    points: Vec<Fence>,
}

impl Steps {
    fn new(device: &Device, count: usize) -> Self {
        let mut steps = Self { device: device.clone(), holds: vec![], points: vec![] };
        for _ in 0..count {
            steps.push();
        }
        steps
    }

    /// Submits a wait, and a point behind it.
    fn push(&mut self) {
        let raw = self.device.raw();
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: every device of peerbuf has timeline semaphores on.
        let hold = unsafe { raw.create_semaphore(&info, None) }.expect("a semaphore");
        self.holds.push(hold);
        let (semaphores, values) = ([hold], [1]);
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut timeline =
            vk::TimelineSemaphoreSubmitInfo::default().wait_semaphore_values(&values);
        let info = [vk::SubmitInfo::default()
            .wait_semaphores(&semaphores)
            .wait_dst_stage_mask(&stages)
            .push_next(&mut timeline)];
        let submitted = self.device.with_queue(|queue| {
            // SAFETY: the queue is the device's own and locked; the semaphore lives until `drop`.
            unsafe { raw.queue_submit(queue, &info, vk::Fence::null()) }
        });
        submitted.expect("a submission");
        self.points.push(self.device.submitted().expect("a submission"));
    }

    /// Releases one step. Its point signals when all earlier steps are released too.
    fn release(&self, at: usize) {
        let info = vk::SemaphoreSignalInfo::default().semaphore(self.holds[at]).value(1);
        // SAFETY: the semaphore is at 0: a test releases each step once, and no other code signals it.
        unsafe { self.device.raw().signal_semaphore(&info) }.expect("a signal");
    }

    /// The index of the first pending point, or the number of points if all have signalled.
    fn first_pending(&self) -> usize {
        let pending = |fence: &Fence| !fence.is_signalled().expect("no error");
        self.points.iter().position(pending).unwrap_or(self.points.len())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let raw = self.device.raw();
        for &hold in &self.holds {
            // SAFETY: the semaphore is destroyed only below.
            let value = unsafe { raw.get_semaphore_counter_value(hold) }.expect("a value");
            let info = vk::SemaphoreSignalInfo::default().semaphore(hold).value(1);
            if value == 0 {
                // SAFETY: as in `release`.
                unsafe { raw.signal_semaphore(&info) }.expect("a signal");
            }
        }
        common::wait_idle(&[&self.device]);
        for &hold in &self.holds {
            // SAFETY: no submission waits for the semaphore any more.
            unsafe { raw.destroy_semaphore(hold, None) };
        }
    }
}

/// The numbers below `count` in a pseudo-random order.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut random = seed * 7919 + 1;
    let mut order: Vec<_> = (0..count).collect();
    for at in (1..count).rev() {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, (random >> 33) as usize % (at + 1));
    }
    order
}

/// Ascending, descending, and two pseudo-random orders.
fn orders(count: usize) -> [Vec<usize>; 4] {
    [(0..count).collect(), (0..count).rev().collect(), shuffled(count, 1), shuffled(count, 2)]
}

/// upstream: `find_seqno`, `find_signaled`, `find_out_of_order`, `find_gap`
#[test]
fn the_first_pending_point_is_found() {
    const COUNT: usize = 24;
    let rig = Rig::new();
    for device in rig.all() {
        let steps = Steps::new(&device, COUNT);
        // All points are searched, and a selection of them in random order with gaps.
        let kept: Vec<_> = shuffled(COUNT, 3).into_iter().step_by(3).collect();
        for reached in 0..COUNT {
            assert_eq!(steps.first_pending(), reached, "{}", device.name());
            for &at in &kept {
                let seen = steps.points[at].is_signalled().expect("no error");
                assert_eq!(seen, at < reached, "{}: {at}, of {reached}", device.name());
            }
            let early = steps.points[reached].wait(Duration::ZERO);
            assert!(matches!(early, Err(Error::Timeout { .. })), "{early:?}");
            steps.release(reached);
            steps.points[reached].wait(LONG).expect("reached");
        }
        assert_eq!(steps.first_pending(), COUNT);
    }
}

/// upstream: `find_race`
#[test]
fn concurrent_readers_see_points_signal_in_order() {
    const COUNT: usize = 32;
    let rig = Rig::new();
    for device in rig.all() {
        let steps = Steps::new(&device, COUNT);
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    let mut last = 0;
                    while last < COUNT {
                        // From the end: a point that precedes a signalled one signalled earlier.
                        let seen: Vec<_> = steps
                            .points
                            .iter()
                            .rev()
                            .map(|point| point.is_signalled().expect("no error"))
                            .collect();
                        let reached = seen.iter().rev().take_while(|&&seen| seen).count();
                        assert!(
                            reached >= last,
                            "signalled points went from {last} back to {reached}"
                        );
                        let first = seen.iter().position(|&seen| seen).unwrap_or(COUNT);
                        assert!(seen[first..].iter().all(|&seen| seen), "in order: {seen:?}");
                        last = reached;
                        std::thread::yield_now();
                    }
                });
            }
            start.wait();
            (0..COUNT).for_each(|at| steps.release(at));
        });
    }
}

/// upstream: `signal_forward`, `signal_backward`
#[test]
fn a_point_signals_after_all_earlier_points() {
    const COUNT: usize = 12;
    let rig = Rig::new();
    for device in rig.all() {
        for order in orders(COUNT) {
            let steps = Steps::new(&device, COUNT);
            let mut released = [false; COUNT];
            for at in order {
                steps.release(at);
                released[at] = true;
                let reached = released.iter().take_while(|&&released| released).count();
                if let Some(last) = reached.checked_sub(1) {
                    steps.points[last].wait(LONG).expect("all earlier steps are released");
                }
                assert_eq!(steps.first_pending(), reached, "{}: {released:?}", device.name());
            }
        }
    }
}

/// upstream: `wait_forward`, `wait_backward`, `wait_random`
#[test]
fn waiters_wake_in_any_order_of_release() {
    const COUNT: usize = 8;
    let rig = Rig::new();
    for device in rig.all() {
        for order in orders(COUNT) {
            let steps = Steps::new(&device, COUNT);
            let start = Barrier::new(COUNT + 1);
            std::thread::scope(|scope| {
                for at in 0..COUNT {
                    let (steps, start) = (&steps, &start);
                    scope.spawn(move || {
                        start.wait();
                        steps.points[at].wait(LONG).expect("woken");
                        assert!(steps.first_pending() > at, "woken before its point signalled");
                    });
                }
                start.wait();
                order.into_iter().for_each(|at| steps.release(at));
            });
        }
    }
}

/// upstream: `test_add_callback`, `test_late_add_callback`, `test_rm_callback`, `test_late_rm_callback`
#[test]
fn a_callback_runs_once_when_its_point_signals() {
    const COUNT: usize = 12;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        for order in orders(COUNT) {
            let steps = Steps::new(&device, COUNT);
            let (sender, receiver) = mpsc::channel();
            // Two callbacks per point, one of which is cancelled; added in any order.
            let mut cancelled = vec![];
            for &at in &order {
                let add = |what: &'static str| {
                    let (sender, point) = (sender.clone(), steps.points[at].clone());
                    let call = move || {
                        let reached = point.is_signalled().expect("no error");
                        sender.send((what, at, reached)).expect("the test listens");
                    };
                    engine.on_signal(&steps.points[at], call).expect("a callback")
                };
                assert!(add("kept").is_some());
                cancelled.push((at, add("cancelled").expect("not yet")));
            }
            for &(at, id) in &cancelled {
                assert!(engine.forget_callback(&steps.points[at], id).expect("its own"));
            }
            for at in 0..COUNT {
                assert!(receiver.try_recv().is_err(), "not yet");
                steps.release(at);
                assert_eq!(receiver.recv_timeout(LONG), Ok(("kept", at, true)));
            }
            for &(at, id) in &cancelled {
                assert!(
                    !engine.forget_callback(&steps.points[at], id).expect("its own"),
                    "cancelled twice"
                );
            }
            let late = sender.clone();
            let call = move || late.send(("late", 0, true)).expect("the test listens");
            assert_eq!(engine.on_signal(&steps.points[0], call).expect("at once"), None);
            assert_eq!(receiver.try_recv(), Ok(("late", 0, true)));
            drop(sender);
            assert_eq!(receiver.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
        }
    }
}

/// upstream: `race_signal_callback`
#[test]
fn callbacks_that_race_with_the_signal_run_once() {
    const COUNT: usize = 24;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let steps = Steps::new(&device, COUNT);
        let calls: Arc<[AtomicU32]> = (0..COUNT).map(|_| AtomicU32::new(0)).collect();
        let (start, (sender, receiver)) = (Barrier::new(2), mpsc::channel());
        let taken = std::thread::scope(|scope| {
            let adder = scope.spawn(|| {
                let mut taken = 0;
                for at in 0..COUNT {
                    start.wait();
                    let (calls, sender) = (Arc::clone(&calls), sender.clone());
                    let call = move || {
                        calls[at].fetch_add(1, Ordering::AcqRel);
                        sender.send(()).expect("the test listens");
                    };
                    let id = engine.on_signal(&steps.points[at], call).expect("a callback");
                    // Every third callback is cancelled while the device may signal.
                    let back =
                        |id| engine.forget_callback(&steps.points[at], id).expect("of this engine");
                    if at % 3 == 0 && id.is_some_and(back) {
                        taken += 1;
                    }
                }
                taken
            });
            for at in 0..COUNT {
                start.wait();
                steps.release(at);
            }
            adder.join().expect("it ends")
        });
        for _ in taken..COUNT {
            receiver.recv_timeout(LONG).expect("every callback runs");
        }
        drop(sender);
        assert_eq!(receiver.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
        let called = calls.iter().map(|calls| calls.load(Ordering::Acquire));
        assert_eq!(called.filter(|&calls| calls == 1).count() + taken, COUNT);
    }
}

/// upstream: `test_error`
#[test]
fn a_host_failure_reaches_the_callbacks() {
    let rig = Rig::new();
    let engine = rig.engine();
    let (fence, signal) = engine.host_fence();
    let (sender, receiver) = mpsc::channel();
    let seen = fence.clone();
    let call = move || sender.send(seen.is_signalled()).expect("the test listens");
    assert!(engine.on_signal(&fence, call).expect("a callback").is_some());
    signal.fail("EIO");
    let told = receiver.recv_timeout(LONG).expect("called");
    assert!(matches!(told, Err(Error::WorkFailed { why: "EIO", .. })), "{told:?}");
}

/// If a callback panics, the other callbacks run all the same: on the thread that watches a device, and on the
/// thread that signals a host fence.
#[test]
fn a_panicking_callback_does_not_stop_the_others() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let steps = Steps::new(&device, 2);
        let (sender, receiver) = mpsc::channel();
        for (at, what) in [(0, "beside"), (1, "behind")] {
            let sender = sender.clone();
            let wrong = || std::panic::resume_unwind(Box::new("this callback panics"));
            engine.on_signal(&steps.points[at], wrong).expect("a callback");
            let right = move || sender.send(what).expect("the test listens");
            engine.on_signal(&steps.points[at], right).expect("a callback");
            steps.release(at);
            assert_eq!(receiver.recv_timeout(LONG), Ok(what), "{}", device.name());
        }
    }
    let (fence, signal) = engine.host_fence();
    let calls = Arc::new(AtomicU32::new(0));
    for at in 0..3 {
        let calls = Arc::clone(&calls);
        let call = move || {
            calls.fetch_add(1, Ordering::AcqRel);
            if at == 0 {
                std::panic::resume_unwind(Box::new("this callback panics"));
            }
        };
        engine.on_signal(&fence, call).expect("a callback");
    }
    drop(signal);
    assert_eq!(calls.load(Ordering::Acquire), 3);
    assert!(fence.is_signalled().expect("no error"));
}

/// upstream: `test_wait_timeout` (`MAX_SCHEDULE_TIMEOUT`)
#[test]
fn a_wait_accepts_any_timeout() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let steps = Steps::new(&device, 1);
        let (host, signal) = engine.host_fence();
        for fence in [&steps.points[0], &host] {
            for bound in [Duration::ZERO, Duration::from_nanos(1), SHORT] {
                let early = fence.wait(bound);
                assert!(matches!(early, Err(Error::Timeout { after, .. }) if after == bound));
            }
        }
        std::thread::scope(|scope| {
            let waiters = [&steps.points[0], &host].map(|fence| {
                [Duration::MAX, Duration::from_secs(u64::MAX / 2)]
                    .map(|bound| scope.spawn(move || fence.wait(bound).is_ok()))
            });
            // Lets the waiters start.
            assert!(host.wait(SHORT).is_err());
            steps.release(0);
            drop(signal);
            let ended = waiters.into_iter().flatten().map(|waiter| waiter.join());
            assert!(ended.into_iter().all(|ok| matches!(ok, Ok(true))), "{}", device.name());
        });
        assert!(host.wait(Duration::MAX).is_ok() && steps.points[0].wait(Duration::MAX).is_ok());
    }
}

/// Device numbers repeat in each engine; timelines do not.
#[test]
fn fences_of_two_engines_are_not_confused() {
    let rig = Rig::new();
    let engine = rig.engine();
    let other_engine = rig.external_engine();
    for device in rig.all() {
        let theirs = rig.open_on(&other_engine, &device);
        let same = device_with_same_number(engine, &theirs);
        let steps = Steps::new(&theirs, 1);
        let point = &steps.points[0];
        // This engine's device of that number is ahead of the other engine's, and watched.
        for _ in 0..4 {
            same.submitted().and_then(|fence| fence.wait(LONG)).expect("an empty submission");
        }
        let own = Steps::new(&same, 2);
        let (sender, receiver) = mpsc::channel();
        let send = |what: &'static str| {
            let sender = sender.clone();
            move || sender.send(what).expect("the test listens")
        };
        engine.on_signal(&own.points[1], send("ours")).expect("a callback");
        engine.on_signal(point, send("theirs")).expect("a callback");
        (0..2).for_each(|at| own.release(at));
        assert_eq!(receiver.recv_timeout(LONG), Ok("ours"));
        let after = engine.submit(&device, |submission| {
            submission.after(point);
            Ok(())
        });
        let after = after.expect("a submission");
        // Long enough for the wrong thread to act; the right one cannot act yet.
        assert!(after.wait(SHORT).is_err(), "it waits for the wrong engine's point");
        assert!(receiver.try_recv().is_err(), "not yet");
        steps.release(0);
        assert_eq!(receiver.recv_timeout(LONG), Ok("theirs"));
        after.wait(LONG).expect("released");
        drop((own, steps, theirs));
    }
}

/// The device of `engine` that has the same number as `theirs`.
fn device_with_same_number(engine: &Engine, theirs: &Device) -> Device {
    let same = engine.devices().into_iter().find(|device| device.id() == theirs.id());
    same.expect("numbers start at 0 in each engine")
}

/// upstream: `sync_file` of a fence (`DMA_BUF_IOCTL_EXPORT_SYNC_FILE`'s answer, row G12)
#[test]
fn a_point_becomes_a_sync_file_and_back() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.all();
    let mut made = 0;
    for device in &devices {
        let rows = device.adapter().external_semaphores().iter();
        let exports = rows.clone().any(|row| {
            row.handle == vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD && row.exportable
        });
        let point = device.submitted().expect("a submission");
        let file = match point.to_sync_file() {
            Ok(file) => file,
            // The point has signalled already, or the driver does not export sync files.
            Err(Error::Unsupported { .. }) => continue,
            Err(error) => panic!("{}: {error}", device.name()),
        };
        assert!(exports, "{}: exported without support", device.name());
        made += 1;
        let back = Fence::from_sync_file(file).expect("a sync file");
        back.wait(LONG).expect("it signals");
        assert!(back.is_signalled().expect("no error"));
        assert_eq!(back.device(), None);
        point.wait(LONG).expect("its point has signalled");
        let again = back.to_sync_file().expect("another fd of the same fence");
        Fence::from_sync_file(again).and_then(|fence| fence.wait(LONG)).expect("signalled");
        // A queue of any device can wait for the sync file.
        for other in &devices {
            let after = engine.submit(other, |submission| {
                submission.after(&back);
                Ok(())
            });
            after.and_then(|fence| fence.wait(LONG)).expect("nothing to wait for");
        }
    }
    let (host, _signal) = engine.host_fence();
    for fence in [host, Fence::signalled()] {
        let refused = fence.to_sync_file();
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    if made == 0 {
        assert!(!common::in_vm(), "the vm tier must have a driver with SYNC_FD");
        common::say(
            "sync files of points are tested in the vm tier: no driver here exports SYNC_FD",
        );
    }
}
