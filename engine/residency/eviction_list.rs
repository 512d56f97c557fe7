//! The eviction list of a domain: its buffers, in the order in which they are evicted.
//!
//! Kernel counterpart: the lists of a `ttm_resource_manager`, one per priority, and the device's list of
//! objects that cannot be evicted.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::bulk_move::BulkGroup;
use super::eviction_order::EvictionOrder;
use super::list_entry::{Entry, IN_BULK, PURGEABLE, QUEUED, State, Victim, Victims};
use super::policy::{Policy, Slot};
use super::priority::Priority;
use crate::memory::GroupId;
use crate::observe::{Pick, note_shared_write};

/// The entries of one domain: the buffers that are resident there, and those that are displaced from it.
///
/// `K` is the key by which the owner finds a buffer. A buffer that an eviction has found pinned is *parked*:
/// it is in no order until its next use, or until all other buffers were tried.
#[derive(Debug)]
pub(crate) struct EvictionList<K> {
    // Innermost lock. Under it only the policy is called.
    inner: Mutex<EvictionOrder<K>>,
}

/// Bulk groups that were used and may have members in other domains. The caller passes the use on to those
/// domains ([`EvictionList::mark_group_used`]).
pub(crate) type SpanningGroups = SmallVec<[Arc<BulkGroup>; 1]>;

impl<K: Copy> EvictionList<K> {
    pub(crate) fn new(make: fn() -> Box<dyn Policy>, capacity: u64) -> Self {
        Self { inner: Mutex::new(EvictionOrder::new(make, capacity)) }
    }

    /// Adds a buffer without a client group: see [`Self::insert_in`].
    #[cfg(test)]
    pub(crate) fn insert(&self, key: K, bytes: u64, priority: Priority, resident: bool) -> Slot {
        self.insert_in(GroupId::NONE, key, bytes, priority, resident)
    }

    /// Adds a buffer of a client group, which is resident in the domain or displaced from it.
    pub(crate) fn insert_in(
        &self,
        group: GroupId,
        key: K,
        bytes: u64,
        priority: Priority,
        resident: bool,
    ) -> Slot {
        let mut inner = self.lock();
        let slot = inner.enter(Entry::new(key, bytes, group, priority, resident));
        if resident {
            inner.resident += 1;
            inner.admit(slot);
        }
        slot
    }

    /// Removes a buffer that was destroyed, or that has left the domain for good.
    pub(crate) fn remove(&self, slot: Slot) {
        let mut inner = self.lock();
        inner.forget(slot);
        inner.set(slot, State::Vacant);
        inner.vacate(slot);
    }

    /// Records a use. Returns the buffer's bulk group if that may have members in other domains.
    pub(crate) fn mark_used(&self, slot: Slot) -> Option<Arc<BulkGroup>> {
        self.lock().mark_used(slot, None)
    }

    /// Records a use of several buffers, in this order. A bulk group counts as used once, however many of its
    /// members are among them.
    pub(crate) fn mark_all_used(&self, slots: impl IntoIterator<Item = Slot>) -> SpanningGroups {
        let mut inner = self.lock();
        let mut seen = HashSet::new();
        let used = slots.into_iter().filter_map(|slot| inner.mark_used(slot, Some(&mut seen)));
        used.collect()
    }

    /// Records a use of a bulk group by a member in another domain.
    pub(crate) fn mark_group_used(&self, group: &BulkGroup) {
        self.lock().mark_group_used(group.id());
    }

    /// Moves a buffer to a bulk group, or with `None` out of the one it is in. Its position is that of a
    /// buffer that was used just now, by itself or within its bulk.
    pub(crate) fn set_bulk_group(&self, slot: Slot, group: Option<&Arc<BulkGroup>>) {
        let mut inner = self.lock();
        inner.forget(slot);
        if let Some(group) = group {
            inner.join_bulk(slot, group);
        }
        if inner.entry(slot).state() == State::Resident {
            inner.admit(slot);
        }
    }

