//! Who is in a place and may be asked to leave, in the order in which to ask.
//!
//! Kernel counterpart: the lists of a `ttm_resource_manager`, one per priority, and the device's list of
//! what cannot be evicted.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::ageing::Ageing;
use super::entry::{Entry, PURGEABLE, QUEUED, State};
use super::order::Order;
pub(crate) use super::order::{Victim, Victims};
use super::policy::{Policy, Slot};
use super::priority::Priority;
use crate::memory::GroupId;
use crate::observe::Pick;

/// The buffers of one place: those that are in it, and those that would like to be.
///
/// `K` is what the owner finds a buffer by. A pinned buffer that somebody tried to evict is *parked*: in no
/// order, until it is used again or everything else was tried.
#[derive(Debug)]
pub(crate) struct Recency<K> {
    // Innermost; held for no call but the policy's.
    inner: Mutex<Order<K>>,
}

/// Age groups of which somebody was used, and that may have members in other places: those are to be told
/// ([`Recency::aged`]).
pub(crate) type Elsewhere = SmallVec<[Arc<Ageing>; 1]>;

impl<K: Copy> Recency<K> {
    pub(crate) fn new(make: fn() -> Box<dyn Policy>, capacity: u64) -> Self {
        Self { inner: Mutex::new(Order::new(make, capacity)) }
    }

    /// A buffer that is here, or would like to be.
    #[cfg(test)]
    pub(crate) fn join(&self, key: K, bytes: u64, priority: Priority, here: bool) -> Slot {
        self.join_in(GroupId::NONE, key, bytes, priority, here)
    }

    /// The same, of a client group.
    pub(crate) fn join_in(
        &self,
        group: GroupId,
        key: K,
        bytes: u64,
        priority: Priority,
        here: bool,
    ) -> Slot {
        let mut inner = self.lock();
        let slot = inner.enter(Entry::new(key, bytes, group, priority, here));
        if here {
            inner.here += 1;
            inner.admit(slot);
        }
        slot
    }

    /// The buffer is gone, or does not want to be here any more.
    pub(crate) fn leave(&self, slot: Slot) {
        let mut inner = self.lock();
        inner.forget(slot);
        inner.set(slot, State::Vacant);
        inner.vacate(slot);
    }

    /// Somebody uses it. Returns its age group, if that may have members elsewhere.
    pub(crate) fn used(&self, slot: Slot) -> Option<Arc<Ageing>> {
        self.lock().used(slot, None)
    }

    /// Somebody uses all of these: they age together, in this order. An age group is used once, whoever of it
    /// is among them.
    pub(crate) fn used_all(&self, slots: impl IntoIterator<Item = Slot>) -> Elsewhere {
        let mut inner = self.lock();
        let mut ages = HashSet::new();
        let used = slots.into_iter().filter_map(|slot| inner.used(slot, Some(&mut ages)));
        used.collect()
    }

    /// Somebody of an age group was used in another place.
    pub(crate) fn aged(&self, age: &Ageing) {
        self.lock().touch(age.id());
    }

    /// It is in that age group from now on, or in none. It stands as if it had been used just now: by itself,
    /// or among those of its bulk.
    pub(crate) fn set_age(&self, slot: Slot, age: Option<&Arc<Ageing>>) {
        let mut inner = self.lock();
        inner.forget(slot);
        if let Some(age) = age {
            inner.bulk(slot, age);
        }
        if inner.entry(slot).state() == State::Here {
            inner.admit(slot);
        }
    }

    /// It has moved: it is here, with so many bytes, or elsewhere.
    pub(crate) fn moved(&self, slot: Slot, here: Option<u64>) {
        let mut inner = self.lock();
        let before = inner.entry(slot);
        if let Some(bytes) = here {
            inner.entries[slot.0 as usize].set_bytes(bytes);
        }
        let entry = inner.entry(slot);
        match (before.state(), here) {
            (State::Away, Some(_)) => inner.admit(slot),
            // It has another slot or allocation here.
            (State::Here, Some(_)) if entry.units != before.units => {
                inner.withdraw(slot);
                inner.admit(slot);
            }
            (State::Here, None) => inner.withdraw(slot),
            (State::Parked, None) => {}
            _ => return,
        }
        inner.set(slot, if here.is_some() { State::Here } else { State::Away });
    }

    /// It was found to be pinned. If it has gone meanwhile, or has left, nothing happens, whoever has its
    /// slot now: nobody holds its lock any more.
    pub(crate) fn park(&self, victim: &Victim<K>) {
        let (slot, mut inner) = (victim.slot, self.lock());
        let entry = inner.entries[slot.0 as usize];
        if entry.state() != State::Here || entry.tenant != victim.tenant {
            return;
        }
        inner.withdraw(slot);
        inner.set(slot, State::Parked);
        inner.entries[slot.0 as usize].set(QUEUED, true);
        if !entry.has(QUEUED) {
            inner.parked.push_back(slot.0);
        }
    }

