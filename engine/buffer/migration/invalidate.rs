//! Notifies importers: calls each one under the reservation.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::buffer::object::BufferInner;
use crate::buffer::state::{Invalidation, InvalidationCause, State};
use crate::observe::trace::MoveId;
use crate::sync::Usage;

/// Calls every importer, under the reservation, and adds the fences of work that importers report as still
/// running.
///
/// # Panics
///
/// If an importer panics. All importers are called, and all fences added, before the panic resumes.
pub(in crate::buffer) fn invalidate_importers(
    buffer: &BufferInner,
    state: &mut State,
    cause: InvalidationCause,
    span: MoveId,
) {
    let reported = RefCell::default();
    let invalidation = Invalidation {
        buffer: buffer.id(),
        generation: buffer.generation(),
        cause,
        fences: &reported,
    };
    let mut panicked = None;
    for (device, importer) in state.importers() {
        let _traced = buffer.core().tracer.callback(span, buffer.id(), device);
        // A panic of one importer must not keep the others from being called. AssertUnwindSafe: state broken
        // by the panic is the importer's own.
        let call = AssertUnwindSafe(|| importer.invalidate_mappings(&invalidation));
        panicked = panicked.or(catch_unwind(call).err());
    }
    for (usage, fence) in reported.take() {
        if usage <= Usage::Write {
            buffer.note_write_anywhere(state);
        }
        state.fences().add(usage, fence);
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}
