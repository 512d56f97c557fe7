//! What residency asks of the engine: moving victims out, and waiting until they are out.
//!
//! Kernel counterparts: `ttm_bo_evict`, `ttm_bo_evict_cb`.

use std::sync::Arc;
use std::time::Instant;

use crate::buffer::migration::{Copier, Group, MayBlock, MoveOutcome, MoveRequest, Plan};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::core::SlotId;
use crate::error::{Error, Result};
use crate::memory::{DomainId, DomainKind};
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Kept, Trigger, Victim};
use crate::sync::Usage;

/// Moves victims out, those that one device copies in one submission.
pub(in crate::buffer) fn evict_some(
    set: &Buffers,
    from: DomainId,
    victims: &[Victim<SlotId>],
    limits: &EvictionLimits,
) -> Vec<Result<(), Kept>> {
    let buffers: Vec<_> = victims.iter().map(|victim| set.live.get(victim.key)).collect();
    let mut outcomes: Vec<_> = victims.iter().map(|_| Err(Kept::Gone)).collect();
    let mut groups: Vec<Group<'_>> = vec![];
    for (index, (victim, buffer)) in victims.iter().zip(&buffers).enumerate() {
        let Some(buffer) = buffer else { continue };
        // Who is asked with patience would have to be waited for, and the time for that is over: all of them
        // have the same.
        if limits.may_block && limits.wait.is_some_and(|until| Instant::now() >= until) {
            outcomes[index] = Err(Kept::Busy);
            continue;
        }
        match plan(buffer, victim, from, limits) {
            Ok(Some((plan, copier))) => Group::add(&mut groups, index, plan, copier),
            Ok(None) => outcomes[index] = Ok(()),
            Err(kept) => outcomes[index] = Err(kept),
        }
    }
    let may_block = if limits.may_block { MayBlock::Wait } else { MayBlock::Skip };
    for group in groups {
        for (index, moved) in group.relocate(set, may_block) {
            outcomes[index] = moved.map_err(|error| why(&error)).and_then(|moved| match moved {
                MoveOutcome::Moved => Ok(()),
                MoveOutcome::Retry => Err(Kept::Gone),
                MoveOutcome::WouldBlock => Err(Kept::Locked),
                MoveOutcome::NoPath => Err(Kept::Unreachable),
            });
        }
    }
    outcomes
}

/// Where a victim goes, if it may go. `None`: it was one that may lose its content, and has lost it.
fn plan<'a>(
    buffer: &'a Arc<BufferInner>,
    victim: &Victim<SlotId>,
    from: DomainId,
    limits: &EvictionLimits,
) -> Result<Option<(Plan<'a>, Copier)>, Kept> {
    loop {
        // A look before anything is made ready: the answer may be different when it matters, and is then
        // found out again.
        let mut state = match buffer.reservation.try_lock(&buffer.core().queues) {
            Some(state) => state,
            None if limits.may_block => buffer.lock(),
            None => return Err(Kept::Locked),
        };
        // Room for a buffer in the place where it is would not be made by its leaving.
        if matches!(limits.trigger, Trigger::Room { by: Some(by), .. } if by == buffer.id()) {
            return Err(Kept::Busy);
        }
        // Nor would it for those that are used together with it.
        if buffer.core().protected.contains(buffer.id()) {
            return Err(Kept::Busy);
        }
        let entry = state.entry;
        let is_there = entry.order() == from && state.location.domain() == from;
        if entry.slot() != Some(victim.slot) || !is_there {
            return Err(Kept::Gone);
        }
        let kept = if state.pinned() > 0 {
            Some(Kept::Pinned)
        } else {
            (state.host() > 0 || state.static_mappings() > 0).then_some(Kept::Held)
        };
        if let Some(kept) = kept {
            buffer.record_skipped(&mut state, kept);
            return Err(kept);
        }
        if !entry.is_purgeable() {
            let at_work = !state.fences.pending(Usage::Bookkeep).is_empty();
            if at_work && limits.skip_busy {
                return Err(Kept::Busy);
            }
            break;
        }
        if let Some(purged) = buffer.purge_victim(&mut state, limits) {
            return purged.map(|()| None);
        }
        // A move of it waits for work of the host.
        let moving = state.moving().cloned();
        drop(state);
        let left = limits.wait.map(|until| until.saturating_duration_since(Instant::now()));
        let waited = moving.map_or(Ok(()), |gate| gate.wait_until_over(left.unwrap_or_default()));
        waited.map_err(|error| why(&error))?;
    }
    plan_unlocked(buffer, limits).map(Some)
}

fn plan_unlocked<'a>(
    buffer: &'a Arc<BufferInner>,
    limits: &EvictionLimits,
) -> Result<(Plan<'a>, Copier), Kept> {
    if !buffer.placement().kinds().contains(&DomainKind::System) {
        return Err(Kept::Unreachable);
    }
    let planned = || {
        buffer.check_there()?;
        let home = home_at(buffer, DomainId::System)?;
        let Some(plan) = Plan::new(buffer, &home, DomainKind::System, limits)? else {
            return Ok(None);
        };
        let copier = {
            let (clean, waits) = (plan.clean, limits.wait.is_some());
            let request = MoveRequest {
                clean,
                waits,
                until: limits.wait,
                ..MoveRequest::to_new(MoveCause::Evicted, limits.trigger)
            };
            Copier::find(buffer, &home, &plan.new, request)?
        };
        Ok(copier.map(|copier| (plan, copier)))
    };
    let (plan, copier) = planned().map_err(|error: Error| why(&error))?.ok_or(Kept::Gone)?;
    // It would have to be waited for until its bytes are out.
    if copier.has_no_device() && !limits.may_block {
        return Err(Kept::Busy);
    }
    Ok((plan, copier))
}

/// Why a victim stays, by the error of its move.
fn why(error: &Error) -> Kept {
    match error {
        Error::Busy { pinned: 1.., .. } => Kept::Pinned,
        Error::Busy { .. } => Kept::Held,
        Error::OutOfMemory { .. } | Error::FdLimit { .. } => Kept::NoRoom,
        Error::Unreachable { .. } | Error::Unsupported { .. } => Kept::Unreachable,
        Error::Timeout { .. } => Kept::Busy,
        // Somebody else had it purged.
        Error::Purged { .. } => Kept::Gone,
        // Nobody may use it, and it stays for who gives it back.
        Error::Revoked { .. } => Kept::Held,
        error => {
            tracing::warn!(%error, "a buffer that was to leave stays");
            Kept::Failed
        }
    }
}
