//! What residency asks of the engine: moving victims out, and waiting until they are out.
//!
//! Kernel counterparts: `ttm_bo_evict`, `ttm_bo_evict_cb`.

use std::sync::Arc;
use std::time::Instant;

use super::batch::{Group, Patience, TOGETHER};
use super::berth::tighten;
use super::clean::drop_clean_copies;
use super::migrate::{Plan, home_at};
use super::mover::Mover;
use super::registry::SlotId;
use super::relocate::{Errand, Moved};
use super::shared::BufferInner;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::memory::{DomainId, DomainKind, GroupId};
use crate::observe::{MoveCause, StallCause};
use crate::residency::{
    CapReached, Demand, Kept, Obstacles, Outcomes, Settled, Store, Terms, Victim, World,
};
use crate::sync::Usage;

impl World for Core {
    type Key = SlotId;
    type Error = Error;

    fn store(&self, domain: DomainId) -> &Store<SlotId> {
        Self::store(self, domain)
    }

    fn line_up(&self, domain: DomainId) {
        tighten(self, domain);
    }

    fn reap(&self, domain: DomainId, of: GroupId, enough: &dyn Fn() -> bool) {
        self.retire.collect();
        if domain == DomainId::System {
            drop_clean_copies(self, of, enough);
        }
    }

    fn trim(&self, domain: DomainId) -> u64 {
        self.trim_in(domain)
    }

    fn evict(&self, from: DomainId, victims: &[Victim<SlotId>], terms: &Terms) -> Outcomes {
        // So many reservations are held at once, and no more.
        let some = victims.chunks(TOGETHER);
        some.flat_map(|victims| evict_some(self, from, victims, terms)).collect()
    }

    fn leaving(&self, from: DomainId, of: GroupId) -> u64 {
        self.retire.bytes_of(of, from)
    }

    fn settle(&self, from: DomainId, terms: &Terms, enough: &dyn Fn() -> bool) -> Settled {
        let Some(until) = terms.wait else {
            return if self.retire.bytes_in(from) > 0 { Settled::Late } else { Settled::Nothing };
        };
        let start = Instant::now();
        let waited = self.retire.wait_for(from, until, enough);
        if !matches!(waited, Ok(false)) {
            self.stalls.add(StallCause::Room, start.elapsed());
        }
        match waited {
            Ok(true) => Settled::Out,
            Ok(false) => Settled::Nothing,
            Err(error) => {
                tracing::warn!(%error, %from, "what leaves is not out in time");
                Settled::Late
            }
        }
    }

    fn name_pins(&self, key: SlotId, obstacles: &mut Obstacles) {
        let Some(buffer) = self.buffers.get(key) else { return };
        let state = buffer.lock();
        for line in state.pin_lines().iter().filter(|line| line.pins() > 0) {
            let device = &self.member(line.device()).device;
            obstacles.pinned_by(format!("{}: {}", device.name(), line.reason()));
            obstacles.pins(line.device(), buffer.size, line.pins());
        }
        if state.exported() > 0 {
            obstacles.pinned_by("handed out".into());
        }
        drop(state);
    }

    fn no_room(
        &self,
        domain: DomainId,
        bytes: u64,
        capped: Option<GroupId>,
        mut obstacles: Obstacles,
    ) -> Error {
        let ledger = &self.store(domain).ledger;
        if let Some(group) = capped.and_then(|id| self.groups.get(id)) {
            let usage = ledger.group(group.id);
            let (group, cap) = (group.name.to_string(), usage.cap.unwrap_or(u64::MAX));
            obstacles.capped(CapReached { group, asked: bytes, cap, used: usage.used });
        }
        Error::OutOfMemory {
            domain,
            requested: bytes,
            budget: ledger.budget(),
            used: ledger.used(),
            code: None,
            obstacles: Box::new(obstacles),
        }
    }
}

