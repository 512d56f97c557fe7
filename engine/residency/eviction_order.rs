//! The order of a domain's entries: one policy per priority, the bulks of bulk groups, and the slots.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::bulk_move::{BulkGroup, Bulks, Changed};
use super::group_members::GroupMembers;
use super::list_entry::{BULK, Entry, IN_BULK, QUEUED, State, Victims};
use super::policy::{Policy, Slot};
use super::priority::Priority;
use crate::memory::GroupId;

/// What the lock of [`super::eviction_list::EvictionList`] protects.
#[derive(Debug)]
pub(super) struct EvictionOrder<K> {
    pub(super) entries: Vec<Entry<K>>,
    pub(super) vacant: Vec<u32>,
    /// A policy for the purgeable buffers, whatever their priority, and one per priority for the others. Each
    /// is made for its first entry.
    pub(super) ranks: [Option<Box<dyn Policy>>; RANKS],
    make: fn() -> Box<dyn Policy>,
    pub(super) capacity: u64,
    /// How many entries are resident and may be chosen.
    pub(super) resident: u32,
    /// Slots that were parked; some of them may be unparked by now. Each is in the queue once.
    pub(super) parked: VecDeque<u32>,
    /// The entries of client groups.
    pub(super) members: GroupMembers,
    /// The entries of bulk groups.
    pub(super) bulks: Bulks,
    /// The bulk group that was used last, if nothing else was used since: its next use changes nothing.
    last: Option<u64>,
}

const RANKS: usize = 1 + Priority::ALL.len();

impl<K: Copy> EvictionOrder<K> {
    pub(super) fn new(make: fn() -> Box<dyn Policy>, capacity: u64) -> Self {
        Self {
            entries: vec![],
            vacant: vec![],
            ranks: [const { None }; RANKS],
            make,
            capacity,
            resident: 0,
            parked: VecDeque::new(),
            members: GroupMembers::default(),
            bulks: Bulks::default(),
            last: None,
        }
    }

    pub(super) fn entry(&self, slot: Slot) -> Entry<K> {
        let entry = self.entries[slot.0 as usize];
        debug_assert_ne!(entry.state(), State::Vacant, "a slot is vacated with its buffer");
        entry
    }

