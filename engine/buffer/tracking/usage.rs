//! What is noted when a device or the host uses a buffer.

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceId;
use crate::memory::{DomainId, DomainKind, Provider};
use crate::residency::BufferUse;

impl BufferInner {
    /// A device uses it; the host is none. The reservation is held.
    pub(in crate::buffer) fn note_use(&self, state: &mut State, device: Option<DeviceId>) {
        self.trace_use(state, device);
        self.note_pull_of_all(state, device);
        self.line_up_late(state);
        self.age(state);
    }

    /// `device` uses so many bytes of it. The reservation is held.
    #[inline]
    pub(in crate::buffer) fn note_pull(&self, state: &State, device: DeviceId, bytes: u64) {
        let (core, at) = (self.core(), state.place.domain());
        if core.auto_migration.concerns(device, at, |user, place| core.access_cost(user, place)) {
            self.count_pull(state, device, bytes);
        }
    }

    /// It is used, nobody knows where; the host is no device. The reservation is held.
    #[inline]
    pub(in crate::buffer) fn note_pull_of_all(&self, state: &State, device: Option<DeviceId>) {
        if let Some(device) = device {
            self.note_pull(state, device, self.size);
        }
    }

    /// The host uses it. Nobody has measured what it would lose if the buffer left system memory. The
    /// reservation is held.
    pub(in crate::buffer) fn note_pull_of_host(&self, state: &State) {
        if state.place.domain() == DomainId::System {
            self.core().auto_migration.clear_gains(self.id());
        }
    }

    fn count_pull(&self, state: &State, device: DeviceId, bytes: u64) {
        let core = self.core();
        if self.may_be_drawn() && !matches!(state.place.provider(), Provider::Foreign(_)) {
            let used = self.used_by(state, device, bytes);
            core.auto_migration
                .note(&used, core.age(), |user, place| core.access_cost(user, place));
        }
    }

    pub(in crate::buffer) fn used_by(&self, state: &State, by: DeviceId, bytes: u64) -> BufferUse {
        let (buffer, generation, at) = (self.id(), self.generation(), state.place.domain());
        BufferUse { buffer, generation, at, by, bytes }
    }

    /// Whether it may live in a device's own memory.
    pub(in crate::buffer) fn may_be_drawn(&self) -> bool {
        self.placement().kinds().contains(&DomainKind::Vram)
    }
}
