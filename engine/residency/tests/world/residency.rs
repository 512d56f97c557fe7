//! [`World`] for the model.

use std::sync::MutexGuard;
use std::time::Instant;

use super::{Attempt, Fake, InFlight, Inner, Lock, Nature, Refused, number};
use crate::memory::{Charge, DomainId, GroupId, Room};
use crate::residency::domain_state::DomainState;
use crate::residency::eviction_failures::{CapReached, EvictionFailures, SkipReason};
use crate::residency::list_entry::Victim;
use crate::residency::policy::Slot;
use crate::residency::room::{PlacementOption, Rejected, with_room};
use crate::residency::world::{EvictionLimits, Outcomes, ReleaseWait, Trigger, World};

impl World for Fake {
    type Key = u32;
    type Error = Refused;

    fn domain_state(&self, domain: DomainId) -> &DomainState<u32> {
        &self.sites[number(domain)].store
    }

    fn start_tracking(&self, _: DomainId) {}

    fn reclaim(&self, domain: DomainId, _: GroupId, _: &dyn Fn() -> bool) {
        self.collect(&mut self.inner(), number(domain));
    }

    fn compact(&self, domain: DomainId, _: Trigger) -> u64 {
        std::mem::take(&mut self.inner().sparse[number(domain)])
    }

    fn trim(&self, domain: DomainId) -> u64 {
        let mut inner = self.inner();
        inner.trims += 1;
        self.collect(&mut inner, number(domain));
        std::mem::take(&mut inner.warm[number(domain)])
    }

    fn evict(&self, from: DomainId, victims: &[Victim<u32>], limits: &EvictionLimits) -> Outcomes {
        let ask = |victim: &Victim<u32>| {
            let outcome = self.ask(number(from), victim, limits);
            let Victim { key: buffer, bytes, .. } = *victim;
            let (from, depth) = (number(from), limits.depth);
            self.inner().asked.push(Attempt { from, depth, buffer, bytes, outcome });
            outcome
        };
        victims.iter().map(ask).collect()
    }

    fn in_flight(&self, from: DomainId, of: GroupId) -> u64 {
        let (mut inner, from) = (self.inner(), number(from));
        let is_its = |each: &InFlight| of == GroupId::NONE || each.group == of;
        let leaves = inner.in_flight.iter().filter(|each| each.at == from && !each.ghost);
        let bytes = leaves.filter(|each| is_its(each)).map(|each| each.bytes).sum();
        if bytes > 0 && std::mem::take(&mut inner.raced) {
            inner.work.iter_mut().for_each(|work| work.over = true);
            self.collect(&mut inner, from);
        }
        bytes
    }

    fn wait_for_release(
        &self,
        from: DomainId,
        limits: &EvictionLimits,
        enough: &dyn Fn() -> bool,
    ) -> ReleaseWait {
        let mut inner = self.inner();
        let from = number(from);
        let leaves = |each: &InFlight| each.at == from && !each.ghost;
        let mut settled = ReleaseWait::NothingInFlight;
        while let Some(first) = inner.in_flight.iter().position(leaves) {
            if limits.wait.is_none() || inner.stuck {
                return ReleaseWait::TimedOut;
            }
            for work in inner.in_flight[first].work.clone() {
                inner.work[work].over = true;
            }
            self.collect(&mut inner, from);
            settled = ReleaseWait::Released;
            if enough() {
                break;
            }
        }
        settled
    }

    fn name_kept(&self, key: u32, why: SkipReason, failures: &mut EvictionFailures) {
        if why == SkipReason::Pinned {
            failures.pinned_by(format!("holder of buffer {key}"));
        }
    }

    fn no_room(
        &self,
        at: DomainId,
        asked: u64,
        capped: Option<GroupId>,
        mut failures: EvictionFailures,
    ) -> Refused {
        if let Some(group) = capped {
            let usage = self.domain_state(at).ledger.group(group);
            let (name, cap) = (group.0.to_string(), usage.cap.expect("it is capped"));
            failures.capped(CapReached { group: name, asked, cap, used: usage.used });
        }
        Refused::NoRoom { at, failures }
    }
}

impl Fake {
    /// Frees bytes that are no longer in use.
    pub(super) fn collect(&self, inner: &mut Inner, at: usize) {
        let all = std::mem::take(&mut inner.in_flight);
        for each in all {
            if each.at == at && !each.ghost && inner.pending(&each.work).is_empty() {
                self.free(inner, at, (each.bytes, each.group));
            } else {
                inner.in_flight.push(each);
            }
        }
    }

