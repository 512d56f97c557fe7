//! Evicts victims: checks each one, plans its move, and moves them in batches.
//!
//! Kernel counterparts: `ttm_bo_evict`, `ttm_bo_evict_cb`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buffer::migration::{
    Copier, MayBlock, MoveBatch, MoveOutcome, MoveRequest, Plan, ZEROED_AT_ONCE,
};
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::placement::home_at;
use crate::core::SlotId;
use crate::error::{Error, Result};
use crate::memory::{DomainId, DomainKind, GroupId};
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, SkipReason, Trigger, Victim};
use crate::sync::Usage;

/// Evicts at most [`MAX_BATCH`](crate::buffer::migration::MAX_BATCH) victims. Those whose copies run on one
/// device share a submission.
pub(super) fn evict_chunk(
    set: &Buffers,
    from: DomainId,
    victims: &[Victim<SlotId>],
    limits: &EvictionLimits,
) -> Vec<Result<(), SkipReason>> {
    let buffers: Vec<_> = victims.iter().map(|victim| set.live.get(victim.key)).collect();
    let mut outcomes: Vec<_> = victims.iter().map(|_| Err(SkipReason::Gone)).collect();
    let mut batches: Vec<MoveBatch<'_>> = vec![];
    for (index, (victim, buffer)) in victims.iter().zip(&buffers).enumerate() {
        let Some(buffer) = buffer else { continue };
        // With `may_block` each victim may be waited for, all until the same deadline. That has passed.
        if limits.may_block && limits.wait.is_some_and(|until| Instant::now() >= until) {
            outcomes[index] = Err(SkipReason::Busy);
            continue;
        }
        match plan_victim(buffer, victim, from, limits) {
            Ok(Some((plan, copier))) => MoveBatch::add(&mut batches, index, plan, copier),
            Ok(None) => outcomes[index] = Ok(()),
            Err(kept) => outcomes[index] = Err(kept),
        }
    }
    let may_block = if limits.may_block { MayBlock::Wait } else { MayBlock::Skip };
    for batch in batches {
        for (index, moved) in batch.relocate(set, may_block) {
            outcomes[index] =
                moved.map_err(|error| skip_reason(&error)).and_then(|moved| match moved {
                    MoveOutcome::Moved => Ok(()),
                    MoveOutcome::Retry => Err(SkipReason::Gone),
                    MoveOutcome::WouldBlock => Err(SkipReason::Locked),
                    MoveOutcome::NoPath => Err(SkipReason::Unreachable),
                });
        }
    }
    outcomes
}

/// Plans the eviction of a victim, if it may be evicted. `None` if it was purgeable, and is purged already.
fn plan_victim<'a>(
    buffer: &'a Arc<BufferInner>,
    victim: &Victim<SlotId>,
    from: DomainId,
    limits: &EvictionLimits,
) -> Result<Option<(Plan<'a>, Copier)>, SkipReason> {
    let group = loop {
        // Checked before anything is prepared. The result may change until the move takes the reservation,
        // which checks again.
        let mut state = match buffer.reservation.try_lock(&buffer.core().queues) {
            Some(state) => state,
            None if limits.may_block => {
                let left = limits.wait.map_or(Duration::ZERO, |until| {
                    until.saturating_duration_since(Instant::now())
                });
                let locked = buffer.reservation.lock_timeout(&buffer.core().queues, left);
                locked.ok_or(SkipReason::Locked)?
            }
            None => return Err(SkipReason::Locked),
        };
        // The buffer that needs the room is no victim.
        if matches!(limits.trigger, Trigger::Room { by: Some(by), .. } if by == buffer.id()) {
            return Err(SkipReason::Busy);
        }
        // Nor is a buffer of the submission that this search makes room for. Searches of other threads and
        // `evict_all` may evict it: it is not held, and its submission finds it where it is.
        if buffer.core().protected.contains(buffer.id()) {
            return Err(SkipReason::UsedTogether);
        }
        let entry = state.entry();
        let is_in_domain = entry.list_domain() == from && state.location().domain() == from;
        if entry.slot() != Some(victim.slot) || !is_in_domain {
            return Err(SkipReason::Gone);
        }
        let kept = if state.pinned() > 0 {
            Some(SkipReason::Pinned)
        } else {
            (state.host() > 0 || state.static_mappings() > 0).then_some(SkipReason::Held)
        };
        if let Some(kept) = kept {
            buffer.record_skipped(&mut state, kept);
            return Err(kept);
        }
        if !entry.is_purgeable() {
            let has_work = !state.fences().pending(Usage::Bookkeep).is_empty();
            if has_work && limits.skip_busy {
                return Err(SkipReason::Busy);
            }
            break state.location().group();
        }
        if let Some(purged) = buffer.purge_victim(&mut state, limits) {
            return purged.map(|()| None);
        }
        // A move of the buffer is in progress, and waits for work of the host.
        let moving = state.moving().cloned();
        drop(state);
        let time_left = limits.wait.map(|until| until.saturating_duration_since(Instant::now()));
        let waited =
            moving.map_or(Ok(()), |fence| fence.wait_until_over(time_left.unwrap_or_default()));
        waited.map_err(|error| skip_reason(&error))?;
    };
    plan_move(buffer, group, from, limits).map(Some)
}

