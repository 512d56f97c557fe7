//! Fences that are points on a device's timeline: what `drivers/dma-buf/st-dma-fence-chain.c` asks of a chain,
//! and `st-dma-fence.c` of each fence. A chain's link signals when all before it have; so does a point.
//!
//! | upstream | here |
//! |---|---|
//! | `sanitycheck`, `find_seqno` | [`the_first_point_that_is_not_reached_is_found`] |
//! | `find_signaled`, `find_out_of_order`, `find_gap` | the same, of points that are kept at random |
//! | `find_race` | [`whoever_looks_meanwhile_sees_them_in_order`] |
//! | `signal_forward`, `signal_backward` | [`a_point_is_reached_when_all_before_it_are`] |
//! | `wait_forward`, `wait_backward`, `wait_random` | [`waiters_are_woken_in_whatever_order_it_goes_on`] |
//! | `test_add_callback`, `test_late_add_callback`, `test_rm_callback`, `test_late_rm_callback` | [`points_call_back_once_when_they_are_reached`] |
//! | `race_signal_callback` | [`callbacks_that_race_with_the_device_are_called_once`] |
//! | `test_error` | [`a_failure_of_the_host_reaches_its_callbacks`] |
//! | `test_wait_timeout` | [`a_bound_of_any_size_is_a_bound`] |
//! | `unwrap_merge_duplicate`, `_seqno`, `_order` | [`super::semaphores::a_device_waits_once_for_each_other_one`] |
//!
//! Fences of the host go through the same in `engine/sync/tests/dma_fence.rs`. A sync file of the kernel
//! needs a driver with `SYNC_FD`, which the virtual machine has: [`a_point_becomes_a_sync_file_and_back`].
#![expect(unsafe_code, reason = "a queue that is held and let go by the test")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use crate::common;
use crate::common::{LONG, Rig};
use ash::vk;
use peerbuf::{Device, Engine, Error, Fence};

/// A bound that is reached when nothing goes on.
const SHORT: Duration = Duration::from_millis(5);

/// A queue that stops before each of its points, and goes on past the n-th when the test has said so.
struct Steps {
    device: Device,
    /// One timeline for each, so that they can be let go in any order.
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

    /// A submission that waits, and a point behind it.
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

    /// Lets one step go. Its point is reached when all before it have gone, too.
    fn let_go(&self, at: usize) {
        let info = vk::SemaphoreSignalInfo::default().semaphore(self.holds[at]).value(1);
        // SAFETY: it is at 0, as tests let each step go once, and nobody else signals it.
        unsafe { self.device.raw().signal_semaphore(&info) }.expect("a signal");
    }

    /// The first that is not reached; all of them if all are.
    fn first_pending(&self) -> usize {
        let pending = |fence: &Fence| !fence.is_signalled().expect("no error");
        self.points.iter().position(pending).unwrap_or(self.points.len())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let raw = self.device.raw();
        for &hold in &self.holds {
            // SAFETY: live until below.
            let value = unsafe { raw.get_semaphore_counter_value(hold) }.expect("a value");
            let info = vk::SemaphoreSignalInfo::default().semaphore(hold).value(1);
            if value == 0 {
                // SAFETY: as in `let_go`.
                unsafe { raw.signal_semaphore(&info) }.expect("a signal");
            }
        }
        common::wait_idle(&[&self.device]);
        for &hold in &self.holds {
            // SAFETY: nothing waits for it any more.
            unsafe { raw.destroy_semaphore(hold, None) };
        }
    }
}

/// Numbers below `count` in an order that looks like none.
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

/// Forwards, backwards, and two others.
fn orders(count: usize) -> [Vec<usize>; 4] {
    [(0..count).collect(), (0..count).rev().collect(), shuffled(count, 1), shuffled(count, 2)]
}

