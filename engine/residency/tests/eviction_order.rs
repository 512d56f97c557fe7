//! The choice of victims, against a plain list of the resident buffers.

use std::collections::{BTreeMap, HashSet};

use super::{Make, POLICIES, Random, UNIT, seeds};
use crate::memory::GroupId;
use crate::residency::eviction_list::EvictionList;
use crate::residency::list_entry::Victims;
use crate::residency::policy::{self, Slot};
use crate::residency::priority::Priority;

const CAPACITY: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Away,
    Here,
    Parked,
}

#[derive(Clone, Copy, Debug)]
struct Each {
    key: u32,
    bytes: u64,
    priority: Priority,
    is: Is,
}

/// The plain list, and the eviction list beside it.
struct Pair {
    eviction_list: EvictionList<u32>,
    all: BTreeMap<Slot, Each>,
    /// Oldest first, over all priorities; the order of LRU.
    oldest_first: Vec<Slot>,
    keys: u32,
}

impl Pair {
    fn new(make: Make) -> Self {
        let (all, oldest_first) = (BTreeMap::new(), vec![]);
        Self { eviction_list: EvictionList::new(make, CAPACITY), all, oldest_first, keys: 0 }
    }

    fn join(&mut self, bytes: u64, priority: Priority, here: bool) {
        self.keys += 1;
        let slot = self.eviction_list.insert(self.keys, bytes, priority, here);
        let is = if here { Is::Here } else { Is::Away };
        let before = self.all.insert(slot, Each { key: self.keys, bytes, priority, is });
        assert!(before.is_none(), "a slot of its own");
        self.newest(slot);
    }

    fn newest(&mut self, slot: Slot) {
        self.oldest_first.retain(|listed| *listed != slot);
        if self.all.get(&slot).is_some_and(|each| each.is == Is::Here) {
            self.oldest_first.push(slot);
        }
    }

    fn set(&mut self, slot: Slot, is: Is) {
        self.all.get_mut(&slot).expect("known").is = is;
        self.newest(slot);
    }

    /// One operation.
    fn step(&mut self, random: &mut Random) {
        let slots: Vec<_> = self.all.keys().copied().collect();
        if slots.len() < 3 || slots.len() < 40 && random.one_in(4) {
            let priority = *random.pick(Priority::ALL);
            return self.join(UNIT * (1 + random.below(20)), priority, !random.one_in(4));
        }
        let slot = *random.pick(&slots);
        let Each { is, priority, .. } = self.all[&slot];
        match random.below(8) {
            0 => {
                self.eviction_list.remove(slot);
                self.all.remove(&slot);
                self.newest(slot);
            }
            1 | 2 => {
                self.eviction_list.mark_used(slot);
                match is {
                    Is::Away => {}
                    Is::Here | Is::Parked => self.set(slot, Is::Here),
                }
            }
            3 => {
                let before = self.all[&slot].bytes;
                let bytes = if random.one_in(2) { before } else { UNIT * (1 + random.below(20)) };
                self.eviction_list.moved(slot, Some(bytes));
                self.all.get_mut(&slot).expect("known").bytes = bytes;
                if is == Is::Away || is == Is::Here && bytes != before {
                    self.set(slot, Is::Here);
                }
            }
            4 => {
                self.eviction_list.moved(slot, None);
                self.set(slot, Is::Away);
            }
            5 => {
                self.eviction_list.park(&self.eviction_list.victim(slot));
                if is == Is::Here {
                    self.set(slot, Is::Parked);
                }
            }
            6 => {
                let other = *random.pick(Priority::ALL);
                self.eviction_list.set_priority(slot, other);
                if other != priority {
                    self.all.get_mut(&slot).expect("known").priority = other;
                    self.newest(slot);
                }
            }
            _ => self.recheck(random),
        }
    }

    /// Unparks all buffers, except those that were tried just now.
    fn recheck(&mut self, random: &mut Random) {
        let skipped: HashSet<_> = self.all.keys().filter(|_| random.one_in(3)).copied().collect();
        self.eviction_list
            .recheck(GroupId::NONE, self.eviction_list.parked(), &|slot| skipped.contains(&slot));
        for (slot, each) in &mut self.all {
            if each.is == Is::Parked && !skipped.contains(slot) {
                each.is = Is::Here;
            }
        }
        // Their order is not specified.
        let order = self.eviction_list.victims(u64::MAX, Priority::Highest, &|_| false);
        let newly = |slot: &Slot| !self.oldest_first.contains(slot);
        let newly: Vec<_> = order.iter().map(|victim| victim.slot).filter(newly).collect();
        self.oldest_first.extend(newly);
    }

    fn sum(&self, slots: impl IntoIterator<Item = Slot>) -> u64 {
        slots.into_iter().map(|slot| self.all[&slot].bytes).sum()
    }