/// Plans the move of a victim in `from` to system memory, whatever its placement: that says where the buffer may be used. The
/// reservation is not held.
fn plan_move<'a>(
    buffer: &'a Arc<BufferInner>,
    group: GroupId,
    from: DomainId,
    limits: &EvictionLimits,
) -> Result<(Plan<'a>, Copier), SkipReason> {
    if !limits.may_block {
        buffer.zero_rest(ZEROED_AT_ONCE);
    }
    // The memory of an integrated device is system memory: if that is what is short, a move frees nothing.
    if let Trigger::Room { bytes, .. } = limits.trigger {
        let ledger = &buffer.core().domain_state(from).ledger;
        if ledger.is_part() && ledger.move_gains_nothing((bytes, group)) {
            return Err(SkipReason::NoRoom);
        }
    }
    let plan = || {
        buffer.check_resident()?;
        let home = home_at(buffer, DomainId::System)?;
        let Some(plan) = Plan::new(buffer, &home, DomainKind::System, limits)? else {
            return Ok(None);
        };
        let copier = {
            let (clean, may_wait) = (plan.clean, limits.wait.is_some());
            let request = MoveRequest {
                clean,
                may_wait,
                deadline: limits.wait,
                ..MoveRequest::to_new(MoveCause::Evicted, limits.trigger)
            };
            Copier::find(buffer, &home, &plan.new, request)?
        };
        Ok(copier.map(|copier| (plan, copier)))
    };
    let (plan, copier) =
        plan().map_err(|error: Error| skip_reason(&error))?.ok_or(SkipReason::Gone)?;
    // A bounce copy has to be waited for.
    if copier.needs_bounce() && !limits.may_block {
        return Err(SkipReason::Busy);
    }
    Ok((plan, copier))
}

/// The reason why a victim was skipped, by the error of its move.
fn skip_reason(error: &Error) -> SkipReason {
    match error {
        Error::Busy { pinned: 1.., .. } => SkipReason::Pinned,
        Error::Busy { .. } => SkipReason::Held,
        Error::OutOfMemory { .. } | Error::FdLimit { .. } => SkipReason::NoRoom,
        Error::Unreachable { .. } | Error::Unsupported { .. } => SkipReason::Unreachable,
        Error::Timeout { .. } => SkipReason::Busy,
        // Another thread has purged it.
        Error::Purged { .. } => SkipReason::Gone,
        // It cannot be used or moved until the revocation is taken back.
        Error::Revoked { .. } => SkipReason::Held,
        error => {
            tracing::warn!(%error, "eviction failed; buffer stays resident");
            SkipReason::Failed
        }
    }
}
