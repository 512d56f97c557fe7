//! Records uses of a buffer by a device or the host.

use crate::buffer::object::BufferInner;
use crate::buffer::state::State;
use crate::device::DeviceId;
use crate::memory::{DomainId, DomainKind, Provider};
use crate::residency::BufferUse;

impl BufferInner {
    /// Records a use by a device; `None` is the host. The reservation must be held.
    pub(in crate::buffer) fn note_use(&self, state: &mut State, device: Option<DeviceId>) {
        self.trace_use(state, device);
        self.count_access_of_all(state, device);
        self.enlist_late(state);
        self.age(state);
    }

    /// Counts an access of `device` to `bytes` bytes, for auto-migration. The reservation must be held.
    #[inline]
    pub(in crate::buffer) fn count_access_to(&self, state: &State, device: DeviceId, bytes: u64) {
        let (core, domain) = (self.core(), state.location().domain());
        if core
            .auto_migration
            .concerns(device, domain, |user, domain| core.access_cost(user, domain))
        {
            self.count_access(state, device, bytes);
        }
    }

    /// Counts a use of the whole buffer. Host uses are not counted. The reservation must be held.
    #[inline]
    pub(super) fn count_access_of_all(&self, state: &State, device: Option<DeviceId>) {
        if let Some(device) = device {
            self.count_access_to(state, device, self.size);
        }
    }

    /// Records a use by the host. It clears the gains that auto-migration has counted for this buffer,
    /// because the host's loss if the buffer left system memory was not measured. The reservation must be
    /// held.
    pub(in crate::buffer) fn count_host_access(&self, state: &State) {
        if state.location().domain() == DomainId::System {
            self.core().auto_migration.clear_gains(self.id());
        }
    }

    fn count_access(&self, state: &State, device: DeviceId, bytes: u64) {
        let core = self.core();
        if self.may_auto_migrate() && !matches!(state.location().provider(), Provider::Foreign(_)) {
            let used = self.used_by(state, device, bytes);
            core.auto_migration
                .note(&used, core.age(), |user, domain| core.access_cost(user, domain));
        }
    }

    /// A use of `bytes` bytes by device `by`, where the buffer is now.
    pub(in crate::buffer) fn used_by(&self, state: &State, by: DeviceId, bytes: u64) -> BufferUse {
        let (buffer, generation, at) = (self.id(), self.generation(), state.location().domain());
        BufferUse { buffer, generation, at, by, bytes }
    }

    /// Whether its placement allows a device's own memory.
    pub(in crate::buffer) fn may_auto_migrate(&self) -> bool {
        self.placement().kinds().contains(&DomainKind::Vram)
    }
}
