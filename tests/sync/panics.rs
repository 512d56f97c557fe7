//! A subscriber of `tracing` is the application's code, and may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::gate::Gate;
use crate::common::{Rig, bytes, wait_idle};
use peerbuf::{Access, BufferDescriptor, DomainId, Placement, ResidencyOptions, SharedBuffer};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Panics at the event of a move.
struct PanicsAtMoves;

impl Subscriber for PanicsAtMoves {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("peerbuf::buffer::migration")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        panic!("the application's subscriber does not like {:?}", event.metadata().name());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The copy of a move is under way when the subscriber panics: its memory must get no other owner.
#[test]
fn a_subscriber_that_panics_at_a_move_frees_no_memory_in_use() {
    const SIZE: u64 = 1 << 20;
    let options = ResidencyOptions::new().clean_copies(false);
    let rig = Rig::with(|descriptor| descriptor.residency(options));
    let engine = rig.engine();
    for device in rig.all() {
        let create = |placement| -> SharedBuffer {
            let descriptor = BufferDescriptor::new(SIZE).placement(placement);
            engine.create_buffer(&device, descriptor).expect("a buffer")
        };
        for together in [false, true] {
            let moved: Vec<_> = (0..2).map(|_| create(Placement::VramOrSystem)).collect();
            moved.iter().for_each(|buffer| bytes::write(buffer, 1));
            let attachments: Vec<_> =
                moved.iter().map(|buffer| buffer.attach(&device).expect("attached")).collect();
            attachments.iter().for_each(|attachment| {
                drop(attachment.map(Access::Read).expect("mapped"));
            });
            for buffer in &moved {
                buffer.migrate(DomainId::System).expect("not held");
                buffer.migrate(DomainId::Vram(device.id())).expect("not held");
            }
            wait_idle(&[&device]);
            // All routes are known from here.
            let gate = Gate::close(&device);
            let panicked = tracing::subscriber::with_default(PanicsAtMoves, || {
                catch_unwind(AssertUnwindSafe(|| {
                    if together {
                        let moves: Vec<_> =
                            moved.iter().map(|buffer| (buffer, DomainId::System)).collect();
                        drop(engine.migrate_many(&moves));
                    } else {
                        drop(moved[0].migrate(DomainId::System));
                    }
                }))
            });
            assert!(panicked.is_err(), "the panic is the caller's");
            // These would get the memory that the copies write.
            let created: Vec<_> = (0..4).map(|_| create(Placement::System)).collect();
            created.iter().for_each(|buffer| bytes::assert_zero(buffer, "a new buffer"));
            gate.open();
            created.iter().for_each(|buffer| bytes::assert_zero(buffer, "after the copies"));
            moved.iter().for_each(|buffer| bytes::assert_sequence(buffer, 1, "moved or not"));
        }
    }
}
