//! Nothing is freed, and nothing is written over, under a fence that is pending: not by a move, not by a
//! drop, not by the host. A device is held up, so that its work is pending for as long as the test wants;
//! whoever takes memory meanwhile writes other bytes into it.

use std::sync::Arc;

use crate::common::gate::Gate;
use crate::common::recorder::Recorder;
use crate::common::{self, Rig, bytes};
use peerbuf::device::Call;
use peerbuf::{Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, SharedBuffer};

/// Of a size class that no other test fills, so that the next buffer takes the next free slot.
const SIZE: u64 = 20_000;

fn create(engine: &Engine, home: &Device) -> SharedBuffer {
    engine.create_buffer(home, BufferDescriptor::new(SIZE)).expect("there is room")
}

fn copy(engine: &Engine, from: &SharedBuffer, to: &SharedBuffer) {
    drop(engine.copy(from, to, CopyRegion::first(SIZE)).expect("a copy"));
}

/// Buffers that take whatever memory is free, each with bytes of its own.
struct Squatters(Vec<SharedBuffer>);

impl Squatters {
    const COUNT: u64 = 8;

    fn settle(engine: &Engine, home: &Device) -> Self {
        let all = (0..Self::COUNT).map(|number| {
            let buffer = create(engine, home);
            bytes::write(&buffer, 100 + number);
            buffer
        });
        Self(all.collect())
    }

    fn check(&self) {
        for (buffer, number) in self.0.iter().zip(0..) {
            bytes::assert_sequence(buffer, 100 + number, "a squatter");
        }
    }
}

/// Does `work` while a gate is shut, which opens when `work` is done or waits for a device.
fn while_shut(engine: &Engine, gate: Gate, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let waits = || engine.calls().made(Call::WaitSemaphores);
        let before = waits();
        let worker = scope.spawn(work);
        while !worker.is_finished() && waits() == before {
            std::thread::yield_now();
        }
        drop(gate);
        worker.join().expect("no panic");
    });
}

/// Twins of every adapter, with all routes between them proved and all their tools made.
fn with_twins(test: impl Fn(&Engine, [&Device; 2])) {
    let rig = Rig::new();
    for one in rig.all() {
        let two = rig.open(&one.adapter().clone());
        let (a, b) = (create(rig.engine(), &one), create(rig.engine(), &two));
        copy(rig.engine(), &a, &b);
        a.migrate(DomainId::System).expect("nobody holds it");
        bytes::assert_zero(&b, "nobody has written yet");
        drop((a, b));
        test(rig.engine(), [&one, &two]);
    }
}

#[test]
fn what_another_device_reads_is_not_freed_by_a_move() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 1);
        let gate = Gate::close(far);
        // The destination's home copies, so the source is being read there.
        copy(engine, &source, &target);
        while_shut(engine, gate, || {
            source.migrate(DomainId::System).expect("nobody holds it");
            Squatters::settle(engine, near).check();
        });
        bytes::assert_sequence(&target, 1, "what was copied");
        bytes::assert_sequence(&source, 1, "what was moved");
    });
}

#[test]
fn what_a_move_reads_is_not_freed_before_it_has() {
    with_twins(|engine, [near, far]| {
        for to in [DomainId::System, DomainId::Vram(far.id())] {
            for imported in [false, true] {
                let buffer = create(engine, near);
                bytes::write(&buffer, 2);
                let recorder = Recorder::new(true);
                let importer = Arc::clone(&recorder) as _;
                let seat = imported.then(|| buffer.attach_dynamic(far, importer).expect("a seat"));
                // A mapping of the old place, which is the last to let go of it.
                let old = seat.as_ref().map(|seat| seat.map(Access::Read).expect("mapped"));
                let gates = [Gate::close(near), Gate::close(far)];
                let [one, other] = gates;
                while_shut(engine, one, || {
                    buffer.migrate(to).expect("nobody holds it");
                    drop(old);
                    let squatters = Squatters::settle(engine, near);
                    drop(other);
                    squatters.check();
                });
                bytes::assert_sequence(&buffer, 2, "what was moved");
                assert_eq!(recorder.told().len(), usize::from(imported));
            }
        }
    });
}

#[test]
fn what_is_read_is_not_freed_by_a_drop() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 3);
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        drop(source);
        let squatters = Squatters::settle(engine, near);
        drop(gate);
        bytes::assert_sequence(&target, 3, "what was copied");
        squatters.check();
    });
}

#[test]
fn what_is_written_is_not_given_to_another() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 4);
        bytes::write(&target, 5);
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        drop(target);
        // At home where the copy still goes.
        let squatters = Squatters::settle(engine, far);
        drop(gate);
        squatters.check();
        bytes::assert_sequence(&source, 4, "only read");
    });
}

#[test]
fn the_host_writes_behind_those_who_read() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 6);
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        while_shut(engine, gate, || bytes::write(&source, 7));
        bytes::assert_sequence(&target, 6, "before the host wrote");
        bytes::assert_sequence(&source, 7, "after");
    });
}

#[test]
fn a_device_writes_behind_a_copy_and_a_move() {
    with_twins(|engine, [near, far]| {
        let (source, target) = (create(engine, near), create(engine, far));
        bytes::write(&source, 8);
        let seat = source.attach(near).expect("its own");
        let gate = Gate::close(far);
        copy(engine, &source, &target);
        while_shut(engine, gate, || {
            seat.map(Access::Write).and_then(|mapping| mapping.fill(9)).expect("a pass");
        });
        bytes::assert_sequence(&target, 8, "before it wrote");
        common::assert_pattern(&seat, 9, "after");

        let gate = Gate::close(near);
        let moved = source.migrate(DomainId::System);
        while_shut(engine, gate, || {
            moved.expect("nobody holds it");
            bytes::write(&source, 10);
        });
        bytes::assert_sequence(&source, 10, "the host was last");
        drop(seat);
    });
}
