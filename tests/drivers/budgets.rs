//! Budgets that drivers report, and what is evicted for them.

use peerbuf::{BufferDescriptor, DomainId, Placement};

use crate::common::until::each_second;
use crate::common::{LONG, Rig, bytes, wait_idle};
use crate::under;

const SIZE: u64 = 1 << 20;
const BUDGET: u64 = 4096;

/// A move to system memory frees nothing of an integrated device's memory, and the device may not import for it: one heap
/// has both, and its budget is polled again at each failure.
#[test]
fn an_eviction_for_the_budget_of_an_integrated_device_starts_no_further_one() {
    under("+integrated=true+heap_size=512M", || {
        let rig = Rig::new();
        let engine = rig.engine();
        engine.calls().set_unmappable_device_memory(true);
        for device in rig.all() {
            let create = |seed| {
                let buffer = engine.create_buffer(&device, BufferDescriptor::new(SIZE));
                let buffer = buffer.expect("there is room");
                bytes::write(&buffer, seed);
                buffer
            };
            let all: Vec<_> = (1..=8).map(create).collect();
            wait_idle(&[&device]);
            engine.calls().set_heap_budget(Some((BUDGET, 0)));
            let domain = DomainId::Vram(device.id());
            let usage = || engine.usage(domain).expect("of this engine");
            each_second(engine, || (), usage, |now| now.budget == BUDGET);
            let system = BufferDescriptor::new(256).placement(Placement::System);
            engine.create_buffer(&device, system).expect("there is room");
            let work = engine.submit(&device, |_| Ok(()));
            work.and_then(|fence| fence.wait(LONG)).expect("it ends");
            engine.calls().set_heap_budget(None);
            for (seed, buffer) in (1..).zip(&all) {
                bytes::assert_sequence(buffer, seed, device.name());
            }
        }
    });
}