    /// The provider allocates memory for room in the ledger.
    pub(super) fn provide(&self, at: usize, room: Room<'_>) -> Result<usize, Rejected<Refused>> {
        let (mut inner, ledger) = (self.inner(), &self.sites[at].store.ledger);
        assert_eq!(
            room.domain(),
            ledger.id(),
            "the room is in the domain that it was requested from"
        );
        match inner.natures[at] {
            Nature::Full => return Err(Rejected::Full(Refused::Full)),
            Nature::Busy => return Err(Rejected::Failed(Refused::Failed)),
            Nature::Limited(bytes)
                if inner.given[at] + inner.warm[at] + inner.sparse[at] + room.bytes() > bytes =>
            {
                return Err(Rejected::Full(Refused::Full));
            }
            Nature::Works | Nature::Limited(_) => {}
        }
        inner.given[at] += room.bytes();
        room.spend();
        Ok(at)
    }

    pub(super) fn free(&self, inner: &mut Inner, at: usize, charge: impl Into<Charge>) {
        let charge = charge.into();
        let bytes = charge.bytes;
        inner.given[at] -= bytes;
        if matches!(inner.natures[at], Nature::Limited(_)) {
            inner.warm[at] += bytes;
        }
        self.sites[at].store.ledger.credit(charge);
        if inner.thief {
            let taken = self.sites[at].store.ledger.charge(bytes).is_some();
            inner.thefts = (inner.thefts.0 + 1, inner.thefts.1 + u32::from(taken));
        }
    }

    /// Tries to evict one buffer.
    fn ask(
        &self,
        from: usize,
        victim: &Victim<u32>,
        limits: &EvictionLimits,
    ) -> Result<(), SkipReason> {
        let buffer = victim.key;
        let (bytes, group) = {
            let mut inner = self.movable(buffer, from, victim.slot, limits)?;
            if inner.buffer(buffer).fleeting {
                let gone = inner.buffers[buffer as usize].take().expect("it was there");
                self.release(&mut inner, &gone);
                return Err(SkipReason::Pinned);
            }
            assert_eq!(inner.buffer(buffer).bytes, victim.bytes, "as many as it has");
            if inner.buffer(buffer).discardable {
                self.discard(&mut inner, buffer);
                return Ok(());
            }
            (victim.bytes, inner.buffer(buffer).group)
        };
        let to = self.sites[from].slower.ok_or(SkipReason::Unreachable)?;
        let place = PlacementOption { domain: super::site(to), fallback: false };
        let mut take = |_, room: Room<'_>| self.provide(to, room);
        let new =
            with_room(self, &[place], (bytes, group), limits, &mut take).map_err(|error| {
                match error {
                    Refused::NoRoom { .. } | Refused::Full => SkipReason::NoRoom,
                    Refused::Failed | Refused::Kept(_) => SkipReason::Failed,
                }
            })?;
        let new = new.ok_or(SkipReason::Unreachable)?.taken;
        let mut inner = match self.movable(buffer, from, victim.slot, limits) {
            Ok(inner) => inner,
            Err(kept) => {
                self.free(&mut self.inner(), new, (bytes, group));
                return Err(kept);
            }
        };
        self.commit(&mut inner, buffer, new);
        if inner.buffer(buffer).restless {
            self.return_to(&mut inner, buffer, from);
        }
        Ok(())
    }

