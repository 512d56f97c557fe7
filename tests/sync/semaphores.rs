//! How a submission waits for work of other devices: once for each device, by an imported semaphore.
//!
//! The work has finished when the next device submits, and the engine is told to treat it as running. So every
//! wait is counted, however fast the machine is. Holding a queue does not work here: the engine does not know what
//! an application's own submissions wait for, so it never signals a one-shot semaphore behind them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ash::vk;
use peerbuf::device::Call;
use peerbuf::{Access, Attachment, BufferDescriptor, Device, Engine, Error, Fence, WaitRoute};

use crate::common::app::App;
use crate::common::{LONG, Rig};

/// Submits a piece of work to a device, and waits until it has finished.
fn finished(engine: &Engine, device: &Device) -> Fence {
    let work = engine.submit(device, |_| Ok(())).expect("a submission");
    work.wait(LONG).expect("it ends");
    work
}

/// Calls `submit` while finished work counts as running.
fn while_busy<R>(engine: &Engine, submit: impl FnOnce() -> R) -> R {
    engine.calls().set_pretend_busy(true);
    let submitted = submit();
    engine.calls().set_pretend_busy(false);
    submitted
}

/// The semaphores that a submission exported and imported.
#[derive(Debug, PartialEq, Eq)]
struct Shared {
    exported: u64,
    imported: u64,
}

impl Shared {
    /// Counts those of `submit`, which runs while finished work counts as running.
    fn by(engine: &Engine, submit: impl FnOnce() -> Fence) -> Self {
        let made =
            || [Call::GetSemaphoreFd, Call::ImportSemaphoreFd].map(|c| engine.calls().made(c));
        let before = made();
        let after = while_busy(engine, submit);
        let now = made();
        after.wait(LONG).expect("it ends");
        Self { exported: now[0] - before[0], imported: now[1] - before[1] }
    }

    /// One of each if the target waits for the source by an fd, else none.
    fn one(by_fd: bool) -> Self {
        Self { exported: by_fd.into(), imported: by_fd.into() }
    }
}

fn is_by_fd(engine: &Engine, source: &Device, target: &Device) -> bool {
    let route = engine.wait_route(source, target).expect("devices of this engine");
    matches!(route, WaitRoute::SyncFd | WaitRoute::OpaqueFd)
}

/// upstream: `unwrap_merge_duplicate`, `unwrap_merge_seqno`, `unwrap_merge_order`: a submission that depends on
/// several points of a device waits for that device once, in whatever order the points were given.
#[test]
fn a_device_waits_once_for_each_other_device() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let mut met = 0;
    for source in &devices {
        for target in &devices {
            let by_fd = is_by_fd(engine, source, target);
            let points = [0; 4].map(|_| finished(engine, source));
            let orders = [[0, 1, 2, 3, 3], [3, 3, 2, 1, 0], [2, 3, 0, 3, 1], [3, 3, 3, 3, 3]];
            for order in orders {
                let shared = Shared::by(engine, || {
                    let after = engine.submit(target, |submission| {
                        order.iter().for_each(|&at| submission.after(&points[at]));
                        Ok(())
                    });
                    after.expect("a submission")
                });
                let what = format!("{} to {}, {order:?}", source.name(), target.name());
                assert_eq!(shared, Shared::one(by_fd), "{what}");
            }
            met += usize::from(by_fd);
        }
    }
    assert!(met > 0, "some devices wait by an fd");
}

/// upstream: `unwrap_merge_duplicate`: one submission writes several buffers, another device reads all of them
#[test]
fn many_buffers_of_one_submission_cost_one_wait() {
    const COUNT: usize = 5;
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.twice_each();
    let create =
        |_| engine.create_buffer(&devices[0], BufferDescriptor::new(4096)).expect("a buffer");
    let buffers: Vec<_> = (0..COUNT).map(create).collect();
    // All devices attach before any maps, so that no buffer has to move later.
    let attach_all = |device: &Device| -> Vec<_> {
        buffers.iter().map(|buffer| buffer.attach(device).expect("an attachment")).collect()
    };
    let map_all = |attachments: &Vec<Attachment>| -> Vec<_> {
        attachments
            .iter()
            .map(|attachment| attachment.map(Access::ReadWrite).expect("mapped"))
            .collect()
    };
    let attachments: Vec<_> = devices.iter().map(attach_all).collect();
    let mappings: Vec<_> = attachments.iter().map(map_all).collect();
    let use_all = |at: usize, write: bool| {
        let used = engine.submit(&devices[at], |submission| {
            mappings[at].iter().try_for_each(|mapping| {
                let used = if write { submission.write(mapping) } else { submission.read(mapping) };
                used.map(|_| ())
            })
        });
        used.expect("a submission")
    };
    for (from, writer) in devices.iter().enumerate() {
        for (to, reader) in devices.iter().enumerate() {
            let written = use_all(from, true);
            written.wait(LONG).expect("it ends");
            let shared = Shared::by(engine, || use_all(to, false));
            let by_fd = is_by_fd(engine, writer, reader);
            assert_eq!(shared, Shared::one(by_fd), "{} to {}", writer.name(), reader.name());
        }
    }
}