    /// Records a move: the buffer is now resident with `Some(bytes)`, or with `None` in another domain.
    pub(crate) fn moved(&self, slot: Slot, resident: Option<u64>) {
        let mut inner = self.lock();
        let before = inner.entry(slot);
        if let Some(bytes) = resident {
            inner.entries[slot.0 as usize].set_bytes(bytes);
        }
        let entry = inner.entry(slot);
        match (before.state(), resident) {
            (State::Displaced, Some(_)) => inner.admit(slot),
            // Another backing in the same domain, of another size.
            (State::Resident, Some(_)) if entry.units != before.units => {
                inner.withdraw(slot);
                inner.admit(slot);
            }
            (State::Resident, None) => inner.withdraw(slot),
            (State::Parked, None) => {}
            _ => return,
        }
        inner.set(slot, if resident.is_some() { State::Resident } else { State::Displaced });
    }

    /// Parks a victim that was found to be pinned. Does nothing if the buffer has left or was destroyed since
    /// it was chosen, also if its slot has another buffer now: the caller no longer holds its lock.
    pub(crate) fn park(&self, victim: &Victim<K>) {
        let (slot, mut inner) = (victim.slot, self.lock());
        let entry = inner.entries[slot.0 as usize];
        if entry.state() != State::Resident || entry.tenant != victim.tenant {
            return;
        }
        inner.withdraw(slot);
        inner.set(slot, State::Parked);
        inner.entries[slot.0 as usize].set(QUEUED, true);
        if !entry.has(QUEUED) {
            inner.parked.push_back(slot.0);
        }
    }

    /// Upper bound of the number of parked buffers.
    pub(crate) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// Puts up to `count` of the buffers that were parked first back in order, as they may be unpinned by now.
    /// Buffers that `skip` names stay parked: the caller has just tried them. With a `group`, buffers of other
    /// groups stay parked too.
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

    /// Sets the eviction priority.
    pub(crate) fn set_priority(&self, slot: Slot, priority: Priority) {
        self.lock().change(slot, |entry| entry.set_priority(priority));
    }

    /// Sets whether the content may be discarded. Purgeable buffers are chosen before all others.
    pub(crate) fn set_purgeable(&self, slot: Slot, purgeable: bool) {
        self.lock().change(slot, |entry| entry.set(PURGEABLE, purgeable));
    }

