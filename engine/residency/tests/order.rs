//! Whom to ask, against a plain list of who is here.

use std::collections::{BTreeMap, HashSet};

use super::{Make, POLICIES, Random, UNIT, seeds};
use crate::memory::GroupId;
use crate::residency::policy::{self, Slot};
use crate::residency::priority::Priority;
use crate::residency::recency::{Recency, Victims};

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

/// The list, and the order beside it.
struct Pair {
    recency: Recency<u32>,
    all: BTreeMap<Slot, Each>,
    /// Oldest first, over all priorities; right for LRU.
    oldest_first: Vec<Slot>,
    keys: u32,
}

impl Pair {
    fn new(make: Make) -> Self {
        let (all, oldest_first) = (BTreeMap::new(), vec![]);
        Self { recency: Recency::new(make, CAPACITY), all, oldest_first, keys: 0 }
    }

    fn join(&mut self, bytes: u64, priority: Priority, here: bool) {
        self.keys += 1;
        let slot = self.recency.join(self.keys, bytes, priority, here);
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
            let priority = *random.pick(&Priority::ALL);
            return self.join(UNIT * (1 + random.below(20)), priority, !random.one_in(4));
        }
        let slot = *random.pick(&slots);
        let Each { is, priority, .. } = self.all[&slot];
        match random.below(8) {
            0 => {
                self.recency.leave(slot);
                self.all.remove(&slot);
                self.newest(slot);
            }
            1 | 2 => {
                self.recency.used(slot);
                match is {
                    Is::Away => {}
                    Is::Here | Is::Parked => self.set(slot, Is::Here),
                }
            }
            3 => {
                let before = self.all[&slot].bytes;
                let bytes = if random.one_in(2) { before } else { UNIT * (1 + random.below(20)) };
                self.recency.moved(slot, Some(bytes));
                self.all.get_mut(&slot).expect("known").bytes = bytes;
                if is == Is::Away || is == Is::Here && bytes != before {
                    self.set(slot, Is::Here);
                }
            }
            4 => {
                self.recency.moved(slot, None);
                self.set(slot, Is::Away);
            }
            5 => {
                self.recency.park(&self.recency.victim(slot));
                if is == Is::Here {
                    self.set(slot, Is::Parked);
                }
            }
            6 => {
                let other = *random.pick(&Priority::ALL);
                self.recency.set_priority(slot, other);
                if other != priority {
                    self.all.get_mut(&slot).expect("known").priority = other;
                    self.newest(slot);
                }
            }
            _ => self.recheck(random),
        }
    }

    /// Everybody who was parked is back, but for those who were asked just now.
    fn recheck(&mut self, random: &mut Random) {
        let skipped: HashSet<_> = self.all.keys().filter(|_| random.one_in(3)).copied().collect();
        self.recency.recheck(GroupId::NONE, self.recency.parked(), &|slot| skipped.contains(&slot));
        for (slot, each) in &mut self.all {
            if each.is == Is::Parked && !skipped.contains(slot) {
                each.is = Is::Here;
            }
        }
        // In which order they come back is not promised.
        let order = self.recency.victims(u64::MAX, Priority::Highest, &|_| false);
        let newly = |slot: &Slot| !self.oldest_first.contains(slot);
        let newly: Vec<_> = order.iter().map(|victim| victim.slot).filter(newly).collect();
        self.oldest_first.extend(newly);
    }

    fn sum(&self, slots: impl IntoIterator<Item = Slot>) -> u64 {
        slots.into_iter().map(|slot| self.all[&slot].bytes).sum()
    }

    /// What is true of a choice, whatever the policy.
    fn check(&self, wanted: u64, most: Priority, skip: &HashSet<Slot>, chosen: &Victims<u32>) {
        let asked: Vec<_> = chosen.iter().map(|victim| victim.slot).collect();
        let may_go = |(slot, each): &(&Slot, &Each)| {
            each.is == Is::Here && each.priority <= most && !skip.contains(slot)
        };
        let may_go: Vec<_> = self.all.iter().filter(may_go).map(|(slot, _)| *slot).collect();
        let unique: HashSet<_> = asked.iter().collect();
        assert_eq!(unique.len(), asked.len(), "nobody twice: {asked:?}");
        for victim in chosen {
            assert!(may_go.contains(&victim.slot), "{victim:?} may not be asked");
            let each = self.all[&victim.slot];
            assert_eq!((victim.key, victim.bytes), (each.key, each.bytes));
        }
        let sum = self.sum(asked.iter().copied());
        if sum < wanted {
            assert_eq!(asked.len(), may_go.len(), "everybody, if all are not enough");
            return;
        }
        for victim in chosen {
            assert!(sum - victim.bytes < wanted, "{victim:?} could have been spared");
            // A higher one only where all the lower ones are not enough.
            let priority = self.all[&victim.slot].priority;
            let lower = may_go.iter().copied().filter(|slot| self.all[slot].priority < priority);
            assert!(self.sum(lower) < wanted, "{victim:?} has priority");
        }
    }

    /// What is true of the choice of LRU: out of the first that are enough, all who are needed.
    fn check_oldest(&self, wanted: u64, most: Priority, skip: &HashSet<Slot>, asked: &[Slot]) {
        let mut order = self.oldest_first.clone();
        order.retain(|slot| self.all[slot].priority <= most && !skip.contains(slot));
        order.sort_by_key(|slot| self.all[slot].priority);
        let mut prefix = vec![];
        for slot in order {
            if self.sum(prefix.iter().copied()) < wanted {
                prefix.push(slot);
            }
        }
        // The last ones stay where one has to be spared.
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
fn the_smallest_sufficient_set_of_those_who_may_go() {
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
                let most = *random.pick(&Priority::ALL);
                let skip: HashSet<_> =
                    pair.all.keys().filter(|_| random.one_in(5)).copied().collect();
                let chosen = pair.recency.victims(wanted, most, &|slot| skip.contains(&slot));
                pair.check(wanted, most, &skip, &chosen);
                if name == "lru" {
                    let asked: Vec<_> = chosen.iter().map(|victim| victim.slot).collect();
                    pair.check_oldest(wanted, most, &skip, &asked);
                }
                let here = pair.all.values().filter(|each| each.is != Is::Away).count();
                assert_eq!(pair.recency.residents().len(), here, "{name}, seed {seed}");
            }
        }
    }
}

