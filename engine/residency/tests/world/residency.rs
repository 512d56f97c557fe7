//! What residency asks of the world.

use std::sync::MutexGuard;
use std::time::Instant;

use super::{Asked, Fake, Inner, Lock, Nature, OnWay, Refused, number};
use crate::memory::{Charge, DomainId, GroupId, Room};
use crate::residency::obstacles::{CapReached, Kept, Obstacles};
use crate::residency::policy::Slot;
use crate::residency::recency::Victim;
use crate::residency::room::{Outcomes, Place, Settled, Terms, Turned, World, with_room};
use crate::residency::store::Store;

impl World for Fake {
    type Key = u32;
    type Error = Refused;

    fn store(&self, domain: DomainId) -> &Store<u32> {
        &self.sites[number(domain)].store
    }

    fn line_up(&self, _: DomainId) {}

    fn reap(&self, domain: DomainId, _: GroupId, _: &dyn Fn() -> bool) {
        self.collect(&mut self.inner(), number(domain));
    }

    fn trim(&self, domain: DomainId) -> u64 {
        let mut inner = self.inner();
        inner.trims += 1;
        self.collect(&mut inner, number(domain));
        std::mem::take(&mut inner.warm[number(domain)])
    }

    fn evict(&self, from: DomainId, victims: &[Victim<u32>], terms: &Terms) -> Outcomes {
        let ask = |victim: &Victim<u32>| {
            let outcome = self.ask(number(from), victim, terms);
            let Victim { key: buffer, bytes, .. } = *victim;
            let (from, depth) = (number(from), terms.depth);
            self.inner().asked.push(Asked { from, depth, buffer, bytes, outcome });
            outcome
        };
        victims.iter().map(ask).collect()
    }

    fn leaving(&self, from: DomainId, of: GroupId) -> u64 {
        let (mut inner, from) = (self.inner(), number(from));
        let is_its = |each: &OnWay| of == GroupId::NONE || each.group == of;
        let leaves = inner.on_way.iter().filter(|each| each.at == from && !each.ghost);
        let bytes = leaves.filter(|each| is_its(each)).map(|each| each.bytes).sum();
        if bytes > 0 && std::mem::take(&mut inner.raced) {
            inner.work.iter_mut().for_each(|work| work.over = true);
            self.collect(&mut inner, from);
        }
        bytes
    }

    fn settle(&self, from: DomainId, terms: &Terms, enough: &dyn Fn() -> bool) -> Settled {
        let mut inner = self.inner();
        let from = number(from);
        let leaves = |each: &OnWay| each.at == from && !each.ghost;
        let mut settled = Settled::Nothing;
        while let Some(first) = inner.on_way.iter().position(leaves) {
            if terms.wait.is_none() || inner.stuck {
                return Settled::Late;
            }
            for work in inner.on_way[first].work.clone() {
                inner.work[work].over = true;
            }
            self.collect(&mut inner, from);
            settled = Settled::Out;
            if enough() {
                break;
            }
        }
        settled
    }

    fn name_pins(&self, key: u32, obstacles: &mut Obstacles) {
        obstacles.pinned_by(format!("whoever pinned buffer {key}"));
    }

    fn no_room(
        &self,
        at: DomainId,
        asked: u64,
        capped: Option<GroupId>,
        mut obstacles: Obstacles,
    ) -> Refused {
        if let Some(group) = capped {
            let usage = self.store(at).ledger.group(group);
            let (name, cap) = (group.0.to_string(), usage.cap.expect("it is capped"));
            obstacles.capped(CapReached { group: name, asked, cap, used: usage.used });
        }
        Refused::NoRoom { at, obstacles }
    }
}

impl Fake {
    /// Takes back what is not in use any more.
    pub(super) fn collect(&self, inner: &mut Inner, at: usize) {
        let all = std::mem::take(&mut inner.on_way);
        for each in all {
            if each.at == at && !each.ghost && inner.pending(&each.work).is_empty() {
                self.free(inner, at, (each.bytes, each.group));
            } else {
                inner.on_way.push(each);
            }
        }
    }

