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
        self.count_access_of_all(state, device);
        self.line_up_late(state);
        self.age(state);
    }

    /// `device` uses so many bytes of it. The reservation is held.
    #[inline]
    pub(in crate::buffer) fn count_access_to(&self, state: &State, device: DeviceId, bytes: u64) {
        let (core, at) = (self.core(), state.location.domain());
        if core.auto_migration.concerns(device, at, |user, place| core.access_cost(user, place)) {
            self.count_access(state, device, bytes);
        }
    }

    /// It is used, nobody knows where; the host is no device. The reservation is held.
    #[inline]
    pub(in crate::buffer) fn count_access_of_all(&self, state: &State, device: Option<DeviceId>) {
        if let Some(device) = device {
            self.count_access_to(state, device, self.size);
        }
    }

    /// The host uses it. Nobody has measured what it would lose if the buffer left system memory. The
    /// reservation is held.
    pub(in crate::buffer) fn count_host_access(&self, state: &State) {
        if state.location.domain() == DomainId::System {
            self.core().auto_migration.clear_gains(self.id());
        }
    }

    fn count_access(&self, state: &State, device: DeviceId, bytes: u64) {
        let core = self.core();
        if self.may_auto_migrate() && !matches!(state.location.provider(), Provider::Foreign(_)) {
            let used = self.used_by(state, device, bytes);
            core.auto_migration
                .note(&used, core.age(), |user, place| core.access_cost(user, place));
        }
    }

    pub(in crate::buffer) fn used_by(&self, state: &State, by: DeviceId, bytes: u64) -> BufferUse {
        let (buffer, generation, at) = (self.id(), self.generation(), state.location.domain());
        BufferUse { buffer, generation, at, by, bytes }
    }

    /// Whether it may live in a device's own memory.
    pub(in crate::buffer) fn may_auto_migrate(&self) -> bool {
        self.placement().kinds().contains(&DomainKind::Vram)
    }
}
