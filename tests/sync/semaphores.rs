//! How a submission waits for work of other devices: once for each device, by an imported semaphore.
#![expect(unsafe_code, reason = "commands of the test's own")]

use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, Fence, Mapping, Scope, WaitRoute,
};

use crate::common::{LONG, Rig};

/// Devices with a large buffer each, to give them work that takes a while. Holding a queue does not work here:
/// the engine does not know what an application's own submissions wait for, so it never signals a one-shot
/// semaphore behind them.
struct Busy {
    devices: Vec<Device>,
    large: Vec<Mapping>,
}

impl Busy {
    fn new(engine: &Engine, devices: Vec<Device>) -> Self {
        let map = |device: &Device| {
            let large = BufferDescriptor::new(8 << 20).name("large");
            let large = engine.create_buffer(device, large).expect("a buffer");
            let attachment = large.attach(device).expect("an attachment");
            attachment.map(Access::Write).expect("mapped")
        };
        let large = devices.iter().map(map).collect();
        Self { devices, large }
    }

    /// Increasing amounts of work for a device. A busy machine may be slow between submission and check, so a test
    /// increases the work until the device is still busy then.
    fn loads() -> impl Iterator<Item = u32> {
        [1, 1, 2, 4, 8, 16, 32, 64, 128].into_iter().chain(std::iter::repeat(256))
    }

    /// Submits `load` pieces of work to a device.
    fn load(&self, engine: &Engine, at: usize, load: u32) -> Fence {
        (1..load).for_each(|_| drop(self.work(engine, at)));
        self.work(engine, at)
    }

    /// Submits one piece of work to a device.
    fn work(&self, engine: &Engine, at: usize) -> Fence {
        let raw = self.devices[at].raw();
        let work = engine.submit(&self.devices[at], |submission| {
            let view = submission.uses(&self.large[at], Access::Write, Scope::TRANSFER)?;
            let record = move |commands| {
                for word in 0..8 {
                    // SAFETY: a live buffer, and a range that is the mapping's.
                    unsafe {
                        raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, word);
                    }
                }
            };
            // SAFETY: it records valid commands on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        });
        work.expect("a submission")
    }
}

/// Calls `submit` while the other devices have work, and counts the semaphores that it imports.
fn imported(engine: &Engine, submit: impl FnOnce() -> Fence) -> u64 {
    let before = engine.calls().made(Call::ImportSemaphoreFd);
    let after = submit();
    let imported = engine.calls().made(Call::ImportSemaphoreFd) - before;
    after.wait(LONG).expect("it ends");
    imported
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
    let busy = Busy::new(engine, rig.twice_each());
    let devices = busy.devices.clone();
    for (from, source) in devices.iter().enumerate() {
        for target in &devices {
            let what = format!("{} to {}", source.name(), target.name());
            let by_fd = is_by_fd(engine, source, target);
            let orders = [[0, 1, 2, 3, 3], [3, 3, 2, 1, 0], [2, 3, 0, 3, 1], [3, 3, 3, 3, 3]];
            let mut seen = false;
            for (nth, load) in Busy::loads().enumerate() {
                // Each order once; more rounds only until the device was busy.
                if nth >= orders.len() && (seen || !by_fd) {
                    break;
                }
                let order = orders[nth % orders.len()];
                let points: Vec<_> = (0..4).map(|_| busy.load(engine, from, load)).collect();
                let imported = imported(engine, || {
                    let after = engine.submit(target, |submission| {
                        order.iter().for_each(|&at| submission.after(&points[at]));
                        Ok(())
                    });
                    after.expect("a submission")
                });
                seen |= imported > 0;
                assert!(imported <= u64::from(by_fd), "{what}: {imported} for one device");
                assert!(
                    points.iter().all(|point| point.is_signalled().expect("no error")),
                    "{what}"
                );
            }
        }
    }
}

/// upstream: `unwrap_merge_duplicate`: one submission writes several buffers, another device reads all of them
#[test]
fn many_buffers_of_one_submission_cost_one_wait() {
    const COUNT: usize = 5;
    let rig = Rig::new();
    let engine = rig.engine();
    let busy = Busy::new(engine, rig.twice_each());
    let devices = busy.devices.clone();
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
            let what = format!("{} to {}", writer.name(), reader.name());
            let by_fd = is_by_fd(engine, writer, reader);
            let mut seen = false;
            for load in Busy::loads() {
                busy.load(engine, from, load);
                let written = use_all(from, true);
                let imported = imported(engine, || use_all(to, false));
                assert!(
                    imported <= u64::from(by_fd),
                    "{what}: {imported} waits for one submission"
                );
                assert!(written.is_signalled().expect("no error"), "{what}");
                seen |= imported > 0;
                if seen || !by_fd {
                    break;
                }
            }
        }
    }
}

/// A submission that cannot wait for all its dependencies fails and releases the semaphores that it imported.
/// The validation layer reports those that are still alive when the devices are destroyed.
#[test]
fn a_failed_submission_keeps_no_semaphores() {
    let rig = Rig::new();
    let engine = rig.engine();
    for adapter in rig.all().iter().map(Device::adapter) {
        let open = |_| rig.open(adapter);
        let busy = Busy::new(engine, (0..3).map(open).collect());
        let [one, other, target] = [0, 1, 2].map(|at| &busy.devices[at]);
        let by_fd = is_by_fd(engine, one, target) && is_by_fd(engine, other, target);
        let mut failed = false;
        // Both must still be busy when the third device submits: they get more work until they are.
        for load in Busy::loads() {
            let points = [0, 1].map(|at| busy.load(engine, at, load));
            // The wait for one device takes two semaphores. For the other device, creating a semaphore fails, and so
            // does that of the bridge. The error is not out of memory, which would be retried.
            for nth in [3, 4] {
                engine.calls().fail_nth(Call::CreateSemaphore, nth, vk::Result::ERROR_UNKNOWN);
            }
            let after = engine.submit(target, |submission| {
                points.iter().for_each(|point| submission.after(point));
                Ok(())
            });
            engine.calls().clear_faults();
            failed |= after.is_err();
            points.iter().for_each(|point| point.wait(LONG).expect("not affected"));
            if failed || !by_fd {
                break;
            }
        }
    }
}
