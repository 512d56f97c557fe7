//! The order in which the buffers of one place are asked to leave: priorities, each with a policy; bulks of age
//! groups, which stand there as one; and the slots by which all are known.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use super::ageing::{Ageing, Ages, Changed};
use super::entry::{AGED, BULK, Entry, QUEUED, State};
use super::policy::{Policy, Slot};
use super::priority::Priority;
use super::rolls::Rolls;
use crate::memory::GroupId;

/// Not locked: [`super::recency::Recency`] is.
#[derive(Debug)]
pub(super) struct Order<K> {
    pub(super) entries: Vec<Entry<K>>,
    pub(super) vacant: Vec<u32>,
    /// Those that may lose their content, whatever their priority, then the others by priority. Each is made
    /// when somebody has it.
    pub(super) ranks: [Option<Box<dyn Policy>>; RANKS],
    make: fn() -> Box<dyn Policy>,
    pub(super) capacity: u64,
    /// How many are here and may be asked to leave.
    pub(super) here: u32,
    /// Slots that were parked, some of which may not be any more. Each is there once.
    pub(super) parked: VecDeque<u32>,
    /// Those who are in client groups.
    pub(super) rolls: Rolls,
    /// Those who are in age groups.
    pub(super) ages: Ages,
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

impl<K: Copy> Order<K> {
    pub(super) fn new(make: fn() -> Box<dyn Policy>, capacity: u64) -> Self {
        Self {
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
        }
    }

    pub(super) fn entry(&self, slot: Slot) -> Entry<K> {
        let entry = self.entries[slot.0 as usize];
        debug_assert_ne!(entry.state(), State::Vacant, "slots are given up when their buffers go");
        entry
    }

    /// Gives somebody a slot.
    pub(super) fn enter(&mut self, entry: Entry<K>) -> Slot {
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

    pub(super) fn vacate(&mut self, slot: Slot) {
        self.rolls.leave(self.entries[slot.0 as usize].group, slot);
        self.vacant.push(slot.0);
    }

    pub(super) fn set(&mut self, slot: Slot, state: State) {
        let entry = &mut self.entries[slot.0 as usize];
        let before = entry.state();
        entry.set_state(state);
        self.here += u32::from(state == State::Here);
        self.here -= u32::from(before == State::Here);
    }

    /// An age group that `told` knows is not told of again.
    pub(super) fn used(
        &mut self,
        slot: Slot,
        told: Option<&mut HashSet<u64>>,
    ) -> Option<Arc<Ageing>> {
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
    pub(super) fn touch(&mut self, age: u64) {
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

    pub(super) fn unpark(&mut self, slot: Slot) {
        if self.entries[slot.0 as usize].state() == State::Parked {
            self.set(slot, State::Here);
            self.admit(slot);
        }
    }

    /// It may be asked to leave from now on.
    pub(super) fn admit(&mut self, slot: Slot) {
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
    pub(super) fn withdraw(&mut self, slot: Slot) {
        let entry = self.entry(slot);
        if !entry.has(AGED) {
            return self.rank(entry.rank()).leave(slot);
        }
        if let Some(Changed { bulk, rank, alone: true, .. }) = self.ages.depart(slot) {
            self.rank(rank).leave(bulk);
        }
    }

    /// It is in no order any more, and in no age group. Returns the one that it was in.
    pub(super) fn forget(&mut self, slot: Slot) -> Option<Arc<Ageing>> {
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
    pub(super) fn bulk(&mut self, slot: Slot, age: &Arc<Ageing>) {
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
    pub(super) fn change(&mut self, slot: Slot, change: impl Fn(&mut Entry<K>)) {
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
    pub(super) fn choose(
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