    /// What is true of a choice, whatever the policy.
    fn check(
        &self,
        wanted: u64,
        max_priority: Priority,
        skip: &HashSet<Slot>,
        chosen: &Victims<u32>,
    ) {
        let asked: Vec<_> = chosen.iter().map(|victim| victim.slot).collect();
        let may_go = |(slot, each): &(&Slot, &Each)| {
            each.is == Is::Here && each.priority <= max_priority && !skip.contains(slot)
        };
        let may_go: Vec<_> = self.all.iter().filter(may_go).map(|(slot, _)| *slot).collect();
        let unique: HashSet<_> = asked.iter().collect();
        assert_eq!(unique.len(), asked.len(), "no duplicates: {asked:?}");
        for victim in chosen {
            assert!(may_go.contains(&victim.slot), "{victim:?} may not be chosen");
            let each = self.all[&victim.slot];
            assert_eq!((victim.key, victim.bytes), (each.key, each.bytes));
        }
        let sum = self.sum(asked.iter().copied());
        if sum < wanted {
            assert_eq!(asked.len(), may_go.len(), "all candidates, if they are not enough");
            return;
        }
        for victim in chosen {
            assert!(sum - victim.bytes < wanted, "{victim:?} was not needed");
            // A higher priority is chosen only if all lower ones are not enough.
            let priority = self.all[&victim.slot].priority;
            let lower = may_go.iter().copied().filter(|slot| self.all[slot].priority < priority);
            assert!(self.sum(lower) < wanted, "{victim:?} has a higher priority");
        }
    }

    /// Checks the choice of LRU: all that are needed of the oldest that are enough.
    fn check_oldest(
        &self,
        wanted: u64,
        max_priority: Priority,
        skip: &HashSet<Slot>,
        asked: &[Slot],
    ) {
        let mut order = self.oldest_first.clone();
        order.retain(|slot| self.all[slot].priority <= max_priority && !skip.contains(slot));
        order.sort_by_key(|slot| self.all[slot].priority);
        let mut prefix = vec![];
        for slot in order {
            if self.sum(prefix.iter().copied()) < wanted {
                prefix.push(slot);
            }
        }
        // Surplus buffers are dropped from the last one on.
        let mut needed = prefix.clone();
        for slot in prefix.iter().rev() {
            let without = needed.iter().copied().filter(|each| each != slot);
            if self.sum(without) >= wanted {
                needed.retain(|each| each != slot);
            }
        }
        assert_eq!(asked, needed);
    }
}

#[test]
fn the_smallest_sufficient_set_of_candidates_is_chosen() {
    for (name, make) in POLICIES {
        for seed in seeds(20) {
            let mut random = Random(seed);
            let mut pair = Pair::new(make);
            for _ in 0..400 {
                pair.step(&mut random);
                let wanted = match random.below(8) {
                    0 => u64::MAX,
                    _ => UNIT * random.below(200),
                };
                let max_priority = *random.pick(Priority::ALL);
                let skip: HashSet<_> =
                    pair.all.keys().filter(|_| random.one_in(5)).copied().collect();
                let chosen =
                    pair.eviction_list.victims(wanted, max_priority, &|slot| skip.contains(&slot));
                pair.check(wanted, max_priority, &skip, &chosen);
                if name == "lru" {
                    let asked: Vec<_> = chosen.iter().map(|victim| victim.slot).collect();
                    pair.check_oldest(wanted, max_priority, &skip, &asked);
                }
                let here = pair.all.values().filter(|each| each.is != Is::Away).count();
                assert_eq!(pair.eviction_list.residents().len(), here, "{name}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_buffer_that_is_parked_and_used_again_and_again_is_queued_once() {
    let eviction_list = EvictionList::new(policy::lru, CAPACITY);
    let slots = [(); 3].map(|()| eviction_list.insert(0, UNIT, Priority::Normal, true));
    for _ in 0..1000 {
        slots.iter().for_each(|&slot| eviction_list.park(&eviction_list.victim(slot)));
        eviction_list.mark_used(slots[0]);
    }
    assert_eq!(eviction_list.parked(), 3);
    // Removed, with another buffer in its slot.
    eviction_list.remove(slots[1]);
    let next = eviction_list.insert(0, UNIT, Priority::Normal, true);
    assert_eq!(next, slots[1], "slots are reused");
    eviction_list.park(&eviction_list.victim(next));
    assert_eq!(eviction_list.parked(), 3);
    eviction_list.recheck(GroupId::NONE, 2, &|_| false);
    let order = eviction_list.victims(u64::MAX, Priority::Highest, &|_| false);
    assert_eq!(order.iter().map(|each| each.slot).collect::<Vec<_>>(), [slots[0], next]);
}

#[test]
fn setting_the_same_priority_changes_nothing() {
    let eviction_list = EvictionList::new(policy::lru, CAPACITY);
    let slots = [1, 2, 3].map(|key| eviction_list.insert(key, UNIT, Priority::Normal, true));
    eviction_list.set_priority(slots[0], Priority::Normal);
    let first = eviction_list.victims(UNIT, Priority::Highest, &|_| false);
    assert_eq!(first[0].slot, slots[0]);
}

/// Entries round sizes up to units. The ledger counts whole units, so one victim of this size is enough.
#[test]
fn one_victim_of_the_wanted_size_is_enough() {
    for bytes in [1 << 20, 3 << 30, 1 << 39] {
        let eviction_list = EvictionList::new(policy::lru, u64::MAX);
        for key in 0..3 {
            eviction_list.insert(key, bytes, Priority::Normal, true);
        }
        let victims = eviction_list.victims(bytes, Priority::Highest, &|_| false);
        assert_eq!(victims.iter().map(|each| each.bytes).collect::<Vec<_>>(), [bytes]);
    }
}
