//! Bulk groups, against a plain list of single buffers and bulks.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{POLICIES, Random, UNIT, seeds};
use crate::device::DeviceId;
use crate::memory::{DomainId, GroupId};
use crate::residency::bulk_move::BulkGroup;
use crate::residency::eviction_list::EvictionList;
use crate::residency::policy::{self, Slot};
use crate::residency::priority::Priority;

/// One position of the list: a buffer, or the members of a bulk group with one priority and client group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    One(Slot),
    Bulk(u64, Priority, GroupId),
}

#[derive(Clone, Debug)]
struct Each {
    bytes: u64,
    priority: Priority,
    group: GroupId,
    age: Option<u64>,
    here: bool,
}

#[derive(Debug)]
struct Pair {
    eviction_list: EvictionList<u32>,
    ages: [Arc<BulkGroup>; 2],
    all: BTreeMap<Slot, Each>,
    /// Oldest first, with the resident members of each position in the order of their last uses.
    list: Vec<(Unit, Vec<Slot>)>,
}

impl Pair {
    fn new(make: super::Make) -> Self {
        let ages = [1, 2].map(|number| Arc::new(BulkGroup::new(number)));
        Self {
            eviction_list: EvictionList::new(make, 1 << 30),
            ages,
            all: BTreeMap::new(),
            list: vec![],
        }
    }

    fn unit(&self, slot: Slot) -> Unit {
        let each = &self.all[&slot];
        each.age.map_or(Unit::One(slot), |age| Unit::Bulk(age, each.priority, each.group))
    }

    fn arrive(&mut self, slot: Slot) {
        let unit = self.unit(slot);
        match self.list.iter_mut().find(|(of, _)| *of == unit) {
            Some((_, slots)) => slots.push(slot),
            None => self.list.push((unit, vec![slot])),
        }
    }

    fn depart(&mut self, slot: Slot) {
        self.list.iter_mut().for_each(|(_, slots)| slots.retain(|each| *each != slot));
        self.list.retain(|(_, slots)| !slots.is_empty());
    }

    fn step(&mut self, random: &mut Random) {
        let slots: Vec<_> = self.all.keys().copied().collect();
        if slots.len() < 4 || slots.len() < 30 && random.one_in(4) {
            let (bytes, here) = (UNIT * (1 + random.below(9)), !random.one_in(4));
            // CAST: two.
            let (priority, group) = (some_priority(random), GroupId(1 + random.below(2) as u16));
            let slot = self.eviction_list.insert_in(group, 0, bytes, priority, here);
            let each = Each { bytes, priority, group, age: None, here };
            assert!(self.all.insert(slot, each).is_none(), "a slot of its own");
            return if here {
                self.arrive(slot);
            };
        }
        let slot = *random.pick(&slots);
        match random.below(10) {
            0 => {
                self.eviction_list.remove(slot);
                self.depart(slot);
                self.all.remove(&slot);
            }
            1..=3 => self.used(slot),
            4 => {
                let age = (!random.one_in(4)).then(|| random.pick(&self.ages).clone());
                self.eviction_list.set_bulk_group(slot, age.as_ref());
                self.regroup(slot, |each| each.age = age.map(|age| age.id()));
            }
            5 => {
                let priority = some_priority(random);
                let news = self.all[&slot].priority != priority;
                self.eviction_list.set_priority(slot, priority);
                if news {
                    self.regroup(slot, |each| each.priority = priority);
                }
            }
            6 => {
                // In no order until its next use.
                if self.all[&slot].here {
                    self.eviction_list.park(&self.eviction_list.victim(slot));
                    self.depart(slot);
                    self.arrive(slot);
                    self.used(slot);
                }
            }
            _ => {
                let here = !self.all[&slot].here;
                self.eviction_list.moved(slot, here.then(|| self.all[&slot].bytes));
                self.all.get_mut(&slot).expect("known").here = here;
                if here { self.arrive(slot) } else { self.depart(slot) }
            }
        }
    }

