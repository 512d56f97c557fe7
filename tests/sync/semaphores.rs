//! What a submission waits for on other devices: each of them once, by a semaphore that it imports.
#![expect(unsafe_code, reason = "commands of the test's own")]

use ash::vk;
use peerbuf::device::Call;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, Fence, Mapping, Scope, WaitRoute,
};

use crate::common::{LONG, Rig};

/// Devices with a large buffer each, to give them work that takes a while. A queue that a test holds does
/// not do here: nobody knows what an application's own submissions wait for, so a semaphore that is signalled
/// once is never put behind them.
struct Busy {
    devices: Vec<Device>,
    large: Vec<Mapping>,
}

impl Busy {
    fn new(engine: &Engine, devices: Vec<Device>) -> Self {
        let map = |device: &Device| {
            let large = BufferDescriptor::new(8 << 20).name("large");
            let large = engine.create_buffer(device, large).expect("a buffer");
            let seat = large.attach(device).expect("a seat");
            seat.map(Access::Write).expect("mapped")
        };
        let large = devices.iter().map(map).collect();
        Self { devices, large }
    }

    /// How much a device gets to do before the others look at it. The test goes on until the device is still at
    /// work then, since a busy machine may take its time between the two.
    fn loads() -> impl Iterator<Item = u32> {
        [1, 1, 2, 4, 8, 16, 32, 64, 128].into_iter().chain(std::iter::repeat(256))
    }

    /// Gives a device `load` times something to do.
    fn load(&self, engine: &Engine, at: usize, load: u32) -> Fence {
        (1..load).for_each(|_| drop(self.work(engine, at)));
        self.work(engine, at)
    }

    /// Gives a device something to do.
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

/// Calls `submit` when the others have something to do, and counts the semaphores that are taken in.
fn imported(engine: &Engine, submit: impl FnOnce() -> Fence) -> u64 {
    let before = engine.calls().made(Call::ImportSemaphoreFd);
    let after = submit();
    let imported = engine.calls().made(Call::ImportSemaphoreFd) - before;
    after.wait(LONG).expect("it goes on");
    imported
}

fn is_by_fd(engine: &Engine, source: &Device, target: &Device) -> bool {
    let route = engine.wait_route(source, target).expect("ours");
    matches!(route, WaitRoute::SyncFd | WaitRoute::OpaqueFd)
}

/// upstream: `unwrap_merge_duplicate`, `unwrap_merge_seqno`, `unwrap_merge_order`: of the points that a
/// submission comes after, each other device is waited for once, whatever was said how often.
#[test]
fn a_device_waits_once_for_each_other_one() {
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
                // Each order once; more often only until the device was at work.
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

/// upstream: `unwrap_merge_duplicate`, where it is met: one submission writes several buffers, another
/// device reads them all
#[test]
fn a_submission_that_wrote_many_buffers_is_one_to_wait_for() {
    const COUNT: usize = 5;
    let rig = Rig::new();
    let engine = rig.engine();
    let busy = Busy::new(engine, rig.twice_each());
    let devices = busy.devices.clone();
    let create =
        |_| engine.create_buffer(&devices[0], BufferDescriptor::new(4096)).expect("a buffer");
    let buffers: Vec<_> = (0..COUNT).map(create).collect();
    // All sit down before anybody maps, so that nothing has to move later.
    let attach_all = |device: &Device| -> Vec<_> {
        buffers.iter().map(|buffer| buffer.attach(device).expect("a seat")).collect()
    };
    let map_all = |seats: &Vec<Attachment>| -> Vec<_> {
        seats.iter().map(|seat| seat.map(Access::ReadWrite).expect("mapped")).collect()
    };
    let seats: Vec<_> = devices.iter().map(attach_all).collect();
    let mappings: Vec<_> = seats.iter().map(map_all).collect();
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

/// A submission that cannot wait for everything waits for nothing, and what it had taken in is given back:
/// the validation layer counts the semaphores when the devices go.
#[test]
fn a_submission_that_fails_half_way_keeps_no_semaphores() {
    let rig = Rig::new();
    let engine = rig.engine();
    for adapter in rig.all().iter().map(Device::adapter) {
        let open = |_| rig.open(adapter);
        let busy = Busy::new(engine, (0..3).map(open).collect());
        let [one, other, target] = [0, 1, 2].map(|at| &busy.devices[at]);
        let by_fd = is_by_fd(engine, one, target) && is_by_fd(engine, other, target);
        let mut failed = false;
        // Both must still be at work when the third one submits: they get more to do until they are.
        for load in Busy::loads() {
            let points = [0, 1].map(|at| busy.load(engine, at, load));
            // One is taken in with two semaphores; for the other one neither a semaphore of its own nor the
            // bridge's can be had. Not for want of memory, which would be made free.
            for nth in [3, 4] {
                engine.calls().fail_nth(Call::CreateSemaphore, nth, vk::Result::ERROR_UNKNOWN);
            }
            let after = engine.submit(target, |submission| {
                points.iter().for_each(|point| submission.after(point));
                Ok(())
            });
            engine.calls().clear_faults();
            failed |= after.is_err();
            points.iter().for_each(|point| point.wait(LONG).expect("nothing has happened to it"));
            if failed || !by_fd {
                break;
            }
        }
    }
}
