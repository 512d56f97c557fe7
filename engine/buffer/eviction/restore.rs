//! Coming back: a buffer that had to leave the place where it wants to be returns when it is used.

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
use crate::residency::{Allowance, EvictionLimits, Priority, Trigger};
use crate::sync::Usage;

/// At which use those are asked again to make room who could not.
const UNTIL_ASKED_AGAIN: u8 = 8;

impl BufferInner {
    /// Brings it back, if it is away and `allowance` and the rules of residency let it: a use of it is about
    /// to begin. That it stays away is no failure: it works from there, too.
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
        let RestorePlan { wanted, footprint, group, priority, generation, left } = restore_plan;
        let (ledger, charge) = (&self.core().domain_state(wanted).ledger, (footprint, group));
        if !ledger.could_hold(charge) {
            return self.still_displaced(Some(full(ledger, charge)), |_| {});
        }
        let roomy = ledger.has_room(charge);
        if !roomy && left > 1 {
            let needed = self.core().throttle.rules().uses_before_return;
            // Or it was tried, and why it failed was said.
            let uses = needed.checked_sub(left).map(|before| u32::from(before) + 1);
            let reason = uses.map(|uses| Reason::Hysteresis { uses, needed: needed.into() });
            return self.still_displaced(reason, |backoff| backoff.set(left - 1));
        }
        let now = self.core().age();
        if !allowance.allows(footprint, now) {
            let (moved, allowed) = allowance.refusal();
            return self.still_displaced(Some(Reason::Throttled { moved, allowed }), |_| {});
        }
        // Never at the cost of a wait: what has to go first is told to, and the next use finds the room.
        let limits = EvictionLimits {
            evict: !roomy,
            max_priority: priority,
            wait: None,
            ..self.core().eviction_limits(self.trigger())
        };
        let trigger = Trigger::Device(device);
        match self.restore_to(wanted, generation, &limits, MoveCause::Returned, trigger) {
            Ok(MoveOutcome::Moved) => allowance.pay(footprint),
            // Whoever was busy is not for long.
            Ok(MoveOutcome::Retry | MoveOutcome::WouldBlock) => {}
            Ok(MoveOutcome::NoPath) => {
                self.still_displaced(None, ReturnBackoff::backed_off_for_long);
            }
            Err(error) => self.restore_failed(wanted, &error),
        }
    }

    #[cold]
    fn restore_failed(&self, wanted: DomainId, error: &Error) {
        tracing::debug!(%error, buffer = self.name(), "stays away");
        let lasting = matches!(error, Error::Unreachable { .. } | Error::Unsupported { .. });
        let told = lasting || error.is_out_of_memory();
        let reason = told.then(|| self.why_not_in(wanted, Some(error)));
        match error {
            // As soon as there is room it may come. Nobody stays who was told to go; who was asked and stayed
            // is not asked each time.
            Error::OutOfMemory { code: None, obstacles, .. } => {
                let uses = if obstacles.is_empty() { 1 } else { UNTIL_ASKED_AGAIN };
                self.still_displaced(reason, |backoff| backoff.set(uses));
            }
            _ if lasting => self.still_displaced(reason, ReturnBackoff::backed_off_for_long),
            _ => self.still_displaced(reason, ReturnBackoff::failed),
        }
    }

    /// What there is to know before it comes back. `None` if it is back already, cannot move now, or rests:
    /// whoever cannot come evicts nobody.
    fn restore_plan(&self) -> Option<RestorePlan> {
        let mut state = self.lock();
        let wanted = state.entry.preferred();
        if state.location.domain() == wanted {
            self.backoff.set(0);
            return None;
        }
        if state.moving().is_some() {
            return None;
        }
        let awaits = self.awaits_host(&mut state, wanted).then_some(Reason::Busy { by: None });
        if let Some(reason) = what_holds(&state).or(awaits) {
            self.record_not_restored(&mut state, reason);
            return None;
        }
        let Turn::Try { left } = self.backoff.turn() else { return None };
        Some(RestorePlan {
            wanted,
            footprint: state.location.footprint(),
            group: state.location.group(),
            priority: state.entry.priority(),
            generation: self.generation(),
            left,
        })
    }

    /// Whether work of the host is under way, which a move to `there` would have to wait for. The reservation
    /// is held.
    fn awaits_host(&self, state: &mut State, there: DomainId) -> bool {
        let device = match there {
            DomainId::Vram(device) => device,
            DomainId::System => self.home_id(),
        };
        let device = &self.core().member(device).device;
        state.fences.pending(Usage::Bookkeep).iter().any(|fence| fence.is_for_host(device))
    }

    pub(in crate::buffer) fn restore_to(
        self: &Arc<Self>,
        wanted: DomainId,
        generation: u32,
        limits: &EvictionLimits,
        cause: MoveCause,
        trigger: Trigger,
    ) -> Result<MoveOutcome> {
        self.check_there()?;
        let home = home_at(self, wanted)?;
        match Plan::new(self, &home, wanted.kind(), limits)? {
            // Somebody else may have brought it back meanwhile.
            Some(plan) if plan.seats.is_of(generation) => {
                let request = MoveRequest::to_new(cause, trigger);
                match limits.wait {
                    Some(_) => relocate(self, &home, &plan.seats, plan.new, request),
                    None => self.try_migrate(plan, request),
                }
            }
            _ => Ok(MoveOutcome::Retry),
        }
    }

    /// Says why, and when it is tried again, if nobody has brought it back meanwhile.
    fn still_displaced(&self, why: Option<Reason>, when: impl FnOnce(&ReturnBackoff)) {
        let mut state = self.lock();
        if state.location.domain() != state.entry.preferred() {
            when(&self.backoff);
            if let Some(reason) = why {
                self.record_not_restored(&mut state, reason);
            }
        }
    }
}

/// See [`BufferInner::restore_plan`].
struct RestorePlan {
    wanted: DomainId,
    footprint: u64,
    group: GroupId,
    priority: Priority,
    generation: u32,
    /// After how many uses it may evict others.
    left: u8,
}

/// Brings back those that one submission is about to use, or has used, and that are away, and lets the device
/// draw others to itself. None of them has to go for another one.
pub(in crate::buffer) fn restore_together(
    set: &Buffers,
    device: DeviceId,
    buffers: &[&Arc<BufferInner>],
) {
    let mut allowance = set.core.throttle.submission();
    if buffers.iter().any(|buffer| buffer.is_displaced()) {
        let _spared =
            set.core.protected.protect(buffers.iter().map(|buffer| buffer.id()).collect());
        buffers.iter().for_each(|buffer| buffer.restore(device, &mut allowance));
    }
    auto_migrate_together(set, device, buffers, &mut allowance);
}