    /// A provider gives memory for what has room.
    pub(super) fn provide(&self, at: usize, room: Room<'_>) -> Result<usize, Turned<Refused>> {
        let (mut inner, ledger) = (self.inner(), &self.sites[at].store.ledger);
        assert_eq!(room.domain(), ledger.id(), "room is of the place that it was asked of");
        match inner.natures[at] {
            Nature::Full => return Err(Turned::Full(Refused::Full)),
            Nature::Busy => return Err(Turned::Failed(Refused::Failed)),
            Nature::Tight(bytes) if inner.given[at] + inner.warm[at] + room.bytes() > bytes => {
                return Err(Turned::Full(Refused::Full));
            }
            Nature::Works | Nature::Tight(_) => {}
        }
        inner.given[at] += room.bytes();
        room.spend();
        Ok(at)
    }

    pub(super) fn free(&self, inner: &mut Inner, at: usize, charge: impl Into<Charge>) {
        let charge = charge.into();
        let bytes = charge.bytes;
        inner.given[at] -= bytes;
        if matches!(inner.natures[at], Nature::Tight(_)) {
            inner.warm[at] += bytes;
        }
        self.sites[at].store.ledger.credit(charge);
        if inner.thief {
            let taken = self.sites[at].store.ledger.charge(bytes).is_some();
            inner.thefts = (inner.thefts.0 + 1, inner.thefts.1 + u32::from(taken));
        }
    }

