//! Who is in a place and may be asked to leave, in the order in which to ask.
//!
//! Kernel counterpart: the lists of a `ttm_resource_manager`, one per priority, and the device's list of
//! what cannot be evicted.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::ageing::{Ageing, Ages, Changed};
use super::entry::{AGED, BULK, Entry, PURGEABLE, QUEUED, State};
use super::policy::{Policy, Slot};
use super::priority::Priority;
use super::rolls::Rolls;
use crate::memory::GroupId;
use crate::observe::Pick;

/// The buffers of one place: those that are in it, and those that would like to be.
///
/// `K` is what the owner finds a buffer by. A pinned buffer that somebody tried to evict is *parked*: in no
/// order, until it is used again or everything else was tried.
#[derive(Debug)]
pub(crate) struct Recency<K> {
    // Innermost; held for no call but the policy's.
    inner: Mutex<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    entries: Vec<Entry<K>>,
    vacant: Vec<u32>,
    /// Those that may lose their content, whatever their priority, then the others by priority. Each is made
    /// when somebody has it.
    ranks: [Option<Box<dyn Policy>>; RANKS],
    make: fn() -> Box<dyn Policy>,
    capacity: u64,
    /// How many are here and may be asked to leave.
    here: u32,
    /// Slots that were parked, some of which may not be any more. Each is there once.
    parked: VecDeque<u32>,
    /// Those who are in client groups.
    rolls: Rolls,
    /// Those who are in age groups.
    ages: Ages,
    /// The age group that was used last, if nobody else was since: that it is used once more is no news.
    last: Option<u64>,
}

const RANKS: usize = 1 + Priority::ALL.len();

/// Somebody to be asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Victim<K> {
    pub(crate) slot: Slot,
    pub(crate) key: K,
    /// Bytes that it has in use there.
    pub(crate) bytes: u64,
    pub(super) tenant: u8,
}

pub(crate) type Victims<K> = SmallVec<[Victim<K>; 8]>;

/// Age groups of which somebody was used, and that may have members in other places: those are to be told
/// ([`Recency::aged`]).
pub(crate) type Elsewhere = SmallVec<[Arc<Ageing>; 1]>;

