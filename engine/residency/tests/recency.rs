//! The order of those who may be asked to leave, rule by rule.

use crate::memory::GroupId;
use crate::observe::Pick;
use crate::residency::policy::{self, Slot};
use crate::residency::priority::Priority;
use crate::residency::recency::Recency;

const NOBODY: &dyn Fn(Slot) -> bool = &|_| false;

fn recency() -> Recency<char> {
    Recency::new(policy::lru, 1 << 20)
}

fn order(recency: &Recency<char>, most: Priority) -> String {
    recency.victims(u64::MAX, most, NOBODY).iter().map(|victim| victim.key).collect()
}

#[test]
fn who_may_lose_its_content_goes_first_whatever_else_is_said_of_it() {
    let recency = recency();
    let keys = [('a', Priority::Low), ('b', Priority::Normal), ('c', Priority::Highest)];
    let slots = keys.map(|(key, priority)| recency.join(key, 256, priority, true));
    assert_eq!(order(&recency, Priority::Highest), "abc");
    recency.set_purgeable(slots[2], true);
    recency.used(slots[2]);
    assert_eq!(order(&recency, Priority::Highest), "cab");
    assert_eq!(order(&recency, Priority::Low), "ca", "also where its priority would keep it");
    assert_eq!(recency.pick().0, Pick::LowestPriority);
    recency.set_purgeable(slots[2], false);
    assert_eq!(order(&recency, Priority::Low), "a");
    // Said of one that was found to be pinned, it holds when that is no more.
    recency.park(&recency.victim(slots[1]));
    recency.set_purgeable(slots[1], true);
    assert_eq!(order(&recency, Priority::Highest), "ac");
    recency.recheck(GroupId::NONE, 1, &|_| false);
    assert_eq!(order(&recency, Priority::Highest), "bac");
}

#[test]
fn being_parked_again_and_again_leaves_nothing_behind() {
    let recency = recency();
    let slots = ['a', 'b'].map(|key| recency.join(key, 256, Priority::Normal, true));
    for _ in 0..1000 {
        recency.park(&recency.victim(slots[0]));
        recency.used(slots[0]);
    }
    assert!(recency.parked() < 100, "{}", recency.parked());
    recency.park(&recency.victim(slots[0]));
    recency.recheck(GroupId::NONE, usize::MAX, &|_| false);
    assert_eq!(order(&recency, Priority::Normal).len(), 2, "it is asked again");
}

#[test]
fn whoever_goes_between_its_answer_and_its_being_parked_leaves_nobody_parked() {
    let recency = recency();
    let slots = ['a', 'b'].map(|key| recency.join(key, 256, Priority::Normal, true));
    let asked = recency.victim(slots[0]);
    recency.leave(slots[0]);
    recency.park(&asked);
    assert_eq!(order(&recency, Priority::Normal), "b");
    // Somebody else has its slot, and even its key.
    assert_eq!(recency.join('a', 256, Priority::Normal, true), slots[0]);
    recency.park(&asked);
    assert_eq!((order(&recency, Priority::Normal).as_str(), recency.parked()), ("ba", 0));
    recency.park(&recency.victim(slots[0]));
    assert_eq!(order(&recency, Priority::Normal), "b", "it itself can be");
}

#[test]
fn who_has_another_size_after_a_move_within_its_place_counts_as_that() {
    let recency = recency();
    let slots = ['a', 'b'].map(|key| recency.join(key, 256, Priority::Normal, true));
    let bytes = |wanted| -> Vec<_> {
        let victims = recency.victims(wanted, Priority::Normal, NOBODY);
        victims.iter().map(|victim| (victim.key, victim.bytes)).collect()
    };
    recency.moved(slots[0], Some(256));
    assert_eq!(bytes(256), [('a', 256)], "nothing has changed");
    recency.moved(slots[1], Some(1024));
    assert_eq!(bytes(1024), [('b', 1024)], "it is enough by itself");
    // Also of one that is in no order now, and one that is elsewhere.
    recency.park(&recency.victim(slots[1]));
    recency.moved(slots[1], Some(512));
    recency.recheck(GroupId::NONE, 1, NOBODY);
    recency.moved(slots[0], None);
    recency.moved(slots[0], Some(768));
    assert_eq!(bytes(u64::MAX), [('b', 512), ('a', 768)]);
}