/// Moves victims out, those that one device copies in one submission.
fn evict_some(
    core: &Core,
    from: DomainId,
    victims: &[Victim<SlotId>],
    terms: &Terms,
) -> Vec<Result<(), Kept>> {
    let buffers: Vec<_> = victims.iter().map(|victim| core.buffers.get(victim.key)).collect();
    let mut outcomes: Vec<_> = victims.iter().map(|_| Err(Kept::Gone)).collect();
    let mut groups: Vec<Group<'_>> = vec![];
    for (index, (victim, buffer)) in victims.iter().zip(&buffers).enumerate() {
        let Some(buffer) = buffer else { continue };
        // Who is asked with patience would have to be waited for, and the time for that is over: all of them
        // have the same.
        if terms.patient && terms.wait.is_some_and(|until| Instant::now() >= until) {
            outcomes[index] = Err(Kept::Busy);
            continue;
        }
        match plan(buffer, victim, from, terms) {
            Ok(Some((plan, mover))) => Group::add(&mut groups, index, plan, mover),
            Ok(None) => outcomes[index] = Ok(()),
            Err(kept) => outcomes[index] = Err(kept),
        }
    }
    let patience = if terms.patient { Patience::Wait } else { Patience::Skip };
    for group in groups {
        for (index, moved) in group.relocate(core, patience) {
            outcomes[index] = moved.map_err(|error| why(&error)).and_then(|moved| match moved {
                Moved::Yes => Ok(()),
                Moved::LookAgain => Err(Kept::Gone),
                Moved::NotNow => Err(Kept::Locked),
                Moved::NoMover => Err(Kept::Unreachable),
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
    terms: &Terms,
) -> Result<Option<(Plan<'a>, Mover)>, Kept> {
    loop {
        // A look before anything is made ready: the answer may be different when it matters, and is then
        // found out again.
        let mut state = match buffer.reservation.try_lock(&buffer.core.queues) {
            Some(state) => state,
            None if terms.patient => buffer.lock(),
            None => return Err(Kept::Locked),
        };
        // Room for a buffer in the place where it is would not be made by its leaving.
        if matches!(terms.demand, Demand::Room { by: Some(by), .. } if by == buffer.id()) {
            return Err(Kept::Busy);
        }
        // Nor would it for those that are used together with it.
        if buffer.core.spared.contains(buffer.id()) {
            return Err(Kept::Busy);
        }
        let berth = state.berth;
        let is_there = berth.order() == from && state.place.domain() == from;
        if berth.slot() != Some(victim.slot) || !is_there {
            return Err(Kept::Gone);
        }
        let kept = if state.pinned() > 0 {
            Some(Kept::Pinned)
        } else {
            (state.host() > 0 || state.static_mappings() > 0).then_some(Kept::Held)
        };
        if let Some(kept) = kept {
            buffer.decide_to_stay(&mut state, kept);
            return Err(kept);
        }
        if !berth.is_purgeable() {
            let at_work = !state.fences.pending(Usage::Bookkeep).is_empty();
            if at_work && terms.skip_busy {
                return Err(Kept::Busy);
            }
            break;
        }
        if let Some(purged) = buffer.purge_victim(&mut state, terms) {
            return purged.map(|()| None);
        }
        // A move of it waits for work of the host.
        let moving = state.moving().cloned();
        drop(state);
        let left = terms.wait.map(|until| until.saturating_duration_since(Instant::now()));
        let waited = moving.map_or(Ok(()), |gate| gate.wait_until_over(left.unwrap_or_default()));
        waited.map_err(|error| why(&error))?;
    }
    plan_unlocked(buffer, terms).map(Some)
}

fn plan_unlocked<'a>(
    buffer: &'a Arc<BufferInner>,
    terms: &Terms,
) -> Result<(Plan<'a>, Mover), Kept> {
    if !buffer.placement().kinds().contains(&DomainKind::System) {
        return Err(Kept::Unreachable);
    }
    let planned = || {
        buffer.check_there()?;
        let home = home_at(buffer, DomainId::System)?;
        let Some(plan) = Plan::new(buffer, &home, DomainKind::System, terms)? else {
            return Ok(None);
        };
        let mover = {
            let (clean, waits) = (plan.clean, terms.wait.is_some());
            let errand = Errand {
                clean,
                waits,
                until: terms.wait,
                ..Errand::to_new(MoveCause::Evicted, terms.demand)
            };
            Mover::find(buffer, &home, &plan.new, errand)?
        };
        Ok(mover.map(|mover| (plan, mover)))
    };
    let (plan, mover) = planned().map_err(|error: Error| why(&error))?.ok_or(Kept::Gone)?;
    // It would have to be waited for until its bytes are out.
    if mover.has_no_device() && !terms.patient {
        return Err(Kept::Busy);
    }
    Ok((plan, mover))
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
