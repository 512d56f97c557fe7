//! The rules of the eviction list, one by one.

use crate::memory::GroupId;
use crate::observe::Pick;
use crate::residency::eviction_list::EvictionList;
use crate::residency::policy::{self, Slot};
use crate::residency::priority::Priority;

const NONE: &dyn Fn(Slot) -> bool = &|_| false;

fn eviction_list() -> EvictionList<char> {
    EvictionList::new(policy::lru, 1 << 20)
}

fn order(eviction_list: &EvictionList<char>, max_priority: Priority) -> String {
    eviction_list.victims(u64::MAX, max_priority, NONE).iter().map(|victim| victim.key).collect()
}

#[test]
fn purgeable_buffers_are_chosen_first_whatever_their_priority() {
    let eviction_list = eviction_list();
    let keys = [('a', Priority::Low), ('b', Priority::Normal), ('c', Priority::Highest)];
    let slots = keys.map(|(key, priority)| eviction_list.insert(key, 256, priority, true));
    assert_eq!(order(&eviction_list, Priority::Highest), "abc");
    eviction_list.set_purgeable(slots[2], true);
    eviction_list.mark_used(slots[2]);
    assert_eq!(order(&eviction_list, Priority::Highest), "cab");
    assert_eq!(
        order(&eviction_list, Priority::Low),
        "ca",
        "even above the highest priority allowed"
    );
    assert_eq!(eviction_list.pick().0, Pick::LowestPriority);
    eviction_list.set_purgeable(slots[2], false);
    assert_eq!(order(&eviction_list, Priority::Low), "a");
    // Set on a parked buffer, it holds after the buffer was unparked.
    eviction_list.park(&eviction_list.victim(slots[1]));
    eviction_list.set_purgeable(slots[1], true);
    assert_eq!(order(&eviction_list, Priority::Highest), "ac");
    eviction_list.recheck(GroupId::NONE, 1, &|_| false);
    assert_eq!(order(&eviction_list, Priority::Highest), "bac");
}

#[test]
fn parking_again_and_again_leaves_nothing_behind() {
    let eviction_list = eviction_list();
    let slots = ['a', 'b'].map(|key| eviction_list.insert(key, 256, Priority::Normal, true));
    for _ in 0..1000 {
        eviction_list.park(&eviction_list.victim(slots[0]));
        eviction_list.mark_used(slots[0]);
    }
    assert!(eviction_list.parked() < 100, "{}", eviction_list.parked());
    eviction_list.park(&eviction_list.victim(slots[0]));
    eviction_list.recheck(GroupId::NONE, usize::MAX, &|_| false);
    assert_eq!(order(&eviction_list, Priority::Normal).len(), 2, "it is a candidate again");
}

#[test]
fn parking_a_buffer_that_was_removed_meanwhile_does_nothing() {
    let eviction_list = eviction_list();
    let slots = ['a', 'b'].map(|key| eviction_list.insert(key, 256, Priority::Normal, true));
    let asked = eviction_list.victim(slots[0]);
    eviction_list.remove(slots[0]);
    eviction_list.park(&asked);
    assert_eq!(order(&eviction_list, Priority::Normal), "b");
    // Another buffer has its slot, and even its key.
    assert_eq!(eviction_list.insert('a', 256, Priority::Normal, true), slots[0]);
    eviction_list.park(&asked);
    assert_eq!(
        (order(&eviction_list, Priority::Normal).as_str(), eviction_list.parked()),
        ("ba", 0)
    );
    eviction_list.park(&eviction_list.victim(slots[0]));
    assert_eq!(order(&eviction_list, Priority::Normal), "b", "the new buffer itself can be parked");
}

#[test]
fn a_move_within_the_domain_updates_the_size() {
    let eviction_list = eviction_list();
    let slots = ['a', 'b'].map(|key| eviction_list.insert(key, 256, Priority::Normal, true));
    let bytes = |wanted| -> Vec<_> {
        let victims = eviction_list.victims(wanted, Priority::Normal, NONE);
        victims.iter().map(|victim| (victim.key, victim.bytes)).collect()
    };
    eviction_list.moved(slots[0], Some(256));
    assert_eq!(bytes(256), [('a', 256)], "nothing has changed");
    eviction_list.moved(slots[1], Some(1024));
    assert_eq!(bytes(1024), [('b', 1024)], "it is enough by itself");
    // Also of a parked buffer, and of a displaced one.
    eviction_list.park(&eviction_list.victim(slots[1]));
    eviction_list.moved(slots[1], Some(512));
    eviction_list.recheck(GroupId::NONE, 1, NONE);
    eviction_list.moved(slots[0], None);
    eviction_list.moved(slots[0], Some(768));
    assert_eq!(bytes(u64::MAX), [('b', 512), ('a', 768)]);
}

#[test]
fn a_displaced_buffer_is_worth_more_than_one_of_lower_priority_or_of_fewer_expected_uses() {
    let eviction_list = EvictionList::new(policy::adaptive, 1 << 20);
    let away = eviction_list.insert('a', 256, Priority::Normal, false);
    let here = eviction_list.insert('b', 256, Priority::Normal, true);
    let is_worth_more =
        |bytes| eviction_list.is_worth_more(away, (bytes, GroupId::NONE), Priority::Normal);
    for _ in 0..20 {
        eviction_list.mark_used(here);
        eviction_list.mark_used(away);
    }
    assert!(!is_worth_more(256), "both are used alike");
    assert!(is_worth_more(512), "there are not enough to compare with");
    for _ in 0..200 {
        eviction_list.mark_used(away);
    }
    assert!(is_worth_more(256), "the other one is not used any more");
    for _ in 0..200 {
        eviction_list.mark_used(here);
    }
    assert!(!is_worth_more(256), "now that one is");
    eviction_list.set_purgeable(here, true);
    assert!(is_worth_more(256), "its content may be discarded");
    eviction_list.remove(away);
    assert!(is_worth_more(256), "it has left since its slot was read");
}