/// A queue that the application uses itself gives binary semaphores if the application promises that its submissions
/// wait for nothing that is not submitted; else the bridge signals what others wait for.
#[test]
fn a_queue_of_the_application_gives_semaphores_if_its_waits_are_submitted() {
    let rig = Rig::new();
    let mut met = 0;
    for twin in rig.all() {
        for promised in [false, true] {
            let app = App::new(&rig, twin.adapter(), |_| true);
            let engine = rig.external_engine();
            let source = app.try_join(&rig, &engine, |facts| facts.waits_are_submitted = promised);
            let source = source.expect("it can compute");
            let target = rig.open_on(&engine, &twin);
            if !is_by_fd(&engine, &source, &target) {
                continue;
            }
            met += 1;
            source.with_queue(|_| ());
            let point = finished(&engine, &source);
            let shared = Shared::by(&engine, || {
                let after = engine.submit(&target, |submission| {
                    submission.after(&point);
                    Ok(())
                });
                after.expect("a submission")
            });
            // An opaque fd is exported before it is known whether the semaphore may be signalled.
            assert_eq!(shared.imported, u64::from(promised), "{}", source.name());
        }
    }
    assert!(met > 0, "some devices wait by an fd");
}

/// A submission that cannot wait for all its dependencies fails and releases the semaphores that it imported.
/// The validation layer reports those that are still alive when the devices are destroyed.
#[test]
fn a_failed_submission_keeps_no_semaphores() {
    let rig = Rig::new();
    let engine = rig.engine();
    for adapter in rig.all().iter().map(Device::adapter) {
        let [one, other, target] = [0; 3].map(|_| rig.open(adapter));
        let by_fd = is_by_fd(engine, &one, &target);
        let by_bridge = engine.wait_route(&one, &target).expect("both") == WaitRoute::Bridge;
        let points = [&one, &other].map(|source| finished(engine, source));
        // The wait for one device takes two semaphores, by an fd and by the bridge. For the other device, creating a
        // semaphore fails, and so does that of the bridge. The error is not out of memory, which would be retried.
        for nth in [3, 4] {
            engine.calls().fail_nth(Call::CreateSemaphore, nth, vk::Result::ERROR_UNKNOWN);
        }
        let imports = engine.calls().made(Call::ImportSemaphoreFd);
        let after = while_busy(engine, || {
            engine.submit(&target, |submission| {
                points.iter().for_each(|point| submission.after(point));
                Ok(())
            })
        });
        let imported = engine.calls().made(Call::ImportSemaphoreFd) - imports;
        let pending = engine.calls().clear_faults();
        let name = adapter.name();
        if !by_fd && !by_bridge {
            after.and_then(|fence| fence.wait(LONG)).expect("each timeline takes one semaphore");
            continue;
        }
        let error = after.expect_err("all ways to wait for the second device fail");
        assert!(
            matches!(error, Error::Vulkan { code: vk::Result::ERROR_UNKNOWN, .. }),
            "{name}: {error:?}"
        );
        if by_fd {
            assert_eq!((imported, pending), (1, false), "{name}: the wait for the first device");
        }
    }
}

/// An application's closure that panics while it records leaves neither semaphores nor a command buffer behind, and the
/// next submission begins a command buffer that is not being recorded. The validation layer would report both.
#[test]
#[expect(unsafe_code, reason = "records into a command buffer")]
fn a_recording_that_panics_keeps_no_semaphores_and_no_command_buffer() {
    let rig = Rig::new();
    let engine = rig.engine();
    let mut met = 0;
    for adapter in rig.all().iter().map(Device::adapter) {
        let [source, target] = [0; 2].map(|_| rig.open(adapter));
        met += usize::from(is_by_fd(engine, &source, &target));
        let point = finished(engine, &source);
        let submit = |panics: bool| {
            engine.submit(&target, |submission| {
                submission.after(&point);
                let record = |_| assert!(!panics, "the application's");
                // SAFETY: it records nothing.
                unsafe { submission.record(record) };
                Ok(())
            })
        };
        for _ in 0..3 {
            let attempt = AssertUnwindSafe(|| while_busy(engine, || drop(submit(true))));
            catch_unwind(attempt).expect_err("the panic is the caller's");
            engine.calls().set_pretend_busy(false);
            let made = while_busy(engine, || submit(false)).expect("the queue goes on");
            made.wait(LONG).expect("it ends");
        }
    }
    assert!(met > 0, "some devices wait by an fd");
}