/// upstream: `find_seqno`, `find_signaled`, `find_out_of_order`, `find_gap`
#[test]
fn the_first_point_that_is_not_reached_is_found() {
    const COUNT: usize = 24;
    let rig = Rig::new();
    for device in rig.all() {
        let steps = Steps::new(&device, COUNT);
        // Looked for among all, and among those that somebody kept, in any order and with gaps.
        let kept: Vec<_> = shuffled(COUNT, 3).into_iter().step_by(3).collect();
        for reached in 0..COUNT {
            assert_eq!(steps.first_pending(), reached, "{}", device.name());
            for &at in &kept {
                let seen = steps.points[at].is_signalled().expect("no error");
                assert_eq!(seen, at < reached, "{}: {at}, of {reached}", device.name());
            }
            let early = steps.points[reached].wait(Duration::ZERO);
            assert!(matches!(early, Err(Error::Timeout { .. })), "{early:?}");
            steps.let_go(reached);
            steps.points[reached].wait(LONG).expect("reached");
        }
        assert_eq!(steps.first_pending(), COUNT);
    }
}

/// upstream: `find_race`
#[test]
fn whoever_looks_meanwhile_sees_them_in_order() {
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
                        // From the end: what is before one that was reached was reached earlier.
                        let seen: Vec<_> = steps
                            .points
                            .iter()
                            .rev()
                            .map(|point| point.is_signalled().expect("no error"))
                            .collect();
                        let reached = seen.iter().rev().take_while(|&&seen| seen).count();
                        assert!(reached >= last, "it never goes back: {last}, then {reached}");
                        let first = seen.iter().position(|&seen| seen).unwrap_or(COUNT);
                        assert!(seen[first..].iter().all(|&seen| seen), "in order: {seen:?}");
                        last = reached;
                        std::thread::yield_now();
                    }
                });
            }
            start.wait();
            (0..COUNT).for_each(|at| steps.let_go(at));
        });
    }
}

/// upstream: `signal_forward`, `signal_backward`
#[test]
fn a_point_is_reached_when_all_before_it_are() {
    const COUNT: usize = 12;
    let rig = Rig::new();
    for device in rig.all() {
        for order in orders(COUNT) {
            let steps = Steps::new(&device, COUNT);
            let mut gone = [false; COUNT];
            for at in order {
                steps.let_go(at);
                gone[at] = true;
                let reached = gone.iter().take_while(|&&gone| gone).count();
                if let Some(last) = reached.checked_sub(1) {
                    steps.points[last].wait(LONG).expect("all before it have gone");
                }
                assert_eq!(steps.first_pending(), reached, "{}: {gone:?}", device.name());
            }
        }
    }
}

/// upstream: `wait_forward`, `wait_backward`, `wait_random`
#[test]
fn waiters_are_woken_in_whatever_order_it_goes_on() {
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
                        assert!(steps.first_pending() > at, "and not too early");
                    });
                }
                start.wait();
                order.into_iter().for_each(|at| steps.let_go(at));
            });
        }
    }
}

/// upstream: `test_add_callback`, `test_late_add_callback`, `test_rm_callback`, `test_late_rm_callback`
#[test]
fn points_call_back_once_when_they_are_reached() {
    const COUNT: usize = 12;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        for order in orders(COUNT) {
            let steps = Steps::new(&device, COUNT);
            let (sender, receiver) = mpsc::channel();
            // Two for each, of which one is taken back; added in any order.
            let mut gone = vec![];
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
                gone.push((at, add("gone").expect("not yet")));
            }
            for &(at, id) in &gone {
                assert!(engine.forget_callback(&steps.points[at], id).expect("its own"));
            }
            for at in 0..COUNT {
                assert!(receiver.try_recv().is_err(), "not yet");
                steps.let_go(at);
                assert_eq!(receiver.recv_timeout(LONG), Ok(("kept", at, true)));
            }
            for &(at, id) in &gone {
                assert!(!engine.forget_callback(&steps.points[at], id).expect("its own"), "once");
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
fn callbacks_that_race_with_the_device_are_called_once() {
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
                    // Every third tries to take it back.
                    let back = |id| engine.forget_callback(&steps.points[at], id).expect("ours");
                    if at % 3 == 0 && id.is_some_and(back) {
                        taken += 1;
                    }
                }
                taken
            });
            for at in 0..COUNT {
                start.wait();
                steps.let_go(at);
            }
            adder.join().expect("it ends")
        });
        for _ in taken..COUNT {
            receiver.recv_timeout(LONG).expect("nobody is forgotten");
        }
        drop(sender);
        assert_eq!(receiver.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
        let called = calls.iter().map(|calls| calls.load(Ordering::Acquire));
        assert_eq!(called.filter(|&calls| calls == 1).count() + taken, COUNT);
    }
}