    /// Gives an entry a slot.
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
                // CAST: a domain has fewer than 2^32 buffers.
                Slot(self.entries.len() as u32 - 1)
            }
        };
        self.members.insert(entry.group, slot);
        slot
    }

    /// Makes a slot available for another entry.
    pub(super) fn vacate(&mut self, slot: Slot) {
        self.members.remove(self.entries[slot.0 as usize].group, slot);
        self.vacant.push(slot.0);
    }

    pub(super) fn set(&mut self, slot: Slot, state: State) {
        let entry = &mut self.entries[slot.0 as usize];
        let before = entry.state();
        entry.set_state(state);
        self.resident += u32::from(state == State::Resident);
        self.resident -= u32::from(before == State::Resident);
    }

    /// Records a use. A bulk group that is in `seen` is not recorded again. Returns the entry's bulk group if
    /// the use is news to other domains.
    pub(super) fn mark_used(
        &mut self,
        slot: Slot,
        seen: Option<&mut HashSet<u64>>,
    ) -> Option<Arc<BulkGroup>> {
        self.unpark(slot);
        let entry = self.entry(slot);
        let resident = entry.state() == State::Resident;
        if !entry.has(IN_BULK) {
            self.last = None;
            self.rank(entry.rank()).access(slot, entry.bytes(), resident);
            return None;
        }
        // It becomes the last of its bulk, as in the kernel.
        if self.bulks.withdraw(slot).is_some() {
            self.bulks.admit(slot, entry.bytes());
        }
        let group = Arc::clone(self.bulks.group_of(slot)?);
        if seen.is_none_or(|seen| seen.insert(group.id())) {
            self.mark_group_used(group.id());
            return Some(group).filter(|group| group.spans_domains());
        }
        None
    }

    /// Records a use of all members of a bulk group.
    pub(super) fn mark_group_used(&mut self, group: u64) {
        let again = self.last.replace(group) == Some(group);
        for slot in self.bulks.of_group(group) {
            let bulk = self.bulks.get(slot);
            let (rank, bytes, told) = (bulk.rank, bulk.bytes, bulk.told);
            bulk.told = bytes;
            if bytes != told && bytes > 0 {
                // A policy learns a size once, when it admits the slot.
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

    /// Puts a parked entry back in order.
    pub(super) fn unpark(&mut self, slot: Slot) {
        if self.entries[slot.0 as usize].state() == State::Parked {
            self.set(slot, State::Resident);
            self.admit(slot);
        }
    }

    /// Lets the policy choose this entry from now on.
    pub(super) fn admit(&mut self, slot: Slot) {
        self.last = None;
        let entry = self.entry(slot);
        if !entry.has(IN_BULK) {
            return self.rank(entry.rank()).admit(slot, entry.bytes());
        }
        let Changed { bulk, rank, bytes, alone } = self.bulks.admit(slot, entry.bytes());
        if alone {
            self.bulks.get(bulk).told = bytes;
            self.rank(rank).admit(bulk, bytes);
        }
    }

    /// Keeps the policy from choosing this entry, for now.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        let entry = self.entry(slot);
        if !entry.has(IN_BULK) {
            return self.rank(entry.rank()).leave(slot);
        }
        if let Some(Changed { bulk, rank, alone: true, .. }) = self.bulks.withdraw(slot) {
            self.rank(rank).leave(bulk);
        }
    }

    /// Removes an entry from its policy and its bulk group. Returns the group.
    pub(super) fn forget(&mut self, slot: Slot) -> Option<Arc<BulkGroup>> {
        let entry = self.entry(slot);
        self.withdraw(slot);
        if !entry.has(IN_BULK) {
            self.rank(entry.rank()).forget(slot);
            return None;
        }
        self.entries[slot.0 as usize].set(IN_BULK, false);
        let (group, bulk) = self.bulks.leave(slot)?;
        if let Some(bulk) = bulk {
            self.rank(entry.rank()).forget(bulk);
            self.set(bulk, State::Vacant);
            self.entries[bulk.0 as usize].set(BULK, false);
            self.vacate(bulk);
        }
        Some(group)
    }

    /// Adds an entry, which is in no order and no bulk group, to a bulk group.
    pub(super) fn join_bulk(&mut self, slot: Slot, group: &Arc<BulkGroup>) {
        let entry = self.entry(slot);
        // A new bulk needs an entry of the same rank and client group. It is never resident itself.
        let mut like = entry;
        like.set_state(State::Displaced);
        like.set(QUEUED, false);
        like.set(BULK, true);
        let mut bulks = std::mem::take(&mut self.bulks);
        bulks.join(slot, group, (entry.rank(), entry.group), || self.enter(like));
        self.bulks = bulks;
        self.entries[slot.0 as usize].set(IN_BULK, true);
    }

    /// Changes an entry. It keeps its position unless its rank changes.
    pub(super) fn change(&mut self, slot: Slot, change: impl Fn(&mut Entry<K>)) {
        let before = self.entry(slot);
        let mut after = before;
        change(&mut after);
        if after.rank() == before.rank() {
            return change(&mut self.entries[slot.0 as usize]);
        }
        let group = self.forget(slot);
        change(&mut self.entries[slot.0 as usize]);
        if let Some(group) = group {
            self.join_bulk(slot, &group);
        }
        if after.state() == State::Resident {
            self.admit(slot);
        }
    }

    /// Appends victims of one rank to `victims` until they have `wanted` bytes or no candidate is left.
    /// Returns their bytes.
    pub(super) fn choose(
        &mut self,
        rank: usize,
        group: GroupId,
        wanted: u64,
        skip: &dyn Fn(Slot) -> bool,
        victims: &mut Victims<K>,
    ) -> u64 {
        let Self { entries, ranks, bulks, members, .. } = self;
        let Some(policy) = &mut ranks[rank] else { return 0 };
        let entry = |slot: Slot| &entries[slot.0 as usize];
        // A bulk may have fewer bytes than the policy was told. Then the policy is asked for more.
        let (mut named, mut slots, mut sum) = (HashSet::new(), vec![], 0);
        while sum < wanted {
            let skips = |slot: Slot| {
                let of_others = group != GroupId::NONE && entry(slot).group != group;
                of_others
                    || named.contains(&slot)
                    || if entry(slot).has(BULK) {
                        bulks.in_order(slot).all(skip)
                    } else {
                        skip(slot)
                    }
            };
            slots.clear();
            if group == GroupId::NONE {
                policy.victims(wanted - sum, &skips, &mut slots);
            } else {
                policy.victims_among(members.of(group), wanted - sum, &skips, &mut slots);
            }
            let mut take = |slot: Slot| {
                if sum < wanted {
                    sum += entry(slot).bytes();
                    victims.push(entry(slot).victim(slot));
                }
            };
            let mut any_bulk = false;
            for &slot in &slots {
                if entry(slot).has(BULK) {
                    any_bulk = true;
                    bulks.in_order(slot).filter(|slot| !skip(*slot)).for_each(&mut take);
                } else {
                    take(slot);
                }
            }
            if !any_bulk {
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