    /// Sets the size of the domain in bytes.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.capacity = bytes;
        inner.ranks.iter_mut().flatten().for_each(|rank| rank.capacity(bytes));
    }

    /// Chooses victims of any client group: see [`Self::victims_of`].
    #[cfg(test)]
    pub(crate) fn victims(
        &self,
        wanted: u64,
        max_priority: Priority,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Victims<K> {
        self.victims_of(GroupId::NONE, wanted, max_priority, skip)
    }

    /// Chooses the buffers to evict so that `wanted` bytes become free; with a `group`, among its own only.
    ///
    /// Purgeable buffers are chosen first (kernel: the shrinkers of TTM's drivers), then the others by
    /// priority, lowest first. Of the first ones that are enough, the smallest sufficient set is returned.
    /// Fewer bytes are returned if there are not enough candidates. A buffer that `skip` names is never
    /// chosen, nor one that is not purgeable and has a priority above `max_priority`.
    pub(crate) fn victims_of(
        &self,
        group: GroupId,
        wanted: u64,
        max_priority: Priority,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Victims<K> {
        self.victims_in(0..=1 + max_priority.index(), group, wanted, skip)
    }

    /// As [`EvictionList::victims_of`], of purgeable buffers of all groups.
    pub(crate) fn purgeable_victims(&self, wanted: u64, skip: &dyn Fn(Slot) -> bool) -> Victims<K> {
        self.victims_in(0..=0, GroupId::NONE, wanted, skip)
    }

    /// Whether room for `bytes` is better used for a displaced buffer, which is being used, than for the victims of its return.
    ///
    /// It is if each of them may be purged, has a lower priority, or has fewer expected uses by the policy. Members of bulk
    /// groups are not compared. Where there are not enough victims, the answer is yes: the search for room gives the reasons.
    /// So it is if the buffer has returned, or has left the list, since the slot was read: the caller no longer holds its
    /// lock. If its slot has another buffer now, the answer is for that one.
    pub(crate) fn is_worth_more(
        &self,
        slot: Slot,
        (bytes, group): (u64, GroupId),
        max_priority: Priority,
    ) -> bool {
        let mut inner = self.lock();
        let entry = inner.entries[slot.0 as usize];
        if entry.state() != State::Displaced {
            return true;
        }
        let victims =
            victims_in(&mut inner, 0..=1 + max_priority.index(), group, bytes, &|_| false);
        let is_worth_more = |victim: &Victim<K>| {
            let other = inner.entry(victim.slot);
            let is_comparable =
                other.rank() == entry.rank() && !entry.has(IN_BULK) && !other.has(IN_BULK);
            let policy = inner.ranks[entry.rank()].as_ref().filter(|_| is_comparable);
            policy.is_none_or(|policy| policy.is_worth_more(slot, victim.slot))
        };
        victims.iter().map(|victim| victim.bytes).sum::<u64>() < bytes
            || victims.iter().all(is_worth_more)
    }

    fn victims_in(
        &self,
        ranks: RangeInclusive<usize>,
        group: GroupId,
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
    ) -> Victims<K> {
        victims_in(&mut self.lock(), ranks, group, wanted, skip)
    }

    /// All resident buffers, parked or not.
    #[cfg(test)]
    pub(crate) fn residents(&self) -> Vec<Victim<K>> {
        let inner = self.lock();
        let is_resident = |&(_, entry): &(usize, &Entry<K>)| {
            matches!(entry.state(), State::Resident | State::Parked)
        };
        let entries = inner.entries.iter().enumerate().filter(is_resident);
        // CAST: a domain has fewer than 2^32 buffers.
        entries.map(|(at, entry)| entry.victim(Slot(at as u32))).collect()
    }

    /// The buffer in a slot, as if it had been chosen.
    #[cfg(test)]
    pub(crate) fn victim(&self, slot: Slot) -> Victim<K> {
        self.lock().entry(slot).victim(slot)
    }

    /// How victims are chosen, and among how many, for explanations.
    pub(crate) fn pick(&self) -> (Pick, u32) {
        let inner = self.lock();
        let ranks = inner.ranks[1..].iter().flatten().count();
        let pick = if ranks > 1 { Pick::LowestPriority } else { Pick::Rule };
        (pick, inner.resident)
    }

    /// Bytes of bookkeeping, those of the policies included.
    #[cfg(test)]
    pub(crate) fn footprint(&self) -> usize {
        let inner = self.lock();
        let policies: usize = inner.ranks.iter().flatten().map(|rank| rank.footprint()).sum();
        inner.entries.capacity() * size_of::<Entry<K>>()
            + (inner.vacant.capacity() + inner.parked.capacity()) * size_of::<u32>()
            + inner.members.footprint()
            + policies
    }

    fn lock(&self) -> MutexGuard<'_, EvictionOrder<K>> {
        note_shared_write();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chooses victims of these ranks: see [`EvictionList::victims_of`].
fn victims_in<K: Copy>(
    inner: &mut EvictionOrder<K>,
    ranks: RangeInclusive<usize>,
    group: GroupId,
    wanted: u64,
    skip: &dyn Fn(Slot) -> bool,
) -> Victims<K> {
    let (mut slots, mut victims, mut sum) = (vec![], Victims::new(), 0);
    let plain = group == GroupId::NONE && inner.bulks.is_empty();
    for rank in ranks {
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
    drop_surplus(&mut victims, sum.saturating_sub(wanted));
    victims
}

/// Removes victims that are not needed, from the last one on: those are the most worth keeping.
fn drop_surplus<K>(victims: &mut Victims<K>, mut surplus: u64) {
    for at in (0..victims.len()).rev() {
        if victims[at].bytes <= surplus {
            surplus -= victims.remove(at).bytes;
        }
    }
}