/// upstream: `test_error`
#[test]
fn a_failure_of_the_host_reaches_its_callbacks() {
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

/// A callback that panics is its owner's fault, and others are called all the same: by the thread that
/// watches a device, and by whoever signals a host's fence.
#[test]
fn a_callback_that_panics_takes_nobody_with_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        let steps = Steps::new(&device, 2);
        let (sender, receiver) = mpsc::channel();
        for (at, what) in [(0, "beside"), (1, "behind")] {
            let sender = sender.clone();
            let wrong = || std::panic::resume_unwind(Box::new("a callback goes wrong"));
            engine.on_signal(&steps.points[at], wrong).expect("a callback");
            let right = move || sender.send(what).expect("the test listens");
            engine.on_signal(&steps.points[at], right).expect("a callback");
            steps.let_go(at);
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
                std::panic::resume_unwind(Box::new("a callback goes wrong"));
            }
        };
        engine.on_signal(&fence, call).expect("a callback");
    }
    drop(signal);
    assert_eq!(calls.load(Ordering::Acquire), 3);
    assert!(fence.is_signalled().expect("its work went well"));
}

/// upstream: `test_wait_timeout` (`MAX_SCHEDULE_TIMEOUT`)
#[test]
fn a_bound_of_any_size_is_a_bound() {
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
            // So that they are at it.
            assert!(host.wait(SHORT).is_err());
            steps.let_go(0);
            drop(signal);
            let ended = waiters.into_iter().flatten().map(|waiter| waiter.join());
            assert!(ended.into_iter().all(|ok| matches!(ok, Ok(true))), "{}", device.name());
        });
        assert!(host.wait(Duration::MAX).is_ok() && steps.points[0].wait(Duration::MAX).is_ok());
    }
}

/// Numbers of devices repeat from engine to engine; their timelines do not.
#[test]
fn a_fence_of_another_engine_is_no_fence_of_ours() {
    let rig = Rig::new();
    let engine = rig.engine();
    let stranger = rig.stranger();
    for device in rig.all() {
        let theirs = rig.open_on(&stranger, &device);
        let same = devices_with_number(engine, &theirs);
        let steps = Steps::new(&theirs, 1);
        let point = &steps.points[0];
        // Our device of that number is ahead of theirs, and watched.
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
        (0..2).for_each(|at| own.let_go(at));
        assert_eq!(receiver.recv_timeout(LONG), Ok("ours"));
        let after = engine.submit(&device, |submission| {
            submission.after(point);
            Ok(())
        });
        let after = after.expect("a submission");
        // Long enough for a wrong thread to act; a right one cannot.
        assert!(after.wait(SHORT).is_err(), "it waits for theirs, not for ours");
        assert!(receiver.try_recv().is_err(), "not yet");
        steps.let_go(0);
        assert_eq!(receiver.recv_timeout(LONG), Ok("theirs"));
        after.wait(LONG).expect("it goes on");
        drop((own, steps, theirs));
    }
}

/// Our device with the number that a stranger's has.
fn devices_with_number(engine: &Engine, theirs: &Device) -> Device {
    let same = engine.devices().into_iter().find(|device| device.id() == theirs.id());
    same.expect("numbers begin at 0 in each engine")
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
            // It has signalled, or there are no such files.
            Err(Error::Unsupported { .. }) => continue,
            Err(error) => panic!("{}: {error}", device.name()),
        };
        assert!(exports, "{}: it says that it cannot", device.name());
        made += 1;
        let back = Fence::from_sync_file(file).expect("a sync file");
        back.wait(LONG).expect("it signals");
        assert!(back.is_signalled().expect("no error"));
        assert_eq!(back.device(), None);
        point.wait(LONG).expect("its point has been reached");
        let again = back.to_sync_file().expect("another fd of the same");
        Fence::from_sync_file(again).and_then(|fence| fence.wait(LONG)).expect("signalled");
        // Anybody's queue can come after it.
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
