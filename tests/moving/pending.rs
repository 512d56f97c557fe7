//! Memory with a pending fence is neither freed nor overwritten: not by a move, not by a drop, not by the host.
//!
//! A gate blocks a device, so that its work stays pending. Buffers that reuse memory meanwhile write other bytes
//! into it.

use std::sync::Arc;

use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::until::until;
use crate::common::{self, Rig, bytes};
use peerbuf::device::Call;
use peerbuf::{Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, SharedBuffer};

/// A size class that no other test fills, so that the next buffer takes the next free slot.
const SIZE: u64 = 20_000;

fn create(engine: &Engine, home: &Device) -> SharedBuffer {
    engine.create_buffer(home, BufferDescriptor::new(SIZE)).expect("there is room")
}

fn copy(engine: &Engine, from: &SharedBuffer, to: &SharedBuffer) {
    drop(engine.copy(from, to, CopyRegion::first(SIZE)).expect("a copy"));
}

/// Buffers that take the free memory, each with its own bytes.
struct Reusers(Vec<SharedBuffer>);

impl Reusers {
    const COUNT: u64 = 8;

    fn create(engine: &Engine, home: &Device) -> Self {
        let all = (0..Self::COUNT).map(|number| {
            let buffer = create(engine, home);
            bytes::write(&buffer, 100 + number);
            buffer
        });
        Self(all.collect())
    }

    fn check(&self) {
        for (buffer, number) in self.0.iter().zip(0..) {
            bytes::assert_sequence(buffer, 100 + number, "a buffer in reused memory");
        }
    }
}

/// Runs `work` while a gate is closed. The gate opens when `work` is done or waits for a device.
fn while_closed(engine: &Engine, gate: Gate, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let waits = || engine.calls().made(Call::WaitSemaphores);
        let before = waits();
        let worker = scope.spawn(work);
        until(|| (worker.is_finished(), waits()), |&(finished, waits)| finished || waits != before);
        drop(gate);
        worker.join().expect("no panic");
    });
}

/// Runs `test` with two devices of every adapter, whose routes are proved and whose tools exist.
fn with_twins(test: impl Fn(&Engine, [&Device; 2])) {
    let rig = Rig::new();
    for one in rig.all() {
        let two = rig.open(&one.adapter().clone());
        let (a, b) = (create(rig.engine(), &one), create(rig.engine(), &two));
        copy(rig.engine(), &a, &b);
        a.migrate(DomainId::System).expect("not busy");
        bytes::assert_zero(&b, "nothing was written");
        drop((a, b));
        test(rig.engine(), [&one, &two]);
    }
}

#[test]
fn a_move_does_not_free_memory_that_a_device_reads() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 1);
        let gate = Gate::close(far);
        // The destination's home copies, so that device reads the source.
        copy(engine, &source, &target);
        while_closed(engine, gate, || {
            source.migrate(DomainId::System).expect("not busy");
            Reusers::create(engine, near).check();
        });
        bytes::assert_sequence(&target, 1, "what was copied");
        bytes::assert_sequence(&source, 1, "what was moved");
    });
}

#[test]
fn a_move_does_not_free_its_source_before_the_copy_ends() {
    with_twins(|engine, [near, far]| {
        for to in [DomainId::System, DomainId::Vram(far.id())] {
            for imported in [false, true] {
                let buffer = create(engine, near);
                bytes::write(&buffer, 2);
                let recorder = Recorder::new(true);
                let importer = Arc::clone(&recorder) as _;
                let attachment =
                    imported.then(|| buffer.attach_dynamic(far, importer).expect("attached"));
                // A mapping of the old backing, which is its last reference.
                let old = attachment
                    .as_ref()
                    .map(|attachment| attachment.map(Access::Read).expect("mapped"));
                let gates = [Gate::close(near), Gate::close(far)];
                let [one, other] = gates;
                while_closed(engine, one, || {
                    buffer.migrate(to).expect("not busy");
                    drop(old);
                    let reusers = Reusers::create(engine, near);
                    drop(other);
                    reusers.check();
                });
                bytes::assert_sequence(&buffer, 2, "what was moved");
                assert_eq!(recorder.invalidated().len(), usize::from(imported));
            }
        }
    });
}

#[test]
fn a_drop_does_not_free_memory_that_a_device_reads() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 3);
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        drop(source);
        let reusers = Reusers::create(engine, near);
        drop(gate);
        bytes::assert_sequence(&target, 3, "what was copied");
        reusers.check();
    });
}

#[test]
fn a_drop_does_not_recycle_memory_that_a_device_writes() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 4);
        bytes::write(&target, 5);
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        drop(target);
        // On the device to which the copy still writes. It copies what the host writes, if the host does not see its
        // memory.
        let mut reusers = None;
        while_closed(engine, gate, || reusers = Some(Reusers::create(engine, far)));
        reusers.expect("created").check();
        bytes::assert_sequence(&source, 4, "only read");
    });
}

#[test]
fn host_writes_wait_for_pending_reads() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 6);
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        while_closed(engine, gate, || bytes::write(&source, 7));
        bytes::assert_sequence(&target, 6, "before the host wrote");
        bytes::assert_sequence(&source, 7, "after");
    });
}

#[test]
fn device_writes_wait_for_a_copy_and_a_move() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 8);
        let attachment = source.attach(near).expect("its own");
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        while_closed(engine, gate, || {
            attachment.map(Access::Write).and_then(|mapping| mapping.fill(9)).expect("a pass");
        });
        bytes::assert_sequence(&target, 8, "before it wrote");
        common::assert_pattern(&attachment, 9, "after");

        let gate = Gate::close(near);
        let moved = source.migrate(DomainId::System);
        while_closed(engine, gate, || {
            moved.expect("not busy");
            bytes::write(&source, 10);
        });
        bytes::assert_sequence(&source, 10, "the host was last");
        drop(attachment);
    });
}