    fn used(&mut self, slot: Slot) {
        self.eviction_list.mark_used(slot);
        if self.all[&slot].here {
            let list = self.list.iter_mut().find(|(_, slots)| slots.contains(&slot));
            let (_, slots) = list.expect("it is here");
            slots.retain(|each| *each != slot);
            slots.push(slot);
        }
        let is_meant = |unit: &Unit| match (unit, self.all[&slot].age) {
            (Unit::One(one), None) => *one == slot,
            (Unit::Bulk(of, ..), Some(age)) => *of == age,
            _ => false,
        };
        // Bulks of one group with different priorities or client groups have no order among them.
        self.list.sort_by_key(|(unit, _)| is_meant(unit));
    }

    fn regroup(&mut self, slot: Slot, change: impl FnOnce(&mut Each)) {
        self.depart(slot);
        let each = self.all.get_mut(&slot).expect("known");
        change(each);
        if each.here {
            self.arrive(slot);
        }
    }

    /// The expected eviction order, by priority. Bulks of one bulk group that differ only in their client group
    /// may have either order, so only one client group is compared at a time.
    fn order(&self, group: GroupId) -> Vec<Slot> {
        let mut order: Vec<_> = self.list.iter().flat_map(|(_, slots)| slots.clone()).collect();
        order.retain(|slot| group == GroupId::NONE || self.all[slot].group == group);
        order.sort_by_key(|slot| self.all[slot].priority);
        order
    }

    fn asked(&self, group: GroupId, wanted: u64, skip: &HashSet<Slot>) -> Vec<Slot> {
        let skips = |slot| skip.contains(&slot);
        let victims = self.eviction_list.victims_of(group, wanted, Priority::Highest, &skips);
        for victim in &victims {
            assert_eq!(victim.bytes, self.all[&victim.slot].bytes);
        }
        victims.into_iter().map(|victim| victim.slot).collect()
    }

    fn sum(&self, slots: &[Slot]) -> u64 {
        slots.iter().map(|slot| self.all[slot].bytes).sum()
    }
}

fn some_priority(random: &mut Random) -> Priority {
    *random.pick(&[Priority::Normal, Priority::Normal, Priority::High])
}

#[test]
fn the_order_is_that_of_the_list_after_any_operations() {
    for seed in seeds(60) {
        let (mut random, mut pair) = (Random(seed), Pair::new(policy::lru));
        for step in 0..400 {
            pair.step(&mut random);
            for group in [GroupId(1), GroupId(2)] {
                let order = pair.order(group);
                let asked = pair.asked(group, u64::MAX, &HashSet::new());
                assert_eq!(asked, order, "seed {seed}, step {step}: {:?}", pair.list);
            }
        }
        let gone: Vec<_> = pair.all.keys().copied().collect();
        gone.into_iter().for_each(|slot| pair.eviction_list.remove(slot));
        assert!(pair.eviction_list.residents().is_empty());
    }
}

#[test]
fn every_policy_names_enough_victims_and_no_more() {
    for (name, make) in POLICIES {
        for seed in seeds(20) {
            let (mut random, mut pair) = (Random(seed), Pair::new(make));
            for _ in 0..400 {
                pair.step(&mut random);
                let group = GroupId(random.below(3) as u16);
                let wanted = UNIT * (1 + random.below(60));
                let skip: HashSet<_> =
                    pair.all.keys().filter(|_| random.one_in(5)).copied().collect();
                let asked = pair.asked(group, wanted, &skip);
                let mut may_go = pair.order(group);
                may_go.retain(|slot| !skip.contains(slot));
                assert!(asked.iter().all(|slot| may_go.contains(slot)), "{name}: {asked:?}");
                let unique: HashSet<_> = asked.iter().collect();
                assert_eq!(unique.len(), asked.len(), "{name}: no duplicates");
                let sum = pair.sum(&asked);
                assert!(sum >= wanted || asked.len() == may_go.len(), "{name}, seed {seed}");
                let spare = |slot: &&Slot| sum - pair.all[*slot].bytes >= wanted;
                assert_eq!(asked.iter().find(spare), None, "{name}, seed {seed}: {asked:?}");
            }
        }
    }
}