    /// How many may be parked.
    pub(crate) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// Puts up to `count` of those that were parked first back in order: they may not be pinned any more.
    /// Those whom `skip` names were asked just now; those of other groups than `group` are not to be asked.
    pub(crate) fn recheck(&self, group: GroupId, count: usize, skip: &dyn Fn(Slot) -> bool) {
        let mut inner = self.lock();
        for _ in 0..count {
            let Some(slot) = inner.parked.pop_front().map(Slot) else { return };
            let entry = inner.entries[slot.0 as usize];
            let other = group != GroupId::NONE && entry.group != group;
            if entry.state() == State::Parked && (other || skip(slot)) {
                inner.parked.push_back(slot.0);
                continue;
            }
            inner.entries[slot.0 as usize].set(QUEUED, false);
            inner.unpark(slot);
        }
    }

    /// It matters so much from now on.
    pub(crate) fn set_priority(&self, slot: Slot, priority: Priority) {
        self.lock().change(slot, |entry| entry.set_priority(priority));
    }

    /// Whether its content may be lost, from now on. Those are asked before all others.
    pub(crate) fn set_purgeable(&self, slot: Slot, purgeable: bool) {
        self.lock().change(slot, |entry| entry.set(PURGEABLE, purgeable));
    }

    /// How many bytes the place holds, from now on.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.capacity = bytes;
        inner.ranks.iter_mut().flatten().for_each(|rank| rank.capacity(bytes));
    }

    /// Whom to ask to leave so that `wanted` bytes become free: the smallest set that is enough, of those
    /// that come first: who may lose its content before all others (kernel: the shrinkers of TTM's drivers),
    /// then lowest priority first; fewer bytes if there is nobody else. None whom `skip` names, and none that
    /// is to keep its content and has a priority above `most`.
    #[cfg(test)]
    pub(crate) fn victims(
        &self,
        wanted: u64,
        most: Priority,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Victims<K> {
        self.victims_of(GroupId::NONE, wanted, most, skip)
    }

    /// The same, of a client group's own.
    pub(crate) fn victims_of(
        &self,
        group: GroupId,
        wanted: u64,
        most: Priority,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Victims<K> {
        let mut inner = self.lock();
        let (mut slots, mut victims, mut sum) = (vec![], Victims::new(), 0);
        let plain = group == GroupId::NONE && inner.ages.is_empty();
        for rank in 0..=1 + most.index() {
            if sum >= wanted {
                break;
            }
            if !plain {
                sum += inner.choose(rank, group, wanted - sum, skip, &mut victims);
                continue;
            }
            let Some(policy) = &mut inner.ranks[rank] else { continue };
            slots.clear();
            policy.victims(wanted - sum, skip, &mut slots);
            for &slot in &slots {
                let entry = inner.entry(slot);
                sum += entry.bytes();
                victims.push(entry.victim(slot));
            }
        }
        spare(&mut victims, sum.saturating_sub(wanted));
        victims
    }

    /// Everybody who is here, parked or not.
    #[cfg(test)]
    pub(crate) fn residents(&self) -> Vec<Victim<K>> {
        let inner = self.lock();
        let here =
            |&(_, entry): &(usize, &Entry<K>)| matches!(entry.state(), State::Here | State::Parked);
        let entries = inner.entries.iter().enumerate().filter(here);
        // CAST: as in `join`.
        entries.map(|(at, entry)| entry.victim(Slot(at as u32))).collect()
    }

    /// Whoever has a slot, as if it had been chosen.
    #[cfg(test)]
    pub(crate) fn victim(&self, slot: Slot) -> Victim<K> {
        self.lock().entry(slot).victim(slot)
    }

    /// How victims are chosen, for explanations, and how many others there are that might have been.
    pub(crate) fn pick(&self) -> (Pick, u32) {
        let inner = self.lock();
        let ranks = inner.ranks[1..].iter().flatten().count();
        let pick = if ranks > 1 { Pick::LowestPriority } else { Pick::Rule };
        (pick, inner.here)
    }

    /// Bytes of bookkeeping, those of the policy included.
    #[cfg(test)]
    pub(crate) fn footprint(&self) -> usize {
        let inner = self.lock();
        let policies: usize = inner.ranks.iter().flatten().map(|rank| rank.footprint()).sum();
        inner.entries.capacity() * size_of::<Entry<K>>()
            + (inner.vacant.capacity() + inner.parked.capacity()) * size_of::<u32>()
            + inner.rolls.footprint()
            + policies
    }

    fn lock(&self) -> MutexGuard<'_, Order<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out those that need not go, the last ones first: they are the most worth keeping.
fn spare<K>(victims: &mut Victims<K>, mut surplus: u64) {
    for at in (0..victims.len()).rev() {
        if victims[at].bytes <= surplus {
            surplus -= victims.remove(at).bytes;
        }
    }
}
