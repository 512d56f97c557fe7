//! The trace of a buffer: its moves and its uses.

use std::cell::Cell;
use std::sync::Arc;

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::core::Core;
use crate::device::DeviceId;
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::observe::trace::{AccessEvent, Move, MoveId, Outcome, Tracer};
use crate::sync::Fence;

/// A move in the trace, from the call of its importers to the end of its copy. If it is dropped before, the
/// trace says that the buffer stayed in place.
pub(in crate::buffer) struct MoveSpan {
    tracer: Arc<Tracer>,
    id: Cell<MoveId>,
}

impl MoveSpan {
    pub(in crate::buffer) fn new(core: &Core) -> Self {
        Self { tracer: Arc::clone(&core.tracer), id: Cell::new(MoveId::NONE) }
    }

    pub(in crate::buffer) fn id(&self) -> MoveId {
        self.id.get()
    }

    /// Records that the copy was submitted.
    pub(in crate::buffer) fn copying(&self) {
        if self.id.get() != MoveId::NONE {
            self.tracer.submitted(self.id.get());
        }
    }

    /// Records that the move was committed. The span ends when `fence` signals.
    pub(in crate::buffer) fn moved(&self, core: &Core, fence: &Fence) {
        let id = self.id.replace(MoveId::NONE);
        if id == MoveId::NONE {
            return;
        }
        let tracer = Arc::clone(&self.tracer);
        let end = move || tracer.end(id, Outcome::Moved);
        if fence.on_signal(&core.bridges, Box::new(end)).is_err() {
            self.tracer.end(id, Outcome::Moved);
        }
    }

    /// Records that the copy failed, and the buffer stayed in place.
    pub(in crate::buffer) fn failed(&self) {
        let id = self.id.replace(MoveId::NONE);
        if id != MoveId::NONE {
            self.tracer.end(id, Outcome::Failed);
        }
    }
}

impl Drop for MoveSpan {
    fn drop(&mut self) {
        let id = self.id.get();
        if id != MoveId::NONE {
            self.tracer.end(id, Outcome::Stayed);
        }
    }
}

impl BufferInner {
    /// Begins the span of a move to `to` for `cause`, copied by `device`. Its importers are notified next.
    /// The reservation must be held.
    pub(in crate::buffer) fn trace_begin(
        &self,
        state: &State,
        span: &MoveSpan,
        cause: MoveCause,
        (device, to): (DeviceId, DomainId),
    ) {
        if !self.core().tracer.is_on() {
            return;
        }
        let id = self.core().tracer.begin(Move {
            buffer: self.id(),
            bytes: self.size,
            from: state.location().domain(),
            to,
            cause: cause.name(),
            generation: self.generation() + 1,
            device: Some(device),
        });
        span.id.set(id);
    }

    /// Records a use by a device; uses by the host are not traced. The reservation must be held.
    #[inline]
    pub(in crate::buffer) fn trace_use(&self, state: &State, device: Option<DeviceId>) {
        if let Some(device) = device
            && self.core().tracer.is_on()
        {
            self.core().tracer.access(AccessEvent {
                buffer: self.id(),
                bytes: self.size,
                device,
                domain: state.entry().preferred(),
                resident: state.location().domain() == state.entry().preferred(),
            });
        }
    }
}