#[test]
fn one_that_is_parked_and_used_for_ever_costs_no_more_than_once() {
    let recency = Recency::new(policy::lru, CAPACITY);
    let slots = [(); 3].map(|()| recency.join(0, UNIT, Priority::Normal, true));
    for _ in 0..1000 {
        slots.iter().for_each(|&slot| recency.park(&recency.victim(slot)));
        recency.used(slots[0]);
    }
    assert_eq!(recency.parked(), 3);
    // Gone, and somebody else in its slot.
    recency.leave(slots[1]);
    let next = recency.join(0, UNIT, Priority::Normal, true);
    assert_eq!(next, slots[1], "slots are given again");
    recency.park(&recency.victim(next));
    assert_eq!(recency.parked(), 3);
    recency.recheck(GroupId::NONE, 2, &|_| false);
    let order = recency.victims(u64::MAX, Priority::Highest, &|_| false);
    assert_eq!(order.iter().map(|each| each.slot).collect::<Vec<_>>(), [slots[0], next]);
}

#[test]
fn the_same_priority_again_changes_nothing() {
    let recency = Recency::new(policy::lru, CAPACITY);
    let slots = [1, 2, 3].map(|key| recency.join(key, UNIT, Priority::Normal, true));
    recency.set_priority(slots[0], Priority::Normal);
    let first = recency.victims(UNIT, Priority::Highest, &|_| false);
    assert_eq!(first[0].slot, slots[0]);
}

/// Sizes of odd numbers of bytes are rounded up: the ledger counts slots, which are not odd.
#[test]
fn a_mebibyte_and_a_tebibyte_are_enough_by_themselves() {
    for bytes in [1 << 20, 3 << 30, 1 << 39] {
        let recency = Recency::new(policy::lru, u64::MAX);
        for key in 0..3 {
            recency.join(key, bytes, Priority::Normal, true);
        }
        let victims = recency.victims(bytes, Priority::Highest, &|_| false);
        assert_eq!(victims.iter().map(|each| each.bytes).collect::<Vec<_>>(), [bytes]);
    }
}
