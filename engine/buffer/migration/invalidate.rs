//! Calls every importer under the reservation.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::buffer::object::BufferInner;
use crate::buffer::state::{Invalidation, InvalidationCause, State};
use crate::observe::trace::MoveId;
use crate::sync::Usage;

/// Calls every importer, under the reservation, and enters the fences of what they say is still at work.
///
/// # Panics
///
/// If one of them did, when all of that is done.
pub(in crate::buffer) fn invalidate_importers(
    buffer: &BufferInner,
    state: &mut State,
    cause: InvalidationCause,
    slice: MoveId,
) {
    let said = RefCell::default();
    let invalidation = Invalidation { generation: buffer.generation(), cause, fences: &said };
    let mut panicked = None;
    for (device, importer) in state.importers() {
        let _traced = buffer.core().tracer.callback(slice, buffer.id(), device);
        // A bug of one must not keep the others from being told. What it has broken is its own.
        let telling = AssertUnwindSafe(|| importer.invalidate_mappings(&invalidation));
        panicked = panicked.or(catch_unwind(telling).err());
    }
    for (usage, fence) in said.take() {
        if usage <= Usage::Write {
            buffer.note_write_anywhere(state);
        }
        state.fences.add(usage, fence);
    }
    if let Some(panic) = panicked {
        resume_unwind(panic);
    }
}
