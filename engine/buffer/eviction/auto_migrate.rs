//! Auto-migration: a buffer moves to the device that uses it most.
//!
//! Kernel counterparts: access-counter migration, automatic NUMA balancing.
//!
//! Not here: when a migration pays ([`crate::residency`]).

use std::sync::Arc;

use smallvec::SmallVec;

use crate::buffer::inspect::full;
use crate::buffer::migration::{MoveOutcome, MoveRequest, Plan};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::buffer::state::State;
use crate::device::{AdapterKind, DeviceId, DeviceInner};
use crate::error::Result;
use crate::memory::{DomainId, DomainKind};
use crate::observe::{MoveCause, Reason, What};
use crate::residency::{Allowance, EvictionLimits, Trigger};
use crate::transfer::Need;

/// Measures how fast the attaching device and the attached ones read from each other, since later uses do not
/// wait for measurements. A speed whose measurement fails stays unknown.
///
/// Locks: none may be held; this waits for devices.
pub(in crate::buffer) fn learn_access_costs(buffer: &BufferInner, attaching: &Arc<DeviceInner>) {
    let core = buffer.core();
    let is_possible = core.auto_migration.is_on() && buffer.may_auto_migrate();
    if !is_possible || attaching.adapter().kind() == AdapterKind::Cpu {
        return;
    }
    let mut devices: SmallVec<[DeviceId; 4]> =
        SmallVec::from_slice(&[attaching.id(), buffer.home_id()]);
    devices.extend(buffer.lock().attachments().map(|attachment| attachment.device));
    devices.sort();
    devices.dedup();
    let is_usable = |id: &DeviceId| !core.member(*id).is_unplugged();
    for other in devices.into_iter().filter(is_usable).filter_map(|id| core.devices.device(id)) {
        let other = &other;
        for [from, to] in [[other, other], [other, attaching], [attaching, other]] {
            if let Err(error) = core.verdict(from, to, Need::Costs) {
                tracing::debug!(
                    %error,
                    from = from.name(),
                    to = to.name(),
                    "measurement failed; copy speed unknown"
                );
            }
        }
    }
}

/// Auto-migrates buffers of one submission to `device`, which is about to run it, or has run it.
///
/// Locks: none may be held.
pub(super) fn auto_migrate_together(
    set: &Buffers,
    device: DeviceId,
    buffers: &[&Arc<BufferInner>],
    allowance: &mut Allowance<'_>,
) {
    if !set.core.auto_migration.is_idle() {
        buffers.iter().for_each(|buffer| buffer.auto_migrate(device, allowance));
    }
}

impl BufferInner {
    /// Moves the buffer to `device`, which is about to use it, or has used it, if that pays, without
    /// evictions and without waits. It is no failure if the buffer stays.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn auto_migrate(
        self: &Arc<Self>,
        device: DeviceId,
        allowance: &mut Allowance<'_>,
    ) {
        let core = self.core();
        if core.auto_migration.is_idle() {
            return;
        }
        let Some(footprint) = self.footprint_if_worthwhile(device) else { return };
        if !allowance.allows(footprint, core.age()) {
            return;
        }
        match self.auto_migrate_to(device) {
            Ok(MoveOutcome::Moved) => {
                allowance.pay(footprint);
                core.auto_migration.moved(self.id(), self.generation());
            }
            // A short conflict: the next use tries again.
            Ok(MoveOutcome::Retry | MoveOutcome::WouldBlock) => {}
            Ok(MoveOutcome::NoPath) => core.auto_migration.refused(self.id(), device),
            Err(error) => {
                let refused = error.refusals();
                tracing::debug!(%error, ?refused, buffer = self.name(), "auto-migration failed; buffer not moved");
                core.auto_migration.refused(self.id(), device);
            }
        }
    }

    /// The footprint of the buffer on `device`, if a migration pays, the buffer can move, and there is room.
    fn footprint_if_worthwhile(&self, device: DeviceId) -> Option<u64> {
        let core = self.core();
        let mut state = self.lock();
        let used = self.used_by(&state, device, self.size);
        let pays = |reluctant| {
            core.auto_migration
                .pays(&used, self.size, reluctant, |user, domain| core.access_cost(user, domain))
        };
        if !pays(false) || self.was_requested(&state) && !pays(true) {
            return None;
        }
        let held = state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0;
        if held || state.moving().is_some() || !self.may_auto_migrate() {
            return None;
        }
        let (to, footprint) = (DomainId::Vram(device), state.location().footprint());
        // `restore` moves a buffer to its preferred domain.
        if state.entry().preferred() == to {
            return None;
        }
        let ledger = &core.domain_state(to).ledger;
        let charge = (footprint, state.location().group());
        if !ledger.has_room(charge) {
            let reason = full(ledger, charge);
            let here = state.location().domain();
            self.record(&mut state, What::Stayed, [here, to], reason);
            core.auto_migration.refused(self.id(), device);
            return None;
        }
        Some(footprint)
    }

    /// Whether the application has requested the current domain not long ago. A request is overridden only by
    /// a clear gain.
    fn was_requested(&self, state: &State) -> bool {
        state.decisions(self.size).any(|decision| {
            let requested = matches!(decision.what, What::Migrated | What::Restored);
            requested && decision.reason == Reason::Asked
        })
    }

    /// Moves the buffer to `device`, without evictions and without waits.
    fn auto_migrate_to(self: &Arc<Self>, device: DeviceId) -> Result<MoveOutcome> {
        let core = self.core();
        self.check_resident()?;
        let (generation, to) = (self.generation(), DomainId::Vram(device));
        let home = home_at(self, to)?;
        if !self.routes_are_known(&home) {
            return Ok(MoveOutcome::NoPath);
        }
        let limits =
            EvictionLimits { evict: false, wait: None, ..core.eviction_limits(self.trigger()) };
        let Some(plan) = Plan::new(self, &home, to.kind(), &limits)? else {
            return Ok(MoveOutcome::Retry);
        };
        // Another thread may have moved it meanwhile.
        if !plan.matrix.is_of_generation(generation) {
            return Ok(MoveOutcome::Retry);
        }
        self.try_migrate(
            plan,
            MoveRequest::to_new(MoveCause::AutoMigrated, Trigger::Device(device)),
        )
    }

    /// Whether the routes of all attached devices to the buffer's memory are known, and those to `home`'s memory are known
    /// to work: proving one takes a wait.
    fn routes_are_known(&self, home: &DeviceInner) -> bool {
        let core = self.core();
        let mut devices: SmallVec<[DeviceId; 4]> = SmallVec::from_slice(&[home.id()]);
        let state = self.lock();
        devices.extend(state.attachments().map(|attachment| attachment.device));
        let current = state.location().provider();
        drop(state);
        let device = |id: &DeviceId| &core.member(*id).device;
        let all_reach =
            |provider| devices.iter().all(|id| core.is_known_to_reach(provider, home, device(id)));
        devices.iter().all(|id| core.is_import_known(current, home, device(id)))
            && core.possible(home, DomainKind::Vram).into_iter().any(all_reach)
    }
}
