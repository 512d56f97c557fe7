//! Objects may be dropped in any order. An object keeps what it needs alive.

use std::any::Any;
use std::sync::Arc;

use crate::common::{Rig, alive, bytes, fill, in_vm};
use peerbuf::{Access, BufferDescriptor, CopyRegion, Device, Engine, Placement};

/// The names of the related objects, each held by its own handle.
const PARTS: [&str; 10] = [
    "engine",
    "first device",
    "second device",
    "buffer",
    "first attachment",
    "second attachment",
    "mapping",
    "host access",
    "export",
    "fence",
];

fn parts(
    engine: Engine,
    first: Device,
    second: Device,
    placement: Placement,
) -> Vec<Option<Box<dyn Any>>> {
    let descriptor = BufferDescriptor::new(65_536).placement(placement);
    let other = engine.create_buffer(&first, descriptor.clone()).expect("a buffer");
    let buffer = engine.create_buffer(&first, descriptor).expect("a buffer");
    let export = buffer.export_foreign().expect("an fd");
    let near = buffer.attach(&first).expect("attached");
    let far = buffer.attach(&second).expect("attached");
    fill(&near, 1);
    let mapping = Arc::new(far.map(Access::ReadWrite).expect("mapped"));
    // A copy that may still be running when the first object is dropped.
    let fence = engine.copy(&buffer, &other, CopyRegion::first(65_536)).expect("a copy");
    drop(other);
    let access = buffer.host_access(Access::Read).expect("host access");
    let all: [Box<dyn Any>; PARTS.len()] = [
        Box::new(engine),
        Box::new(first),
        Box::new(second),
        Box::new(buffer),
        Box::new(near),
        Box::new(far),
        Box::new(mapping),
        Box::new(access),
        Box::new(export),
        Box::new(fence),
    ];
    all.into_iter().map(Some).collect()
}

/// Drop orders in which, for every two parts, each precedes the other once, and each part is first and last once.
fn orders() -> Vec<Vec<usize>> {
    let forward: Vec<usize> = (0..PARTS.len()).collect();
    let backward: Vec<usize> = forward.iter().rev().copied().collect();
    let rotate = |order: &[usize], by| {
        let mut order = order.to_vec();
        order.rotate_left(by);
        order
    };
    let rotations =
        (0..PARTS.len()).map(|by| if by % 2 == 0 { (&forward, by) } else { (&backward, by) });
    rotations.flat_map(|(order, by)| [rotate(order, by), rotate(order, PARTS.len() - by)]).collect()
}

fn check(placement: Placement, of_two_drivers: bool) {
    let rig = Rig::new();
    let devices = if of_two_drivers {
        let Some(devices) = rig.two_drivers() else { return };
        devices
    } else {
        rig.two_of_one_adapter()
    };
    // Emulated processors test a third of them.
    for order in orders().into_iter().step_by(if in_vm() { 3 } else { 1 }) {
        let engine = rig.external_engine();
        let live = Arc::clone(engine.live());
        let [first, second] = [&devices[0], &devices[1]].map(|twin| rig.open_on(&engine, twin));
        let mut parts = parts(engine, first, second, placement);
        for &part in &order {
            parts[part] = None;
        }
        let names: Vec<_> = order.iter().map(|&part| PARTS[part]).collect();
        assert_eq!(alive(&live), Vec::<String>::new(), "dropped in this order: {names:?}");
    }
}

#[test]
fn objects_may_be_dropped_in_any_order_on_one_driver() {
    check(Placement::Vram, false);
}

#[test]
fn objects_may_be_dropped_in_any_order_on_two_drivers() {
    check(Placement::System, true);
}

#[test]
fn buffers_work_after_the_engine_is_dropped() {
    let mut rig = Rig::new();
    let [first, second] = rig.two_of_one_adapter();
    let engine = rig.take_engine();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(4096)).expect("a buffer");
    let attachment = buffer.attach(&first).expect("attached");
    drop(engine);
    fill(&attachment, 9);
    let mapping = attachment.map(Access::Read).expect("mapped");
    assert!(mapping.verify(9).expect("a pass").is_clean());
    let late = buffer.attach(&second).expect("a device may still attach");
    drop(attachment);
    assert!(late.map(Access::Read).and_then(|m| m.verify(9)).expect("a pass").is_clean());
    bytes::write(&buffer, 1);
    bytes::assert_sequence(&buffer, 1, "without its engine");
    assert_eq!(buffer.home(), first);
    drop(buffer.export_foreign().expect_err("mapped, and in a slab"));
    drop((mapping, late));
    drop(buffer.export_foreign().expect("an fd"));
}

#[test]
fn attachments_and_guards_may_be_dropped_in_any_order() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let before = alive(rig.engine().live());
    // Every permutation of four.
    for order in (0..256usize).map(|n| [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6]) {
        let distinct: std::collections::HashSet<_> = order.iter().collect();
        if distinct.len() < order.len() {
            continue;
        }
        let descriptor = BufferDescriptor::new(4096);
        let buffer = rig.engine().create_buffer(device, descriptor).expect("a buffer");
        let attachment = buffer.attach(device).expect("attached");
        let mapping = attachment.map(Access::Write).expect("mapped");
        mapping.fill(1).expect("a pass");
        let access = buffer.host_access(Access::ReadWrite).expect("host access");
        let all: [Box<dyn Any>; 4] =
            [Box::new(buffer), Box::new(attachment), Box::new(mapping), Box::new(access)];
        let mut parts = all.map(Some);
        for part in order {
            parts[part] = None;
        }
    }
    rig.engine().trim();
    assert_eq!(alive(rig.engine().live()), before);
}
