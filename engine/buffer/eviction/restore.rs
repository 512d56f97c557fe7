//! Restores displaced buffers: a buffer that was evicted from its preferred domain returns there when it is
//! used.
//!
//! Not here: restores that a use requires (`required_restore`). These are opportunistic.

use std::sync::Arc;

use super::auto_migrate::auto_migrate_together;
use crate::buffer::inspect::{full, what_holds};
use crate::buffer::migration::{MoveOutcome, MoveRequest, Plan, relocate};
use crate::buffer::object::{BufferInner, Buffers, ReturnBackoff, Turn};
use crate::buffer::placement::home_at;
use crate::buffer::state::State;
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::memory::{DomainId, GroupId};
use crate::observe::{MoveCause, Reason};
use crate::residency::policy::Slot;
use crate::residency::{Allowance, EvictionLimits, Priority, Trigger};
use crate::sync::Usage;

/// The number of uses after which a restore is tried again if other buffers could not be evicted for it.
const USES_UNTIL_RETRY: u8 = 8;

impl BufferInner {
    /// Moves a displaced buffer to its preferred domain, if `allowance` and the residency options allow it.
    /// `device` is about to use the buffer. It is no failure if the buffer stays displaced: it works in its
    /// current domain, too.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn restore(
        self: &Arc<Self>,
        device: DeviceId,
        allowance: &mut Allowance<'_>,
    ) {
        if !self.is_displaced() {
            return;
        }
        let Some(restore_plan) = self.restore_plan() else { return };
        let RestorePlan { preferred, footprint, group, priority, slot, generation, uses_left } =
            restore_plan;
        let (ledger, charge) = (&self.core().domain_state(preferred).ledger, (footprint, group));
        if !ledger.could_hold(charge) {
            return self.still_displaced(Some(full(ledger, charge)), |_| {});
        }
        let mut has_room = ledger.has_room(charge);
        if !has_room && uses_left > 1 {
            let needed = self.core().throttle.options().uses_before_return;
            // Otherwise a restore was tried, and its failure was recorded.
            let uses = needed.checked_sub(uses_left).map(|before| u32::from(before) + 1);
            let reason = uses.map(|uses| Reason::Hysteresis { uses, needed: needed.into() });
            return self.still_displaced(reason, |backoff| backoff.set(uses_left - 1));
        }
        let now = self.core().age();
        if !allowance.allows(footprint, now) {
            let (moved, allowed) = allowance.refusal();
            return self.still_displaced(Some(Reason::Throttled { moved, allowed }), |_| {});
        }
        if !has_room {
            // What finished work has left may be enough.
            self.core().retire.collect();
            has_room = ledger.has_room(charge);
        }
        let list = &self.core().domain_state(preferred).eviction_list;
        // Nothing but buffers of its group can make room within the group's cap.
        let within = if ledger.is_beyond_cap(charge) { group } else { GroupId::NONE };
        let pays = |slot| list.is_worth_more(slot, (footprint, within), priority);
        if !has_room && !slot.is_none_or(pays) {
            let needed = self.core().throttle.options().uses_before_return;
            return self.still_displaced(Some(Reason::UsedLess), |backoff| backoff.set(needed));
        }
        // Never with a wait: evictions are only started, and the next use finds the room.
        let limits = EvictionLimits {
            evict: !has_room,
            max_priority: priority,
            wait: None,
            ..self.core().eviction_limits(self.trigger())
        };
        let trigger = Trigger::Device(device);
        match self.restore_to(preferred, generation, &limits, MoveCause::Restored, trigger) {
            Ok(MoveOutcome::Moved) => allowance.pay(footprint),
            // A short conflict: the next use tries again.
            Ok(MoveOutcome::Retry | MoveOutcome::WouldBlock) => {}
            Ok(MoveOutcome::NoPath) => {
                self.still_displaced(None, ReturnBackoff::backed_off_for_long);
            }
            Err(error) => self.restore_failed(preferred, &error),
        }
    }

    #[cold]
    fn restore_failed(&self, preferred: DomainId, error: &Error) {
        let refused = error.refusals();
        tracing::debug!(%error, ?refused, buffer = self.name(), "restore failed; buffer stays displaced");
        let lasting = matches!(error, Error::Unreachable { .. } | Error::Unsupported { .. });
        let is_recorded = lasting || error.is_out_of_memory();
        let reason = is_recorded.then(|| self.why_not_in(preferred, Some(error)));
        match error {
            // With room, the next use restores the buffer. Evictions that have been started make that room.
            // If buffers could not be evicted, they are not tried again at each use.
            Error::OutOfMemory { code: None, failures, .. } => {
                let uses = if failures.is_empty() { 1 } else { USES_UNTIL_RETRY };
                self.still_displaced(reason, |backoff| backoff.set(uses));
            }
            _ if lasting => self.still_displaced(reason, ReturnBackoff::backed_off_for_long),
            _ => self.still_displaced(reason, ReturnBackoff::failed),
        }
    }

    /// Collects what a restore needs. `None` if the buffer is in its preferred domain already, cannot move
    /// now, or backs off. No buffer may be evicted for one that cannot be restored.
    fn restore_plan(&self) -> Option<RestorePlan> {
        let mut state = self.lock();
        let preferred = state.entry().preferred();
        if state.location().domain() == preferred {
            self.backoff.set(0);
            return None;
        }
        // A buffer that needs its restore is moved by the use itself, or the use fails.
        if state.moving().is_some() || self.needs_restore(&state) {
            return None;
        }
        let awaits = self.awaits_host(&mut state, preferred).then_some(Reason::Busy { by: None });
        if let Some(reason) = what_holds(&state).or(awaits) {
            self.record_not_restored(&mut state, reason);
            return None;
        }
        let Turn::Try { left } = self.backoff.turn() else { return None };
        Some(RestorePlan {
            preferred,
            footprint: state.location().footprint(),
            group: state.location().group(),
            priority: state.entry().priority(),
            slot: state.entry().slot(),
            generation: self.generation(),
            uses_left: left,
        })
    }

    /// Whether host work is pending that a move to `to` would have to wait for. The reservation is held.
    fn awaits_host(&self, state: &mut State, to: DomainId) -> bool {
        let device = match to {
            DomainId::Vram(device) => device,
            DomainId::System => self.home_id(),
        };
        let device = &self.core().member(device).device;
        state.fences().pending(Usage::Bookkeep).iter().any(|fence| fence.is_for_host(device))
    }

    /// Moves the buffer to its preferred domain, unless it has moved since `generation`. Waits only if `limits`
    /// allow it.
    pub(super) fn restore_to(
        self: &Arc<Self>,
        preferred: DomainId,
        generation: u32,
        limits: &EvictionLimits,
        cause: MoveCause,
        trigger: Trigger,
    ) -> Result<MoveOutcome> {
        self.check_resident()?;
        let home = home_at(self, preferred)?;
        match Plan::new(self, &home, preferred.kind(), limits)? {
            // Another thread may have moved it meanwhile.
            Some(plan) if plan.matrix.is_of_generation(generation) => {
                let request = MoveRequest::to_new(cause, trigger);
                match limits.wait {
                    Some(_) => relocate(self, &home, &plan.matrix, plan.new, request),
                    None => self.try_migrate(plan, request),
                }
            }
            _ => Ok(MoveOutcome::Retry),
        }
    }

    /// Records why the buffer stays displaced, and sets when a restore is tried again, unless it was restored
    /// meanwhile.
    fn still_displaced(&self, reason: Option<Reason>, set_backoff: impl FnOnce(&ReturnBackoff)) {
        let mut state = self.lock();
        if state.location().domain() != state.entry().preferred() {
            set_backoff(&self.backoff);
            if let Some(reason) = reason {
                self.record_not_restored(&mut state, reason);
            }
        }
    }
}

/// What a restore needs to know: see [`BufferInner::restore_plan`].
struct RestorePlan {
    preferred: DomainId,
    footprint: u64,
    group: GroupId,
    priority: Priority,
    /// Its entry in the eviction list of the preferred domain.
    slot: Option<Slot>,
    generation: u32,
    /// After how many uses other buffers may be evicted for it; 1 is this use.
    uses_left: u8,
}

/// Restores the displaced buffers that one submission uses, and auto-migrates others to `device`. The
/// submission is about to begin, or has ended. None of the buffers is evicted for another one.
pub(in crate::buffer) fn restore_together(
    set: &Buffers,
    device: DeviceId,
    buffers: &[&Arc<BufferInner>],
) {
    let mut allowance = set.core.throttle.submission();
    if buffers.iter().any(|buffer| buffer.is_displaced()) {
        let _protection =
            set.core.protected.protect(buffers.iter().map(|buffer| buffer.id()).collect());
        buffers.iter().for_each(|buffer| buffer.restore(device, &mut allowance));
    }
    auto_migrate_together(set, device, buffers, &mut allowance);
}