impl<K: Copy> Recency<K> {
    pub(crate) fn new(make: fn() -> Box<dyn Policy>, capacity: u64) -> Self {
        let inner = Inner {
            entries: vec![],
            vacant: vec![],
            ranks: [const { None }; RANKS],
            make,
            capacity,
            here: 0,
            parked: VecDeque::new(),
            rolls: Rolls::default(),
            ages: Ages::default(),
            last: None,
        };
        Self { inner: Mutex::new(inner) }
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

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy> Inner<K> {
    fn entry(&self, slot: Slot) -> Entry<K> {
        let entry = self.entries[slot.0 as usize];
        debug_assert_ne!(entry.state(), State::Vacant, "slots are given up when their buffers go");
        entry
    }

    /// Gives somebody a slot.
    fn enter(&mut self, entry: Entry<K>) -> Slot {
        let slot = match self.vacant.pop() {
            Some(slot) => {
                let before = &mut self.entries[slot as usize];
                let (queued, tenant) = (before.has(QUEUED), before.tenant.wrapping_add(1));
                *before = entry;
                before.tenant = tenant;
                before.set(QUEUED, queued);
                Slot(slot)
            }
            None => {
                self.entries.push(entry);
                // CAST: nobody has 2^32 buffers.
                Slot(self.entries.len() as u32 - 1)
            }
        };
        self.rolls.enter(entry.group, slot);
        slot
    }

    fn vacate(&mut self, slot: Slot) {
        self.rolls.leave(self.entries[slot.0 as usize].group, slot);
        self.vacant.push(slot.0);
    }

    fn set(&mut self, slot: Slot, state: State) {
        let entry = &mut self.entries[slot.0 as usize];
        let before = entry.state();
        entry.set_state(state);
        self.here += u32::from(state == State::Here);
        self.here -= u32::from(before == State::Here);
    }

    /// An age group that `told` knows is not told of again.
    fn used(&mut self, slot: Slot, told: Option<&mut HashSet<u64>>) -> Option<Arc<Ageing>> {
        self.unpark(slot);
        let entry = self.entry(slot);
        let here = entry.state() == State::Here;
        if !entry.has(AGED) {
            self.last = None;
            self.rank(entry.rank()).access(slot, entry.bytes(), here);
            return None;
        }
        // The last one of its bulk, as of the kernel's.
        if self.ages.depart(slot).is_some() {
            self.ages.arrive(slot, entry.bytes());
        }
        let age = Arc::clone(self.ages.of(slot)?);
        if told.is_none_or(|told| told.insert(age.id())) {
            self.touch(age.id());
            return Some(age).filter(|age| age.spans());
        }
        None
    }

    /// All of an age group are used.
    fn touch(&mut self, age: u64) {
        let again = self.last.replace(age) == Some(age);
        for slot in self.ages.bulks(age) {
            let bulk = self.ages.bulk(slot);
            let (rank, bytes, told) = (bulk.rank, bulk.bytes, bulk.told);
            bulk.told = bytes;
            if bytes != told && bytes > 0 {
                // A policy is told of a size once.
                if told > 0 {
                    self.rank(rank).leave(slot);
                }
                self.rank(rank).admit(slot, bytes);
            }
            if !again {
                self.rank(rank).access(slot, bytes, bytes > 0);
            }
        }
    }

    fn unpark(&mut self, slot: Slot) {
        if self.entries[slot.0 as usize].state() == State::Parked {
            self.set(slot, State::Here);
            self.admit(slot);
        }
    }

    /// It may be asked to leave from now on.
    fn admit(&mut self, slot: Slot) {
        self.last = None;
        let entry = self.entry(slot);
        if !entry.has(AGED) {
            return self.rank(entry.rank()).admit(slot, entry.bytes());
        }
        let Changed { bulk, rank, bytes, alone } = self.ages.arrive(slot, entry.bytes());
        if alone {
            self.ages.bulk(bulk).told = bytes;
            self.rank(rank).admit(bulk, bytes);
        }
    }

    /// It may not any more, for now.
    fn withdraw(&mut self, slot: Slot) {
        let entry = self.entry(slot);
        if !entry.has(AGED) {
            return self.rank(entry.rank()).leave(slot);
        }
        if let Some(Changed { bulk, rank, alone: true, .. }) = self.ages.depart(slot) {
            self.rank(rank).leave(bulk);
        }
    }

    /// It is in no order any more, and in no age group. Returns the one that it was in.
    fn forget(&mut self, slot: Slot) -> Option<Arc<Ageing>> {
        let entry = self.entry(slot);
        self.withdraw(slot);
        if !entry.has(AGED) {
            self.rank(entry.rank()).forget(slot);
            return None;
        }
        self.entries[slot.0 as usize].set(AGED, false);
        let (age, bulk) = self.ages.leave(slot)?;
        if let Some(bulk) = bulk {
            self.rank(entry.rank()).forget(bulk);
            self.set(bulk, State::Vacant);
            self.entries[bulk.0 as usize].set(BULK, false);
            self.vacate(bulk);
        }
        Some(age)
    }

    /// It is in an age group from now on. It is in none, and in no order.
    fn bulk(&mut self, slot: Slot, age: &Arc<Ageing>) {
        let entry = self.entry(slot);
        // Like the others of the bulk as far as that matters, and never here by itself.
        let mut like = entry;
        like.set_state(State::Away);
        like.set(QUEUED, false);
        like.set(BULK, true);
        let mut ages = std::mem::take(&mut self.ages);
        ages.join(slot, age, (entry.rank(), entry.group), || self.enter(like));
        self.ages = ages;
        self.entries[slot.0 as usize].set(AGED, true);
    }

    /// Changes what decides where in the order it stands. Within its rank it stays where it is.
    fn change(&mut self, slot: Slot, change: impl Fn(&mut Entry<K>)) {
        let before = self.entry(slot);
        let mut after = before;
        change(&mut after);
        if after.rank() == before.rank() {
            return change(&mut self.entries[slot.0 as usize]);
        }
        let age = self.forget(slot);
        change(&mut self.entries[slot.0 as usize]);
        if let Some(age) = age {
            self.bulk(slot, &age);
        }
        if after.state() == State::Here {
            self.admit(slot);
        }
    }

    /// Adds those of a rank to `victims` who have `wanted` bytes, or all that there are; returns how many
    /// bytes.
    fn choose(
        &mut self,
        rank: usize,
        group: GroupId,
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        victims: &mut Victims<K>,
    ) -> u64 {
        let Self { entries, ranks, ages, rolls, .. } = self;
        let Some(policy) = &mut ranks[rank] else { return 0 };
        let entry = |slot: Slot| &entries[slot.0 as usize];
        // A bulk may have less than the policy thinks: then it is asked for others.
        let (mut named, mut slots, mut sum) = (HashSet::new(), vec![], 0);
        while sum < wanted {
            let skips = |slot: Slot| {
                let of_others = group != GroupId::NONE && entry(slot).group != group;
                of_others
                    || named.contains(&slot)
                    || if entry(slot).has(BULK) {
                        ages.in_order(slot).all(skip)
                    } else {
                        skip(slot)
                    }
            };
            slots.clear();
            if group == GroupId::NONE {
                policy.victims(wanted - sum, &skips, &mut slots);
            } else {
                policy.victims_among(rolls.of(group), wanted - sum, &skips, &mut slots);
            }
            let mut take = |slot: Slot| {
                if sum < wanted {
                    sum += entry(slot).bytes();
                    victims.push(entry(slot).victim(slot));
                }
            };
            let mut bulks = false;
            for &slot in &slots {
                if entry(slot).has(BULK) {
                    bulks = true;
                    ages.in_order(slot).filter(|slot| !skip(*slot)).for_each(&mut take);
                } else {
                    take(slot);
                }
            }
            if !bulks {
                break;
            }
            named.extend(slots.iter().copied());
        }
        sum
    }

    fn rank(&mut self, rank: usize) -> &mut dyn Policy {
        let (make, capacity) = (self.make, self.capacity);
        let rank = self.ranks[rank].get_or_insert_with(|| {
            let mut policy = make();
            policy.capacity(capacity);
            policy
        });
        &mut **rank
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