    /// The locked model, if the buffer may leave `from` now.
    fn movable(
        &self,
        buffer: u32,
        from: usize,
        slot: Slot,
        limits: &EvictionLimits,
    ) -> Result<MutexGuard<'_, Inner>, SkipReason> {
        let mut inner = self.inner();
        loop {
            let stuck = inner.stuck;
            let Some(Some(each)) = inner.buffers.get_mut(buffer as usize) else {
                return Err(SkipReason::Gone);
            };
            if each.at != Some(from) || each.slot(from) != Some(slot) {
                return Err(SkipReason::Gone);
            }
            match each.lock {
                Lock::Free => {}
                _ if !limits.may_block => return Err(SkipReason::Locked),
                Lock::Yielding => each.lock = Lock::Free,
                Lock::Taken => {
                    inner = self.wait_unlocked(inner, limits).ok_or(SkipReason::Locked)?;
                    continue;
                }
            }
            if each.external {
                return Err(SkipReason::Unreachable);
            }
            if each.pins > 0 {
                return Err(SkipReason::Pinned);
            }
            if each.held {
                return Err(SkipReason::Held);
            }
            let work = each.work.clone();
            let pending = inner.pending(&work);
            if !pending.is_empty() && limits.skip_busy {
                return Err(SkipReason::Busy);
            }
            let by_host: Vec<_> =
                pending.into_iter().filter(|&each| inner.work[each].host).collect();
            if by_host.is_empty() {
                return Ok(inner);
            }
            if !limits.may_block {
                return Err(SkipReason::Locked);
            }
            if stuck {
                return Err(SkipReason::Busy);
            }
            by_host.into_iter().for_each(|each| inner.work[each].over = true);
        }
    }

    /// Waits until a buffer's lock is released; `None` after the limits' time.
    pub(super) fn wait_unlocked<'a>(
        &self,
        inner: MutexGuard<'a, Inner>,
        limits: &EvictionLimits,
    ) -> Option<MutexGuard<'a, Inner>> {
        let left = limits.wait?.saturating_duration_since(Instant::now());
        let (inner, waited) = self.unlocked.wait_timeout(inner, left).expect("no thread panicked");
        (!waited.timed_out()).then_some(inner)
    }

    /// Moves the buffer to `to`, where its bytes are charged already.
    pub(super) fn commit(&self, inner: &mut Inner, buffer: u32, to: usize) {
        let mut work = inner.buffer(buffer).work.clone();
        if inner.slow {
            work.push(inner.new_work(false));
        }
        let pending = inner.pending(&work);
        let each = inner.buffer(buffer);
        // External memory gets its first domain like any other.
        let external = each.external && each.at.is_some();
        assert!(each.pins == 0 && !each.held && !external, "buffer {buffer} must stay");
        let (bytes, group) = (each.bytes, each.group);
        let (ghost, from) = (each.mapped, each.at.replace(to));
        each.work.clone_from(&pending);
        if let Some(from) = from {
            each.moves += 1;
            self.depart(inner, buffer, from);
            inner.in_flight.push(InFlight { at: from, bytes, group, work: pending, ghost });
            inner.bytes_moved += bytes;
            if !inner.slow && !inner.soon {
                self.collect(inner, from);
            }
        }
        self.arrive(inner, buffer, to);
    }

    /// Discards the buffer's content and its backing.
    pub(super) fn discard(&self, inner: &mut Inner, buffer: u32) {
        let each = inner.buffer(buffer);
        assert!(each.pins == 0 && !each.held && !each.external, "buffer {buffer} must stay");
        let (bytes, group) = (each.bytes, each.group);
        let (ghost, work) = (each.mapped, std::mem::take(&mut each.work));
        each.content = false;
        if let Some(at) = each.at.take() {
            self.depart(inner, buffer, at);
            inner.in_flight.push(InFlight { at, bytes, group, work, ghost });
            self.collect(inner, at);
        }
    }

    fn depart(&self, inner: &mut Inner, buffer: u32, from: usize) {
        let each = inner.buffer(buffer);
        let Some(slot) = each.slot(from) else { return };
        let eviction_list = &self.sites[from].store.eviction_list;
        if each.preferred == from {
            eviction_list.moved(slot, None);
        } else {
            eviction_list.remove(slot);
            each.entries.retain(|(at, _)| *at != from);
        }
    }

    fn arrive(&self, inner: &mut Inner, buffer: u32, to: usize) {
        let each = inner.buffer(buffer);
        let eviction_list = &self.sites[to].store.eviction_list;
        match each.slot(to) {
            Some(slot) => eviction_list.moved(slot, Some(each.bytes)),
            None => {
                let slot =
                    eviction_list.insert_in(each.group, buffer, each.bytes, each.priority, true);
                each.age.iter().for_each(|age| age.may_be_in(super::site(to)));
                eviction_list.set_bulk_group(slot, each.age.as_ref());
                each.entries.push((to, slot));
            }
        }
    }

    /// Returns a restless buffer, if there is room.
    fn return_to(&self, inner: &mut Inner, buffer: u32, to: usize) {
        let (bytes, group) = (inner.buffer(buffer).bytes, inner.buffer(buffer).group);
        assert!(inner.buffer(buffer).moves < 100, "buffer {buffer} is evicted again and again");
        if let Some(room) = self.sites[to].store.ledger.charge((bytes, group)) {
            inner.given[to] += bytes;
            room.spend();
            self.commit(inner, buffer, to);
        }
    }
}
