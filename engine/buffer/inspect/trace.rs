//! A move in the trace, and uses of a buffer and levels of a domain for the tracer.

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

/// A move in the trace, from the call of its importers to the end of its copy. If that never comes, the
/// buffer has stayed where it was.
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

    /// Bytes are being copied for it from now on.
    pub(in crate::buffer) fn copying(&self) {
        if self.id.get() != MoveId::NONE {
            self.tracer.submitted(self.id.get());
        }
    }

    /// The move takes place; the slice ends with `fence`.
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

    /// The copy could not be made: the buffer is where it was.
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
    /// A move to `to` for `cause` begins, copied by `device`: its importers are notified next. The reservation is
    /// held.
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
            from: state.location.domain(),
            to,
            cause: cause.name(),
            generation: self.generation() + 1,
            device: Some(device),
        });
        span.id.set(id);
    }

    /// A device uses it; the host is none. The reservation is held.
    pub(in crate::buffer) fn trace_use(&self, state: &State, device: Option<DeviceId>) {
        if let Some(device) = device
            && self.core().tracer.is_on()
        {
            self.core().tracer.access(AccessEvent {
                buffer: self.id(),
                bytes: self.size,
                device,
                domain: state.entry.preferred(),
                resident: state.location.domain() == state.entry.preferred(),
            });
        }
    }
}