#[test]
fn a_use_of_one_member_is_a_use_of_all_in_every_domain() {
    let domains = [0, 1].map(|number| DomainId::Vram(DeviceId(number)));
    let orders = domains.map(|_| EvictionList::new(policy::lru, 1 << 20));
    let age = Arc::new(BulkGroup::new(1));
    let slots = orders
        .each_ref()
        .map(|order| ['a', 'b', 'c'].map(|key| order.insert(key, UNIT, Priority::Normal, true)));
    let order = |at: usize| -> String {
        let all = orders[at].victims(u64::MAX, Priority::Highest, &|_| false);
        all.iter().map(|victim| victim.key).collect()
    };
    // A group in one domain needs no notification of others.
    age.may_be_in(domains[0]);
    orders[0].set_bulk_group(slots[0][0], Some(&age));
    orders[0].set_bulk_group(slots[0][1], Some(&age));
    assert!(orders[0].mark_used(slots[0][0]).is_none());
    age.may_be_in(domains[1]);
    orders[1].set_bulk_group(slots[1][0], Some(&age));
    orders[1].mark_used(slots[1][1]);
    assert_eq!((order(0).as_str(), order(1).as_str()), ("cba", "cab"));
    orders[0].mark_used(slots[0][2]);
    let elsewhere = orders[0].mark_used(slots[0][1]).expect("it is in two domains");
    assert!(elsewhere.is_in(domains[1]) && !elsewhere.is_in(DomainId::System));
    orders[1].mark_group_used(&elsewhere);
    assert_eq!((order(0).as_str(), order(1).as_str()), ("cab", "cba"));
    // Returned once, however many members are used together.
    assert_eq!(orders[0].mark_all_used([slots[0][0], slots[0][2], slots[0][1]]).len(), 1);
    assert_eq!(order(0), "abc");
    // A group without members here changes nothing.
    orders[1].mark_group_used(&BulkGroup::new(7));
    assert_eq!(order(1), "cba");
}

/// The adaptive policy learns from every use; a hundred members of a group are one buffer to it.
#[test]
fn the_policy_is_told_of_a_group_once_however_many_were_used() {
    let order = |members: u32| -> Vec<u32> {
        let eviction_list = EvictionList::new(policy::adaptive, 1 << 20);
        let age = Arc::new(BulkGroup::new(1));
        let join = |key| eviction_list.insert(key, UNIT, Priority::Normal, true);
        let group: Vec<_> = (0..members).map(|_| join(0)).collect();
        group.iter().for_each(|&slot| eviction_list.set_bulk_group(slot, Some(&age)));
        // Few enough that the policy looks at all: which ones it draws of many depends on their bytes.
        let others: Vec<_> = (1..15).map(join).collect();
        let mut random = Random(5);
        for _ in 0..2000 {
            match random.below(5) {
                0 => _ = eviction_list.mark_all_used(group.iter().copied()),
                // One by one, without another use in between.
                1 => group.iter().for_each(|&slot| _ = eviction_list.mark_used(slot)),
                _ => _ = eviction_list.mark_used(*random.pick(&others)),
            }
        }
        let victims = eviction_list.victims(u64::MAX, Priority::Highest, &|_| false);
        let mut order: Vec<_> = victims.iter().map(|victim| victim.key).collect();
        assert_eq!(order.len() as u32, members + 14);
        order.dedup();
        order
    };
    assert_eq!(order(100), order(1));
    assert_eq!(order(1).len(), 15, "side by side");
}

#[test]
fn a_parked_member_returns_to_its_group() {
    let eviction_list = EvictionList::new(policy::lru, 1 << 20);
    let age = Arc::new(BulkGroup::new(1));
    let slots =
        ['a', 'b', 'c', 'd'].map(|key| eviction_list.insert(key, UNIT, Priority::Normal, true));
    [0, 2].into_iter().for_each(|nth| eviction_list.set_bulk_group(slots[nth], Some(&age)));
    let order = || -> String {
        let all = eviction_list.victims(u64::MAX, Priority::Highest, &|_| false);
        all.iter().map(|victim| victim.key).collect()
    };
    assert_eq!(order(), "bdac");
    eviction_list.park(&eviction_list.victim(slots[0]));
    eviction_list.mark_used(slots[2]);
    assert_eq!(order(), "bdc", "a use of its group does not unpark it");
    eviction_list.mark_used(slots[1]);
    eviction_list.recheck(GroupId::NONE, 1, &|_| false);
    assert_eq!(order(), "dcab", "at the position of its bulk");
}
