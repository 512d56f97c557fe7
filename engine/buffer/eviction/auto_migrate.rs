//! Attraction as buffers know it: which uses count, what reading costs, and the move.
//!
//! Who is drawn, and when it pays, is [`crate::residency`]'s.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::buffer::inspect::full;
use crate::buffer::migration::{MoveOutcome, MoveRequest, Plan};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::buffer::state::State;
use crate::device::{AdapterKind, DeviceId, DeviceInner};
use crate::error::Result;
use crate::memory::{DomainId, Provider};
use crate::observe::{MoveCause, Reason, What};
use crate::residency::{Allowance, EvictionLimits, Trigger};

/// Finds out what a newcomer and those who are there read how fast from each other, since later nobody waits
/// for that. Whatever fails is not known.
///
/// Locks: none may be held; this waits for devices.
pub(in crate::buffer) fn learn_access_costs(buffer: &BufferInner, newcomer: &Arc<DeviceInner>) {
    let core = buffer.core();
    let may = core.auto_migration.is_on() && buffer.may_auto_migrate();
    if !may || newcomer.adapter().kind() == AdapterKind::Cpu {
        return;
    }
    let mut all: SmallVec<[DeviceId; 4]> = SmallVec::from_slice(&[newcomer.id(), buffer.home_id()]);
    all.extend(buffer.lock().attachments().map(|seat| seat.device));
    all.sort();
    all.dedup();
    for member in all.into_iter().map(|id| core.member(id)).filter(|member| !member.is_unplugged())
    {
        let other = &member.device;
        for [from, to] in [[other, other], [other, newcomer], [newcomer, other]] {
            if let Err(error) = core.verdict(from, to) {
                tracing::debug!(%error, from = from.name(), to = to.name(), "no speed is known");
            }
        }
    }
}

/// Draws those to `device` that one submission is about to use, or has used.
///
/// Locks: none may be held.
pub(in crate::buffer) fn auto_migrate_together(
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
    /// Moves it to `device`, which is about to use it, or has used it, if that pays, and where it costs
    /// nobody else his place, and nobody a wait. That it stays is no failure.
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
        let Some(footprint) = self.is_used_most_by(device) else { return };
        if !allowance.allows(footprint, core.age()) {
            return;
        }
        match self.go_to(device) {
            Ok(MoveOutcome::Moved) => {
                allowance.pay(footprint);
                core.auto_migration.moved(self.id(), self.generation());
            }
            // Whoever was busy is not for long.
            Ok(MoveOutcome::Retry | MoveOutcome::WouldBlock) => {}
            Ok(MoveOutcome::NoPath) => core.auto_migration.refused(self.id(), device),
            Err(error) => {
                tracing::debug!(%error, buffer = self.name(), "is not drawn");
                core.auto_migration.refused(self.id(), device);
            }
        }
    }

    /// How many bytes it takes there, if it pays that it goes, it could, and there is room.
    fn is_used_most_by(&self, device: DeviceId) -> Option<u64> {
        let core = self.core();
        let mut state = self.lock();
        let used = self.used_by(&state, device, self.size);
        let pays = |reluctant| {
            core.auto_migration
                .pays(&used, self.size, reluctant, |user, at| core.access_cost(user, at))
        };
        if !pays(false) || self.was_requested(&state) && !pays(true) {
            return None;
        }
        let held = state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0;
        if held || state.moving().is_some() || !self.may_auto_migrate() {
            return None;
        }
        let (there, footprint) = (DomainId::Vram(device), state.location.footprint());
        // Where it wants to be it comes by itself (`come_back`).
        if state.entry.preferred() == there {
            return None;
        }
        let ledger = &core.domain_state(there).ledger;
        let charge = (footprint, state.location.group());
        if !ledger.has_room(charge) {
            let reason = full(ledger, charge);
            let here = state.location.domain();
            self.record(&mut state, What::Stayed, [here, there], reason);
            core.auto_migration.refused(self.id(), device);
            return None;
        }
        Some(footprint)
    }

    /// Whether somebody has said, not long ago, where it is to be: that is not undone lightly.
    fn was_requested(&self, state: &State) -> bool {
        state.decisions(self.size).any(|decision| {
            let said = matches!(decision.what, What::Migrated | What::Restored);
            said && decision.reason == Reason::Asked
        })
    }

    /// The move. Nobody is evicted for it, and nothing is waited for.
    fn go_to(self: &Arc<Self>, device: DeviceId) -> Result<MoveOutcome> {
        let core = self.core();
        self.check_there()?;
        let (generation, there) = (self.generation(), DomainId::Vram(device));
        let home = home_at(self, there)?;
        if !self.can_be_asked_about(&home) {
            return Ok(MoveOutcome::NoPath);
        }
        let limits =
            EvictionLimits { evict: false, wait: None, ..core.eviction_limits(self.trigger()) };
        let Some(plan) = Plan::new(self, &home, there.kind(), &limits)? else {
            return Ok(MoveOutcome::Retry);
        };
        // Somebody else may have moved it meanwhile.
        if !plan.seats.is_of(generation) {
            return Ok(MoveOutcome::Retry);
        }
        self.try_migrate(plan, MoveRequest::to_new(MoveCause::Attracted, Trigger::Device(device)))
    }

    /// Whether it is known of all who sit there how they would reach `home`'s memory: finding it out takes a
    /// wait.
    fn can_be_asked_about(&self, home: &DeviceInner) -> bool {
        let core = self.core();
        let mut guests: SmallVec<[DeviceId; 4]> = SmallVec::new();
        let state = self.lock();
        guests.extend(state.attachments().map(|seat| seat.device));
        // What is nobody's own is reached by a route of its user's.
        let is_own = matches!(state.location.provider(), Provider::Device { .. });
        drop(state);
        if is_own {
            guests.retain(|guest| *guest != home.id());
        } else {
            guests.push(home.id());
        }
        let known = |guest: DeviceId| core.known_route(home, &core.member(guest).device).is_some();
        guests.into_iter().all(known)
    }
}
