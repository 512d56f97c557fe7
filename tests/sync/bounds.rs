//! Bounds: a wait goes on while there is progress, and ends when there is none.

use std::time::Duration;

use peerbuf::{Access, BufferDescriptor, DomainId, Error, Fence};

use crate::common::bound::{besides, with_bound};
use crate::common::commands::fill;
use crate::common::gate::Gate;
use crate::common::{LONG, bytes};

/// How many submissions a wait is behind. Together they take longer than the bound, each a part of it.
const STEPS: usize = 6;

/// Work that takes longer than the bound is no error while its timeline makes steps.
#[test]
fn a_wait_goes_on_while_the_timeline_makes_steps() {
    with_bound(|rig, bound| {
        let engine = rig.engine();
        for device in rig.all() {
            let buffer =
                engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
            let mapping = besides(|| {
                let attachment = buffer.attach(&device).expect("attached");
                let mapping = attachment.map(Access::Write).expect("mapped");
                mapping.view().expect("valid");
                mapping
            });
            // Each submission is behind a gate of its own.
            let gates: Vec<(Gate, Fence)> = (0..STEPS)
                .map(|_| {
                    let gate = Gate::close(&device);
                    (gate, fill(engine, &device, &mapping, 7).expect("a submission"))
                })
                .collect();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| buffer.host_access(Access::Read).map(drop));
                for (gate, fence) in &gates {
                    std::thread::sleep(bound / 4);
                    gate.unblock();
                    fence.wait(LONG).expect("it is next");
                }
                // A step that the machine delays by more than the bound is none in time.
                let ended = waiting.join().expect("no panic");
                besides(|| ended.expect("there was progress"));
            });
        }
    });
}

/// Without a step the wait ends, and a timeout that the caller gives is exact in all cases.
#[test]
fn a_wait_without_a_step_ends() {
    with_bound(|rig, _| {
        let engine = rig.engine();
        for device in rig.all() {
            let buffer =
                engine.create_buffer(&device, BufferDescriptor::new(4096)).expect("a buffer");
            let mapping = besides(|| {
                bytes::write(&buffer, 1);
                let attachment = buffer.attach(&device).expect("attached");
                let mapping = attachment.map(Access::Write).expect("mapped");
                mapping.view().expect("valid");
                mapping
            });
            let gate = Gate::close(&device);
            let fence = fill(engine, &device, &mapping, 7).expect("a submission");
            let ended = buffer.host_access(Access::Read).expect_err("nothing moves");
            assert!(matches!(ended, Error::Timeout { .. }), "{ended}");
            assert!(matches!(fence.wait(Duration::ZERO), Err(Error::Timeout { .. })));
            gate.open();
            fence.wait(LONG).expect("it ends");
            assert_eq!(buffer.domain(), DomainId::Vram(device.id()));
        }
    });
}