    /// Asks one buffer to leave.
    fn ask(&self, from: usize, victim: &Victim<u32>, terms: &Terms) -> Result<(), Kept> {
        let buffer = victim.key;
        let (bytes, group) = {
            let mut inner = self.movable(buffer, from, victim.slot, terms)?;
            if inner.buffer(buffer).fleeting {
                let gone = inner.buffers[buffer as usize].take().expect("it was there");
                self.bury(&mut inner, &gone);
                return Err(Kept::Pinned);
            }
            assert_eq!(inner.buffer(buffer).bytes, victim.bytes, "as many as it has");
            if inner.buffer(buffer).discardable {
                self.discard(&mut inner, buffer);
                return Ok(());
            }
            (victim.bytes, inner.buffer(buffer).group)
        };
        let to = self.sites[from].slower.ok_or(Kept::Unreachable)?;
        let place = Place { domain: super::site(to), fallback: false };
        let mut take = |_, room: Room<'_>| self.provide(to, room);
        let new =
            with_room(self, &[place], (bytes, group), terms, &mut take).map_err(
                |error| match error {
                    Refused::NoRoom { .. } | Refused::Full => Kept::NoRoom,
                    Refused::Failed | Refused::Kept(_) => Kept::Failed,
                },
            )?;
        let new = new.ok_or(Kept::Unreachable)?.taken;
        let mut inner = match self.movable(buffer, from, victim.slot, terms) {
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

    /// The world, locked, if the buffer may leave `from` now.
    fn movable(
        &self,
        buffer: u32,
        from: usize,
        slot: Slot,
        terms: &Terms,
    ) -> Result<MutexGuard<'_, Inner>, Kept> {
        let mut inner = self.inner();
        loop {
            let stuck = inner.stuck;
            let Some(Some(each)) = inner.buffers.get_mut(buffer as usize) else {
                return Err(Kept::Gone);
            };
            if each.at != Some(from) || each.slot(from) != Some(slot) {
                return Err(Kept::Gone);
            }
            match each.lock {
                Lock::Free => {}
                _ if !terms.patient => return Err(Kept::Locked),
                Lock::Yielding => each.lock = Lock::Free,
                Lock::Taken => {
                    inner = self.wait_unlocked(inner, terms).ok_or(Kept::Locked)?;
                    continue;
                }
            }
            if each.external {
                return Err(Kept::Unreachable);
            }
            if each.pins > 0 {
                return Err(Kept::Pinned);
            }
            if each.held {
                return Err(Kept::Held);
            }
            let work = each.work.clone();
            let pending = inner.pending(&work);
            if !pending.is_empty() && terms.skip_busy {
                return Err(Kept::Busy);
            }
            let by_host: Vec<_> =
                pending.into_iter().filter(|&each| inner.work[each].host).collect();
            if by_host.is_empty() {
                return Ok(inner);
            }
            if !terms.patient {
                return Err(Kept::Locked);
            }
            if stuck {
                return Err(Kept::Busy);
            }
            by_host.into_iter().for_each(|each| inner.work[each].over = true);
        }
    }

    /// Waits until somebody lets a lock go; `None` if that takes too long.
    pub(super) fn wait_unlocked<'a>(
        &self,
        inner: MutexGuard<'a, Inner>,
        terms: &Terms,
    ) -> Option<MutexGuard<'a, Inner>> {
        let left = terms.wait?.saturating_duration_since(Instant::now());
        let (inner, waited) = self.unlocked.wait_timeout(inner, left).expect("nobody panicked");
        (!waited.timed_out()).then_some(inner)
    }

    /// The buffer is at `to` from now on; its bytes there are charged.
    pub(super) fn commit(&self, inner: &mut Inner, buffer: u32, to: usize) {
        let mut work = inner.buffer(buffer).work.clone();
        if inner.slow {
            work.push(inner.new_work(false));
        }
        let pending = inner.pending(&work);
        let each = inner.buffer(buffer);
        // Somebody else's memory has a first place like everybody's.
        let external = each.external && each.at.is_some();
        assert!(each.pins == 0 && !each.held && !external, "buffer {buffer} is to stay");
        let (bytes, group) = (each.bytes, each.group);
        let (ghost, from) = (each.haunted, each.at.replace(to));
        each.work.clone_from(&pending);
        if let Some(from) = from {
            each.moves += 1;
            self.depart(inner, buffer, from);
            inner.on_way.push(OnWay { at: from, bytes, group, work: pending, ghost });
            inner.bytes_moved += bytes;
            if !inner.slow && !inner.soon {
                self.collect(inner, from);
            }
        }
        self.arrive(inner, buffer, to);
    }

    /// The buffer has no bytes any more, and lost what was in them.
    pub(super) fn discard(&self, inner: &mut Inner, buffer: u32) {
        let each = inner.buffer(buffer);
        assert!(each.pins == 0 && !each.held && !each.external, "buffer {buffer} is to stay");
        let (bytes, group) = (each.bytes, each.group);
        let (ghost, work) = (each.haunted, std::mem::take(&mut each.work));
        each.content = false;
        if let Some(at) = each.at.take() {
            self.depart(inner, buffer, at);
            inner.on_way.push(OnWay { at, bytes, group, work, ghost });
            self.collect(inner, at);
        }
    }

    fn depart(&self, inner: &mut Inner, buffer: u32, from: usize) {
        let each = inner.buffer(buffer);
        let Some(slot) = each.slot(from) else { return };
        let recency = &self.sites[from].store.recency;
        if each.wanted == from {
            recency.moved(slot, None);
        } else {
            recency.leave(slot);
            each.berths.retain(|(at, _)| *at != from);
        }
    }

    fn arrive(&self, inner: &mut Inner, buffer: u32, to: usize) {
        let each = inner.buffer(buffer);
        let recency = &self.sites[to].store.recency;
        match each.slot(to) {
            Some(slot) => recency.moved(slot, Some(each.bytes)),
            None => {
                let slot = recency.join_in(each.group, buffer, each.bytes, each.priority, true);
                each.age.iter().for_each(|age| age.may_be_in(super::site(to)));
                recency.set_age(slot, each.age.as_ref());
                each.berths.push((to, slot));
            }
        }
    }

    /// A restless buffer is used, and comes back if there is room.
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
