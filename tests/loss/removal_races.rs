//! Removals of a device that other threads are using.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::commands;
use crate::common::{Rig, bytes};
use peerbuf::observe::Object;
use peerbuf::{
    Access, BufferDescriptor, Device, DeviceId, DomainId, Engine, Error, Placement, Result,
};

const SIZE: u64 = 4096;

/// The device with this number, until it has left.
fn find(engine: &Engine, id: DeviceId) -> Option<Device> {
    engine.devices().into_iter().find(|device| device.id() == id)
}

/// Whether an operation may end so: the device leaves, has left, or is unplugged since a removal has failed.
fn check<T>(result: Result<T>) {
    match result {
        Ok(_) | Err(Error::DeviceRemoved(_)) => {}
        // The code of an unplugged device.
        Err(Error::DeviceLost { call: "unplug", .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
}

/// Creates buffers whose home is the device.
fn create(engine: &Engine, device: &Device, round: u32) {
    let place = if round.is_multiple_of(2) { Placement::System } else { Placement::VramOrSystem };
    let descriptor = BufferDescriptor::new(SIZE).placement(place);
    check(engine.create_buffer(device, descriptor));
}

/// Has both devices write a buffer of the other one in turn.
fn share(engine: &Engine, device: &Device, other: &Device) {
    let work = || {
        let descriptor = BufferDescriptor::new(SIZE).placement(Placement::System);
        let buffer = engine.create_buffer(other, descriptor)?;
        let attachments = [buffer.attach(other)?, buffer.attach(device)?];
        for (attachment, user) in attachments.iter().zip([other, device]) {
            let mapping = attachment.map(Access::ReadWrite)?;
            commands::fill(engine, user, &mapping, 7)?;
        }
        Ok(())
    };
    check(work());
}

/// Looks the device up in all ways that there are.
fn look_up(engine: &Engine, device: &Device, id: DeviceId) {
    check(engine.usage(DomainId::Vram(id)));
    check(engine.imports(device));
    drop(engine.report());
}

#[test]
fn threads_that_use_a_device_while_it_is_removed_succeed_or_learn_that_it_has_left() {
    const ROUNDS: u32 = 4;
    /// Removals that may fail, since other threads have handles.
    const TRIES: u32 = 2;
    let rig = Rig::new();
    let [other, first] = rig.two_of_one_adapter();
    let adapter = other.adapter().clone();
    rig.engine().prove_routes(&[other.clone(), first.clone()]).expect("routes");
    let kept = rig.engine().create_buffer(&other, BufferDescriptor::new(SIZE)).expect("a buffer");
    bytes::write(&kept, 3);
    let mut first = Some(first);
    for round in 0..ROUNDS {
        let id = first.take().unwrap_or_else(|| rig.open(&adapter)).id();
        let stop = AtomicBool::new(false);
        let (engine, other) = (rig.engine(), &other);
        let until_gone = |work: &dyn Fn(&Device, u32)| {
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                let Some(device) = find(engine, id) else { return };
                work(&device, turn);
                turn += 1;
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| until_gone(&|device, turn| create(engine, device, turn)));
            scope.spawn(|| until_gone(&|device, _| share(engine, device, other)));
            scope.spawn(|| until_gone(&|device, _| look_up(engine, device, id)));
            for _ in 0..TRIES {
                match find(engine, id).map(|device| engine.remove_device(device)) {
                    Some(Err(Error::DeviceInUse(_))) => {}
                    Some(Ok(())) => break,
                    unexpected => panic!("round {round}: {unexpected:?}"),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        if let Some(device) = find(engine, id) {
            rig.engine().remove_device(device).expect("no thread uses it any more");
        }
        assert_eq!(rig.engine().devices(), std::slice::from_ref(other), "round {round}");
        assert_eq!(rig.engine().live().count(Object::Device), 1, "round {round}");
        bytes::assert_sequence(&kept, 3, "of the other device");
    }
}

#[test]
fn a_removal_that_fails_hides_the_device_from_no_look_up() {
    let rig = Rig::new();
    let [device, _other] = rig.two_of_one_adapter();
    let (engine, id) = (rig.engine(), device.id());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut looks, mut hidden) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                looks += 1;
                hidden += u32::from(!engine.devices().iter().any(|device| device.id() == id));
            }
            (looks, hidden)
        });
        for _ in 0..3 {
            let error = engine.remove_device(device.clone()).expect_err("this thread has a handle");
            assert!(matches!(error, Error::DeviceInUse(_)), "{error}");
        }
        over.store(true, Ordering::Relaxed);
        let (looks, hidden) = looking.join().expect("no panic");
        assert_eq!(hidden, 0, "of {looks} looks");
    });
    engine.remove_device(device).expect("the last handle");
}
